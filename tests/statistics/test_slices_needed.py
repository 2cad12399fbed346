"""The slices needed, on curves whose answer is worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from score_rows import model, observer, stacked

from l3muscle.statistics import slices_needed_table
from l3muscle.statistics.slices_needed import first_reach

NAN = np.nan


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
    assert first_reach(sizes, np.array([0.0, 1.0, 4.0]), target) == pytest.approx(size)
    assert first_reach(sizes, np.full(3, 9.0), target) == 0 and first_reach(sizes, np.full(3, -9.0), target) == np.inf


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
# them is binomial (5, 1/2), with its quantile of 2.5 % at 0 images, and in the mirror.
def test_the_interval_is_that_of_the_redrawn_images():
    scores, observers = curve({5: 0.8, 20: 0.9}), raters([0.82] * 3 + [0.88] * 3)
    row = slices_needed_table(scores, observers, replicates=20_000).iloc[0]
    low, high = (5 * 4 ** (0.2 + 0.6 * better / 5) for better in (0, 5))
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
