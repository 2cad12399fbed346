"""The slices needed and the worth of augmentation, on curves and pairs whose answer is worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from score_rows import model, observer, stacked

from l3muscle.statistics import ablation_table, slices_needed_table
from l3muscle.statistics.crossed import fit_mean
from l3muscle.statistics.efficiency import first_reach, increasing

NAN = np.nan


def test_a_monotone_fit_is_that_of_scipy():
    curves = np.random.default_rng(0).normal(size=(50, 7))
    expected = [optimize.isotonic_regression(curve).x for curve in curves]
    np.testing.assert_allclose(increasing(curves), expected, atol=1e-12)


def test_a_monotone_fit_leaves_what_rises_and_levels_what_falls():
    fitted = increasing(np.array([[1.0, 2.0, 4.0], [4.0, 2.0, 0.0], [1.0, 4.0, 2.0]]))
    assert fitted.tolist() == [[1, 2, 4], [2, 2, 2], [1, 3, 3]]


@pytest.mark.parametrize(
    ("target", "size"),
    [
        (-1.0, 0.0),
        (0.0, 0.0),
        (0.5, np.sqrt(5 * 10)),
        (1.0, 10.0),
        (2.0, 10 * 4 ** (1 / 3)),
        (4.0, 40.0),
        (4.001, np.inf),
    ],
)
def test_a_target_is_reached_linearly_in_the_logarithm_of_the_size(target, size):
    sizes = np.array([5, 10, 40])
    curves = np.array([[0.0, 1.0, 4.0], [9.0, 9.0, 9.0], [-9.0, -9.0, -9.0]])
    found = first_reach(sizes, curves, np.array([target, 0.0, 0.0]))
    assert found == pytest.approx([size, 0.0, np.inf])


def curve(values: dict[int, float], metric: str = "dice", images: int = 6, **columns) -> pd.DataFrame:
    """Two models a size that are alike on every image."""
    return stacked(
        *(model([v] * images, metric, n=n, fold=fold, **columns) for n, v in values.items() for fold in (0, 1))
    )


def raters(values: list[float], metric: str = "dice") -> pd.DataFrame:
    return stacked(*(observer(values, metric, name=name) for name in ("o1", "o2")))


@pytest.mark.parametrize(
    ("target", "needed", "text", "reached"),
    [
        (0.85, 10.0, "10 (10)", 1.0),
        # A third of the way between 0.8 and 0.9 in the logarithm is 5 * 4^(1/3) = 7.94.
        (0.8 + 0.1 / 3, 7.937, "8 (8)", 1.0),
        (0.79, 0.0, "≤5 (≤5)", 1.0),
        (0.91, np.inf, ">20 (>20)", 0.0),
    ],
)
@pytest.mark.parametrize("metric", ["dice", "rms_dta_cm"])
def test_where_nothing_scatters_the_slices_needed_are_exact(metric, target, needed, text, reached):
    values = {5: 0.8, 20: 0.9}
    if metric == "rms_dta_cm":
        values, target = {n: 1 - value for n, value in values.items()}, 1 - target
    table = slices_needed_table(curve(values, metric), raters([target] * 6, metric), metric, replicates=100)
    assert table.columns.tolist() == [
        *("source_task", "sizes", "needed", "low", "high", "text", "share_reached", "note")
    ]
    row = table.iloc[0]
    assert (row["source_task"], row["sizes"], row["note"]) == ("random", 2, "")
    assert [row["needed"], row["low"], row["high"]] == pytest.approx([needed] * 3, rel=1e-3)
    assert row["text"] == text and row["share_reached"] == reached


def test_a_curve_that_falls_is_levelled_first():
    # 0.9 and 0.84 become 0.87 each, and 0.835 lies half-way there from 0.8.
    table = slices_needed_table(curve({5: 0.8, 10: 0.9, 20: 0.84}), raters([0.835] * 6), replicates=100)
    assert table["needed"][0] == pytest.approx(np.sqrt(50)) and table["sizes"][0] == 3


# The observers are better on three of the six images. A replicate draws five, so that the number of better ones among
# them is binomial (5, 1/2), with quantiles of 2.5, 5 and 25 % at 0, 1 and 2 images, and in the mirror.
@pytest.mark.parametrize(
    ("settings", "least"), [({}, 0), ({"level": 0.95}, 0), ({"level": 0.9}, 1), ({"level": 0.5}, 2)]
)
def test_the_interval_is_that_of_the_redrawn_images(settings, least):
    scores, observers = curve({5: 0.8, 20: 0.9}), raters([0.82] * 3 + [0.88] * 3)
    row = slices_needed_table(scores, observers, replicates=20_000, **settings).iloc[0]
    low, high = (5 * 4 ** (0.2 + 0.6 * better / 5) for better in (least, 5 - least))
    assert [row["needed"], row["low"], row["high"]] == pytest.approx([10, low, high])
    assert row["text"] == f"10 ({low:.0f} to {high:.0f})" and row["share_reached"] == 1


def test_the_models_of_every_size_are_drawn_by_themselves():
    # A replicate draws one model of two at each size: four curves, each in a quarter of the replicates.
    models = {(5, 0): 0.80, (5, 1): 0.82, (20, 0): 0.98, (20, 1): 0.90}
    scores = stacked(*(model([v] * 6, n=n, fold=fold) for (n, fold), v in models.items()))
    row = slices_needed_table(scores, raters([0.85] * 6)).iloc[0]
    shares = {(a, b): (0.85 - a) / (b - a) for a, b in ((0.81, 0.94), (0.82, 0.98), (0.80, 0.90))}
    assert [row["needed"], row["low"], row["high"]] == pytest.approx([5 * 4**share for share in shares.values()])


def test_an_interval_may_leave_the_sizes_that_were_run():
    scores, observers = curve({5: 0.8, 20: 0.9}), raters([0.75] * 3 + [0.95] * 3)
    row = slices_needed_table(scores, observers, replicates=20_000).iloc[0]
    assert row["text"] == "10 (≤5 to >20)" and row["low"] == 0 and row["high"] == np.inf
    # Four or five better images of five, 6 of 32 draws, raise the observers above 0.9.
    assert row["share_reached"] == pytest.approx(26 / 32, abs=0.01)


def test_the_draws_follow_the_seed():
    def shares(**settings) -> float:
        scores, observers = curve({5: 0.8, 20: 0.9}), raters([0.75] * 3 + [0.95] * 3)
        return slices_needed_table(scores, observers, **settings)["share_reached"][0]

    assert shares() == shares(seed=0, replicates=2000) != shares(seed=1)
    # A share of 2000 draws, and of none fewer.
    assert shares() * 2000 == pytest.approx(round(shares() * 2000)) and shares(replicates=100) * 100 % 1 == 0
    with pytest.raises(ValueError, match="at least 100 replicates"):
        shares(replicates=99)


def test_source_tasks_without_an_answer_say_why_and_leave_the_others_theirs():
    scores = stacked(
        curve({5: 0.8}, task="jigsaw"),
        curve({5: 0.8, 20: 0.9}, task="reconstruction").query("fold == 0"),
        curve({5: 0.8, 20: 0.9}),
    )
    table = slices_needed_table(scores, raters([0.85] * 6), replicates=100)
    assert table["source_task"].tolist() == ["jigsaw", "reconstruction", "random"]
    assert table["sizes"].tolist() == [1, 2, 2]
    assert table["note"].tolist() == [
        "n/a: fewer than two training-set sizes",
        "n/a: fewer than 2 raters, whose differences cannot be told from the images'",
        "",
    ]
    assert table["text"].tolist() == ["n/a", "n/a", "10 (10)"]
    assert table.loc[:1, ["needed", "low", "high", "share_reached"]].isna().all(axis=None)


def test_an_empty_prediction_may_count_as_the_worst():
    scores = curve({5: 0.5, 20: 0.1}, "rms_dta_cm")
    # Of both models of the larger size no outline of image a: 0.5 cm is the worst that any model drew of it.
    scores.loc[(scores["n_train"] == 20) & (scores["patient_id"] == "a"), ["rms_dta_cm", "failure"]] = NAN, "empty"
    observers = raters([0.3] * 6, "rms_dta_cm")
    left_out, worst = (
        slices_needed_table(scores, observers, "rms_dta_cm", failures=failures, replicates=100)["needed"][0]
        for failures in ("leave_out", "worst")
    )
    assert left_out == slices_needed_table(scores, observers, "rms_dta_cm", replicates=100)["needed"][0]
    # Means of the larger size of 0.1 and of (0.5 + 5 * 0.1) / 6 cm.
    assert left_out == pytest.approx(5 * 4 ** (0.2 / 0.4)) and worst == pytest.approx(5 * 4 ** (0.2 / (0.5 - 1 / 6)))


@pytest.mark.parametrize(
    ("metric", "scores", "observers", "message"),
    [
        ("sma_cm2", curve({5: 0.8}), raters([0.8]), r"unknown metric 'sma_cm2'; choose one of dice, rms_dta_cm$"),
        ("dice", curve({5: 0.8}).iloc[:0], raters([0.8]), "the score table has no rows"),
        ("dice", curve({5: 0.8}), raters([0.8]).iloc[:0], "the observer table has no rows"),
        (
            "dice",
            curve({5: 0.8}),
            raters([0.8]).assign(patient_id="z"),
            r"^models and observers share no image: tables of different runs\?$",
        ),
    ],
)
def test_tables_that_do_not_go_together_are_refused(metric, scores, observers, message):
    with pytest.raises(ValueError, match=message):
        slices_needed_table(scores, observers, metric)


COLUMNS = [
    *("source_task", "n_train", "n_pairs", "n", "failures_with", "failures_without", "mean_with", "mean_without"),
    *("difference", "low", "high", "p_raw", "p_value", "verdict", "note"),
]
WITH = [0.80, 0.90, 0.85, 0.75]
GAINED = np.array([0.01, 0.03, 0.02, 0.05])


def test_one_pair_of_models_is_a_paired_t_test_over_images():
    table = ablation_table(model(WITH), model(WITH - GAINED))
    assert table.columns.tolist() == COLUMNS
    row = table.iloc[0]
    expected = stats.ttest_1samp(GAINED, 0)
    assert [row["difference"], row["p_raw"], row["p_value"]] == pytest.approx([0.0275, *[expected.pvalue] * 2])
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (row["mean_with"], row["mean_without"]) == pytest.approx((0.825, 0.7975))
    assert (row["source_task"], row["n_train"], row["n_pairs"], row["n"]) == ("random", 5, 1, 4)
    assert (row["failures_with"], row["failures_without"], row["verdict"]) == (0, 0, "")
    assert row["note"] == "one pair of models: the interval is over images only"
    narrow = ablation_table(model(WITH), model(WITH - GAINED), level=0.5).iloc[0]
    assert (narrow["low"], narrow["high"]) == pytest.approx(tuple(expected.confidence_interval(0.5)))


def several() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three pairs of models, the second table in another order."""
    rng = np.random.default_rng(0)
    without = [model(0.7 + 0.1 * rng.random(6), fold=fold) for fold in range(3)]
    with_ = [one.assign(dice=one["dice"] + 0.03 + 0.002 * rng.normal(size=6)) for one in without]
    return stacked(*with_), stacked(*without).sample(frac=1, random_state=0)


def test_several_pairs_are_a_mixed_model_of_their_differences():
    with_, without = several()
    row = ablation_table(with_, without).iloc[0]
    by_model = (table.pivot(index="fold", columns="patient_id", values="dice") for table in (with_, without))
    differences = next(by_model) - next(by_model)
    fit = fit_mean(differences.to_numpy())
    # Every model has every image, so that the estimate is the plain mean.
    assert row["difference"] == pytest.approx(differences.to_numpy().mean())
    assert [row["low"], row["high"], row["p_raw"]] == pytest.approx([*fit.interval(0.95), fit.p_value])
    assert (row["n_pairs"], row["n"], row["note"], row["verdict"]) == (3, 18, "", "better")
    assert row["mean_with"] - row["mean_without"] == pytest.approx(row["difference"])
    low, high = ablation_table(with_, without, level=0.5).loc[0, ["low", "high"]]
    assert (low, high) == pytest.approx(fit.interval(0.5))


def test_the_opposite_comparison_is_the_mirror():
    with_, without = several()
    one, other = ablation_table(with_, without).iloc[0], ablation_table(without, with_).iloc[0]
    assert [other["difference"], other["low"], other["high"]] == pytest.approx(
        [-one["difference"], -one["high"], -one["low"]]
    )
    assert other["p_raw"] == pytest.approx(one["p_raw"])
    assert (one["verdict"], other["verdict"]) == ("better", "worse")


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
    assert ablation_table(high, low, metric)["verdict"].tolist() == [more]
    assert ablation_table(low, high, metric)["verdict"].tolist() == [less]


def test_a_verdict_begins_below_the_level():
    high, low = model(WITH), model(WITH - GAINED)
    p = stats.ttest_1samp(high["dice"] - low["dice"], 0).pvalue
    for alpha, verdict in ((p, ""), (np.nextafter(p, 1), "better")):
        assert ablation_table(high, low, alpha=alpha)["verdict"].tolist() == [verdict]


@pytest.mark.parametrize(("p_value", "verdict"), [(0.00099, "better"), (0.00101, "")])
def test_the_level_is_the_papers(p_value, verdict):
    gained = GAINED - GAINED.mean() + stats.t.isf(p_value / 2, 3) * stats.sem(GAINED)
    table = ablation_table(model(WITH), model(WITH - gained))
    assert table["p_value"][0] == pytest.approx(p_value) and table["verdict"].tolist() == [verdict]


def test_cells_of_both_tables_are_corrected_together():
    pairs = [(5, GAINED), (10, GAINED - 0.02), (25, -GAINED)]
    with_ = stacked(*(model(WITH, n=n) for n, _ in pairs), model(WITH, task="jigsaw"))
    without = stacked(model(WITH, n=50), *(model(WITH - gained, n=n) for n, gained in pairs))
    table = ablation_table(with_, without)
    assert table["n_train"].tolist() == [5, 10, 25] and set(table["source_task"]) == {"random"}
    raw = [stats.ttest_1samp(gained, 0).pvalue for _, gained in pairs]
    assert table["p_raw"].to_numpy() == pytest.approx(raw)
    # Holm: the smallest times three, the next times two; none below the one before, none above one.
    assert raw[0] == raw[2] < raw[1]
    assert table["p_value"].to_numpy() == pytest.approx([3 * raw[0], min(max(raw[1], 3 * raw[0]), 1), 3 * raw[2]])
    plain = ablation_table(with_, without, correction="none")
    assert plain["p_value"].to_numpy() == pytest.approx(raw)
    assert ablation_table(with_, without, alpha=2 * raw[0])["verdict"].tolist() == ["", "", ""]
    assert ablation_table(with_, without, alpha=2 * raw[0], correction="none")["verdict"].tolist() == [
        "better",
        "",
        "worse",
    ]


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
    assert row["note"] == "3 models without a partner left out; 2 pairs with a failed prediction left out"
    assert row["mean_with"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.9 + 0.8 + 0.65) / 6)
    assert row["mean_without"] == pytest.approx((0.85 + 0.6 + 0.5 + 0.8 + 0.77 + 0.6) / 6)
    single = ablation_table(with_.query("fold != 1"), without).iloc[0]
    assert (single["n_pairs"], single["n"]) == (1, 3)
    assert single["note"] == (
        "4 models without a partner left out; 1 pairs with a failed prediction left out; "
        "one pair of models: the interval is over images only"
    )


def test_an_empty_prediction_may_count_as_the_worst_of_its_own_table():
    with_ = model([0.5, 0.25, NAN], "rms_dta_cm", failure=["", "", "empty"])
    without = stacked(model([1.0, 1.25, 1.5], "rms_dta_cm"), model([2.0] * 3, "rms_dta_cm", fold=1))
    left_out = ablation_table(with_, without, "rms_dta_cm", failures="leave_out").iloc[0]
    assert left_out["n"] == 2 and left_out["note"] == "n/a: too few images, or nothing varies"
    pd.testing.assert_series_equal(left_out, ablation_table(with_, without, "rms_dta_cm").iloc[0])
    worst = ablation_table(with_, without, "rms_dta_cm", failures="worst").iloc[0]
    assert (worst["n"], worst["failures_with"], worst["failures_without"]) == (3, 1, 0)
    assert worst["mean_with"] == pytest.approx(1.25 / 3) and worst["mean_without"] == 1.25


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("gained", "note", "n"),
    [
        ([0.01, 0.02, NAN, NAN], "n/a: too few images, or nothing varies", 2),
        ([0.25, 0.25, 0.25, NAN], "n/a: too few images, or nothing varies", 3),
        ([NAN] * 4, "n/a: too few images, or nothing varies", 0),
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


def test_three_images_of_one_pair_are_enough():
    row = ablation_table(model([0.8, 0.9, 0.7]), model([0.7, 0.85, 0.68])).iloc[0]
    assert row["p_raw"] == pytest.approx(stats.ttest_1samp([0.1, 0.05, 0.02], 0).pvalue)


def test_several_pairs_of_too_few_images_say_so():
    with_, without = (table[table["patient_id"] < "c"] for table in several())
    row = ablation_table(with_, without).iloc[0]
    assert row["note"] == "n/a: models: fewer than 3 images" and np.isnan(row["p_value"])


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
    with pytest.raises(ValueError, match="unknown failures"):
        ablation_table(model(WITH), model(WITH - GAINED), failures="best")
