"""Ten simulated radiographers, who outline the phantom's test patients (Section 2.4).

They are tuned so that their mean agreement with the expert is what Section 3 reports of radiographers (Dice 0.901,
RMS-DTA 0.318 cm, density -6.0 HU, area -5.1 cm^2). That agreement is therefore an input of the phantom, and no finding.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from l3muscle.phantom.canvas import smooth_field

OBSERVERS = 10
MARGIN_MM = 60.0  # how far outside the expert's outline an observer's may run
STRAY_MM = 31.0  # mean distance from muscle of what is taken in by mistake
AIR_BELOW_HU = -400
THIN_MM = 2.0  # half of what no part of the body is thinner than


@dataclass(frozen=True)
class Habit:
    """What one observer does every time.

    Attributes
    ----------
    bias_mm : float
        Outline drawn outside (positive) or inside the expert's.
    smoothing_mm : float
        Corners and narrow gaps of fat that the pen runs over.
    slip_mm : float
        Standard deviation of the hand's wandering.
    forgets : float
        Chance of leaving part of a compartment out.
    strays : float
        Mean number of times that the outline takes in a piece of a neighbouring organ.
    """

    bias_mm: float
    smoothing_mm: float
    slip_mm: float
    forgets: float
    strays: float


def habit_of(observer: int) -> Habit:
    """The stable habits of observer 0 to 9, the same in every cohort."""
    rng = np.random.default_rng(np.random.SeedSequence([0x0B5E, observer]))
    return Habit(
        bias_mm=float(rng.normal(-0.12, 0.25)),
        smoothing_mm=float(rng.uniform(1.8, 3.2)),
        slip_mm=float(rng.uniform(1.1, 1.7)),
        forgets=float(rng.uniform(0.12, 0.27)),
        strays=float(rng.uniform(1.6, 3.8)),
    )


def assign_observers(images: int) -> dict[int, tuple[int, ...]]:
    """Which observers outline which test image (Section 2.4).

    The paper has two groups of five radiographers, twenty images for each group, and five outlines for each of 37
    images except three, which have four. Not all of that can hold at once: two times twenty is three images too many,
    and those three would have ten outlines. The counts per image are what the results rest on, so they are kept: the
    first group takes 20 images and the second the other 17, and one outline is missing from each of three images,
    which makes 182. For other numbers of images the proportions are the same.

    Parameters
    ----------
    images : int
        Number of test images.

    Returns
    -------
    dict of int to tuple of int
        Observers, 0 to 9, by image.
    """
    first = round(images * 20 / 37)
    assignment = {image: tuple(range(5)) if image < first else tuple(range(5, 10)) for image in range(images)}
    for missing in range(min(3, images // 4)):
        image = images - 1 - missing
        assignment[image] = tuple(observer for observer in assignment[image] if observer != 5 + missing)
    return assignment


@threadpool_limits.wrap(limits=1, user_api="blas")  # see `phantom_slice`
def outline_as_observer(
    mask: np.ndarray,
    compartments: np.ndarray,
    hu: np.ndarray,
    spacing: tuple[float, float],
    *,
    observer: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Outline muscle as one observer would.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
        The expert's.
    compartments : ndarray, (H, W)
        Muscle compartments of the phantom; 0 outside.
    hu : ndarray, (H, W)
    spacing : (float, float)
        mm.
    observer : int
        0 to 9.
    rng : numpy Generator
        Of this observer on this image.

    Returns
    -------
    ndarray, (H, W) bool
    """
    habit, pixel = habit_of(observer), float(np.mean(spacing))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    pad = int(np.ceil(MARGIN_MM / pixel))
    box = tuple(slice(max(edge[0] - pad, 0), edge[-1] + pad + 1) for edge in (rows, columns))
    inside, parts = mask[box].copy(), compartments[box]
    for part in np.unique(parts[parts > 0]):
        if rng.random() < habit.forgets:
            # A stretch of one compartment, not all of it: an observer stops where fat begins to look like muscle.
            stretch = smooth_field(rng, inside.shape, 45 / pixel) > rng.uniform(0.1, 0.9)
            inside &= ~((parts == part) & stretch)
    edge = np.argwhere(inside & ~ndimage.binary_erosion(inside))
    for _ in range(rng.poisson(habit.strays)):
        # Most lie against muscle, a few are a loop of bowel or another organ some way off.
        bearing, distance = rng.uniform(-np.pi, np.pi), rng.exponential(STRAY_MM)
        centre = edge[rng.integers(len(edge))] + distance * np.array([np.sin(bearing), np.cos(bearing)]) / spacing
        radius = rng.uniform(7, 13)
        rows, columns = np.ogrid[: inside.shape[0], : inside.shape[1]]
        inside |= np.hypot((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1]) < radius
    distance = ndimage.distance_transform_edt(inside, sampling=spacing)
    distance -= ndimage.distance_transform_edt(~inside, sampling=spacing)
    smooth = ndimage.gaussian_filter(distance, [habit.smoothing_mm / s for s in spacing])
    smooth += habit.bias_mm + habit.slip_mm * smooth_field(rng, inside.shape, 14 / pixel)
    outline = np.zeros_like(mask)
    # Nobody draws over air: the pen stops at the skin and at gas, and does not leave the body for the couch.
    outline[box] = (smooth > 0) & _body(hu[box] > AIR_BELOW_HU, mask[box], steps=max(round(THIN_MM / pixel), 1))
    return outline


def _body(tissue: np.ndarray, mask: np.ndarray, *, steps: int) -> np.ndarray:
    """Tissue that hangs together with the muscle by more than the thickness of the couch's shell."""
    core = ndimage.binary_opening(tissue, iterations=steps)
    parts, _ = ndimage.label(core)
    own = np.unique(parts[mask & core])
    return ndimage.binary_dilation(np.isin(parts, own), iterations=steps) & tissue
