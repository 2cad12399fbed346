"""Stand-in for ImageNet classification on machines that can reach no weights: telling fractals apart.

Kataoka et al. (2020) pre-train networks on fractals of iterated function systems, a class for each system. Systems are
drawn here as Anderson and Farrell (2022) propose: the singular values of their maps are set so that nearly every
system fills the plane well, which spares a search. A class is seen under changes that do not change its name: numbers
of its maps a little off, turned, scaled, moved, faint or bright, on a mottled ground that is darker than they are.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from l3muscle.models import build_encoder
from l3muscle.preprocess import to_network_input
from l3muscle.settings import Positive, SourceTrainingSettings
from l3muscle.training import Task

if TYPE_CHECKING:
    from l3muscle.profile import Profile

MAPS = (2, 3, 4)  # how many maps a system can have
WALKERS = 2_000  # points that wander at once; each leaves a mark at every step after the first few
BURN_IN = 15
TURN = math.pi / 6  # a fractal may be turned by so much either way and keep its name
VALIDATION_BATCH = 64


class ClassificationSettings(SourceTrainingSettings):
    """ImageNet's published weights, or telling fractals apart in their stead."""

    weights: Literal["procedural", "IMAGENET1K_V1", "IMAGENET1K_V2"]
    classes: Annotated[int, Field(ge=2, le=10_000)]
    points: Annotated[int, Field(ge=1_000)]  # of one fractal
    validation_images: Positive


def _angles(*shape: int, generator: Generator) -> Tensor:
    return torch.rand(*shape, generator=generator) * (2 * math.pi)


def _rotation(angle: Tensor) -> Tensor:
    """(...,) -> (..., 2, 2)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def draw_systems(count: int, *, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw iterated function systems, each of 2 to 4 maps x -> A x + b.

    A is a turn, a diagonal of singular values s1 >= s2 with random signs, and another turn. The sum of s1 + 2 s2 over
    the k maps is drawn between (5 + k) / 2 and (6 + k) / 2, where Anderson and Farrell (2022) find good geometry.

    Parameters
    ----------
    count : int
    generator : torch.Generator

    Returns
    -------
    maps : Tensor, (count, 4, 2, 3)
        [A | b] of each map; those that a system does not have are zero.
    chances : Tensor, (count, 4)
        How often each map is taken: by the area that it leaves, never quite 0 for a map that there is.
    """
    most = max(MAPS)
    size = torch.tensor(MAPS)[torch.randint(len(MAPS), (count,), generator=generator)]
    present = torch.arange(most) < size[:, None]
    target = (5 + size + torch.rand(count, generator=generator)) / 2
    values = torch.zeros(count, most, 2)
    missing = torch.ones(count, dtype=torch.bool)
    while missing.any():
        drawn = torch.rand(count, most, 2, generator=generator).sort(-1, descending=True).values * present[..., None]
        drawn = drawn * (target / (drawn[..., 0] + 2 * drawn[..., 1]).sum(-1))[:, None, None]
        # A map that does not contract would send its points away.
        sound = missing & (drawn.amax((1, 2)) < 0.98)
        values[sound] = drawn[sound]
        missing &= ~sound
    signs = torch.randint(2, (count, most, 2), generator=generator) * 2.0 - 1
    left, right = (_rotation(_angles(count, most, generator=generator)) for _ in range(2))
    linear = left @ torch.diag_embed(values) @ right @ torch.diag_embed(signs)
    shift = (torch.rand(count, most, 2, 1, generator=generator) * 2 - 1) * present[..., None, None]
    chances = (linear.det().abs() + 0.01) * present
    return torch.cat([linear, shift], -1), chances / chances.sum(-1, keepdim=True)


def draw_fractals(
    maps: Tensor,
    chances: Tensor,
    shape: tuple[int, int],
    *,
    points: int,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw one image of each system by the chaos game: points wander, each step by a map taken at random.

    Parameters
    ----------
    maps : Tensor, (N, 4, 2, 3)
    chances : Tensor, (N, 4)
    shape : (int, int)
        Rows and columns.
    points : int
        Marks in each image, about.
    generator : torch.Generator
        On the CPU; the many steps draw from one on `device` that it seeds.
    device : torch.device or str

    Returns
    -------
    Tensor, (N, 1, rows, columns), in [0, 1]
    """
    count, (rows, columns) = len(maps), shape
    noise_generator = torch.Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return (low + (high - low) * torch.rand(count, *size, generator=generator)).to(device)

    maps, chances = maps.to(device), chances.to(device)
    maps = maps * uniform(0.9, 1.1, *maps.shape[1:])
    steps = max(1, math.ceil(points / WALKERS))
    taken = torch.multinomial(chances, (BURN_IN + steps) * WALKERS, replacement=True, generator=noise_generator)
    taken = taken.view(count, BURN_IN + steps, WALKERS)
    positions = torch.zeros(count, WALKERS, 2, device=device)
    visited = []
    flat = maps.flatten(2)  # (N, 4, 6)
    for step in range(BURN_IN + steps):
        chosen = flat.gather(1, taken[:, step, :, None].expand(-1, -1, 6)).unflatten(2, (2, 3))
        positions = (chosen[..., :2] * positions[..., None, :]).sum(-1) + chosen[..., 2]
        if step >= BURN_IN:
            visited.append(positions)
    marks = torch.cat(visited, 1)  # (N, steps * WALKERS, 2)
    # A few numbers off can turn a map that barely contracts into one that does not: its points stop at a wall.
    marks = marks.nan_to_num(0.0).clamp(-1e4, 1e4)
    marks = (marks - marks.mean(1, keepdim=True)) @ _rotation(uniform(-TURN, TURN))
    spread = marks.std((1, 2)).clamp_min(1e-6)
    marks = marks / spread.view(count, 1, 1) * uniform(0.35, 0.55, 1, 1) + uniform(-0.25, 0.25, 1, 2)
    # Within the smaller side, so that the fractal keeps its form.
    pixel = (marks * min(shape) / 2 + marks.new_tensor([columns / 2, rows / 2])).floor().long()
    seen = (pixel >= 0).all(-1) & (pixel[..., 0] < columns) & (pixel[..., 1] < rows)
    # Whole numbers add up to the same in any order, so that a GPU counts as a CPU does; one bin takes what is outside.
    bins = torch.where(seen, pixel[..., 1] * columns + pixel[..., 0], rows * columns)
    counts = torch.zeros(count, rows * columns + 1, dtype=torch.int32, device=device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
    density = torch.log1p(counts[:, :-1].float()).view(count, rows, columns)
    density = density / density.amax((1, 2), keepdim=True).clamp_min(1e-6)

    ground = F.interpolate(uniform(-1, 1, 1, 5, 5), size=shape, mode="bicubic", align_corners=True)[:, 0]
    ground = uniform(0, 0.4, 1, 1) + uniform(0, 0.2, 1, 1) * ground
    noise = torch.randn(count, rows, columns, generator=noise_generator, device=device) * uniform(0, 0.05, 1, 1)
    return (ground + uniform(0.4, 1, 1, 1) * density + noise).clamp(0, 1)[:, None]


class ResNetClassifier(nn.Module):
    """An encoder, its features averaged over the image, and one linear layer, `fc` as in torchvision's ResNets."""

    def __init__(self, encoder: nn.Sequential, classes: int) -> None:
        super().__init__()
        self.backbone = encoder
        self.fc = nn.Linear(encoder.out_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes)."""
        return self.fc(self.backbone(x).mean((2, 3)))


class ProceduralClassification(Task):
    """Source task: name the system that drew a fractal (cross-entropy over all systems).

    Parameters
    ----------
    settings : ClassificationSettings
    shape : (int, int)
        Rows and columns, those of the target task.
    seed : int
        Of the systems and of the fixed validation images; training images come from the loop's generator.
    device : torch.device or str
        Where images are drawn.
    """

    def __init__(
        self,
        settings: ClassificationSettings,
        shape: tuple[int, int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.shape, self.device = settings, shape, device
        self.classes = settings.classes
        generator = torch.Generator().manual_seed(seed)
        self.maps, self.chances = draw_systems(settings.classes, generator=generator)
        batches = torch.arange(settings.validation_images).split(VALIDATION_BATCH)
        self.validation = [self.draw(batch % settings.classes, generator) for batch in batches]

    def draw(self, classes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """An image of each of these classes: network input (N, 3, H, W), and the classes."""
        images = draw_fractals(
            self.maps[classes],
            self.chances[classes],
            self.shape,
            points=self.settings.points,
            generator=generator,
            device=self.device,
        )
        return to_network_input(images), classes.to(self.device)

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """New images of classes drawn at random."""
        return self.draw(
            torch.randint(self.settings.classes, (self.settings.batch_size,), generator=generator), generator
        )


def build(profile: "Profile", images: Tensor, *, seed: int, device: str) -> tuple[nn.Module, Task]:
    """The untrained network of this source task and its task; parameters as in `l3muscle.pretext.SourceTask`."""
    task = ProceduralClassification(profile.sources.classification, profile.image.shape, seed=seed, device=device)
    return ResNetClassifier(build_encoder(**dict(profile.network)), task.classes), task
