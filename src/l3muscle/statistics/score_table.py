"""What a score table must hold, its cells, and how failed predictions are counted.

A score table has one row a model and test image: source_task, n_train, fold, subset, repeat, patient_id, dice,
rms_dta_cm, smd_difference_hu, sma_difference_cm2, failure, and for what needs them smd_hu and sma_cm2. An observer
table has one row an outline: observer, patient_id and the same measures. Differences are outline minus expert.
"""

from collections.abc import Sequence
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


def _check_one_run(table: pd.DataFrame, what: str) -> None:
    """Rows of several runs must not be pooled: their profile, or the expert's own values, would differ."""
    if "profile" in table.columns and table["profile"].nunique(dropna=False) > 1:
        raise ValueError(f"the {what} mixes the profiles {', '.join(map(str, table['profile'].unique()))}")
    for measure, difference in DIFFERENCE_OF.items():
        if {measure, difference} <= set(table.columns):
            expert = (table[measure] - table[difference]).groupby(table["patient_id"])
            spread = expert.max() - expert.min()
            if (spread > 1e-6 * expert.max().abs().clip(lower=1.0)).any():
                image = spread.idxmax()
                raise ValueError(
                    f"the {what} mixes runs: the expert's {MEASURES[measure]} of {image} is not the same in all rows"
                )


def check_scores(scores: pd.DataFrame, metric: str) -> None:
    """Refuse a score table that a test would read wrongly.

    Raises
    ------
    ValueError
        For an unknown metric, a missing column, an infinite value, no rows, rows given twice, or rows of several runs
        (of different profiles, or with different experts' values for one image).
    """
    check_metric(metric)
    _check_columns(scores, [*CELL_KEYS, *MODEL_KEYS, "patient_id", metric, "failure"], "score table")
    if scores.empty:
        raise ValueError("the score table has no rows")
    if np.isinf(scores[metric].to_numpy(dtype=np.float64)).any():
        raise ValueError(f"the score table holds infinite values of {metric}")
    twice = scores.duplicated([*CELL_KEYS, *MODEL_KEYS, "patient_id"])
    if twice.any():
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


def cells(scores: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """Cells of source task and training-set size, in order of appearance and of size."""
    tasks = list(dict.fromkeys(scores["source_task"]))
    groups = dict(list(scores.groupby(CELL_KEYS, sort=False)))
    sizes = sorted(scores["n_train"].unique())
    return [((task, int(n)), groups[task, n]) for task in tasks for n in sizes if (task, n) in groups]


def runaway(scores: pd.DataFrame) -> pd.Series:
    """Which predictions have left the muscle: see `RUNAWAY_DTA_CM` and `RUNAWAY_AREA_FACTOR`."""
    found = pd.Series(False, index=scores.index)
    if "rms_dta_cm" in scores:
        found |= scores["rms_dta_cm"] > RUNAWAY_DTA_CM
    if {"sma_cm2", "sma_difference_cm2"} <= set(scores.columns):
        ratio = scores["sma_cm2"] / (scores["sma_cm2"] - scores["sma_difference_cm2"])
        found |= (ratio > RUNAWAY_AREA_FACTOR) | ((ratio > 0) & (ratio < 1 / RUNAWAY_AREA_FACTOR))
    return found & (scores["failure"] != "empty")


def failure_counts(cell: pd.DataFrame) -> dict[str, int]:
    """How many predictions of a cell failed: `failures` in all, of these `empty` and `runaway`.

    An empty prediction has no distance and no density. A runaway one has every measure and stays in every mean.
    """
    away = int(runaway(cell).sum())
    failed = int(((cell["failure"] != "") | runaway(cell)).sum())
    return {"failures": failed, "empty": int((cell["failure"] == "empty").sum()), "runaway": away}


def model_count(cell: pd.DataFrame) -> int:
    """Number of models in a cell."""
    return len(cell[MODEL_KEYS].drop_duplicates())


def fill_failures(scores: pd.DataFrame, metric: str, failures: Failures) -> pd.DataFrame:
    """Give failed predictions the value with which they enter a mean.

    Parameters
    ----------
    scores : DataFrame
    metric : str
    failures : {"leave_out", "worst"}
        `"leave_out"`: a prediction without a value stays NaN, is left out of the mean, and is counted. `"worst"`: an
        empty prediction counts as far off as the worst outline that any model of the table drew of the same image.
        Dice and area exist for every prediction (an empty one scores 0), and no density is the worst: those columns
        are returned as they are.
    """
    check_choice("failures", failures, FAILURES)
    if failures == "leave_out" or metric != "rms_dta_cm":
        return scores
    worst = scores.groupby("patient_id")[metric].transform("max").fillna(scores[metric].max())
    return scores.assign(**{metric: scores[metric].fillna(worst)})


def values_by_unit(cell: pd.DataFrame, metric: str, unit: Unit) -> np.ndarray:
    """A cell's values, one a prediction, an image (mean over models) or a model (mean over images); NaN left out."""
    check_choice("unit", unit, UNITS)
    if unit == "prediction":
        values = cell[metric]
    else:
        values = cell.groupby("patient_id" if unit == "image_mean" else MODEL_KEYS)[metric].mean()
    values = values.to_numpy(dtype=np.float64)
    return values[~np.isnan(values)]


def failure_note(cell: pd.DataFrame, metric: str) -> str:
    """What the reader of a row must know of its failures."""
    missing = int(cell[metric].isna().sum())
    return f"{missing} failed predictions left out" if missing else ""


def as_matrix(cell: pd.DataFrame, metric: str, images: Sequence[str]) -> np.ndarray:
    """A cell as (models, images); NaN where there is no value."""
    return cell.pivot(index=MODEL_KEYS, columns="patient_id", values=metric).reindex(columns=images).to_numpy(float)


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
