"""The learning curves as a page that answers: fewer models, another draw of them, another reading of the test.

A page has no kernel, so that every state which it can show is worked out before and travels inside it as JSON.
"""

import json
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l3muscle.figures.style import TASK_STYLE, THEME
from l3muscle.metrics import MEASURES
from l3muscle.statistics import dunnett_table, learning_curve_table, observer_band
from l3muscle.statistics.dunnett import control_sample
from l3muscle.statistics.score_table import ALPHA, MODEL_KEYS, fewest_to_most, models_each

DRAWS = 5  # of each number of models, where there are as many
SEED = 2022
LEVELS = (ALPHA, 0.01, 0.05)
# What counts as one value: of the models (`unit` of `dunnett_table`), of the observers (`control_sample`).
READINGS = {
    "every prediction and every observer's outline is a value": ("prediction", "outlines"),
    "every prediction is a value; the observers of an image are averaged": ("prediction", "image_means"),
    "the predictions of an image are averaged, and its observers": ("image_mean", "image_means"),
}


def draws_of_models(scores: pd.DataFrame) -> list[pd.DataFrame]:
    """Which models might have been trained, had fewer been: 1, 2, 4 ... of a configuration's, different draws of each.

    Returns
    -------
    list of DataFrame
        fold, subset and repeat of the models of a draw, which are the same in every configuration, and of which all
        have one; fewest first, and all that there are last.
    """
    models = scores[[*MODEL_KEYS, "source_task", "n_train"]].drop_duplicates().groupby(MODEL_KEYS).size()
    everything = models.reset_index()[MODEL_KEYS]
    models = models[models == models.max()].reset_index()[MODEL_KEYS]
    rng = np.random.default_rng(SEED)
    count, drawn = 1, []
    while count < len(models):
        draws: set[tuple[int, ...]] = set()
        while len(draws) < min(DRAWS, comb(len(models), count)):
            draws.add(tuple(sorted(rng.choice(len(models), count, replace=False).tolist())))
        drawn += [models.iloc[list(draw)] for draw in sorted(draws)]
        count *= 2
    return [*drawn, everything]


def _by_configuration(table: pd.DataFrame, columns: list[str], digits: int) -> dict[str, list[float | None]]:
    values = table[columns].astype(object).where(table[columns].notna(), None)
    keys = table["source_task"] + "|" + table["n_train"].astype(str)
    return {
        key: [None if value is None else float(f"{value:.{digits}g}") for value in row]
        for key, row in zip(keys, values.itertuples(index=False), strict=True)
    }


def _of_measure(metric: str, drawn: list[pd.DataFrame], observers: pd.DataFrame) -> dict[str, Any]:
    """The states of one measure, for the scores of each draw; no tests where there are no observers."""
    row, band = MEASURES[metric], observer_band(observers, metric)
    readings = [
        (unit, control_sample(control, metric, observers=observers))
        for unit, control in (() if band is None else READINGS.values())
    ]
    states = []
    for scores in drawn:
        tests = [dunnett_table(scores, control, metric, unit=unit) for unit, control in readings]
        means = _by_configuration(learning_curve_table(scores, metric), ["mean", "low", "high"], 4)
        states.append({"means": means, "tests": [_by_configuration(t, ["p_value", "difference"], 3) for t in tests]})
    return {
        "label": row.label,
        "digits": row.digits,
        "worse": "below" if row.better == "higher" else "above",
        "observers": None if band is None else round(band.mean, row.digits + 1),
        "draws": states,
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
        tasks (label, colour, marker), sizes, levels, readings, counts (models in each draw), all (how many of a
        configuration there are, in words), and measures: of each its label, the observers' mean, and of each draw the
        mean with its 95 % interval and each reading's p-value and difference, by configuration. JSON can hold it.

    Raises
    ------
    ScoreTableError
        As `dunnett_table`.
    """
    draws = draws_of_models(scores)
    drawn = [scores.merge(models, on=MODEL_KEYS) for models in draws]
    measures = {metric: _of_measure(metric, drawn, observers) for metric, row in MEASURES.items() if row.better}
    tasks = {}
    for task in scores["source_task"].unique():
        colour, marker = TASK_STYLE[task]
        tasks[task] = {"label": labels[task], "colour": THEME.get(colour, colour), "marker": marker}
    return {
        "tasks": tasks,
        "sizes": sorted(int(n) for n in scores["n_train"].unique()),
        "levels": LEVELS,
        "readings": list(READINGS) if not observers.empty else [],
        "counts": [len(models) for models in draws],
        "all": fewest_to_most(models_each(scores)),
        "measures": measures,
    }


def single_model_spread(states: dict[str, Any]) -> dict[str, float]:
    """How far mean Dice at the smallest size ranges over draws of a single model, by source task; empty of one draw."""
    draws = [
        state["means"]
        for state, count in zip(states["measures"]["dice"]["draws"], states["counts"], strict=True)
        if count == 1
    ]
    spread = {}
    for task in states["tasks"]:
        key = f"{task}|{states['sizes'][0]}"
        if len(values := [means[key][0] for means in draws if key in means]) > 1:
            spread[task] = max(values) - min(values)
    return spread


_TEMPLATE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")


def explorer_html(states: dict[str, Any]) -> str:
    """What the chapter shows; `explorer.js` fills it."""
    content = json.dumps(states, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return _TEMPLATE.replace("{states}", content)
