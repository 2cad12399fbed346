"""The learning curves as a page that answers: fewer models, another draw of them, another reading of the test.

A page has no kernel, so that every state which it can show is worked out before and travels inside it as JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l3muscle.figures.style import TASK_STYLE, THEME
from l3muscle.metrics import MEASURES
from l3muscle.statistics import dunnett_table, learning_curve_table, observer_band
from l3muscle.statistics.dunnett import control_sample
from l3muscle.statistics.score_table import ALPHA, MODEL_KEYS

DRAWS = 5  # of each number of models
SEED = 2022
LEVELS = (ALPHA, 0.01, 0.05)
# What counts as one value: of the models (`unit` of `dunnett_table`), of the observers (`control_sample`).
READINGS = {
    "every prediction and every observer's outline is a value": ("prediction", "outlines"),
    "every prediction is a value; the observers of an image are averaged": ("prediction", "image_means"),
    "the predictions of an image are averaged, and its observers": ("image_mean", "image_means"),
}


def draws_of_models(scores: pd.DataFrame) -> list[pd.DataFrame]:
    """Which models might have been trained, had fewer been: 1, 2, 4 ... of a configuration's, some draws of each.

    Returns
    -------
    list of DataFrame
        fold, subset and repeat of the models of a draw, which are the same in every configuration; fewest first, and
        all of them last.
    """
    models = scores[MODEL_KEYS].drop_duplicates().sort_values(MODEL_KEYS, ignore_index=True)
    rng = np.random.default_rng(SEED)
    count, drawn = 1, []
    while count < len(models):
        drawn += [models.iloc[np.sort(rng.choice(len(models), count, replace=False))] for _ in range(DRAWS)]
        count *= 2
    return [*drawn, models]


def _by_configuration(table: pd.DataFrame, columns: list[str], digits: int) -> dict[str, list[float | None]]:
    values = table[columns].astype(object).where(table[columns].notna(), None)
    keys = table["source_task"] + "|" + table["n_train"].astype(str)
    return {
        key: [None if value is None else float(f"{value:.{digits}g}") for value in row]
        for key, row in zip(keys, values.itertuples(index=False), strict=True)
    }


def explorer_states(scores: pd.DataFrame, observers: pd.DataFrame, labels: dict[str, str]) -> dict[str, Any]:
    """Every state of the page.

    Parameters
    ----------
    scores, observers : DataFrame
        Score and observer tables of a run; without observers there is no test.
    labels : dict of str to str
        Of the source tasks.

    Returns
    -------
    dict
        tasks (label, colour, marker), sizes, levels, readings, counts (models in each draw), and measures: of each its
        label, the observers' mean, and of each draw the mean with its 95 % interval and each reading's p-value and
        difference, by configuration. JSON can hold it.

    Raises
    ------
    ScoreTableError
        As `dunnett_table`.
    """
    draws = draws_of_models(scores)
    drawn = [scores.merge(models, on=MODEL_KEYS) for models in draws]
    measures = {}
    for metric, row in MEASURES.items():
        if not row.better:
            continue
        band = observer_band(observers, metric)
        tested = {} if band is None else READINGS
        states = []
        for part in drawn:
            means = _by_configuration(learning_curve_table(part, metric), ["mean", "low", "high"], 4)
            p_values = [
                _by_configuration(
                    dunnett_table(part, control_sample(control, metric, observers=observers), metric, unit=unit),
                    ["p_value", "difference"],
                    3,
                )
                for unit, control in tested.values()
            ]
            states.append({"means": means, "tests": p_values})
        measures[metric] = {
            "label": row.label,
            "digits": row.digits,
            "worse": "below" if row.better == "higher" else "above",
            "observers": None if band is None else round(band.mean, row.digits + 1),
            "draws": states,
        }
    tasks = dict.fromkeys(scores["source_task"])
    return {
        "tasks": {
            task: {"label": labels[task], "colour": THEME.get(colour, colour), "marker": marker}
            for task, (colour, marker) in ((task, TASK_STYLE[task]) for task in tasks)
        },
        "sizes": sorted(int(n) for n in scores["n_train"].unique()),
        "levels": LEVELS,
        "readings": list(READINGS) if not observers.empty else [],
        "counts": [len(models) for models in draws],
        "measures": measures,
    }


_TEMPLATE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")


def explorer_html(states: dict[str, Any]) -> str:
    """What the chapter shows; `explorer.js` fills it."""
    content = json.dumps(states, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return _TEMPLATE.replace("{states}", content)
