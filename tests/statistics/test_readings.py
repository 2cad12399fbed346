"""The ways to read the paper's words, and how close each comes to its print."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from l3muscle.statistics import control_sample, dunnett_table, readings_table
from l3muscle.statistics.printed import printed_configurations
from l3muscle.statistics.readings import _compare

CLOSENESS = ["compared", "untested", "same_verdict", "mean_abs_dp", "distance"]
FAMILIES, UNITS = ("all", "n_train", "source_task"), ("prediction", "image_mean", "model_mean")


def measured(rng: np.random.Generator, dice: float, images: int = 6, **keys) -> pd.DataFrame:
    """Scores of one rater whose Dice scatters about a value; the expert has 150 cm² and 30 HU."""
    values = dice + rng.normal(0, 0.03, images)
    off = rng.normal(0, 2, images)
    return pd.DataFrame(
        {
            **keys,
            "patient_id": [f"p{image}" for image in range(images)],
            "dice": values,
            "rms_dta_cm": 1.2 - values,
            "smd_difference_hu": off,
            "sma_difference_cm2": 3 * off,
            "smd_hu": 30 + np.arange(images) + off,
            "sma_cm2": 150 + np.arange(images) + 3 * off,
            "failure": "",
        }
    )


@pytest.fixture(scope="module")
def tables():
    """Two of the paper's source tasks and one of our own at two of its sizes and one of our own, and observers."""
    rng = np.random.default_rng(0)
    means = {"random": 0.78, "own": 0.9, "segmentation": 0.86}
    scores = [
        measured(rng, mean + 0.02 * np.log(n), source_task=task, n_train=n, fold=fold, subset=0, repeat=0)
        for task, mean in means.items()
        for n in (5, 25, 30)
        for fold in range(3)
    ]
    observers = [measured(rng, 0.9, observer=f"o{observer}") for observer in range(4)]
    return pd.concat(scores, ignore_index=True), pd.concat(observers, ignore_index=True)


@pytest.mark.parametrize(
    ("metric", "controls"),
    [
        ("dice", {("dice", "outlines"), ("dice", "image_means")}),
        (
            "smd_difference_hu",
            {("smd_hu", "expert"), *product(["smd_difference_hu"], ["zeros", "outlines", "image_means"])},
        ),
        ("smd_hu", {("smd_hu", "expert")}),
    ],
)
def test_every_control_goes_with_every_family_and_unit(tables, metric, controls):
    readings = readings_table(*tables, metric)[["metric", "control", "family", "unit"]]
    expected = {(*pair, *rest) for pair in controls for rest in product(FAMILIES, UNITS)}
    assert sorted(readings.itertuples(index=False, name=None)) == sorted(expected)


def test_an_unknown_metric_is_refused(tables):
    with pytest.raises(ValueError, match="unknown metric 'jaccard'"):
        readings_table(*tables, "jaccard")


@pytest.mark.parametrize(
    ("p", "number", "below", "turned", "expected"),
    [
        # Same verdict: of five known the second and last; the first is turned. Numbers on both sides: the same two.
        (
            [0.0002, 0.2, 0.04, 0.0005, np.nan, 1.0],
            [np.nan, 0.3, np.nan, 0.5, 0.5, 0.96],
            [True, False, True, False, False, False],
            [True, False, False, False, False, False],
            [5, 1, 2 / 5, (0.1 + 0.04) / 2, (0 + 0.1 + 0.039 + 0.499 + 0.04) / 5],
        ),
        # 0.001 itself is a number.
        ([0.001], [0.003], [False], [False], [1, 0, 1, 0.002, 0.002]),
        ([0.001], [np.nan], [True], [False], [1, 0, 0, np.nan, 0]),
        ([0.0001], [np.nan], [True], [False], [1, 0, 1, np.nan, 0]),
        ([np.nan], [0.5], [False], [False], [0, 1, np.nan, np.nan, np.nan]),
        ([], [], [], [], [0, 0, np.nan, np.nan, np.nan]),
    ],
)
def test_closeness_by_hand(p, number, below, turned, expected):
    outcome = _compare(np.array(p, float), np.array(number, float), np.array(below, bool), np.array(turned, bool))
    assert list(outcome) == CLOSENESS
    assert list(outcome.values()) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("metric", "untested"), [("rms_dta_cm", 1), ("sma_cm2", 0)])
def test_each_reading_is_as_close_as_its_own_table(tables, metric, untested):
    scores, observers = tables
    scores = scores.copy()
    # No distance in one of the printed configurations, which is not tested then.
    scores.loc[(scores["source_task"] == "random") & (scores["n_train"] == 5), "rms_dta_cm"] = np.nan
    table = readings_table(scores, observers, metric)
    assert list(table) == ["metric", "control", "family", "unit", *CLOSENESS, "note"]
    assert (table["note"] == "").all()
    printed = printed_configurations(metric)
    for row in table.to_dict("records"):
        control = control_sample(row["control"], row["metric"], observers=observers, scores=scores)
        tested = dunnett_table(scores, control, row["metric"], family=row["family"], unit=row["unit"])
        both = tested.merge(printed, on=["source_task", "n_train"])
        turned = both["below"] & (both["verdict"] != "") & ((both["marked"] == "worse") != (both["verdict"] == "worse"))
        expected = _compare(*(both[name].to_numpy() for name in ("p_value", "number", "below")), turned.to_numpy())
        # Of nine configurations four are printed.
        assert (row["compared"], row["untested"]) == (4 - untested, untested)
        assert [row[name] for name in CLOSENESS] == pytest.approx(list(expected.values()), nan_ok=True)


def test_the_closest_reading_comes_first(tables):
    table = readings_table(*tables, "dice")
    keys = list(zip(-table["same_verdict"], table["distance"], strict=True))
    assert len(set(keys)) > 2
    assert list(table.index) == list(range(len(table)))
    assert keys == sorted(keys)


def test_without_observers_their_readings_say_so(tables):
    scores, _ = tables
    table = readings_table(scores, metric="smd_difference_hu")
    of_observers = table["control"].isin(["outlines", "image_means"])
    assert of_observers.sum() == 2 * 9
    assert (table["note"] == np.where(of_observers, "n/a: no observers", "")).all()
    assert (table["compared"] == np.where(of_observers, 0, 4)).all() and not table["untested"].any()
    assert (table["distance"].isna() == of_observers).all() and (table["same_verdict"].isna() == of_observers).all()
    # What cannot be compared is last.
    assert list(of_observers) == sorted(of_observers)


def test_a_run_of_other_sizes_cannot_be_compared(tables):
    scores, observers = tables
    other = scores[scores["n_train"] == 30]
    table = readings_table(other, observers)
    assert (table["note"] == "n/a: nothing of this run is printed").all()
    assert not table[["compared", "untested"]].any(axis=None) and table["distance"].isna().all()
