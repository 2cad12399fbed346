"""Agreement of SMA and SMD with the expert: Bland-Altman, concordance, equivalence (not in the paper)."""

from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from l3muscle.statistics.crossed import TooFew, fit_mean
from l3muscle.statistics.score_table import (
    DIFFERENCE_OF,
    MEASURES,
    MODEL_KEYS,
    cells,
    check_choice,
    check_metric,
    check_observers,
    check_scores,
    observers_as_matrix,
)

# Half-widths of equivalence. The paper's observers differ from its expert with standard deviations of 10.3 cm² and
# 5.5 HU: a model within that of the expert on average is no further off than a radiographer's single outline. The
# published cut-offs for low muscle area in men differ by as much between themselves (134 and 144 cm²).
AGREEMENT_MARGIN = {"sma_cm2": 10.0, "smd_hu": 5.0}
LEAST_PAIRS = 3
AgreementUnit = Literal["image_mean", "prediction"]


def lin_concordance(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Lin's concordance correlation coefficient with the interval of its Fisher transform (Lin 1989, 2000).

    Returns
    -------
    (float, float, float)
        Coefficient, low, high; the interval is NaN for fewer than four pairs or perfect agreement.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = a.size
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    shift = (a.mean() - b.mean()) ** 2
    spread = a.var() + b.var() + shift
    if n < 2 or spread == 0:
        raise TooFew("nothing varies")
    ccc = 2 * covariance / spread
    product = a.std() * b.std()
    if n < 4 or product == 0 or abs(ccc) >= 1 - 1e-12 or covariance == 0:
        return float(ccc), np.nan, np.nan
    r, u2 = covariance / product, shift / product
    variance = (
        (1 - r**2) * ccc**2 / ((1 - ccc**2) * r**2)
        + 2 * ccc**3 * (1 - ccc) * u2 / (r * (1 - ccc**2) ** 2)
        - ccc**4 * u2**2 / (2 * r**2 * (1 - ccc**2) ** 2)
    ) / (n - 2)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(max(variance, 0.0))
    centre = np.arctanh(ccc)
    return float(ccc), float(np.tanh(centre - half)), float(np.tanh(centre + half))


def _of_image_means(values: np.ndarray, expert: np.ndarray, margin: float, level: float) -> dict[str, float]:
    difference = values - expert
    n = difference.size
    if n < LEAST_PAIRS:
        raise TooFew(f"fewer than {LEAST_PAIRS} images")
    sd = difference.std(ddof=1)
    if sd <= 1e-12 * max(np.abs(difference).max(), np.abs(expert).max()):
        raise TooFew("the differences do not vary")
    bias, error = difference.mean(), sd / np.sqrt(n)
    t, z = stats.t.ppf((1 + level) / 2, n - 1), stats.norm.ppf(0.975)
    # Standard error of a limit of agreement (Bland and Altman 1999).
    half = t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    lower, upper = bias - z * sd, bias + z * sd
    ccc, ccc_low, ccc_high = lin_concordance(values, expert, level)
    return {
        "bias": bias,
        "bias_low": bias - t * error,
        "bias_high": bias + t * error,
        "sd": sd,
        "lower_limit": lower,
        "lower_limit_low": lower - half,
        "lower_limit_high": lower + half,
        "upper_limit": upper,
        "upper_limit_low": upper - half,
        "upper_limit_high": upper + half,
        "ccc": ccc,
        "ccc_low": ccc_low,
        "ccc_high": ccc_high,
        "tost_p": float(ttost_paired(values, expert, -margin, margin)[0]),
    }


def _of_predictions(matrix: np.ndarray, expert: np.ndarray, margin: float, level: float, name: str) -> dict[str, float]:
    """Agreement of a single prediction, whose differences scatter by image, by model and otherwise."""
    fit = fit_mean(matrix, name)
    known = ~np.isnan(matrix)
    z = stats.norm.ppf(0.975)
    sd = float(np.sqrt(sum(fit.variances.values())))
    low, high = fit.interval(level)
    lower, upper = fit.estimate - z * sd, fit.estimate + z * sd
    # Of the variance of a limit, the part of the bias is known and that of the spread rests on the images, the
    # scarcest independent units that bear it.
    images = int(known.any(0).sum())
    half = stats.t.ppf((1 + level) / 2, images - 1) * np.sqrt(fit.standard_error**2 + z**2 * sd**2 / (2 * (images - 1)))
    values = matrix + expert
    pairs = np.broadcast_to(expert, matrix.shape)[known], values[known]
    # All predictions give the coefficient; only images are independent, and they give its interval.
    ccc, _, _ = lin_concordance(pairs[1], pairs[0], level)
    one_each = np.array([np.nanmean(values[:, i]) for i in np.flatnonzero(known.any(0))])
    _, mean_low, mean_high = lin_concordance(one_each, expert[known.any(0)], level)
    centre = np.arctanh(np.clip(ccc, -1 + 1e-12, 1 - 1e-12))
    half_z = (np.arctanh(mean_high) - np.arctanh(mean_low)) / 2
    tost = max(
        stats.t.sf((fit.estimate + margin) / fit.standard_error, fit.degrees),
        stats.t.cdf((fit.estimate - margin) / fit.standard_error, fit.degrees),
    )
    return {
        "bias": fit.estimate,
        "bias_low": low,
        "bias_high": high,
        "sd": sd,
        "lower_limit": lower,
        "lower_limit_low": lower - half,
        "lower_limit_high": lower + half,
        "upper_limit": upper,
        "upper_limit_low": upper - half,
        "upper_limit_high": upper + half,
        "ccc": ccc,
        "ccc_low": float(np.tanh(centre - half_z)),
        "ccc_high": float(np.tanh(centre + half_z)),
        "tost_p": float(tost),
    }


_INTERVALS = ("bias", "lower_limit", "upper_limit", "ccc")
AGREEMENT_COLUMNS = (*(f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")), "sd", "tost_p")


def _raters(
    scores: pd.DataFrame, observers: pd.DataFrame | None, column: str, images: list[str]
) -> list[tuple[str, object, int, np.ndarray, dict[str, int]]]:
    raters = [
        (cell.source_task, cell.n_train, cell.n_models, cell.matrix, cell.counts) for cell in cells(scores, column)
    ]
    if observers is not None:
        outlines = observers_as_matrix(observers, column, images)
        failed = int((observers["failure"] != "").sum()) if "failure" in observers else 0
        counts = {"failures": failed, "empty": failed, "runaway": 0}
        raters.append(("observers", pd.NA, observers["observer"].nunique(), outlines, counts))
    return raters


def agreement_table(
    scores: pd.DataFrame,
    measure: str = "sma_cm2",
    *,
    observers: pd.DataFrame | None = None,
    unit: AgreementUnit = "image_mean",
    margin: float | None = None,
    level: float = 0.95,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """How a cell's SMA or SMD agrees with the expert's.

    Parameters
    ----------
    scores : DataFrame
    measure : {"sma_cm2", "smd_hu"}
    observers : DataFrame, optional
        Adds a last row, source_task `observers` and no n_train.
    unit : {"image_mean", "prediction"}
        16 models share 37 images. `"image_mean"`: the mean of a cell's models is compared with the expert, one pair an
        image, so that pairs are independent; the textbook's formulas then hold. `"prediction"`: what a single model
        gives; the spread is the sum of the variances of image, model and residual in a mixed model, intervals and
        test rest on that model.
    margin : float, optional
        Half-width of equivalence in cm² or HU; `AGREEMENT_MARGIN` by default.
    level : float
        Of the intervals.
    alpha : float
        Of the equivalence test.

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n_images, n, failures, empty, runaway; bias (outline minus expert), sd, 95 %
        limits of agreement lower_limit and upper_limit, Lin's concordance ccc, each with `_low` and `_high`; margin,
        tost_p (paired two one-sided tests), equivalent (missing where there is no test), note (begins with `n/a`
        where there is none).

    Raises
    ------
    ValueError
        For an unknown measure or unit, a margin that is not positive, or a table that is refused.
    """
    check_metric(measure, tuple(MEASURES))
    check_choice("unit", unit, ("image_mean", "prediction"))
    column = DIFFERENCE_OF[measure]
    check_scores(scores, measure)
    check_scores(scores, column)
    if observers is not None:
        check_observers(observers, measure)
        check_observers(observers, column)
    margin = AGREEMENT_MARGIN[measure] if margin is None else margin
    if not margin > 0:
        raise ValueError(f"the margin must be positive, is {margin}")
    images = sorted(scores["patient_id"].unique())
    both = scores if observers is None else pd.concat([scores, observers], ignore_index=True)
    expert_of = (both[measure] - both[column]).groupby(both["patient_id"]).mean()
    expert = expert_of.reindex(images).to_numpy(float)
    rows = []
    for task, n_train, models, matrix, counts in _raters(scores, observers, column, images):
        known = ~np.isnan(matrix)
        used = known.any(0)
        missing = counts["empty"] if measure == "smd_hu" else 0
        note = f"{missing} failed predictions have no density and are left out" if missing else ""
        outcome = dict.fromkeys(AGREEMENT_COLUMNS, np.nan)
        try:
            if unit == "prediction":
                outcome = _of_predictions(matrix, expert, margin, level, "raters")
            else:
                means = np.array([matrix[known[:, i], i].mean() for i in np.flatnonzero(used)])
                outcome = _of_image_means(means + expert[used], expert[used], margin, level)
        except TooFew as error:
            note = f"n/a: {error}"
        rows.append(
            {
                "source_task": task,
                "n_train": n_train,
                "n_models": models,
                "n_images": int(used.sum()),
                "n": int(known.sum()),
                **counts,
                **outcome,
                "margin": margin,
                "equivalent": pd.NA if np.isnan(outcome["tost_p"]) else bool(outcome["tost_p"] < alpha),
                "note": note,
            }
        )
    return pd.DataFrame(rows).astype({"n_train": "Int64", "equivalent": "boolean"})


def bland_altman_points(
    scores: pd.DataFrame, measure: str = "sma_cm2", *, unit: AgreementUnit = "image_mean"
) -> pd.DataFrame:
    """The points of a Bland-Altman plot.

    Parameters
    ----------
    scores : DataFrame
        A score table; an observer table serves too, and its rows get the source task `observers`.
    measure : {"sma_cm2", "smd_hu"}
    unit : {"image_mean", "prediction"}
        One point an image (the mean of a cell's models), or one a prediction.

    Returns
    -------
    DataFrame
        source_task, n_train, patient_id, (fold, subset, repeat or observer for predictions,) expert, measured, mean
        (of the two), difference (measured minus expert). Predictions without the measure are left out.

    Raises
    ------
    ValueError
        As `agreement_table`.
    """
    check_metric(measure, tuple(MEASURES))
    check_choice("unit", unit, ("image_mean", "prediction"))
    if "observer" in scores:
        check_observers(scores, measure)
        table, raters = scores.assign(source_task="observers", n_train=pd.NA), ["observer"]
    else:
        check_scores(scores, measure)
        table, raters = scores, MODEL_KEYS
    table = table.assign(measured=table[measure], expert=table[measure] - table[DIFFERENCE_OF[measure]])
    keys = ["source_task", "n_train", "patient_id"]
    table = table.dropna(subset=["measured"])
    if unit == "image_mean":
        points = table.groupby(keys, sort=False, dropna=False)[["expert", "measured"]].mean().reset_index()
    else:
        points = table[[*keys, *raters, "expert", "measured"]].reset_index(drop=True)
    return points.assign(
        mean=(points["measured"] + points["expert"]) / 2, difference=points["measured"] - points["expert"]
    )
