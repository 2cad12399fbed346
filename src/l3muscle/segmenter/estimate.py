"""What few held-out slices say: means with intervals, and what more annotation would bring.

Slices of one patient are no independent witnesses, so patients are counted and not slices. Intervals treat held-out
scores as independent although the models share training slices; cross-validation has no unbiased estimate of its
variance (Bengio and Grandvalet 2004), so with few patients they are a guide.
"""

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics.score_table import COMPARED, LEVEL, mean_interval

Interval = tuple[float, float, float]  # value, low, high


def error_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of each measure over patients.

    Parameters
    ----------
    scores : DataFrame
        One row a held-out slice: patient_id and the measures that tests compare.

    Returns
    -------
    DataFrame
        measure, mean, low, high (95 % interval of the mean), sd (between patients), worst (the slice farthest off),
        patients, slices. NaN bounds of a single patient.
    """
    rows = []
    for measure in COMPARED:
        slices = scores.dropna(subset=[measure])
        of_patients = slices.groupby("patient_id")[measure].mean()
        mean, low, high = mean_interval(of_patients)
        error = 1 - slices["dice"] if measure == "dice" else slices[measure].abs()
        rows.append(
            {
                "measure": MEASURES[measure].label,
                "mean": mean,
                "low": low,
                "high": min(high, 1.0) if measure == "dice" else high,
                "sd": of_patients.std(),
                "worst": slices.loc[error.idxmax(), measure] if len(slices) else np.nan,
                "patients": len(of_patients),
                "slices": len(slices),
            }
        )
    return pd.DataFrame(rows)


def _log_error_at(table: pd.DataFrame, size: float) -> float:
    """Logarithm of the error at a size, by a power law through the mean errors; it never rises with size."""
    error = np.log((1 - table.mean()).clip(lower=1e-3).to_numpy())
    sizes = np.log(table.columns.to_numpy(dtype=float))
    slope = min(np.polyfit(sizes, error, 1)[0], 0.0)
    return float(error.mean() + slope * (np.log(size) - sizes.mean()))


def _forecast(table: pd.DataFrame, size: float) -> Interval:
    """Dice at a size by the power law, with a jackknife interval over patients (Student's t)."""
    value, count = _log_error_at(table, size), len(table)
    if count < 3:
        return 1 - np.exp(value), np.nan, np.nan
    without = np.array([_log_error_at(table.drop(index=patient), size) for patient in table.index])
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * error
    return 1 - np.exp(value), max(1 - np.exp(value + half), 0.0), 1 - np.exp(value - half)


def _dice_by_size(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.pivot_table(index="patient_id", columns="n_train", values="dice")


def learning_curve(scores: pd.DataFrame) -> pd.DataFrame:
    """Held-out Dice against the number of training slices, and where it is heading.

    Parameters
    ----------
    scores : DataFrame
        One row a held-out slice and training-set size: patient_id, n_train, dice; the same slices at every size.

    Returns
    -------
    DataFrame
        n_train, kind (`"measured"`, or `"forecast"` for twice the largest size), mean, low, high. The forecast is a
        power law of the error, 1 - Dice, through the measured means; its interval says how far it hangs on single
        patients, not how far a power law holds.
    """
    table = _dice_by_size(scores)
    rows = []
    for size in table.columns:
        mean, low, high = mean_interval(table[size])
        rows.append((int(size), "measured", mean, low, min(high, 1.0)))
    if len(rows) > 1:
        double = 2 * rows[-1][0]
        rows.append((double, "forecast", *_forecast(table, double)))
    return pd.DataFrame(rows, columns=["n_train", "kind", "mean", "low", "high"])


def would_more_help(scores: pd.DataFrame) -> str:
    """One sentence on whether more annotated slices would help, and how much."""
    curve = learning_curve(scores)
    measured = curve[curve["kind"] == "measured"]
    if len(measured) < 2:
        return "One training-set size says nothing of what more annotation would bring."
    table = _dice_by_size(scores)
    rise, low, high = mean_interval(table.iloc[:, -1] - table.iloc[:, 0])
    last, ahead = measured.iloc[-1], curve.iloc[-1]
    sizes = f"from {measured.iloc[0].n_train} to {last.n_train} training slices"
    if np.isnan(ahead.low):
        return f"Dice changed by {rise:+.3f} {sizes}; too few patients for an interval."
    interval = f"{rise:+.3f} {sizes} (95 % interval {low:+.3f} to {high:+.3f})"
    outlook = f"about {ahead['mean']:.3f} ({ahead.low:.3f} to {ahead.high:.3f})"
    if low > 0:
        return (
            f"Dice rose by {interval}: more annotation may help. If the curve goes on, {ahead.n_train} slices would "
            f"bring it from {last['mean']:.3f} to {outlook}."
        )
    return (
        f"Dice changed by {interval}: no gain can be told from chance with so few slices. If the curve goes on, "
        f"{ahead.n_train} slices would bring {outlook}."
    )


def paired_gain(before: pd.DataFrame, after: pd.DataFrame, measure: str = "dice") -> Interval:
    """Mean change of a measure between two models on the same slices, over patients, with its 95 % interval.

    Parameters
    ----------
    before, after : DataFrame
        One row a slice: slice, patient_id and the measure.
    """
    both = before.merge(after, on=["slice", "patient_id"], suffixes=("_before", "_after"))
    change = both[f"{measure}_after"] - both[f"{measure}_before"]
    return mean_interval(change.groupby(both["patient_id"]).mean())
