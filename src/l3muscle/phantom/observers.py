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
BULGE_MM = (9.0, 16.0)  # how far outside the muscle an outline runs for a stretch
ALIKE_HU = (0, 120)  # attenuation at which a neighbouring organ is taken for muscle
TOUCH_MM = 4.0  # how near to muscle it must lie
REACH_MM = (10.0, 30.0)  # how far into it the outline runs
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
    bulges : float
        Mean number of stretches along which the outline runs outside the muscle, over fat.
    strays : float
        Mean number of neighbouring organs of which the outline takes in a piece.
    """

    bias_mm: float
    smoothing_mm: float
    slip_mm: float
    forgets: float
    bulges: float
    strays: float


def habit_of(observer: int) -> Habit:
    """The stable habits of observer 0 to 9, the same in every cohort."""
    rng = np.random.default_rng(np.random.SeedSequence([0x0B5E, observer]))
    return Habit(
        bias_mm=float(rng.normal(-0.5, 0.25)),
        smoothing_mm=float(rng.uniform(1.0, 1.6)),
        slip_mm=float(rng.uniform(0.4, 0.8)),
        forgets=float(rng.uniform(0.14, 0.28)),
        bulges=float(rng.uniform(2.8, 4.4)),
        strays=float(rng.uniform(0.0, 0.1)),
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
    compartments : ndarray, (H, W)
        Muscle compartments of the phantom, which make up the expert's mask; 0 outside.
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
    habit, pixel, mask = habit_of(observer), float(np.mean(spacing)), compartments > 0
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    pad = int(np.ceil(MARGIN_MM / pixel))
    box = tuple(slice(max(edge[0] - pad, 0), edge[-1] + pad + 1) for edge in (rows, columns))
    inside, parts = mask[box].copy(), compartments[box]
    for part in np.unique(parts[parts > 0]):
        if rng.random() < habit.forgets:
            # A stretch of one compartment, not all of it: an observer stops where fat begins to look like muscle.
            stretch = smooth_field(rng, inside.shape, 45 / pixel) > rng.uniform(0.1, 0.9)
            inside &= ~((parts == part) & stretch)
    for row, column in _points(inside & ~ndimage.binary_erosion(inside), rng.poisson(habit.bulges), rng):
        # The pen leaves the edge for a stretch, where fat is taken for the muscle's border.
        inside |= _blob(inside.shape, row, column, spacing, rng.uniform(*BULGE_MM), rng)
    inside |= _neighbours(inside, mask[box], hu[box], spacing, pieces=rng.poisson(habit.strays), rng=rng)
    distance = ndimage.distance_transform_edt(inside, sampling=spacing)
    distance -= ndimage.distance_transform_edt(~inside, sampling=spacing)
    smooth = ndimage.gaussian_filter(distance, [habit.smoothing_mm / s for s in spacing])
    smooth += habit.bias_mm + habit.slip_mm * smooth_field(rng, inside.shape, 14 / pixel)
    outline = np.zeros_like(mask)
    # Nobody draws over air: the pen stops at the skin and at gas, and does not leave the body for the couch.
    outline[box] = (smooth > 0) & _body(hu[box] > AIR_BELOW_HU, mask[box], steps=max(round(THIN_MM / pixel), 1))
    return outline


def _neighbours(
    inside: np.ndarray,
    muscle: np.ndarray,
    hu: np.ndarray,
    spacing: tuple[float, float],
    *,
    pieces: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pieces of organs that touch muscle and look like it: bowel, vessels, liver, kidney, up to where they end."""
    taken, pixel = np.zeros_like(inside), float(np.mean(spacing))
    if not pieces:
        return taken
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), 1.2 / pixel)
    alike = (smooth > ALIKE_HU[0]) & (smooth < ALIKE_HU[1]) & ~muscle
    alike = ndimage.binary_opening(alike, iterations=max(round(THIN_MM / pixel), 1))
    touching = alike & ndimage.binary_dilation(inside, iterations=max(round(TOUCH_MM / pixel), 1))
    for row, column in _points(touching, pieces, rng):
        parts, _ = ndimage.label(alike & _blob(inside.shape, row, column, spacing, rng.uniform(*REACH_MM), rng))
        taken |= (parts == parts[row, column]) & (parts > 0)
    return taken


def _points(where: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the pixels of a mask, (count, 2); none of an empty mask."""
    pixels = np.argwhere(where)
    return pixels[rng.integers(len(pixels), size=count)] if len(pixels) else pixels


def _blob(
    shape: tuple[int, ...], row: int, column: int, spacing: tuple[float, float], radius: float, rng: np.random.Generator
) -> np.ndarray:
    """An uneven disc of this radius, mm."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    reach = np.hypot((rows - row) * spacing[0], (columns - column) * spacing[1])
    return reach * (1 + 0.25 * smooth_field(rng, shape, 10 / float(np.mean(spacing)))) < radius


def _body(tissue: np.ndarray, mask: np.ndarray, *, steps: int) -> np.ndarray:
    """Tissue that hangs together with the muscle by more than the thickness of the couch's shell."""
    core = ndimage.binary_opening(tissue, iterations=steps)
    parts, _ = ndimage.label(core)
    own = np.unique(parts[mask & core])
    return ndimage.binary_dilation(np.isin(parts, own), iterations=steps) & tissue
