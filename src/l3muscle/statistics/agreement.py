"""Agreement of SMA and SMD with the expert: Bland-Altman, concordance, equivalence (not in the paper)."""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from l3muscle.metrics import MEASURES
from l3muscle.statistics.score_table import (
    DIFFERENCE_OF,
    LEVEL,
    NoTest,
    check_choice,
    check_observers,
    check_scores,
    configurations,
    expert_values,
    mean_over,
    observers_as_matrix,
)

# Half-widths of equivalence. The paper's observers differ from its expert with standard deviations of 10.3 cm² and
# 5.5 HU: a model within that of the expert on average is no further off than a radiographer's single outline. The
# published cut-offs for low muscle area in men differ by as much between themselves (134 and 144 cm²).
AGREEMENT_MARGIN = {"sma_cm2": 10.0, "smd_hu": 5.0}
EQUIVALENCE_ALPHA = 0.05  # level of the test of equivalence
LEAST_PAIRS = 3


def lin_concordance(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Lin's concordance correlation coefficient with the 95 % interval of its Fisher transform (Lin 1989, 2000).

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
        raise NoTest("nothing varies")
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
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(max(variance, 0.0))
    centre = np.arctanh(ccc)
    return float(ccc), float(np.tanh(centre - half)), float(np.tanh(centre + half))


def _agreement(values: np.ndarray, expert: np.ndarray, margin: float) -> dict[str, float]:
    difference = values - expert
    n = difference.size
    if n < LEAST_PAIRS:
        raise NoTest(f"fewer than {LEAST_PAIRS} images")
    sd = difference.std(ddof=1)
    if sd <= 1e-12 * max(np.abs(difference).max(), np.abs(expert).max()):
        raise NoTest("the differences do not vary")
    bias = difference.mean()
    t, z = stats.t.ppf((1 + LEVEL) / 2, n - 1), stats.norm.ppf(0.975)
    half_bias = t * sd / np.sqrt(n)
    # Standard error of a limit of agreement (Bland and Altman 1999).
    half_limit = t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))
    halves = {"bias": (bias, half_bias), "lower_limit": (bias - z * sd, half_limit)}
    halves["upper_limit"] = bias + z * sd, half_limit
    outcome = {}
    for name, (middle, half) in halves.items():
        outcome |= {name: middle, f"{name}_low": middle - half, f"{name}_high": middle + half}
    outcome |= dict(zip(("ccc", "ccc_low", "ccc_high"), lin_concordance(values, expert), strict=True))
    return outcome | {"sd": sd, "tost_p": float(ttost_paired(values, expert, -margin, margin)[0])}


_INTERVALS = ("bias", "lower_limit", "upper_limit", "ccc")
AGREEMENT_COLUMNS = (*(f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")), "sd", "tost_p")


def agreement_table(
    scores: pd.DataFrame, measure: str = "sma_cm2", *, observers: pd.DataFrame | None = None
) -> pd.DataFrame:
    """How a configuration's SMA or SMD agrees with the expert's.

    16 models share 37 images: the mean of a configuration's models is compared with the expert, one pair an image, so
    that pairs are independent and the textbook's formulas hold.

    Parameters
    ----------
    scores : DataFrame
    measure : {"sma_cm2", "smd_hu"}
    observers : DataFrame, optional
        Adds a last row, source_task `observers` and no n_train.

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n_images, n, failures, empty, gross; bias (outline minus expert), sd, 95 %
        limits of agreement lower_limit and upper_limit, Lin's concordance ccc, each with `_low` and `_high`; margin (in
        cm² or HU, from `AGREEMENT_MARGIN`), tost_p (paired two one-sided tests), equivalent (p below
        `EQUIVALENCE_ALPHA`; missing where there is no test), note (begins with `n/a` where there is none).

    Raises
    ------
    ScoreTableError
        For an unknown measure, or a table that is refused.
    """
    check_choice("measure", measure, DIFFERENCE_OF)
    column = DIFFERENCE_OF[measure]
    for name in (measure, column):
        check_scores(scores, name)
        if observers is not None:
            check_observers(observers, name)
    margin, images = AGREEMENT_MARGIN[measure], sorted(scores["patient_id"].unique())
    raters = [(one.row(), one.matrix) for one in configurations(scores, column)]
    if observers is not None:
        outlines = observers_as_matrix(observers, column, images)
        failed = int((observers["failure"].fillna("") != "").sum()) if "failure" in observers else 0
        row = {"source_task": "observers", "n_train": pd.NA, "n_models": len(outlines)}
        raters.append((row | {"n": 0, "failures": failed, "empty": failed, "gross": 0}, outlines))
    both = scores if observers is None else pd.concat([scores, observers], ignore_index=True)
    expert = expert_values(both, measure).reindex(images).to_numpy(float)
    rows = []
    for row, matrix in raters:
        means = mean_over(matrix, 0)
        used = ~np.isnan(means)
        row |= {"n_images": int(used.sum()), "n": int((~np.isnan(matrix)).sum())}
        missing = row["empty"] if np.isnan(MEASURES[measure].empty) else 0
        note = f"{missing} failed predictions have no {MEASURES[measure].name} and are left out" if missing else ""
        outcome = dict.fromkeys(AGREEMENT_COLUMNS, np.nan)
        try:
            outcome = _agreement((means + expert)[used], expert[used], margin)
        except NoTest as error:
            note = f"n/a: {error}"
        equivalent = pd.NA if np.isnan(outcome["tost_p"]) else bool(outcome["tost_p"] < EQUIVALENCE_ALPHA)
        rows.append(row | outcome | {"margin": margin, "equivalent": equivalent, "note": note})
    return pd.DataFrame(rows).astype({"n_train": "Int64", "equivalent": "boolean"})


def bland_altman_points(scores: pd.DataFrame, measure: str = "sma_cm2") -> pd.DataFrame:
    """The points of a Bland-Altman plot, one an image: the mean of a configuration's models beside the expert.

    Parameters
    ----------
    scores : DataFrame
        A score table; an observer table serves too, and its rows get the source task `observers`.
    measure : {"sma_cm2", "smd_hu"}

    Returns
    -------
    DataFrame
        source_task, n_train, patient_id, expert, measured, mean (of the two), difference (measured minus expert).
        Predictions without the measure are left out.

    Raises
    ------
    ScoreTableError
        As `agreement_table`.
    """
    check_choice("measure", measure, DIFFERENCE_OF)
    if "observer" in scores:
        check_observers(scores, measure)
        scores = scores.assign(source_task="observers", n_train=pd.NA)
    else:
        check_scores(scores, measure)
    table = scores.assign(measured=scores[measure], expert=scores[measure] - scores[DIFFERENCE_OF[measure]])
    keys = ["source_task", "n_train", "patient_id"]
    known = table.dropna(subset="measured").groupby(keys, sort=False, dropna=False)
    points = known[["expert", "measured"]].mean().reset_index()
    return points.assign(
        mean=(points["measured"] + points["expert"]) / 2, difference=points["measured"] - points["expert"]
    )
