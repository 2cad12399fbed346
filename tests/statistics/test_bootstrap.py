"""Tests that know that predictions share images and models, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from l3muscle.statistics import (
    dunnett_table,
    hierarchical_bootstrap_table,
    reported_p_values,
    surviving_differences,
)
from l3muscle.statistics.bootstrap import Bootstrap, draw_weights, estimate, weighted_means
from l3muscle.statistics.score_table import NoTest

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


COUNTS = ["source_task", "n_train", "n_models", "n", "failures", "empty", "gross"]
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


@pytest.mark.parametrize(
    ("metric", "verdicts"),
    [
        ("dice", ["worse", "worse", "better"]),
        # The further from the expert the worse, on either side; and a greater distance is worse.
        ("rms_dta_cm", ["worse", "worse", "better"]),
        ("sma_difference_cm2", ["worse", "", "worse"]),
    ],
)
def test_verdicts_know_which_side_is_better(known, metric, verdicts):
    scores, control = known
    image = scores.groupby("patient_id")["dice"].transform("mean")
    scores = scores.assign(
        sma_difference_cm2=scores["dice"] - image - scores.loc[scores["n_train"] == 10, "dice"].mean()
    )
    scores["sma_difference_cm2"] += scores["dice"].mean()
    found = hierarchical_bootstrap_table(scores, control, metric, correction="none")
    assert found["verdict"].tolist() == verdicts
    if metric == "dice":
        difference = np.array([0.80, 0.86, 0.94]) - 0.9
        assert ((found["low"] < difference) & (difference < found["high"])).all()


def test_a_verdict_goes_by_the_corrected_p_value(close):
    p = hierarchical_bootstrap_table(*close, "dice", correction="none")["p_raw"][1]
    for correction, factor, verdict in (("none", 1, "worse"), ("bonferroni", 3, "")):
        row = hierarchical_bootstrap_table(*close, "dice", correction=correction, alpha=2 * p).loc[1]
        assert row["p_value"] == pytest.approx(min(factor * p, 1)) and row["verdict"] == verdict


def test_a_configuration_of_one_model_has_no_test_and_does_not_count_in_the_correction(close):
    scores, control = close
    single = scores[(scores["n_train"] != 10) | ((scores["fold"] == 2) & (scores["repeat"] == 1))]
    found, whole = (
        hierarchical_bootstrap_table(rows, control, "dice", correction="bonferroni") for rows in (single, scores)
    )
    assert found["note"].tolist()[::2] == ["", ""] and found["verdict"][1] == ""
    assert found.columns.tolist() == whole.columns.tolist()
    assert found["note"][1].startswith("n/a: ") and "fewer than 2 raters" in found["note"][1]
    assert found.loc[1, [*TESTED, "p_raw", "p_value"]].isna().all()
    assert found.loc[1, ["n_models", "n"]].tolist() == [1, IMAGES]
    assert found["p_raw"].tolist()[::2] == pytest.approx(whole["p_raw"].tolist()[::2])
    assert found["p_value"].tolist()[::2] == pytest.approx([min(1, 2 * p) for p in found["p_raw"].tolist()[::2]])


def test_what_cannot_be_compared_is_refused(close):
    scores, control = close
    for metric in ("dice", "rms_dta_cm"):
        with pytest.raises(ValueError, match=f"{metric} is compared with the observers, whose scores are missing"):
            hierarchical_bootstrap_table(scores, None, metric)
    with pytest.raises(ValueError, match="models and observers share no image"):
        hierarchical_bootstrap_table(scores, control.assign(patient_id="q" + control["patient_id"]), "dice")
    with pytest.raises(ValueError, match="unknown metric 'sma_cm2'"):
        hierarchical_bootstrap_table(scores, control, "sma_cm2")
    with pytest.raises(ValueError, match="score table lacks dice"):
        hierarchical_bootstrap_table(scores.drop(columns="dice"), control, "dice")
    with pytest.raises(ValueError, match="observer table lacks dice"):
        hierarchical_bootstrap_table(scores, control.drop(columns="dice"), "dice")
    with pytest.raises(ValueError, match="twice"):
        hierarchical_bootstrap_table(scores, pd.concat([control, control]), "dice")


@pytest.mark.parametrize("difference", [2.0, -0.1, 0.0])
def test_what_does_not_vary_is_not_tested(known, difference):
    scores, _ = known
    same = scores.assign(smd_hu=30 + difference, smd_difference_hu=difference)
    found = hierarchical_bootstrap_table(same, None, "smd_difference_hu")
    assert (found["note"] == "n/a: nothing varies").all() and found["p_raw"].isna().all()


def test_one_unit_fewer_is_drawn_than_there_are():
    weights = draw_weights(4, 20000, np.random.default_rng(0))
    assert weights.shape == (20000, 4) and (weights.sum(1) == 3).all() and set(np.unique(weights)) == {0, 1, 2, 3}
    # So that the variance of the drawn mean is that of a mean of four independent values.
    values = np.array([0.0, 1.0, 5.0, 2.0])
    assert (weights @ values / 3).mean() == pytest.approx(values.mean(), rel=0.02)
    assert (weights @ values / 3).var() == pytest.approx(stats.sem(values) ** 2, rel=0.04)


def test_means_are_taken_over_raters_and_then_over_images():
    matrix = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    assert Bootstrap(3, 100).draw(matrix, least_raters=1).mean == 2.0
    raters = np.array([[1, 1], [2, 0], [0, 1], [1, 3], [0, 1], [0, 0]])
    images = np.array([[1, 1, 1], [1, 2, 0], [1, 1, 0], [3, 1, 0], [0, 2, 1], [1, 1, 1]])
    # By hand: ((1 + 3) / 2 + 2) / 2; (1 + 2 * 2) / 3; 3, as the second rater has no second image;
    # (3 * (1 + 3 * 3) / 4 + 2) / 4; then nothing that is drawn has a value.
    expected = [2.0, 5 / 3, 3.0, 9.5 / 4, np.nan, np.nan]
    np.testing.assert_allclose(weighted_means(matrix, raters, images), expected)


def test_replicates_depend_on_the_seed_and_the_names_alone():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 6))
    first, again, other = (Bootstrap(6, 100, seed).draw(matrix, "random", 5).replicates for seed in (0, 0, 1))
    assert first.shape == (100,) and (first == again).all() and not (first == other).any()
    resampled = Bootstrap(6, 100, 0)
    resampled.draw(matrix, "jigsaw", 5)
    assert (resampled.draw(matrix, "random", 5).replicates == first).all()
    for name in (("random", 10), ("jigsaw", 5), ("random5",)):
        assert not (resampled.draw(matrix, *name).replicates == first).all()
    # A rater without values is not there.
    assert (resampled.draw(np.vstack([matrix[:2], [np.nan] * 6, matrix[2:]]), "random", 5).replicates == first).all()


def test_all_configurations_share_the_images_that_are_drawn():
    # Where raters agree wholly, what is left is the images' share, which cancels in a difference.
    image = np.random.default_rng(0).normal(size=8)
    resampled = Bootstrap(8, 200, 0)
    first, second = (resampled.draw(np.tile(image, (n, 1)), n).replicates for n in (3, 5))
    np.testing.assert_allclose(first, second)
    assert first.std() > 0 and (resampled.image_weights.sum(1) == 7).all()


def test_too_few_replicates_and_raters_are_refused():
    with pytest.raises(ValueError, match="at least 100 replicates are needed, not 99"):
        Bootstrap(2, 99, 0)
    resampled = Bootstrap(2, 100, 0)
    assert len(resampled.draw(np.eye(2)).replicates) == 100
    with pytest.raises(NoTest, match="fewer than 2 raters"):
        resampled.draw(np.array([[1.0, 2.0], [np.nan, np.nan]]))


def test_the_bootstrap_table_holds_what_its_replicates_say(close):
    scores, control = close
    # One image without a value in a configuration, one without in any observer, and a gap in each table.
    gone = (scores["n_train"] == 10) & (scores["patient_id"] == "p3")
    scores.loc[gone | (scores.index == 170), "dice"] = np.nan
    control.loc[(control["patient_id"] == "p7") | (control.index == 2), "dice"] = np.nan
    settings = {"correction": "none", "replicates": 400}
    found = hierarchical_bootstrap_table(scores, control, "dice", **settings)
    assert found.columns.tolist() == [*COUNTS, *TESTED, "p_raw", "p_value", "verdict", "note"]
    assert found["n"].tolist() == scores.groupby("n_train")["dice"].count().tolist()
    resampled = Bootstrap(IMAGES, 400)
    of_images = control.groupby("patient_id")["dice"].mean()
    for row in found.itertuples():
        own = scores[scores["n_train"] == row.n_train]
        drawn = resampled.draw(as_matrix(own, "dice"), "random", row.n_train).replicates
        drawn = drawn - resampled.draw(as_matrix(control, "dice"), "observers").replicates
        ours = own.groupby("patient_id")["dice"].mean()
        assert row.difference == pytest.approx(ours.mean() - of_images.mean())
        assert row.standard_error == pytest.approx(drawn.std(ddof=1))
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        # Satterthwaite: variances of the mean over images, over models and over observers add up.
        models, others = own.groupby(["fold", "repeat"])["dice"].mean(), control.groupby("observer")["dice"].mean()
        units = [(ours - of_images).dropna(), models, others]
        parts = [(stats.sem(values) ** 2, len(values) - 1) for values in units]
        degrees = sum(v for v, _ in parts) ** 2 / sum(v**2 / n for v, n in parts)
        assert row.degrees == pytest.approx(degrees)
        assert row.p_raw == pytest.approx(2 * stats.t.cdf(-abs(row.difference) / row.standard_error, degrees))


def test_a_configuration_is_drawn_in_the_same_way_whatever_else_the_table_holds(close):
    scores, control = close
    whole = hierarchical_bootstrap_table(scores, control, "dice", correction="none")
    part = hierarchical_bootstrap_table(scores[scores["n_train"] != 5], control, "dice", correction="none")
    pd.testing.assert_frame_equal(whole[1:].reset_index(drop=True), part)


def test_replicates_that_draw_nothing_are_left_out():
    rng = np.random.default_rng(0)
    rows = [
        measured(rng.normal(size=IMAGES), source_task="random", n_train=5, fold=f, subset=0, repeat=0) for f in (0, 1)
    ]
    # One model has two images and the other a third: often nothing is drawn that has a value.
    scores = pd.concat([rows[0][:2], rows[1][2:3]], ignore_index=True)
    row = hierarchical_bootstrap_table(scores, None, "sma_difference_cm2").iloc[0]
    assert np.isfinite(row[["standard_error", "low", "high"]].astype(float)).all()


def printed(n_train: int, first: str, second: str = "", metric: str = "RMS-DTA") -> str:
    names = {"random": "Rand. Init.", "jigsaw": "Jigsaw", "segmentation": "Segmentation", "": ""}
    rows = reported_p_values().query("n_train == @n_train and metric == @metric")
    rows = rows[(rows["source_task"] == names[first]) & (rows["versus"] == names[second])]
    return rows["p_value_as_printed"].item()


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("dice", {}),
        ("rms_dta_cm", {"correction": "bonferroni", "alpha": 0.2, "replicates": 300}),
        ("sma_difference_cm2", {"correction": "none", "alpha": 0.05}),
    ],
)
def test_differences_stand_beside_the_tests_that_they_are_of(close, metric, settings):
    scores, control = close
    scores = scores.assign(sma_difference_cm2=scores["dice"] - 0.9, n_train=scores["n_train"].replace(10, 11))
    failed = scores.index[scores["n_train"] == 5][:2]
    scores.loc[failed, "rms_dta_cm"], scores.loc[failed, "failure"] = np.nan, "empty"
    found = surviving_differences(scores, control, metric, **settings)
    assert found.columns.tolist() == [
        *("source_task", "n_train", "printed", "printed_significant", "naive_p", "naive_verdict"),
        *("bootstrap_p", "bootstrap_verdict", "significant", "survives", "note"),
    ]
    expert = np.zeros(IMAGES) if metric == "sma_difference_cm2" else control
    tables = {
        "naive": dunnett_table(scores, expert, metric, alpha=settings.get("alpha", 0.001)),
        "bootstrap": hierarchical_bootstrap_table(scores, control, metric, **settings),
    }
    for name, table_ in tables.items():
        assert found[f"{name}_p"].tolist() == table_["p_value"].tolist()
        assert found[f"{name}_verdict"].tolist() == table_["verdict"].tolist()
    assert found["source_task"].tolist() == ["random"] * 3 and found["n_train"].tolist() == [5, 11, 25]
    short = {"dice": "DSC", "rms_dta_cm": "RMS-DTA", "sma_difference_cm2": "SMA"}[metric]
    texts = [printed(5, "random", metric=short), "–", printed(25, "random", metric=short)]
    assert found["printed"].tolist() == texts
    below = [text if text == "–" else text.startswith("<") or float(text) < 0.001 for text in texts]
    assert found["printed_significant"].tolist() == [below[0], pd.NA, below[2]]
    significant = found["naive_verdict"] != ""
    assert found["significant"].tolist() == significant.tolist()
    expected = (found["bootstrap_verdict"] == found["naive_verdict"]).astype("boolean").where(significant)
    pd.testing.assert_series_equal(found["survives"], expected, check_names=False)
    assert found["note"].tolist() == ["2 failed predictions left out" if metric == "rms_dta_cm" else "", "", ""]


def test_differences_of_models_that_scatter_as_wholes_do_not_survive():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.001, IMAGES)
    scores = table(rng, {5: 0.91, 10: 0.89}, image=image, model_sd=0.02)
    found = surviving_differences(scores, observers(rng, image=image), "dice", correction="none", alpha=0.05)
    assert found["significant"].all() and not found["survives"].any()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("paired", [False, True])
def test_standard_errors_are_those_of_a_fit_with_two_way_clustered_residuals(seed, paired):
    """statsmodels' least squares with errors clustered by image and by rater answers the same question by a formula."""
    rng = np.random.default_rng(seed)
    images, models, observers_ = 37, 40, 40
    image = rng.normal(0, 0.02, images)
    first = 0.9 + image + rng.normal(0, 0.01, (models, 1)) + rng.normal(0, 0.01, (models, images))
    first += rng.normal(0, 0.02, images)  # harder or easier for models alone
    second = 0.88 + image + rng.normal(0, 0.01, (observers_, 1)) + rng.normal(0, 0.02, (observers_, images))
    sides = [first, second] if paired else [first]
    bootstrap = Bootstrap(images, 4000, seed)
    ours = estimate(*(bootstrap.draw(side, number) for number, side in enumerate(sides)))
    values = np.concatenate([side.ravel() for side in sides])
    number = np.concatenate([np.full(side.size, index) for index, side in enumerate(sides)])
    clusters = np.column_stack(
        [
            np.concatenate([np.tile(np.arange(images), len(side)) for side in sides]),
            np.concatenate([100 * index + np.repeat(np.arange(len(side)), images) for index, side in enumerate(sides)]),
        ]
    )
    design = np.column_stack([np.ones(values.size), number == 0]) if paired else np.ones((values.size, 1))
    fit = sm.OLS(values, design.astype(float)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert ours.value == pytest.approx(fit.params[-1])
    # The formula takes off what images and raters both count; the bootstrap does not, so that it never understates.
    assert ours.standard_error == pytest.approx(fit.bse[-1], rel=0.08)
    assert ours.standard_error > 0.97 * fit.bse[-1]
