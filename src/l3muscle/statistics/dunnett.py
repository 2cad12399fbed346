"""Dunnett's tests: every cell against one control (Section 2.4, Tables 1 and 2, Appendix D)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

from l3muscle.statistics.score_table import (
    HIGHER_IS_BETTER,
    MEASURES,
    Cell,
    Failures,
    Unit,
    cells,
    check_choice,
    check_metric,
    check_observers,
    check_scores,
    expert_values,
)

Family = Literal["all", "n_train", "source_task"]
Control = Literal["outlines", "image_means", "zeros", "expert"]
ObserverControl = Literal["outlines", "image_means"]
FAMILIES = ("all", "n_train", "source_task")
CONTROLS = ("outlines", "image_means", "zeros", "expert")


@dataclass(frozen=True)
class Dunnett:
    """Outcome of `dunnett`: one entry a sample.

    Attributes
    ----------
    difference : ndarray
        Mean of the sample minus mean of the control.
    statistic : ndarray
        Difference over its pooled standard error.
    p_value : ndarray
        Two-sided, adjusted for the family of comparisons.
    degrees : int
        Of freedom of the pooled variance.
    """

    difference: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    degrees: int


@cache
def _legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(points)


@cache
def _scaled_chi_nodes(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for an expectation over s, where degrees * s² is chi-square distributed."""
    chi = stats.chi(degrees, scale=1 / np.sqrt(degrees))
    low, high = chi.ppf(1e-14), chi.isf(1e-14)
    x, w = _legendre(96)
    nodes = low + (x + 1) / 2 * (high - low)
    weights = w * chi.pdf(nodes) * (high - low) / 2
    return nodes, weights / weights.sum()


def _family_tail(statistic: float, loading: np.ndarray, degrees: int) -> float:
    """P(max |T_i| >= statistic) when all means are equal: Dunnett's integral (Dunnett 1955).

    Comparisons share the control, so that T_i = (sqrt(1 - l_i²) Z_i - l_i Z_0) / s. Given Z_0 and s they are
    independent, and the tail is one minus a product: summed as logarithms, which keeps small p-values accurate.
    """
    s, s_weight = _scaled_chi_nodes(degrees)
    # Cells of one size share their loading, and with it their factor of the product.
    loading, count = np.unique(loading, return_counts=True)
    x, w = _legendre(160)
    # The integrand is even in z.
    z = 9.0 * x[x > 0]
    z_weight = w[x > 0] * np.exp(-(z**2) / 2)
    z_weight /= z_weight.sum()
    bound = statistic * s[:, None, None]
    shift = (loading * z[:, None])[None]
    rest = np.sqrt(1 - loading**2)
    outside = special.ndtr(-(bound - shift) / rest) + special.ndtr(-(bound + shift) / rest)
    tail = -np.expm1(np.log1p(-np.minimum(outside, 1 - 1e-16)) @ count)
    return float(np.clip(s_weight @ tail @ z_weight, 0, 1))


def dunnett(samples: Sequence[np.ndarray], control: np.ndarray) -> Dunnett:
    """Compare the mean of each sample with the control's (two-sided Dunnett's test, pooled variance).

    The integral is taken by Gauss-Legendre quadrature: the same input gives the same p-values, and they resolve far
    below those of a Monte Carlo integral.

    Parameters
    ----------
    samples : sequence of array-like
        Each of at least two values; sizes may differ.
    control : array-like

    Returns
    -------
    Dunnett

    Raises
    ------
    ValueError
        If there is no sample, one is too short or holds a value that is not finite, or nothing varies.
    """
    groups = [np.asarray(group, dtype=np.float64).ravel() for group in (control, *samples)]
    if len(groups) < 2:
        raise ValueError("there is no sample to compare with the control")
    for place, group in enumerate(groups):
        name = "the control" if place == 0 else f"sample {place - 1}"
        if group.size < 2:
            raise ValueError(f"{name} has fewer than two values")
        if not np.isfinite(group).all():
            raise ValueError(f"{name} holds values that are not finite")
    size = np.array([group.size for group in groups])
    mean = np.array([group.mean() for group in groups])
    degrees = int(size.sum() - len(groups))
    variance = sum(((group - group.mean()) ** 2).sum() for group in groups) / degrees
    # Rounding leaves a trace of variance in constant data.
    if variance <= (1e-12 * max(np.abs(mean).max(), 1e-300)) ** 2:
        raise ValueError("nothing varies within the groups: no test is possible")
    difference = mean[1:] - mean[0]
    statistic = difference / np.sqrt(variance * (1 / size[1:] + 1 / size[0]))
    loading = np.sqrt(size[1:] / (size[1:] + size[0]))
    p_value = np.array([_family_tail(abs(t), loading, degrees) for t in statistic])
    return Dunnett(difference, statistic, p_value, degrees)


def control_sample(
    kind: Control, metric: str, *, observers: pd.DataFrame | None = None, scores: pd.DataFrame | None = None
) -> np.ndarray:
    """The values that models are compared with, by one reading of the paper's words (Section 2.4).

    Parameters
    ----------
    kind : {"outlines", "image_means", "zeros", "expert"}
        `"outlines"`: every observer outline is a value. `"image_means"`: every test image is one, the mean of its
        observers. `"zeros"`: the expert's difference from itself, one zero an image. `"expert"`: the expert's own
        density or area, one an image, for `metric` `"smd_hu"` or `"sma_cm2"`.
    metric : str
    observers : DataFrame, optional
        Needed for the first two.
    scores : DataFrame, optional
        Needed for the last two, where no observers are given.

    Returns
    -------
    ndarray
        In the order of patient_id; without NaN.

    Raises
    ------
    ValueError
        If the kind is unknown, does not go with the metric, or its table is missing.
    """
    check_choice("control", kind, CONTROLS)
    check_metric(metric)
    if kind in ("outlines", "image_means"):
        if observers is None:
            raise ValueError(f"the control {kind!r} needs the observers' scores")
        check_observers(observers, metric)
        ordered = observers.sort_values(["patient_id", "observer"])
        values = ordered[metric] if kind == "outlines" else ordered.groupby("patient_id")[metric].mean()
        return values.dropna().to_numpy(dtype=np.float64)
    table = scores if scores is not None else observers
    if table is None:
        raise ValueError(f"the control {kind!r} needs a table of scores")
    if kind == "zeros":
        if metric in HIGHER_IS_BETTER or metric in MEASURES:
            raise ValueError(f"zeros are a control for differences from the expert, not for {metric}")
        return np.zeros(table["patient_id"].nunique())
    if metric not in MEASURES:
        raise ValueError(f"the expert's own values are a control for {', '.join(MEASURES)}, not for {metric}")
    return expert_values(table, metric).to_numpy()


def _verdict(metric: str, difference: float, p_value: float, alpha: float) -> str:
    if not p_value < alpha:
        return ""
    return "better" if metric in HIGHER_IS_BETTER and (difference > 0) == HIGHER_IS_BETTER[metric] else "worse"


def test_families(
    found: Sequence[Cell], samples: Sequence[np.ndarray], control: np.ndarray, family: Family
) -> tuple[np.ndarray, dict[int, str]]:
    """Dunnett's tests of the cells' samples against one control, family by family.

    Returns
    -------
    tested : ndarray, (cells, 3)
        Difference, statistic, p-value; NaN where there is no test.
    reasons : dict of int to str
        Why there is none, by the place of the cell.

    Raises
    ------
    ValueError
        If the control cannot serve as one.
    """
    tested = np.full((len(found), 3), np.nan)
    reasons = {place: "fewer than two values" for place, sample in enumerate(samples) if sample.size < 2}
    families: dict[object, list[int]] = {}
    for place, cell in enumerate(found):
        if place not in reasons:
            families.setdefault(None if family == "all" else getattr(cell, family), []).append(place)
    for members in families.values():
        try:
            outcome = dunnett([samples[place] for place in members], control)
        except ValueError as error:
            if "control" in str(error):
                raise
            reasons |= dict.fromkeys(members, str(error))
            continue
        tested[members] = np.column_stack([outcome.difference, outcome.statistic, outcome.p_value])
    return tested, reasons


def dunnett_table(
    scores: pd.DataFrame,
    control: pd.DataFrame | np.ndarray,
    metric: str = "dice",
    *,
    family: Family = "all",
    unit: Unit = "prediction",
    failures: Failures = "leave_out",
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Dunnett's tests of every cell against a control (Tables 1 and 2).

    Parameters
    ----------
    scores : DataFrame
        Score table.
    control : DataFrame or ndarray
        Observer table, or the control's values of `metric`: see `control_sample`.
    metric : str
        One of `METRICS` or `MEASURES`.
    family : {"all", "n_train", "source_task"}
        Which comparisons are adjusted together: all cells of the table, or those that share a training-set size or a
        source task. The paper does not say; its caption speaks of one test for each table half.
    unit : {"prediction", "image_mean", "model_mean"}
        What counts as one value of a cell. The paper's figures speak of all predictions of 16 models.
    failures : {"leave_out", "worst"}
        How an empty prediction enters the RMS-DTA: see `score_table.cells`.
    alpha : float
        The paper's level is 0.001.

    Returns
    -------
    DataFrame
        One row a cell: source_task, n_train, n_models, n, failures, empty, runaway, mean, control_n, control_mean,
        difference, statistic, p_value, verdict (`"better"` or `"worse"` at `alpha`, else empty) and note. A cell that
        cannot be tested has a NaN p-value and a note that begins with `n/a`; a note also says how many predictions
        had no value and were left out.

    Raises
    ------
    ValueError
        For an unknown metric or setting, a score table with missing columns, doubled rows or rows of several runs, or
        a control that cannot serve as one.
    """
    check_scores(scores, metric)
    check_choice("family", family, FAMILIES)
    if isinstance(control, pd.DataFrame):
        control = control_sample("outlines", metric, observers=control)
    values = np.asarray(control, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    found = cells(scores, metric, failures)
    samples = [cell.values(unit) for cell in found]
    tested, reasons = test_families(found, samples, values, family)
    rows = []
    for place, (cell, sample) in enumerate(zip(found, samples, strict=True)):
        difference, statistic, p = tested[place]
        rows.append(
            {
                "source_task": cell.source_task,
                "n_train": cell.n_train,
                "n_models": cell.n_models,
                "n": sample.size,
                **cell.counts,
                "mean": sample.mean() if sample.size else np.nan,
                "control_n": values.size,
                "control_mean": values.mean() if values.size else np.nan,
                "difference": difference,
                "statistic": statistic,
                "p_value": p,
                "verdict": _verdict(metric, difference, p, alpha),
                "note": f"n/a: {reasons[place]}" if place in reasons else cell.note,
            }
        )
    return pd.DataFrame(rows)


def plateau_table(
    scores: pd.DataFrame,
    metric: str = "dice",
    *,
    unit: Unit = "prediction",
    failures: Failures = "leave_out",
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Compare every training-set size with the largest, within each source task (the paper's Appendix D).

    The paper says that performance levels off beyond n = 100 and does not print the tests. Here: Dunnett's tests
    with the models of the largest size as the control, one family a source task.

    Returns
    -------
    DataFrame
        source_task, n_train, versus, n, versus_n, failures, difference (from the largest size), p_value, plateau (True
        where no difference is found at `alpha`, missing where there is no test), note (begins with `n/a` where there
        is no test).

    Raises
    ------
    ValueError
        As `dunnett_table`.
    """
    check_scores(scores, metric)
    by_task: dict[str, dict[int, Cell]] = {}
    for cell in cells(scores, metric, failures):
        by_task.setdefault(cell.source_task, {})[cell.n_train] = cell
    rows = []
    for task, of_task in by_task.items():
        values = {n: cell.values(unit) for n, cell in of_task.items()}
        largest = max(values)
        sizes = [n for n in values if n != largest and len(values[n]) >= 2]
        reason, outcome = "fewer than two values", {}
        if sizes and len(values[largest]) >= 2:
            try:
                tested = dunnett([values[n] for n in sizes], values[largest])
                outcome = dict(zip(sizes, zip(tested.difference, tested.p_value, strict=True), strict=True))
            except ValueError as error:
                reason = str(error)
        for n in (n for n in values if n != largest):
            difference, p = outcome.get(n, (np.nan, np.nan))
            rows.append(
                {
                    "source_task": task,
                    "n_train": n,
                    "versus": largest,
                    "n": len(values[n]),
                    "versus_n": len(values[largest]),
                    "failures": of_task[n].counts["failures"],
                    "difference": difference,
                    "p_value": p,
                    "plateau": bool(p >= alpha) if n in outcome else pd.NA,
                    "note": of_task[n].note if n in outcome else f"n/a: {reason}",
                }
            )
    columns = [
        "source_task",
        "n_train",
        "versus",
        "n",
        "versus_n",
        "failures",
        "difference",
        "p_value",
        "plateau",
        "note",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"plateau": "boolean"})
