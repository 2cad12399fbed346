"""The paper's printed p-values, this run's beside them, and what is odd about the print."""

from collections.abc import Callable, Mapping
from importlib import resources
from itertools import combinations, groupby

import numpy as np
import pandas as pd

from l3muscle.statistics.mann_whitney import mann_whitney_pairs
from l3muscle.statistics.score_table import METRICS, check_metric, check_scores

ALPHA = 0.001  # the paper's level
DIFFERENT = "≠"
REPORTED_NAMES = {
    "random": "Rand. Init.",
    "classification": "Classification",
    "segmentation": "Segmentation",
    "jigsaw": "Jigsaw",
    "reconstruction": "Reconstruction",
}
PRINTED_METRIC = {**METRICS, "smd_hu": "SMD", "sma_cm2": "SMA"}
_MARKS = {"better": "**{}**", "worse": "<u>{}</u>", "": "{}"}


def reported_p_values() -> pd.DataFrame:
    """The paper's printed p-values: table, metric, source_task, versus, n_train, p_value_as_printed, marked.

    `marked` is `worse` where the print is underlined. Bold type was lost when the tables were transcribed.
    """
    path = resources.files("l3muscle") / "data" / "reported_p_values.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str).fillna("").astype({"n_train": int})


def printed_number(text: str) -> float:
    """A printed p-value as a number; NaN where the print only says that it is below 0.001 (`<0.001` or stars)."""
    return np.nan if is_below(text) else float(text)


def is_below(text: str) -> bool:
    """Whether a printed p-value lies below 0.001."""
    return text.startswith("<") or text.strip("*") == "" or float(text) < ALPHA


def printed_cells(metric: str) -> pd.DataFrame:
    """Table 1 or 2 for a metric, by this package's names: source_task, n_train, printed, number, below, marked."""
    check_metric(metric)
    table = reported_p_values()
    table = table[(table["metric"] == PRINTED_METRIC[metric]) & (table["versus"] == "")]
    names = {printed: task for task, printed in REPORTED_NAMES.items()}
    return pd.DataFrame(
        {
            "source_task": table["source_task"].map(names),
            "n_train": table["n_train"],
            "printed": table["p_value_as_printed"],
            "number": table["p_value_as_printed"].map(printed_number),
            "below": table["p_value_as_printed"].map(is_below),
            "marked": table["marked"],
        }
    ).reset_index(drop=True)


def printed_pairs() -> pd.DataFrame:
    """Appendix C by this package's names, both mirror cells of each pair, without the diagonal.

    Columns: table, n_train, first, second, printed, number, below.
    """
    table = reported_p_values()
    table = table[(table["versus"] != "") & (table["versus"] != table["source_task"])]
    names = {printed: task for task, printed in REPORTED_NAMES.items()}
    return pd.DataFrame(
        {
            "table": table["table"],
            "n_train": table["n_train"],
            "first": table["source_task"].map(names),
            "second": table["versus"].map(names),
            "printed": table["p_value_as_printed"],
            "number": table["p_value_as_printed"].map(printed_number),
            "below": table["p_value_as_printed"].map(is_below),
        }
    ).reset_index(drop=True)


def p_text(p_value: float) -> str:
    """A p-value as the paper's Tables 1 and 2 print one: three decimals, or `p < 0.001`."""
    if np.isnan(p_value):
        return "n/a"
    return "p < 0.001" if p_value < ALPHA else f"{p_value:.3f}"


def stars_text(p_value: float) -> str:
    """A p-value as Appendix C prints one: four decimals, or three stars below 0.001."""
    if np.isnan(p_value):
        return "n/a"
    return "***" if p_value < ALPHA else f"{p_value:.4f}"


def _differs(printed: str, marked: str, p_value: float, verdict: str) -> bool:
    """Whether a run's test and the print lie on different sides of 0.001, or of the control."""
    if np.isnan(p_value):
        return False
    if is_below(printed) != (p_value < ALPHA):
        return True
    # What is printed below 0.001 and not underlined is better.
    return is_below(printed) and (marked == "worse") != (verdict == "worse")


def beside_paper(
    table: pd.DataFrame, metric: str, labels: Mapping[str, str], *, ours: str = "this run"
) -> pd.DataFrame:
    """Lay a Dunnett table beside the paper's: for each source task a row as printed and a row of ours.

    Parameters
    ----------
    table : DataFrame
        From `dunnett_table`.
    metric : str
    labels : dict of str to str
        How the table's source tasks are called.
    ours : str
        What its rows are called.

    Returns
    -------
    DataFrame
        p-values as text, one column a training-set size; in Markdown, better than the control is bold and worse
        underlined, as the paper has it. Of the printed values only the underlined are known to have been marked. A
        value of ours with `≠` behind it lies on the other side of 0.001 than the printed one, or on the control's other
        side.
    """
    check_metric(metric)
    printed = printed_cells(metric)
    sizes = sorted(table["n_train"].unique())
    rows = []
    for task in dict.fromkeys(table["source_task"]):
        paper = printed[printed["source_task"] == task].set_index("n_train")
        own = table[table["source_task"] == task].set_index("n_train")
        above, below = {"source task": labels[task], "values": "paper"}, {"source task": "", "values": ours}
        for n in sizes:
            column = f"n = {n}"
            above[column] = below[column] = "–"
            if n in paper.index:
                text = paper.loc[n, "printed"].replace("<", "< ")
                above[column] = _MARKS[paper.loc[n, "marked"]].format(text)
            if n in own.index:
                p, verdict = own.loc[n, "p_value"], own.loc[n, "verdict"]
                below[column] = _MARKS[verdict].format(p_text(p).removeprefix("p "))
                if n in paper.index and _differs(paper.loc[n, "printed"], paper.loc[n, "marked"], p, verdict):
                    below[column] += f" {DIFFERENT}"
        rows += [above, below]
    return pd.DataFrame(rows)


def mann_whitney_beside_paper(
    scores: pd.DataFrame, *, n_train: int, labels: Mapping[str, str] | None = None, **settings
) -> pd.DataFrame:
    """Lay a Mann-Whitney matrix of RMS-DTA beside the paper's (Appendix C.1 to C.7).

    Parameters
    ----------
    scores : DataFrame
    n_train : int
    labels : dict of str to str, optional
        How this run's source tasks are called; their own names by default.
    **settings
        Of `mann_whitney_pairs`.

    Returns
    -------
    DataFrame
        Text: for each source task of this run, in the paper's order, a row as printed and a row of this run. In this
        run's rows bold says that the row's source task has the better ranks (p < 0.001), underlined the worse, and
        `≠` that the printed value lies on the other side of 0.001. The print marks no direction.

    Raises
    ------
    ValueError
        As `mann_whitney_table`.
    """
    check_scores(scores, "rms_dta_cm")
    at_size = scores[scores["n_train"] == n_train]
    if at_size.empty:
        raise ValueError(f"the score table has no model of n = {n_train}")
    printed = printed_pairs()
    paper = {(r.first, r.second): r.printed for r in printed[printed["n_train"] == n_train].itertuples()}
    pairs = mann_whitney_pairs(scores if settings.get("family") == "all" else at_size, "rms_dta_cm", **settings)
    ours = {(r.first, r.second): r for r in pairs[pairs["n_train"] == n_train].itertuples()}
    order = list(dict.fromkeys(printed["first"]))
    found = list(dict.fromkeys(at_size["source_task"]))
    tasks = sorted(found, key=lambda task: order.index(task) if task in order else len(order))
    labels = labels or {task: task for task in tasks}
    rows = []
    for row in tasks:
        above, below = {"source task": labels[row], "values": "paper"}, {"source task": "", "values": "this run"}
        for column in tasks:
            name = labels[column]
            if row == column:
                above[name] = below[name] = "1.0"
                continue
            text = paper.get((row, column))
            above[name] = "–" if text is None else text.replace("*", "\\*")
            outcome = ours.get((row, column)) or ours[column, row]
            verdict = {row: "better", column: "worse"}.get(outcome.better, "")
            below[name] = _MARKS[verdict].format(stars_text(outcome.p_value).replace("*", "\\*"))
            known = text is not None and not np.isnan(outcome.p_value)
            if known and is_below(text) != (outcome.p_value < ALPHA):
                below[name] += f" {DIFFERENT}"
        rows += [above, below]
    return pd.DataFrame(rows)


def _mirror_cells(printed: pd.DataFrame):
    """A test of A against B is the test of B against A."""
    for name, table in printed[printed["versus"] != ""].groupby("table", sort=False):
        cells = {(r.source_task, r.versus): r.p_value_as_printed for r in table.itertuples()}
        for (a, b), value in cells.items():
            # That one of the two is missing is for `_missing_cells` to say.
            mirrored = cells.get((b, a), value)
            if a < b and mirrored != value:
                where = f"{a} / {b}"
                values = f"{value} and {mirrored}"
                if is_below(value) != is_below(mirrored):
                    yield name, where, values, "one of two mirror cells is below 0.001, the other is not"
                elif is_below(value):
                    yield name, where, values, "mirror cells bear different stars"
                else:
                    yield name, where, values, "mirror cells differ"


def _diagonal(printed: pd.DataFrame):
    """A sample does not differ from itself."""
    for row in printed[(printed["versus"] != "") & (printed["versus"] == printed["source_task"])].itertuples():
        if is_below(row.p_value_as_printed) or float(row.p_value_as_printed) != 1:
            yield row.table, row.source_task, row.p_value_as_printed, "a source task differs from itself"


def _informative(text: str) -> bool:
    """Whether a printed value would hardly come twice by chance: a number that is not at either end."""
    return not is_below(text) and float(text) < 0.9995


def _equal_rows(printed: pd.DataFrame):
    """Different models do not give the same p-values to every printed digit, size after size."""
    against_control = printed[printed["versus"] == ""]
    for (name, metric), table in against_control.groupby(["table", "metric"], sort=False):
        # A cell given twice or not at all is for `_missing_cells` to say.
        once = table.drop_duplicates(["source_task", "n_train"])
        rows = once.pivot(index="source_task", columns="n_train", values="p_value_as_printed").fillna("")
        for a, b in combinations(dict.fromkeys(table["source_task"]), 2):
            equal = (rows.loc[a] == rows.loc[b]) & rows.loc[a].map(_informative)
            if equal.sum() >= 2:
                sizes = ", ".join(str(n) for n in rows.columns[equal])
                values = ", ".join(rows.loc[a][equal])
                yield f"{name} ({metric})", f"{a} / {b}, n = {sizes}", values, "two source tasks have equal values"


def _equal_here_not_there(printed: pd.DataFrame):
    """Samples so alike that one test cannot tell them apart should have p = 1 in the test between them."""
    against_control = printed[(printed["versus"] == "") & printed["p_value_as_printed"].map(_informative)]
    pairs = {
        (r.metric, r.n_train, r.source_task, r.versus): r
        for r in printed[printed["versus"] != ""].itertuples()
        if not is_below(r.p_value_as_printed)
    }
    for (metric, n), table in against_control.groupby(["metric", "n_train"], sort=False):
        for a, b in combinations(table.itertuples(), 2):
            pair = pairs.get((metric, n, a.source_task, b.source_task))
            if a.p_value_as_printed == b.p_value_as_printed and pair and float(pair.p_value_as_printed) < 0.9995:
                yield (
                    f"{a.table} ({metric}), {pair.table}",
                    f"{a.source_task} / {b.source_task}, n = {n}",
                    f"{a.p_value_as_printed} twice, and {pair.p_value_as_printed} between them",
                    "equal against the observers, and yet not equal to each other",
                )


def _stars(printed: pd.DataFrame):
    """The caption of Appendix C explains three stars; four are not explained."""
    for name, table in printed[printed["versus"] != ""].groupby("table", sort=False):
        marks = table["p_value_as_printed"][table["p_value_as_printed"].str.fullmatch(r"\*+")].value_counts()
        other = {mark: count for mark, count in marks.items() if mark != "***"}
        if other:
            values = ", ".join(f"{mark} in {count} cells" for mark, count in marks.items())
            yield name, "all cells", values, "stars other than the three that the caption explains"


def _marks_against_values(printed: pd.DataFrame):
    """What is underlined is significantly worse."""
    for row in printed[printed["marked"] != ""].itertuples():
        if not is_below(row.p_value_as_printed):
            where = f"{row.source_task}, n = {row.n_train}"
            yield f"{row.table} ({row.metric})", where, row.p_value_as_printed, "underlined without p < 0.001"


def _more_than_one_turn(printed: pd.DataFrame):
    """With more slices a mean moves one way, past the control: p rises to a peak and falls again, once."""
    for (name, metric, task), row in printed[printed["versus"] == ""].groupby(
        ["table", "metric", "source_task"], sort=False
    ):
        row = row.sort_values("n_train")
        values = [0.0 if is_below(text) else float(text) for text in row["p_value_as_printed"]]
        steps = np.sign(np.diff(values))
        turns = [step for step, _ in groupby(steps[steps != 0])]
        if turns not in ([], [1], [-1], [1, -1]):
            yield f"{name} ({metric})", task, ", ".join(row["p_value_as_printed"]), "p falls and then rises with n"


def _missing_cells(printed: pd.DataFrame):
    """Every table has a value for each source task and size, each matrix for each pair."""
    against_control, between = printed[printed["versus"] == ""], printed[printed["versus"] != ""]
    for (name, metric), table in against_control.groupby(["table", "metric"], sort=False):
        for task in dict.fromkeys(against_control["source_task"]):
            for n in sorted(against_control["n_train"].unique()):
                count = ((table["source_task"] == task) & (table["n_train"] == n)).sum()
                if count != 1:
                    yield f"{name} ({metric})", f"{task}, n = {n}", f"{count} values", "not one value in a cell"
    for name, table in between.groupby("table", sort=False):
        tasks = list(dict.fromkeys(between["source_task"]))
        for a in tasks:
            for b in tasks:
                count = ((table["source_task"] == a) & (table["versus"] == b)).sum()
                if count != 1:
                    yield name, f"{a} / {b}", f"{count} values", "not one value in a cell"


ODDITY_CHECKS: dict[str, Callable] = {
    "mirror cells": _mirror_cells,
    "diagonal": _diagonal,
    "equal rows": _equal_rows,
    "equal here, not there": _equal_here_not_there,
    "stars": _stars,
    "underlining": _marks_against_values,
    "turns with n": _more_than_one_turn,
    "missing or double cells": _missing_cells,
}


def printed_oddities(printed: pd.DataFrame | None = None) -> pd.DataFrame:
    """What a systematic check finds odd about the printed tables.

    Each check of `ODDITY_CHECKS` knows a rule that p-values must keep, and no cell of the paper's.

    Parameters
    ----------
    printed : DataFrame, optional
        As `reported_p_values`, which is the default.

    Returns
    -------
    DataFrame
        One row a finding: check, table, where, printed, oddity.
    """
    printed = reported_p_values() if printed is None else printed
    rows = [(name, *finding) for name, check in ODDITY_CHECKS.items() for finding in check(printed)]
    return pd.DataFrame(rows, columns=["check", "table", "where", "printed", "oddity"])
