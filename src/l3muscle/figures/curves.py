"""Curves: a measure against training-set size, a loss against step."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from l3muscle.book.theme import hover_id
from l3muscle.figures.look import (
    FAINT,
    INK,
    METRIC_DIGITS,
    METRIC_LABELS,
    PAPER,
    TASK_STYLE,
    VERMILION,
    PageFigure,
    in_two_widths,
    new_figure,
    plain_log,
    size_axis,
    style,
)
from l3muscle.statistics import ObserverBand, learning_curve_table

LEAVE_OUT_EMPTY = ("rms_dta_cm", "smd_difference_hu")  # an empty prediction has neither
DIFFERENCES = ("smd_difference_hu", "sma_difference_cm2")
FLATTENING = 2.5  # a cell that makes the axis this many times as long as the others need is left off it


def _tell_values(axes: Axes, x: pd.Series, part: pd.DataFrame, label: str, digits: int) -> None:
    """Lay an unseen marker over each point of a cell, which tells its value in the book."""
    for place, row in zip(x, part.itertuples(), strict=True):
        mean, low, high = (f"{value:.{digits}f}".replace("-", "−") for value in (row.mean, row.low, row.high))
        text = f"{label}, n = {row.n_train}: {mean} (95 % interval {low} to {high})"
        failed = f", {row.failures} failed predictions" if row.failures else ""
        gid = hover_id(row.source_task, str(row.n_train), f"{text}, {row.n_models} models{failed}")
        axes.plot([place], [row.mean], marker="o", ms=9, alpha=0, ls="none", gid=gid)


def _ends(table: pd.DataFrame, always: Sequence[float]) -> tuple[float, float]:
    values = np.concatenate([table[["mean", "low", "high"]].to_numpy().ravel(), np.asarray(always, dtype=float)])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _off_axis(table: pd.DataFrame, always: Sequence[float]) -> pd.DataFrame:
    """Cells that would flatten all others if the axis reached them, as the paper leaves out random at n = 5."""
    shown = table.dropna(subset="mean")
    while len(shown) > 3:
        farthest = (shown["mean"] - shown["mean"].median()).abs().idxmax()
        rest = shown.drop(farthest)
        (low, high), (least, most) = _ends(shown, always), _ends(rest, always)
        if most == least or (high - low) < FLATTENING * (most - least):
            break
        shown = rest
    return table.dropna(subset="mean").drop(shown.index)


def _name_what_is_off(axes: Axes, off: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """An arrow at the edge of the axis for each cell beyond it, with its value in words."""
    low, high = axes.get_ylim()
    for level, row in enumerate(off.itertuples()):
        above = row.mean > (low + high) / 2
        edge = high if above else low
        axes.plot(
            [row.n_train],
            [edge],
            marker="^" if above else "v",
            ms=7,
            color=TASK_STYLE[row.source_task][0],
            ls="none",
            clip_on=False,
            zorder=5,
        )
        half = (row.high - row.low) / 2
        spread = "" if np.isnan(half) else f" ± {half:.3g}"
        axes.annotate(
            f"{labels[row.source_task]}, n = {row.n_train}: {row.mean:.3g}{spread}".replace("-", "−"),
            (row.n_train, edge),
            xytext=(10, (-4 - 13 * level) if above else (4 + 13 * level)),
            textcoords="offset points",
            va="top" if above else "bottom",
            fontsize=9,
        )


def _in_words(table: pd.DataFrame, band: ObserverBand | None, labels: Mapping[str, str], digits: int) -> str:
    """First and last point of each line, and the observers, as a sentence."""
    parts = []
    for task, part in table.dropna(subset="mean").groupby("source_task", sort=False):
        ends = part.sort_values("n_train").iloc[[0, -1]].drop_duplicates("n_train")
        points = " and ".join(f"{row.mean:.{digits}f} at n = {row.n_train}" for row in ends.itertuples())
        parts.append(f"{labels[task]} {points}")
    if band is not None:
        parts.append(f"the observers {band.mean:.{digits}f}")
    return f"Means: {'; '.join(parts)}.".replace("-", "−")


@in_two_widths
def learning_curve(
    scores: pd.DataFrame,
    band: ObserverBand | None,
    metric: str = "dice",
    *,
    labels: Mapping[str, str],
    narrow: bool = False,
) -> PageFigure:
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
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        Points are means over all predictions of a cell, bars their 95 % intervals. A point is open where empty
        predictions are missing from its mean. A cell far from all others is named at the edge instead of shown.
    """
    table = learning_curve_table(scores, metric)
    tasks = list(dict.fromkeys(table["source_task"]))
    always = [] if band is None else [band.mean - band.standard_error, band.mean + band.standard_error]
    always += [0.0] if metric in DIFFERENCES else []
    off = _off_axis(table, always)
    shown = table.drop(off.index)
    with style():
        figure, [[axes]] = new_figure(5.4 if narrow else 4.3, narrow=narrow)
        figure.said = _in_words(table, band, labels, METRIC_DIGITS[metric])
        if band is not None:
            axes.axhspan(
                band.mean - band.standard_error, band.mean + band.standard_error, color=VERMILION, alpha=0.16, lw=0
            )
            axes.axhline(band.mean, color=VERMILION, lw=1.2, ls=(0, (4, 2)), label="observers (mean ± standard error)")
        if metric in DIFFERENCES:
            axes.axhline(0, color=INK, lw=0.8, label="expert")
        incomplete = False
        for place, task in enumerate(tasks):
            part = shown[shown["source_task"] == task].sort_values("n_train")
            colour, marker = TASK_STYLE[task]
            # A small sideways step for each task keeps the bars from hiding one another.
            x = part["n_train"] * 1.035 ** (place - (len(tasks) - 1) / 2)
            bars = [part["mean"] - part["low"], part["high"] - part["mean"]]
            axes.errorbar(
                x, part["mean"], yerr=bars, color=colour, marker=marker, ms=5.5, lw=1.4, capsize=2.5, label=labels[task]
            )
            open_points = (part["empty"] > 0) & part["mean"].notna() & (metric in LEAVE_OUT_EMPTY)
            if open_points.any():
                incomplete = True
                axes.plot(
                    x[open_points],
                    part["mean"][open_points],
                    marker=marker,
                    ms=5.5,
                    ls="none",
                    color=colour,
                    mfc=PAPER,
                    zorder=4,
                )
            _tell_values(axes, x, part, labels[task], METRIC_DIGITS[metric])
        if incomplete:
            axes.plot([], [], marker="o", ls="none", color=FAINT, mfc=PAPER, label="open: empty predictions left out")
        size_axis(axes, sorted(table["n_train"].unique()), narrow=narrow)
        axes.set_ylabel(METRIC_LABELS[metric])
        if len(off):
            _name_what_is_off(axes, off, labels)
        figure.legend(loc="outside lower center", ncols=1 if narrow else 3, fontsize=9)
    return figure


@in_two_widths
def training_curves(
    curves: pd.DataFrame,
    *,
    labels: Mapping[str, str],
    against: str = "step",
    shown: int = 50,
    seed: int = 0,
    narrow: bool = False,
) -> PageFigure:
    """Training and validation loss of a random choice of models (Figure B1).

    Parameters
    ----------
    curves : DataFrame
        One row a model and validation: source_task, n_train, fold, subset, repeat, train_loss, validation_loss and the
        column that it is drawn against.
    labels : mapping of str to str
    against : str
        `"step"`, or `"epoch"` as in the paper, on a logarithmic axis: at one number of steps, small training sets are
        seen far more often.
    shown, seed : int
        How many models, and which.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
    """
    models = [model for _, model in curves.groupby(["source_task", "n_train", "fold", "subset", "repeat"])]
    chosen = np.random.default_rng(seed).permutation(len(models))[:shown]
    names = {"step": "training step", "epoch": "epoch (passes over the training set)"}
    with style():
        figure, panels = new_figure(
            6.4 if narrow else 3.6,
            columns=1 if narrow else 2,
            rows=2 if narrow else 1,
            narrow=narrow,
            sharex=True,
            sharey=True,
        )
        panels = panels.ravel()
        for axes, column, title in zip(
            panels, ("train_loss", "validation_loss"), ("training", "validation"), strict=True
        ):
            for place in sorted(chosen):
                model = models[place].sort_values("step")
                colour, marker = TASK_STYLE[model["source_task"].iloc[0]]
                axes.plot(
                    model[against],
                    model[column],
                    color=colour,
                    lw=0.9,
                    alpha=0.65,
                    marker=marker,
                    ms=3,
                    # So many validations that markers would hide the lines get a few markers only.
                    markevery=max(1, len(model) // 4),
                )
            if against == "epoch":
                axes.set_xscale("log")
                plain_log(axes.xaxis)
            axes.set_title(title, fontsize=10, loc="left")
        for axes in panels[-1:] if narrow else panels:
            axes.set_xlabel(names[against])
        for axes in panels if narrow else panels[:1]:
            axes.set_ylabel("cross-entropy + Dice loss")
        drawn = {models[place]["source_task"].iloc[0] for place in chosen}
        handles = [
            Line2D([], [], color=colour, marker=marker, ms=4, lw=1.2, label=labels[task])
            for task, (colour, marker) in TASK_STYLE.items()
            if task in drawn
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 3, fontsize=9)
    return figure


@in_two_widths
def source_curve(curve: pd.DataFrame, *, ylabel: str, narrow: bool = False) -> PageFigure:
    """Training and validation loss of one source task (Figures A1 and A2)."""
    with style():
        figure, [[axes]] = new_figure(3.0, narrow=narrow)
        first, lowest = curve.iloc[0], curve.loc[curve["validation_loss"].idxmin()]
        figure.said = (
            f"The validation loss goes from {first['validation_loss']:.3g} at step {first['step']:.0f} to "
            f"{lowest['validation_loss']:.3g} at its lowest, at step {lowest['step']:.0f}."
        )
        axes.plot(
            curve["step"], curve["train_loss"], color=TASK_STYLE["segmentation"][0], marker="o", ms=4, label="training"
        )
        axes.plot(
            curve["step"], curve["validation_loss"], color=VERMILION, marker="s", ms=4, ls="--", label="validation"
        )
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.legend()
    return figure


@in_two_widths
def accuracy_curve(curve: pd.DataFrame, *, chance: float, narrow: bool = False) -> PageFigure:
    """Share of the validation images that a classifying source task gets right, against step.

    Parameters
    ----------
    curve : DataFrame
        step, validation_accuracy.
    chance : float
        What guessing would get right.
    narrow : bool
        Whether it is drawn for a narrow screen.
    """
    with style():
        figure, [[axes]] = new_figure(2.6, narrow=narrow)
        figure.said = f"It ends at {curve['validation_accuracy'].iloc[-1]:.1%}; chance is {chance:.1%}."
        axes.plot(
            curve["step"], curve["validation_accuracy"], color=VERMILION, marker="s", ms=4, ls="--", label="validation"
        )
        axes.axhline(chance, color=FAINT, lw=1.2, ls=(0, (1, 2)), label=f"chance ({chance:.1%})")
        axes.set_ylim(0, None)
        axes.set_xlabel("step")
        axes.set_ylabel("share right")
        axes.legend()
    return figure
