"""What a score table must hold, its configurations, and how failed predictions are counted.

A score table has one row a model and test image: source_task, n_train, fold, subset, repeat, patient_id, the columns of
`l3muscle.metrics.MEASURES` and failure. An observer table has one row an outline: observer, patient_id and the same
measures. Differences are outline minus expert. A configuration is a source task and a training-set size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.errors import L3MuscleError
from l3muscle.metrics import MEASURES

# What is compared with the observers or the expert; the measured values themselves are compared only with the expert's.
DIFFERENCE_OF = {row.value: column for column, row in MEASURES.items() if isinstance(row.value, str)}
MEASURE_OF = {difference: measure for measure, difference in DIFFERENCE_OF.items()}
COMPARED = tuple(column for column in MEASURES if column not in DIFFERENCE_OF)
MODEL_KEYS = ["fold", "subset", "repeat"]
ALPHA = 0.001  # level of the tests, as in the paper
LEVEL = 0.95  # of every interval
CONFIGURATION_KEYS = ["source_task", "n_train"]

# A gross failure has left the muscle. At L3 the abdominal wall is one to three centimetres thick, so that a boundary
# off by more than two (six times the paper's mean observer, 0.318 cm) lies in another structure; and an area off by a
# factor of two is further from the expert's than any published cut-off for low muscle is from a healthy mean.
GROSS_DTA_CM = 2.0
GROSS_AREA_FACTOR = 2.0

Unit = Literal["prediction", "image_mean", "model_mean"]


class ScoreTableError(L3MuscleError, ValueError):
    """A table, or a setting of a test, that would be read wrongly."""


class NoTest(ScoreTableError):
    """There are too few values, images or models for a test; tables say so in a note."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ScoreTableError unless a setting is one of its choices, a sequence or a `Literal`."""
    choices = get_args(choices) or tuple(choices)
    if value not in choices:
        raise ScoreTableError(f"unknown {name} {value!r}; choose one of {', '.join(map(str, choices))}")


def _check(table: pd.DataFrame, what: str, keys: list[str], columns: list[str], metric: str) -> None:
    check_choice("metric", metric, MEASURES)
    missing = [name for name in [*keys, metric, *columns] if name not in table.columns]
    if missing:
        raise ScoreTableError(f"the {what} lacks {', '.join(missing)}")
    if table.empty:
        raise ScoreTableError(f"the {what} has no rows")
    if np.isinf(table[metric].to_numpy(dtype=np.float64)).any():
        raise ScoreTableError(f"the {what} holds infinite values of {metric}")
    unknown = [name for name in keys if table[name].isna().any()]
    if unknown:
        raise ScoreTableError(f"the {what} has rows without {', '.join(unknown)}")
    twice = table[table.duplicated(keys)]
    if len(twice):
        first = ", ".join(f"{name} {twice.iloc[0][name]}" for name in keys)
        raise ScoreTableError(f"the {what} holds {len(twice)} rows twice, the first for {first}")
    # Rows of several runs must not be pooled: the expert's own values would differ.
    for measure, difference in DIFFERENCE_OF.items():
        if {measure, difference} <= set(table.columns):
            expert = (table[measure] - table[difference]).groupby(table["patient_id"]).agg(["min", "max"])
            apart = expert["max"] - expert["min"] > 1e-6 * np.maximum(expert["max"].abs(), 1.0)
            if apart.any():
                raise ScoreTableError(
                    f"the {what} mixes runs: the expert's {MEASURES[measure].name} of {apart.idxmax()} is not the "
                    "same in all rows"
                )


def check_scores(scores: pd.DataFrame, metric: str) -> None:
    """Refuse a score table that a test would read wrongly.

    Raises
    ------
    ScoreTableError
        A ValueError: for an unknown metric, a missing column, an infinite value, no rows, rows that do not say which
        model or image they are of, rows given twice, or rows of several runs (with different experts' values for one
        image).
    """
    _check(scores, "score table", [*CONFIGURATION_KEYS, *MODEL_KEYS, "patient_id"], ["failure"], metric)


def check_observers(observers: pd.DataFrame, metric: str) -> None:
    """Refuse an observer table that a test would read wrongly, as `check_scores` does."""
    _check(observers, "observer table", ["observer", "patient_id"], [], metric)


def gross_failures(scores: pd.DataFrame) -> pd.Series:
    """Which predictions have left the muscle: see `GROSS_DTA_CM` and `GROSS_AREA_FACTOR`."""
    gross = pd.Series(False, index=scores.index)
    if "rms_dta_cm" in scores:
        gross |= scores["rms_dta_cm"] > GROSS_DTA_CM
    if {"sma_cm2", "sma_difference_cm2"} <= set(scores.columns):
        ratio = scores["sma_cm2"] / (scores["sma_cm2"] - scores["sma_difference_cm2"])
        gross |= (ratio > GROSS_AREA_FACTOR) | ((ratio > 0) & (ratio < 1 / GROSS_AREA_FACTOR))
    return gross & (scores["failure"].fillna("") != "empty")


def best_median_worst(scores: pd.DataFrame) -> dict[str, Any]:
    """Index of the rows with the best, the median and the worst Dice."""
    ranked = scores.sort_values(["dice", "patient_id"], ascending=False).index
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def mean_over(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the known values along an axis; NaN where there is none."""
    known = ~np.isnan(matrix)
    count = known.sum(axis)
    return np.where(count > 0, np.where(known, matrix, 0.0).sum(axis) / np.maximum(count, 1), np.nan)


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of values (N,), and the ends of its t interval; NaN for what too few values do not have."""
    values = np.asarray(values, dtype=float)
    mean = values.mean() if values.size else np.nan
    if values.size < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf((1 + LEVEL) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Configuration:
    """One metric of the models of a source task and training-set size.

    Attributes
    ----------
    source_task : str
    n_train : int
    matrix : ndarray, (models, images)
        Models by fold, subset and repeat, images of the whole table by name; NaN where there is no value.
    counts : dict of str to int
        How many predictions failed: `failures` in all, of these `empty` and `gross`. An empty prediction has no
        distance and no density. A gross failure has every measure and stays in every mean.
    note : str
        How many predictions had no value and are left out.
    """

    source_task: str
    n_train: int
    matrix: np.ndarray
    counts: dict[str, int]
    note: str

    @property
    def key(self) -> tuple[str, int]:
        """Source task and size."""
        return self.source_task, self.n_train

    def row(self, unit: Unit = "prediction") -> dict[str, Any]:
        """What a result table says of a configuration first."""
        counts = {"n_models": len(self.matrix), "n": self.values(unit).size, **self.counts}
        return {"source_task": self.source_task, "n_train": self.n_train} | counts

    def values(self, unit: Unit = "prediction") -> np.ndarray:
        """One value a prediction, an image (mean over models) or a model (mean over images); NaN left out."""
        check_choice("unit", unit, Unit)
        if unit == "prediction":
            values = self.matrix.ravel()
        else:
            values = mean_over(self.matrix, 0 if unit == "image_mean" else 1)
        return values[~np.isnan(values)]


def models_each(scores: pd.DataFrame) -> pd.Series:
    """How many models there are of each configuration that has any, by source task and training-set size."""
    return scores.drop_duplicates([*CONFIGURATION_KEYS, *MODEL_KEYS]).groupby(CONFIGURATION_KEYS).size()


def fewest_to_most(counts: pd.Series) -> str:
    """The range of counts in words, such as `2 to 4`; one number where all are alike."""
    return " to ".join(map(str, sorted({int(counts.min()), int(counts.max())})))


def configurations(scores: pd.DataFrame, metric: str) -> list[Configuration]:
    """Configurations in order of their source task's appearance and of size.

    A failed prediction without a value stays NaN, is left out of every mean, and is counted.

    Parameters
    ----------
    scores : DataFrame
        That `check_scores` has let pass.
    metric : str
    """
    failure = scores["failure"].fillna("")  # a table read from a CSV file has NaN where there is no failure
    value, gross = scores[metric].astype(float), gross_failures(scores)
    counts = {"failures": gross | (failure != ""), "empty": failure == "empty", "gross": gross, "missing": value.isna()}
    keys = [*CONFIGURATION_KEYS, *MODEL_KEYS, "patient_id"]
    index = pd.MultiIndex.from_frame(scores[keys])
    wide = pd.Series(value.to_numpy(), index=index).unstack("patient_id").sort_index()
    totals = pd.DataFrame(counts).groupby([scores[name] for name in CONFIGURATION_KEYS]).sum()
    matrices = {key: group.to_numpy() for key, group in wide.groupby(level=CONFIGURATION_KEYS)}
    order = {task: index for index, task in enumerate(scores["source_task"].unique())}
    ordered = []
    for task, n in sorted(matrices, key=lambda key: (order[key[0]], key[1])):
        *failed, missing = (int(count) for count in totals.loc[(task, n)])
        note = f"{missing} failed predictions left out" if missing else ""
        numbers = dict(zip(counts, failed, strict=False))
        ordered.append(Configuration(str(task), int(n), matrices[task, n], numbers, note))
    return ordered


def observers_as_matrix(observers: pd.DataFrame, metric: str, images: Sequence[str]) -> np.ndarray:
    """Observers as (observers, images); NaN where an observer drew no outline."""
    table = observers.pivot(index="observer", columns="patient_id", values=metric)
    return table.reindex(columns=images).to_numpy(float)


def expert_values(table: pd.DataFrame, measure: str) -> pd.Series:
    """The expert's SMD or SMA of each image, indexed by patient_id, from a score or observer table."""
    check_choice("measure", measure, DIFFERENCE_OF)
    missing = [name for name in (measure, DIFFERENCE_OF[measure], "patient_id") if name not in table]
    if missing:
        raise ScoreTableError(f"the table lacks {', '.join(missing)}")
    return (table[measure] - table[DIFFERENCE_OF[measure]]).groupby(table["patient_id"], sort=True).mean().dropna()


def verdict(metric: str, difference: float, p_value: float, alpha: float) -> str:
    """`"better"` or `"worse"` where p < alpha, else empty; a measure without a better side is worse either way."""
    if not p_value < alpha:
        return ""
    side = MEASURES[metric].better
    return "better" if side and (difference > 0) == (side == "higher") else "worse"


def better_of(table: pd.DataFrame, metric: str, first_is_higher: pd.Series, alpha: float) -> np.ndarray:
    """Which of the two source tasks of each row is the better where p < alpha; else empty."""
    side = MEASURES[metric].better
    winner = np.where(first_is_higher == (side == "higher"), table["first"], table["second"])
    return np.where((table["p_value"] < alpha) & (side != ""), winner, "")
