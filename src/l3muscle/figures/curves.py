"""Curves: a measure against training-set size, a loss against step."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l3muscle.figures.look import FAINT, METRIC_LABELS, TASK_STYLE, new_figure, size_axis, style
from l3muscle.statistics import ObserverBand, learning_curve_table
from l3muscle.theme import hover_id


def _tell_values(axes: Axes, x: pd.Series, part: pd.DataFrame, label: str) -> None:
    """Lay an unseen marker over each point of a cell, which tells its value in the book."""
    for place, row in zip(x, part.itertuples(), strict=True):
        text = f"{label}, n = {row.n_train}: {row.mean:.3f} (95 % interval {row.low:.3f} to {row.high:.3f})"
        gid = hover_id(row.source_task, str(row.n_train), f"{text}, {row.n_models} models")
        axes.plot([place], [row.mean], marker="o", ms=9, alpha=0, ls="none", gid=gid)


def learning_curve(
    scores: pd.DataFrame, band: ObserverBand | None, metric: str = "dice", *, labels: Mapping[str, str]
) -> Figure:
    """Mean of a metric against training-set size, for each source task (Figures 3 to 5).

    Parameters
    ----------
    scores : DataFrame
        Score table.
    band : ObserverBand or None
        Mean and standard error of the observers.
    metric : str
    labels : mapping of str to str
        How each source task is called.

    Returns
    -------
    Figure
        Points are means over all predictions of a cell, bars their 95 % intervals.
    """
    table = learning_curve_table(scores, metric)
    tasks = list(dict.fromkeys(table["source_task"]))
    with style():
        figure, [[axes]] = new_figure(4.1)
        if band is not None:
            axes.axhspan(
                band.mean - band.standard_error, band.mean + band.standard_error, color="#d55e00", alpha=0.16, lw=0
            )
            axes.axhline(band.mean, color="#d55e00", lw=1.2, ls=(0, (4, 2)), label="observers (mean ± standard error)")
        for place, task in enumerate(tasks):
            part = table[table["source_task"] == task].sort_values("n_train")
            colour, marker = TASK_STYLE[task]
            # A small sideways step for each task keeps the bars from hiding one another.
            x = part["n_train"] * 1.035 ** (place - (len(tasks) - 1) / 2)
            bars = [part["mean"] - part["low"], part["high"] - part["mean"]]
            axes.errorbar(
                x, part["mean"], yerr=bars, color=colour, marker=marker, ms=5.5, lw=1.4, capsize=2.5, label=labels[task]
            )
            _tell_values(axes, x, part, labels[task])
        size_axis(axes, sorted(table["n_train"].unique()))
        axes.set_ylabel(METRIC_LABELS[metric])
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def training_curves(curves: pd.DataFrame, *, labels: Mapping[str, str], shown: int = 50, seed: int = 0) -> Figure:
    """Training and validation loss of a random choice of models (Figure B1).

    Parameters
    ----------
    curves : DataFrame
        One row a model and validation: source_task, n_train, fold, subset, repeat, step, train_loss, validation_loss.
    labels : mapping of str to str
    shown, seed : int
        How many models, and which.

    Returns
    -------
    Figure
    """
    models = [model for _, model in curves.groupby(["source_task", "n_train", "fold", "subset", "repeat"])]
    chosen = np.random.default_rng(seed).permutation(len(models))[:shown]
    with style():
        figure, [panels] = new_figure(3.4, columns=2, sharey=True)
        for axes, column, title in zip(
            panels, ("train_loss", "validation_loss"), ("training", "validation"), strict=True
        ):
            named = set()
            for place in sorted(chosen):
                model = models[place]
                task = model["source_task"].iloc[0]
                label = None if task in named else labels[task]
                named.add(task)
                axes.plot(model["step"], model[column], color=TASK_STYLE[task][0], lw=0.8, alpha=0.6, label=label)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("step")
        panels[0].set_ylabel("cross-entropy + Dice loss")
        panels[1].legend(loc="upper right")
    return figure


def source_curve(curve: pd.DataFrame, *, ylabel: str) -> Figure:
    """Training and validation loss of one source task (Figures A1 and A2)."""
    with style():
        figure, [[axes]] = new_figure(3.0)
        axes.plot(
            curve["step"], curve["train_loss"], color=TASK_STYLE["segmentation"][0], marker="o", ms=4, label="training"
        )
        axes.plot(
            curve["step"], curve["validation_loss"], color="#d55e00", marker="s", ms=4, ls="--", label="validation"
        )
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.legend()
    return figure


def accuracy_curve(curve: pd.DataFrame, *, chance: float) -> Figure:
    """Share of the validation images that a classifying source task gets right, against step.

    Parameters
    ----------
    curve : DataFrame
        step, validation_accuracy.
    chance : float
        What guessing would get right.
    """
    with style():
        figure, [[axes]] = new_figure(2.6)
        axes.plot(
            curve["step"], curve["validation_accuracy"], color="#d55e00", marker="s", ms=4, ls="--", label="validation"
        )
        axes.axhline(chance, color=FAINT, lw=1.2, ls=(0, (1, 2)), label=f"chance ({chance:.1%})")
        axes.set_ylim(0, None)
        axes.set_xlabel("step")
        axes.set_ylabel("share right")
        axes.legend()
    return figure
