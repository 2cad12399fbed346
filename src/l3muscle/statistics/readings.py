"""The ways to read what the paper says of its tests, and how close each comes to what it printed."""

from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd

from l3muscle.statistics.dunnett import Control, Family, control_sample, dunnett_by_family
from l3muscle.statistics.mann_whitney import Correction, PairFamily, adjust_pairs, mann_whitney_pairs
from l3muscle.statistics.printed import ALPHA, printed_configurations, printed_pairs
from l3muscle.statistics.score_table import (
    DIFFERENCE_OF,
    ScoreTableError,
    Unit,
    check_choice,
    check_scores,
    configurations,
)

TESTS = ("dunnett", "mann_whitney")


@dataclass(frozen=True)
class DunnettReading:
    """One way to read Tables 1 and 2: what is compared with what, and what is adjusted together."""

    metric: str
    control: Control
    family: Family = "all"
    unit: Unit = "prediction"


@dataclass(frozen=True)
class MannWhitneyReading:
    """One way to read Appendix C."""

    metric: str = "rms_dta_cm"
    unit: Unit = "prediction"
    correction: Correction = "none"
    family: PairFamily = "n_train"


def possible_readings(metric: str, test: str = "dunnett") -> list[DunnettReading | MannWhitneyReading]:
    """The readings that the paper's words allow.

    For Dice and RMS-DTA the control is "observer delineations": each outline, or each image's mean. For SMD and SMA
    it is "expert delineations": differences against the expert's zeros, or the raw values against the expert's. That
    the observers' differences were meant is not what the caption says, but is listed for comparison.
    """
    check_choice("test", test, TESTS)
    if test == "mann_whitney":
        settings = product(get_args(Unit), get_args(Correction), get_args(PairFamily))
        return [
            MannWhitneyReading(metric, unit, correction, family)
            for unit, correction, family in settings
            if correction != "none" or family == "n_train"
        ]
    measured = {difference: measure for measure, difference in DIFFERENCE_OF.items()}.get(metric)
    pairs = [(metric, "outlines"), (metric, "image_means")]
    if metric in DIFFERENCE_OF:
        pairs = [(metric, "expert")]
    elif measured:
        pairs = [(measured, "expert"), (metric, "zeros"), *pairs]
    return [
        DunnettReading(*pair, family, unit) for pair, family, unit in product(pairs, get_args(Family), get_args(Unit))
    ]


def _compare(p_value: np.ndarray, number: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """How close p-values come to printed ones, on the printed scale: all below 0.001 are alike."""
    known = ~np.isnan(p_value)
    p_value, number, below = p_value[known], number[known], below[known]
    both = ~below & (p_value >= ALPHA)
    shown = np.where(below, ALPHA, number)
    return {
        "compared": int(known.sum()),
        "untested": int((~known).sum()),
        "same_side": float(((p_value < ALPHA) == below).mean()) if known.any() else np.nan,
        "mean_abs_dp": float(np.abs(p_value - number)[both].mean()) if both.any() else np.nan,
        "distance": float(np.abs(np.maximum(p_value, ALPHA) - shown).mean()) if known.any() else np.nan,
    }


def _p_values(scores: pd.DataFrame, observers: pd.DataFrame | None):
    """p-values of any reading; what readings share is computed once."""

    @cache
    def found(metric: str):
        check_scores(scores, metric)
        return configurations(scores, metric)

    @cache
    def pairs(metric: str, unit: Unit) -> pd.DataFrame:
        return mann_whitney_pairs(scores, metric, unit=unit)[["n_train", "first", "second", "p_raw"]]

    def p_values(reading: DunnettReading | MannWhitneyReading) -> pd.DataFrame:
        if isinstance(reading, MannWhitneyReading):
            table = pairs(reading.metric, reading.unit)
            return table.assign(p_value=adjust_pairs(table, reading.correction, reading.family))
        control = control_sample(reading.control, reading.metric, observers=observers, scores=scores)
        samples = [one.values(reading.unit) for one in found(reading.metric)]
        tested, _ = dunnett_by_family(found(reading.metric), samples, control, reading.family)
        keys = pd.DataFrame([one.key for one in found(reading.metric)], columns=["source_task", "n_train"])
        return keys.assign(p_value=tested[:, 2])

    return p_values


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
        For `test="mann_whitney"` RMS-DTA, the only one that the paper prints.
    test : {"dunnett", "mann_whitney"}

    Returns
    -------
    DataFrame
        One row a reading: test, its settings (control, family, unit, correction), compared (configurations or pairs), untested, same_side
        (share of these on the same side of 0.001 as printed), mean_abs_dp (mean |difference| of p where both are
        numbers), distance (mean |difference| over all, where all values below 0.001 count as 0.001; the order of
        the table is by same_side, then by this), note.

    Raises
    ------
    ScoreTableError
        For an unknown metric or test, or a table that is refused.
    """
    check_choice("test", test, TESTS)
    if test == "mann_whitney" and metric != "rms_dta_cm":
        raise ScoreTableError("the paper prints Mann-Whitney tests of rms_dta_cm only")
    p_values = _p_values(scores, observers)
    printed = printed_configurations(metric) if test == "dunnett" else printed_pairs()
    rows = []
    for reading in possible_readings(metric, test):
        settings = asdict(reading)
        note, outcome = "", _compare(np.empty(0), np.empty(0), np.empty(0, bool))
        needs_observers = isinstance(reading, DunnettReading) and reading.control in ("outlines", "image_means")
        if needs_observers and observers is None:
            note = "n/a: no observers"
        else:
            merged = p_values(reading).merge(printed)
            outcome = _compare(*(merged[name].to_numpy() for name in ("p_value", "number", "below")))
        if not note and not outcome["compared"]:
            why = (
                "nothing printed of this run can be tested" if outcome["untested"] else "nothing of this run is printed"
            )
            note = f"n/a: {why}"
        rows.append({"test": test, **settings, **outcome, "note": note})
    table = pd.DataFrame(rows)
    return table.sort_values(["same_side", "distance"], ascending=[False, True], kind="stable", ignore_index=True)
