"""The ways to read what the paper says of its tests, and how close each comes to what it printed."""

from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
import pandas as pd

from l3muscle.statistics.dunnett import Family, control_sample, dunnett_table
from l3muscle.statistics.printed import LEAST_PRINTED, on_another_side, printed_configurations
from l3muscle.statistics.score_table import DIFFERENCE_OF, MEASURE_OF, Unit


def _compare(p_value: np.ndarray, number: np.ndarray, below: np.ndarray, turned: np.ndarray) -> dict[str, float]:
    """How close p-values come to printed ones, on the printed scale: all below 0.001 are alike.

    `turned` is where both are below it and one of them says better and the other worse.
    """
    known = ~np.isnan(p_value)
    p_value, number, below, turned = p_value[known], number[known], below[known], turned[known]
    both = ~below & (p_value >= LEAST_PRINTED)
    shown = np.where(below, LEAST_PRINTED, number)
    return {
        "compared": int(known.sum()),
        "untested": int((~known).sum()),
        "same_verdict": float((((p_value < LEAST_PRINTED) == below) & ~turned).mean()) if known.any() else np.nan,
        "mean_abs_dp": float(np.abs(p_value - number)[both].mean()) if both.any() else np.nan,
        "distance": float(np.abs(np.maximum(p_value, LEAST_PRINTED) - shown).mean()) if known.any() else np.nan,
    }


def _readings(
    scores: pd.DataFrame, observers: pd.DataFrame | None, metric: str
) -> Iterator[tuple[dict[str, Any], pd.DataFrame | None]]:
    """Settings of each reading of Tables 1 and 2, and its p-values; None where there are no observers.

    For Dice and RMS-DTA the control is "observer delineations": each outline, or each image's mean. For SMD and SMA
    it is "expert delineations": differences against the expert's zeros, or the raw values against the expert's. That
    the observers' differences were meant is not what the caption says, but is listed for comparison.
    """
    pairs = [(metric, "outlines"), (metric, "image_means")]
    if metric in DIFFERENCE_OF:
        pairs = [(metric, "expert")]
    elif metric in MEASURE_OF:
        pairs = [(MEASURE_OF[metric], "expert"), (metric, "zeros"), *pairs]
    for (column, control), family, unit in product(pairs, get_args(Family), get_args(Unit)):
        table = None
        if observers is not None or control in ("expert", "zeros"):
            sample = control_sample(control, column, observers=observers, scores=scores)
            table = dunnett_table(scores, sample, column, family=family, unit=unit)
        yield {"metric": column, "control": control, "family": family, "unit": unit}, table


def readings_table(scores: pd.DataFrame, observers: pd.DataFrame | None = None, metric: str = "dice") -> pd.DataFrame:
    """How close each reading of Dunnett's tests comes to the values in Tables 1 and 2, closest first.

    Closeness is a property of this run's data as much as of the reading: on other patients, or a phantom, the right
    reading need not be the closest.

    Parameters
    ----------
    scores, observers : DataFrame
    metric : str

    Returns
    -------
    DataFrame
        One row a reading: its settings (metric, control, family, unit), compared (how many configurations), untested,
        same_verdict (share of these on the same side of 0.001 as printed, and on the same side of the control),
        mean_abs_dp (mean |difference| of p where both are numbers), distance (mean |difference| over all, where all
        values below 0.001 count as 0.001; the order of the table is by same_verdict, then by this), note.

    Raises
    ------
    ScoreTableError
        For an unknown metric, or a table that is refused.
    """
    printed, keys = printed_configurations(metric), ["source_task", "n_train"]
    rows = []
    for settings, table in _readings(scores, observers, metric):
        none = np.empty(0, bool)
        note, outcome = "n/a: no observers", _compare(np.empty(0), np.empty(0), none, none)
        if table is not None:
            merged = table[[*keys, "p_value", "verdict"]].merge(printed, on=keys)
            turned = on_another_side(merged["below"], merged["marked"], merged["verdict"])
            found = (merged[name].to_numpy() for name in ("p_value", "number", "below"))
            outcome, note = _compare(*found, turned.to_numpy()), ""
            if not outcome["compared"]:
                note = "printed of this run can be tested" if outcome["untested"] else "of this run is printed"
                note = f"n/a: nothing {note}"
        rows.append({**settings, **outcome, "note": note})
    table = pd.DataFrame(rows)
    return table.sort_values(["same_verdict", "distance"], ascending=[False, True], kind="stable", ignore_index=True)
