"""Stand-ins for natural-image source tasks on machines that can reach no weights.

Learning from images drawn by formula instead of photographs is published (Kataoka et al. 2020 for classification,
Shinoda et al. 2023 for segmentation). Wherever results of these tasks are shown they are called procedural, never
ImageNet or COCO.

The segmentation task here: scenes of overlapping blobs on a cluttered background. What class a blob belongs to is
told by its outline (the number of lobes) and not by its brightness, so the network has to find boundaries and judge
shapes; brightness, texture, size, turn and place are drawn at random.
"""

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from l3muscle.preprocess import to_network_input
from l3muscle.profile import ProceduralSettings


def smooth_noise(count: int, shape: tuple[int, int], nodes: int, *, generator: Generator) -> Tensor:
    """Random images (count, 1, rows, columns), about uniform in [-1, 1] at the nodes, smooth between them."""
    coarse = torch.rand(count, 1, nodes, nodes, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)


def draw_scenes(
    count: int, shape: tuple[int, int], *, classes: int, shapes_per_scene: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw labelled scenes.

    Parameters
    ----------
    count : int
        Number of scenes, N.
    shape : (int, int)
        Rows and columns.
    classes : int
        Classes of blob; class c has c + 1 lobes. The background is class 0, so labels run to `classes`.
    shapes_per_scene : int
        Blobs in each scene; later ones lie on top of earlier ones.
    generator : torch.Generator

    Returns
    -------
    images : Tensor, (N, 1, rows, columns), in [0, 1]
    labels : Tensor of int64, (N, rows, columns)
    """
    rows, columns = shape
    span = min(rows, columns)
    y = (torch.arange(rows) - (rows - 1) / 2) / span
    x = (torch.arange(columns) - (columns - 1) / 2) / span

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    images = 0.4 + 0.3 * draw(-1, 1) + 0.3 * smooth_noise(count, shape, 4, generator=generator)[:, 0]
    images = images + draw(0, 0.25) * smooth_noise(count, shape, 24, generator=generator)[:, 0]
    labels = torch.zeros(count, rows, columns, dtype=torch.int64)
    for _ in range(shapes_per_scene):
        lobes = torch.randint(1, classes + 1, (count, 1, 1), generator=generator)
        dy = y[:, None] - draw(-0.5, 0.5) * rows / span
        dx = x[None, :] - draw(-0.5, 0.5) * columns / span
        # Elongation along a random axis keeps the lobes countable but hides them from a plain template.
        turn, stretch = draw(0, math.pi), torch.exp(draw(-0.5, 0.5))
        u = (torch.cos(turn) * dx + torch.sin(turn) * dy) * stretch
        v = (torch.cos(turn) * dy - torch.sin(turn) * dx) / stretch
        radius = torch.hypot(u, v)
        wave = torch.cos(lobes * torch.atan2(v, u) + draw(0, 2 * math.pi))
        inside = radius < draw(0.06, 0.24) * (1 + draw(0.2, 0.45) * wave)

        level, grain = draw(0, 1), draw(0, 0.4)
        stripes = torch.sin((u * draw(20, 90) + v * draw(-60, 60)) + draw(0, 2 * math.pi))
        filling = level + grain * stripes + draw(0, 0.3) * smooth_noise(count, shape, 16, generator=generator)[:, 0]
        images = torch.where(inside, filling, images)
        labels = torch.where(inside, lobes.expand_as(labels), labels)
    images = images + draw(0.01, 0.08) * torch.randn(count, rows, columns, generator=generator)
    return images.clamp(0, 1)[:, None], labels


class ProceduralSegmentation:
    """Source task: name the class of every pixel of a generated scene (multi-class cross-entropy).

    Parameters
    ----------
    settings : ProceduralSettings
    shape : (int, int)
        Rows and columns, those of the target task.
    seed : int
        Of the fixed validation scenes; training scenes come from the loop's generator and never repeat.
    """

    def __init__(self, settings: ProceduralSettings, shape: tuple[int, int], *, seed: int) -> None:
        self.settings = settings
        self.shape = shape
        self.out_channels = settings.classes + 1
        validation = torch.Generator().manual_seed(seed)
        self._validation = [
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
        )
        return to_network_input(images), labels

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """New scenes: input (N, 3, H, W) and labels (N, H, W)."""
        return self._draw(self.settings.batch_size, generator)

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same scenes at every call."""
        yield from self._validation

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over pixels; `output` (N, classes + 1, H, W), `target` (N, H, W)."""
        return F.cross_entropy(output.float(), target)
