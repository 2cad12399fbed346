"""Pictures of what the augmentation does to a slice and its mask, and what a single interpolation saves."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l3muscle.augment import augment_images
from l3muscle.figures import BookFigure, new_figure, style
from l3muscle.figures.style import OUTLINE_STYLE, WIDTH_IN
from l3muscle.settings import AugmentationSettings

PARTS = ("flip", "rotation", "scale", "elastic")
LATTICE_PX = 16  # distance of the lines that show how space is bent


def only(settings: AugmentationSettings, *parts: str) -> AugmentationSettings:
    """The same settings with these transformations certain and the others never.

    Parameters
    ----------
    settings : AugmentationSettings
    *parts : str
        Any of `PARTS`.
    """
    return settings.model_copy(update={f"{part}_probability": float(part in parts) for part in PARTS})


def _warp(layers: Tensor, settings: AugmentationSettings, seed: int, *parts: str) -> Tensor:
    # A seed draws the same angle, scale and displacements whichever of the transformations are used.
    return augment_images(layers, only(settings, *parts), generator=torch.Generator().manual_seed(seed))


def _lattice(shape: tuple[int, int]) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return ((rows % LATTICE_PX == 0) | (columns % LATTICE_PX == 0)).float()


def augmentation_parts(
    image: np.ndarray, mask: np.ndarray, settings: AugmentationSettings, *, seed: int = 0
) -> BookFigure:
    """A slice under each transformation alone and under all four, with its mask's outline and a lattice.

    Parameters
    ----------
    image : ndarray, (H, W)
        Windowed to [0, 1].
    mask : ndarray, (H, W) bool
    settings : AugmentationSettings
    seed : int
        Of the one draw that all columns show.
    """
    layers = torch.stack([torch.as_tensor(image).float(), torch.as_tensor(mask).float(), _lattice(image.shape)])[None]
    names = ("as it is", *PARTS, "all four")
    drawn = [layers, *(_warp(layers, settings, seed, part) for part in PARTS), _warp(layers, settings, seed, *PARTS)]
    height, width = image.shape
    columns = 3
    with style():
        figure, panels = new_figure(4 * WIDTH_IN / columns * height / width + 0.6, rows=4, columns=columns)
        for k, (name, warped) in enumerate(zip(names, drawn, strict=True)):
            row, column = 2 * (k // columns), k % columns
            slice_, outline, lattice = warped[0].numpy()
            upper, lower = panels[row, column], panels[row + 1, column]
            upper.imshow(slice_, cmap="gray", vmin=0, vmax=1)
            upper.contour(outline, [0.5], colors=OUTLINE_STYLE["expert"][0], linewidths=0.9)
            upper.set_title(name, fontsize=9, loc="left")
            lower.imshow(outline, cmap="gray", vmin=0, vmax=1)
            lower.imshow(np.ma.masked_less(lattice, 0.25), cmap="cool", vmin=0, vmax=1, alpha=0.8)
            for axes in (upper, lower):
                axes.set_axis_off()
    return figure


def interpolation_table(image: np.ndarray, settings: AugmentationSettings, *, draws: int = 32) -> pd.DataFrame:
    """How much fine detail is left after all four transformations, in one interpolation and one after another.

    Parameters
    ----------
    image : ndarray, (H, W)
        Windowed to [0, 1].
    settings : AugmentationSettings
    draws : int

    Returns
    -------
    DataFrame
        interpolations (1 or 4), mean and standard deviation over the draws of the detail kept: the mean squared
        difference of neighbouring pixels, divided by that of the image as it is.
    """
    layer = torch.as_tensor(image).float()[None, None]

    def detail(one: Tensor) -> float:
        across, down = one.diff(dim=-1), one.diff(dim=-2)
        return float(across.square().mean() + down.square().mean())

    kept: dict[int, list[float]] = {1: [], 4: []}
    for seed in range(draws):
        kept[1].append(detail(_warp(layer, settings, seed, *PARTS)))
        chain = layer
        for part in PARTS:
            chain = _warp(chain, settings, seed, part)
        kept[4].append(detail(chain))
    whole = detail(layer)
    rows = [(count, np.mean(values) / whole, np.std(values, ddof=1) / whole) for count, values in kept.items()]
    return pd.DataFrame(rows, columns=["interpolations", "mean", "sd"])
