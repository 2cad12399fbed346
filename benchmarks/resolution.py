"""A resolution phantom, and how much of its contrast a random warp leaves: interpolating blurs, twice more than once.

The phantom is made of line pairs: waves of known frequency along rows and along columns. Beside them, two ramps that
hold each pixel's own coordinates go through the same warp. Interpolation hands a ramp on unchanged (it is linear), so
that afterwards the ramps say where each pixel came from, and with it what a perfect warp would have left there.
"""

import numpy as np
from torch import Generator, Tensor
from torch.nn import functional as F

from l3muscle.augment import sampling_grid
from l3muscle.profile import AugmentationSettings

FREQUENCIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)  # cycles a pixel; nothing above 0.5 can be sampled
MARGIN = 24  # pixels at the border that are not looked at


def line_pairs(size: int, frequencies: tuple[float, ...] = FREQUENCIES) -> np.ndarray:
    """The resolution phantom.

    Parameters
    ----------
    size : int
        Pixels a side.
    frequencies : tuple of float
        Cycles a pixel.

    Returns
    -------
    ndarray, (2 + 2 * len(frequencies), size, size) float32
        In [0, 1]: the row and the column of each pixel as a share of `size`, then for each frequency waves along the
        rows and waves along the columns.
    """
    pixels = np.arange(size, dtype=np.float64)
    rows, columns = np.meshgrid(pixels, pixels, indexing="ij")
    channels = [rows / size, columns / size]
    for frequency in frequencies:
        channels += [_wave(rows, frequency), _wave(columns, frequency)]
    return np.stack(channels).astype(np.float32)


def _wave(position: np.ndarray, frequency: float) -> np.ndarray:
    return 0.5 + 0.5 * np.cos(2 * np.pi * frequency * position)


def contrast_kept(warped: np.ndarray, frequencies: tuple[float, ...] = FREQUENCIES) -> np.ndarray:
    """Share of the contrast of `line_pairs` that is left after a warp: a modulation transfer function.

    Parameters
    ----------
    warped : ndarray, (2 + 2 * len(frequencies), size, size)
        The phantom after any flip, rotation, scaling or smooth deformation of all channels alike.
    frequencies : tuple of float
        Those of the phantom, cycles a pixel before the warp.

    Returns
    -------
    ndarray, (len(frequencies),)
        1 for a perfect warp. The slope of the warped waves against the waves that belong where the pixels came from.

    Raises
    ------
    ValueError
        If the number of channels is another, or nothing of the phantom is left in the image.
    """
    warped = np.asarray(warped, dtype=np.float64)
    size = warped.shape[-1]
    if warped.ndim != 3 or len(warped) != 2 + 2 * len(frequencies):
        raise ValueError(f"expected {2 + 2 * len(frequencies)} channels of an image, not {warped.shape}")
    rows, columns = warped[0] * size, warped[1] * size
    inside = np.zeros(warped.shape[1:], dtype=bool)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    for position in (rows, columns):
        inside &= (position > MARGIN) & (position < size - 1 - MARGIN)
    if not inside.any():
        raise ValueError("nothing of the phantom is left in the image")
    kept = []
    for index, frequency in enumerate(frequencies):
        slopes = []
        for channel, position in zip(warped[2 + 2 * index : 4 + 2 * index], (rows, columns), strict=True):
            ideal = _wave(position[inside], frequency) - 0.5
            slopes.append(np.sum((channel[inside] - 0.5) * ideal) / np.sum(ideal**2))
        kept.append(np.mean(slopes))
    return np.array(kept)


def warp_once_and_in_chain(images: Tensor, settings: AugmentationSettings, *, seed: int) -> tuple[Tensor, Tensor]:
    """The same flip, rotation, scaling and deformation in one interpolation, as `l3muscle.augment` has it, and in turn.

    Parameters
    ----------
    images : Tensor, (1, C, H, W)
    settings : AugmentationSettings
        Its probabilities do not count: all four transformations happen.
    seed : int

    Returns
    -------
    (Tensor, Tensor), each (1, C, H, W)
        The chain flips without interpolation, then rotates, scales and deforms with one each.
    """
    whole = settings.model_copy(update={name: 1.0 for name in type(settings).model_fields if "probability" in name})

    def warped(image: Tensor, chosen: AugmentationSettings) -> Tensor:
        grid = sampling_grid(1, tuple(image.shape[-2:]), chosen, generator=Generator().manual_seed(seed))
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    # The same seed draws the same numbers whichever transformations are switched off.
    alone = {name: 0.0 for name in type(settings).model_fields if "probability" in name}
    chain = images.flip(-1)
    for name in ("rotation_probability", "scale_probability", "elastic_probability"):
        chain = warped(chain, whole.model_copy(update={**alone, name: 1.0}))
    return warped(images, whole), chain
