"""How many annotated slices a source task needs, and what augmentation is worth (not in the paper)."""

import numpy as np
import pandas as pd
from scipy import stats

from l3muscle.statistics.crossed import TooFew, fit_mean
from l3muscle.statistics.dependence import Resampled, mean_of_means
from l3muscle.statistics.mann_whitney import Correction, adjust
from l3muscle.statistics.score_table import (
    CELL_KEYS,
    HIGHER_IS_BETTER,
    MODEL_KEYS,
    Cell,
    Failures,
    cells,
    check_metric,
    check_observers,
    check_scores,
    filled_values,
    observers_as_matrix,
)


def increasing(curves: np.ndarray) -> np.ndarray:
    """Least-squares non-decreasing fit to each row (min-max formula of isotonic regression)."""
    count = curves.shape[1]
    sums = np.concatenate([np.zeros((len(curves), 1)), np.cumsum(curves, axis=1)], axis=1)
    fitted = np.empty_like(curves)
    for i in range(count):
        best = np.full(len(curves), -np.inf)
        for first in range(i + 1):
            means = [(sums[:, last + 1] - sums[:, first]) / (last + 1 - first) for last in range(i, count)]
            best = np.maximum(best, np.min(means, axis=0))
        fitted[:, i] = best
    return fitted


def first_reach(sizes: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Size at which each non-decreasing curve reaches its target, linear in log size between two sizes.

    Returns
    -------
    ndarray, (replicates,)
        0 where the first size is enough, infinity where the last is not.
    """
    above = curves >= targets[:, None]
    place = above.argmax(1)
    reach = np.where(above.any(1), 0.0, np.inf)
    inside = above.any(1) & (place > 0)
    rows, right = np.flatnonzero(inside), place[inside]
    low, high = curves[rows, right - 1], curves[rows, right]
    share = (targets[rows] - low) / (high - low)
    logs = np.log(sizes)
    reach[rows] = np.exp(logs[right - 1] + share * (logs[right] - logs[right - 1]))
    return reach


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
    seed: int = 0,
    level: float = 0.95,
    failures: Failures = "leave_out",
) -> pd.DataFrame:
    """How many annotated slices each source task needs until its mean reaches the observers'.

    The learning curve is made monotone (isotonic regression) and read linearly in log n between the sizes that were
    run. The interval comes from redrawing images, models and observers together, as `hierarchical_bootstrap_table`.

    Returns
    -------
    DataFrame
        One row a source task: source_task, sizes (how many), needed, low, high (0 says that the smallest size is
        enough, infinity that the largest is not), text (`"23 (≤5 to >125)"`), share_reached (of the replicates, within
        the sizes run), note (begins with `n/a` where there is no answer).

    Raises
    ------
    ValueError
        For a metric other than Dice and RMS-DTA, and as `hierarchical_bootstrap_table`.
    """
    check_metric(metric, tuple(HIGHER_IS_BETTER))
    check_scores(scores, metric)
    check_observers(observers, metric)
    images = sorted(scores["patient_id"].unique())
    control = observers_as_matrix(observers, metric, images)
    if np.isnan(control).all():
        raise ValueError("models and observers share no image: tables of different runs?")
    resampled = Resampled(images, replicates, seed)
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    target = sign * np.append(resampled.means(control, "observers"), mean_of_means(control))
    rows = []
    by_task: dict[str, list[Cell]] = {}
    for cell in cells(scores, metric, failures):
        by_task.setdefault(cell.source_task, []).append(cell)
    for task, of_task in by_task.items():
        sizes = np.array([cell.n_train for cell in of_task])
        row = {"source_task": task, "sizes": len(sizes), "needed": np.nan, "low": np.nan, "high": np.nan}
        row |= {"text": "n/a", "share_reached": np.nan, "note": ""}
        try:
            if len(sizes) < 2:
                raise TooFew("fewer than two training-set sizes")
            curves = [
                np.append(resampled.means(cell.matrix, task, cell.n_train), mean_of_means(cell.matrix))
                for cell in of_task
            ]
            reach = first_reach(sizes, increasing(sign * np.column_stack(curves)), target)
            needed, drawn = reach[-1], reach[:-1]
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
            low_text, high_text = _size_text(low, sizes), _size_text(high, sizes)
            interval = low_text if low_text == high_text else f"{low_text} to {high_text}"
            row |= {"needed": needed, "low": low, "high": high, "share_reached": float(np.isfinite(drawn).mean())}
            row["text"] = f"{_size_text(needed, sizes)} ({interval})"
        except TooFew as error:
            row["note"] = f"n/a: {error}"
        rows.append(row)
    return pd.DataFrame(rows)


def ablation_table(
    with_scores: pd.DataFrame,
    without_scores: pd.DataFrame,
    metric: str = "dice",
    *,
    correction: Correction = "holm",
    level: float = 0.95,
    alpha: float = 0.001,
    failures: Failures = "leave_out",
) -> pd.DataFrame:
    """What augmentation is worth: models with it against the same experiments without, paired.

    A pair is one experiment (source task, size, fold, subset, repeat) and image in both tables. The interval is that
    of a mixed model of the paired differences, over new images and new models; where there is one pair of models, it
    is over new images only, and the note says so.

    Returns
    -------
    DataFrame
        One row a cell of both tables: source_task, n_train, n_pairs (of models), n, failures_with, failures_without,
        mean_with, mean_without, difference (with minus without), low, high, p_raw, p_value (corrected over the
        table), verdict (whether augmentation is `"better"` or `"worse"`; `"different"` for SMD and SMA), note.

    Raises
    ------
    ValueError
        If a table is refused, or the two share no experiment.
    """
    for table in (with_scores, without_scores):
        check_scores(table, metric)
    keys = [*CELL_KEYS, *MODEL_KEYS, "patient_id"]
    sides = [
        table[keys].assign(value=filled_values(table, metric, failures)) for table in (with_scores, without_scores)
    ]
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("_with", "_without")).assign(failure="")
    if pairs.empty:
        raise ValueError("the two score tables share no experiment")
    pairs["difference"] = pairs["value_with"] - pairs["value_without"]
    by_cell = [
        {(cell.source_task, cell.n_train): cell for cell in cells(table, metric)}
        for table in (with_scores, without_scores)
    ]
    paired = zip(*(cells(pairs, column) for column in ("difference", "value_with", "value_without")), strict=True)
    rows = []
    for cell, of_with, of_without in paired:
        task, n_train, models = cell.source_task, cell.n_train, cell.n_models
        values, known = cell.values(), ~np.isnan(cell.value)
        own = [side[task, n_train] for side in by_cell]
        unpaired = sum(side.n_models - models for side in own)
        notes = [f"{unpaired} models without a partner left out"] if unpaired else []
        if not known.all():
            notes.append(f"{int((~known).sum())} pairs with a failed prediction left out")
        difference = low = high = p = np.nan
        try:
            if models == 1:
                if values.size < 3 or np.ptp(values) == 0:
                    raise TooFew("too few images, or nothing varies")
                outcome = stats.ttest_1samp(values, 0.0)
                difference, p = float(values.mean()), float(outcome.pvalue)
                low, high = outcome.confidence_interval(level)
                notes.append("one pair of models: the interval is over images only")
            else:
                fit = fit_mean(cell.matrix)
                difference, p = fit.estimate, fit.p_value
                low, high = fit.interval(level)
        except TooFew as error:
            notes = [f"n/a: {error}"]
        rows.append(
            {
                "source_task": task,
                "n_train": n_train,
                "n_pairs": models,
                "n": values.size,
                "failures_with": own[0].counts["failures"],
                "failures_without": own[1].counts["failures"],
                "mean_with": of_with.value[known].mean() if known.any() else np.nan,
                "mean_without": of_without.value[known].mean() if known.any() else np.nan,
                "difference": difference,
                "low": low,
                "high": high,
                "p_raw": p,
                "note": "; ".join(notes),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(12, "p_value", adjust(table["p_raw"].to_numpy(float), correction))
    if metric in HIGHER_IS_BETTER:
        helps = (table["difference"] > 0) == HIGHER_IS_BETTER[metric]
        words = np.where(helps, "better", "worse")
    else:
        words = np.full(len(table), "different")
    table.insert(13, "verdict", np.where(table["p_value"] < alpha, words, ""))
    return table
