"""Stand-in for a natural-image segmentation task on machines that can reach no weights: generated, labelled scenes.

Learning from images drawn by formula instead of photographs is published (Kataoka et al. 2020 for classification,
Shinoda et al. 2023 for segmentation, who also find that nested contours suit it). Wherever results of these tasks are
shown they are called procedural, never ImageNet or COCO.

A scene is a closed, wavy outline on an empty ground with a rind and a wall of uneven thickness inside it, and within
the wall a filling with lobed blobs and with small bright cores that sit in collars. Wall, collars and blobs are mostly
of one material, so that they are told apart by what they lie next to and by their form, and not by their brightness.
Outlines, thicknesses, numbers, places and textures are random; no anatomy is consulted. Materials, blur and grain are
those of windowed CT in kind: a few grey levels, edges a pixel or two wide, and noise correlated over a few pixels.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from l3muscle.models import build_fcn, transfer_weights
from l3muscle.preprocess import to_network_input
from l3muscle.pretext.pretrained import load_published
from l3muscle.settings import Positive, SourceTrainingSettings
from l3muscle.training import Task

if TYPE_CHECKING:
    from l3muscle.profile import Profile

ANGLES = 720  # steps of a closed outline, half a degree each
# Usual brightness of each structure as a share of the grey scale, (lowest, highest).
EMPTY, RIND, FILLING, SOFT, BRIGHT = (0.0, 0.02), (0.05, 0.25), (0.05, 0.3), (0.4, 0.65), (0.85, 1.1)
UNUSUAL_SHARE = 0.15  # of the structures, which are of any brightness
OUTSIDE_LABEL, RIND_LABEL, WALL_LABEL, FILLING_LABEL, COLLAR_LABEL, CORE_LABEL, FIRST_BLOB_LABEL = range(7)


class SegmentationSettings(SourceTrainingSettings):
    """COCO's published weights, or labelling generated scenes in their stead."""

    weights: Literal["procedural", "COCO_WITH_VOC_LABELS_V1"]
    # What the network has before it sees generated scenes; COCO's had ImageNet's encoder.
    initialisation: Literal["random", "classification"]
    classes: Annotated[int, Field(ge=2, le=64)]
    shapes_per_scene: Positive
    validation_scenes: Positive


def draw_scenes(
    count: int,
    shape: tuple[int, int],
    *,
    classes: int,
    shapes_per_scene: int,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Draw labelled scenes.

    Parameters
    ----------
    count : int
        Number of scenes, N.
    shape : (int, int)
        Rows and columns.
    classes : int
        Classes of blob, told by the number of lobes: none, 2, 3 ...
    shapes_per_scene : int
        Blobs in each scene; later ones lie on top of earlier ones.
    generator : torch.Generator
        On the CPU.
    device : torch.device or str
        Where the scenes are drawn.

    Returns
    -------
    images : Tensor, (N, 1, rows, columns), in [0, 1]
    labels : Tensor of int64, (N, rows, columns)
        Outside, rind, wall, filling, collars, cores, and from 6 on the blobs, by their lobes.
    """
    scenes = _Scenes(count, shape, generator, device)
    # One material for all that is soft, give or take: brightness is no way to tell it apart.
    mottle, fine, soft = scenes.noise(6), scenes.noise(24), scenes.level(SOFT)
    within = scenes.draw_body(soft, mottle, fine)
    for number in range(shapes_per_scene):
        texture = fine if number % 2 else mottle
        if number % 3 == 2:
            scenes.draw_core(within, soft, texture, lobes=1 + number // 3 % 4)
        else:
            scenes.draw_blob(within, soft, texture, classes=classes)
    return scenes.finished()


class _Scenes:
    """A batch of scenes while they are drawn, one structure over the other.

    Random numbers are drawn on the CPU, so that a seed means the same on every device.
    """

    def __init__(self, count: int, shape: tuple[int, int], generator: Generator, device: torch.device | str) -> None:
        self.count, self.shape, self.generator, self.device = count, shape, generator, device
        rows, columns = shape
        self.y = torch.linspace(-1, 1, rows, device=device)[:, None].expand(rows, columns)
        self.x = torch.linspace(-1, 1, columns, device=device)[None, :].expand(rows, columns)
        self.images = self.level(EMPTY) + torch.zeros(count, rows, columns, device=device)
        self.labels = torch.zeros(count, rows, columns, dtype=torch.int64, device=device)

    def uniform(self, low: float, high: float) -> Tensor:
        """(N, 1, 1)."""
        return (low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)).to(self.device)

    def happens(self, probability: float) -> Tensor:
        """(N, 1, 1) bool."""
        return self.uniform(0, 1) < probability

    def level(self, usual: tuple[float, float]) -> Tensor:
        """A brightness, (N, 1, 1)."""
        return torch.where(self.happens(UNUSUAL_SHARE), self.uniform(0, 1), self.uniform(*usual))

    def noise(self, nodes: int) -> Tensor:
        """(N, rows, columns), about uniform in [-1, 1] at the nodes, smooth between them."""
        coarse = torch.rand(self.count, 1, nodes, nodes, generator=self.generator).to(self.device) * 2 - 1
        return F.interpolate(coarse, size=self.shape, mode="bicubic", align_corners=True)[:, 0]

    def wave(self, harmonics: int) -> Tensor:
        """A closed random curve, (N, ANGLES): harmonics of falling weight, of standard deviation about 1."""
        number = torch.arange(1, harmonics + 1)
        angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES) * number[:, None]  # (harmonics, ANGLES)
        weight = torch.randn(2, self.count, harmonics, generator=self.generator) / number.sqrt()
        curve = weight[0] @ torch.cos(angle) + weight[1] @ torch.sin(angle)
        return (curve / (1 / number).sum().sqrt()).to(self.device)

    def grain(self) -> Tensor:
        """Noise correlated over neighbouring pixels, (N, rows, columns), of standard deviation 1."""
        # Whole images of it are drawn where they are needed; the seed for that comes from the CPU.
        seed = int(torch.randint(2**31, (1,), generator=self.generator))
        noise_generator = torch.Generator(self.device).manual_seed(seed)
        white = torch.randn(self.count, 1, *self.shape, generator=noise_generator, device=self.device)
        kernel = white.new_tensor([[1.0, 2.0, 1.0]])
        kernel = kernel.T @ kernel / 6  # of unit energy
        return F.conv2d(white, kernel[None, None], padding=1)[:, 0]

    @staticmethod
    def polar(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Radius, and the step of the angle for reading a curve."""
        step = ((torch.atan2(v, u) + math.pi) * (ANGLES / (2 * math.pi))).long() % ANGLES
        return torch.hypot(u, v), step

    @staticmethod
    def read(curve: Tensor, step: Tensor) -> Tensor:
        """Value of a closed curve at each pixel."""
        return curve.gather(1, step.flatten(1)).view(step.shape)

    def paint(self, inside: Tensor, label: int | Tensor, level: Tensor, texture: Tensor) -> None:
        """Lay a structure over what is there."""
        self.images = torch.where(inside, level + texture, self.images)
        self.labels = torch.where(inside, torch.as_tensor(label, device=self.device), self.labels)

    def draw_body(self, soft: Tensor, mottle: Tensor, fine: Tensor) -> Tensor:
        """Outline, rind, wall and filling; returns the pixels within the wall."""
        u = (self.x - self.uniform(-0.15, 0.15)) / self.uniform(0.7, 1.1)
        v = (self.y - self.uniform(-0.15, 0.15)) / self.uniform(0.7, 1.1)
        radius, step = self.polar(u, v)
        outline = 1 + 0.06 * self.wave(6)
        self.paint(radius < self.read(outline, step), RIND_LABEL, self.level(RIND), 0.05 * fine)
        outline = outline - self.uniform(0.03, 0.25)[..., 0] * torch.exp(0.5 * self.wave(6))
        self.paint(radius < self.read(outline, step), WALL_LABEL, soft, self.uniform(0, 0.1) * fine)
        thickness = self.uniform(0.04, 0.16)[..., 0] * torch.exp(0.7 * self.wave(9)) - 0.03
        outline = (outline - thickness.clamp_min(0)).clamp_min(0.1)
        filling = self.level(FILLING)
        within = radius < self.read(outline, step)
        self.paint(within, FILLING_LABEL, filling, self.uniform(0, 0.1) * (mottle + fine))
        return within

    def centred(self) -> tuple[Tensor, Tensor]:
        """Coordinates about a random point, stretched along a random axis."""
        turn, stretch = self.uniform(0, math.pi), torch.exp(self.uniform(-0.4, 0.4))
        dy, dx = self.y - self.uniform(-0.8, 0.8), self.x - self.uniform(-0.8, 0.8)
        return (
            (torch.cos(turn) * dx + torch.sin(turn) * dy) * stretch,
            (torch.cos(turn) * dy - torch.sin(turn) * dx) / stretch,
        )

    def draw_core(self, within: Tensor, soft: Tensor, texture: Tensor, *, lobes: int) -> None:
        """A bright core in a lobed collar of the soft material."""
        distance, step = self.polar(*self.centred())
        edge = 1 + 0.08 * self.read(self.wave(8), step)
        texture = self.uniform(0, 0.1) * texture
        size = self.uniform(0.06, 0.14)
        collar = 2.2 + 0.8 * torch.cos(lobes * step * (2 * math.pi / ANGLES))
        level = soft + self.uniform(-0.05, 0.05)
        self.paint(within & (distance < size * edge * collar), COLLAR_LABEL, level, texture)
        self.paint(distance < size * edge, CORE_LABEL, self.level(BRIGHT), texture)

    def draw_blob(self, within: Tensor, soft: Tensor, texture: Tensor, *, classes: int) -> None:
        """A blob of one of the classes, by its lobes."""
        distance, step = self.polar(*self.centred())
        edge = 1 + 0.08 * self.read(self.wave(8), step)
        texture = self.uniform(0, 0.1) * texture
        kind = torch.randint(classes, (self.count, 1, 1), generator=self.generator).to(self.device)
        lobed = torch.cos((kind + 1) * step * (2 * math.pi / ANGLES)) * torch.where(kind == 0, 0.0, 0.3)
        inside = within & (distance < self.uniform(0.06, 0.28) * (edge + lobed))
        level = torch.where(self.happens(0.6), soft + self.uniform(-0.1, 0.1), self.uniform(0, 1))
        self.paint(inside, FIRST_BLOB_LABEL + kind, level, texture)

    def finished(self) -> tuple[Tensor, Tensor]:
        """Images, blurred and noisy as an imaging system leaves them, and labels."""
        padded = F.pad(self.images[:, None], (1, 1, 1, 1), mode="replicate")
        images = torch.lerp(self.images, F.avg_pool2d(padded, 3, stride=1)[:, 0], self.uniform(0, 1))
        images = images + self.uniform(0.005, 0.05) * self.grain()
        return images.clamp(0, 1)[:, None], self.labels


class ProceduralSegmentation(Task):
    """Source task: name the class of every pixel of a generated scene (multi-class cross-entropy).

    Parameters
    ----------
    settings : SegmentationSettings
    shape : (int, int)
        Rows and columns, those of the target task.
    seed : int
        Of the fixed validation scenes; training scenes come from the loop's generator and never repeat.
    device : torch.device or str
        Where scenes are drawn.
    """

    def __init__(
        self,
        settings: SegmentationSettings,
        shape: tuple[int, int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.shape, self.device = settings, shape, device
        self.out_channels = FIRST_BLOB_LABEL + settings.classes
        validation = torch.Generator().manual_seed(seed)
        self.validation = [
            self._draw(settings.batch_size, validation)
            for _ in range(math.ceil(settings.validation_scenes / settings.batch_size))
        ]

    def _draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        images, labels = draw_scenes(
            count,
            self.shape,
            classes=self.settings.classes,
            shapes_per_scene=self.settings.shapes_per_scene,
            generator=generator,
            device=self.device,
        )
        return to_network_input(images), labels

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """New scenes: input (N, 3, H, W) and labels (N, H, W)."""
        return self._draw(self.settings.batch_size, generator)


def build(profile: "Profile", images: Tensor, *, seed: int, device: str) -> tuple[nn.Module, Task]:
    """The untrained network of this source task and its task; parameters as in `l3muscle.pretext.SourceTask`."""
    task = ProceduralSegmentation(profile.sources.segmentation, profile.image.shape, seed=seed, device=device)
    network = build_fcn(**dict(profile.network), out_channels=task.out_channels)
    if profile.sources.segmentation.initialisation == "classification":
        transfer_weights(load_published(profile, "classification"), network)
    return network, task
