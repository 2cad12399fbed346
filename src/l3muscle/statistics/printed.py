"""The paper's printed p-values, and this run's beside them."""

from collections.abc import Mapping
from importlib import resources

import numpy as np
import pandas as pd

from l3muscle.metrics import MEASURES
from l3muscle.statistics.mann_whitney import mann_whitney_pairs
from l3muscle.statistics.score_table import ALPHA, ScoreTableError, check_choice, check_scores

LEAST_PRINTED = 0.001  # p-values below it are not printed as numbers
DIFFERENT = "≠"
REPORTED_NAMES = {
    "random": "Rand. Init.",
    "classification": "Classification",
    "segmentation": "Segmentation",
    "jigsaw": "Jigsaw",
    "reconstruction": "Reconstruction",
}
_MARKS = {"better": "**{}**", "worse": "<u>{}</u>", "": "{}"}


def reported_p_values() -> pd.DataFrame:
    """The paper's printed p-values: table, metric, source_task, versus, n_train, p_value_as_printed, marked.

    `marked` is `worse` where the print is underlined. Bold type was lost when the tables were transcribed.
    """
    path = resources.files("l3muscle") / "data" / "reported_p_values.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str).fillna("").astype({"n_train": int})


def printed_number(text: str) -> float:
    """A printed p-value as a number; NaN where the print only says that it is below 0.001 (`<0.001` or `***`)."""
    return np.nan if text.startswith("<") or text.strip("*") == "" else float(text)


def is_below(text: str, alpha: float = ALPHA) -> bool | None:
    """Whether a printed p-value lies below a level; None where the print does not tell."""
    number = printed_number(text)
    if np.isnan(number):
        return True if alpha >= LEAST_PRINTED else None
    return number < alpha


def _translated(table: pd.DataFrame) -> pd.DataFrame:
    names = {printed: task for task, printed in REPORTED_NAMES.items()}
    printed = table["p_value_as_printed"]
    return pd.DataFrame(
        {
            "table": table["table"],
            "source_task": table["source_task"].map(names),
            "versus": table["versus"].map(names),
            "n_train": table["n_train"],
            "printed": printed,
            "number": printed.map(printed_number),
            "below": printed.map(lambda text: is_below(text, LEAST_PRINTED)).astype(bool),
            "marked": table["marked"],
        }
    ).reset_index(drop=True)


def printed_configurations(metric: str) -> pd.DataFrame:
    """Table 1 or 2 for a metric, by this package's names: source_task, n_train, printed, number, below, marked."""
    check_choice("metric", metric, MEASURES)
    table = reported_p_values()
    table = _translated(table[(table["metric"] == MEASURES[metric].name) & (table["versus"] == "")])
    return table.drop(columns=["table", "versus"])


def printed_pairs() -> pd.DataFrame:
    """Appendix C by this package's names, both mirror entries of each pair, without the diagonal.

    Columns: table, first, second, n_train, printed, number, below.
    """
    table = reported_p_values()
    table = _translated(table[(table["versus"] != "") & (table["versus"] != table["source_task"])])
    return table.drop(columns="marked").rename(columns={"source_task": "first", "versus": "second"})


def printed_means() -> pd.DataFrame:
    """Means of models that the paper prints: source_task, n_train, measure, mean, printed, shown_in.

    They are the two that its figures leave out, because they lie far from all others.
    """
    with (resources.files("l3muscle") / "data" / "printed_means.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def printed_mean_text(curve: pd.DataFrame, measure: str, labels: Mapping[str, str]) -> str:
    """A sentence with the means that the paper prints of a measure, and those of this run; empty where it prints none.

    Parameters
    ----------
    curve : DataFrame
        From `l3muscle.statistics.learning_curve_table`.
    measure : str
    labels : mapping of str to str
        How each source task is called.
    """
    sentences = []
    for row in printed_means().query("measure == @measure").itertuples():
        own = curve[(curve["source_task"] == row.source_task) & (curve["n_train"] == row.n_train)]
        here = "not run" if own.empty else f"{own['mean'].iloc[0]:.{MEASURES[measure].digits}f}"
        name = labels.get(row.source_task, row.source_task)
        paper = f"{row.printed} in the paper, whose {row.shown_in} leaves it out"
        sentences.append(f"{name} at n = {row.n_train}: {paper}; {here} here.".replace("-", "−"))
    return " ".join(sentences)


def p_text(p_value: float, digits: int = 3, below: str = "p < 0.001") -> str:
    """A p-value as the paper's Tables 1 and 2 print one; Appendix C has four digits, and `***` below 0.001."""
    if np.isnan(p_value):
        return "n/a"
    return below if p_value < LEAST_PRINTED else f"{p_value:.{digits}f}"


def _other_side(printed: str, p_value: float, alpha: float) -> bool:
    """Whether a p-value lies on another side of the level than the printed one, as far as the print tells."""
    below = is_below(printed, alpha)
    return below is not None and not np.isnan(p_value) and below != (p_value < alpha)


def on_another_side(below: pd.Series | bool, marked: pd.Series | str, verdict: pd.Series | str) -> pd.Series | bool:
    """Whether a difference of ours lies on another side of the control than a printed one, both being significant.

    What is printed below 0.001 and not underlined (`marked` as worse) is better.
    """
    return below & (verdict != "") & ((marked == "worse") != (verdict == "worse"))


def beside_paper(
    table: pd.DataFrame, metric: str, labels: Mapping[str, str], *, alpha: float = ALPHA, ours: str = "this run"
) -> pd.DataFrame:
    """Lay a Dunnett table beside the paper's: for each source task a row as printed and a row of ours.

    Parameters
    ----------
    table : DataFrame
        From `dunnett_table`.
    metric : str
    labels : dict of str to str
        How the table's source tasks are called.
    alpha : float
        The level of the table's verdicts.
    ours : str
        What its rows are called.

    Returns
    -------
    DataFrame
        p-values as text, one column a training-set size; in Markdown, better than the control is bold and worse
        underlined, as the paper has it. Of the printed values only the underlined are known to have been marked. A
        value of ours with `≠` behind it lies on the other side of `alpha` than the printed one, or on the control's
        other side.
    """
    printed = printed_configurations(metric).set_index(["source_task", "n_train"])
    tested = table.set_index(["source_task", "n_train"])
    rows = []
    for task in dict.fromkeys(table["source_task"]):
        above, below = {"source task": labels[task], "values": "paper"}, {"source task": "", "values": ours}
        for n in sorted(table["n_train"].unique()):
            column, paper = f"n = {n}", None
            above[column] = below[column] = "–"
            if (task, n) in printed.index:
                paper = printed.loc[(task, n)]
                above[column] = _MARKS[paper["marked"]].format(paper["printed"].replace("<", "< "))
            if (task, n) in tested.index:
                p, verdict = tested.loc[(task, n), ["p_value", "verdict"]]
                below[column] = _MARKS[verdict].format(p_text(p).removeprefix("p "))
                if paper is not None:
                    turned = on_another_side(paper["below"], paper["marked"], verdict)
                    differs = turned or _other_side(paper["printed"], p, alpha)
                    below[column] += f" {DIFFERENT}" if differs else ""
        rows += [above, below]
    return pd.DataFrame(rows)


def mann_whitney_beside_paper(
    scores: pd.DataFrame,
    *,
    n_train: int,
    labels: Mapping[str, str] | None = None,
    alpha: float = ALPHA,
    **settings,
) -> pd.DataFrame:
    """Lay a Mann-Whitney matrix of RMS-DTA beside the paper's (Appendix C.1 to C.7).

    Parameters
    ----------
    scores : DataFrame
    n_train : int
    labels : dict of str to str, optional
        How this run's source tasks are called; their names by default.
    alpha : float
    **settings
        Of `mann_whitney_pairs`.

    Returns
    -------
    DataFrame
        Text: for each source task of this run, in the paper's order, a row as printed and a row of this run. In this
        run's rows bold says that the row's source task has the better ranks (p < alpha), underlined the worse, and
        `≠` that the printed value lies on the other side of alpha. The print marks no direction.

    Raises
    ------
    ScoreTableError
        As `mann_whitney_table`.
    """
    check_scores(scores, "rms_dta_cm")
    at_size = scores[scores["n_train"] == n_train]
    if at_size.empty:
        raise ScoreTableError(f"the score table has no model of n = {n_train}")
    printed = printed_pairs()
    paper = {(r.first, r.second): r.printed for r in printed[printed["n_train"] == n_train].itertuples()}
    pairs = mann_whitney_pairs(scores, "rms_dta_cm", alpha=alpha, **settings)
    ours = {frozenset((r.first, r.second)): r for r in pairs[pairs["n_train"] == n_train].itertuples()}
    order = list(dict.fromkeys(printed["first"]))
    run = dict.fromkeys(at_size["source_task"])
    tasks = sorted(run, key=lambda task: order.index(task) if task in order else len(order))
    labels = labels or {task: task for task in tasks}
    rows = []
    for row in tasks:
        above, below = {"source task": labels[row], "values": "paper"}, {"source task": "", "values": "this run"}
        for column in tasks:
            name = labels[column]
            if row == column:
                above[name] = below[name] = "1.0"
                continue
            text, outcome = paper.get((row, column)), ours[frozenset((row, column))]
            above[name] = "–" if text is None else text.replace("*", "\\*")
            verdict = {row: "better", column: "worse"}.get(outcome.better, "")
            below[name] = _MARKS[verdict].format(p_text(outcome.p_value, 4, "\\*\\*\\*"))
            if text is not None and _other_side(text, outcome.p_value, alpha):
                below[name] += f" {DIFFERENT}"
        rows += [above, below]
    return pd.DataFrame(rows)


def configuration_summary(
    scores: pd.DataFrame, observer_scores: pd.DataFrame, source_task: str, n_train: int
) -> pd.DataFrame:
    """Mean and standard deviation of a configuration's models and of the observers, and the paper's p-value.

    Parameters
    ----------
    scores : DataFrame
        One row a model and test image.
    observer_scores : DataFrame
        One row an outline of an observer; may be empty.
    source_task : str
    n_train : int

    Returns
    -------
    DataFrame
        One row a measure that the paper tests: models, observers (mean ± standard deviation over outlines), and `paper:
        p` as printed in Tables 1 and 2 (a dash for a size that is not), of Dunnett's test on the paper's own data,
        against the observers or, of density and area, against the expert; where the paper prints a mean of the models
        too, `paper: models`.
    """
    rows = {}
    for column, measure in MEASURES.items():
        tested = printed_configurations(column)
        if tested.empty:
            continue
        printed = tested.query("source_task == @source_task and n_train == @n_train")["printed"]
        rows[measure.label] = {
            who: f"{table[column].mean():.{measure.digits}f} ± {table[column].std():.{measure.digits}f}".replace(
                "-", "−"
            )
            for who, table in (("models", scores), ("observers", observer_scores))
            if len(table)
        } | {"paper: p": "–" if printed.empty else printed.iloc[0]}
    for row in printed_means().query("source_task == @source_task and n_train == @n_train").itertuples():
        rows[MEASURES[row.measure].label]["paper: models"] = row.printed.replace("-", "−")
    return pd.DataFrame(rows).T
