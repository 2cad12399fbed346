"""Bland-Altman, concordance and equivalence against formulas written out here."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import approx_fprime

from l3muscle.statistics import agreement_table, bland_altman_points
from l3muscle.statistics.agreement import lin_concordance
from l3muscle.statistics.score_table import NoTest

IMAGES = 24
Z = stats.norm.ppf(0.975)


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


@pytest.fixture
def observers(scores) -> pd.DataFrame:
    expert = scores[scores["fold"] == 0].drop_duplicates("patient_id")
    expert = (expert["sma_cm2"] - expert["sma_difference_cm2"]).to_numpy()
    rng = np.random.default_rng(7)
    parts = []
    for observer in range(4):
        difference = 3 + rng.normal(0, 6, IMAGES)
        keys = {"observer": f"o{observer}", "patient_id": [f"p{i}" for i in range(IMAGES)], "failure": ""}
        parts.append(pd.DataFrame(keys | {"sma_cm2": expert + difference, "sma_difference_cm2": difference}))
    return pd.concat(parts, ignore_index=True)


def image_means(scores: pd.DataFrame, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    of_images = scores[scores["n_train"] == n_train].groupby("patient_id")
    measured = of_images["sma_cm2"].mean().to_numpy()
    return measured, measured - of_images["sma_difference_cm2"].mean().to_numpy()


def test_concordance_is_correlation_times_accuracy(scores):
    measured, expert = image_means(scores, 5)
    concordance, low, high = lin_concordance(measured, expert)
    r = stats.pearsonr(measured, expert).statistic
    v, u = measured.std() / expert.std(), (measured.mean() - expert.mean()) / np.sqrt(measured.std() * expert.std())
    assert concordance == pytest.approx(r * 2 / (v + 1 / v + u**2)) and low < concordance < high
    assert lin_concordance(expert, expert)[0] == pytest.approx(1)


def differences(rows: pd.DataFrame, rater: str = "fold", column: str = "sma_difference_cm2") -> pd.DataFrame:
    """Raters by images, in the order of the images' names."""
    return rows.pivot(index=rater, columns="patient_id", values=column)


def experts(rows: pd.DataFrame) -> np.ndarray:
    return (rows["sma_cm2"] - rows["sma_difference_cm2"]).groupby(rows["patient_id"]).mean().to_numpy()


def expected_of_means(difference: np.ndarray, expert: np.ndarray, margin: float) -> dict[str, float]:
    """One pair an image: Bland and Altman 1999, Lin 1989, Schuirmann 1987."""
    n, mean, sd = difference.size, difference.mean(), difference.std(ddof=1)
    t = stats.t.ppf(0.975, n - 1)
    of_bias, of_limit = t * sd / np.sqrt(n), t * sd * np.sqrt(1 / n + Z**2 / (2 * (n - 1)))
    ccc, ccc_low, ccc_high = lin_concordance(difference + expert, expert)
    above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
    found = {"sd": sd, "ccc": ccc, "ccc_low": ccc_low, "ccc_high": ccc_high, "tost_p": max(above, below)}
    for name, at, half in (
        ("bias", mean, of_bias),
        ("lower_limit", mean - Z * sd, of_limit),
        ("upper_limit", mean + Z * sd, of_limit),
    ):
        found |= {name: at, f"{name}_low": at - half, f"{name}_high": at + half}
    return found


@pytest.mark.parametrize("gaps", [False, True])
def test_every_column_is_what_its_formula_says(scores, observers, gaps):
    images, expert = sorted(set(observers["patient_id"])), experts(observers)
    if gaps:
        # Observers have outlined one image less and one that no model has seen; the smaller models one image less,
        # and one of them another.
        observers["patient_id"] = observers["patient_id"].replace("p6", "unseen")
        gone = (scores["n_train"] == 5) & (scores["patient_id"] == "p3")
        scores.loc[gone | (scores.index == 1), ["sma_cm2", "sma_difference_cm2"]] = np.nan
    table = agreement_table(scores, "sma_cm2", observers=observers)
    assert (table["margin"] == 10.0).all()
    raters = [(differences(own), 3) for _, own in scores.groupby("n_train")] + [(differences(observers, "observer"), 4)]
    for row, (matrix, models) in zip(table.to_dict("records"), raters, strict=True):
        matrix = matrix.reindex(columns=images)
        known = matrix.notna().any().to_numpy()
        values = matrix.to_numpy()[:, known]
        expected = expected_of_means(np.nanmean(values, 0), expert[known], 10.0)
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        assert row["equivalent"] == (expected["tost_p"] < 0.05)
        assert (row["n_models"], row["n_images"]) == (models, known.sum())
        assert row["n"] == np.isfinite(values).sum() and row["note"] == ""


def test_a_table_says_whose_row_it_is(scores, observers):
    observers.loc[:1, "failure"] = "empty"
    table = agreement_table(scores, observers=observers)
    assert table["source_task"].tolist() == ["random", "random", "observers"]
    assert table["n_train"].tolist() == [5, 10, pd.NA] and table["n_train"].dtype == "Int64"
    assert table["equivalent"].dtype == "boolean"
    assert table[["failures", "empty", "gross"]].to_numpy().tolist() == [[0, 0, 0], [0, 0, 0], [2, 2, 0]]
    without = agreement_table(scores, observers=observers.drop(columns="failure"))
    assert without[["failures", "empty", "gross"]].iloc[2].tolist() == [0, 0, 0]
    intervals = [f"{of}{end}" for of in ("bias", "lower_limit", "upper_limit", "ccc") for end in ("", "_low", "_high")]
    assert set(table.columns) == {
        *("source_task", "n_train", "n_models", "n_images", "n", "failures", "empty", "gross"),
        *intervals,
        *("sd", "tost_p", "margin", "equivalent", "note"),
    }


@pytest.mark.parametrize(("measure", "note"), [("smd_hu", True), ("sma_cm2", False)])
def test_an_empty_outline_has_an_area_but_no_density(scores, measure, note):
    empty = scores.index[:2]
    scores.loc[empty, "failure"] = "empty"
    scores.loc[empty, ["smd_hu", "smd_difference_hu"]] = np.nan
    table = agreement_table(scores, measure)
    assert table["empty"].tolist() == [2, 0]
    assert table["n"].tolist() == [3 * IMAGES - 2 * note, 3 * IMAGES]
    told = "2 failed predictions have no SMD and are left out"
    assert table["note"].tolist() == [told if note else "", ""]


def test_three_images_are_enough_and_two_are_not(scores):
    some = [scores[scores["patient_id"].isin([f"p{i}" for i in range(count)])] for count in (2, 3)]
    few, enough = (agreement_table(rows) for rows in some)
    assert (few["note"] == "n/a: fewer than 3 images").all()
    assert few[["bias", "sd", "ccc", "tost_p", "equivalent"]].isna().all(axis=None)
    assert enough["tost_p"].notna().all() and (enough["note"] == "").all()


def test_a_constant_difference_has_no_limits(scores):
    same = scores.assign(sma_cm2=scores["sma_cm2"] - scores["sma_difference_cm2"] + 2.0, sma_difference_cm2=2.0)
    table = agreement_table(same)
    assert (table["note"] == "n/a: the differences do not vary").all() and table["bias"].isna().all()


@pytest.mark.parametrize("measure", ["dice", "sma_difference_cm2"])
def test_what_cannot_be_meant_is_refused(scores, measure):
    for table in (agreement_table, bland_altman_points):
        with pytest.raises(ValueError, match=f"unknown measure '{measure}'"):
            table(scores, measure)


def moments_variance(a: np.ndarray, b: np.ndarray) -> float:
    """Variance of arctanh of the concordance by the delta method on the moments of two normals, n - 2 for n."""
    at = np.array([a.mean(), b.mean(), a.var(), b.var(), np.cov(a, b, ddof=0)[0, 1]])
    sigma = np.array([[at[2], at[4]], [at[4], at[3]]])
    pairs = [(0, 0), (1, 1), (0, 1)]
    covariance = np.zeros((5, 5))
    covariance[:2, :2] = sigma
    covariance[2:, 2:] = [[sigma[i, k] * sigma[j, m] + sigma[i, m] * sigma[j, k] for k, m in pairs] for i, j in pairs]
    slope = approx_fprime(at, lambda m: np.arctanh(2 * m[4] / (m[2] + m[3] + (m[0] - m[1]) ** 2)), 1e-7)
    return slope @ covariance @ slope / (a.size - 2)


@pytest.mark.parametrize(("shift", "scale", "sign"), [(0.0, 1.0, 1), (1.5, 1.0, 1), (-0.7, 2.0, 1), (0.4, 0.6, -1)])
@pytest.mark.parametrize("n", [4, 30])
def test_the_interval_of_the_concordance_is_that_of_its_moments(shift, scale, sign, n):
    rng = np.random.default_rng(n)
    a = rng.normal(size=n)
    b = shift + sign * scale * (a + rng.normal(0, 0.5, n))
    found, low, high = lin_concordance(a, b)
    half = Z * np.sqrt(moments_variance(a, b))
    assert found * sign > 0
    assert np.arctanh([low, high]) == pytest.approx(np.arctanh(found) + half * np.array([-1, 1]), rel=1e-4)
    assert lin_concordance(a, b) == pytest.approx(lin_concordance(b, a))
    assert lin_concordance(a, b) == pytest.approx(lin_concordance(10 * a + 3, 10 * b + 3))
    assert lin_concordance(list(a), list(b)) == lin_concordance(a, b)


@pytest.mark.parametrize(
    ("a", "b", "concordance"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 1.0),
        ([-2, -1, 0, 1, 2], [2, 1, 0, -1, -2], -1.0),
        ([1, 2, 3, 4], [5, 5, 5, 5], 0.0),
        # Not correlated: each of the second's values goes with the first's mean.
        ([1, 2, 1, 2], [1, 1, 2, 2], 0.0),
        # Three pairs: 2 (2/3) / (2/3 + 2/3 + 1).
        ([1, 2, 3], [2, 3, 4], 4 / 7),
        # Two: 2 (1/4) / (1/4 + 1/4 + 1).
        ([1, 2], [2, 3], 1 / 3),
        # The same value once more and again: the means differ, nothing else.
        ([1, 1, 1, 1], [2, 2, 2, 2], 0.0),
    ],
)
def test_a_concordance_without_an_interval(a, b, concordance):
    found, low, high = lin_concordance(np.array(a), np.array(b))
    assert found == pytest.approx(concordance) and np.isnan([low, high]).all()


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0]), ([3.0, 3.0], [3.0, 3.0])])
def test_there_is_no_concordance_where_nothing_varies(a, b):
    with pytest.raises(NoTest, match="nothing varies"):
        lin_concordance(np.array(a), np.array(b))


def test_a_point_of_an_image_is_the_mean_of_the_predictions_that_it_has(scores):
    scores.loc[4, ["sma_cm2", "sma_difference_cm2"]] = np.nan
    points = bland_altman_points(scores)
    assert points.columns.tolist() == [
        *("source_task", "n_train", "patient_id", "expert", "measured", "mean", "difference")
    ]
    # In the order of the table.
    assert points["patient_id"].tolist()[:4] == ["p0", "p1", "p2", "p3"] and len(points) == 2 * IMAGES
    measured, expert = image_means(scores, 5)
    at_5 = points[points["n_train"] == 5].sort_values("patient_id")
    assert at_5["difference"].to_numpy() == pytest.approx(measured - expert)
    assert at_5["mean"].to_numpy() == pytest.approx((measured + expert) / 2)


def test_observers_have_points_too(observers):
    points = bland_altman_points(observers, "sma_cm2")
    assert (points["source_task"] == "observers").all() and points["n_train"].isna().all()
    assert len(points) == IMAGES
    assert points["difference"].mean() == pytest.approx(observers["sma_difference_cm2"].mean())
