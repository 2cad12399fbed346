"""Score and observer tables of a few rows, for tests whose answer can be seen."""

from collections.abc import Sequence
from string import ascii_lowercase

import pandas as pd


def model(
    values: Sequence[float], metric: str = "dice", *, task: str = "random", n: int = 5, fold: int = 0, **columns
) -> pd.DataFrame:
    """The rows of one model: a value of the metric for each of the images a, b, c and so on."""
    keys = {"source_task": task, "n_train": n, "fold": fold, "subset": 0, "repeat": 0}
    rows = {**keys, "patient_id": list(ascii_lowercase[: len(values)]), metric: values, "failure": "", **columns}
    return pd.DataFrame(rows).astype({metric: float})


def observer(values: Sequence[float], metric: str = "dice", *, name: str = "o1", **columns) -> pd.DataFrame:
    """The rows of one observer, likewise."""
    rows = {"observer": name, "patient_id": list(ascii_lowercase[: len(values)]), metric: values, **columns}
    return pd.DataFrame(rows).astype({metric: float})


def stacked(*tables: pd.DataFrame) -> pd.DataFrame:
    """One table of all."""
    return pd.concat(tables, ignore_index=True)
