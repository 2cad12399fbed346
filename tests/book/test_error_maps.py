"""Outlines are measured where they lie: errors counted, distances read in three ways."""

from types import SimpleNamespace

import numpy as np
import pytest

from l3muscle.book.error_maps import (
    MAP_SHAPE,
    error_map,
    measure_bone_removal,
    measure_distances,
    model_error_map,
    observer_error_map,
    one_model_each,
)
from l3muscle.metrics import rms_dta
from l3muscle.study import StudyResults


@pytest.fixture(scope="module")
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


@pytest.fixture(scope="module")
def cohort(results: StudyResults):
    return results.cohort()


def one_slice(spacing=(1.0, 2.0)):
    """A cohort of one slice with a block of muscle in it."""
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    hu = np.full(mask.shape, 40, np.int16)
    return SimpleNamespace(
        images=hu[None], masks=mask[None], spacing=np.array([spacing]), index=lambda patient: ["A"].index(patient)
    )


def test_an_error_map_counts_what_is_wrong() -> None:
    cohort = one_slice()
    mask = cohort.masks[0]
    left, wide = mask.copy(), mask.copy()
    left[:, 40:] = False
    wide[40:44, 20:60] = True
    found = error_map(cohort, [("A", left), ("A", wide), ("A", mask), ("A", mask)])
    assert found.outlines == 4
    assert found.missed_cm2 == pytest.approx(20 * 20 * 2 / 100 / 4)
    assert found.added_cm2 == pytest.approx(4 * 40 * 2 / 100 / 4)
    rows, columns = MAP_SHAPE
    assert found.missed[rows // 2, columns * 3 // 4] == pytest.approx(0.25, abs=0.01)
    assert found.missed[rows // 2, columns // 4] == pytest.approx(0, abs=0.01)
    assert found.added.max() == pytest.approx(0.25, abs=0.03) and found.added[: rows // 2].max() < 0.01
    assert found.muscle[rows // 2, columns // 2] == pytest.approx(1, abs=0.01)


def test_an_error_map_needs_an_outline() -> None:
    with pytest.raises(ValueError, match="no outline"):
        error_map(one_slice(), [])


def test_maps_of_a_run_count_every_outline(results: StudyResults, cohort) -> None:
    patients = len(results.splits().test_ids)
    models = sum(experiment.n_train == 2 for experiment in results.records)
    assert model_error_map(results, cohort, 2).outlines == models * patients
    assert model_error_map(results, cohort, 99) is None
    outlines = sum(len(masks) for masks in cohort.observers.values())
    assert observer_error_map(cohort).outlines == outlines
    # Missed and added area are what the areas differ by.
    scores = results.scores()
    own = scores[scores["n_train"] == 2]
    found = model_error_map(results, cohort, 2)
    assert found.added_cm2 - found.missed_cm2 == pytest.approx(own["sma_difference_cm2"].mean(), abs=1e-6)


def test_distances_of_a_run_are_those_of_the_measure(results: StudyResults, cohort) -> None:
    table = measure_distances(results, cohort)
    experiment = one_model_each(results)[0]
    own = table[(table["source_task"] == experiment.source_task) & (table["n_train"] == experiment.n_train)]
    assert list(own["patient_id"]) == list(results.splits().test_ids)
    np.testing.assert_allclose(own["surface"], results.scores_of(experiment)["rms_dta_cm"], atol=1e-9)
    patient, masks = next(iter(cohort.observers.items()))
    k = cohort.index(patient)
    first = table[(table["source_task"] == "observers") & (table["patient_id"] == patient)].iloc[0]
    mask, spacing = next(iter(masks.values())), tuple(cohort.spacing[k])
    assert first["symmetric"] == rms_dta(mask, cohort.masks[k], spacing, definition="symmetric")


def test_bone_removal_lowers_the_density_beside_bone() -> None:
    cohort = one_slice((1.0, 1.0))
    cohort.images[0, 30, 40] = 1000
    row = measure_bone_removal(cohort, ["A"]).iloc[0]
    assert row["smd_drawn_hu"] == pytest.approx(40 + 960 / 800)
    assert row["smd_hu"] == 40 and row["removed"] == pytest.approx(13 / 800)
