"""What a score table must hold, its cells, and how failed predictions are counted.

A score table has one row a model and test image: source_task, n_train, fold, subset, repeat, patient_id, dice,
rms_dta_cm, smd_difference_hu, sma_difference_cm2, failure, and for what needs them smd_hu and sma_cm2. An observer
table has one row an outline: observer, patient_id and the same measures. Differences are outline minus expert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

METRICS = {"dice": "DSC", "rms_dta_cm": "RMS-DTA", "smd_difference_hu": "SMD", "sma_difference_cm2": "SMA"}
MEASURES = {"smd_hu": "SMD", "sma_cm2": "SMA"}
DIFFERENCE_OF = {"smd_hu": "smd_difference_hu", "sma_cm2": "sma_difference_cm2"}
HIGHER_IS_BETTER = {"dice": True, "rms_dta_cm": False}
MODEL_KEYS = ["fold", "subset", "repeat"]
CELL_KEYS = ["source_task", "n_train"]

# A runaway outline has left the muscle. At L3 the abdominal wall is one to three centimetres thick, so that a boundary
# off by more than two (six times the paper's mean observer, 0.318 cm) lies in another structure; and an area off by a
# factor of two is further from the expert's than any published cut-off for low muscle is from a healthy mean.
RUNAWAY_DTA_CM = 2.0
RUNAWAY_AREA_FACTOR = 2.0

Unit = Literal["prediction", "image_mean", "model_mean"]
Failures = Literal["leave_out", "worst"]
UNITS = ("prediction", "image_mean", "model_mean")
FAILURES = ("leave_out", "worst")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless a setting is one of its choices."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(str, choices))}")


KNOWN = (*METRICS, *MEASURES)


def check_metric(metric: str, known: Sequence[str] = KNOWN) -> None:
    """Raise ValueError for a metric that is not known."""
    if metric not in known:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(known)}")


def _check_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"the {what} lacks {', '.join(missing)}")


def _codes(table: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, int]:
    """Number the rows by what they hold in these columns, in its order; returns the numbers and how many there are."""
    code, count = np.zeros(len(table), dtype=np.int64), 1
    for name in columns:
        own, levels = pd.factorize(table[name], sort=True)
        # Renumbered after every column: the product of all levels need not fit an integer.
        levels_found, code = np.unique(code * len(levels) + own, return_inverse=True)
        count = len(levels_found)
    return code, count


def _check_one_run(table: pd.DataFrame, what: str) -> None:
    """Rows of several runs must not be pooled: their profile, or the expert's own values, would differ."""
    if "profile" in table.columns and table["profile"].nunique(dropna=False) > 1:
        raise ValueError(f"the {what} mixes the profiles {', '.join(map(str, table['profile'].unique()))}")
    image, images = pd.factorize(table["patient_id"])
    for measure, difference in DIFFERENCE_OF.items():
        if {measure, difference} <= set(table.columns):
            expert = (table[measure] - table[difference]).to_numpy(dtype=np.float64)
            lowest, highest = np.full(len(images), np.inf), np.full(len(images), -np.inf)
            np.fmin.at(lowest, image, expert)
            np.fmax.at(highest, image, expert)
            apart = highest - lowest > 1e-6 * np.maximum(np.abs(highest), 1.0)
            if apart.any():
                raise ValueError(
                    f"the {what} mixes runs: the expert's {MEASURES[measure]} of {images[apart.argmax()]} is not the "
                    "same in all rows"
                )


def check_scores(scores: pd.DataFrame, metric: str) -> None:
    """Refuse a score table that a test would read wrongly.

    Raises
    ------
    ValueError
        For an unknown metric, a missing column, an infinite value, no rows, rows that do not say which model or image
        they are of, rows given twice, or rows of several runs (of different profiles, or with different experts'
        values for one image).
    """
    check_metric(metric)
    _check_columns(scores, [*CELL_KEYS, *MODEL_KEYS, "patient_id", metric, "failure"], "score table")
    if scores.empty:
        raise ValueError("the score table has no rows")
    if np.isinf(scores[metric].to_numpy(dtype=np.float64)).any():
        raise ValueError(f"the score table holds infinite values of {metric}")
    keys = [*CELL_KEYS, *MODEL_KEYS, "patient_id"]
    unknown = [name for name in keys if scores[name].isna().any()]
    if unknown:
        raise ValueError(f"the score table has rows without {', '.join(unknown)}")
    code, count = _codes(scores, keys)
    if count < len(scores):
        twice = pd.Series(code).duplicated().to_numpy()
        row = scores[twice].iloc[0]
        raise ValueError(
            f"the score table holds {int(twice.sum())} rows twice, the first for {row['source_task']} "
            f"n = {row['n_train']}, image {row['patient_id']}"
        )
    _check_one_run(scores, "score table")


def check_observers(observers: pd.DataFrame, metric: str) -> None:
    """Refuse an observer table that a test would read wrongly; raises ValueError as `check_scores` does."""
    check_metric(metric)
    _check_columns(observers, ["observer", "patient_id", metric], "observer table")
    if observers.empty:
        raise ValueError("the observer table has no rows")
    if observers.duplicated(["observer", "patient_id"]).any():
        raise ValueError("the observer table holds an observer's outline of one image twice")
    _check_one_run(observers, "observer table")


def runaway(scores: pd.DataFrame) -> pd.Series:
    """Which predictions have left the muscle: see `RUNAWAY_DTA_CM` and `RUNAWAY_AREA_FACTOR`."""
    found = pd.Series(False, index=scores.index)
    if "rms_dta_cm" in scores:
        found |= scores["rms_dta_cm"] > RUNAWAY_DTA_CM
    if {"sma_cm2", "sma_difference_cm2"} <= set(scores.columns):
        ratio = scores["sma_cm2"] / (scores["sma_cm2"] - scores["sma_difference_cm2"])
        found |= (ratio > RUNAWAY_AREA_FACTOR) | ((ratio > 0) & (ratio < 1 / RUNAWAY_AREA_FACTOR))
    return found & (scores["failure"].fillna("") != "empty")


def _means(values: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    """Mean of the known values of each code, leaving out codes that have none."""
    known = ~np.isnan(values)
    number = np.bincount(code[known], minlength=count)
    total = np.bincount(code[known], values[known], minlength=count)
    return total[number > 0] / number[number > 0]


@dataclass(frozen=True)
class Cell:
    """One metric of the models of a source task and training-set size, as arrays in the table's order.

    Attributes
    ----------
    source_task : str
    n_train : int
    value : ndarray, (rows,)
        As it enters a mean; NaN where a failed prediction has none.
    model, image : ndarray, (rows,) int
        Which model of the cell, by fold, subset and repeat, and which image of the table, by name.
    n_models, n_images : int
        Models of the cell, images of the table.
    counts : dict of str to int
        How many predictions of the cell failed: `failures` in all, of these `empty` and `runaway`. An empty prediction
        has no distance and no density. A runaway one has every measure and stays in every mean.
    """

    source_task: str
    n_train: int
    value: np.ndarray
    model: np.ndarray
    image: np.ndarray
    n_models: int
    n_images: int
    counts: dict[str, int]

    def values(self, unit: Unit = "prediction") -> np.ndarray:
        """One value a prediction, an image (mean over models) or a model (mean over images); NaN left out."""
        check_choice("unit", unit, UNITS)
        if unit == "image_mean":
            return _means(self.value, self.image, self.n_images)
        if unit == "model_mean":
            return _means(self.value, self.model, self.n_models)
        return self.value[~np.isnan(self.value)]

    @property
    def matrix(self) -> np.ndarray:
        """The values as (models, images); NaN where there is none."""
        table = np.full((self.n_models, self.n_images), np.nan)
        table[self.model, self.image] = self.value
        return table

    @property
    def note(self) -> str:
        """What the reader of a row must know of its failures."""
        missing = int(np.isnan(self.value).sum())
        return f"{missing} failed predictions left out" if missing else ""


def filled_values(scores: pd.DataFrame, metric: str, failures: Failures) -> np.ndarray:
    """A metric's values as they enter a mean: see `cells`."""
    check_choice("failures", failures, FAILURES)
    values = scores[metric].to_numpy(dtype=np.float64)
    if failures == "leave_out" or metric != "rms_dta_cm":
        return values
    image, images = _codes(scores, ["patient_id"])
    worst = np.full(images, np.nan)
    np.fmax.at(worst, image, values)
    worst[np.isnan(worst)] = np.nanmax(values) if not np.isnan(values).all() else np.nan
    return np.where(np.isnan(values), worst[image], values)


def cells(scores: pd.DataFrame, metric: str, failures: Failures = "leave_out") -> list[Cell]:
    """Cells of source task and training-set size, in order of appearance and of size.

    Parameters
    ----------
    scores : DataFrame
        That `check_scores` has let pass.
    metric : str
    failures : {"leave_out", "worst"}
        How failed predictions enter a mean. `"leave_out"`: a prediction without a value stays NaN, is left out of the
        mean, and is counted. `"worst"`: an empty prediction counts as far off as the worst outline that any model of
        the table drew of the same image. Dice and area exist for every prediction (an empty one scores 0), and no
        density is the worst: those are as they are.
    """
    image, n_images = _codes(scores, ["patient_id"])
    model, _ = _codes(scores, MODEL_KEYS)
    task, tasks = pd.factorize(scores["source_task"])
    size, sizes = pd.factorize(scores["n_train"], sort=True)
    value = filled_values(scores, metric, failures)
    # A table read from a CSV file has NaN where there is no failure.
    failure = scores["failure"].fillna("")
    empty = (failure == "empty").to_numpy(dtype=bool)
    away = runaway(scores).to_numpy(dtype=bool)
    failed = away | (failure != "").to_numpy(dtype=bool)
    place = task * len(sizes) + size
    order = np.argsort(place, kind="stable")
    found = []
    for rows in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        models, own = np.unique(model[rows], return_inverse=True)
        counts = {
            "failures": int(failed[rows].sum()),
            "empty": int(empty[rows].sum()),
            "runaway": int(away[rows].sum()),
        }
        first = rows[0]
        where = str(tasks[task[first]]), int(sizes[size[first]])
        found.append(Cell(*where, value[rows], own, image[rows], len(models), n_images, counts))
    return found


def observers_as_matrix(observers: pd.DataFrame, metric: str, images: Sequence[str]) -> np.ndarray:
    """Observers as (observers, images); NaN where an observer drew no outline."""
    table = observers.pivot(index="observer", columns="patient_id", values=metric)
    return table.reindex(columns=images).to_numpy(float)


def expert_values(table: pd.DataFrame, measure: str) -> pd.Series:
    """The expert's SMD or SMA of each image, indexed by patient_id, from a score or observer table."""
    check_metric(measure, tuple(MEASURES))
    _check_columns(table, [measure, DIFFERENCE_OF[measure], "patient_id"], "table")
    expert = (table[measure] - table[DIFFERENCE_OF[measure]]).groupby(table["patient_id"], sort=True).mean()
    return expert.dropna()
