"""What holds of every split and of every grid, whatever the cohort's size, the folds, the subsets and the seed."""

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from l3muscle.cohort import Cohort
from l3muscle.cohort.splits import Splits, SplitsError, make_splits
from l3muscle.profile import load_profile
from l3muscle.study import experiments

quick = settings(max_examples=60, deadline=None, derandomize=True)


def cohort_of(ids: list[str], observed: list[str]) -> Cohort:
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
    observed = draw(st.sampled_from(([], ids[:held_out])))
    smallest = learners - -(-learners // folds)  # what is left when the largest fold is left out
    sizes = sorted(draw(st.sets(st.integers(1, smallest), min_size=1, max_size=4)) | {smallest})
    arguments = {"sizes": sizes, "folds": folds, "subsets": subsets, "test_patients": held_out}
    return cohort_of(ids, observed), {**arguments, "seed": draw(st.integers(0, 2**32))}


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
    assert make_splits(cohort_of(names, observed), **arguments) == splits
    assert make_splits(cohort, **{**arguments, "sizes": [1]}) == splits
    assert Splits.from_json(splits.to_json()) == splits


@quick
@given(asked())
def test_observed_patients_are_the_test_set_and_one_size_more_is_refused(case):
    cohort, arguments = case
    splits = make_splits(cohort, **arguments)
    if cohort.observers:
        assert splits.test_ids == tuple(sorted(cohort.observers))
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
        splits = make_splits(cohort_of(ids, []), sizes=(5,), folds=4, subsets=2, seed=seed, test_patients=4)
        held.update(splits.test_ids)
        first.update(order[0] for orders in splits.orders for order in orders)
        fold_of.update((patient, fold) for fold, part in enumerate(splits.folds) for patient in part)
        assert all(one != other for orders in splits.orders for one, other in combinations(orders, 2))
    for counts, places, expected in ((held, 20, 0.2), (first, 20, 8 / 20), (fold_of, 80, 0.2)):
        assert len(counts) == places
        spread = 5 * np.sqrt(repeats * expected)  # five standard deviations of a Poisson count
        assert all(abs(count - repeats * expected) < spread for count in counts.values())


@quick
@given(
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.integers(1, 150), min_size=1, max_size=7),
    st.integers(1, 5),
)
def test_every_beginning_of_the_grid_is_balanced_and_nothing_is_there_twice(folds, subsets, repeats, sizes, tasks):
    names = ("random", "classification", "segmentation", "jigsaw", "reconstruction")[:tasks]
    grid = {"folds": folds, "subsets": subsets, "repeats": repeats, "sizes": sorted(sizes), "source_tasks": names}
    everything = experiments(load_profile("smoke", grid=grid))
    assert len(everything) == len(set(everything)) == folds * subsets * repeats * len(sizes) * tasks
    cells = {(task, size): 0 for task in names for size in sizes}
    for experiment in everything:
        cells[experiment.source_task, experiment.n_train] += 1
        assert max(cells.values()) - min(cells.values()) <= 1
