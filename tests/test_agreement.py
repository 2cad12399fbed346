"""Bland-Altman, concordance and equivalence against formulas written out here."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from l3muscle.statistics import agreement_table, bland_altman_points, lin_concordance

IMAGES = 24


@pytest.fixture
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    expert = rng.uniform(90, 190, IMAGES)
    parts = []
    for n_train, bias in ((5, -25.0), (10, 1.0)):
        for fold in range(3):
            difference = bias + rng.normal(0, 4, IMAGES)
            parts.append(
                pd.DataFrame(
                    {
                        "source_task": "random",
                        "n_train": n_train,
                        "fold": fold,
                        "subset": 0,
                        "repeat": 0,
                        "patient_id": [f"p{i}" for i in range(IMAGES)],
                        "dice": 0.9,
                        "rms_dta_cm": 0.3,
                        "sma_cm2": expert + difference,
                        "smd_hu": 30.0 + difference,
                        "sma_difference_cm2": difference,
                        "smd_difference_hu": difference,
                        "failure": "",
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def image_means(scores: pd.DataFrame, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    own = scores[scores["n_train"] == n_train].groupby("patient_id")
    measured = own["sma_cm2"].mean().to_numpy()
    return measured, measured - own["sma_difference_cm2"].mean().to_numpy()


def test_bias_and_limits_are_those_of_the_image_means(scores):
    table = agreement_table(scores, "sma_cm2").set_index("n_train")
    for n_train in (5, 10):
        measured, expert = image_means(scores, n_train)
        difference = measured - expert
        row = table.loc[n_train]
        assert row["bias"] == pytest.approx(difference.mean())
        spread = 1.959964 * difference.std(ddof=1)
        assert row["lower_limit"] == pytest.approx(difference.mean() - spread, abs=1e-4)
        assert row["upper_limit"] == pytest.approx(difference.mean() + spread, abs=1e-4)
        low, high = stats.t.interval(0.95, IMAGES - 1, difference.mean(), stats.sem(difference))
        assert (row["bias_low"], row["bias_high"]) == pytest.approx((low, high))


def test_equivalence_takes_the_worse_of_two_one_sided_tests(scores):
    table = agreement_table(scores, "sma_cm2").set_index("n_train")
    for n_train, equivalent in ((5, False), (10, True)):
        measured, expert = image_means(scores, n_train)
        difference = measured - expert
        above = stats.ttest_1samp(difference, -10, alternative="greater").pvalue
        below = stats.ttest_1samp(difference, 10, alternative="less").pvalue
        assert table.loc[n_train, "tost_p"] == pytest.approx(max(above, below))
        assert bool(table.loc[n_train, "equivalent"]) is equivalent


def test_concordance_is_correlation_times_accuracy(scores):
    measured, expert = image_means(scores, 5)
    found, low, high = lin_concordance(measured, expert)
    r = stats.pearsonr(measured, expert).statistic
    v, u = measured.std() / expert.std(), (measured.mean() - expert.mean()) / np.sqrt(measured.std() * expert.std())
    assert found == pytest.approx(r * 2 / (v + 1 / v + u**2))
    assert low < found < high
    assert lin_concordance(expert, expert)[0] == pytest.approx(1)


def test_the_interval_of_the_concordance_covers_as_often_as_it_says():
    # Two standard normals of correlation 0.9 with equal means and variances have a concordance of 0.9.
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        a = rng.normal(size=60)
        b = 0.9 * a + np.sqrt(1 - 0.81) * rng.normal(size=60)
        _, low, high = lin_concordance(a, b)
        hits += low < 0.9 < high
    assert 0.91 <= hits / 400 <= 0.98


def test_points_lie_where_bland_and_altman_put_them(scores):
    points = bland_altman_points(scores, "sma_cm2").query("n_train == 10").set_index("patient_id").sort_index()
    measured, expert = image_means(scores, 10)
    assert points["difference"].to_numpy() == pytest.approx(measured - expert)
    assert points["mean"].to_numpy() == pytest.approx((measured + expert) / 2)


def test_too_few_images_say_so_and_a_bad_margin_is_refused(scores):
    few = scores[scores["patient_id"].isin(["p0", "p1"])]
    table = agreement_table(few, "sma_cm2")
    assert table["note"].str.startswith("n/a").all() and table["tost_p"].isna().all()
    with pytest.raises(ValueError, match="margin"):
        agreement_table(scores, "sma_cm2", margin=0)
