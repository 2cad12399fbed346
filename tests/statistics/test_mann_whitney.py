"""Mann-Whitney tests between source tasks, against scipy and by hand."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_rows import scores_of

from l3muscle.statistics import mann_whitney_pairs, mann_whitney_table
from l3muscle.statistics.mann_whitney import Correction, PairFamily, adjust, adjust_pairs

KEYS = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id"]
CORRECTIONS, PAIR_FAMILIES = get_args(Correction), get_args(PairFamily)
# Exact two-sided p of four values that all lie beyond four others: 2 / (8 choose 4); of eight, 2 / (16 choose 8).
FOUR, EIGHT = 2 / 70, 2 / 12870


def models_and_images(seed: int = 0) -> pd.DataFrame:
    """Three source tasks at two sizes, three models each, on five images."""
    rng = np.random.default_rng(seed)
    rows = [
        (task, n, fold, 0, 0, f"p{image}", rng.normal(shift, 1) + 5, "")
        for n in (10, 5)
        for shift, task in enumerate(("segmentation", "random", "jigsaw"))
        for fold in range(3)
        for image in range(5)
    ]
    return pd.DataFrame(rows, columns=[*KEYS, "rms_dta_cm", "failure"])


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("none", [0.02, np.nan, 0.01, 0.4, 0.03]),
        # Four tests: times 4, at most 1.
        ("bonferroni", [0.08, np.nan, 0.04, 1.0, 0.12]),
        # The smallest times 4, the next times 3, ..., and none below one before it.
        ("holm", [0.06, np.nan, 0.04, 0.4, 0.06]),
        # The largest times 4 / 4, the next times 4 / 3, ..., and none above one after it.
        ("fdr_bh", [0.04, np.nan, 0.04, 0.4, 0.04]),
    ],
)
def test_adjusted_for_as_many_as_are_known(correction, expected):
    p = np.array([0.02, np.nan, 0.01, 0.4, 0.03])
    np.testing.assert_allclose(adjust(p, correction), expected)
    np.testing.assert_array_equal(p, [0.02, np.nan, 0.01, 0.4, 0.03])
    np.testing.assert_allclose(adjust(list(p), correction), expected)


@pytest.mark.parametrize(
    ("family", "expected"), [("n_train", [0.02, 0.04, 0.06, 0.08, 0.5]), ("all", [0.05, 0.1, 0.15, 0.2, 1.0])]
)
def test_pairs_are_adjusted_with_those_of_their_family(family, expected):
    table = pd.DataFrame({"n_train": [5, 10, 5, 10, 25], "p_raw": [0.01, 0.02, 0.03, 0.04, 0.5]}, index=[7, 3, 9, 1, 0])
    p = adjust_pairs(table, "bonferroni", family)
    assert list(p.index) == [7, 3, 9, 1, 0] and list(p) == pytest.approx(expected)


def test_pairs_agree_with_scipy():
    scores = models_and_images()
    table = mann_whitney_pairs(scores)
    tested = ["n_first", "n_second", "superiority", "p_raw", "p_value", "better", "note"]
    assert list(table) == ["n_train", "first", "second", *tested]
    # Sizes sorted, source tasks in order of appearance.
    pairs = [("segmentation", "random"), ("segmentation", "jigsaw"), ("random", "jigsaw")]
    assert list(zip(table["n_train"], table["first"], table["second"], strict=True)) == [
        (n, *pair) for n in (5, 10) for pair in pairs
    ]
    for row in table.itertuples():
        at_size = scores[scores["n_train"] == row.n_train]
        a, b = (at_size.loc[at_size["source_task"] == t, "rms_dta_cm"].to_numpy() for t in (row.first, row.second))
        higher = (a[:, None] > b[None]).mean()
        assert row.p_raw == row.p_value == stats.mannwhitneyu(a, b, alternative="two-sided").pvalue
        assert row.superiority == pytest.approx(higher)
        assert row.n_first == row.n_second == 15 and row.note == ""


def test_ties_count_half():
    table = mann_whitney_pairs(scores_of({("random", 5): [1.0, 2.0], ("jigsaw", 5): [2.0, 2.0, 3.0]}))
    # Of six pairs two are ties, and none has the first higher.
    assert table.loc[0, "superiority"] == pytest.approx(1 / 6)
    assert (table.loc[0, "n_first"], table.loc[0, "n_second"]) == (2, 3)


@pytest.mark.parametrize(
    ("metric", "winner"),
    [
        ("rms_dta_cm", "random"),
        ("dice", "jigsaw"),
        ("smd_difference_hu", ""),
        ("sma_difference_cm2", ""),
        ("smd_hu", ""),
    ],
)
def test_the_better_ranks_are_those_of_the_better_side(metric, winner):
    low, high = list(np.arange(8) / 100), list(np.arange(8) / 100 + 0.5)
    for first, second in (("random", "jigsaw"), ("jigsaw", "random")):
        values = {"random": low, "jigsaw": high}
        table = mann_whitney_pairs(scores_of({(task, 5): values[task] for task in (first, second)}, metric), metric)
        assert table.loc[0, "p_raw"] == pytest.approx(EIGHT) and table.loc[0, "better"] == winner


def test_failed_predictions_are_left_out_and_said():
    values = {"random": [0.1, 0.2, np.nan], "jigsaw": [np.nan, 0.3, 0.4, np.nan], "own": [0.5, 0.6]}
    table = mann_whitney_pairs(scores_of({(task, 5): of_task for task, of_task in values.items()}))
    left_out = "failed predictions left out"
    assert list(table["note"]) == [
        f"random: 1 {left_out}; jigsaw: 2 {left_out}",
        f"random: 1 {left_out}",
        f"jigsaw: 2 {left_out}",
    ]
    assert (table[["n_first", "n_second"]] == 2).all(axis=None)
    # Two values beyond two others: 2 / (4 choose 2).
    assert list(table["p_raw"]) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("random", "jigsaw", "note"),
    [
        ([0.1], [0.2, 0.3], "n/a: fewer than two values"),
        ([0.2, 0.3], [0.1, np.nan], "n/a: fewer than two values"),
        ([0.2, 0.3], [np.nan], "n/a: fewer than two values"),
        ([0.2, 0.2], [0.2, 0.2, 0.2], "n/a: nothing varies"),
        ([0.2, 0.2], [0.3, 0.3], ""),
        ([0.2, 0.3], [0.2, 0.2], ""),
    ],
)
def test_what_cannot_be_tested_says_why(random, jigsaw, note):
    scores = scores_of({("random", 5): random, ("jigsaw", 5): jigsaw})
    row = mann_whitney_pairs(scores, alpha=1.1).loc[0]
    assert row["note"] == note
    untested = note != ""
    assert np.isnan(row["p_raw"]) == np.isnan(row["p_value"]) == np.isnan(row["superiority"]) == untested
    assert (row["better"] == "") == untested
    square = mann_whitney_table(scores, n_train=5)
    assert np.isnan(square.loc["random", "jigsaw"]) == untested and (np.diag(square) == 1).all()


def test_one_source_task_has_nobody_to_be_compared_with():
    scores = scores_of({("random", 5): [0.1, 0.2], ("random", 10): [0.1, 0.3]})
    for family in PAIR_FAMILIES:
        table = mann_whitney_pairs(scores, family=family)
        assert table.empty and {"p_value", "better"} <= set(table)
    assert mann_whitney_table(scores, n_train=5).to_dict() == {"random": {"random": 1.0}}


def test_a_square_has_the_source_tasks_of_its_size_in_their_order():
    low, high = list(np.arange(4.0)), list(np.arange(4.0) + 10)
    scores = scores_of({("own", 10): low, ("segmentation", 5): low, ("random", 5): high, ("random", 10): high})
    square = mann_whitney_table(scores, n_train=5)
    assert list(square.index) == list(square) == ["segmentation", "random"]
    np.testing.assert_allclose(square, [[1, FOUR], [FOUR, 1]])
    np.testing.assert_allclose(mann_whitney_table(scores, n_train=10).loc["own", "random"], FOUR)


@pytest.mark.parametrize("name", ["correction", "family", "unit"])
def test_unknown_settings_are_refused(name):
    scores = scores_of({("random", 5): [0.1, 0.2], ("jigsaw", 5): [0.1, 0.3]})
    with pytest.raises(ValueError, match=f"unknown {name} 'some'"):
        mann_whitney_pairs(scores, **{name: "some"})
    with pytest.raises(ValueError, match=f"unknown {name} 'some'"):
        mann_whitney_table(scores, n_train=5, **{name: "some"})
