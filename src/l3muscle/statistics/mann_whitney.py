"""Mann-Whitney tests between source tasks at each training-set size (Appendix C)."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from l3muscle.statistics.score_table import (
    ALPHA,
    Configuration,
    ScoreTableError,
    Unit,
    better_of,
    check_choice,
    check_scores,
    configurations,
)

Correction = Literal["none", "bonferroni", "holm", "fdr_bh"]
PairFamily = Literal["n_train", "all"]


def adjust(p_values: np.ndarray, correction: Correction) -> np.ndarray:
    """Adjust p-values for their number; NaN stays NaN and does not count."""
    check_choice("correction", correction, Correction)
    adjusted = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(adjusted)
    if correction != "none" and known.any():
        adjusted[known] = multipletests(adjusted[known], method=correction)[1]
    return adjusted


def adjust_pairs(table: pd.DataFrame, correction: Correction, family: PairFamily) -> pd.Series:
    """Adjust the `p_raw` of a table of pairs together with the others of their size, or of the table."""
    check_choice("family", family, PairFamily)
    if family == "all":
        return pd.Series(adjust(table["p_raw"], correction), index=table.index)
    return table.groupby("n_train")["p_raw"].transform(lambda p_values: adjust(p_values, correction))


def pairs_of_tasks(every: list[Configuration]) -> Iterator[tuple[Configuration, Configuration]]:
    """Every two configurations of one size, by size."""
    for n in sorted({configuration.n_train for configuration in every}):
        yield from combinations([configuration for configuration in every if configuration.n_train == n], 2)


def mann_whitney_pairs(
    scores: pd.DataFrame,
    metric: str = "rms_dta_cm",
    *,
    unit: Unit = "prediction",
    correction: Correction = "none",
    family: PairFamily = "n_train",
    alpha: float = ALPHA,
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
    alpha : float

    Returns
    -------
    DataFrame
        n_train, first, second, n_first, n_second, superiority (probability that a value of the first is higher, ties
        counting half), p_raw, p_value (corrected), better (the source task with the better ranks where p < alpha,
        else empty; empty too for metrics without a better side), note (begins with `n/a` where there is no test).

    Raises
    ------
    ScoreTableError
        As `dunnett_table`.
    """
    check_scores(scores, metric)
    check_choice("correction", correction, Correction)
    check_choice("family", family, PairFamily)
    rows = []
    for first, second in pairs_of_tasks(configurations(scores, metric)):
        a, b = first.values(unit), second.values(unit)
        note = "; ".join(f"{side.source_task}: {side.note}" for side in (first, second) if side.note)
        p = superiority = np.nan
        if min(a.size, b.size) < 2:
            note = "n/a: fewer than two values"
        elif np.ptp(np.concatenate([a, b])) == 0:
            note = "n/a: nothing varies"
        else:
            outcome = stats.mannwhitneyu(a, b, alternative="two-sided")
            p, superiority = outcome.pvalue, outcome.statistic / (a.size * b.size)
        rows.append((first.n_train, first.source_task, second.source_task, a.size, b.size, superiority, p, note))
    columns = ["n_train", "first", "second", "n_first", "n_second", "superiority", "p_raw", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(7, "p_value", adjust_pairs(table, correction, family))
    table.insert(8, "better", better_of(table, metric, table["superiority"] > 0.5, alpha))
    return table


def mann_whitney_table(
    scores: pd.DataFrame, metric: str = "rms_dta_cm", *, n_train: int, **settings: Any
) -> pd.DataFrame:
    """`mann_whitney_pairs`, with its settings, at one training-set size as the paper's square (Appendix C.1 to C.7).

    Returns
    -------
    DataFrame
        Square, symmetric, p-values; 1 on the diagonal, NaN where there is no test (`mann_whitney_pairs` says why).

    Raises
    ------
    ScoreTableError
        Also if there is no model of this size.
    """
    pairs = mann_whitney_pairs(scores, metric, **settings)
    tasks = scores.loc[scores["n_train"] == n_train, "source_task"].unique()
    if not len(tasks):
        raise ScoreTableError(f"the score table has no model of n = {n_train}")
    table = pd.DataFrame(np.diag(np.ones(len(tasks))), index=tasks, columns=tasks).replace(0.0, np.nan)
    for row in pairs[pairs["n_train"] == n_train].itertuples():
        table.loc[row.first, row.second] = table.loc[row.second, row.first] = row.p_value
    return table
