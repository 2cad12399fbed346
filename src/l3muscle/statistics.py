"""The paper's tests: tables in, tables out (Section 2.4, Tables 1 and 2, Appendices C and D).

A score table has one row a model and test image: source_task, n_train, fold, subset, repeat, patient_id, dice,
rms_dta_cm, smd_difference_hu, sma_difference_cm2, failure. An observer table has one row an outline: observer,
patient_id and the same measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

METRICS = {"dice": "DSC", "rms_dta_cm": "RMS-DTA", "smd_difference_hu": "SMD", "sma_difference_cm2": "SMA"}
HIGHER_IS_BETTER = {"dice": True, "rms_dta_cm": False}
MODEL_KEYS = ["fold", "subset", "repeat"]
Family = Literal["all", "n_train", "source_task"]


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
    x, w = _legendre(160)
    z = 9.0 * x
    z_weight = w * np.exp(-(z**2) / 2)
    z_weight /= z_weight.sum()
    bound = statistic * s[:, None, None]
    shift = (loading * z[:, None])[None]
    rest = np.sqrt(1 - loading**2)
    outside = special.ndtr(-(bound - shift) / rest) + special.ndtr(-(bound + shift) / rest)
    tail = -np.expm1(np.log1p(-np.minimum(outside, 1 - 1e-16)).sum(-1))
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


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}")


def _cells(scores: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """Cells of source task and training-set size, in order of appearance and of size."""
    tasks = list(dict.fromkeys(scores["source_task"]))
    groups = dict(list(scores.groupby(["source_task", "n_train"], sort=False)))
    sizes = sorted(scores["n_train"].unique())
    return [((task, int(n)), groups[task, n]) for task in tasks for n in sizes if (task, n) in groups]


def dunnett_table(
    scores: pd.DataFrame,
    control: pd.DataFrame | np.ndarray,
    metric: str = "dice",
    *,
    family: Family = "all",
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Dunnett's tests of every cell against a control (Tables 1 and 2).

    Parameters
    ----------
    scores : DataFrame
        Score table.
    control : DataFrame or ndarray
        Observer table, or the control's values of `metric`. For the differences SMD and SMA the paper's control is
        the expert, whose difference from itself is zero: give zeros.
    metric : str
        One of `METRICS`.
    family : {"all", "n_train", "source_task"}
        Which comparisons are adjusted together: all cells of the table, or those that share a training-set size or a
        source task. The paper does not say; its caption speaks of one test for each table half.
    alpha : float
        The paper's level is 0.001.

    Returns
    -------
    DataFrame
        One row a cell: source_task, n_train, n_models, n, failures, mean, control_mean, difference, statistic,
        p_value, verdict (`"better"` or `"worse"` at `alpha`, else empty) and note. A cell with a failure has no
        distance or density for it: the test leaves those images out, and the note says how many. A cell that cannot
        be tested has a NaN p-value and a note that begins with `n/a`.

    Raises
    ------
    ValueError
        For an unknown metric or family, or a control that cannot serve as one.
    """
    _check_metric(metric)
    if family not in ("all", "n_train", "source_task"):
        raise ValueError(f"unknown family {family!r}; choose all, n_train or source_task")
    values = np.asarray(control[metric] if isinstance(control, pd.DataFrame) else control, dtype=np.float64)
    values = values[~np.isnan(values)]
    rows = []
    samples: list[np.ndarray] = []
    for (task, n_train), cell in _cells(scores):
        sample = cell[metric].to_numpy(dtype=np.float64)
        missing = int(np.isnan(sample).sum())
        sample = sample[~np.isnan(sample)]
        note = f"{missing} failed predictions left out" if missing else ""
        if sample.size < 2:
            note = "n/a: fewer than two values"
        samples.append(sample)
        rows.append(
            {
                "source_task": task,
                "n_train": n_train,
                "n_models": len(cell[MODEL_KEYS].drop_duplicates()),
                "n": sample.size,
                "failures": int((cell["failure"] != "").sum()),
                "mean": sample.mean() if sample.size else np.nan,
                "control_mean": values.mean() if values.size else np.nan,
                "difference": np.nan,
                "statistic": np.nan,
                "p_value": np.nan,
                "verdict": "",
                "note": note,
            }
        )
    table = pd.DataFrame(rows)
    grouping = np.zeros(len(table)) if family == "all" else table[family].to_numpy()
    for group in pd.unique(grouping):
        members = [i for i in np.flatnonzero(grouping == group) if samples[i].size >= 2]
        if not members:
            continue
        try:
            outcome = dunnett([samples[i] for i in members], values)
        except ValueError as error:
            if "control" in str(error):
                raise
            table.loc[members, "note"] = f"n/a: {error}"
            continue
        for i, difference, statistic, p in zip(
            members, outcome.difference, outcome.statistic, outcome.p_value, strict=True
        ):
            table.loc[i, ["difference", "statistic", "p_value"]] = difference, statistic, p
            if p < alpha:
                better = metric in HIGHER_IS_BETTER and (difference > 0) == HIGHER_IS_BETTER[metric]
                table.loc[i, "verdict"] = "better" if better else "worse"
    return table


def mann_whitney_table(scores: pd.DataFrame, metric: str = "rms_dta_cm", *, n_train: int) -> pd.DataFrame:
    """Two-sided Mann-Whitney U tests between source tasks at one training-set size (Appendix C).

    Returns
    -------
    DataFrame
        Square, symmetric, p-values; 1 on the diagonal, NaN where a source task has no values.
    """
    _check_metric(metric)
    cells = {task: cell[metric].dropna() for (task, n), cell in _cells(scores) if n == n_train}
    table = pd.DataFrame(np.nan, index=list(cells), columns=list(cells))
    for a, first in cells.items():
        for b, second in cells.items():
            if a == b:
                table.loc[a, b] = 1.0
            elif len(first) and len(second):
                table.loc[a, b] = stats.mannwhitneyu(first, second, alternative="two-sided").pvalue
    return table


def plateau_table(scores: pd.DataFrame, metric: str = "dice", *, alpha: float = 0.001) -> pd.DataFrame:
    """Compare every training-set size with the largest, within each source task (the paper's Appendix D).

    The paper says that performance levels off beyond n = 100 and does not print the tests. Here: Dunnett's tests
    with the models of the largest size as the control, one family a source task.

    Returns
    -------
    DataFrame
        source_task, n_train, versus, difference, p_value, plateau (True where no difference is found at `alpha`).
    """
    _check_metric(metric)
    rows = []
    for task in dict.fromkeys(scores["source_task"]):
        cells = {n: cell[metric].dropna().to_numpy() for (t, n), cell in _cells(scores) if t == task}
        largest = max(cells)
        sizes = [n for n in cells if n != largest and len(cells[n]) >= 2]
        if not sizes or len(cells[largest]) < 2:
            continue
        outcome = dunnett([cells[n] for n in sizes], cells[largest])
        for n, difference, p in zip(sizes, outcome.difference, outcome.p_value, strict=True):
            rows.append((task, n, largest, difference, p, bool(p >= alpha)))
    return pd.DataFrame(rows, columns=["source_task", "n_train", "versus", "difference", "p_value", "plateau"])


def learning_curve_table(scores: pd.DataFrame, metric: str = "dice", *, level: float = 0.95) -> pd.DataFrame:
    """Mean and t interval of a metric over all predictions of each cell (Figures 3 to 5).

    The interval takes the predictions of a cell as independent, as the paper's does.

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n, failures, mean, low, high.
    """
    _check_metric(metric)
    rows = []
    for (task, n_train), cell in _cells(scores):
        values = cell[metric].dropna().to_numpy(dtype=np.float64)
        mean = values.mean() if values.size else np.nan
        half = np.nan
        if values.size >= 2:
            half = stats.t.ppf((1 + level) / 2, values.size - 1) * stats.sem(values)
        rows.append(
            {
                "source_task": task,
                "n_train": n_train,
                "n_models": len(cell[MODEL_KEYS].drop_duplicates()),
                "n": values.size,
                "failures": int((cell["failure"] != "").sum()),
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class ObserverBand:
    """Mean of the observers and its standard error."""

    mean: float
    standard_error: float


def observer_band(observer_scores: pd.DataFrame, metric: str = "dice") -> ObserverBand:
    """Mean and standard error of a metric over the test images, each image's observers averaged first (Section 2.4).

    Averaging first keeps an image with four observers from weighing less than one with five.
    """
    _check_metric(metric)
    per_image = observer_scores.groupby("patient_id")[metric].mean()
    return ObserverBand(float(per_image.mean()), float(stats.sem(per_image)))


def reported_p_values() -> pd.DataFrame:
    """The paper's printed p-values: table, metric, source_task, versus, n_train, p_value_as_printed, marked.

    `marked` is `worse` where the print is underlined. Bold type was lost when the tables were transcribed.
    """
    path = resources.files("l3muscle") / "data" / "reported_p_values.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype=str).fillna("").astype({"n_train": int})


REPORTED_NAMES = {
    "random": "Rand. Init.",
    "classification": "Classification",
    "segmentation": "Segmentation",
    "jigsaw": "Jigsaw",
    "reconstruction": "Reconstruction",
}


def p_text(p_value: float) -> str:
    """A p-value as the paper prints one: three decimals, or `p < 0.001`."""
    if np.isnan(p_value):
        return "n/a"
    return "p < 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def beside_paper(table: pd.DataFrame, metric: str, labels: dict[str, str]) -> pd.DataFrame:
    """Lay a Dunnett table beside the paper's: for each source task a row as printed and a row of this run.

    Parameters
    ----------
    table : DataFrame
        From `dunnett_table`.
    metric : str
    labels : dict of str to str
        How this run's source tasks are called.

    Returns
    -------
    DataFrame
        Text, one column a training-set size; in Markdown, better than the control is bold and worse underlined, as
        the paper has it. Of the printed values only the underlined are known to have been marked.
    """
    _check_metric(metric)
    printed = reported_p_values()
    printed = printed[(printed["metric"] == METRICS[metric]) & (printed["versus"] == "")]
    sizes = sorted(table["n_train"].unique())
    marks = {"better": "**{}**", "worse": "<u>{}</u>", "": "{}"}
    rows = []
    for task in dict.fromkeys(table["source_task"]):
        paper = printed[printed["source_task"] == REPORTED_NAMES[task]].set_index("n_train")
        ours = table[table["source_task"] == task].set_index("n_train")
        texts = {"source task": labels[task], "values": "paper"}
        for n in sizes:
            known = n in paper.index
            text = paper.loc[n, "p_value_as_printed"].replace("<", "p < ") if known else "–"
            texts[f"n = {n}"] = marks[paper.loc[n, "marked"] if known else ""].format(text)
        rows.append(texts)
        texts = {"source task": "", "values": "this run"}
        for n in sizes:
            known = n in ours.index
            texts[f"n = {n}"] = marks[ours.loc[n, "verdict"]].format(p_text(ours.loc[n, "p_value"])) if known else "–"
        rows.append(texts)
    return pd.DataFrame(rows)
