"""How well a mask agrees with the expert's, and what it says about the muscle (Section 2.3).

Masks are boolean (H, W); spacing is (row, column) in mm; Hounsfield units come as (H, W) numbers. `MEASURES` is the one
list of what is measured: a new row there, with its function, is a new column of every score table.
"""

from collections import namedtuple
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# Scores are derived from stored predictions. Raise this when a measure changes, and they are derived anew; nothing is
# trained again.
METRICS_VERSION = 1
BONE_THRESHOLD_HU = 175.0  # Section 2.3
BONE_MARGIN_MM = 2.0  # Section 2.3
MM_PER_CM = 10.0
TIED_NEIGHBOURS = 12  # as many pixel centres as can lie at one small distance from another
TOLERANCE = 1e-9  # in mm: distances that rounding alone sets apart are equal

Definition = Literal["surface", "symmetric", "equation4"]


def _mask(mask: np.ndarray, name: str = "mask") -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be boolean, not {mask.dtype}")
    if mask.ndim != 2:
        raise ValueError(f"{name} must be (H, W), not {mask.shape}")
    return mask


def _pair(pred: np.ndarray, ref: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pred, ref = _mask(pred, "pred"), _mask(ref, "ref")
    if pred.shape != ref.shape:
        raise ValueError(f"masks differ in shape: {pred.shape} and {ref.shape}")
    return pred, ref


def _spacing(spacing: tuple[float, float]) -> np.ndarray:
    spacing = np.asarray(spacing, dtype=np.float64)
    if spacing.shape != (2,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ValueError(f"spacing must be two positive numbers of mm, not {spacing.tolist()}")
    return spacing


def _hu(hu: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    hu = np.asarray(hu)
    if hu.shape != shape:
        raise ValueError(f"hu and mask differ in shape: {hu.shape} and {shape}")
    if hu.dtype.kind == "f" and np.isnan(hu).any():
        raise ValueError("hu holds NaN")
    return hu


def dice(pred: np.ndarray, ref: np.ndarray) -> float:
    """Dice similarity coefficient, 2 |A and B| / (|A| + |B|) (Section 2.3).

    Parameters
    ----------
    pred, ref : ndarray, (H, W) bool

    Returns
    -------
    float
        In [0, 1]; two empty masks agree perfectly and give 1.0.

    Raises
    ------
    TypeError, ValueError
        If a mask is not boolean, or the shapes differ.
    """
    pred, ref = _pair(pred, ref)
    total = np.count_nonzero(pred) + np.count_nonzero(ref)
    return 1.0 if total == 0 else 2.0 * np.count_nonzero(pred & ref) / total


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask that have one of their four neighbours outside it; beyond the image counts as outside.

    Parameters
    ----------
    mask : ndarray, (H, W) bool

    Returns
    -------
    ndarray, (H, W) bool
    """
    mask = _mask(mask)
    # ndimage.binary_erosion says the same ten times as slowly, which scoring thousands of predictions would feel.
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inner


def _edge_points(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Centres of a mask's boundary pixels in mm, (K, 2)."""
    # Ten times as fast as `argwhere`.
    rows, columns = np.divmod(np.flatnonzero(boundary(mask)), mask.shape[1])
    return np.stack([rows, columns], axis=1) * spacing


def _to_nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point from the nearest of the others: ten times as fast as a distance transform."""
    return cKDTree(others, balanced_tree=False, compact_nodes=False).query(points)[0]


def _root_mean_square_cm(distances_mm: np.ndarray) -> float:
    return float(np.sqrt(np.mean(distances_mm**2)) / MM_PER_CM) if distances_mm.size else float("nan")


def rms_dta(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, float], definition: Definition = "surface"
) -> float:
    """Root mean square distance-to-agreement (Equation 4).

    Parameters
    ----------
    pred, ref : ndarray, (H, W) bool
    spacing : (float, float)
        Row and column spacing, mm.
    definition : {"surface", "symmetric", "equation4"}
        `"surface"`: over the K pixels of the predicted boundary, the distance to the nearest pixel of the reference
        boundary. `"symmetric"`: the same over the pixels of both boundaries pooled. `"equation4"`: as printed, the
        square of d(P_k, R_k) - d(R_k, P_k), with R_k the reference boundary pixel nearest to P_k and d signed: the
        distance from a point to the other boundary, negative inside the other mask. The first distance is that of
        P_k to the reference; the second that of R_k to the prediction, whose nearest pixel need not be P_k. Of several
        equally near R_k the one nearest to the prediction counts.

    Returns
    -------
    float
        In cm; NaN if either mask is empty, as there is then no boundary to measure from or to.

    Raises
    ------
    TypeError, ValueError
        If a mask is not boolean, shapes differ, the spacing is not positive, or the definition is unknown.
    """
    pred, ref = _pair(pred, ref)
    spacing = _spacing(spacing)
    if definition not in get_args(Definition):
        raise ValueError(f"unknown definition {definition!r}")
    if not pred.any() or not ref.any():
        return float("nan")
    pred_points, ref_points = _edge_points(pred, spacing), _edge_points(ref, spacing)
    there = _to_nearest(pred_points, ref_points)
    if definition == "surface":
        return _root_mean_square_cm(there)
    back = _to_nearest(ref_points, pred_points)
    if definition == "symmetric":
        return _root_mean_square_cm(np.concatenate([there, back]))
    # A boundary pixel of one mask that the other mask also covers lies inside it.
    outward, inward = np.where(ref[boundary(pred)], -there, there), np.where(pred[boundary(ref)], -back, back)
    tree = cKDTree(ref_points)
    near, index = tree.query(pred_points, k=np.arange(1, min(TIED_NEIGHBOURS, tree.n) + 1))
    # Ties are common on a pixel grid: without a rule for them, mirroring the image would change the measure.
    candidates = np.where(near <= near[:, :1] + TOLERANCE, inward[index], np.inf)
    size = np.abs(candidates)
    candidates[size > size.min(1, keepdims=True) + TOLERANCE] = -np.inf
    return _root_mean_square_cm(outward - candidates.max(1))


def _soft_tissue(hu: np.ndarray, spacing: np.ndarray, threshold_hu: float, margin_mm: float) -> np.ndarray:
    """Pixels farther than the margin from any that is denser than the threshold."""
    reach = np.floor(margin_mm / spacing + TOLERANCE).astype(int)
    rows, columns = (np.arange(-r, r + 1) * s for r, s in zip(reach, spacing, strict=True))
    # The tolerance keeps a neighbour at exactly the margin inside it, whatever the last bit of the spacing.
    disc = np.hypot(rows[:, None], columns) <= margin_mm * (1 + TOLERANCE)
    bone, near = np.pad(hu > threshold_hu, [(r, r) for r in reach]), np.zeros(hu.shape, dtype=bool)
    # A dilation by the disc, several times as fast as that of scipy.ndimage.
    for row, column in np.argwhere(disc):
        near |= bone[row : row + hu.shape[0], column : column + hu.shape[1]]
    return ~near


def remove_bone(
    mask: np.ndarray,
    hu: np.ndarray,
    spacing: tuple[float, float],
    threshold_hu: float = BONE_THRESHOLD_HU,
    margin_mm: float = BONE_MARGIN_MM,
) -> np.ndarray:
    """Take dense tissue and a margin around it out of a mask, against partial volume with bone (Section 2.3).

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    hu : ndarray, (H, W)
    spacing : (float, float)
        Row and column spacing, mm.
    threshold_hu : float
        Denser pixels count as bone.
    margin_mm : float
        Pixels whose centre lies within this distance of a bone pixel's centre go as well: isotropic in mm, whatever
        the shape of a pixel.

    Returns
    -------
    ndarray, (H, W) bool

    Raises
    ------
    TypeError, ValueError
        If the mask is not boolean, shapes differ, hu holds NaN, or a length is not positive (the margin may be 0).
    """
    mask = _mask(mask)
    hu, spacing = _hu(hu, mask.shape), _spacing(spacing)
    if not margin_mm >= 0:
        raise ValueError(f"margin_mm must not be negative, is {margin_mm}")
    return mask & _soft_tissue(hu, spacing, threshold_hu, margin_mm)


def muscle_area(mask: np.ndarray, spacing: tuple[float, float]) -> float:
    """Skeletal muscle area (SMA): number of pixels times the area of one (Section 2.3).

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    spacing : (float, float)
        Row and column spacing, mm.

    Returns
    -------
    float
        cm².
    """
    return float(np.count_nonzero(_mask(mask)) * _spacing(spacing).prod() / MM_PER_CM**2)


def muscle_density(mask: np.ndarray, hu: np.ndarray) -> float:
    """Skeletal muscle density (SMD): mean Hounsfield units inside the mask (Section 2.3).

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    hu : ndarray, (H, W)

    Returns
    -------
    float
        HU; NaN for an empty mask.
    """
    mask = _mask(mask)
    inside = _hu(hu, mask.shape)[mask]
    return float(inside.mean(dtype=np.float64)) if inside.size else float("nan")


@dataclass(frozen=True)
class Measure:
    """A row of `MEASURES`."""

    column: str  # in score tables
    label: str  # on the axes of figures, with its unit
    name: str  # short, as in the paper
    unit: str  # empty for a share
    digits: int  # after the decimal point, as many as mean something
    better: Literal["higher", "lower", ""]  # empty where neither side is better
    empty: float | None  # score of an empty mask; NaN: does not exist; None: the expert's value decides
    # A function of a prediction and its `Reference`, both cut to the box around the prediction; or the column whose
    # difference from the expert's own value this is.
    value: "Callable[[np.ndarray, Reference], float] | str"


def _dice(pred: np.ndarray, reference: "Reference") -> float:
    return 2.0 * np.count_nonzero(pred & reference.mask) / (np.count_nonzero(pred) + reference.pixels)


def _rms_dta_cm(pred: np.ndarray, reference: "Reference") -> float:
    return _root_mean_square_cm(reference.distance_mm[boundary(pred)])


def _smd_hu(pred: np.ndarray, reference: "Reference") -> float:
    return muscle_density(pred & reference.soft, reference.hu)


def _sma_cm2(pred: np.ndarray, reference: "Reference") -> float:
    return muscle_area(pred, reference.spacing)


_ROWS = (
    Measure("dice", "Dice similarity coefficient", "DSC", "", 3, "higher", 0.0, _dice),
    Measure("rms_dta_cm", "RMS distance-to-agreement (cm)", "RMS-DTA", "cm", 3, "lower", np.nan, _rms_dta_cm),
    Measure("smd_hu", "muscle density (HU)", "SMD", "HU", 1, "", np.nan, _smd_hu),
    Measure("sma_cm2", "muscle area (cm²)", "SMA", "cm²", 1, "", 0.0, _sma_cm2),
    Measure("smd_difference_hu", "muscle density, prediction − expert (HU)", "SMD", "HU", 2, "", np.nan, "smd_hu"),
    Measure("sma_difference_cm2", "muscle area, prediction − expert (cm²)", "SMA", "cm²", 1, "", None, "sma_cm2"),
)
MEASURES = {row.column: row for row in _ROWS}
Score = namedtuple("Score", [*MEASURES, "failure"])  # of one mask; differences are mask minus expert


class Reference:
    """An expert's outline, with all that can be computed once for the many masks scored against it.

    Density is measured after bone removal in the expert's mask too: the removal exists to keep bone's partial volume
    out of the density, and a difference between a cleaned and an uncleaned mask would measure the cleaning. Area is
    that of the mask as drawn.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    hu : ndarray, (H, W)
    spacing : (float, float)
        Row and column spacing, mm.

    Raises
    ------
    TypeError, ValueError
        As the functions above; also if the mask is empty, against which nothing can be measured.
    """

    def __init__(self, mask: np.ndarray, hu: np.ndarray, spacing: tuple[float, float]) -> None:
        self.mask = _mask(mask)
        if not mask.any():
            raise ValueError("the reference mask is empty")
        self.hu, self.spacing = _hu(hu, mask.shape), _spacing(spacing)
        self.pixels = np.count_nonzero(mask)
        self.distance_mm = ndimage.distance_transform_edt(~boundary(mask), sampling=self.spacing)
        self.soft = _soft_tissue(self.hu, self.spacing, BONE_THRESHOLD_HU, BONE_MARGIN_MM)
        self.smd_hu, self.sma_cm2 = _smd_hu(mask, self), _sma_cm2(mask, self)

    def _cut(self, box: tuple[slice, slice]) -> "Reference":
        part = copy(self)
        for name in ("mask", "hu", "distance_mm", "soft"):
            setattr(part, name, getattr(self, name)[box])
        return part

    def score(self, pred: np.ndarray) -> Score:
        """Measure a mask (H, W) bool against this reference: a value for every row of `MEASURES`.

        What an empty mask scores says `Measure.empty`; its `failure` is `"empty"`, so that it can be counted.
        """
        pred, _ = _pair(pred, self.mask)
        rows, columns = np.flatnonzero(pred.any(1)), np.flatnonzero(pred.any(0))
        failure = "" if rows.size else "empty"
        box = (slice(0, 0),) * 2 if failure else (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside, near = pred[box], self._cut(box)
        values = {}
        for column, row in MEASURES.items():
            if isinstance(row.value, str):
                values[column] = values[row.value] - getattr(self, row.value)
            else:
                values[column] = float(row.value(inside, near))
        return Score(**values, failure=failure)
