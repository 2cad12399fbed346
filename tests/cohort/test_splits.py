"""Splits: who trains, validates and is held out."""

import json

import numpy as np
import pytest

from l3muscle.cohort import Cohort
from l3muscle.cohort.splits import Splits, SplitsError, make_splits

#: Test patients, folds, and the first three of each order of the first fold, of seed 7.
FROZEN = (
    ("P004", "P005", "P008"),
    (("P000", "P009", "P007"), ("P010", "P003"), ("P011", "P006"), ("P002", "P001")),
    (("P003", "P010", "P006"), ("P006", "P011", "P010")),
)
SIZES = (5, 10, 25, 50, 75, 100, 125)


def cohort_of(patients: int, observed: int) -> Cohort:
    """A cohort whose pictures are one pixel, as splits look at names only."""
    ids = tuple(f"P{i:03d}" for i in range(patients))
    pixel = np.zeros((patients, 1, 1))
    outlines = {patient: {"observer 01": np.ones((1, 1), bool)} for patient in ids[patients - observed :]}
    return Cohort(pixel.astype(np.int16), pixel.astype(bool), np.ones((patients, 2)), ids, outlines)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return make_splits(cohort_of(204, 37))


def test_numbers_are_the_papers(splits):
    assert len(splits.test_ids) == 37
    assert sorted(len(fold) for fold in splits.folds) == [41, 42, 42, 42]
    assert min(len(order) for orders in splits.orders for order in orders) == 125


def test_everyone_is_in_one_place(splits):
    everyone = [*splits.test_ids, *(patient for fold in splits.folds for patient in fold)]
    assert len(everyone) == len(set(everyone)) == 204


@pytest.mark.parametrize("fold", range(4))
def test_training_never_meets_validation_or_test(splits, fold):
    for subset in range(2):
        largest = set(splits.training_ids(fold, subset, 125))
        assert len(largest) == 125
        assert not largest & set(splits.validation_ids(fold))
        assert not largest & set(splits.test_ids)


def test_smaller_sets_lie_inside_larger_ones(splits):
    for fold in range(4):
        for subset in range(2):
            nested = [set(splits.training_ids(fold, subset, size)) for size in SIZES]
            assert [len(chosen) for chosen in nested] == list(SIZES)
            assert all(small < large for small, large in zip(nested, nested[1:], strict=False))


def test_subsets_are_independent_draws(splits):
    assert set(splits.training_ids(0, 0, 25)) != set(splits.training_ids(0, 1, 25))


def test_those_whom_observers_outlined_are_held_out(splits):
    assert splits.test_ids == tuple(f"P{i:03d}" for i in range(167, 204))


def test_without_observers_the_test_set_is_drawn():
    drawn = make_splits(cohort_of(204, 0))
    assert len(drawn.test_ids) == 37
    assert drawn.test_ids != tuple(f"P{i:03d}" for i in range(167, 204))


def test_seed_decides_and_the_order_of_patients_does_not():
    cohort = cohort_of(60, 10)
    shuffled = Cohort(cohort.images, cohort.masks, cohort.spacing, cohort.patient_ids[::-1], cohort.observers)
    small = {"sizes": (5, 10)}
    assert make_splits(cohort, **small) == make_splits(shuffled, **small)
    assert make_splits(cohort, **small, seed=1) != make_splits(cohort, **small)


def test_json_brings_back_the_same(splits):
    assert Splits.from_json(splits.to_json()) == splits


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(SplitsError, match=r"training set of 125 does not fit: 50 patients in 4 folds leave 37"):
        make_splits(cohort_of(60, 10))


def test_too_few_patients():
    with pytest.raises(SplitsError, match="too few for 4 folds"):
        make_splits(cohort_of(12, 6), sizes=(2,))
    with pytest.raises(SplitsError, match="too few to hold out 37"):
        make_splits(cohort_of(20, 0), sizes=(2,))


def test_a_size_outside_the_order_is_a_mistake(splits):
    with pytest.raises(ValueError, match="n_train must be from 1"):
        splits.training_ids(0, 0, 0)


def test_a_seed_means_the_same_patients_for_ever():
    """Stored experiments are found by their patients: another draw would orphan all of them."""
    drawn = make_splits(cohort_of(12, 0), sizes=(4,), test_patients=3, seed=7)
    assert drawn.test_ids == FROZEN[0]
    assert drawn.folds == FROZEN[1]
    assert tuple(order[:3] for order in drawn.orders[0]) == FROZEN[2]


def test_by_default_there_are_two_subsets_and_no_one_is_left_without_training():
    assert {len(orders) for orders in make_splits(cohort_of(204, 37)).orders} == {2}
    with pytest.raises(SplitsError, match="^12 patients are too few to hold out 12$"):
        make_splits(cohort_of(12, 0), sizes=(2,), test_patients=12)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"test_ids": 3}', "[" * 100_000])
def test_text_that_holds_no_splits_is_refused(text):
    with pytest.raises(SplitsError, match="^these are not splits: the text is damaged, or another one$"):
        Splits.from_json(text)


def test_a_training_set_is_from_one_patient_to_all_of_its_order(splits):
    order = splits.orders[2][1]
    assert splits.training_ids(2, 1, 1) == order[:1]
    assert splits.training_ids(2, 1, len(order)) == order
    for n_train in (-1, 0, len(order) + 1):
        with pytest.raises(ValueError, match=rf"^n_train must be from 1 to {len(order)}, not {n_train}$"):
            splits.training_ids(2, 1, n_train)


def test_two_patients_a_fold_are_the_least_and_one_must_be_left_besides_the_test_set():
    least = make_splits(cohort_of(12, 4), sizes=(1,))
    assert [len(fold) for fold in least.folds] == [2, 2, 2, 2]
    with pytest.raises(SplitsError, match="^7 patients besides the test set are too few for 4 folds$"):
        make_splits(cohort_of(11, 4), sizes=(1,))
    # Eleven of twelve can be held out, but then one is too few to train on.
    with pytest.raises(SplitsError, match="^1 patients besides the test set are too few for 4 folds$"):
        make_splits(cohort_of(12, 0), sizes=(1,), test_patients=11)


def test_the_largest_size_may_be_as_large_as_the_smallest_training_set():
    fits = make_splits(cohort_of(15, 5), sizes=(7, 2))  # folds of 3, 3, 2 and 2 patients leave 7, 7, 8 and 8
    assert [len(fits.orders[fold][0]) for fold in range(4)] == [7, 7, 8, 8]
    with pytest.raises(SplitsError, match="^a training set of 8 does not fit: 10 patients in 4 folds leave 7 to"):
        make_splits(cohort_of(15, 5), sizes=(2, 8, 7))


def test_by_default_a_study_is_the_papers():
    asked = {"sizes": SIZES, "folds": 4, "subsets": 2, "seed": 0, "test_patients": 37}
    for cohort in (cohort_of(204, 37), cohort_of(204, 0)):
        assert make_splits(cohort) == make_splits(cohort, **asked)


def test_the_text_of_splits_is_json_with_their_three_parts():
    drawn = make_splits(cohort_of(12, 0), sizes=(4,), test_patients=3, seed=7)
    content = json.loads(drawn.to_json())
    assert list(content) == ["test_ids", "folds", "orders"]
    assert tuple(content["test_ids"]) == drawn.test_ids
    assert tuple(map(tuple, content["folds"])) == drawn.folds
    assert len(drawn.to_json().splitlines()) > 12  # a line a patient: readable, and small to compare
