"""The paper's printed p-values: how they are read, laid beside a run's, and what is odd about them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from l3muscle.statistics import (
    REPORTED_NAMES,
    beside_paper,
    mann_whitney_beside_paper,
    p_text,
    printed_oddities,
    reported_p_values,
    stars_text,
)
from l3muscle.statistics import printed as module
from l3muscle.statistics.printed import ODDITY_CHECKS, is_below, printed_cells, printed_number, printed_pairs

COLUMNS = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id", "rms_dta_cm", "failure"]
SIZES = [5, 10, 25, 50, 75, 100, 125]


def scores_of(values: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """RMS-DTA by source task and training-set size, each value of a model of its own."""
    rows = [
        (task, n, fold, 0, 0, "p", value, "")
        for (task, n), of_cell in values.items()
        for fold, value in enumerate(of_cell)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def changed(metric: str, task: str, n: int, value: str, *, versus: str = "", column: str = "p_value_as_printed"):
    """The paper's table with another value in one of its cells."""
    table = reported_p_values()
    where = (table["metric"] == metric) & (table["source_task"] == task) & (table["n_train"] == n)
    where &= table["versus"] == versus
    assert where.sum() == 1
    table.loc[where, column] = value
    return table


def found(table: pd.DataFrame, check: str) -> list[tuple[str, ...]]:
    """What a check finds that it does not find in the paper."""
    known = list(ODDITY_CHECKS[check](reported_p_values()))
    return [finding for finding in ODDITY_CHECKS[check](table) if finding not in known]


def test_the_level_is_the_papers():
    assert module.ALPHA == 0.001


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
    ("text", "below", "number"),
    [
        ("<0.001", True, np.nan),
        ("***", True, np.nan),
        ("****", True, np.nan),
        ("0.001", False, 0.001),
        ("0.0012", False, 0.0012),
        ("0.038", False, 0.038),
        ("1.000", False, 1.0),
    ],
)
def test_a_printed_value_is_a_number_or_below_the_level(text, below, number):
    assert is_below(text) is below
    np.testing.assert_equal(printed_number(text), number)


def test_a_number_may_lie_below_the_level_too():
    assert is_below("0.0009") and not is_below("0.0010")


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
    table = printed_cells(metric)
    assert list(table) == ["source_task", "n_train", "printed", "number", "below", "marked"]
    assert list(table.index) == list(range(35))
    keys = set(zip(table["source_task"], table["n_train"], strict=True))
    assert keys == {(t, size) for t in REPORTED_NAMES for size in SIZES}
    [row] = table[(table["source_task"] == task) & (table["n_train"] == n)].itertuples(index=False)
    np.testing.assert_equal(tuple(row), (task, n, printed, number, below, marked))


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="unknown metric 'jaccard'"):
        printed_cells("jaccard")
    with pytest.raises(ValueError, match="unknown metric 'jaccard'"):
        beside_paper(pd.DataFrame({"source_task": [], "n_train": []}), "jaccard", {})


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
    assert list(table) == ["table", "n_train", "first", "second", "printed", "number", "below"]
    assert list(table.index) == list(range(7 * 20)) and not (table["first"] == table["second"]).any()
    assert set(table["first"]) == set(table["second"]) == set(REPORTED_NAMES)
    [row] = table[(table["first"] == first) & (table["second"] == second) & (table["n_train"] == n)].itertuples(
        index=False
    )
    np.testing.assert_equal(tuple(row), (name, n, first, second, printed, number, below))


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
    assert p_text(p) == three and stars_text(p) == four


@pytest.mark.parametrize(
    ("n", "p", "verdict", "paper", "ours"),
    [
        # Printed below 0.001 and underlined.
        (5, 0.0002, "worse", "<u>< 0.001</u>", "<u>< 0.001</u>"),
        (5, 0.0002, "better", "<u>< 0.001</u>", "**< 0.001** ≠"),
        (5, 0.001, "", "<u>< 0.001</u>", "0.001 ≠"),
        (5, np.nan, "", "<u>< 0.001</u>", "n/a"),
        # Printed as a number.
        (25, 0.5, "", "0.038", "0.500"),
        (25, 0.001, "", "0.038", "0.001"),
        (25, 0.0009, "better", "0.038", "**< 0.001** ≠"),
        (25, 0.0009, "worse", "0.038", "<u>< 0.001</u> ≠"),
        (25, 0.01, "worse", "0.038", "<u>0.010</u>"),
        (25, np.nan, "", "0.038", "n/a"),
        # Printed below 0.001 and not underlined, which is better.
        (50, 0.0009, "better", "< 0.001", "**< 0.001**"),
        (50, 0.0009, "worse", "< 0.001", "<u>< 0.001</u> ≠"),
        (50, 0.7, "", "< 0.001", "0.700 ≠"),
        # Not printed.
        (30, 0.0009, "better", "–", "**< 0.001**"),
        (30, 0.7, "", "–", "0.700"),
    ],
)
def test_a_cell_lies_below_its_printed_value(n, p, verdict, paper, ours):
    table = pd.DataFrame({"source_task": ["random"], "n_train": [n], "p_value": [p], "verdict": [verdict]})
    assert beside_paper(table, "dice", {"random": "Random"}).to_dict("list") == {
        "source task": ["Random", ""],
        "values": ["paper", "this run"],
        f"n = {n}": [paper, ours],
    }


def test_source_tasks_keep_their_order_and_sizes_are_sorted():
    table = pd.DataFrame(
        [("segmentation", 25, 0.5, ""), ("random", 25, 0.4, ""), ("own", 25, 0.3, ""), ("random", 10, 0.0001, "worse")],
        columns=["source_task", "n_train", "p_value", "verdict"],
    )
    text = beside_paper(table, "rms_dta_cm", {"segmentation": "S", "random": "R", "own": "O"}, ours="archive")
    assert list(text) == ["source task", "values", "n = 10", "n = 25"]
    assert text.to_numpy().tolist() == [
        ["S", "paper", "0.395", "0.992"],
        ["", "archive", "–", "0.500"],
        ["R", "paper", "<u>< 0.001</u>", "0.999"],
        ["", "archive", "<u>< 0.001</u>", "0.400"],
        ["O", "paper", "–", "–"],
        ["", "archive", "–", "0.300"],
    ]


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
    stars = "\\*\\*\\*"
    paper, ours = text.iloc[::2].to_numpy().tolist(), text.iloc[1::2].to_numpy().tolist()
    assert paper == [
        ["1.0", f"{stars}\\*", stars, f"{stars}\\*", "–"],
        [f"{stars}\\*", "1.0", f"{stars}\\*", "0.9588", "–"],
        [f"{stars}\\*", f"{stars}\\*", "1.0", f"{stars}\\*", "–"],
        [f"{stars}\\*", "0.9588", f"{stars}\\*", "1.0", "–"],
        ["–", "–", "–", "–", "1.0"],
    ]
    alike = f"{stats.mannwhitneyu(HIGH, AMID).pvalue:.4f}"
    better, worse = f"**{stars}**", f"<u>{stars}</u>"
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
    # Table C.1 has 0.2694 between jigsaw and classification, stars elsewhere.
    alike = f"{stats.mannwhitneyu(HIGH, AMID).pvalue:.4f} ≠"
    assert text.iloc[1].tolist() == ["", "this run", "1.0", "**\\*\\*\\*** ≠", "**\\*\\*\\***"]
    assert text.iloc[3].tolist() == ["", "this run", "<u>\\*\\*\\*</u> ≠", "1.0", alike]
    assert text.iloc[5].tolist() == ["", "this run", "<u>\\*\\*\\*</u>", alike, "1.0"]
    assert list(text) == ["source task", "values", "J", "C", "R"] and list(text["source task"]) == [
        "J",
        "",
        "C",
        "",
        "R",
        "",
    ]


def test_a_p_value_at_the_level_is_not_below_it(monkeypatch):
    pairs = pd.DataFrame(
        {"n_train": [5], "first": ["random"], "second": ["segmentation"], "p_value": [0.001], "better": [""]}
    )
    monkeypatch.setattr(module, "mann_whitney_pairs", lambda *args, **settings: pairs)
    scores = scores_of({("random", 5): LOW, ("segmentation", 5): HIGH})
    assert mann_whitney_beside_paper(scores, n_train=5).loc[1, "segmentation"] == "0.0010 ≠"


def test_a_size_that_is_not_printed_stands_alone():
    scores = scores_of({("random", 30): LOW, ("segmentation", 30): HIGH})
    text = mann_whitney_beside_paper(scores, n_train=30)
    assert text.loc[0, "segmentation"] == "–" and text.loc[1, "segmentation"] == "**\\*\\*\\***"


@pytest.mark.parametrize(("family", "comparisons"), [("n_train", 1), ("all", 2)])
def test_a_family_reaches_beyond_the_size_only_if_asked_to(family, comparisons):
    scores = scores_of(
        {(task, n): values for n in (5, 10) for task, values in (("random", LOW[:4]), ("jigsaw", HIGH[:4]))}
    )
    text = mann_whitney_beside_paper(scores, n_train=10, correction="bonferroni", family=family)
    # Four values beyond four others: p = 2 / (8 choose 4).
    assert text.loc[1, "random"] == f"{comparisons * 2 / 70:.4f} ≠"


def test_other_sizes_do_not_enter_a_matrix():
    alone = scores_of({("random", 5): LOW, ("jigsaw", 5): HIGH})
    more = pd.concat([alone, scores_of({("random", 10): HIGH, ("jigsaw", 10): LOW, ("own", 10): LOW})])
    expected = mann_whitney_beside_paper(alone, n_train=5)
    for family in ("n_train", "all"):
        pd.testing.assert_frame_equal(mann_whitney_beside_paper(more, n_train=5, family=family), expected)


def test_a_matrix_that_cannot_be_is_refused():
    scores = scores_of({("random", 5): LOW})
    with pytest.raises(ValueError, match="the score table has no model of n = 10$"):
        mann_whitney_beside_paper(scores, n_train=10)
    with pytest.raises(ValueError, match="lacks rms_dta_cm"):
        mann_whitney_beside_paper(scores.drop(columns="rms_dta_cm"), n_train=5)


def test_the_papers_own_oddities():
    # Each read off the page by eye.
    table = printed_oddities()
    assert list(table) == ["check", "table", "where", "printed", "oddity"]
    alike = "mirror cells bear different stars"
    both = "equal against the observers, and yet not equal to each other"
    extra = "stars other than the three that the caption explains"
    pairs = [
        ("C.3", 25, "0.999", "0.4806"),
        ("C.4", 50, "0.864", "0.7182"),
        ("C.5", 75, "0.785", "0.5641"),
        ("C.6", 100, "0.714", "0.7497"),
        ("C.7", 125, "0.482", "0.7402"),
    ]
    stars = [
        ("C.1", "**** in 18 cells"),
        ("C.2", "**** in 14 cells, *** in 2 cells"),
        ("C.5", "**** in 12 cells"),
        ("C.6", "**** in 8 cells"),
        ("C.7", "**** in 7 cells"),
    ]
    rows = {tuple(row) for row in table.to_numpy()}
    assert rows == {
        ("mirror cells", "C.2", "Jigsaw / Segmentation", "*** and ****", alike),
        ("mirror cells", "C.2", "Classification / Segmentation", "*** and ****", alike),
        (
            "mirror cells",
            "C.7",
            "Rand. Init. / Segmentation",
            "0.0012 and ****",
            "one of two mirror cells is below 0.001, the other is not",
        ),
        (
            "equal rows",
            "1 (RMS-DTA)",
            "Classification / Jigsaw, n = 25, 50, 75, 100, 125",
            "0.999, 0.864, 0.785, 0.714, 0.482",
            "two source tasks have equal values",
        ),
        *(
            (
                "equal here, not there",
                f"1 (RMS-DTA), {name}",
                f"Classification / Jigsaw, n = {n}",
                f"{p} twice, and {between} between them",
                both,
            )
            for name, n, p, between in pairs
        ),
        *(("stars", name, "all cells", text, extra) for name, text in stars),
    }
    assert len(table) == len(rows)


def test_a_table_without_oddities_gives_none():
    table = reported_p_values()
    table = printed_oddities(table[(table["metric"] == "DSC") | (table["table"] == "C.4")])
    assert table.empty and list(table) == ["check", "table", "where", "printed", "oddity"]


@pytest.mark.parametrize(
    ("value", "printed", "oddity"),
    [
        ("0.2695", "0.2695 and 0.2694", "mirror cells differ"),
        ("***", "*** and 0.2694", "one of two mirror cells is below 0.001, the other is not"),
    ],
)
def test_mirror_cells_must_be_equal(value, printed, oddity):
    table = changed("RMS-DTA", "Classification", 5, value, versus="Jigsaw")
    assert found(table, "mirror cells") == [("C.1", "Classification / Jigsaw", printed, oddity)]


@pytest.mark.parametrize("value", ["0.9", "***", "0.0002"])
def test_no_source_task_differs_from_itself(value):
    table = changed("RMS-DTA", "Segmentation", 50, value, versus="Segmentation")
    assert found(table, "diagonal") == [("C.4", "Segmentation", value, "a source task differs from itself")]


def test_one_is_one_with_any_number_of_zeros():
    table = changed("RMS-DTA", "Segmentation", 50, "1.0000", versus="Segmentation")
    assert not found(table, "diagonal")


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        # Of the random models: 0.641 and 0.655 at n = 5 and 10.
        ({5: "0.641"}, ""),
        ({5: "0.641", 10: "0.655"}, "5, 10"),
        ({5: "0.641", 10: "0.656"}, ""),
    ],
)
def test_two_equal_values_are_one_too_many(values, sizes):
    table = reported_p_values()
    for n, value in values.items():
        row = (table["metric"] == "SMA") & (table["source_task"] == "Jigsaw") & (table["n_train"] == n)
        table.loc[row, "p_value_as_printed"] = value
    rows = found(table, "equal rows")
    where, printed = f"Rand. Init. / Jigsaw, n = {sizes}", "0.641, 0.655"
    assert rows == ([("2 (SMA)", where, printed, "two source tasks have equal values")] if sizes else [])


@pytest.mark.parametrize(("value", "odd"), [("0.9994", True), ("0.9995", False), ("1.000", False), ("<0.001", False)])
def test_values_at_either_end_may_come_twice(value, odd):
    table = reported_p_values()
    rows = (table["metric"] == "SMA") & table["source_task"].isin(["Rand. Init.", "Jigsaw"]) & (table["n_train"] <= 10)
    table.loc[rows, "p_value_as_printed"] = value
    assert bool(found(table, "equal rows")) is odd


def test_equal_against_the_observers_is_equal():
    # Classification and jigsaw have 0.785. Table C.5 has 0.5645 and 0.9997 between them and segmentation.
    table = changed("RMS-DTA", "Segmentation", 75, "0.785")
    oddity = "equal against the observers, and yet not equal to each other"
    where, printed = "Classification / Segmentation, n = 75", "0.785 twice, and 0.5645 between them"
    assert found(table, "equal here, not there") == [("1 (RMS-DTA), C.5", where, printed, oddity)]
    table = changed("RMS-DTA", "Segmentation", 75, "0.784")
    assert not found(table, "equal here, not there")


def test_the_same_values_are_no_oddity_where_no_test_lies_between():
    table = changed("DSC", "Jigsaw", 10, "0.777")
    assert not found(table, "equal here, not there")


def test_only_three_stars_are_explained():
    # Of Table C.4's 25 cells 5 are its diagonal, 6 hold numbers and 14 three stars, one of which is changed.
    table = changed("RMS-DTA", "Jigsaw", 50, "**", versus="Reconstruction")
    extra = "stars other than the three that the caption explains"
    assert found(table, "stars") == [("C.4", "all cells", "*** in 13 cells, ** in 1 cells", extra)]


@pytest.mark.parametrize(("n", "odd"), [(10, True), (25, False)])
def test_what_is_underlined_is_below_the_level(n, odd):
    # Classification has a Dice of 0.777 at n = 10 and < 0.001 at n = 25.
    table = changed("DSC", "Classification", n, "worse", column="marked")
    expected = ("1 (DSC)", "Classification, n = 10", "0.777", "underlined without p < 0.001")
    assert found(table, "underlining") == ([expected] if odd else [])


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ("1.0 1.0 1.0 1.0 1.0 1.0 1.0", False),
        ("0.1 0.1 0.2 0.2 0.3 0.3 0.4", False),
        ("0.4 0.4 0.3 0.3 0.2 0.2 <0.001", False),
        ("<0.001 <0.001 0.5 0.9 0.9 0.3 <0.001", False),
        ("0.5 0.4 0.4 0.4 0.4 0.4 0.5", True),
        ("0.1 0.2 0.1 0.2 0.2 0.2 0.2", True),
        ("0.002 <0.001 0.002 0.002 0.002 0.002 0.002", True),
    ],
)
def test_p_rises_and_falls_once(values, odd):
    table = reported_p_values().sample(frac=1, random_state=0)
    row = (table["metric"] == "SMD") & (table["source_task"] == "Jigsaw")
    table.loc[row, "p_value_as_printed"] = table.loc[row, "n_train"].map(dict(zip(SIZES, values.split(), strict=True)))
    expected = ("2 (SMD)", "Jigsaw", values.replace(" ", ", "), "p falls and then rises with n")
    assert found(table, "turns with n") == ([expected] if odd else [])


@pytest.mark.parametrize(
    ("versus", "table", "where"),
    [("", "1 (RMS-DTA)", "Segmentation, n = 50"), ("Jigsaw", "C.4", "Segmentation / Jigsaw")],
)
@pytest.mark.parametrize(("times", "count"), [(0, "0 values"), (2, "2 values")])
def test_a_missing_or_double_cell_is_all_that_is_said_of_it(versus, table, where, times, count):
    printed = reported_p_values()
    cell = (printed["metric"] == "RMS-DTA") & (printed["source_task"] == "Segmentation") & (printed["n_train"] == 50)
    cell &= printed["versus"] == versus
    again = printed_oddities(pd.concat([printed[~cell], *[printed[cell]] * times]))
    new = {tuple(row) for row in again.to_numpy()} - {tuple(row) for row in printed_oddities().to_numpy()}
    assert new == {("missing or double cells", table, where, count, "not one value in a cell")}


def test_a_cell_with_two_values_is_a_double_cell():
    table = changed("DSC", "Segmentation", 5, "0.998")
    again = pd.concat([reported_p_values(), table[table["p_value_as_printed"] == "0.998"]])
    finding = ("1 (DSC)", "Segmentation, n = 5", "2 values", "not one value in a cell")
    assert found(again, "missing or double cells") == [finding] and not found(again, "equal rows")


def test_findings_come_in_the_order_of_the_rows():
    backwards = reported_p_values().iloc[::-1]
    assert [finding[0] for finding in ODDITY_CHECKS["stars"](backwards)] == ["C.7", "C.6", "C.5", "C.2", "C.1"]
    assert [finding[0] for finding in ODDITY_CHECKS["mirror cells"](backwards)] == ["C.7", "C.2", "C.2"]
    fewer = backwards[(backwards["source_task"] != "Jigsaw") | (backwards["n_train"] > 5)]
    missing = dict.fromkeys(finding[0] for finding in ODDITY_CHECKS["missing or double cells"](fewer))
    assert list(missing) == ["2 (SMA)", "2 (SMD)", "1 (RMS-DTA)", "1 (DSC)", "C.1"]
