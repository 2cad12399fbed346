"""What few held-out slices say: means with intervals, and what more annotation would bring.

Slices of one patient are no independent witnesses, so patients are counted and not slices. Intervals are Student's,
over patients. They treat held-out scores as independent although the models share training slices; cross-validation has
no unbiased estimate of its variance (Bengio and Grandvalet 2004), so with few patients they are a guide.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

MEASURES = {
    "dice": "Dice",
    "rms_dta_cm": "RMS distance-to-agreement, cm",
    "sma_difference_cm2": "muscle area, prediction - outline, cm²",
    "smd_difference_hu": "muscle density, prediction - outline, HU",
}
LEVEL = 0.95


def error_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of each measure over patients.

    Parameters
    ----------
    scores : DataFrame
        One row a held-out slice: patient_id and the columns of `MEASURES`.

    Returns
    -------
    DataFrame
        measure, mean, low, high (95 % interval of the mean), sd (between patients), worst (the slice farthest off),
        patients, slices. NaN bounds of a single patient.
    """
    rows = []
    for measure, words in MEASURES.items():
        of_slices = scores.dropna(subset=[measure])
        values = of_slices.groupby("patient_id")[measure].mean().to_numpy()
        mean, half = (values.mean() if len(values) else np.nan), np.nan
        sd = values.std(ddof=1) if len(values) > 1 else np.nan
        if len(values) > 1:
            half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * sd / np.sqrt(len(values))
        slices = of_slices[measure]
        worst = np.nan
        if len(slices):
            worst = slices.min() if measure == "dice" else slices.loc[slices.abs().idxmax()]
        rows.append(
            {
                "measure": words,
                "mean": mean,
                "low": mean - half,
                "high": min(mean + half, 1.0) if measure == "dice" else mean + half,
                "sd": sd,
                "worst": worst,
                "patients": len(values),
                "slices": len(slices),
            }
        )
    return pd.DataFrame(rows)


def _jackknife(statistic: Callable[[pd.DataFrame], float], table: pd.DataFrame) -> tuple[float, float, float]:
    """A statistic of the patients' table with its interval: leave-one-patient-out, Student's t."""
    value, count = statistic(table), len(table)
    if count < 3:
        return value, np.nan, np.nan
    without = np.array([statistic(table.drop(index=patient)) for patient in table.index])
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * error
    return value, value - half, value + half


def _log_error_at(table: pd.DataFrame, size: float) -> float:
    """Logarithm of the error at a size, by a power law through the mean errors; it never rises with size."""
    error = np.log((1 - table.mean()).clip(lower=1e-3).to_numpy())
    sizes = np.log(table.columns.to_numpy(dtype=float))
    slope = min(np.polyfit(sizes, error, 1)[0], 0.0)
    return float(error.mean() + slope * (np.log(size) - sizes.mean()))


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
    table = scores.pivot_table(index="patient_id", columns="n_train", values="dice")
    rows = []
    for size in table.columns:
        mean, low, high = _jackknife(lambda part, size=size: float(part[size].mean()), table)
        rows.append({"n_train": int(size), "kind": "measured", "mean": mean, "low": low, "high": min(high, 1.0)})
    if len(table.columns) > 1:
        target = 2 * int(table.columns[-1])
        error, low, high = _jackknife(lambda part: _log_error_at(part, target), table)
        rows.append(
            {
                "n_train": target,
                "kind": "forecast",
                "mean": 1 - np.exp(error),
                "low": max(1 - np.exp(high), 0.0),
                "high": 1 - np.exp(low),
            }
        )
    return pd.DataFrame(rows)


def gain(scores: pd.DataFrame) -> tuple[float, float, float]:
    """Mean rise of Dice from the smallest to the largest training-set size, paired by patient, with its interval."""
    table = scores.pivot_table(index="patient_id", columns="n_train", values="dice")
    return _jackknife(lambda part: float((part.iloc[:, -1] - part.iloc[:, 0]).mean()), table)


def would_more_help(scores: pd.DataFrame) -> str:
    """One sentence on whether more annotated slices would help, and how much."""
    curve = learning_curve(scores)
    measured = curve[curve["kind"] == "measured"]
    if len(measured) < 2:
        return "One training-set size says nothing of what more annotation would bring."
    rise, low, high = gain(scores)
    first, last, ahead = measured.iloc[0], measured.iloc[-1], curve.iloc[-1]
    sizes = f"from {first.n_train} to {last.n_train} training slices"
    if np.isnan(low):
        return f"Dice changed by {rise:+.3f} {sizes}; too few patients for an interval."
    interval = f"{rise:+.3f} {sizes} (95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0:
        return (
            f"Dice rose by {interval}: more annotation would help. If the curve goes on, {ahead.n_train} slices would "
            f"bring it from {last['mean']:.3f} to about {ahead['mean']:.3f} ({ahead.low:.3f} to {ahead.high:.3f})."
        )
    return (
        f"Dice changed by {interval}: no gain can be told from chance with so few slices. If the curve goes on, "
        f"{ahead.n_train} slices would bring about {ahead['mean']:.3f} ({ahead.low:.3f} to {ahead.high:.3f})."
    )


def paired_gain(before: pd.DataFrame, after: pd.DataFrame, measure: str = "dice") -> tuple[float, float, float]:
    """Mean change of a measure between two models on the same slices, over patients, with its 95 % interval.

    Parameters
    ----------
    before, after : DataFrame
        One row a slice: slice, patient_id and the measure.
    """
    both = before.merge(after, on=["slice", "patient_id"], suffixes=("_before", "_after"))
    both["change"] = both[f"{measure}_after"] - both[f"{measure}_before"]
    table = both.groupby("patient_id")[["change"]].mean()
    return _jackknife(lambda part: float(part["change"].mean()), table)
