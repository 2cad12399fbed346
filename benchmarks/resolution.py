"""A resolution phantom, and how much of its contrast a random warp leaves: interpolating blurs, twice more than once.

The phantom is made of line pairs: waves of known frequency along rows and along columns. Beside them, two ramps that
hold each pixel's own coordinates go through the same warp. Interpolation hands a ramp on unchanged (it is linear), so
that afterwards the ramps say where each pixel came from, and with it what a perfect warp would have left there.
"""

import numpy as np

FREQUENCIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)  # cycles a pixel; nothing above 0.5 can be sampled
MARGIN = 24  # pixels at the border that are not looked at


def _wave(position: np.ndarray, frequency: float) -> np.ndarray:
    return 0.5 + 0.5 * np.cos(2 * np.pi * frequency * position)


def line_pairs(size: int) -> np.ndarray:
    """The resolution phantom, `size` pixels a side.

    Returns
    -------
    ndarray, (2 + 2 * len(FREQUENCIES), size, size) float32
        In [0, 1]: the row and the column of each pixel as a share of `size`, then for each frequency waves along the
        rows and waves along the columns.
    """
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    channels = [rows / size, columns / size]
    for frequency in FREQUENCIES:
        channels += [_wave(rows, frequency), _wave(columns, frequency)]
    return np.stack(channels).astype(np.float32)


def contrast_kept(warped: np.ndarray) -> np.ndarray:
    """Share of the contrast of `line_pairs` that is left after a warp: a modulation transfer function.

    Parameters
    ----------
    warped : ndarray, (2 + 2 * len(FREQUENCIES), size, size)
        The phantom after any flip, rotation, scaling or smooth deformation of all channels alike.

    Returns
    -------
    ndarray, (len(FREQUENCIES),)
        1 for a perfect warp. The slope of the warped waves against the waves that belong where the pixels came from.
    """
    warped = np.asarray(warped, dtype=np.float64)
    size = warped.shape[-1]
    positions = warped[:2] * size
    inside = np.zeros(warped.shape[1:], dtype=bool)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    inside &= ((positions > MARGIN) & (positions < size - 1 - MARGIN)).all(axis=0)
    kept = []
    for index, frequency in enumerate(FREQUENCIES):
        slopes = []
        for channel, position in zip(warped[2 + 2 * index : 4 + 2 * index], positions, strict=True):
            ideal = _wave(position[inside], frequency) - 0.5
            slopes.append(np.sum((channel[inside] - 0.5) * ideal) / np.sum(ideal**2))
        kept.append(np.mean(slopes))
    return np.array(kept)
