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
# Case: its quantities and their units.
CASES = {
    "Dice": {"Dice": ""},
    "RMS distance": {"distance": "cm"},
    "Hausdorff distance": {"distance": "cm"},
    "area and mean HU": {"area": "cm²", "mean HU": "HU"},
    "all four measures": {"Dice": "", "distance": "cm", "mean HU": "HU", "area": "cm²"},
    "all four measures, reference prepared": {"Dice": "", "distance": "cm", "mean HU": "HU", "area": "cm²"},
}
ALL_FOUR = ("all four measures", "all four measures, reference prepared")


class Pair(NamedTuple):
    """A mask and the expert's, with what they were drawn on."""

    pred: np.ndarray
    ref: np.ndarray
    hu: np.ndarray
    spacing: tuple[float, float]


def write_pairs(path: Path, count: int) -> None:
    """Draw the pairs once for all sides."""
    from l3muscle.phantom.observers import outline_as_observer
    from l3muscle.phantom.patients import phantom_slice

    phantoms = [phantom_slice(seed) for seed in range(count)]
    masks = [
        outline_as_observer(
            p.mask, p.compartments, p.hu, p.spacing, observer=seed % 10, rng=np.random.default_rng(seed)
        )
        for seed, p in enumerate(phantoms)
    ]
    np.savez(
        path,
        pred=np.stack(masks),
        ref=np.stack([p.mask for p in phantoms]),
        hu=np.stack([p.hu for p in phantoms]),
        spacing=np.array([p.spacing for p in phantoms]),
    )


def read_pairs(path: str) -> list[Pair]:
    """The pairs that `write_pairs` drew."""
    with np.load(path) as arrays:
        loaded = {name: arrays[name] for name in arrays.files}
    spacings = [tuple(map(float, row)) for row in loaded["spacing"]]
    return [Pair(*pair) for pair in zip(loaded["pred"], loaded["ref"], loaded["hu"], spacings, strict=True)]


def _work(pairs: list, measure: Callable) -> Work:
    def outcome() -> list[list[float]]:
        return [np.atleast_1d(measure(pair)).astype(float).tolist() for pair in pairs]

    def run() -> None:
        for pair in pairs:
            measure(pair)

    return Work(run, len(pairs), outcome)


def _chosen(case: str, offered: dict[str, Callable]) -> Callable:
    if case not in offered:
        raise NotOffered("it has none")
    return offered[case]


def _rms_cm(distances: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(distances)))) / 10


def _mean_soft_hu(pair: Pair) -> float:
    """Mean HU without bone and its margin, for libraries that have nothing of the kind."""
    from scipy import ndimage

    far = ndimage.distance_transform_edt(pair.hu <= BONE_THRESHOLD_HU, sampling=pair.spacing)
    return float(pair.hu[pair.pred & (far > BONE_MARGIN_MM * (1 + 1e-9))].mean())


def _area_cm2(pair: Pair) -> float:
    return np.count_nonzero(pair.pred) * pair.spacing[0] * pair.spacing[1] / 100


def ours(case: str, data: str) -> Work:
    """This package."""
    from scipy.spatial import cKDTree

    from l3muscle.metrics import Reference, boundary, dice, muscle_area, muscle_density, remove_bone, rms_dta

    pairs = read_pairs(data)

    def hausdorff(pair: Pair) -> float:
        pred, ref = (np.argwhere(boundary(mask)) * pair.spacing for mask in (pair.pred, pair.ref))
        return max(cKDTree(ref).query(pred)[0].max(), cKDTree(pred).query(ref)[0].max()) / 10

    def all_four(pair: Pair) -> tuple[float, ...]:
        soft = remove_bone(pair.pred, pair.hu, pair.spacing)
        distance = rms_dta(pair.pred, pair.ref, pair.spacing)
        return dice(pair.pred, pair.ref), distance, muscle_density(soft, pair.hu), muscle_area(pair.pred, pair.spacing)

    if case == ALL_FOUR[1]:
        prepared = [(Reference(pair.ref, pair.hu, pair.spacing), pair.pred) for pair in pairs]
        return _work(prepared, lambda pair: pair[0].score(pair[1])[:4])
    return _work(
        pairs,
        {
            "Dice": lambda pair: dice(pair.pred, pair.ref),
            "RMS distance": lambda pair: rms_dta(pair.pred, pair.ref, pair.spacing),
            "Hausdorff distance": hausdorff,
            "area and mean HU": lambda p: (muscle_area(p.pred, p.spacing), muscle_density(p.pred, p.hu)),
            "all four measures": all_four,
        }[case],
    )


def monai(case: str, data: str) -> Work:
    """MONAI."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance
    from monai.metrics.utils import get_edge_surface_distance

    def tensors(pair: Pair) -> tuple:
        return pair, *(torch.from_numpy(mask)[None, None] for mask in (pair.pred, pair.ref))

    def dice(item: tuple) -> float:
        return compute_dice(item[1], item[2]).item()

    def rms(item: tuple) -> float:
        pair, pred, ref = item
        _, distances, _ = get_edge_surface_distance(pred[0, 0], ref[0, 0], spacing=pair.spacing)
        return _rms_cm(distances[0].numpy())

    def hausdorff(item: tuple) -> float:
        pair, pred, ref = item
        return compute_hausdorff_distance(pred, ref, include_background=True, spacing=pair.spacing).item() / 10

    def all_four(item: tuple) -> tuple[float, ...]:
        return dice(item), rms(item), _mean_soft_hu(item[0]), _area_cm2(item[0])

    offered = {"Dice": dice, "RMS distance": rms, "Hausdorff distance": hausdorff}
    offered |= dict.fromkeys(ALL_FOUR, all_four)
    return _work([tensors(pair) for pair in read_pairs(data)], _chosen(case, offered))


def surface_distance(case: str, data: str) -> Work:
    """DeepMind's surface-distance. Its boundary runs between pixels and is weighted by length, not made of pixels."""
    import surface_distance as library

    def distances(pair: Pair) -> dict:
        return library.compute_surface_distances(pair.ref, pair.pred, pair.spacing)

    def dice(pair: Pair) -> float:
        return library.compute_dice_coefficient(pair.ref, pair.pred)

    def rms(pair: Pair) -> float:
        found = distances(pair)
        weights = found["surfel_areas_pred"]
        return float(np.sqrt(np.sum(found["distances_pred_to_gt"] ** 2 * weights) / weights.sum())) / 10

    def hausdorff(pair: Pair) -> float:
        return library.compute_robust_hausdorff(distances(pair), 100) / 10

    def all_four(pair: Pair) -> tuple[float, ...]:
        return dice(pair), rms(pair), _mean_soft_hu(pair), _area_cm2(pair)

    offered = {"Dice": dice, "RMS distance": rms, "Hausdorff distance": hausdorff}
    offered |= dict.fromkeys(ALL_FOUR, all_four)
    return _work(read_pairs(data), _chosen(case, offered))


def medpy(case: str, data: str) -> Work:
    """MedPy. It offers means and maxima of its boundary distances; the RMS is taken from the same distances."""
    from medpy.metric import binary

    distances = vars(binary)["__surface_distances"]

    def dice(pair: Pair) -> float:
        return binary.dc(pair.pred, pair.ref)

    def rms(pair: Pair) -> float:
        return _rms_cm(distances(pair.pred, pair.ref, pair.spacing))

    def hausdorff(pair: Pair) -> float:
        return binary.hd(pair.pred, pair.ref, pair.spacing) / 10

    def all_four(pair: Pair) -> tuple[float, ...]:
        return dice(pair), rms(pair), _mean_soft_hu(pair), _area_cm2(pair)

    offered = {"Dice": dice, "RMS distance": rms, "Hausdorff distance": hausdorff}
    offered |= dict.fromkeys(ALL_FOUR, all_four)
    return _work(read_pairs(data), _chosen(case, offered))


def simpleitk(case: str, data: str) -> Work:
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

    def all_four(item: tuple) -> tuple[float, ...]:
        pred, _, hu = item
        far = distance_to(hu > BONE_THRESHOLD_HU) > BONE_MARGIN_MM * (1 + 1e-9)
        pixels = sitk.StatisticsImageFilter()
        pixels.Execute(pred)
        area = pixels.GetSum() * pred.GetSpacing()[0] * pred.GetSpacing()[1] / 100
        return dice(item), rms(item), statistics(sitk.And(pred, far), hu)[1], area

    offered = {
        "Dice": dice,
        "RMS distance": rms,
        "Hausdorff distance": hausdorff,
        "area and mean HU": lambda item: statistics(item[0], item[2]),
        **dict.fromkeys(ALL_FOUR, all_four),
    }
    return _work([images(pair) for pair in read_pairs(data)], _chosen(case, offered))


def scikit_image(case: str, data: str) -> Work:
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

    offered = {"Hausdorff distance": hausdorff, "area and mean HU": region}
    return _work(read_pairs(data), _chosen(case, offered))


SIDES = {
    "ours": ours,
    "MONAI": monai,
    "surface-distance": surface_distance,
    "MedPy": medpy,
    "SimpleITK": simpleitk,
    "scikit-image": scikit_image,
}


def run(rows: Rows, size, folder: Path) -> None:
    """Compare the measures."""
    data = folder / "pairs.npz"
    write_pairs(data, size.pairs)
    with Sides(__name__, size.sides_of(SIDES)) as sides:
        for case, quantities in CASES.items():
            units, failed = sides.prepare({"case": case, "data": str(data)}, threads=1)
            seconds, late = sides.alternate(units, rounds=size.rounds, block_s=size.block_s)
            for name, why in {**failed, **late}.items():
                rows.missing(PART, case, "time a pair", name, why, unit="ms")
            for name, taken in seconds.items():
                rows.add(PART, case, "time a pair", name, (1e3 * value for value in taken), unit="ms")
            outcomes = {name: np.array(sides[name].ask("outcome")) for name in seconds}
            if "ours" not in outcomes:
                continue
            for name, values in outcomes.items():
                if name == "ours":
                    continue
                largest = np.abs(values - outcomes["ours"]).max(axis=0)
                for (quantity, unit), value in zip(quantities.items(), largest, strict=True):
                    rows.add(PART, case, f"largest difference, {quantity}", name, [value], unit=unit)
