"""What the outlines themselves tell and their scores do not: where models err, and other readings of the distance."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from skimage.transform import resize

from l3muscle.cohort import Cohort
from l3muscle.metrics import remove_bone, rms_dta
from l3muscle.study import Experiment, StudyResults

MAP_SHAPE = (150, 220)  # of an aligned slice
MAP_MARGIN = 0.12  # of the muscle's box, on each side


def one_model_each(results: StudyResults) -> list[Experiment]:
    """The first finished model of each configuration, in the grid's order."""
    first: dict[tuple[str, int], Experiment] = {}
    for experiment in sorted(results.records):
        first.setdefault(experiment.configuration, experiment)
    tasks = results.profile.grid.source_tasks
    return sorted(first.values(), key=lambda experiment: (tasks.index(experiment.source_task), experiment.n_train))


def measure_distances(results: StudyResults, cohort: Cohort) -> pd.DataFrame:
    """RMS-DTA by each reading of Equation 4, of the observers and of one model of each configuration.

    Returns
    -------
    DataFrame
        source_task (`"observers"` for theirs), n_train (0 for theirs), patient_id, and surface, symmetric and equation4
        in cm: NaN for an empty outline.
    """
    rows = []

    def measure(source_task: str, n_train: int, patient_id: str, mask: np.ndarray) -> None:
        k = cohort.index(patient_id)
        pair = mask, cohort.masks[k], tuple(cohort.spacing[k])
        values = {name: rms_dta(*pair, definition=name) for name in ("surface", "symmetric", "equation4")}
        rows.append({"source_task": source_task, "n_train": n_train, "patient_id": patient_id, **values})

    for patient_id, outlines in cohort.observers.items():
        for mask in outlines.values():
            measure("observers", 0, patient_id, mask)
    test_ids = results.splits().test_ids
    for experiment in one_model_each(results):
        for patient_id, mask in zip(test_ids, results.predictions(experiment), strict=True):
            measure(experiment.source_task, experiment.n_train, patient_id, mask)
    return pd.DataFrame(rows)


def measure_bone_removal(cohort: Cohort, patient_ids: Iterable[str]) -> pd.DataFrame:
    """Density of the expert's masks as drawn and after bone removal (Section 2.3).

    Returns
    -------
    DataFrame
        One row a patient: patient_id, smd_drawn_hu, smd_hu, removed (share of the mask's pixels).
    """
    rows = []
    for patient_id in patient_ids:
        k = cohort.index(patient_id)
        hu, mask = cohort.images[k], cohort.masks[k]
        kept = remove_bone(mask, hu, tuple(cohort.spacing[k]))
        rows.append(
            {
                "patient_id": patient_id,
                "smd_drawn_hu": float(hu[mask].mean(dtype=np.float64)),
                "smd_hu": float(hu[kept].mean(dtype=np.float64)) if kept.any() else np.nan,
                "removed": 1 - np.count_nonzero(kept) / np.count_nonzero(mask),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class ErrorMap:
    """How often outlines err at each point of the slice, over test images aligned by the expert's muscle.

    Attributes
    ----------
    hu : ndarray, (rows, columns)
        Mean of the aligned slices.
    muscle : ndarray, (rows, columns)
        Share of the images in which the point is muscle.
    missed, added : ndarray, (rows, columns)
        Share of the outlines in which the point is missed, or wrongly included.
    outlines : int
    missed_cm2, added_cm2 : float
        Mean area of either error in one outline.
    """

    hu: np.ndarray
    muscle: np.ndarray
    missed: np.ndarray
    added: np.ndarray
    outlines: int
    missed_cm2: float
    added_cm2: float


def _aligned(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of an image around the mask's box, brought to `MAP_SHAPE`."""
    bounds = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis))
        margin = MAP_MARGIN * (inside[-1] + 1 - inside[0])
        low, high = round(inside[0] - margin), round(inside[-1] + 1 + margin)
        bounds.append((max(low, 0), high, max(-low, 0), max(high - mask.shape[1 - axis], 0)))
    (top, bottom, above, below), (left, right, before, after) = bounds
    part = image[top:bottom, left:right]
    part = np.pad(part, [(above, below), (before, after)], mode="edge")
    return resize(part.astype(np.float32), MAP_SHAPE, order=1, anti_aliasing=True, preserve_range=True)


def error_map(cohort: Cohort, outlines: Iterable[tuple[str, np.ndarray]]) -> ErrorMap:
    """Count where outlines differ from the expert's.

    Parameters
    ----------
    cohort : Cohort
    outlines : iterable of (str, ndarray (H, W) bool)
        Patient, and an outline of its slice.

    Raises
    ------
    ValueError
        If there is no outline.
    """
    counts: dict[str, np.ndarray] = {}
    totals: dict[str, int] = {}
    for patient_id, mask in outlines:
        count = counts.setdefault(patient_id, np.zeros(mask.shape, np.uint16))
        count += mask
        totals[patient_id] = totals.get(patient_id, 0) + 1
    if not counts:
        raise ValueError("there is no outline to compare with the expert's")
    outlined = sum(totals.values())
    hu, muscle, missed, added = (np.zeros(MAP_SHAPE) for _ in range(4))
    missed_cm2 = added_cm2 = 0.0
    for patient_id, count in counts.items():
        k, total = cohort.index(patient_id), totals[patient_id]
        expert = cohort.masks[k]
        lost, gained = np.where(expert, total - count, 0), np.where(expert, 0, count)
        pixel_cm2 = float(np.prod(cohort.spacing[k])) / 100
        missed_cm2 += lost.sum(dtype=np.int64) * pixel_cm2 / outlined
        added_cm2 += gained.sum(dtype=np.int64) * pixel_cm2 / outlined
        hu += _aligned(cohort.images[k], expert) / len(counts)
        muscle += _aligned(expert, expert) / len(counts)
        missed += _aligned(lost, expert) / outlined
        added += _aligned(gained, expert) / outlined
    return ErrorMap(hu, muscle, missed, added, outlined, float(missed_cm2), float(added_cm2))


def observer_error_map(cohort: Cohort) -> ErrorMap:
    """Where the observers' outlines err."""
    return error_map(cohort, ((p, mask) for p, masks in cohort.observers.items() for mask in masks.values()))


def model_error_map(results: StudyResults, cohort: Cohort, n_train: int) -> ErrorMap | None:
    """Where all models of one training-set size err; None where none is finished."""
    experiments = [experiment for experiment in results.records if experiment.n_train == n_train]
    if not experiments:
        return None
    test_ids = results.splits().test_ids
    return error_map(
        cohort,
        (pair for experiment in experiments for pair in zip(test_ids, results.predictions(experiment), strict=True)),
    )
