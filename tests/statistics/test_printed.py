"""The paper's printed p-values: how they are read and laid beside a run's."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_rows import scores_of

from l3muscle.metrics import MEASURES
from l3muscle.statistics import (
    REPORTED_NAMES,
    beside_paper,
    configuration_summary,
    mann_whitney_beside_paper,
    p_text,
    printed_mean_text,
    reported_p_values,
)
from l3muscle.statistics.printed import (
    is_below,
    printed_configurations,
    printed_means,
    printed_number,
    printed_pairs,
)

SIZES = [5, 10, 25, 50, 75, 100, 125]


def test_every_printed_value_is_there_as_text():
    table = reported_p_values()
    assert list(table) == ["table", "metric", "source_task", "versus", "n_train", "p_value_as_printed", "marked"]
    assert not table.isna().any(axis=None) and table["n_train"].dtype == int
    assert sorted(table["n_train"].unique()) == SIZES
    assert {"1.0", "1.000", "0.0100", "***", "****", "<0.001"} <= set(table["p_value_as_printed"])
    assert set(table["source_task"]) == set(REPORTED_NAMES.values())
    # Counted on the page.
    underlined = table[table["marked"] != ""].groupby(["table", "metric", "marked"]).size()
    assert underlined.to_dict() == {("1", "DSC", "worse"): 6, ("1", "RMS-DTA", "worse"): 7, ("2", "SMD", "worse"): 1}


@pytest.mark.parametrize(
    ("text", "number", "sides"),
    [
        # Below or not at 0.01, at 0.001 and at 0.0001; None where the print does not tell.
        ("<0.001", np.nan, (True, True, None)),
        ("***", np.nan, (True, True, None)),
        ("****", np.nan, (True, True, None)),
        ("0.001", 0.001, (True, False, False)),
        ("0.0012", 0.0012, (True, False, False)),
        ("0.038", 0.038, (False, False, False)),
        ("1.000", 1.0, (False, False, False)),
    ],
)
def test_a_printed_value_is_a_number_or_below_a_level_as_far_as_it_tells(text, number, sides):
    assert tuple(is_below(text, alpha) for alpha in (0.01, 0.001, 0.0001)) == sides
    np.testing.assert_equal(printed_number(text), number)


@pytest.mark.parametrize(
    ("metric", "task", "n", "printed", "number", "below", "marked"),
    [
        ("dice", "random", 25, "0.038", 0.038, False, ""),
        ("dice", "segmentation", 125, "<0.001", np.nan, True, ""),
        ("rms_dta_cm", "reconstruction", 10, "<0.001", np.nan, True, "worse"),
        ("rms_dta_cm", "classification", 10, "0.077", 0.077, False, ""),
        ("smd_difference_hu", "random", 5, "<0.001", np.nan, True, "worse"),
        ("smd_hu", "random", 10, "0.306", 0.306, False, ""),
        ("sma_difference_cm2", "random", 10, "0.655", 0.655, False, ""),
        ("sma_cm2", "jigsaw", 75, "1.0", 1.0, False, ""),
    ],
)
def test_tables_1_and_2_are_found_by_our_names(metric, task, n, printed, number, below, marked):
    table = printed_configurations(metric)
    assert list(table) == ["source_task", "n_train", "printed", "number", "below", "marked"]
    assert list(table.index) == list(range(35))
    keys = set(zip(table["source_task"], table["n_train"], strict=True))
    assert keys == {(t, size) for t in REPORTED_NAMES for size in SIZES}
    [row] = table[(table["source_task"] == task) & (table["n_train"] == n)].itertuples(index=False)
    np.testing.assert_equal(tuple(row), (task, n, printed, number, below, marked))


@pytest.mark.parametrize(
    ("first", "second", "n", "name", "printed", "number", "below"),
    [
        ("random", "segmentation", 125, "C.7", "0.0012", 0.0012, False),
        ("segmentation", "random", 125, "C.7", "****", np.nan, True),
        ("jigsaw", "classification", 5, "C.1", "0.2694", 0.2694, False),
    ],
)
def test_appendix_c_is_found_by_our_names(first, second, n, name, printed, number, below):
    table = printed_pairs()
    assert list(table) == ["table", "first", "second", "n_train", "printed", "number", "below"]
    assert list(table.index) == list(range(7 * 20)) and not (table["first"] == table["second"]).any()
    assert set(table["first"]) == set(table["second"]) == set(REPORTED_NAMES)
    [row] = table[(table["first"] == first) & (table["second"] == second) & (table["n_train"] == n)].itertuples(
        index=False
    )
    np.testing.assert_equal(tuple(row), (name, first, second, n, printed, number, below))


@pytest.mark.parametrize(
    ("p", "three", "four"),
    [
        (0.0, "p < 0.001", "***"),
        (0.00099, "p < 0.001", "***"),
        (0.001, "0.001", "0.0010"),
        (0.03816, "0.038", "0.0382"),
        (1.0, "1.000", "1.0000"),
        (np.nan, "n/a", "n/a"),
    ],
)
def test_p_values_are_written_as_the_paper_does(p, three, four):
    assert p_text(p) == three and p_text(p, 4, "***") == four


@pytest.mark.parametrize(
    ("n", "p", "verdict", "alpha", "paper", "ours"),
    [
        # Printed below 0.001 and underlined.
        (5, 0.0002, "worse", 0.001, "<u>< 0.001</u>", "<u>< 0.001</u>"),
        (5, 0.0002, "better", 0.001, "<u>< 0.001</u>", "**< 0.001** ≠"),
        (5, 0.001, "", 0.001, "<u>< 0.001</u>", "0.001 ≠"),
        (5, np.nan, "", 0.001, "<u>< 0.001</u>", "n/a"),
        # Printed as a number.
        (25, 0.5, "", 0.001, "0.038", "0.500"),
        (25, 0.001, "", 0.001, "0.038", "0.001"),
        (25, 0.0009, "better", 0.001, "0.038", "**< 0.001** ≠"),
        (25, 0.0009, "worse", 0.001, "0.038", "<u>< 0.001</u> ≠"),
        (25, 0.01, "worse", 0.001, "0.038", "<u>0.010</u>"),
        (25, np.nan, "", 0.001, "0.038", "n/a"),
        # Printed below 0.001 and not underlined, which is better.
        (50, 0.0009, "better", 0.001, "< 0.001", "**< 0.001**"),
        (50, 0.0009, "worse", 0.001, "< 0.001", "<u>< 0.001</u> ≠"),
        (50, 0.7, "", 0.001, "< 0.001", "0.700 ≠"),
        # Not printed.
        (30, 0.0009, "better", 0.001, "–", "**< 0.001**"),
        (30, 0.7, "", 0.001, "–", "0.700"),
        # Other levels. Printed 0.038: on another side of 0.05 than 0.2, on the same side of 0.01. Printed below 0.001:
        # nothing is known of a smaller level but the side of the control.
        (25, 0.2, "", 0.05, "0.038", "0.200 ≠"),
        (25, 0.2, "", 0.01, "0.038", "0.200"),
        (25, 0.02, "worse", 0.05, "0.038", "<u>0.020</u>"),
        (25, 0.005, "better", 0.01, "0.038", "**0.005** ≠"),
        (5, 0.0005, "", 0.0001, "<u>< 0.001</u>", "< 0.001"),
        (5, 0.005, "worse", 0.01, "<u>< 0.001</u>", "<u>0.005</u>"),
        (5, 0.00001, "better", 0.0001, "<u>< 0.001</u>", "**< 0.001** ≠"),
    ],
)
def test_a_p_value_lies_below_its_printed_value(n, p, verdict, alpha, paper, ours):
    table = pd.DataFrame({"source_task": ["random"], "n_train": [n], "p_value": [p], "verdict": [verdict]})
    assert beside_paper(table, "dice", {"random": "Random"}, alpha=alpha).to_dict("list") == {
        "source task": ["Random", ""],
        "values": ["paper", "this run"],
        f"n = {n}": [paper, ours],
    }


# Eight values that all lie beyond eight others: p = 2 / (16 choose 8), below 0.001.
LOW, HIGH = [0.1 + k / 100 for k in range(8)], [0.5 + k / 100 for k in range(8)]
AMID = [value + 0.005 for value in HIGH]


def test_a_matrix_lies_beside_the_papers():
    values = {"own": HIGH, "segmentation": LOW, "random": HIGH, "reconstruction": AMID, "jigsaw": [0.3]}
    scores = scores_of({(task, 10): of_task for task, of_task in values.items()})
    text = mann_whitney_beside_paper(scores, n_train=10).set_index(["source task", "values"])
    # In the paper's order, what it does not have last; Table C.2.
    order = ["jigsaw", "random", "segmentation", "reconstruction", "own"]
    assert list(text) == order
    assert list(text.index) == [pair for task in order for pair in ((task, "paper"), ("", "this run"))]
    mark = "\\*\\*\\*"
    paper, ours = text.iloc[::2].to_numpy().tolist(), text.iloc[1::2].to_numpy().tolist()
    assert paper == [
        ["1.0", f"{mark}\\*", mark, f"{mark}\\*", "–"],
        [f"{mark}\\*", "1.0", f"{mark}\\*", "0.9588", "–"],
        [f"{mark}\\*", f"{mark}\\*", "1.0", f"{mark}\\*", "–"],
        [f"{mark}\\*", "0.9588", f"{mark}\\*", "1.0", "–"],
        ["–", "–", "–", "–", "1.0"],
    ]
    alike = f"{stats.mannwhitneyu(HIGH, AMID).pvalue:.4f}"
    better, worse = f"**{mark}**", f"<u>{mark}</u>"
    assert ours == [
        ["1.0", "n/a", "n/a", "n/a", "n/a"],
        ["n/a", "1.0", worse, alike, "1.0000"],
        ["n/a", better, "1.0", better, better],
        ["n/a", alike, worse, "1.0", alike],
        ["n/a", "1.0000", worse, alike, "1.0"],
    ]


def test_the_other_side_of_the_level_is_marked():
    values = {"jigsaw": LOW, "classification": HIGH, "random": AMID}
    scores = scores_of({(task, 5): of_task for task, of_task in values.items()})
    text = mann_whitney_beside_paper(scores, n_train=5, labels={"jigsaw": "J", "classification": "C", "random": "R"})
    # Table C.1 has 0.2694 between jigsaw and classification, `***` elsewhere.
    alike = f"{stats.mannwhitneyu(HIGH, AMID).pvalue:.4f} ≠"
    assert text.iloc[1].tolist() == ["", "this run", "1.0", "**\\*\\*\\*** ≠", "**\\*\\*\\***"]
    assert text.iloc[3].tolist() == ["", "this run", "<u>\\*\\*\\*</u> ≠", "1.0", alike]
    assert text.iloc[5].tolist() == ["", "this run", "<u>\\*\\*\\*</u>", alike, "1.0"]
    assert list(text) == ["source task", "values", "J", "C", "R"]
    assert list(text["source task"]) == ["J", "", "C", "", "R", ""]


def test_a_matrix_is_marked_by_the_level_of_its_tests():
    # Four values beyond four others: p = 2 / 70. Table C.1 has 0.2694 between jigsaw and classification.
    scores = scores_of({("jigsaw", 5): LOW[:4], ("classification", 5): HIGH[:4]})
    assert mann_whitney_beside_paper(scores, n_train=5).loc[1, "classification"] == "0.0286"
    assert mann_whitney_beside_paper(scores, n_train=5, alpha=0.05).loc[1, "classification"] == "**0.0286** ≠"
    assert mann_whitney_beside_paper(scores, n_train=5, alpha=0.3).loc[1, "classification"] == "**0.0286**"


@pytest.mark.parametrize(("family", "comparisons"), [("n_train", 1), ("all", 2)])
def test_a_family_reaches_beyond_the_size_only_if_asked_to(family, comparisons):
    scores = scores_of(
        {(task, n): values for n in (5, 10) for task, values in (("random", LOW[:4]), ("jigsaw", HIGH[:4]))}
    )
    text = mann_whitney_beside_paper(scores, n_train=10, correction="bonferroni", family=family)
    # Four values beyond four others: p = 2 / (8 choose 4).
    assert text.loc[1, "random"] == f"{comparisons * 2 / 70:.4f} ≠"


def test_a_matrix_that_cannot_be_is_refused():
    scores = scores_of({("random", 5): LOW})
    with pytest.raises(ValueError, match="the score table has no model of n = 10$"):
        mann_whitney_beside_paper(scores, n_train=10)
    with pytest.raises(ValueError, match="lacks rms_dta_cm"):
        mann_whitney_beside_paper(scores.drop(columns="rms_dta_cm"), n_train=5)


def test_the_two_collapses_stand_beside_the_run():
    """Captions of Figures 4 and 5: 1.72 cm and -47.02 HU from random initialisation at five slices."""
    table = printed_means().set_index("measure")
    assert table["mean"].to_dict() == {"rms_dta_cm": 1.72, "smd_difference_hu": -47.02}
    curve = pd.DataFrame({"source_task": ["random", "random"], "n_train": [5, 10], "mean": [0.523, 0.4]})
    told = printed_mean_text(curve, "rms_dta_cm", {"random": "random initialisation"})
    assert told == (
        "random initialisation at n = 5: 1.72 ± 0.10 cm in the paper, whose Figure 4 leaves it out; 0.523 here."
    )
    told = printed_mean_text(curve[1:], "smd_difference_hu", {})
    assert "−47.02 ± 10.48 HU" in told and told.endswith("not run here.")
    assert printed_mean_text(curve, "dice", {}) == ""


@pytest.mark.parametrize(("n_train", "printed"), [(10, "0.036"), (7, "–")])
def test_a_configuration_is_summed_up_whether_the_paper_has_its_size_or_not(n_train, printed):
    scores = pd.DataFrame({column: [0.8, 0.9] for column in MEASURES})
    table = configuration_summary(scores, scores.head(0), "segmentation", n_train)
    row = table.loc["Dice similarity coefficient"]
    assert (row["models"], row["paper: p"]) == ("0.850 ± 0.071", printed) and "observers" not in row


def test_the_observers_and_a_printed_mean_stand_beside_a_configuration():
    scores = pd.DataFrame({column: [-0.8, -0.9] for column in MEASURES})
    table = configuration_summary(scores, 2 * scores, "random", 5)
    assert list(table.index) == [row.label for name, row in MEASURES.items() if len(printed_configurations(name))]
    density = table.loc[MEASURES["smd_difference_hu"].label]
    assert density["models"].startswith("−0.8") and density["observers"].startswith("−1.7")
    assert density["paper: models"].startswith("−47.02") and "-" not in "".join(map(str, density))
    assert list(table["paper: models"].dropna().index) == [
        MEASURES[name].label for name in ("rms_dta_cm", "smd_difference_hu")
    ]


def test_every_source_task_of_a_table_has_its_two_rows():
    verdicts = [(task, n, 0.5, "") for task in ("random", "jigsaw") for n in (25, 5)]
    table = pd.DataFrame(verdicts, columns=["source_task", "n_train", "p_value", "verdict"])
    text = beside_paper(table, "dice", {"random": "Random", "jigsaw": "Jigsaw"}, ours="ours")
    assert list(text) == ["source task", "values", "n = 5", "n = 25"]
    assert text[["source task", "values"]].to_numpy().tolist() == [
        ["Random", "paper"],
        ["", "ours"],
        ["Jigsaw", "paper"],
        ["", "ours"],
    ]
