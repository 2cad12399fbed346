"""The paper's comparisons when scores are not independent: 16 models share 37 images (not in the paper)."""

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.statistics.crossed import TooFew, fit_difference, fit_mean
from l3muscle.statistics.dunnett import dunnett_table
from l3muscle.statistics.mann_whitney import Correction, adjust, adjust_pairs, mann_whitney_pairs
from l3muscle.statistics.printed import is_below, printed_cells, printed_pairs
from l3muscle.statistics.score_table import (
    HIGHER_IS_BETTER,
    METRICS,
    Cell,
    Failures,
    cells,
    check_metric,
    check_observers,
    check_scores,
    observers_as_matrix,
)

LEAST_REPLICATES = 100


def _verdict(metric: str, difference: float, p_value: float, alpha: float) -> str:
    if not p_value < alpha:
        return ""
    return "better" if metric in HIGHER_IS_BETTER and (difference > 0) == HIGHER_IS_BETTER[metric] else "worse"


def _checked(scores: pd.DataFrame, observers: pd.DataFrame | None, metric: str) -> tuple[list[str], np.ndarray | None]:
    """The images of a score table, and the observers as (observers, images); None for the expert's zeros."""
    check_metric(metric, tuple(METRICS))
    check_scores(scores, metric)
    images = sorted(scores["patient_id"].unique())
    control = None
    if metric in HIGHER_IS_BETTER:
        if observers is None:
            raise ValueError(f"{metric} is compared with the observers, whose scores are missing")
        check_observers(observers, metric)
        if not set(images) & set(observers["patient_id"]):
            raise ValueError("models and observers share no image: tables of different runs?")
        control = observers_as_matrix(observers, metric, images)
    return images, control


def _row(cell: Cell) -> dict:
    return {
        "source_task": cell.source_task,
        "n_train": cell.n_train,
        "n_models": cell.n_models,
        "n": cell.values().size,
        **cell.counts,
    }


def _finish(rows: list[dict], metric: str, correction: Correction, alpha: float) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    table["p_value"] = adjust(table["p_raw"].to_numpy(float), correction)
    table["verdict"] = [
        _verdict(metric, difference, p, alpha)
        for difference, p in zip(table["difference"], table["p_value"], strict=True)
    ]
    last = ["p_raw", "p_value", "verdict", "note"]
    return table[[name for name in table if name not in last] + last]


def mixed_model_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame | None = None,
    metric: str = "dice",
    *,
    correction: Correction = "holm",
    failures: Failures = "leave_out",
    level: float = 0.95,
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Every cell against the observers, or the expert, by a mixed model with crossed effects of image and rater.

    Dice and RMS-DTA are compared with the observers (`crossed.fit_difference`), the differences SMD and SMA with the
    expert's zero (`crossed.fit_mean`). Each cell has a fit of its own, since cells scatter very differently.

    Parameters
    ----------
    scores, observers : DataFrame
        Observers are not needed for SMD and SMA.
    metric : str
        One of `METRICS`.
    correction : {"holm", "bonferroni", "fdr_bh", "none"}
        Over all cells of the table.
    failures : {"leave_out", "worst"}
        How an empty prediction enters the RMS-DTA.
    level : float
        Of the interval, which is not corrected.
    alpha : float
        Of the verdict.

    Returns
    -------
    DataFrame
        One row a cell: source_task, n_train, n_models, n, failures, empty, runaway, difference, standard_error,
        degrees (Satterthwaite), low, high, image_share (share of the variance of a score in the cell that the images
        bear), model_share, p_raw, p_value (corrected), verdict, note (begins with `n/a` where there is no test).

    Raises
    ------
    ValueError
        As `dunnett_table`; also if models and observers share no image.
    """
    _, control = _checked(scores, observers, metric)
    rows = []
    for cell in cells(scores, metric, failures):
        row = _row(cell)
        outcome = dict.fromkeys(
            ["difference", "standard_error", "degrees", "low", "high", "image_share", "model_share", "p_raw"], np.nan
        )
        note = cell.note
        try:
            fit = fit_mean(cell.matrix) if control is None else fit_difference(cell.matrix, control)
        except TooFew as error:
            note = f"n/a: {error}"
        else:
            low, high = fit.interval(level)
            image = fit.variances["image"] + fit.variances.get("image in models", 0.0)
            model = fit.variances["rater" if control is None else "models"]
            total = image + model + fit.variances["residual"]
            outcome = {
                "difference": fit.estimate,
                "standard_error": fit.standard_error,
                "degrees": fit.degrees,
                "low": low,
                "high": high,
                "image_share": image / total,
                "model_share": model / total,
                "p_raw": fit.p_value,
            }
        rows.append({**row, **outcome, "note": note})
    return _finish(rows, metric, correction, alpha)


def draw_weights(count: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` units is drawn in each replicate, (replicates, count).

    One fewer is drawn than there are, with replacement: the variance of a mean is then unbiased (Rao and Wu 1988),
    which matters where a cell has four models.
    """
    if count < 2:
        raise TooFew("fewer than two units to draw from")
    return rng.multinomial(count - 1, np.full(count, 1 / count), size=replicates).astype(float)


def _seeded(seed: int, *names: object) -> np.random.Generator:
    """A generator for one level and cell, whatever else is drawn and in which order."""
    return np.random.default_rng([seed, *"|".join(map(str, names)).encode()])


def rater_means(matrix: np.ndarray, raters: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean over images of the mean over raters, for each replicate's weights of both; NaN where nothing is drawn."""
    known = ~np.isnan(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = raters @ known
        per_image = np.where(weight > 0, (raters @ np.where(known, matrix, 0.0)) / weight, 0.0)
        drawn = images * (weight > 0)
        return (drawn * per_image).sum(1) / drawn.sum(1)


class Resampled:
    """Replicates of cell means and the observers' mean over redrawn images, models and observers.

    Images are drawn once for all cells and observers, which share them; models within their cell (the pigeonhole
    bootstrap, Owen 2007: it never understates the variance of a mean).

    Parameters
    ----------
    images : sequence of str
    replicates : int
    seed : int
    """

    def __init__(self, images: list[str], replicates: int, seed: int) -> None:
        if replicates < LEAST_REPLICATES:
            raise ValueError(f"at least {LEAST_REPLICATES} replicates are needed, not {replicates}")
        self.images, self.replicates, self.seed = images, replicates, seed
        self.image_weights = draw_weights(len(images), replicates, _seeded(seed, "images"))

    def means(self, matrix: np.ndarray, *name: object) -> np.ndarray:
        """Replicates of the mean of a (raters, images) table; the name decides its raters' draws."""
        known = ~np.isnan(matrix)
        matrix = matrix[known.any(1)]
        if len(matrix) < 2:
            raise TooFew("fewer than 2 raters, whose differences cannot be told from the images'")
        raters = draw_weights(len(matrix), self.replicates, _seeded(self.seed, *name))
        return rater_means(matrix, raters, self.image_weights)


def mean_of_means(matrix: np.ndarray) -> float:
    """Mean over images of the mean over raters."""
    known = ~np.isnan(matrix)
    used = known.any(0)
    return float((np.where(known, matrix, 0.0).sum(0)[used] / known.sum(0)[used]).mean())


def _level_variance(units: np.ndarray) -> tuple[float, int]:
    """Variance of the mean of independent units, and its degrees of freedom."""
    units = units[~np.isnan(units)]
    return float(units.var(ddof=1) / units.size), units.size - 1


def _means(matrix: np.ndarray, axis: int) -> np.ndarray:
    known = ~np.isnan(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, matrix, 0.0).sum(axis) / known.sum(axis)


def _degrees(matrix: np.ndarray, control: np.ndarray | None) -> float:
    """Satterthwaite's degrees of freedom of a difference that images, models and observers make uncertain."""
    per_image = _means(matrix, 0) if control is None else _means(matrix, 0) - _means(control, 0)
    parts = [_level_variance(per_image), _level_variance(_means(matrix, 1))]
    if control is not None:
        parts.append(_level_variance(_means(control, 1)))
    total = sum(variance for variance, _ in parts)
    return total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def hierarchical_bootstrap_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame | None = None,
    metric: str = "dice",
    *,
    replicates: int = 2000,
    seed: int = 0,
    correction: Correction = "holm",
    failures: Failures = "leave_out",
    level: float = 0.95,
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Every cell against the observers, or the expert, by redrawing images, models and observers.

    The interval holds the replicates' percentiles. The p-value is that of a t-test with the replicates' standard
    error and Satterthwaite's degrees of freedom, since counting replicates could not resolve below one over their
    number. Both depend on nothing but the table and the seed.

    Parameters
    ----------
    scores, observers, metric, correction, failures, level, alpha
        As `mixed_model_table`.
    replicates : int
    seed : int

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n, failures, empty, runaway, difference, standard_error, degrees, low, high,
        p_raw, p_value (corrected), verdict, note.

    Raises
    ------
    ValueError
        As `mixed_model_table`, and for too few replicates.
    """
    images, control = _checked(scores, observers, metric)
    resampled = Resampled(images, replicates, seed)
    zero = 0.0 if control is None else resampled.means(control, "observers")
    control_mean = 0.0 if control is None else mean_of_means(control)
    rows = []
    for cell in cells(scores, metric, failures):
        row = _row(cell)
        outcome = dict.fromkeys(["difference", "standard_error", "degrees", "low", "high", "p_raw"], np.nan)
        note, matrix = cell.note, cell.matrix
        try:
            drawn = resampled.means(matrix, cell.source_task, cell.n_train) - zero
            difference = mean_of_means(matrix) - control_mean
            error = float(np.nanstd(drawn, ddof=1))
            if error <= 1e-12 * max(abs(difference), 1e-300):
                raise TooFew("nothing varies")
            degrees = _degrees(matrix, control)
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
            p = float(2 * stats.t.sf(abs(difference) / error, degrees))
            outcome = dict(zip(outcome, (difference, error, degrees, low, high, p), strict=True))
        except TooFew as reason:
            note = f"n/a: {reason}"
        rows.append({**row, **outcome, "note": note})
    return _finish(rows, metric, correction, alpha)


def mixed_model_pairs(
    scores: pd.DataFrame,
    metric: str = "rms_dta_cm",
    *,
    correction: Correction = "none",
    failures: Failures = "leave_out",
    level: float = 0.95,
    alpha: float = 0.001,
) -> pd.DataFrame:
    """Every pair of source tasks at every size by the mixed model, as `mann_whitney_pairs` does without it.

    Corrected, where asked, within a size.

    Returns
    -------
    DataFrame
        n_train, first, second, difference (first minus second), standard_error, degrees, low, high, p_raw, p_value,
        better, note.
    """
    check_scores(scores, metric)
    by_size: dict[int, dict[str, np.ndarray]] = {}
    for cell in cells(scores, metric, failures):
        by_size.setdefault(cell.n_train, {})[cell.source_task] = cell.matrix
    rows = []
    for n in sorted(by_size):
        tasks = list(by_size[n])
        for a, first in enumerate(tasks):
            for second in tasks[a + 1 :]:
                row = {"n_train": n, "first": first, "second": second}
                try:
                    fit = fit_difference(by_size[n][first], by_size[n][second], (first, second))
                    low, high = fit.interval(level)
                    values, note = (fit.estimate, fit.standard_error, fit.degrees, low, high, fit.p_value), ""
                except TooFew as error:
                    values, note = (np.nan,) * 6, f"n/a: {error}"
                names = ("difference", "standard_error", "degrees", "low", "high", "p_raw")
                rows.append(row | dict(zip(names, values, strict=True)) | {"note": note})
    columns = ["n_train", "first", "second", "difference", "standard_error", "degrees", "low", "high", "p_raw", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(9, "p_value", adjust_pairs(table, correction, "n_train"))
    better = np.full(len(table), "", dtype=object)
    if metric in HIGHER_IS_BETTER:
        first_wins = (table["difference"] > 0) == HIGHER_IS_BETTER[metric]
        better = np.where(table["p_value"] < alpha, np.where(first_wins, table["first"], table["second"]), "")
    table.insert(10, "better", better)
    return table


def surviving_stars(
    scores: pd.DataFrame,
    observers: pd.DataFrame,
    metric: str = "dice",
    *,
    replicates: int = 2000,
    seed: int = 0,
    correction: Correction = "holm",
    alpha: float = 0.001,
    failures: Failures = "leave_out",
) -> pd.DataFrame:
    """Which of the paper's stars stand when it is taken into account that models share images.

    Returns
    -------
    DataFrame
        One row a cell: source_task, n_train, printed (the paper's p-value, `–` where it has none), printed_star
        (below 0.001 in print), naive_p, naive_verdict (Dunnett over all predictions, the family being all cells; SMD
        and SMA against zeros), mixed_p, mixed_verdict, bootstrap_p, bootstrap_verdict, star (the naive test has a
        verdict), survives_mixed, survives_bootstrap (the same verdict; missing where there is no star or no test),
        note.

    Raises
    ------
    ValueError
        As `mixed_model_table`.
    """
    naive_control = observers if metric in HIGHER_IS_BETTER else np.zeros(scores["patient_id"].nunique())
    naive = dunnett_table(scores, naive_control, metric, alpha=alpha, failures=failures)
    settings = {"correction": correction, "alpha": alpha, "failures": failures}
    mixed = mixed_model_table(scores, observers, metric, **settings)
    drawn = hierarchical_bootstrap_table(scores, observers, metric, replicates=replicates, seed=seed, **settings)
    printed = {(r.source_task, r.n_train): r.printed for r in printed_cells(metric).itertuples()}
    rows = []
    for a, b, c in zip(naive.itertuples(), mixed.itertuples(), drawn.itertuples(), strict=True):
        text = printed.get((a.source_task, a.n_train), "–")
        star = a.verdict != ""

        def survives(other, *, star=star, verdict=a.verdict):
            return pd.NA if not star or np.isnan(other.p_value) else other.verdict == verdict

        rows.append(
            {
                "source_task": a.source_task,
                "n_train": a.n_train,
                "printed": text,
                "printed_star": pd.NA if text == "–" else is_below(text),
                "naive_p": a.p_value,
                "naive_verdict": a.verdict,
                "mixed_p": b.p_value,
                "mixed_verdict": b.verdict,
                "bootstrap_p": c.p_value,
                "bootstrap_verdict": c.verdict,
                "star": star,
                "survives_mixed": survives(b),
                "survives_bootstrap": survives(c),
                "note": "; ".join(dict.fromkeys(note for note in (a.note, b.note, c.note) if note)),
            }
        )
    flags = dict.fromkeys(("printed_star", "survives_mixed", "survives_bootstrap"), "boolean")
    return pd.DataFrame(rows).astype(flags)


def surviving_pair_stars(
    scores: pd.DataFrame, metric: str = "rms_dta_cm", *, correction: Correction = "none", alpha: float = 0.001
) -> pd.DataFrame:
    """`surviving_stars` for the comparisons between source tasks (Appendix C).

    Returns
    -------
    DataFrame
        n_train, first, second, printed, naive_p, naive_better (Mann-Whitney over all predictions), mixed_p,
        mixed_better, star, survives_mixed, note.
    """
    naive = mann_whitney_pairs(scores, metric, correction=correction, alpha=alpha)
    mixed = mixed_model_pairs(scores, metric, correction=correction, alpha=alpha)
    printed = {(r.n_train, r.first, r.second): r.printed for r in printed_pairs().itertuples()}
    table = naive[["n_train", "first", "second"]].copy()
    keys = zip(table["n_train"], table["first"], table["second"], strict=True)
    has_print = metric == "rms_dta_cm"
    table["printed"] = [printed.get(key, "–") if has_print else "–" for key in keys]
    table["naive_p"], table["naive_better"] = naive["p_value"], naive["better"]
    table["mixed_p"], table["mixed_better"] = mixed["p_value"], mixed["better"]
    table["star"] = table["naive_p"] < alpha
    stands = (table["mixed_p"] < alpha) & (table["mixed_better"] == table["naive_better"])
    table["survives_mixed"] = stands.astype("boolean").mask(~table["star"] | table["mixed_p"].isna())
    table["note"] = mixed["note"].where(mixed["note"] != "", naive["note"])
    return table
