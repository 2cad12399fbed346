"""Curves: a measure against training-set size, a loss against step."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from l3muscle.figures.style import (
    BLUE,
    FAINT,
    INK,
    PAPER,
    TASK_STYLE,
    VERMILION,
    BookFigure,
    Point,
    legend_below,
    new_figure,
    plain_log,
    size_axis,
    style,
    task_palette,
)
from l3muscle.metrics import MEASURES

FLATTENING = 2.5  # a mean that makes the axis this many times as long as the others need is named at its edge


def learning_curve(
    table: pd.DataFrame,
    band: object | None,
    metric: str = "dice",
    *,
    labels: Mapping[str, str],
    link: Callable[[str, int], str] | None = None,
) -> BookFigure:
    """Mean of a metric against training-set size, for each source task (Figures 3 to 5).

    Parameters
    ----------
    table : DataFrame
        From `l3muscle.statistics.learning_curve_table`.
    band : object with `mean` and `standard_error`, or None
        The observers'.
    metric : str
    labels : mapping of str to str
        How each source task is called.
    link : callable, optional
        Address of the page behind a point, from its source task and size.

    Returns
    -------
    BookFigure
        Points are the means of the table, bars its intervals. A point is open where empty predictions are missing from
        its mean. A mean far from all others is named at the edge instead of shown.
    """
    table = table.dropna(subset="mean")
    tasks = list(dict.fromkeys(table["source_task"]))
    sizes = sorted(table["n_train"].unique())
    # A small sideways step for each task keeps the bars from hiding one another.
    sideways = table["source_task"].map(tasks.index) - (len(tasks) - 1) / 2
    table = table.assign(x=table["n_train"] * 1.035**sideways, label=table["source_task"].map(labels))
    always = [] if band is None else [band.mean - band.standard_error, band.mean + band.standard_error]
    difference = "difference" in metric
    shown = _without_outliers(table, [*always, 0.0] if difference else always)
    with style():
        figure, [[axes]] = new_figure(4.2)
        look = {"dashes": False, "ms": 6.5, **task_palette(tasks, labels)}
        sns.lineplot(shown, x="x", y="mean", hue="label", style="label", errorbar=None, ax=axes, **look)
        axes.vlines(shown["x"], shown["low"], shown["high"], colors=[TASK_STYLE[t][0] for t in shown["source_task"]])
        if band is not None:
            axes.axhspan(*always, color=VERMILION, alpha=0.16, lw=0)
            axes.axhline(band.mean, color=VERMILION, lw=1.2, ls=(0, (4, 2)), label="observers (mean ± standard error)")
        if difference:
            axes.axhline(0, color=INK, lw=0.8, label="expert")
        incomplete = shown[shown["empty"] > 0] if np.isnan(MEASURES[metric].empty or 0) else shown[:0]
        if len(incomplete):
            label = "dot: empty predictions left out"
            axes.scatter(incomplete["x"], incomplete["mean"], s=14, color=PAPER, zorder=4, label=label)
        size_axis(axes, sizes)
        axes.set_ylabel(MEASURES[metric].label)
        _name_outliers(axes, table.drop(shown.index))
        legend_below(figure, axes)
    for row in shown.itertuples():
        href = link(row.source_task, row.n_train) if link else ""
        figure.points.append(Point(axes, row.x, row.mean, _in_words(row, MEASURES[metric].digits), href))
    return figure


def _in_words(row, digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}".replace("-", "−") for value in (row.mean, row.low, row.high))
    failed = f", {row.failures} failed predictions" if row.failures else ""
    return f"{row.label}, n = {row.n_train}: {mean} (95 % interval {low} to {high}), {row.n_models} models{failed}"


def _without_outliers(table: pd.DataFrame, always: Sequence[float]) -> pd.DataFrame:
    """Means that can share an axis: one that would flatten all others is left out, as the paper does once."""

    def extent(part: pd.DataFrame) -> float:
        values = np.append(part[["mean", "low", "high"]].to_numpy().ravel(), always)
        return np.nanmax(values) - np.nanmin(values)

    shown = table
    while len(shown) > 3:
        rest = shown.drop((shown["mean"] - shown["mean"].median()).abs().idxmax())
        if extent(shown) < FLATTENING * extent(rest):
            break
        shown = rest
    return shown


def _name_outliers(axes: Axes, outliers: pd.DataFrame) -> None:
    """An arrow at the edge of the axis for each mean beyond it, with its value in words."""
    low, high = axes.get_ylim()
    for line, row in enumerate(outliers.itertuples()):
        above = row.mean > (low + high) / 2
        axes.annotate(
            f"{'▲' if above else '▼'} {row.label}, n = {row.n_train}: {row.mean:.3g}".replace("-", "−"),
            (row.n_train, high if above else low),
            xytext=(-4, (-12 if above else 4) + (-13 if above else 13) * line),
            textcoords="offset points",
            color=TASK_STYLE[row.source_task][0],
            fontsize=9,
        )
    axes.set_ylim(low, high)


def training_curves(curves: pd.DataFrame, *, labels: Mapping[str, str], shown: int = 50) -> BookFigure:
    """Training and validation loss of a random choice of models, the same in every call (Figure B1).

    Against epochs, as in the paper, on a logarithmic axis: in the same number of steps small training sets are seen far
    more often.

    Parameters
    ----------
    curves : DataFrame
        One row a model and validation: source_task, n_train, fold, subset, repeat, epoch, train_loss, validation_loss.
    labels : mapping of str to str
        How each source task is called.
    shown : int
        How many models.
    """
    curves = curves.assign(
        model=curves.groupby(["source_task", "n_train", "fold", "subset", "repeat"]).ngroup(),
        label=curves["source_task"].map(labels),
    )
    chosen = np.random.default_rng(0).permutation(curves["model"].nunique())[:shown]
    curves = curves[curves["model"].isin(chosen)]
    tasks = [task for task in TASK_STYLE if task in set(curves["source_task"])]
    with style():
        figure, [panels] = new_figure(3.5, columns=2, sharex=True, sharey=True)
        look = {"dashes": False, "lw": 0.9, "alpha": 0.7, "ms": 4, "markevery": 0.3, **task_palette(tasks, labels)}
        columns = {"train_loss": "training", "validation_loss": "validation"}
        for axes, (column, title) in zip(panels, columns.items(), strict=True):
            by = {"x": "epoch", "y": column, "hue": "label", "style": "label", "units": "model", "estimator": None}
            sns.lineplot(curves, **by, **look, legend=axes is panels[0], ax=axes)
            axes.set(title=title, xlabel="epoch (passes over the training set)", ylabel="loss")
        panels[0].set_xscale("log")
        plain_log(panels[0].xaxis)
        legend_below(figure, panels[0])
    return figure


def source_curve(curve: pd.DataFrame, *, ylabel: str) -> BookFigure:
    """Training and validation loss of one source task against step (Figures A1 and A2).

    Parameters
    ----------
    curve : DataFrame
        step, train_loss, validation_loss.
    ylabel : str
        What the loss is.
    """
    long = curve.rename(columns={"train_loss": "training", "validation_loss": "validation"}).melt(
        "step", ["training", "validation"], "set", "loss"
    )
    with style():
        figure, [[axes]] = new_figure(2.8)
        by = {"x": "step", "y": "loss", "hue": "set", "style": "set"}
        sns.lineplot(long, **by, palette=[BLUE, VERMILION], markers=["o", "s"], ax=axes)
        axes.set_ylabel(ylabel)
        axes.legend(title=None)
    return figure


def accuracy_curve(curve: pd.DataFrame, *, chance: float) -> BookFigure:
    """Share of the validation images that a classifying source task gets right, against step.

    Parameters
    ----------
    curve : DataFrame
        step, validation_accuracy.
    chance : float
        What guessing would get right.
    """
    with style():
        figure, [[axes]] = new_figure(2.4)
        sns.lineplot(curve, x="step", y="validation_accuracy", color=VERMILION, marker="s", label="validation", ax=axes)
        axes.axhline(chance, color=FAINT, lw=1.2, ls=(0, (1, 2)), label=f"chance ({chance:.1%})")
        axes.set_ylim(0, None)
        axes.set_ylabel("accuracy")
        axes.legend()
    return figure


def held_out_curve(curve: pd.DataFrame) -> BookFigure:
    """Held-out Dice against the number of training slices, with the forecast; see `l3muscle.segmenter.estimate`."""
    looks = {
        "measured": {"color": BLUE, "marker": "o", "label": "held-out slices"},
        "forecast": {"color": VERMILION, "marker": "D", "mfc": "none", "label": "forecast, if the curve goes on"},
    }
    with style():
        figure, [[axes]] = new_figure(3.2)
        axes.plot(curve["n_train"].tail(2), curve["mean"].tail(2), color=FAINT, lw=1, ls=(0, (2, 2)))
        for kind, part in curve.groupby("kind", sort=False):
            bars = [part["mean"] - part["low"], part["high"] - part["mean"]]
            axes.errorbar(part["n_train"], part["mean"], yerr=bars, capsize=3, **looks[kind])
        axes.set(xticks=curve["n_train"], xlabel="training slices", ylabel="mean Dice of held-out slices")
        legend_below(figure, axes)
    return figure
