"""Mann-Whitney tests between source tasks at each training-set size (Appendix C)."""

from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from l3muscle.statistics.score_table import (
    HIGHER_IS_BETTER,
    Failures,
    Unit,
    cells,
    check_choice,
    check_scores,
)

Correction = Literal["none", "bonferroni", "holm", "fdr_bh"]
PairFamily = Literal["n_train", "all"]
CORRECTIONS = ("none", "bonferroni", "holm", "fdr_bh")
PAIR_FAMILIES = ("n_train", "all")


def adjust(p_values: np.ndarray, correction: Correction) -> np.ndarray:
    """Adjust p-values for their number; NaN stays NaN and does not count."""
    check_choice("correction", correction, CORRECTIONS)
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = p_values.copy()
    known = ~np.isnan(p_values)
    if correction != "none" and known.any():
        adjusted[known] = multipletests(p_values[known], method=correction)[1]
    return adjusted


def adjust_pairs(table: pd.DataFrame, correction: Correction, family: PairFamily) -> pd.Series:
    """Adjust the `p_raw` of a table of pairs together with the others of their size, or of the table."""
    groups = [table.index] if family == "all" else table.groupby("n_train").groups.values()
    p_value = pd.Series(np.nan, index=table.index)
    for members in groups:
        p_value[members] = adjust(table.loc[members, "p_raw"].to_numpy(float), correction)
    return p_value


def mann_whitney_pairs(
    scores: pd.DataFrame,
    metric: str = "rms_dta_cm",
    *,
    unit: Unit = "prediction",
    correction: Correction = "none",
    family: PairFamily = "n_train",
    failures: Failures = "leave_out",
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Two-sided Mann-Whitney U tests of every pair of source tasks at every training-set size.

    Parameters
    ----------
    scores : DataFrame
    metric : str
    unit : {"prediction", "image_mean", "model_mean"}
        What counts as one value: the paper does not say.
    correction : {"none", "bonferroni", "holm", "fdr_bh"}
        For the number of comparisons: the paper speaks of none.
    family : {"n_train", "all"}
        Which comparisons are corrected together: those of one matrix, or of all.
    failures : {"leave_out", "worst"}
    alpha : float

    Returns
    -------
    DataFrame
        n_train, first, second, n_first, n_second, superiority (probability that a value of the first is higher, ties
        counting half), p_raw, p_value (corrected), better (the source task with the better ranks where p < alpha,
        else empty; empty too for metrics without a better side), note (begins with `n/a` where there is no test).

    Raises
    ------
    ValueError
        As `dunnett_table`.
    """
    check_scores(scores, metric)
    check_choice("correction", correction, CORRECTIONS)
    check_choice("family", family, PAIR_FAMILIES)
    by_size: dict[int, dict[str, tuple[np.ndarray, str]]] = {}
    for cell in cells(scores, metric, failures):
        by_size.setdefault(cell.n_train, {})[cell.source_task] = cell.values(unit), cell.note
    rows = []
    for n in sorted(by_size):
        for first, second in combinations(by_size[n], 2):
            (a, note_a), (b, note_b) = by_size[n][first], by_size[n][second]
            note = "; ".join(f"{task}: {text}" for task, text in ((first, note_a), (second, note_b)) if text)
            p, superiority = np.nan, np.nan
            if min(a.size, b.size) < 2:
                note = "n/a: fewer than two values"
            elif np.ptp(np.concatenate([a, b])) == 0:
                note = "n/a: nothing varies"
            else:
                outcome = stats.mannwhitneyu(a, b, alternative="two-sided")
                p, superiority = outcome.pvalue, outcome.statistic / (a.size * b.size)
            rows.append((n, first, second, a.size, b.size, superiority, p, note))
    columns = ["n_train", "first", "second", "n_first", "n_second", "superiority", "p_raw", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(7, "p_value", adjust_pairs(table, correction, family))
    better = np.full(len(table), "", dtype=object)
    if metric in HIGHER_IS_BETTER:
        first_wins = (table["superiority"] > 0.5) == HIGHER_IS_BETTER[metric]
        better = np.where(table["p_value"] < alpha, np.where(first_wins, table["first"], table["second"]), "")
    table.insert(8, "better", better)
    return table


def mann_whitney_table(
    scores: pd.DataFrame,
    metric: str = "rms_dta_cm",
    *,
    n_train: int,
    unit: Unit = "prediction",
    correction: Correction = "none",
    family: PairFamily = "n_train",
    failures: Failures = "leave_out",
) -> pd.DataFrame:
    """`mann_whitney_pairs` at one training-set size as the paper's square (Appendix C.1 to C.7).

    Returns
    -------
    DataFrame
        Square, symmetric, p-values; 1 on the diagonal, NaN where there is no test (`mann_whitney_pairs` says why).

    Raises
    ------
    ValueError
        Also if there is no model of this size.
    """
    check_scores(scores, metric)
    if family == "n_train":
        scores = scores[scores["n_train"] == n_train]
    tasks = list(dict.fromkeys(scores.loc[scores["n_train"] == n_train, "source_task"]))
    if not tasks:
        raise ValueError(f"the score table has no model of n = {n_train}")
    pairs = mann_whitney_pairs(scores, metric, unit=unit, correction=correction, family=family, failures=failures)
    table = pd.DataFrame(np.nan, index=tasks, columns=tasks)
    for task in tasks:
        table.loc[task, task] = 1.0
    for row in pairs[pairs["n_train"] == n_train].itertuples():
        table.loc[row.first, row.second] = table.loc[row.second, row.first] = row.p_value
    return table
