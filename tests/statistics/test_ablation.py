"""What augmentation is worth, on pairs of models whose answer is worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_rows import model, stacked

from l3muscle.statistics import ablation_table
from l3muscle.statistics.bootstrap import Bootstrap, estimate

NAN = np.nan
COLUMNS = [
    *("source_task", "n_train", "n_pairs", "n", "failures_with", "failures_without", "mean_with", "mean_without"),
    *("difference", "low", "high", "p_raw", "p_value", "verdict", "note"),
]
WITH = [0.80, 0.90, 0.85, 0.75]
GAINED = np.array([0.01, 0.03, 0.02, 0.05])


def test_one_pair_of_models_is_drawn_over_images_and_tested_as_a_paired_t_test():
    table = ablation_table(model(WITH), model(WITH - GAINED))
    assert table.columns.tolist() == COLUMNS
    row = table.iloc[0]
    assert row["difference"] == pytest.approx(0.0275)
    assert row["p_raw"] == row["p_value"] == pytest.approx(stats.ttest_1samp(GAINED, 0).pvalue, rel=0.05)
    assert (row["mean_with"], row["mean_without"]) == pytest.approx((0.825, 0.7975))
    assert (row["source_task"], row["n_train"], row["n_pairs"], row["n"]) == ("random", 5, 1, 4)
    assert (row["failures_with"], row["failures_without"], row["verdict"]) == (0, 0, "")
    assert row["note"] == "one pair of models: the interval is over images only"


def several() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three pairs of models, the second table in another order."""
    rng = np.random.default_rng(0)
    without = [model(0.7 + 0.1 * rng.random(6), fold=fold) for fold in range(3)]
    with_ = [one.assign(dice=one["dice"] + 0.03 + 0.002 * rng.normal(size=6)) for one in without]
    return stacked(*with_), stacked(*without).sample(frac=1, random_state=0)


def test_several_pairs_are_drawn_with_their_images():
    with_, without = several()
    row = ablation_table(with_, without).iloc[0]
    by_model = (table.pivot(index="fold", columns="patient_id", values="dice") for table in (with_, without))
    differences = (next(by_model) - next(by_model)).to_numpy()
    expected = estimate(Bootstrap(6).draw(differences, "random", 5))
    # Every model has every image, so that the estimate is the plain mean.
    assert row["difference"] == pytest.approx(differences.mean())
    assert [row["low"], row["high"], row["p_raw"]] == pytest.approx([expected.low, expected.high, expected.p_value])
    assert row["low"] < 0.03 < row["high"]
    assert (row["n_pairs"], row["n"], row["note"], row["verdict"]) == (3, 18, "", "better")
    assert row["mean_with"] - row["mean_without"] == pytest.approx(row["difference"])


@pytest.mark.parametrize(
    ("metric", "more", "less"),
    [
        ("dice", "better", "worse"),
        ("rms_dta_cm", "worse", "better"),
        ("smd_difference_hu", "different", "different"),
        ("sma_cm2", "different", "different"),
    ],
)
def test_augmentation_helps_by_the_side_of_the_measure(metric, more, less):
    high, low = (table.rename(columns={"dice": metric}) for table in several())
    one, other = ablation_table(high, low, metric).iloc[0], ablation_table(low, high, metric).iloc[0]
    assert (one["verdict"], other["verdict"]) == (more, less)
    assert [other["difference"], other["low"], other["high"]] == pytest.approx(
        [-one["difference"], -one["high"], -one["low"]]
    )


def test_configurations_of_both_tables_are_corrected_together():
    pairs = [(5, GAINED), (10, GAINED - 0.02), (25, -GAINED)]
    with_ = stacked(*(model(WITH, n=n) for n, _ in pairs), model(WITH, task="jigsaw"))
    without = stacked(model(WITH, n=50), *(model(WITH - gained, n=n) for n, gained in pairs))
    table = ablation_table(with_, without)
    assert table["n_train"].tolist() == [5, 10, 25] and set(table["source_task"]) == {"random"}
    raw = table["p_raw"].to_numpy()
    assert raw == pytest.approx([stats.ttest_1samp(gained, 0).pvalue for _, gained in pairs], rel=0.1)
    # Holm: the smallest times three, the next times two; none below the one before, none above one.
    assert raw[0] == raw[2] < raw[1]
    assert table["p_value"].to_numpy() == pytest.approx([3 * raw[0], min(max(raw[1], 3 * raw[0]), 1), 3 * raw[2]])
    assert ablation_table(with_, without, alpha=2 * raw[0])["verdict"].tolist() == ["", "", ""]
    plain = ablation_table(with_, without, alpha=2 * raw[0], correction="none")
    assert plain["p_value"].to_numpy() == pytest.approx(raw)
    assert plain["verdict"].tolist() == ["better", "", "worse"]


def test_models_and_predictions_without_a_partner_are_left_out():
    with_ = stacked(model([0.9, 0.8, 0.7, 0.6]), model([0.9, 0.8, 0.7, 0.65], fold=1), model([0.1] * 4, fold=2))
    without = stacked(
        model([0.85, NAN, 0.6, 0.5], failure=["", "other", "", ""]),
        model([0.8, 0.77, NAN, 0.6], fold=1, failure=["", "", "other", ""]),
        model([0.1] * 4, fold=3),
        model([0.1] * 4, fold=4),
    )
    row = ablation_table(with_, without).iloc[0]
    assert (row["n_pairs"], row["n"], row["failures_with"], row["failures_without"]) == (2, 6, 0, 2)
    assert row["note"] == "3 models without a partner left out; 2 failed pairs left out"
    assert row["mean_with"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.9 + 0.8 + 0.65) / 6)
    assert row["mean_without"] == pytest.approx((0.85 + 0.6 + 0.5 + 0.8 + 0.77 + 0.6) / 6)
    single = ablation_table(with_.query("fold != 1"), without).iloc[0]
    assert (single["n_pairs"], single["n"]) == (1, 3)
    assert single["note"] == (
        "4 models without a partner left out; 1 failed pairs left out; "
        "one pair of models: the interval is over images only"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("gained", "note", "n"),
    [
        ([0.01, 0.02, NAN, NAN], "n/a: fewer than 3 images", 2),
        ([0.25, 0.25, 0.25, NAN], "n/a: nothing varies", 3),
        ([NAN] * 4, "n/a: no values", 0),
    ],
)
def test_a_pair_that_cannot_be_tested_has_means_and_a_reason(gained, note, n):
    values = np.array([1.0, 0.5, 0.75, 0.25])
    row = ablation_table(model(values), model(values - gained)).iloc[0]
    assert row["note"] == note and row["n"] == n and row["verdict"] == ""
    assert row[["difference", "low", "high", "p_raw", "p_value"]].isna().all()
    known = ~np.isnan(gained)
    if n:
        assert row["mean_with"] == pytest.approx(values[known].mean())
        assert row["mean_without"] == pytest.approx((values - gained)[known].mean())
    else:
        assert np.isnan(row["mean_with"]) and np.isnan(row["mean_without"])


def test_tables_without_a_common_experiment_are_refused():
    with pytest.raises(ValueError, match=r"^the two score tables share no experiment$"):
        ablation_table(model(WITH), model(WITH, fold=1))
    doubled = stacked(model(WITH), model(WITH))
    for tables in ((doubled, model(WITH)), (model(WITH), doubled)):
        with pytest.raises(ValueError, match="rows twice"):
            ablation_table(*tables)
    with pytest.raises(ValueError, match="unknown metric"):
        ablation_table(model(WITH), model(WITH), "jaccard")
    with pytest.raises(ValueError, match="unknown correction"):
        ablation_table(model(WITH), model(WITH - GAINED), correction="some")
