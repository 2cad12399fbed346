"""Measures of one mask against the expert's: ours beside MONAI, surface-distance, MedPy, SimpleITK and scikit-image.

Pairs are phantoms at 512 x 512, outlined by the expert and by a simulated observer. What a library needs done once to
take an array (a tensor, an image of its own) is not timed. A library that has no bone removal gets scipy's distance
transform for it, as its user would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import NotOffered, Rows, Sides, Work

from l3muscle.metrics import BONE_MARGIN_MM, BONE_THRESHOLD_HU

PART = "measures"
ALL_FOUR, PREPARED = "all four measures", "all four measures, reference prepared"
# Case: its quantities and their units.
CASES = {
    "Dice": {"Dice": ""},
    "RMS distance": {"distance": "cm"},
    "Hausdorff distance": {"distance": "cm"},
    "area and mean HU": {"area": "cm²", "mean HU": "HU"},
    ALL_FOUR: {"Dice": "", "distance": "cm", "mean HU": "HU", "area": "cm²"},
    PREPARED: {"Dice": "", "distance": "cm", "mean HU": "HU", "area": "cm²"},
}


class Pair(NamedTuple):
    """A mask and the expert's, with what they were drawn on."""

    pred: np.ndarray
    ref: np.ndarray
    hu: np.ndarray
    spacing: tuple[float, float]


def draw_pair(seed: int) -> Pair:
    """A phantom, outlined by one of the observers."""
    from l3muscle.phantom.observers import outline_as_observer
    from l3muscle.phantom.patients import phantom_slice

    drawn = phantom_slice(seed)
    rng = np.random.default_rng(seed)
    mask = outline_as_observer(drawn.compartments, drawn.hu, drawn.spacing, observer=seed % 10, rng=rng)
    return Pair(mask, drawn.mask, drawn.hu, drawn.spacing)


def _rms_cm(distances: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(distances)))) / 10


def _density_and_area(pair: Pair) -> tuple[float, float]:
    """Mean HU without bone and its margin, and area, for libraries that have nothing of the kind."""
    from scipy import ndimage

    far = ndimage.distance_transform_edt(pair.hu <= BONE_THRESHOLD_HU, sampling=pair.spacing)
    soft = pair.pred & (far > BONE_MARGIN_MM * (1 + 1e-9))
    area = np.count_nonzero(pair.pred) * pair.spacing[0] * pair.spacing[1] / 100
    return float(pair.hu[soft].mean()), area


# Each library gives its measures by case, as functions of what its `prepared` makes of a pair.
Library = dict[str, Callable]


def ours() -> Library:
    """This package."""
    from scipy.spatial import cKDTree

    from l3muscle.metrics import Reference, boundary, dice, muscle_area, muscle_density, remove_bone, rms_dta

    def hausdorff(pair: Pair) -> float:
        pred, ref = (np.argwhere(boundary(mask)) * pair.spacing for mask in (pair.pred, pair.ref))
        return max(cKDTree(ref).query(pred)[0].max(), cKDTree(pred).query(ref)[0].max()) / 10

    def all_four(pair: Pair) -> tuple[float, ...]:
        soft = remove_bone(pair.pred, pair.hu, pair.spacing)
        distance = rms_dta(pair.pred, pair.ref, pair.spacing)
        return dice(pair.pred, pair.ref), distance, muscle_density(soft, pair.hu), muscle_area(pair.pred, pair.spacing)

    return {
        "prepared": lambda pair: (pair, Reference(pair.ref, pair.hu, pair.spacing)),
        "Dice": lambda item: dice(item[0].pred, item[0].ref),
        "RMS distance": lambda item: rms_dta(item[0].pred, item[0].ref, item[0].spacing),
        "Hausdorff distance": lambda item: hausdorff(item[0]),
        "area and mean HU": lambda item: (
            muscle_area(item[0].pred, item[0].spacing),
            muscle_density(item[0].pred, item[0].hu),
        ),
        ALL_FOUR: lambda item: all_four(item[0]),
        PREPARED: lambda item: item[1].score(item[0].pred)[:4],
    }


def monai() -> Library:
    """MONAI."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance
    from monai.metrics.utils import get_edge_surface_distance

    def rms(item: tuple) -> float:
        pair, pred, ref = item
        _, distances, _ = get_edge_surface_distance(pred[0, 0], ref[0, 0], spacing=pair.spacing)
        return _rms_cm(distances[0].numpy())

    def hausdorff(item: tuple) -> float:
        pair, pred, ref = item
        return compute_hausdorff_distance(pred, ref, include_background=True, spacing=pair.spacing).item() / 10

    return {
        "prepared": lambda pair: (pair, *(torch.from_numpy(mask)[None, None] for mask in (pair.pred, pair.ref))),
        "Dice": lambda item: compute_dice(item[1], item[2]).item(),
        "RMS distance": rms,
        "Hausdorff distance": hausdorff,
        "rest": lambda item: _density_and_area(item[0]),
    }


def surface_distance() -> Library:
    """DeepMind's surface-distance. Its boundary runs between pixels and is weighted by length, not made of pixels."""
    import surface_distance as library

    def distances(pair: Pair) -> dict:
        return library.compute_surface_distances(pair.ref, pair.pred, pair.spacing)

    def rms(pair: Pair) -> float:
        found = distances(pair)
        weights = found["surfel_areas_pred"]
        return float(np.sqrt(np.sum(found["distances_pred_to_gt"] ** 2 * weights) / weights.sum())) / 10

    return {
        "Dice": lambda pair: library.compute_dice_coefficient(pair.ref, pair.pred),
        "RMS distance": rms,
        "Hausdorff distance": lambda pair: library.compute_robust_hausdorff(distances(pair), 100) / 10,
    }


def medpy() -> Library:
    """MedPy. It offers means and maxima of its boundary distances; the RMS is taken from the same distances."""
    from medpy.metric import binary

    distances = vars(binary)["__surface_distances"]
    return {
        "Dice": lambda pair: binary.dc(pair.pred, pair.ref),
        "RMS distance": lambda pair: _rms_cm(distances(pair.pred, pair.ref, pair.spacing)),
        "Hausdorff distance": lambda pair: binary.hd(pair.pred, pair.ref, pair.spacing) / 10,
    }


def simpleitk() -> Library:
    """SimpleITK."""
    import SimpleITK as sitk

    def images(pair: Pair) -> tuple:
        made = [sitk.GetImageFromArray(array.astype(np.uint8)) for array in (pair.pred, pair.ref)]
        made.append(sitk.GetImageFromArray(pair.hu))
        for image in made:
            image.SetSpacing(pair.spacing[::-1])
        return tuple(made)

    def dice(item: tuple) -> float:
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(item[0], item[1])
        return overlap.GetDiceCoefficient()

    def distance_to(image):
        return sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)

    def rms(item: tuple) -> float:
        pred, ref = (sitk.LabelContour(mask, fullyConnected=False) for mask in item[:2])
        distances = sitk.GetArrayViewFromImage(distance_to(ref))
        return _rms_cm(np.maximum(distances[sitk.GetArrayViewFromImage(pred) > 0], 0))

    def hausdorff(item: tuple) -> float:
        pred, ref = (sitk.LabelContour(mask, fullyConnected=False) for mask in item[:2])
        between = sitk.HausdorffDistanceImageFilter()
        between.Execute(pred, ref)
        return between.GetHausdorffDistance() / 10

    def statistics(mask, hu) -> tuple[float, float]:
        label = sitk.LabelIntensityStatisticsImageFilter()
        label.Execute(mask, hu)
        return label.GetPhysicalSize(1) / 100, label.GetMean(1)

    def density_and_area(item: tuple) -> tuple[float, float]:
        pred, _, hu = item
        far = distance_to(hu > BONE_THRESHOLD_HU) > BONE_MARGIN_MM * (1 + 1e-9)
        pixels = sitk.StatisticsImageFilter()
        pixels.Execute(pred)
        area = pixels.GetSum() * pred.GetSpacing()[0] * pred.GetSpacing()[1] / 100
        return statistics(sitk.And(pred, far), hu)[1], area

    return {
        "prepared": images,
        "Dice": dice,
        "RMS distance": rms,
        "Hausdorff distance": hausdorff,
        "area and mean HU": lambda item: statistics(item[0], item[2]),
        "rest": density_and_area,
    }


def scikit_image() -> Library:
    """scikit-image. Its Hausdorff distance counts in pixels, so pixels have to be square."""
    from skimage.measure import regionprops
    from skimage.metrics import hausdorff_distance
    from skimage.segmentation import find_boundaries

    def hausdorff(pair: Pair) -> float:
        pred, ref = (find_boundaries(mask, connectivity=1, mode="inner") for mask in (pair.pred, pair.ref))
        return hausdorff_distance(pred, ref) * pair.spacing[0] / 10

    def region(pair: Pair) -> tuple[float, float]:
        [found] = regionprops(pair.pred.astype(np.uint8), intensity_image=pair.hu, spacing=pair.spacing)
        return found.area / 100, found.intensity_mean

    return {"Hausdorff distance": hausdorff, "area and mean HU": region}


def _side(library: Callable[[], Library]) -> Callable[..., Work]:
    def side(case: str, pairs: list[Pair]) -> Work:
        offered = {"rest": _density_and_area, **library()}
        if "RMS distance" in offered:
            dice, distance, rest = (offered[name] for name in ("Dice", "RMS distance", "rest"))
            for name in (ALL_FOUR, PREPARED):
                offered.setdefault(name, lambda item: (dice(item), distance(item), *rest(item)))
        if case not in offered:
            raise NotOffered("it has none")
        measure = offered[case]
        items = [offered["prepared"](pair) for pair in pairs] if "prepared" in offered else pairs
        return Work(
            lambda: [measure(item) for item in items],
            len(items),
            lambda: [np.atleast_1d(measure(item)).astype(float).tolist() for item in items],
        )

    return side


LIBRARIES = {
    "ours": ours,
    "MONAI": monai,
    "surface-distance": surface_distance,
    "MedPy": medpy,
    "SimpleITK": simpleitk,
    "scikit-image": scikit_image,
}
SIDES = {name: _side(library) for name, library in LIBRARIES.items()}


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the measures."""
    pairs = [draw_pair(seed) for seed in range(size.pairs)]
    with Sides(__name__, SIDES) as sides:
        for case, quantities in CASES.items():
            units = sides.prepare({"case": case, "pairs": pairs}, threads=1)
            seconds = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            outcomes = {name: np.array(found) for name, found in sides.outcomes(seconds).items()}
            rows.add_times(PART, case, "time a pair", seconds, sides.failed)
            for name in outcomes.keys() - {"ours"}:
                largest = np.abs(outcomes[name] - outcomes["ours"]).max(axis=0)
                for (quantity, unit), value in zip(quantities.items(), largest, strict=True):
                    rows.add(PART, case, f"largest difference, {quantity}", name, [value], unit=unit)
