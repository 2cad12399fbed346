"""The paper's tests give what they gave when their tables were frozen, whatever has been done to their code since.

The scores are a piece of a study of the first edition, with three predictions made empty, one far off, and an expert
made up.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from l3muscle.statistics import control_sample, dunnett_table, mann_whitney_pairs, mann_whitney_table, plateau_table

FROZEN = Path(__file__).with_name("frozen")


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FROZEN / f"{name}.csv", keep_default_na=False, na_values=["", "nan"])


SCORES, OBSERVERS = read("scores"), read("observers")


def cases(name: str, settings: list[str]):
    """Each group of settings, and the table that was frozen for it."""
    table = read(name)
    return [(dict(zip(settings, key, strict=True)), own) for key, own in table.groupby(settings, sort=False)]


def assert_frozen(found: pd.DataFrame, frozen: pd.DataFrame, settings: list[str]) -> None:
    expected = frozen.drop(columns=settings).reset_index(drop=True)
    texts = [name for name in ("verdict", "note", "better") if name in expected]
    expected[texts] = expected[texts].astype(object).fillna("")
    found = found[list(expected)].astype(expected.dtypes)
    assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


DUNNETT = ["metric", "control", "family", "unit"]
PAIRS = ["metric", "correction", "family", "unit"]
PLATEAU = ["metric", "unit"]


@pytest.mark.parametrize(("settings", "frozen"), cases("dunnett", DUNNETT))
def test_dunnett_tables_are_as_frozen(settings, frozen):
    metric = settings["metric"]
    control = control_sample(settings["control"], metric, observers=OBSERVERS, scores=SCORES)
    found = dunnett_table(SCORES, control, metric, family=settings["family"], unit=settings["unit"])
    assert_frozen(found, frozen, DUNNETT)


@pytest.mark.parametrize(("settings", "frozen"), cases("mann_whitney", PAIRS))
def test_mann_whitney_tables_are_as_frozen(settings, frozen):
    assert_frozen(mann_whitney_pairs(SCORES, **settings), frozen, PAIRS)
    square = mann_whitney_table(SCORES, n_train=25, **settings)
    for row in frozen[frozen["n_train"] == 25].itertuples():
        assert square.loc[row.first, row.second] == square.loc[row.second, row.first]
        assert np.isclose(square.loc[row.first, row.second], row.p_value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("settings", "frozen"), cases("plateau", PLATEAU))
def test_plateau_tables_are_as_frozen(settings, frozen):
    assert_frozen(plateau_table(SCORES, **settings), frozen, PLATEAU)
