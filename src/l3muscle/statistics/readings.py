"""The ways to read what the paper says of its tests, and how close each comes to what it printed."""

from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from l3muscle.statistics.dunnett import CONTROLS, FAMILIES, Control, Family, control_sample, test_families
from l3muscle.statistics.mann_whitney import (
    CORRECTIONS,
    PAIR_FAMILIES,
    Correction,
    PairFamily,
    adjust_pairs,
    mann_whitney_pairs,
)
from l3muscle.statistics.printed import ALPHA, printed_cells, printed_pairs
from l3muscle.statistics.score_table import (
    MEASURES,
    UNITS,
    Cell,
    Unit,
    cells,
    check_choice,
    check_metric,
    check_scores,
)


@dataclass(frozen=True)
class DunnettReading:
    """One way to read Tables 1 and 2: what is compared with what, and what is adjusted together."""

    metric: str
    control: Control
    family: Family = "all"
    unit: Unit = "prediction"

    def __post_init__(self) -> None:
        check_metric(self.metric)
        check_choice("control", self.control, CONTROLS)
        check_choice("family", self.family, FAMILIES)
        check_choice("unit", self.unit, UNITS)


@dataclass(frozen=True)
class MannWhitneyReading:
    """One way to read Appendix C."""

    metric: str = "rms_dta_cm"
    unit: Unit = "prediction"
    correction: Correction = "none"
    family: PairFamily = "n_train"

    def __post_init__(self) -> None:
        check_metric(self.metric)
        check_choice("unit", self.unit, UNITS)
        check_choice("correction", self.correction, CORRECTIONS)
        check_choice("family", self.family, PAIR_FAMILIES)


def possible_readings(metric: str, test: str = "dunnett") -> list[DunnettReading | MannWhitneyReading]:
    """The readings that the paper's words allow.

    For Dice and RMS-DTA the control is "observer delineations": each outline, or each image's mean. For SMD and SMA
    it is "expert delineations": differences against the expert's zeros, or the raw values against the expert's. That
    the observers' differences were meant is not what the caption says, but is listed for comparison.
    """
    check_choice("test", test, ("dunnett", "mann_whitney"))
    check_metric(metric)
    if test == "mann_whitney":
        settings = [
            (correction, family)
            for correction, family in product(CORRECTIONS, PAIR_FAMILIES)
            if correction != "none" or family == "n_train"
        ]
        return [MannWhitneyReading(metric, unit, *setting) for unit, setting in product(UNITS, settings)]
    raw = {"smd_difference_hu": "smd_hu", "sma_difference_cm2": "sma_cm2"}
    if metric in MEASURES:
        pairs = [(metric, "expert")]
    elif metric in raw:
        pairs = [(raw[metric], "expert"), (metric, "zeros"), (metric, "outlines"), (metric, "image_means")]
    else:
        pairs = [(metric, "outlines"), (metric, "image_means")]
    return [DunnettReading(*pair, family, unit) for pair, family, unit in product(pairs, FAMILIES, UNITS)]


def _compare(p_value: np.ndarray, number: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """How close p-values come to printed ones, on the printed scale: all below 0.001 are alike."""
    known = ~np.isnan(p_value)
    p_value, number, below = p_value[known], number[known], below[known]
    both = ~below & (p_value >= ALPHA)
    shown = np.where(below, ALPHA, number)
    return {
        "cells": int(known.sum()),
        "untested": int((~known).sum()),
        "same_side": float(((p_value < ALPHA) == below).mean()) if known.any() else np.nan,
        "mean_abs_dp": float(np.abs(p_value - number)[both].mean()) if both.any() else np.nan,
        "distance": float(np.abs(np.maximum(p_value, ALPHA) - shown).mean()) if known.any() else np.nan,
    }


class _Dunnett:
    """p-values of every reading of the Dunnett's tests; what readings share is computed once."""

    def __init__(self, scores: pd.DataFrame, observers: pd.DataFrame | None) -> None:
        self.scores, self.observers = scores, observers
        self.cells = cache(self._cells)
        self.control = cache(self._control)

    def _cells(self, metric: str) -> list[Cell]:
        check_scores(self.scores, metric)
        return cells(self.scores, metric)

    def _control(self, kind: Control, metric: str) -> np.ndarray:
        return control_sample(kind, metric, observers=self.observers, scores=self.scores)

    def of(self, reading: DunnettReading) -> pd.DataFrame:
        """source_task, n_train, p_value, as `dunnett_table` has them."""
        found, control = self.cells(reading.metric), self.control(reading.control, reading.metric)
        tested, _ = test_families(found, [cell.values(reading.unit) for cell in found], control, reading.family)
        rows = [(cell.source_task, cell.n_train, p) for cell, p in zip(found, tested[:, 2], strict=True)]
        return pd.DataFrame(rows, columns=["source_task", "n_train", "p_value"])


class _MannWhitney:
    """p-values of every reading of the Mann-Whitney tests; readings that differ in the correction share theirs."""

    def __init__(self, scores: pd.DataFrame) -> None:
        self.pairs = cache(lambda metric, unit: mann_whitney_pairs(scores, metric, unit=unit))

    def of(self, reading: MannWhitneyReading) -> pd.DataFrame:
        """n_train, first, second, p_value, as `mann_whitney_pairs` has them."""
        table = self.pairs(reading.metric, reading.unit)[["n_train", "first", "second", "p_raw"]]
        return table.assign(p_value=adjust_pairs(table, reading.correction, reading.family))


def readings_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame | None = None,
    metric: str = "dice",
    *,
    test: str = "dunnett",
) -> pd.DataFrame:
    """How close each reading of the paper's tests comes to its printed values, closest first.

    Closeness is a property of this run's data as much as of the reading: on other patients, or a phantom, the right
    reading need not be the closest.

    Parameters
    ----------
    scores, observers : DataFrame
    metric : str
        One of `METRICS`; for `test="mann_whitney"` RMS-DTA, the only one that the paper prints.
    test : {"dunnett", "mann_whitney"}

    Returns
    -------
    DataFrame
        One row a reading: test, its settings (control, family, unit, correction), cells (compared), untested, same_side
        (share of the cells on the same side of 0.001 as printed), mean_abs_dp (mean |difference| of p where both are
        numbers), distance (mean |difference| over all cells, where all values below 0.001 count as 0.001; the order of
        the table is by same_side, then by this), note.

    Raises
    ------
    ValueError
        For an unknown metric or test, or a table that is refused.
    """
    check_choice("test", test, ("dunnett", "mann_whitney"))
    if test == "mann_whitney" and metric != "rms_dta_cm":
        raise ValueError("the paper prints Mann-Whitney tests of rms_dta_cm only")
    p_values = _Dunnett(scores, observers) if test == "dunnett" else _MannWhitney(scores)
    printed = printed_cells(metric) if test == "dunnett" else printed_pairs()
    rows = []
    for reading in possible_readings(metric, test):
        settings = asdict(reading)
        note, outcome = "", _compare(np.empty(0), np.empty(0), np.empty(0, bool))
        needs_observers = isinstance(reading, DunnettReading) and reading.control in ("outlines", "image_means")
        if needs_observers and observers is None:
            note = "n/a: no observers"
        else:
            merged = p_values.of(reading).merge(printed)
            outcome = _compare(*(merged[name].to_numpy() for name in ("p_value", "number", "below")))
        if not note and not outcome["cells"]:
            why = (
                "no printed cell of this run can be tested" if outcome["untested"] else "no cell of this run is printed"
            )
            note = f"n/a: {why}"
        rows.append({"test": test, **settings, **outcome, "note": note})
    table = pd.DataFrame(rows)
    return table.sort_values(["same_side", "distance"], ascending=[False, True], kind="stable", ignore_index=True)
