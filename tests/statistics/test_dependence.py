"""Tests that know that predictions share images and models, on tables whose answer is known."""

import inspect

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from l3muscle.statistics import (
    ablation_table,
    dunnett_table,
    hierarchical_bootstrap_table,
    mann_whitney_pairs,
    mixed_model_pairs,
    mixed_model_table,
    readings_table,
    reported_p_values,
    slices_needed_table,
    surviving_pair_stars,
    surviving_stars,
)
from l3muscle.statistics.crossed import TooFew, fit_difference, fit_mean
from l3muscle.statistics.dependence import Resampled, draw_weights, mean_of_means, rater_means

IMAGES = 20


def measured(dice: np.ndarray, **keys) -> pd.DataFrame:
    """Scores of one rater, all measures going with its Dice."""
    patients = [f"p{i}" for i in range(IMAGES)]
    same = dict.fromkeys(("dice", "smd_difference_hu", "sma_difference_cm2"), dice)
    others = {"rms_dta_cm": 1.2 - dice, "smd_hu": 30 + dice, "sma_cm2": 150 + dice, "failure": ""}
    return pd.DataFrame({**keys, "patient_id": patients, **same, **others})


def table(rng: np.random.Generator, means: dict[int, float], *, image: np.ndarray, model_sd: float) -> pd.DataFrame:
    """Scores of one source task with 8 models a size: mean + image + model + noise."""
    rows = []
    for n_train, mean in means.items():
        for fold in range(4):
            for repeat in range(2):
                dice = mean + image + rng.normal(0, model_sd) + rng.normal(0, 0.005, IMAGES)
                keys = {"source_task": "random", "n_train": n_train, "fold": fold, "subset": 0, "repeat": repeat}
                rows.append(measured(dice, **keys))
    return pd.concat(rows, ignore_index=True)


def observers(rng: np.random.Generator, *, image: np.ndarray) -> pd.DataFrame:
    rows = [measured(0.9 + image + rng.normal(0, 0.005, IMAGES), observer=f"o{observer}") for observer in range(4)]
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.02, IMAGES)
    scores = table(rng, {5: 0.80, 10: 0.86, 25: 0.94}, image=image, model_sd=0.002)
    return scores, observers(rng, image=image)


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_a_clear_difference_is_found_with_its_size(known, test):
    scores, control = known
    found = test(scores, control, "dice").set_index("n_train")
    assert list(found["verdict"]) == ["worse", "worse", "better"]
    for n_train, mean in ((5, 0.80), (10, 0.86), (25, 0.94)):
        assert found.loc[n_train, "low"] < mean - 0.9 < found.loc[n_train, "high"]


def test_models_that_scatter_as_wholes_are_no_evidence_where_the_naive_test_sees_some():
    naive, mixed = 0, 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 0.001, IMAGES)
        scores = table(rng, {5: 0.9, 10: 0.9}, image=image, model_sd=0.02)
        control = observers(rng, image=image)
        naive += (dunnett_table(scores, control, "dice", alpha=0.05)["verdict"] != "").any()
        mixed += (mixed_model_table(scores, control, "dice", alpha=0.05)["verdict"] != "").any()
    assert naive >= 3 and mixed <= 1


def test_the_order_of_the_rows_does_not_matter(known):
    scores, control = known
    shuffled = scores.sample(frac=1, random_state=3)
    first, second = (
        mixed_model_table(s, control, "dice").sort_values("n_train").reset_index(drop=True) for s in (scores, shuffled)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-6)


def test_the_bootstrap_repeats(known):
    first, second = (hierarchical_bootstrap_table(*known, "dice") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_stars_of_clear_differences_survive(known):
    table_ = surviving_stars(*known, "dice").set_index("n_train")
    assert table_.loc[25, "survives_mixed"] and table_.loc[25, "survives_bootstrap"]


def test_the_slices_needed_lie_where_the_curve_crosses_the_observers(known):
    row = slices_needed_table(*known, "dice").iloc[0]
    # Half-way between 10 and 25 on the logarithmic axis, as 0.90 lies half-way between 0.86 and 0.94.
    assert row["low"] < np.sqrt(10 * 25) < row["high"]
    assert row["needed"] == pytest.approx(np.sqrt(10 * 25), rel=0.1)


def test_an_ablation_gives_back_the_shift(known):
    scores, _ = known
    rng = np.random.default_rng(1)
    without = scores.assign(dice=scores["dice"] - 0.03 + rng.normal(0, 0.001, len(scores)))
    found = ablation_table(scores, without, "dice")
    assert found["difference"].to_numpy() == pytest.approx(0.03, abs=0.002)
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()


def test_readings_come_closest_first(known):
    distances = readings_table(*known)["distance"].dropna()
    assert len(distances) > 4 and distances.is_monotonic_increasing


def test_an_unknown_measure_is_refused(known):
    with pytest.raises(ValueError, match="metric"):
        mixed_model_table(*known, "hausdorff")


COUNTS = ["source_task", "n_train", "n_models", "n", "failures", "empty", "runaway"]
TESTED = ["difference", "standard_error", "degrees", "low", "high"]


def as_matrix(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Raters by images, in the order of the images' names."""
    raters = ["observer"] if "observer" in rows else ["fold", "subset", "repeat"]
    return rows.pivot(index=raters, columns="patient_id", values=metric).to_numpy()


@pytest.fixture
def close() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sizes that differ from the observers by little, so that p-values are neither 0 nor 1."""
    rng = np.random.default_rng(4)
    image = rng.normal(0, 0.02, IMAGES)
    scores = table(rng, {25: 0.905, 5: 0.89, 10: 0.897}, image=image, model_sd=0.005)
    control = observers(rng, image=image)
    for rows in (scores, control):
        # No measure is another's mirror image.
        rows["rms_dta_cm"] += rng.normal(0, 0.002, len(rows))
    return scores, control


@pytest.mark.parametrize(("metric", "level"), [("dice", 0.95), ("rms_dta_cm", 0.8)])
def test_the_mixed_model_table_holds_the_fits_against_the_observers(close, metric, level):
    scores, control = close
    # Some images are harder for models than for observers.
    hard = dict(enumerate(np.random.default_rng(0).normal(0, 0.01, IMAGES)))
    scores[metric] += scores["patient_id"].str[1:].astype(int).map(hard)
    found = mixed_model_table(scores, control, metric, level=level)
    assert found.columns.tolist() == [
        *(COUNTS + TESTED),
        *("image_share", "model_share", "p_raw", "p_value", "verdict", "note"),
    ]
    assert found["n_train"].tolist() == [5, 10, 25] and (found["source_task"] == "random").all()
    assert (found["n_models"] == 8).all() and (found["n"] == 8 * IMAGES).all()
    assert (found[["failures", "empty", "runaway"]] == 0).all(axis=None) and (found["note"] == "").all()
    for row in found.itertuples():
        fit = fit_difference(as_matrix(scores[scores["n_train"] == row.n_train], metric), as_matrix(control, metric))
        values = (row.difference, row.standard_error, row.degrees, row.low, row.high, row.p_raw)
        expected = (fit.estimate, fit.standard_error, fit.degrees, *fit.interval(level), fit.p_value)
        assert values == pytest.approx(expected, rel=1e-6)
        assert fit.variances["image in models"] > fit.variances["residual"]
        image = fit.variances["image"] + fit.variances["image in models"]
        total = image + fit.variances["models"] + fit.variances["residual"]
        assert row.image_share == pytest.approx(image / total)
        assert row.model_share == pytest.approx(fit.variances["models"] / total)
    # Holm: the smallest times 3, the next times 2, none smaller than the one before.
    p = np.sort(found["p_raw"])
    holm = np.minimum(np.maximum.accumulate(p * [3, 2, 1]), 1)
    assert found["p_value"].tolist() == pytest.approx(holm[found["p_raw"].rank().astype(int) - 1].tolist())


@pytest.mark.parametrize("given", [False, True])
def test_a_difference_from_the_expert_needs_no_observers(given, close):
    scores, control = close
    scores = scores.assign(sma_difference_cm2=scores["sma_difference_cm2"] - 0.897)
    found = mixed_model_table(scores, control if given else None, "sma_difference_cm2").set_index("n_train")
    for n_train, row in found.iterrows():
        fit = fit_mean(as_matrix(scores[scores["n_train"] == n_train], "sma_difference_cm2"))
        expected = (fit.estimate, fit.standard_error, fit.degrees, *fit.interval(), fit.p_value)
        assert tuple(row[[*TESTED, "p_raw"]]) == pytest.approx(expected)
        shares = np.array([fit.variances["image"], fit.variances["rater"]]) / sum(fit.variances.values())
        assert tuple(row[["image_share", "model_share"]]) == pytest.approx(shares)


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
@pytest.mark.parametrize(
    ("metric", "verdicts"),
    [
        ("dice", ["worse", "worse", "better"]),
        # The further from the expert the worse, on either side; and a greater distance is worse.
        ("rms_dta_cm", ["worse", "worse", "better"]),
        ("sma_difference_cm2", ["worse", "", "worse"]),
    ],
)
def test_verdicts_know_which_side_is_better(known, test, metric, verdicts):
    scores, control = known
    image = scores.groupby("patient_id")["dice"].transform("mean")
    scores = scores.assign(
        sma_difference_cm2=scores["dice"] - image - scores.loc[scores["n_train"] == 10, "dice"].mean()
    )
    scores["sma_difference_cm2"] += scores["dice"].mean()
    found = test(scores, control, metric, correction="none")
    assert found["verdict"].tolist() == verdicts


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_a_verdict_needs_a_corrected_p_value_below_alpha(close, test):
    raw = test(*close, "dice", correction="none")
    assert (raw["p_value"] == raw["p_raw"]).all()
    p = 3 * raw["p_raw"][1]
    found = test(*close, "dice", correction="bonferroni", alpha=p)
    assert found["p_value"].tolist() == pytest.approx(np.minimum(3 * raw["p_raw"], 1).tolist())
    assert found["verdict"][1] == ""
    assert test(*close, "dice", correction="bonferroni", alpha=np.nextafter(p, 1))["verdict"][1] == "worse"


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_a_cell_of_one_model_has_no_test_and_does_not_count_in_the_correction(close, test):
    scores, control = close
    single = scores[(scores["n_train"] != 10) | ((scores["fold"] == 2) & (scores["repeat"] == 1))]
    found, whole = (test(rows, control, "dice", correction="bonferroni") for rows in (single, scores))
    assert found["note"].tolist()[::2] == ["", ""] and found["verdict"][1] == ""
    assert found.columns.tolist() == whole.columns.tolist()
    assert found["note"][1].startswith("n/a: ") and "fewer than 2 raters" in found["note"][1]
    assert found.loc[1, [*TESTED, "p_raw", "p_value"]].isna().all()
    assert found.loc[1, ["n_models", "n"]].tolist() == [1, IMAGES]
    assert found["p_raw"].tolist()[::2] == pytest.approx(whole["p_raw"].tolist()[::2])
    assert found["p_value"].tolist()[::2] == pytest.approx([min(1, 2 * p) for p in found["p_raw"].tolist()[::2]])


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_failures_are_left_out_or_count_as_the_worst(close, test):
    scores, control = close
    failed = scores.index[scores["n_train"] == 10][:3]
    scores.loc[failed, "rms_dta_cm"], scores.loc[failed, "failure"] = np.nan, "empty"
    left, worst = (test(scores, control, "rms_dta_cm", failures=f, correction="none") for f in ("leave_out", "worst"))
    assert left["note"].tolist() == ["", "3 failed predictions left out", ""] and (worst["note"] == "").all()
    assert left["n"].tolist() == [160, 157, 160] and (worst["n"] == 160).all()
    for found in (left, worst):
        assert found["failures"].tolist() == found["empty"].tolist() == [0, 3, 0] and (found["runaway"] == 0).all()
    assert worst["difference"][1] > left["difference"][1]


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_what_cannot_be_compared_is_refused(close, test):
    scores, control = close
    for metric in ("dice", "rms_dta_cm"):
        with pytest.raises(ValueError, match=f"{metric} is compared with the observers, whose scores are missing"):
            test(scores, None, metric)
    with pytest.raises(ValueError, match="models and observers share no image"):
        test(scores, control.assign(patient_id="q" + control["patient_id"]), "dice")
    with pytest.raises(ValueError, match="unknown metric 'sma_cm2'"):
        test(scores, control, "sma_cm2")
    with pytest.raises(ValueError, match="score table lacks dice"):
        test(scores.drop(columns="dice"), control, "dice")
    with pytest.raises(ValueError, match="observer table lacks dice"):
        test(scores, control.drop(columns="dice"), "dice")
    with pytest.raises(ValueError, match="twice"):
        test(scores, pd.concat([control, control]), "dice")


def test_one_shared_image_is_a_comparison_that_cannot_be_made(close):
    scores, control = close
    found = mixed_model_table(scores, control[control["patient_id"] == "p7"], "dice")
    assert (found["note"] == "n/a: observers: fewer than 3 images").all()


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
@pytest.mark.parametrize("difference", [2.0, -0.1, 0.0])
def test_what_does_not_vary_is_not_tested(known, test, difference):
    scores, _ = known
    same = scores.assign(smd_hu=30 + difference, smd_difference_hu=difference)
    found = test(same, None, "smd_difference_hu")
    assert (found["note"] == "n/a: nothing varies").all() and found["p_raw"].isna().all()


def test_one_unit_fewer_is_drawn_than_there_are():
    weights = draw_weights(4, 20000, np.random.default_rng(0))
    assert weights.shape == (20000, 4) and (weights.sum(1) == 3).all() and set(np.unique(weights)) == {0, 1, 2, 3}
    # So that the variance of the drawn mean is that of a mean of four independent values.
    values = np.array([0.0, 1.0, 5.0, 2.0])
    assert (weights @ values / 3).mean() == pytest.approx(values.mean(), rel=0.02)
    assert (weights @ values / 3).var() == pytest.approx(stats.sem(values) ** 2, rel=0.04)


def test_two_units_can_be_drawn_from_and_one_cannot():
    assert draw_weights(2, 10, np.random.default_rng(0)).sum() == 10
    with pytest.raises(TooFew, match="fewer than two units to draw from"):
        draw_weights(1, 10, np.random.default_rng(0))


def test_means_are_taken_over_raters_and_then_over_images():
    matrix = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    assert mean_of_means(matrix) == 2.0
    raters = np.array([[1, 1], [2, 0], [0, 1], [1, 3], [0, 1], [0, 0]])
    images = np.array([[1, 1, 1], [1, 2, 0], [1, 1, 0], [3, 1, 0], [0, 2, 1], [1, 1, 1]])
    # By hand: ((1 + 3) / 2 + 2) / 2; (1 + 2 * 2) / 3; 3, as the second rater has no second image;
    # (3 * (1 + 3 * 3) / 4 + 2) / 4; then nothing that is drawn has a value.
    expected = [2.0, 5 / 3, 3.0, 9.5 / 4, np.nan, np.nan]
    np.testing.assert_allclose(rater_means(matrix, raters, images), expected)


def test_replicates_depend_on_the_seed_and_the_names_alone():
    rng = np.random.default_rng(0)
    matrix, images = rng.normal(size=(5, 6)), list("abcdef")
    first, again, other = (Resampled(images, 100, seed).means(matrix, "random", 5) for seed in (0, 0, 1))
    assert first.shape == (100,) and (first == again).all() and not (first == other).any()
    resampled = Resampled(images, 100, 0)
    resampled.means(matrix, "jigsaw", 5)
    assert (resampled.means(matrix, "random", 5) == first).all()
    for name in (("random", 10), ("jigsaw", 5), ("random5",)):
        assert not (resampled.means(matrix, *name) == first).all()
    # A rater without values is not there.
    assert (resampled.means(np.vstack([matrix[:2], [np.nan] * 6, matrix[2:]]), "random", 5) == first).all()


def test_all_cells_share_the_images_that_are_drawn():
    # Where raters agree wholly, what is left is the images' share, which cancels in a difference.
    image = np.random.default_rng(0).normal(size=8)
    resampled = Resampled([str(i) for i in range(8)], 200, 0)
    first, second = (resampled.means(np.tile(image, (n, 1)), n) for n in (3, 5))
    np.testing.assert_allclose(first, second)
    assert first.std() > 0 and (resampled.image_weights.sum(1) == 7).all()


def test_too_few_replicates_and_raters_are_refused():
    with pytest.raises(ValueError, match="at least 100 replicates are needed, not 99"):
        Resampled(["a", "b"], 99, 0)
    resampled = Resampled(["a", "b"], 100, 0)
    assert (resampled.replicates, resampled.images, resampled.seed) == (100, ["a", "b"], 0)
    assert len(resampled.means(np.eye(2))) == 100
    with pytest.raises(TooFew, match="fewer than 2 raters"):
        resampled.means(np.array([[1.0, 2.0], [np.nan, np.nan]]))


def test_the_bootstrap_table_holds_what_its_replicates_say(close):
    scores, control = close
    # One image without a value in a cell, one without in any observer, and a gap in each table.
    gone = (scores["n_train"] == 10) & (scores["patient_id"] == "p3")
    scores.loc[gone | (scores.index == 170), "dice"] = np.nan
    control.loc[(control["patient_id"] == "p7") | (control.index == 2), "dice"] = np.nan
    settings = {"correction": "none", "replicates": 400, "seed": 3, "level": 0.9}
    found = hierarchical_bootstrap_table(scores, control, "dice", **settings)
    assert found.columns.tolist() == [*COUNTS, *TESTED, "p_raw", "p_value", "verdict", "note"]
    assert found["n"].tolist() == scores.groupby("n_train")["dice"].count().tolist()
    resampled = Resampled(sorted(set(scores["patient_id"])), 400, 3)
    of_images = control.groupby("patient_id")["dice"].mean()
    for row in found.itertuples():
        own = scores[scores["n_train"] == row.n_train]
        drawn = resampled.means(as_matrix(own, "dice"), "random", row.n_train)
        drawn = drawn - resampled.means(as_matrix(control, "dice"), "observers")
        ours = own.groupby("patient_id")["dice"].mean()
        assert row.difference == pytest.approx(ours.mean() - of_images.mean())
        assert row.standard_error == pytest.approx(drawn.std(ddof=1))
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])))
        # Satterthwaite: variances of the mean over images, over models and over observers add up.
        models, others = own.groupby(["fold", "repeat"])["dice"].mean(), control.groupby("observer")["dice"].mean()
        units = [(ours - of_images).dropna(), models, others]
        parts = [(stats.sem(values) ** 2, len(values) - 1) for values in units]
        degrees = sum(v for v, _ in parts) ** 2 / sum(v**2 / n for v, n in parts)
        assert row.degrees == pytest.approx(degrees)
        assert row.p_raw == pytest.approx(2 * stats.t.cdf(-abs(row.difference) / row.standard_error, degrees))


def test_the_bootstrap_against_the_expert_has_no_observers_in_it(close):
    scores, _ = close
    scores = scores.assign(smd_difference_hu=scores["dice"] - 0.9)
    found = hierarchical_bootstrap_table(scores, metric="smd_difference_hu")
    resampled = Resampled(sorted(set(scores["patient_id"])), 2000, 0)
    for row in found.itertuples():
        ours = as_matrix(scores[scores["n_train"] == row.n_train], "smd_difference_hu")
        drawn = resampled.means(ours, "random", row.n_train)
        assert (row.difference, row.standard_error) == pytest.approx((ours.mean(), drawn.std(ddof=1)))
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        parts = [(stats.sem(ours.mean(axis)) ** 2, ours.shape[1 - axis] - 1) for axis in (0, 1)]
        assert row.degrees == pytest.approx(sum(v for v, _ in parts) ** 2 / sum(v**2 / n for v, n in parts))
        assert row.standard_error**2 == pytest.approx(sum(v for v, _ in parts), rel=0.15)


def test_a_cell_is_drawn_in_the_same_way_whatever_else_the_table_holds(close):
    scores, control = close
    whole = hierarchical_bootstrap_table(scores, control, "dice", correction="none")
    part = hierarchical_bootstrap_table(scores[scores["n_train"] != 5], control, "dice", correction="none")
    pd.testing.assert_frame_equal(whole[1:].reset_index(drop=True), part)
    other = hierarchical_bootstrap_table(scores, control, "dice", correction="none", seed=1)
    assert (other["standard_error"] != whole["standard_error"]).all()


def test_replicates_that_draw_nothing_are_left_out():
    rng = np.random.default_rng(0)
    rows = [
        measured(rng.normal(size=IMAGES), source_task="random", n_train=5, fold=f, subset=0, repeat=0) for f in (0, 1)
    ]
    # One model has two images and the other a third: often nothing is drawn that has a value.
    scores = pd.concat([rows[0][:2], rows[1][2:3]], ignore_index=True)
    row = hierarchical_bootstrap_table(scores, None, "sma_difference_cm2").iloc[0]
    assert np.isfinite(row[["standard_error", "low", "high"]].astype(float)).all()


@pytest.fixture
def tasks() -> pd.DataFrame:
    """Three source tasks at two sizes, the larger size first; `random` is best at 10, `jigsaw` at 5."""
    rng = np.random.default_rng(5)
    image = rng.normal(0, 0.02, IMAGES)
    means = {"random": {10: 0.92, 5: 0.80}, "jigsaw": {10: 0.86, 5: 0.83}, "segmentation": {10: 0.917, 5: 0.801}}
    parts = [table(rng, sizes, image=image, model_sd=0.002).assign(source_task=task) for task, sizes in means.items()]
    scores = pd.concat(parts, ignore_index=True)
    return scores.assign(rms_dta_cm=scores["rms_dta_cm"] + rng.normal(0, 0.002, len(scores)))


PAIRS = [("random", "jigsaw"), ("random", "segmentation"), ("jigsaw", "segmentation")]


@pytest.mark.parametrize(("metric", "level"), [("rms_dta_cm", 0.95), ("dice", 0.8)])
def test_pairs_of_source_tasks_hold_their_fits(tasks, metric, level):
    found = mixed_model_pairs(tasks, metric, level=level)
    assert found.columns.tolist() == [
        *("n_train", "first", "second", *TESTED, "p_raw", "p_value", "better", "note"),
    ]
    assert found["n_train"].tolist() == [5] * 3 + [10] * 3
    assert list(zip(found["first"], found["second"], strict=True)) == PAIRS * 2
    for row in found.itertuples():
        first, second = (
            as_matrix(tasks[(tasks["n_train"] == row.n_train) & (tasks["source_task"] == task)], metric)
            for task in (row.first, row.second)
        )
        fit = fit_difference(first, second)
        values = (row.difference, row.standard_error, row.degrees, row.low, row.high, row.p_raw)
        assert values == pytest.approx(
            (fit.estimate, fit.standard_error, fit.degrees, *fit.interval(level), fit.p_value)
        )
    assert found["better"].tolist() == ["jigsaw", "", "jigsaw", "random", "", "segmentation"]
    assert (found["p_value"] == found["p_raw"]).all() and (found["note"] == "").all()


def test_pairs_are_corrected_within_a_size(tasks):
    found = mixed_model_pairs(tasks, "dice", correction="bonferroni")
    assert found["p_value"].tolist() == pytest.approx(np.minimum(1, 3 * found["p_raw"]).tolist())
    two = tasks[(tasks["n_train"] == 5) & (tasks["source_task"] != "jigsaw")]
    p = found["p_raw"][1]
    assert mixed_model_pairs(two, "dice", alpha=p)["better"].tolist() == [""]
    assert mixed_model_pairs(two, "dice", alpha=np.nextafter(p, 1))["better"].tolist() != [""]


def test_a_measure_without_a_better_side_has_no_better_task(tasks):
    found = mixed_model_pairs(tasks, "sma_difference_cm2")
    assert (found["better"] == "").all() and found["p_value"].min() < 0.001


def test_a_pair_with_one_model_has_no_test(tasks):
    first = (tasks["fold"] == 0) & (tasks["repeat"] == 0)
    single = tasks[(tasks["n_train"] == 10) & ((tasks["source_task"] != "jigsaw") | first)]
    found = mixed_model_pairs(single)
    assert found["note"].str.startswith("n/a: jigsaw: fewer than 2 raters").tolist() == [True, False, True]
    lacking = found[found["note"] != ""]
    assert lacking[[*TESTED, "p_raw", "p_value"]].isna().all(axis=None) and (lacking["better"] == "").all()
    stars = surviving_pair_stars(single)
    assert stars["star"].tolist() == [True, False, True] and stars["survives_mixed"].isna().all()
    assert stars["note"].tolist() == found["note"].tolist()


def test_failures_in_pairs_are_left_out_or_count_as_the_worst(tasks):
    failed = tasks.index[(tasks["source_task"] == "random") & (tasks["n_train"] == 5)][:3]
    tasks.loc[failed, "rms_dta_cm"], tasks.loc[failed, "failure"] = np.nan, "empty"
    left, worst = mixed_model_pairs(tasks), mixed_model_pairs(tasks, failures="worst")
    assert worst["difference"][0] > left["difference"][0] and worst["difference"][3] == left["difference"][3]
    stars = surviving_pair_stars(tasks)
    assert stars["note"].tolist()[:3] == ["random: 3 failed predictions left out"] * 2 + [""]


def test_one_source_task_makes_no_pair(known):
    scores, _ = known
    assert len(mixed_model_pairs(scores)) == 0
    with pytest.raises(ValueError, match="unknown metric"):
        mixed_model_pairs(scores, "hausdorff")


def printed(n_train: int, first: str, second: str = "", metric: str = "RMS-DTA") -> str:
    names = {"random": "Rand. Init.", "jigsaw": "Jigsaw", "segmentation": "Segmentation", "": ""}
    rows = reported_p_values().query("n_train == @n_train and metric == @metric")
    rows = rows[(rows["source_task"] == names[first]) & (rows["versus"] == names[second])]
    return rows["p_value_as_printed"].item()


@pytest.mark.parametrize(("metric", "correction"), [("rms_dta_cm", "none"), ("dice", "holm")])
def test_stars_of_pairs_stand_beside_the_tests_that_they_are_of(tasks, metric, correction):
    sizes = [5, 10] if metric == "rms_dta_cm" else [5]
    tasks = tasks[tasks["n_train"].isin(sizes)]
    found = surviving_pair_stars(tasks, metric, correction=correction, alpha=0.01)
    naive = mann_whitney_pairs(tasks, metric, correction=correction, alpha=0.01)
    mixed = mixed_model_pairs(tasks, metric, correction=correction, alpha=0.01)
    assert found.columns.tolist() == [
        *("n_train", "first", "second", "printed", "naive_p", "naive_better", "mixed_p", "mixed_better"),
        *("star", "survives_mixed", "note"),
    ]
    keys = list(zip(found["n_train"], found["first"], found["second"], strict=True))
    assert keys == [(n, *pair) for n in sizes for pair in PAIRS]
    assert found["printed"].tolist() == [printed(*key) if metric == "rms_dta_cm" else "–" for key in keys]
    for name, table_ in (("naive", naive), ("mixed", mixed)):
        assert found[f"{name}_p"].tolist() == table_["p_value"].tolist()
        assert found[f"{name}_better"].tolist() == table_["better"].tolist()
    assert found["star"].tolist() == (naive["p_value"] < 0.01).tolist()
    assert found["survives_mixed"].isna().tolist() == (~found["star"]).tolist()
    assert found["survives_mixed"].dtype == "boolean" and found["survives_mixed"].any()


def test_sizes_that_the_paper_does_not_have_have_no_print(tasks):
    two = tasks[(tasks["n_train"] == 5) & (tasks["source_task"] != "jigsaw")]
    assert surviving_pair_stars(two.assign(n_train=7))["printed"].tolist() == ["–"]


def test_a_star_of_a_pair_falls_where_models_scatter_as_wholes_or_the_other_is_better():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.001, IMAGES)
    wild = [table(rng, {5: mean}, image=image, model_sd=0.02).assign(source_task=task)
            for task, mean in (("random", 0.9), ("jigsaw", 0.91))]  # fmt: skip
    row = surviving_pair_stars(pd.concat(wild), "dice").iloc[0]
    assert row["star"] and row["mixed_better"] == "" and not row["survives_mixed"]
    # Better for most images, and far worse for a few: ranks and means point to different sides.
    few = np.where(np.arange(IMAGES) < 6, -0.2, 0.01)
    calm = [table(rng, {5: 0.8}, image=image + shift, model_sd=0.001).assign(source_task=task)
            for task, shift in (("random", 0), ("jigsaw", few))]  # fmt: skip
    row = surviving_pair_stars(pd.concat(calm), "dice", alpha=0.2).iloc[0]
    assert (row["naive_better"], row["mixed_better"]) == ("jigsaw", "random") and row["mixed_p"] < 0.2
    assert row["star"] and not row["survives_mixed"]


def test_a_star_needs_a_p_value_below_alpha(tasks):
    two = tasks[(tasks["n_train"] == 5) & (tasks["source_task"] != "jigsaw")]
    p = mann_whitney_pairs(two)["p_value"][0]
    assert not surviving_pair_stars(two, alpha=p)["star"][0]
    assert surviving_pair_stars(two, alpha=np.nextafter(p, 1))["star"][0]


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("dice", {}),
        ("rms_dta_cm", {"correction": "bonferroni", "alpha": 0.2, "failures": "worst", "replicates": 300, "seed": 5}),
        ("sma_difference_cm2", {"correction": "none", "failures": "leave_out", "alpha": 0.05}),
    ],
)
def test_stars_stand_beside_the_tests_that_they_are_of(close, metric, settings):
    scores, control = close
    scores = scores.assign(sma_difference_cm2=scores["dice"] - 0.9, n_train=scores["n_train"].replace(10, 11))
    failed = scores.index[scores["n_train"] == 5][:2]
    scores.loc[failed, "rms_dta_cm"], scores.loc[failed, "failure"] = np.nan, "empty"
    found = surviving_stars(scores, control, metric, **settings)
    assert found.columns.tolist() == [
        *("source_task", "n_train", "printed", "printed_star", "naive_p", "naive_verdict", "mixed_p", "mixed_verdict"),
        *("bootstrap_p", "bootstrap_verdict", "star", "survives_mixed", "survives_bootstrap", "note"),
    ]
    drawing = {key: settings[key] for key in ("replicates", "seed") if key in settings}
    common = {key: value for key, value in settings.items() if key not in drawing}
    expert = np.zeros(IMAGES) if metric == "sma_difference_cm2" else control
    tables = {
        "naive": dunnett_table(scores, expert, metric, **{k: v for k, v in common.items() if k != "correction"}),
        "mixed": mixed_model_table(scores, control, metric, **common),
        "bootstrap": hierarchical_bootstrap_table(scores, control, metric, **common, **drawing),
    }
    for name, table_ in tables.items():
        assert found[f"{name}_p"].tolist() == table_["p_value"].tolist()
        assert found[f"{name}_verdict"].tolist() == table_["verdict"].tolist()
    assert found["source_task"].tolist() == ["random"] * 3 and found["n_train"].tolist() == [5, 11, 25]
    short = {"dice": "DSC", "rms_dta_cm": "RMS-DTA", "sma_difference_cm2": "SMA"}[metric]
    texts = [printed(5, "random", metric=short), "–", printed(25, "random", metric=short)]
    assert found["printed"].tolist() == texts
    below = [text if text == "–" else text.startswith("<") or float(text) < 0.001 for text in texts]
    assert found["printed_star"].tolist() == [below[0], pd.NA, below[2]]
    star = found["naive_verdict"] != ""
    assert found["star"].tolist() == star.tolist()
    for name in ("mixed", "bootstrap"):
        expected = (found[f"{name}_verdict"] == found["naive_verdict"]).astype("boolean").where(star)
        pd.testing.assert_series_equal(found[f"survives_{name}"], expected, check_names=False)
    told = "2 failed predictions left out" if metric == "rms_dta_cm" and settings.get("failures") != "worst" else ""
    assert found["note"].tolist() == [told, "", ""]


def test_a_note_that_two_tests_make_is_made_once(close):
    scores, control = close
    failed = scores.index[scores["n_train"] == 5][:2]
    scores.loc[failed, "rms_dta_cm"], scores.loc[failed, "failure"] = np.nan, "empty"
    single = scores[(scores["n_train"] != 25) | ((scores["fold"] == 0) & (scores["repeat"] == 0))].copy()
    single.loc[single["n_train"] == 25, "rms_dta_cm"] += 0.1
    found = surviving_stars(single, control, "rms_dta_cm", correction="none")
    assert found["note"][:2].tolist() == ["2 failed predictions left out", ""]
    told = found["note"][2].split("; ")
    assert len(told) == 2 and all(text.startswith("n/a: ") and "fewer than 2 raters" in text for text in told)
    # A star without a test neither stands nor falls.
    assert found.loc[2, "star"] and found.loc[2, ["survives_mixed", "survives_bootstrap"]].isna().all()


def test_stars_of_models_that_scatter_as_wholes_fall():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.001, IMAGES)
    scores = table(rng, {5: 0.91, 10: 0.89}, image=image, model_sd=0.02)
    found = surviving_stars(scores, observers(rng, image=image), "dice", correction="none", alpha=0.05)
    assert found["star"].all() and not found[["survives_mixed", "survives_bootstrap"]].any(axis=None)


@pytest.mark.parametrize(
    ("test", "metric", "correction"),
    [
        (mixed_model_table, "dice", "holm"),
        (hierarchical_bootstrap_table, "dice", "holm"),
        (surviving_stars, "dice", "holm"),
        (mixed_model_pairs, "rms_dta_cm", "none"),
        (surviving_pair_stars, "rms_dta_cm", "none"),
    ],
)
def test_what_is_not_said_is_as_in_the_paper(test, metric, correction):
    # Its level is 0.001; it does not correct the pairs, which it tests by the RMS-DTA.
    defaults = {name: given.default for name, given in inspect.signature(test).parameters.items()}
    assert (defaults["metric"], defaults["correction"], defaults["alpha"]) == (metric, correction, 0.001)
