"""Means and intervals behind Figures 3 to 5, and the observers' band."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.metrics import MEASURES
from l3muscle.statistics.score_table import check_choice, check_scores, configurations, mean_interval


def learning_curve_table(scores: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Mean and 95 % t interval of a metric over all predictions of each configuration (Figures 3 to 5).

    The interval takes the predictions of a configuration as independent, as the paper's does.

    Parameters
    ----------
    scores : DataFrame
    metric : str

    Returns
    -------
    DataFrame
        source_task, n_train, n_models, n, failures, empty, gross, mean, low, high, sd.
    """
    check_scores(scores, metric)
    rows = []
    for one in configurations(scores, metric):
        values = one.values()
        mean, low, high = mean_interval(values)
        sd = values.std(ddof=1) if values.size > 1 else np.nan
        rows.append(one.row() | {"mean": mean, "low": low, "high": high, "sd": sd})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class ObserverBand:
    """Mean of the observers and its standard error."""

    mean: float
    standard_error: float


def observer_band(observer_scores: pd.DataFrame, metric: str = "dice") -> ObserverBand | None:
    """Mean and standard error of a metric over the test images, each image's observers averaged first (Section 2.4).

    Averaging first keeps an image with four observers from weighing less than one with five. None for an empty table:
    a cohort of one's own need not have observers.
    """
    check_choice("metric", metric, MEASURES)
    if observer_scores.empty:
        return None
    per_image = observer_scores.groupby("patient_id")[metric].mean()
    return ObserverBand(float(per_image.mean()), float(stats.sem(per_image, nan_policy="omit")))
