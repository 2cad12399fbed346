"""Random flips, rotations, scalings and elastic deformations of image and mask together (Section 2.3).

The four are composed into one sampling grid, so that every pixel is interpolated once: a chain of interpolations
blurs. The elastic part is a coarse grid of displacements, interpolated smoothly, as a dense random field costs nine
times as much and needs a smoothing width besides.
"""

import math
from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from l3muscle.settings import AugmentationSettings


def _uniform(low: float, high: float, *shape: int, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


@cache
def _between_nodes(nodes: int, pixels: int) -> Tensor:
    """Weight of each node at each pixel of a line, (pixels, nodes): bicubic interpolation is one product a direction.

    Several times as fast as interpolating the few nodes of every image anew.
    """
    unit = torch.eye(nodes)[None, None]
    return F.interpolate(unit, size=(pixels, nodes), mode="bicubic", align_corners=True)[0, 0]


@cache
def _centres(pixels: int) -> Tensor:
    """Coordinates of the centres of the pixels of a line that reaches from -1 to 1, (pixels,)."""
    return (2 * torch.arange(pixels) + 1) / pixels - 1


def sampling_grid(
    batch: int,
    shape: tuple[int, int],
    settings: AugmentationSettings,
    *,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw one random sampling grid an image.

    Parameters
    ----------
    batch : int
    shape : (int, int)
        Rows and columns.
    settings : AugmentationSettings
    generator : torch.Generator
        On the CPU, whatever the training device, so that a seed draws the same on every machine.
    device : torch.device or str
        Where the grid is laid out; only a few numbers an image travel there.

    Returns
    -------
    Tensor, (batch, rows, columns, 2), on `device`
        Coordinates (x, y) in [-1, 1] as `torch.nn.functional.grid_sample` takes them with `align_corners=False`.
    """
    rows, columns = shape

    def happens(probability: float) -> Tensor:
        return torch.rand(batch, generator=generator) < probability

    flip = torch.where(happens(settings.flip_probability), -1.0, 1.0)
    degrees = _uniform(-settings.rotation_degrees, settings.rotation_degrees, batch, generator=generator)
    angle = torch.where(happens(settings.rotation_probability), degrees * (math.pi / 180), 0.0)
    magnification = _uniform(1 - settings.scale, 1 + settings.scale, batch, generator=generator)
    magnification = torch.where(happens(settings.scale_probability), magnification, 1.0)

    # Rotation happens in pixels, not in the unit square, or an oblong image would be sheared.
    cos, sin = torch.cos(angle) / magnification, torch.sin(angle) / magnification
    affine = torch.stack([cos * flip, -sin * rows / columns, sin * flip * columns / rows, cos], dim=1)
    of_x, of_y = affine.view(batch, 2, 2, 1, 1).to(device).unbind(2)  # each (batch, 2, 1, 1)

    nodes = settings.elastic_nodes
    reach = settings.elastic_shift * 2 / (nodes - 1)  # nodes lie 2 / (nodes - 1) apart in the unit square
    shifts = _uniform(-reach, reach, batch, 2, nodes, nodes, generator=generator)
    shifts = shifts * happens(settings.elastic_probability).view(batch, 1, 1, 1)
    down, across = (_between_nodes(nodes, pixels).to(device) for pixels in shape)
    grid = down @ shifts.to(device) @ across.T  # (batch, 2, rows, columns)
    # Added a direction at a time, in half the time of `affine_grid` and a sum.
    grid += of_x * _centres(columns).to(device)
    grid += of_y * _centres(rows).to(device)[:, None]
    return grid.permute(0, 2, 3, 1)


def augment_images(images: Tensor, settings: AugmentationSettings, *, generator: Generator) -> Tensor:
    """Transform each image by a random warp of its own, in one interpolation, on the device where they are.

    Parameters
    ----------
    images : Tensor, (N, C, H, W)
        In [0, 1]; what comes in from outside the frame is 0, which is air (and no muscle). The channels of one image,
        such as a slice and its mask, are warped alike.
    settings : AugmentationSettings
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, (N, C, H, W)
    """
    shape = tuple(images.shape[-2:])
    grid = sampling_grid(len(images), shape, settings, generator=generator, device=images.device)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def augment(
    images: Tensor, masks: Tensor, settings: AugmentationSettings, *, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Transform each image and its mask by the same random warp.

    Parameters
    ----------
    images, masks : Tensor, (N, 1, H, W)
        As in `augment_images`.
    settings : AugmentationSettings
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    (Tensor, Tensor), each (N, 1, H, W)
    """
    warped = augment_images(torch.cat([images, masks], dim=1), settings, generator=generator)
    return warped[:, :1], warped[:, 1:]
