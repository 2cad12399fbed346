"""The paper's comparisons when scores are not independent, since 16 models share 37 images (not in the paper).

One method: a bootstrap that draws images, models and observers anew. Images are drawn once for all configurations and
observers, which share them; models within their configuration (the pigeonhole bootstrap, Owen 2007, which never
understates the variance of a mean).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics.dunnett import control_sample, dunnett_table
from l3muscle.statistics.mann_whitney import Correction, adjust
from l3muscle.statistics.printed import is_below, printed_configurations
from l3muscle.statistics.score_table import (
    ALPHA,
    COMPARED,
    LEVEL,
    NoTest,
    ScoreTableError,
    check_choice,
    check_observers,
    check_scores,
    configurations,
    mean_over,
    observers_as_matrix,
    verdict,
)

LEAST_REPLICATES = 100
LEAST_IMAGES = 3


def draw_weights(count: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` units is drawn in each replicate, (replicates, count).

    One fewer is drawn than there are, with replacement: the variance of a mean is then unbiased (Rao and Wu 1988),
    which matters where a configuration has four models.
    """
    if count < 2:
        raise NoTest("fewer than two images to draw from")
    return rng.multinomial(count - 1, np.full(count, 1 / count), size=replicates).astype(float)


def weighted_means(matrix: np.ndarray, raters: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean over images of the mean over raters, for each replicate's weights of both; NaN where nothing is drawn."""
    known = ~np.isnan(matrix)
    weight, total = raters @ known, raters @ np.where(known, matrix, 0.0)
    per_image = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    drawn = images * (weight > 0)
    count = drawn.sum(1)
    return np.divide((drawn * per_image).sum(1), count, out=np.full(len(count), np.nan), where=count > 0)


@dataclass(frozen=True)
class Estimate:
    """A mean, or the difference of two, with the uncertainty that images and raters give it.

    Attributes
    ----------
    value, standard_error, degrees, low, high : float
        Degrees of freedom are Satterthwaite's; the interval holds the replicates' percentiles.
    """

    value: float
    standard_error: float
    degrees: float
    low: float
    high: float

    @property
    def p_value(self) -> float:
        """Two-sided t-test of zero: counting replicates could not resolve below one over their number."""
        return float(2 * stats.t.sf(abs(self.value) / self.standard_error, self.degrees))


@dataclass(frozen=True)
class Drawn:
    """The values of some raters, (raters, images), the mean over images of their means, and its replicates."""

    matrix: np.ndarray
    mean: float
    replicates: np.ndarray


class Bootstrap:
    """Replicates of means over redrawn images and raters (models or observers).

    Parameters
    ----------
    images : int
        How many there are; the columns of every matrix.
    replicates : int
    seed : int
        What is drawn depends on it and on the names that are given, not on what else is drawn.

    Raises
    ------
    ScoreTableError
        For fewer than `LEAST_REPLICATES`.
    """

    def __init__(self, images: int, replicates: int = 2000, seed: int = 0) -> None:
        if replicates < LEAST_REPLICATES:
            raise ScoreTableError(f"at least {LEAST_REPLICATES} replicates are needed, not {replicates}")
        self.replicates, self.seed = replicates, seed
        self.image_weights = draw_weights(images, replicates, self._generator("images"))

    def _generator(self, *name: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, *"|".join(map(str, name)).encode()])

    def draw(self, matrix: np.ndarray, *name: object, least_raters: int = 2) -> Drawn:
        """Replicates of the mean of a (raters, images) table; a single rater, where allowed, is not drawn anew."""
        matrix = matrix[~np.isnan(matrix).all(1)]
        if not len(matrix):
            raise NoTest("no values")
        if len(matrix) < least_raters:
            raise NoTest("fewer than 2 raters, whose differences cannot be told from the images'")
        raters = np.ones((self.replicates, 1))
        if len(matrix) > 1:
            raters = draw_weights(len(matrix), self.replicates, self._generator(*name))
        mean = float(np.nanmean(mean_over(matrix, 0)))
        return Drawn(matrix, mean, weighted_means(matrix, raters, self.image_weights))


def _variance_of_mean(units: np.ndarray) -> tuple[float, int]:
    units = units[~np.isnan(units)]
    return (float(units.var(ddof=1) / units.size), units.size - 1) if units.size > 1 else (0.0, 1)


def estimate(first: Drawn, second: Drawn | None = None) -> Estimate:
    """Mean of `first`, or its difference from the mean of `second` on the same images.

    Raises
    ------
    NoTest
        For fewer than `LEAST_IMAGES`, or if nothing varies.
    """
    sides = [first] if second is None else [first, second]
    per_image = mean_over(first.matrix, 0) - (0.0 if second is None else mean_over(second.matrix, 0))
    if np.isfinite(per_image).sum() < LEAST_IMAGES:
        raise NoTest(f"fewer than {LEAST_IMAGES} images")
    value = first.mean - (0.0 if second is None else second.mean)
    drawn = first.replicates - (0.0 if second is None else second.replicates)
    error = float(np.nanstd(drawn, ddof=1))
    if error <= 1e-12 * max(abs(side.mean) for side in sides):
        raise NoTest("nothing varies")
    parts = [_variance_of_mean(per_image), *(_variance_of_mean(mean_over(side.matrix, 1)) for side in sides)]
    degrees = sum(variance for variance, _ in parts) ** 2 / sum(variance**2 / count for variance, count in parts)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, error, degrees, float(low), float(high))


def observers_drawn(bootstrap: Bootstrap, scores: pd.DataFrame, observers: pd.DataFrame | None, metric: str) -> Drawn:
    """The observers on the images of a score table.

    Raises
    ------
    ScoreTableError
        If the observers' scores are missing, or models and observers share no image.
    """
    if observers is None:
        raise ScoreTableError(f"{metric} is compared with the observers, whose scores are missing")
    check_observers(observers, metric)
    matrix = observers_as_matrix(observers, metric, sorted(scores["patient_id"].unique()))
    if np.isnan(matrix).all():
        raise ScoreTableError("models and observers share no image: tables of different runs?")
    return bootstrap.draw(matrix, "observers")


def hierarchical_bootstrap_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame | None = None,
    metric: str = "dice",
    *,
    replicates: int = 2000,
    correction: Correction = "holm",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Every configuration against the observers, or the expert, by redrawing images, models and observers.

    Parameters
    ----------
    scores, observers : DataFrame
        Observers are not needed for the differences of SMD and SMA, which are compared with the expert's zero.
    metric : str
        A measure with a better side, or a difference from the expert.
    replicates : int
        The table depends on nothing but their number and the scores.
    correction : {"holm", "bonferroni", "fdr_bh", "none"}
        Over all configurations of the table; the interval, of 95 %, is not corrected.
    alpha : float
        Of the verdict.

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n, failures, empty, gross, difference, standard_error, degrees, low, high,
        p_raw, p_value (corrected), verdict, note (begins with `n/a` where there is no test).

    Raises
    ------
    ScoreTableError
        As `dunnett_table`; also if models and observers share no image, and for too few replicates.
    """
    check_choice("metric", metric, COMPARED)
    check_scores(scores, metric)
    bootstrap = Bootstrap(scores["patient_id"].nunique(), replicates)
    control = observers_drawn(bootstrap, scores, observers, metric) if MEASURES[metric].better else None
    columns = ["difference", "standard_error", "degrees", "low", "high", "p_raw"]
    rows = []
    for configuration in configurations(scores, metric):
        note, values = configuration.note, (np.nan,) * len(columns)
        try:
            one = estimate(bootstrap.draw(configuration.matrix, *configuration.key), control)
            values = (one.value, one.standard_error, one.degrees, one.low, one.high, one.p_value)
        except NoTest as error:
            note = f"n/a: {error}"
        rows.append(configuration.row() | dict(zip(columns, values, strict=True)) | {"note": note})
    table = pd.DataFrame(rows)
    note = table.pop("note")
    table["p_value"] = adjust(table["p_raw"], correction)
    pairs = zip(table["difference"], table["p_value"], strict=True)
    table["verdict"] = [verdict(metric, difference, p, alpha) for difference, p in pairs]
    return table.assign(note=note)


def surviving_differences(
    scores: pd.DataFrame,
    observers: pd.DataFrame,
    metric: str = "dice",
    *,
    replicates: int = 2000,
    correction: Correction = "holm",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Which of the paper's significant differences stand when it is counted in that models share images.

    Returns
    -------
    DataFrame
        One row a configuration: source_task, n_train, printed (the paper's p-value, `–` where it has none),
        printed_significant (below 0.001 in print), naive_p, naive_verdict (Dunnett over all predictions, the family
        being all configurations; SMD and SMA against zeros), bootstrap_p, bootstrap_verdict, significant (the naive
        test has a verdict), survives (the same verdict by the bootstrap; missing where there is none to survive, or no
        test), note.

    Raises
    ------
    ScoreTableError
        As `hierarchical_bootstrap_table`.
    """
    control = observers if MEASURES[metric].better else control_sample("zeros", metric, scores=scores)
    naive = dunnett_table(scores, control, metric, alpha=alpha)
    settings = {"replicates": replicates, "correction": correction, "alpha": alpha}
    drawn = hierarchical_bootstrap_table(scores, observers, metric, **settings)
    print_of = printed_configurations(metric).set_index(["source_task", "n_train"])["printed"].to_dict()
    table = naive[["source_task", "n_train"]].copy()
    table["printed"] = [print_of.get(key, "–") for key in table.itertuples(index=False, name=None)]
    below = [pd.NA if text == "–" else is_below(text) for text in table["printed"]]
    table["printed_significant"] = pd.array(below, dtype="boolean")
    table["naive_p"], table["naive_verdict"] = naive["p_value"], naive["verdict"]
    table["bootstrap_p"], table["bootstrap_verdict"] = drawn["p_value"], drawn["verdict"]
    table["significant"] = table["naive_verdict"] != ""
    stands = (table["bootstrap_verdict"] == table["naive_verdict"]).astype("boolean")
    table["survives"] = stands.mask(~table["significant"] | table["bootstrap_p"].isna())
    notes = zip(naive["note"], drawn["note"], strict=True)
    return table.assign(note=["; ".join(dict.fromkeys(note for note in pair if note)) for pair in notes])
