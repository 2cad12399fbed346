"""Score and observer tables of a few rows, for tests whose answer can be seen."""

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
import pandas as pd


def model(
    values: Sequence[float], metric: str = "dice", *, task: str = "random", n: int = 5, fold: int = 0, **columns
) -> pd.DataFrame:
    """The rows of one model: a value of the metric for each of the images a, b, c and so on."""
    keys = {"source_task": task, "n_train": n, "fold": fold, "subset": 0, "repeat": 0}
    rows = {**keys, "patient_id": list(ascii_lowercase[: len(values)]), metric: values, "failure": "", **columns}
    return pd.DataFrame(rows).astype({metric: float})


def scores_of(values: dict[tuple[str, int], Sequence[float]], metric: str = "rms_dta_cm") -> pd.DataFrame:
    """A metric by source task and training-set size, each value of a model of its own on one image."""
    keys = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id"]
    rows = [
        (task, n, fold, 0, 0, "p", value, "empty" if np.isnan(value) else "")
        for (task, n), of_one in values.items()
        for fold, value in enumerate(of_one)
    ]
    return pd.DataFrame(rows, columns=[*keys, metric, "failure"])


def observer(values: Sequence[float], metric: str = "dice", *, name: str = "o1", **columns) -> pd.DataFrame:
    """The rows of one observer, likewise."""
    rows = {"observer": name, "patient_id": list(ascii_lowercase[: len(values)]), metric: values, **columns}
    return pd.DataFrame(rows).astype({metric: float})


def stacked(*tables: pd.DataFrame) -> pd.DataFrame:
    """One table of all."""
    return pd.concat(tables, ignore_index=True)
