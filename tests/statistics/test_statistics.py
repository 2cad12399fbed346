"""The tests of the paper against scipy, simulation and degenerate input."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_rows import model, observer, stacked

from l3muscle.statistics import (
    beside_paper,
    dunnett,
    dunnett_table,
    learning_curve_table,
    mann_whitney_table,
    observer_band,
    p_text,
    plateau_table,
    reported_p_values,
)


def make_scores(
    means: dict[tuple[str, int], float], models: int = 4, images: int = 10, sd: float = 0.05, seed: int = 0
):
    rng = np.random.default_rng(seed)
    rows = []
    for (task, n), mean in means.items():
        for fold in range(models):
            for image in range(images):
                dice = mean + sd * rng.standard_normal()
                rows.append((task, n, fold, 0, 0, f"P{image}", dice, 1 - dice, 10 * (dice - mean), 0.0, ""))
    names = (
        "source_task n_train fold subset repeat patient_id dice rms_dta_cm smd_difference_hu sma_difference_cm2 failure"
    )
    return pd.DataFrame(rows, columns=names.split())


@pytest.mark.parametrize("seed", range(6))
def test_dunnett_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    samples = [rng.normal(0.3 * k, 1, rng.integers(5, 60)) for k in range(rng.integers(1, 7))]
    control = rng.normal(0, 1, rng.integers(5, 60))
    ours = dunnett(samples, control)
    theirs = stats.dunnett(*samples, control=control, rng=np.random.default_rng(0))
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-10)
    np.testing.assert_allclose(ours.p_value, theirs.pvalue, atol=3e-4)


def test_one_sample_is_the_t_test_far_into_the_tail():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 1.0, 3.0):
        a, b = rng.normal(shift, 1, 40), rng.normal(0, 1, 30)
        expected = stats.ttest_ind(a, b).pvalue
        assert dunnett([a], b).p_value[0] == pytest.approx(expected, rel=1e-6)


def test_published_critical_values():
    # Dunnett 1964, two-sided, joint confidence 95 %: three treatments, 12 degrees of freedom: 2.68; five, 60: 2.58.
    for treatments, per_group, critical in ((3, 4, 2.68), (5, 11, 2.58)):
        base = np.array([-1.0, 1.0] * 50)[:per_group]
        base = (base - base.mean()) / base.std(ddof=1)
        shift = critical * np.sqrt(2 / per_group)
        p = dunnett([base + shift] * treatments, base).p_value
        assert p[0] == pytest.approx(0.05, abs=0.0015)


def test_error_rate_under_the_null_and_power_under_an_effect():
    rng = np.random.default_rng(1)
    wrong = sum(dunnett(rng.normal(size=(4, 12)), rng.normal(size=20)).p_value.min() < 0.05 for _ in range(300))
    assert 5 <= wrong <= 28  # 15 expected
    found = sum(dunnett(rng.normal(1.5, 1, (4, 12)), rng.normal(size=20)).p_value.min() < 0.05 for _ in range(40))
    assert found >= 36


def test_small_p_values_resolve_and_repeat():
    rng = np.random.default_rng(2)
    samples = [rng.normal(m, 1, 500) for m in (1.0, 1.5, 2.0)]
    control = rng.normal(0, 1, 180)
    p = dunnett(samples, control).p_value
    assert (p > 0).all() and p[0] > p[1] > p[2] and p[1] < 1e-60
    assert np.array_equal(p, dunnett(samples, control).p_value)


@pytest.mark.parametrize(
    ("samples", "control", "message"),
    [
        ([[1.0, np.nan]], [1.0, 2.0], "sample 0 holds values that are not finite"),
        ([[1.0, 2.0]], [1.0], "the control has fewer than two"),
        ([[1.0, 1.0]], [1.0, 1.0], "nothing varies"),
        ([], [1.0, 2.0], "no sample"),
    ],
)
def test_dunnett_refuses_what_cannot_be_tested(samples, control, message):
    with pytest.raises(ValueError, match=message):
        dunnett(samples, control)


def test_dunnett_table_marks_better_and_worse():
    scores = make_scores(
        {("random", 5): 0.7, ("random", 10): 0.9, ("segmentation", 5): 0.9, ("segmentation", 10): 0.97}
    )
    control = np.random.default_rng(5).normal(0.9, 0.05, 182)
    table = dunnett_table(scores, control, "dice").set_index(["source_task", "n_train"])
    assert table["verdict"].to_dict() == {
        ("random", 5): "worse",
        ("random", 10): "",
        ("segmentation", 5): "",
        ("segmentation", 10): "better",
    }
    flipped = dunnett_table(scores, 1 - control, "rms_dta_cm").set_index(["source_task", "n_train"])
    assert flipped["verdict"].to_dict() == table["verdict"].to_dict()
    np.testing.assert_allclose(flipped["p_value"], table["p_value"], rtol=1e-9)
    assert (table["n_models"] == 4).all() and (table["n"] == 40).all()


def test_family_decides_the_adjustment():
    scores = make_scores({(t, n): 0.9 for t in ("random", "segmentation") for n in (5, 10, 25)})
    control = np.random.default_rng(5).normal(0.915, 0.05, 182)
    p = {
        family: dunnett_table(scores, control, family=family)["p_value"] for family in ("all", "n_train", "source_task")
    }
    assert (p["all"] >= p["source_task"]).all() and (p["source_task"] >= p["n_train"]).all()


def test_failures_are_counted_and_said():
    scores = make_scores({("random", 5): 0.7, ("random", 10): 0.9})
    failed = scores.index[:3]
    scores.loc[failed, "rms_dta_cm"] = np.nan
    scores.loc[failed, "failure"] = "empty"
    row = dunnett_table(scores, np.linspace(0.05, 0.2, 50), "rms_dta_cm").iloc[0]
    assert row["failures"] == 3 and row["n"] == 37 and row["note"] == "3 failed predictions left out"
    assert learning_curve_table(scores, "rms_dta_cm").iloc[0]["failures"] == 3


def test_a_cell_that_cannot_be_tested_says_why():
    scores = make_scores({("random", 5): 0.7, ("random", 10): 0.9})
    scores.loc[scores["n_train"] == 5, "rms_dta_cm"] = np.nan
    table = dunnett_table(scores, np.linspace(0.05, 0.2, 50), "rms_dta_cm")
    assert np.isnan(table.loc[0, "p_value"]) and table.loc[0, "note"].startswith("n/a")
    assert np.isfinite(table.loc[1, "p_value"])


def test_mann_whitney_is_symmetric_with_a_unit_diagonal():
    scores = make_scores({("random", 5): 0.7, ("segmentation", 5): 0.9, ("jigsaw", 5): 0.9})
    table = mann_whitney_table(scores, "dice", n_train=5)
    assert np.array_equal(table, table.T) and (np.diag(table) == 1).all()
    a, b = (scores[scores["source_task"] == task]["dice"] for task in ("random", "jigsaw"))
    assert table.loc["random", "jigsaw"] == stats.mannwhitneyu(a, b).pvalue < 1e-6


def test_plateau_is_found_where_it_is():
    scores = make_scores({("random", 5): 0.6, ("random", 100): 0.94, ("random", 125): 0.94})
    table = plateau_table(scores, "dice").set_index("n_train")
    assert table.columns.is_unique
    assert table["plateau"].to_dict() == {5: False, 100: True}


def test_learning_curve_interval_covers_as_often_as_it_says():
    rows = learning_curve_table(make_scores({("random", n): 0.9 for n in range(300)}), "dice")
    assert 0.91 <= ((rows["low"] < 0.9) & (rows["high"] > 0.9)).mean() <= 0.99


def test_a_point_of_a_learning_curve_is_the_t_interval_of_its_predictions():
    scores = stacked(
        model([0.5, np.nan, 2.5], "rms_dta_cm", failure=["", "empty", ""]),
        model([1.0, 0.5, 2.0], "rms_dta_cm", fold=1, failure=["other", "", ""]),
        model([0.75], "rms_dta_cm", n=10),
    )
    table = learning_curve_table(scores, "rms_dta_cm")
    assert table.columns.tolist() == [
        *("source_task", "n_train", "n_models", "n", "failures", "empty", "runaway"),
        *("mean", "low", "high", "sd", "mean_with_failures"),
    ]
    first, second = table.to_dict("records")
    values = [0.5, 2.5, 1.0, 0.5, 2.0]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (first["source_task"], first["n_train"], first["n_models"], first["n"]) == ("random", 5, 2, 5)
    assert (first["failures"], first["empty"], first["runaway"]) == (3, 1, 1)
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((1.3, low, high))
    assert first["sd"] == pytest.approx(np.std(values, ddof=1))
    # The image that has no outline of one model has one of 0.5 cm of the other.
    assert first["mean_with_failures"] == pytest.approx(7 / 6)
    assert learning_curve_table(scores, "rms_dta_cm", failures="worst")["mean"][0] == pytest.approx(7 / 6)
    half = learning_curve_table(scores, "rms_dta_cm", level=0.5)
    assert (half["low"][0], half["high"][0]) == pytest.approx(stats.t.interval(0.5, 4, 1.3, stats.sem(values)))
    # One value has a mean and no interval.
    assert (second["n"], second["mean"], second["mean_with_failures"]) == (1, 0.75, 0.75)
    assert np.isnan([second["low"], second["high"], second["sd"]]).all()


@pytest.mark.filterwarnings("error")
def test_two_values_have_an_interval_and_none_have_no_mean():
    row = learning_curve_table(model([0.5, 1.0])).iloc[0]
    assert row["sd"] == pytest.approx(0.5**0.5 / 2)
    assert [row["low"], row["high"]] == pytest.approx([0.75 - 0.25 * 12.7062, 0.75 + 0.25 * 12.7062], rel=1e-5)
    row = learning_curve_table(model([np.nan, np.nan], failure="empty")).iloc[0]
    assert row["n"] == 0 and row["empty"] == 2
    assert row[["mean", "low", "high", "sd", "mean_with_failures"]].isna().all()


def test_a_learning_curve_refuses_what_the_tests_refuse():
    with pytest.raises(ValueError, match="rows twice"):
        learning_curve_table(stacked(model([0.5]), model([0.5])))


def test_observer_band_weighs_images_not_outlines():
    table = pd.DataFrame({"patient_id": ["a"] * 4 + ["b"] * 5, "dice": [0.8] * 4 + [0.9] * 5})
    band = observer_band(table, "dice")
    assert band.mean == pytest.approx(0.85) and band.standard_error == pytest.approx(0.05)


def test_an_observer_band_is_the_standard_error_over_known_images():
    table = stacked(observer([0.5, 0.75, np.nan, 0.9]), observer([0.7, np.nan, np.nan, 0.9], name="o2"))
    band = observer_band(table)
    # Means by image of 0.6, 0.75 and 0.9: their standard deviation is 0.15.
    assert band.mean == pytest.approx(0.75) and band.standard_error == pytest.approx(0.15 / 3**0.5)
    assert {type(band.mean), type(band.standard_error)} == {float}
    other = observer_band(table.rename(columns={"dice": "rms_dta_cm"}), "rms_dta_cm")
    assert other == band
    assert observer_band(table[:0]) is None
    with pytest.raises(ValueError, match="unknown metric"):
        observer_band(table[:0], "jaccard")


def test_reported_values_lie_beside_ours():
    reported = reported_p_values()
    assert len(reported) == 35 * 4 + 7 * 25
    scores = make_scores({(t, n): 0.9 for t in ("random", "segmentation") for n in (5, 10, 30)})
    table = dunnett_table(scores, np.random.default_rng(0).normal(0.9, 0.05, 100))
    text = beside_paper(table, "dice", {"random": "random", "segmentation": "segmentation (procedural)"})
    assert text.loc[0, "n = 5"] == "<u>< 0.001</u>" and text.loc[2, "n = 5"] == "0.999"
    assert text.loc[0, "n = 30"] == "–"
    assert text["values"].tolist() == ["paper", "this run"] * 2
    kept = beside_paper(table, "dice", {"random": "random", "segmentation": "segmentation"}, ours="archive")
    assert kept["values"].tolist() == ["paper", "archive"] * 2


@pytest.mark.parametrize(("p", "text"), [(0.0009, "p < 0.001"), (0.001, "0.001"), (1.0, "1.000"), (np.nan, "n/a")])
def test_p_values_read_as_in_the_paper(p, text):
    assert p_text(p) == text


def test_unknown_names_are_refused():
    scores = make_scores({("random", 5): 0.7})
    with pytest.raises(ValueError, match="unknown metric"):
        dunnett_table(scores, np.zeros(3), "jaccard")
    with pytest.raises(ValueError, match="unknown family"):
        dunnett_table(scores, np.zeros(3), family="some")
