"""Dunnett's tests: every configuration against one control (Section 2.4, Tables 1 and 2, Appendix D)."""

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics.score_table import (
    ALPHA,
    MEASURE_OF,
    Configuration,
    NoTest,
    ScoreTableError,
    Unit,
    check_choice,
    check_observers,
    check_scores,
    configurations,
    expert_values,
    verdict,
)

Family = Literal["all", "n_train", "source_task"]
Control = Literal["outlines", "image_means", "zeros", "expert"]
ObserverControl = Literal["outlines", "image_means"]


class Dunnett(NamedTuple):
    """Outcome of `dunnett`, one entry a sample; p-values are two-sided and adjusted for the family."""

    difference: np.ndarray  # mean of the sample minus mean of the control
    statistic: np.ndarray  # difference over its pooled standard error
    p_value: np.ndarray


@cache
def _legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(points)


def _family_tail(statistics: np.ndarray, loading: np.ndarray, degrees: int) -> np.ndarray:
    """P(max |T_i| >= statistic) of each statistic when all means are equal: Dunnett's integral (Dunnett 1955).

    Comparisons share the control, so that T_i = (sqrt(1 - l_i²) Z_i - l_i Z_0) / s. Given Z_0 and s they are
    independent, and the tail is one minus a product: summed as logarithms, which keeps small p-values accurate.
    """
    # Configurations of one size share their loading, and with it their factor of the product.
    loading, count = np.unique(loading, return_counts=True)
    x, weight = _legendre(96)
    chi = stats.chi(degrees, scale=1 / np.sqrt(degrees))
    low, high = chi.ppf(1e-14), chi.isf(1e-14)
    s = (low + (x + 1) / 2 * (high - low))[:, None, None]
    s_weight = weight * chi.pdf(s.ravel())
    x, weight = _legendre(160)
    # The integrand is even in z.
    z = 9.0 * x[x > 0]
    z_weight = weight[x > 0] * np.exp(-(z**2) / 2)
    shift, rest = loading * z[:, None], np.sqrt(1 - loading**2)
    tails = []
    for statistic in statistics:
        outside = special.ndtr((shift - statistic * s) / rest) + special.ndtr(-(shift + statistic * s) / rest)
        tail = -np.expm1(np.log1p(-np.minimum(outside, 1 - 1e-16)) @ count)
        tails.append(s_weight @ tail @ z_weight / (s_weight.sum() * z_weight.sum()))
    return np.clip(tails, 0, 1)


def dunnett(samples: Sequence[np.ndarray], control: np.ndarray) -> Dunnett:
    """Compare the mean of each sample with the control's (two-sided Dunnett's test, pooled variance).

    The integral is taken by Gauss-Legendre quadrature: unlike SciPy's Monte Carlo integral, the same input gives the
    same p-values, and small ones are resolved.

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
    ScoreTableError
        A ValueError: if there is no sample, one is too short or holds a value that is not finite, or nothing varies.
    """
    groups = [np.asarray(group, dtype=np.float64).ravel() for group in (control, *samples)]
    if len(groups) < 2:
        raise NoTest("there is no sample to compare with the control")
    for index, group in enumerate(groups):
        name = f"sample {index - 1}" if index else "the control"
        if group.size < 2:
            raise NoTest(f"{name} has fewer than two values")
        if not np.isfinite(group).all():
            raise ScoreTableError(f"{name} holds values that are not finite")
    size = np.array([group.size for group in groups])
    mean = np.array([group.mean() for group in groups])
    degrees = int(size.sum() - len(groups))
    variance = sum(((group - group.mean()) ** 2).sum() for group in groups) / degrees
    # Rounding leaves a trace of variance in constant data.
    if variance <= (1e-12 * max(np.abs(mean).max(), 1e-300)) ** 2:
        raise NoTest("nothing varies within the groups: no test is possible")
    difference = mean[1:] - mean[0]
    statistic = difference / np.sqrt(variance * (1 / size[1:] + 1 / size[0]))
    loading = np.sqrt(size[1:] / (size[1:] + size[0]))
    return Dunnett(difference, statistic, _family_tail(np.abs(statistic), loading, degrees))


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
        Needed for the last two.

    Returns
    -------
    ndarray
        In the order of patient_id; without NaN.

    Raises
    ------
    ScoreTableError
        If the kind is unknown, does not go with the metric, or its table is missing.
    """
    check_choice("control", kind, Control)
    check_choice("metric", metric, MEASURES)
    if kind in ("outlines", "image_means"):
        if observers is None:
            raise ScoreTableError(f"the control {kind!r} needs the observers' scores")
        check_observers(observers, metric)
        ordered = observers.sort_values(["patient_id", "observer"])
        values = ordered[metric] if kind == "outlines" else ordered.groupby("patient_id")[metric].mean()
        return values.dropna().to_numpy(dtype=np.float64)
    if scores is None:
        raise ScoreTableError(f"the control {kind!r} needs the models' scores")
    if kind == "expert":
        return expert_values(scores, metric).to_numpy()
    if metric not in MEASURE_OF:
        raise ScoreTableError(f"zeros are a control for differences from the expert, not for {metric}")
    return np.zeros(scores["patient_id"].nunique())


def dunnett_by_family(
    tested: Sequence[Configuration], samples: Sequence[np.ndarray], control: np.ndarray, family: Family
) -> tuple[np.ndarray, dict[int, str]]:
    """Dunnett's tests of the configurations' samples against one control, family by family.

    Returns
    -------
    outcomes : ndarray, (configurations, 3)
        Difference, statistic, p-value; NaN where there is no test.
    reasons : dict of int to str
        Why there is none, by the index of the configuration.

    Raises
    ------
    ScoreTableError
        If the control cannot serve as one.
    """
    outcomes = np.full((len(tested), 3), np.nan)
    reasons = {index: "fewer than two values" for index, sample in enumerate(samples) if sample.size < 2}
    families: dict[object, list[int]] = {}
    for index, configuration in enumerate(tested):
        if index not in reasons:
            families.setdefault("" if family == "all" else getattr(configuration, family), []).append(index)
    for members in families.values():
        try:
            outcome = dunnett([samples[index] for index in members], control)
        except NoTest as error:
            if len(control) < 2:
                raise
            reasons |= dict.fromkeys(members, str(error))
        else:
            outcomes[members] = np.column_stack([outcome.difference, outcome.statistic, outcome.p_value])
    return outcomes, reasons


def dunnett_table(
    scores: pd.DataFrame,
    control: pd.DataFrame | np.ndarray,
    metric: str = "dice",
    *,
    family: Family = "all",
    unit: Unit = "prediction",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Dunnett's tests of every configuration against a control (Tables 1 and 2).

    Parameters
    ----------
    scores : DataFrame
        Score table.
    control : DataFrame or ndarray
        Observer table, or the control's values of `metric`: see `control_sample`.
    metric : str
        A column of `l3muscle.metrics.MEASURES`.
    family : {"all", "n_train", "source_task"}
        Which comparisons are adjusted together: all configurations of the table, or those that share a training-set
        size or a source task. The paper does not say; its caption speaks of one test for each table half.
    unit : {"prediction", "image_mean", "model_mean"}
        What counts as one value. The paper's figures speak of all predictions of 16 models.
    alpha : float
        Of the verdicts.

    Returns
    -------
    DataFrame
        One row a configuration: source_task, n_train, n_models, n, failures, empty, gross, mean, control_n,
        control_mean, difference, statistic, p_value, verdict (`"better"` or `"worse"` at `alpha`, else empty) and
        note. A configuration that cannot be tested has a NaN p-value and a note that begins with `n/a`; a note also
        says how many predictions had no value and were left out.

    Raises
    ------
    ScoreTableError
        A ValueError: for an unknown metric or setting, a score table with missing columns, doubled rows or rows of
        several runs, or a control that cannot serve as one.
    """
    check_scores(scores, metric)
    check_choice("family", family, Family)
    if isinstance(control, pd.DataFrame):
        control = control_sample("outlines", metric, observers=control)
    values = np.asarray(control, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    tested = configurations(scores, metric)
    samples = [configuration.values(unit) for configuration in tested]
    outcomes, reasons = dunnett_by_family(tested, samples, values, family)
    rows = []
    for index, (configuration, sample) in enumerate(zip(tested, samples, strict=True)):
        difference, statistic, p = outcomes[index]
        rows.append(
            {
                **configuration.row(unit),
                "mean": sample.mean() if sample.size else np.nan,
                "control_n": values.size,
                "control_mean": values.mean() if values.size else np.nan,
                "difference": difference,
                "statistic": statistic,
                "p_value": p,
                "verdict": verdict(metric, difference, p, alpha),
                "note": f"n/a: {reasons[index]}" if index in reasons else configuration.note,
            }
        )
    return pd.DataFrame(rows)


def plateau_table(
    scores: pd.DataFrame,
    metric: str = "dice",
    *,
    unit: Unit = "prediction",
    alpha: float = ALPHA,
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
    ScoreTableError
        As `dunnett_table`.
    """
    check_scores(scores, metric)
    every, rows = configurations(scores, metric), []
    for task in dict.fromkeys(one.source_task for one in every):
        *smaller, largest = (one for one in every if one.source_task == task)
        samples, control = [one.values(unit) for one in smaller], largest.values(unit)
        outcomes, reasons = np.full((len(smaller), 3), np.nan), {}
        if control.size >= 2:
            outcomes, reasons = dunnett_by_family(smaller, samples, control, "all")
        for index, one in enumerate(smaller):
            difference, _, p = outcomes[index]
            known = not np.isnan(p)
            note = one.note if known else f"n/a: {reasons.get(index, 'fewer than two values')}"
            row = (task, one.n_train, largest.n_train, samples[index].size, control.size, one.counts["failures"])
            rows.append((*row, difference, p, bool(p >= alpha) if known else pd.NA, note))
    columns = ["source_task", "n_train", "versus", "n", "versus_n", "failures"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "p_value", "plateau", "note"])
    return table.astype({"plateau": "boolean"})
