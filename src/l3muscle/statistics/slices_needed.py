"""How many annotated slices each source task needs to reach the observers (not in the paper)."""

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from l3muscle.metrics import MEASURES
from l3muscle.statistics.bootstrap import Bootstrap, observers_drawn
from l3muscle.statistics.score_table import LEVEL, Configuration, NoTest, check_choice, check_scores, configurations


def first_reach(sizes: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Size at which a non-decreasing curve reaches a target, linear in log size between two sizes.

    0 where the first size is enough, infinity where the last is not.
    """
    index = int(np.searchsorted(curve, target))
    if index == len(curve):
        return np.inf
    if index == 0:
        return 0.0
    return float(np.exp(np.interp(target, curve[index - 1 : index + 1], np.log(sizes[index - 1 : index + 1]))))


def _size_text(value: float, sizes: np.ndarray) -> str:
    if value == 0:
        return f"≤{sizes[0]}"
    return f">{sizes[-1]}" if np.isinf(value) else f"{value:.0f}"


def slices_needed_table(
    scores: pd.DataFrame,
    observers: pd.DataFrame,
    metric: str = "dice",
    *,
    replicates: int = 2000,
) -> pd.DataFrame:
    """How many annotated slices each source task needs until its mean reaches the observers'.

    The learning curve is made monotone (isotonic regression) and read linearly in log n between the sizes that were
    run. The 95 % interval comes from redrawing images, models and observers together, as in
    `hierarchical_bootstrap_table`.

    Returns
    -------
    DataFrame
        One row a source task: source_task, sizes (how many), needed, low, high (0 says that the smallest size is
        enough, infinity that the largest is not), text (`"23 (≤5 to >125)"`), share_reached (of the replicates, within
        the sizes run), note (begins with `n/a` where there is no answer).

    Raises
    ------
    ScoreTableError
        For a measure without a better side, and as `hierarchical_bootstrap_table`.
    """
    check_choice("metric", metric, [column for column, row in MEASURES.items() if row.better])
    check_scores(scores, metric)
    bootstrap = Bootstrap(scores["patient_id"].nunique(), replicates)
    sign = 1.0 if MEASURES[metric].better == "higher" else -1.0
    control = observers_drawn(bootstrap, scores, observers, metric)
    targets = sign * np.append(control.replicates, control.mean)
    by_task: dict[str, list[Configuration]] = {}
    for configuration in configurations(scores, metric):
        by_task.setdefault(configuration.source_task, []).append(configuration)
    rows = []
    for task, of_task in by_task.items():
        sizes = np.array([configuration.n_train for configuration in of_task])
        row = {"source_task": task, "sizes": len(sizes), "needed": np.nan, "low": np.nan, "high": np.nan}
        row |= {"text": "n/a", "share_reached": np.nan, "note": ""}
        try:
            if len(sizes) < 2:
                raise NoTest("fewer than two training-set sizes")
            drawn = [bootstrap.draw(configuration.matrix, *configuration.key) for configuration in of_task]
        except NoTest as error:
            rows.append(row | {"note": f"n/a: {error}"})
            continue
        curves = sign * np.column_stack([np.append(one.replicates, one.mean) for one in drawn])
        pairs = zip(curves, targets, strict=True)
        *reached, needed = (first_reach(sizes, isotonic_regression(curve).x, target) for curve, target in pairs)
        low, high = np.quantile(reached, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        interval = " to ".join(dict.fromkeys([_size_text(low, sizes), _size_text(high, sizes)]))
        row |= {"needed": needed, "low": low, "high": high, "share_reached": float(np.isfinite(reached).mean())}
        rows.append(row | {"text": f"{_size_text(needed, sizes)} ({interval})"})
    return pd.DataFrame(rows)
