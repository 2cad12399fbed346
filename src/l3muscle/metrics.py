"""How well a mask agrees with the expert's, and what it says about the muscle (Section 2.3).

Masks are boolean (H, W); spacing is (row, column) in mm; Hounsfield units come as (H, W) numbers.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# Scores are derived from stored predictions: raise this when a measure changes, and they are derived anew.
METRICS_VERSION = 1
BONE_THRESHOLD_HU = 175.0  # Section 2.3
BONE_MARGIN_MM = 2.0  # Section 2.3
MM_PER_CM = 10.0
MM2_PER_CM2 = 100.0
TIED_NEIGHBOURS = 12  # as many pixel centres as can lie at one small distance from another

Definition = Literal["surface", "symmetric", "equation4"]


def _mask(mask: np.ndarray, name: str) -> np.ndarray:
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
    mask = _mask(mask, "mask")
    box = _box(mask)
    edge = np.zeros_like(mask)
    edge[box] = _edge(mask[box])
    return edge


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest box around a mask; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _edge(mask: np.ndarray) -> np.ndarray:
    """`boundary` of a mask that nothing surrounds."""
    inner = np.zeros_like(mask)
    middle = inner[1:-1, 1:-1]
    np.logical_and(mask[:-2, 1:-1], mask[2:, 1:-1], out=middle)
    middle &= mask[1:-1, :-2]
    middle &= mask[1:-1, 2:]
    return mask & ~inner


def _boundary_points(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Boundary pixels' centres in mm, (K, 2)."""
    # Ten times as fast as `argwhere`.
    rows, columns = np.divmod(np.flatnonzero(boundary(mask)), mask.shape[1])
    return np.stack([rows, columns], axis=1) * spacing


def _tree(points: np.ndarray) -> cKDTree:
    # Balance costs more than it saves where a tree is asked once.
    return cKDTree(points, balanced_tree=False, compact_nodes=False)


def _of_nearest(values: np.ndarray, tree: cKDTree, points: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """For each point the value of the tree's nearest point; of equally near ones, the smallest in size counts.

    On a pixel grid ties are common, and a rule for them keeps a measure from changing when the image is mirrored.
    """
    count = min(TIED_NEIGHBOURS, tree.n)
    near, places = tree.query(points, k=np.arange(1, count + 1))
    candidates = np.where(near <= distance[:, None] + 1e-9, values[places], np.inf)
    size = np.abs(candidates)
    smallest = size <= size.min(1, keepdims=True) + 1e-9
    return np.where(smallest, candidates, -np.inf).max(1)


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
    if definition not in ("surface", "symmetric", "equation4"):
        raise ValueError(f"unknown definition {definition!r}")
    if not pred.any() or not ref.any():
        return float("nan")
    pred_points, ref_points = _boundary_points(pred, spacing), _boundary_points(ref, spacing)
    ref_tree = _tree(ref_points)
    distance, _ = ref_tree.query(pred_points)
    if definition == "surface":
        squares = distance**2
    else:
        back, _ = _tree(pred_points).query(ref_points)
        if definition == "symmetric":
            squares = np.concatenate([distance**2, back**2])
        else:
            # A boundary pixel of one mask that the other mask also covers lies inside it.
            outward = np.where(ref[boundary(pred)], -1.0, 1.0) * distance
            inward = np.where(pred[boundary(ref)], -1.0, 1.0) * back
            squares = (outward - _of_nearest(inward, ref_tree, pred_points, distance)) ** 2
    return float(np.sqrt(squares.mean()) / MM_PER_CM)


def _bone_with_margin(hu: np.ndarray, spacing: np.ndarray, threshold_hu: float, margin_mm: float) -> np.ndarray:
    """Pixels denser than the threshold, or with the centre of such a pixel within the margin."""
    dense = hu > threshold_hu
    reach = np.floor(margin_mm / spacing + 1e-9).astype(int)
    rows, columns = (np.arange(-r, r + 1) * s for r, s in zip(reach, spacing, strict=True))
    # The tolerance keeps a neighbour at exactly the margin inside it, whatever the last bit of the spacing.
    disc = np.hypot(rows[:, None], columns[None, :]) <= margin_mm * (1 + 1e-9)
    padded = np.pad(dense, [(r, r) for r in reach])
    grown = np.zeros_like(dense)
    for row, column in np.argwhere(disc):
        grown |= padded[row : row + dense.shape[0], column : column + dense.shape[1]]
    return grown


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
    mask = _mask(mask, "mask")
    hu, spacing = _hu(hu, mask.shape), _spacing(spacing)
    if not margin_mm >= 0:
        raise ValueError(f"margin_mm must not be negative, is {margin_mm}")
    rows, columns = _box(mask)
    # Bone beyond the mask's box by no more than the margin still reaches into it.
    reach = (margin_mm / spacing + 1e-9).astype(int)
    around = (
        slice(max(rows.start - reach[0], 0), rows.stop + reach[0]),
        slice(max(columns.start - reach[1], 0), columns.stop + reach[1]),
    )
    kept = mask.copy()
    kept[around] &= ~_bone_with_margin(hu[around], spacing, threshold_hu, margin_mm)
    return kept


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
    mask = _mask(mask, "mask")
    return float(np.count_nonzero(mask) * _spacing(spacing).prod() / MM2_PER_CM2)


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
    mask = _mask(mask, "mask")
    inside = _hu(hu, mask.shape)[mask]
    return float(inside.mean(dtype=np.float64)) if inside.size else float("nan")


class Score(NamedTuple):
    """Measures of one mask against the expert's; differences are mask minus expert."""

    dice: float
    rms_dta_cm: float
    smd_hu: float
    sma_cm2: float
    smd_difference_hu: float
    sma_difference_cm2: float
    failure: str


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
        self.mask = _mask(mask, "mask")
        if not mask.any():
            raise ValueError("the reference mask is empty")
        self.hu, self.spacing = _hu(hu, mask.shape), _spacing(spacing)
        self._distance_mm = ndimage.distance_transform_edt(~boundary(mask), sampling=self.spacing)
        self._soft = ~_bone_with_margin(self.hu, self.spacing, BONE_THRESHOLD_HU, BONE_MARGIN_MM)
        self.smd_hu = muscle_density(self.mask & self._soft, self.hu)
        self._pixels = np.count_nonzero(mask)
        self.sma_cm2 = muscle_area(mask, self.spacing)

    def score(self, pred: np.ndarray) -> Score:
        """Measure a mask (H, W) bool against this reference.

        An empty mask scores Dice 0 and area 0; its distance and density do not exist and are NaN, and `failure` says
        `"empty"`, so that it can be counted.
        """
        pred, _ = _pair(pred, self.mask)
        box = _box(pred)
        inside = pred[box]
        distances = self._distance_mm[box][_edge(inside)]
        failure = "" if distances.size else "empty"
        smd, sma = muscle_density(inside & self._soft[box], self.hu[box]), muscle_area(inside, self.spacing)
        return Score(
            dice=float(2.0 * np.count_nonzero(inside & self.mask[box]) / (np.count_nonzero(inside) + self._pixels)),
            rms_dta_cm=float(np.sqrt(np.mean(distances**2)) / MM_PER_CM) if distances.size else float("nan"),
            smd_hu=smd,
            sma_cm2=sma,
            smd_difference_hu=smd - self.smd_hu,
            sma_difference_cm2=sma - self.sma_cm2,
            failure=failure,
        )
