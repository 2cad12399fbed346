"""Splits: who trains, validates and is held out, whatever the cohort's size, the folds, the subsets and the seed."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3muscle.cohort import Cohort
from l3muscle.cohort.splits import SplitsError, make_splits

#: Test patients, folds, and the first three of each order of the first fold, of seed 7.
FROZEN = (
    ("P004", "P005", "P008"),
    (("P000", "P009", "P007"), ("P010", "P003"), ("P011", "P006"), ("P002", "P001")),
    (("P003", "P010", "P006"), ("P006", "P011", "P010")),
)
SIZES = (5, 10, 25, 50, 75, 100, 125)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def named_cohort(ids: list[str], observed: list[str]) -> Cohort:
    """A cohort whose pictures are one pixel, as splits look at names only."""
    pixel = np.zeros((len(ids), 1, 1))
    outlines = {patient: {"observer 01": np.ones((1, 1), bool)} for patient in observed}
    return Cohort(pixel.astype(np.int16), pixel.astype(bool), np.ones((len(ids), 2)), tuple(ids), outlines)


@st.composite
def asked(draw):
    """A cohort and arguments of `make_splits` that fit it."""
    folds, subsets = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    learners = draw(st.integers(2 * folds, 60))
    held_out = draw(st.integers(1, 12))
    letters = st.text("abcXYZ0189-._ é", min_size=1, max_size=6)
    ids = draw(st.lists(letters, min_size=learners + held_out, max_size=learners + held_out, unique=True))
    observed = ids[: draw(st.sampled_from((0, 1, held_out // 2, held_out)))]
    smallest = learners - -(-learners // folds)  # what is left when the largest fold is left out
    sizes = sorted(draw(st.sets(st.integers(1, smallest), min_size=1, max_size=4)) | {smallest})
    arguments = {"sizes": sizes, "folds": folds, "subsets": subsets, "test_patients": held_out}
    return named_cohort(ids, observed), {**arguments, "seed": draw(st.integers(0, 2**32))}


@quick
@given(asked())
def test_every_patient_has_one_role_in_every_fold(case):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    everyone = set(cohort.patient_ids)
    assert len(splits.test_ids) == arguments["test_patients"] == len(set(splits.test_ids))
    for one, other in combinations(splits.folds, 2):
        assert not set(one) & set(other)
    for fold in range(arguments["folds"]):
        for subset in range(arguments["subsets"]):
            training = splits.training_ids(fold, subset, max(arguments["sizes"]))
            roles = [*training, *splits.validation_ids(fold), *splits.test_ids]
            assert len(roles) == len(set(roles))
            whole = splits.orders[fold][subset]
            assert sorted([*whole, *splits.validation_ids(fold), *splits.test_ids]) == sorted(everyone)


@quick
@given(asked())
def test_folds_are_as_even_as_they_can_be_and_validate_everyone_once(case):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    lengths = [len(fold) for fold in splits.folds]
    assert len(lengths) == arguments["folds"]
    assert max(lengths) - min(lengths) <= 1
    validated = Counter(patient for fold in range(arguments["folds"]) for patient in splits.validation_ids(fold))
    assert validated == Counter(set(cohort.patient_ids) - set(splits.test_ids))


@quick
@given(asked())
def test_each_training_set_begins_every_larger_one(case):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    for fold in range(arguments["folds"]):
        for subset in range(arguments["subsets"]):
            drawn = [splits.training_ids(fold, subset, size) for size in arguments["sizes"]]
            assert [len(ids) for ids in drawn] == arguments["sizes"]
            assert all(larger[: len(smaller)] == smaller for smaller, larger in combinations(drawn, 2))


@quick
@given(asked(), st.randoms(use_true_random=False))
def test_the_seed_and_the_names_decide_and_nothing_else(case, random):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    names, observed = list(cohort.patient_ids), list(cohort.observers)
    random.shuffle(names)
    random.shuffle(observed)
    assert make_splits(named_cohort(names, observed), **arguments) == splits
    assert make_splits(cohort, **{**arguments, "sizes": [1]}) == splits


@quick
@given(asked())
def test_observed_patients_are_held_out_and_one_size_more_is_refused(case):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    assert set(cohort.observers) <= set(splits.test_ids)
    try:
        make_splits(cohort, **{**arguments, "sizes": [max(arguments["sizes"]) + 1]})
    except SplitsError as error:
        assert f"leave {max(arguments['sizes'])} to train on" in str(error)
    else:
        raise AssertionError("a training set larger than every patient left was accepted")


def test_seeds_and_subsets_draw_apart_and_favour_nobody():
    """Over many seeds every patient is held out, validates in each fold and comes first about equally often."""
    ids = [f"P{index:02d}" for index in range(20)]
    held, first, fold_of = Counter(), Counter(), Counter()
    repeats = 600
    for seed in range(repeats):
        splits = make_splits(named_cohort(ids, []), sizes=(5,), folds=4, subsets=2, seed=seed, test_patients=4)
        held.update(splits.test_ids)
        first.update(order[0] for orders in splits.orders for order in orders)
        fold_of.update((patient, fold) for fold, part in enumerate(splits.folds) for patient in part)
        assert all(one != other for orders in splits.orders for one, other in combinations(orders, 2))
    for counts, places, expected in ((held, 20, 0.2), (first, 20, 8 / 20), (fold_of, 80, 0.2)):
        assert len(counts) == places
        spread = 5 * np.sqrt(repeats * expected)  # five standard deviations of a Poisson count
        assert all(abs(count - repeats * expected) < spread for count in counts.values())


def cohort_of(patients: int, observed: int) -> Cohort:
    ids = [f"P{i:03d}" for i in range(patients)]
    return named_cohort(ids, ids[patients - observed :])


def test_numbers_are_the_papers():
    splits = make_splits(cohort_of(204, 37))
    assert splits.test_ids == tuple(f"P{i:03d}" for i in range(167, 204))
    assert sorted(len(fold) for fold in splits.folds) == [41, 42, 42, 42]
    assert min(len(order) for orders in splits.orders for order in orders) == 125
    assert {len(orders) for orders in splits.orders} == {2}
    asked = {"sizes": SIZES, "folds": 4, "subsets": 2, "seed": 0, "test_patients": 37}
    assert splits == make_splits(cohort_of(204, 37), **asked)


@pytest.mark.parametrize("observed", [0, 1, 36])
def test_where_observers_outlined_few_others_are_held_out_besides(observed):
    splits = make_splits(cohort_of(204, observed))
    assert len(splits.test_ids) == 37
    assert {f"P{i:03d}" for i in range(204 - observed, 204)} <= set(splits.test_ids)


def test_a_seed_means_the_same_patients_for_ever():
    """Stored experiments are found by their patients: another draw would orphan all of them."""
    drawn = make_splits(cohort_of(12, 0), sizes=(4,), test_patients=3, seed=7)
    assert drawn.test_ids == FROZEN[0]
    assert drawn.folds == FROZEN[1]
    assert tuple(order[:3] for order in drawn.orders[0]) == FROZEN[2]


@pytest.mark.parametrize(
    ("patients", "arguments", "reason"),
    [
        (20, {}, "^20 patients are too few to hold out 37$"),
        (12, {"test_patients": 12}, "^12 patients are too few to hold out 12$"),
        (12, {"test_patients": 11}, "^1 patients besides the test set are too few for 4 folds$"),
        (11, {"test_patients": 4}, "^7 patients besides the test set are too few for 4 folds$"),
        (
            15,
            {"test_patients": 5, "sizes": (2, 8, 7)},
            "^a training set of 8 does not fit: 10 patients in 4 folds leave 7",
        ),
    ],
)
def test_cohorts_that_are_too_small_are_named(patients, arguments, reason):
    with pytest.raises(SplitsError, match=reason):
        make_splits(cohort_of(patients, 0), **{"sizes": (2,), **arguments})


def test_a_training_set_is_from_one_patient_to_all_of_its_order():
    splits = make_splits(cohort_of(204, 37))
    order = splits.orders[2][1]
    assert splits.training_ids(2, 1, 1) == order[:1] and splits.training_ids(2, 1, len(order)) == order
    for n_train in (-1, 0, len(order) + 1):
        with pytest.raises(ValueError, match=rf"^n_train must be from 1 to {len(order)}, not {n_train}$"):
            splits.training_ids(2, 1, n_train)
