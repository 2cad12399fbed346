"""What the benchmark's chapter says follows from the rows, whoever wins."""

import numpy as np
import pandas as pd
import pytest

from l3muscle import comparisons, figures
from l3muscle.book.comparisons import compare, comparison_rows, outcome, plain, reasons_where_worse, without_value
from l3muscle.book.resolution import FREQUENCIES
from l3muscle.profile import load_profile

COLUMNS = ["part", "case", "quantity", "unit", "better", "side", "repeat", "value", "note"]


def rows(part, case, quantity, side, values, *, unit=None, better="lower", note=None):
    return [(part, case, quantity, unit, better, side, place, value, note) for place, value in enumerate(values)]


@pytest.fixture
def scores() -> pd.DataFrame:
    found = [
        *rows("measures", "Dice", "time a pair", "ours", [1.0, 2.0, 4.0], unit="ms"),
        *rows("measures", "Dice", "time a pair", "A", [2.0, 8.0, 8.0], unit="ms"),
        *rows("measures", "Dice", "time a pair", "B", [0.5, 1.0, 3.0], unit="ms"),
        ("measures", "Dice", "time a pair", "ms", "lower", "C", np.nan, np.nan, "n/a (not installed)"),
        *rows("measures", "Dice", "largest difference, Dice", "A", [0.0]),
        *rows("measures", "Dice", "largest difference, Dice", "B", [0.02]),
        *rows("augmentation", "all", "images a second", "ours", [100.0, 200.0], unit="1/s", better="higher"),
        *rows("augmentation", "all", "images a second", "A", [50.0, 50.0], unit="1/s", better="higher"),
        *rows("training step", "x", "time a step", "ours", [10.0], unit="ms"),
        *rows("training step", "x", "rate", "matrix product", [50.0], unit="GFLOP/s", better="higher"),
        *rows("training step", "x", "share of the matrix rate", "ours", [0.4, 0.6], better="higher"),
        *rows("training step", "x", "peak memory", "ours", [900.0], unit="MiB"),
        *rows("task", "source task, once", "CPU time", "ours", [30.0], unit="s"),
        *rows("scaling", "models = 4", "time", "predicted", [8.0], unit="s"),
        *rows("scaling", "models = 4", "time", "measured", [10.0], unit="s"),
        *rows("scaling", "models = 4", "memory", "predicted", [600.0], unit="MiB"),
        *rows("scaling", "models = 4", "memory", "measured", [500.0], unit="MiB"),
    ]
    for side, dice in {"ours": [0.8, 0.9, 0.7], "nnU-Net": [0.9, 0.95, 0.85]}.items():
        found += rows("task", "n = 5", "Dice", side, dice, better="higher")
        found += rows("task", "n = 5", "CPU time of training", side, [20.0] * 3, unit="s")
        found += rows("task", "n = 5", "steps", side, [100] * 3)
    for side, power in {"ours": 2, "as sharp": 2, "duller": 4}.items():
        for frequency in FREQUENCIES:
            values = [np.sinc(frequency) ** power]
            found += rows(
                "augmentation", f"{frequency:g} cycles a pixel", "contrast kept", side, values, better="higher"
            )
    return pd.DataFrame(found, columns=COLUMNS)


def test_ratios_are_taken_within_a_repeat_and_above_one_ours_is_better(scores):
    table = compare(scores, "measures", "time a pair").set_index("peer")
    assert table.loc["A", ["ratio", "low", "high"]].tolist() == [2, 2, 4]
    assert table.loc["B", ["ratio", "low", "high"]].tolist() == [0.5, 0.5, 0.75]
    assert table.loc["A", ["ours", "theirs", "repeats"]].tolist() == [2, 8, 3]
    assert np.isnan(table.loc["C", "ratio"]) and table.loc["C", "note"] == "n/a (not installed)"
    faster = compare(scores, "augmentation", "images a second")
    assert faster[["ratio", "low", "high"]].iloc[0].tolist() == [3, 2, 4]


def test_a_baseline_that_failed_leaves_no_ratio(scores):
    gone = scores[~((scores.side == "ours") & (scores.part == "measures"))]
    table = compare(gone, "measures", "time a pair")
    assert table["ratio"].isna().all() and outcome(table) == comparisons.NOT_MEASURED
    assert comparison_rows(table)[0]["ours"] == "n/a"


def test_who_wins_is_said_whoever_it_is(scores):
    table = compare(scores, "measures", "time a pair")
    assert (
        outcome(table) == "Ours is faster in 1 of 2 comparisons, by 2.0 times; ours is slower than B (Dice: 2.0 times)."
    )
    assert reasons_where_worse(table, {"A": "no.", "B": "it is."}) == "- *B* is ahead: it is."
    assert reasons_where_worse(table[table.peer == "A"], {}) == ""
    even = table.assign(ratio=1.01)
    assert outcome(even) == "3 of 3 are within 2%."


def test_work_is_named_once_and_a_peer_without_a_value_is_shown_as_such(scores):
    table = compare(scores, "measures", "time a pair")
    shown = comparison_rows(table)
    assert [row["work"] for row in shown] == ["Dice", "", ""]
    assert [row["theirs"] for row in shown] == ["8.00 ms", "1.00 ms", "n/a"]
    assert table["note"].tolist()[-1] == "n/a (not installed)"
    assert [row["times better"] for row in shown] == ["**2.0**", "**0.50**", ""]


def test_the_page_says_why_a_side_has_no_value(scores):
    assert without_value(scores, "measures", "time a pair") == "Without a value (n/a): C for *Dice* (not installed)."
    lacking = scores[scores.side == "C"]
    more = pd.concat([scores, lacking.assign(case="area"), lacking.assign(side="ours", note="n/a (no GPU)")])
    assert without_value(more, "measures", "time a pair") == (
        "Without a value (n/a): C for *Dice*, *area* (not installed); ours for *Dice* (no GPU)."
    )
    assert without_value(scores[scores.side != "C"], "measures", "time a pair") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (123.4, "123"), (1.2345, "1.23"), (0.01234, "0.0123"), (1e-9, "1.0e-09"), (np.nan, "n/a")],
)
def test_numbers_keep_the_digits_that_count(value, text):
    assert plain(value) == text


def test_each_part_is_put_into_words(scores):
    assert comparisons.agreement_rows(scores) == [{"work": "Dice", "value": "Dice", "A": "0", "B": "0.020"}]
    assert comparisons.agreement_outcome(scores).startswith("1 of 2 values agree with ours to six decimals. The others")
    [peak] = comparisons.peak_rows(scores)
    assert (peak["share of the matrix rate"], peak["range"], peak["peak memory"]) == ("**50%**", "40% … 60%", "900 MiB")
    ours, theirs = comparisons.budget_rows(scores)
    assert (ours["Dice"], ours["range"], theirs["Dice"]) == ("**0.800**", "0.700 … 0.900", "**0.900**")
    said = comparisons.budget_outcome(scores, 20)
    assert "at n = 5 *nnU-Net* is ahead (0.900; ours 0.800)" in said and "30 s of CPU time" in said
    table = comparisons.forecasts(scores)
    assert comparisons.forecast_rows(table)[0]["time, ratio"] == "**0.80**"
    assert "Time was forecast at 0.80 to 0.80 times" in comparisons.forecast_outcome(table)
    said = comparisons.sharpness_outcome(scores)
    assert said == (
        "Of waves 4 pixels long, ours keeps 81% of the contrast; as much is left by as sharp (81%); less is left by "
        "duller (66%)."
    )


def test_an_archive_without_a_part_says_so(scores):
    nothing = scores[scores.part == "none"]
    table = compare(nothing, "measures", "time a pair")
    made = (comparisons.agreement_rows, comparisons.peak_rows, comparisons.budget_rows)
    for rows_ in [comparison_rows(table), comparisons.forecast_rows(comparisons.forecasts(nothing)),
                  *(make(nothing) for make in made)]:  # fmt: skip
        assert rows_ == [{"what": "not measured in the archived run"}]
    for said in (
        outcome(table),
        comparisons.agreement_outcome(nothing),
        comparisons.budget_outcome(nothing, 1),
        comparisons.forecast_outcome(comparisons.forecasts(nothing)),
        comparisons.sharpness_outcome(nothing),
    ):
        assert said == comparisons.NOT_MEASURED
    assert comparisons.aims_outcome(nothing) == "" and reasons_where_worse(table, {}) == ""
    for draw, shown in (
        (figures.ratio_chart, table),
        (figures.contrast_curves, nothing),
        (figures.accuracy_at_budget, nothing),
        (figures.forecast_and_measured, nothing),
    ):
        assert "not part of this run" in draw(shown).axes[0].texts[0].get_text()


@pytest.mark.parametrize(("seconds", "missed"), [(0.4, 0), (0.6, 1)])
def test_an_aim_that_is_missed_is_said_to_be(seconds, missed):
    case = "all four measures, reference prepared"
    found = pd.DataFrame(rows("measures", case, "time a pair", "ours", [seconds]), columns=COLUMNS)
    assert comparisons.aims_outcome(found).count("missed") == missed


def test_the_papers_cost_is_said_only_where_a_gpu_was_measured(scores):
    profile = load_profile("paper")
    assert "not measured" in comparisons.paper_cost(scores, profile, None)
    gpu = pd.DataFrame(rows("training step", "512 x 512, GPU", "time a step", "ours", [90.0]), columns=COLUMNS)
    said = comparisons.paper_cost(pd.concat([scores, gpu]), profile, "a GPU")
    assert "560 models" in said and f"at most {560 * profile.training.max_steps * 0.09 / 3600:.0f} hours" in said


def test_conditions_name_what_was_not_installed():
    record = {
        "commit": "a" * 40,
        "processor": "P",
        "cores": 2,
        "gpu": None,
        "system": "S",
        "python": "3",
        "versions": {},
    }
    about = {"measured": "2026-01-02", "load_at_start": 0.1, "seconds": 600, "size": "full", "provenance": record}
    found = {row["what"]: row["value"] for row in comparisons.conditions({**about, "peers": {"a": "1", "b": None}})}
    assert found["theirs"] == "a 1, b not installed" and found["took"] == "10 min at size `full`"
    assert "measured again" not in found
    again = {"training_step": {"measured": "2026-01-03", "commit": "b" * 40, "load_at_start": 0.02}}
    [line] = [
        row["value"]
        for row in comparisons.conditions({**about, "peers": {}, "measured_again": again})
        if row["what"] == "measured again"
    ]
    assert line == f"training step, 2026-01-03, commit `{'b' * 10}`, load 0.02"


def test_figures_draw_the_medians(scores):
    axes = figures.ratio_chart(compare(scores, "measures", "time a pair")).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["A", "B"]
    assert [float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1] == [2, 0.5]
    sharp = scores[scores.quantity == "contrast kept"]
    curves = {line.get_label(): line.get_ydata() for line in figures.contrast_curves(sharp).axes[0].lines}
    np.testing.assert_allclose(curves["duller"], np.sinc(FREQUENCIES) ** 4)
    dice = scores[scores.quantity == "Dice"]
    [point] = [line.get_ydata()[0] for line in figures.accuracy_at_budget(dice).axes[0].lines[:1]]
    assert point == 0.8
    panels = figures.forecast_and_measured(scores[scores.part == "scaling"]).axes
    assert [float(line.get_ydata()[0]) for axes in panels for line in axes.lines] == [8, 10, 600, 500]
    assert len(figures.stars(64).axes) == 3
