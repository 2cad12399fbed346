"""What augmentation is worth: paired differences between models with and without it (not in the paper)."""

import numpy as np
import pandas as pd

from l3muscle.metrics import MEASURES
from l3muscle.statistics.bootstrap import Bootstrap, estimate
from l3muscle.statistics.mann_whitney import Correction, adjust
from l3muscle.statistics.score_table import (
    ALPHA,
    CONFIGURATION_KEYS,
    MODEL_KEYS,
    NoTest,
    ScoreTableError,
    check_scores,
    configurations,
    verdict,
)


def ablation_table(
    with_scores: pd.DataFrame,
    without_scores: pd.DataFrame,
    metric: str = "dice",
    *,
    correction: Correction = "holm",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Models with augmentation against the same experiments without, paired.

    A pair is one experiment (source task, size, fold, subset, repeat) and image in both tables. The interval and the
    test come from redrawing images and pairs of models (`bootstrap`); where there is one pair of models, images only,
    and the note says so.

    Returns
    -------
    DataFrame
        One row a configuration of both tables: source_task, n_train, n_pairs (of models), n, failures_with,
        failures_without, mean_with, mean_without, difference (with minus without), low, high, p_raw, p_value
        (corrected over the table), verdict (whether augmentation is `"better"` or `"worse"`; `"different"` for
        measures without a better side), note.

    Raises
    ------
    ScoreTableError
        If a table is refused, or the two share no experiment.
    """
    sides = (with_scores, without_scores)
    for side in sides:
        check_scores(side, metric)
    keys = [*CONFIGURATION_KEYS, *MODEL_KEYS, "patient_id"]
    both = [side[keys].assign(value=side[metric].astype(float)) for side in sides]
    pairs = both[0].merge(both[1], on=keys, suffixes=("_with", "_without")).assign(failure="")
    if pairs.empty:
        raise ScoreTableError("the two score tables share no experiment")
    pairs["difference"] = pairs["value_with"] - pairs["value_without"]
    known = pairs.dropna(subset="difference").groupby(CONFIGURATION_KEYS)[["value_with", "value_without"]].mean()
    whole = [{one.key: one for one in configurations(side, metric)} for side in sides]
    bootstrap = Bootstrap(pairs["patient_id"].nunique())
    rows = []
    for one in configurations(pairs, "difference"):
        (with_, without), models = (side[one.key] for side in whole), len(one.matrix)
        unpaired = len(with_.matrix) + len(without.matrix) - 2 * models
        notes = [f"{unpaired} models without a partner left out"] if unpaired else []
        notes += [one.note.replace("predictions", "pairs")] if one.note else []
        difference = low = high = p = np.nan
        try:
            outcome = estimate(bootstrap.draw(one.matrix, *one.key, least_raters=1))
            difference, low, high, p = outcome.value, outcome.low, outcome.high, outcome.p_value
            notes += ["one pair of models: the interval is over images only"] if models == 1 else []
        except NoTest as error:
            notes = [f"n/a: {error}"]
        means = known.loc[one.key] if one.key in known.index else pd.Series(np.nan, known.columns)
        rows.append(
            {
                "source_task": one.source_task,
                "n_train": one.n_train,
                "n_pairs": models,
                "n": one.values().size,
                "failures_with": with_.counts["failures"],
                "failures_without": without.counts["failures"],
                "mean_with": means["value_with"],
                "mean_without": means["value_without"],
                "difference": difference,
                "low": low,
                "high": high,
                "p_raw": p,
                "note": "; ".join(notes),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(12, "p_value", adjust(table["p_raw"], correction))
    words = [verdict(metric, *pair, alpha) for pair in zip(table["difference"], table["p_value"], strict=True)]
    different = [word and "different" for word in words]
    table.insert(13, "verdict", words if MEASURES[metric].better else different)
    return table
