"""Agreement with the expert: the observers, the readings of the distance, the tests between source tasks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.spatial import cKDTree

from l3muscle.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PAPER,
    TASK_STYLE,
    VERMILION,
    BookFigure,
    legend_below,
    new_figure,
    new_grid,
    plain_log,
    style,
)
from l3muscle.metrics import MEASURES, boundary, rms_dta
from l3muscle.statistics.printed import p_text
from l3muscle.statistics.score_table import ALPHA, COMPARED

DASHED = (0, (4, 2))


def observer_agreement(observers: pd.DataFrame) -> BookFigure:
    """Every observer outline against the expert's, image by image (Section 2.4).

    Parameters
    ----------
    observers : DataFrame
        Observer table.

    Returns
    -------
    BookFigure
        One panel a measure that tests compare. Images stand in the same order in all, by their mean Dice; dots are
        outlines, bars the means of an image, the line and its band the mean over images and its standard error.
    """
    per_image = observers.groupby("patient_id")[list(COMPARED)].mean().sort_values("dice")
    rank = {patient: k for k, patient in enumerate(per_image.index, start=1)}
    observers = observers.assign(rank=observers["patient_id"].map(rank))
    per_image = per_image.assign(rank=range(1, len(per_image) + 1))
    with style():
        figure, panels = new_grid(len(COMPARED), 2, 2.25, sharex=True)
        for axes, metric in zip(panels, COMPARED, strict=True):
            values = per_image[metric]
            axes.axhspan(values.mean() - values.sem(), values.mean() + values.sem(), color=VERMILION, alpha=0.2, lw=0)
            axes.axhline(values.mean(), color=VERMILION, lw=1.2, ls=DASHED, label="mean of the images ± standard error")
            if not MEASURES[metric].better:
                axes.axhline(0, color=INK, lw=0.8)
            common = {"x": "rank", "y": metric, "ax": axes, "legend": False}
            sns.scatterplot(observers, **common, color=BLUE, alpha=0.6, s=14, lw=0, label="one outline")
            sns.scatterplot(per_image, **common, color=INK, marker="_", s=50, lw=1.6, label="mean of an image")
            axes.set(title=MEASURES[metric].label.replace("prediction", "observer"), xticks=[], ylabel="")
        for axes in panels[-2:]:
            # Seaborn hides the label of an axis without ticks.
            axes.set_xlabel(f"{len(rank)} test images, by mean Dice", visible=True)
        legend_below(figure, panels[0], 3)
    return figure


def _to_nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Segments from each point to the nearest of the others, as x and y: (N, 2, 2)."""
    _, nearest = cKDTree(others).query(points)
    return np.stack([points[:, ::-1], others[nearest][:, ::-1]], axis=1)


def distance_definitions(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, float]) -> BookFigure:
    """The readings of Equation 4 on a pair of masks small enough to see every boundary pixel.

    Parameters
    ----------
    pred, ref : ndarray, (H, W) bool
    spacing : (float, float)
        Row and column spacing, mm.

    Returns
    -------
    BookFigure
        Three panels, each with the distances that the reading takes and what it comes to.
    """
    points, others = np.argwhere(boundary(pred)), np.argwhere(boundary(ref))
    forth, back = _to_nearest(points, others), _to_nearest(others, points)
    # As printed, the way back begins at the reference pixel that was nearest.
    back_again = _to_nearest(forth[:, 1, ::-1], points)
    drawn = {
        ("surface", "surface (used here)"): [(forth, BLUE)],
        ("symmetric", "symmetric"): [(forth, BLUE), (back, VERMILION)],
        ("equation4", "Equation 4 as printed"): [(forth, BLUE), (back_again, VERMILION)],
    }
    with style():
        figure, [panels] = new_figure(2.4, columns=3)
        for axes, ((reading, title), sets) in zip(panels, drawn.items(), strict=True):
            axes.set_axis_off()
            axes.plot(others[:, 1], others[:, 0], "s", ms=2.4, color=FAINT, mew=0, label="reference boundary")
            axes.plot(points[:, 1], points[:, 0], "o", ms=2.4, color=INK, mew=0, label="predicted boundary")
            for segments, colour in sets:
                axes.add_collection(LineCollection(segments, colors=colour, linewidths=1.1))
            axes.set_aspect(spacing[0] / spacing[1])
            axes.invert_yaxis()
            value_mm = 10 * rms_dta(pred, ref, spacing, definition=reading)
            axes.set_title(f"{title}\n{value_mm:.2f} mm", fontsize=9)
        panels[0].plot([], [], color=BLUE, label="prediction to reference")
        panels[0].plot([], [], color=VERMILION, label="reference to prediction")
        legend_below(figure, panels[0], 2)
    return figure


def distance_readings(readings: pd.DataFrame) -> BookFigure:
    """The other readings of the distance against the one that is used, a point an outline.

    Parameters
    ----------
    readings : DataFrame
        surface, symmetric, equation4, in cm.
    """
    names = {"symmetric": "symmetric", "equation4": "Equation 4 as printed"}
    known = readings.dropna(subset=["surface", *names]).rename(columns=names)
    long = known.melt("surface", list(names.values()), "reading", "distance")
    with style():
        figure, [[axes]] = new_figure(4.0)
        # Thousands of points as vectors would make a page of several megabytes.
        look = {"palette": [GREEN, VERMILION], "markers": ["^", "s"], "s": 14, "alpha": 0.5, "lw": 0}
        by = {"x": "surface", "y": "distance", "hue": "reading", "style": "reading"}
        sns.scatterplot(long, **by, **look, rasterized=len(known) > 300, ax=axes)
        ends = np.array([known["surface"].min() / 1.1, known["surface"].max() * 1.1])
        axes.plot(ends, ends, color=INK, lw=0.9, label="equal")
        axes.plot(ends, 2 * ends, color=INK, lw=0.9, ls=DASHED, label="twice as large")
        axes.set(xscale="log", yscale="log", xlabel="RMS-DTA, surface (cm)", ylabel="RMS-DTA, other reading (cm)")
        plain_log(axes.xaxis)
        plain_log(axes.yaxis)
        legend_below(figure, axes, 4)
    return figure


def p_value_matrices(
    pairs: pd.DataFrame, printed: pd.DataFrame, *, labels: Mapping[str, str], alpha: float = ALPHA
) -> BookFigure:
    """Tests between source tasks at every size: the paper below the diagonal, this run above it (Appendix C).

    Parameters
    ----------
    pairs : DataFrame
        n_train, first, second, p_value: this run's.
    printed : DataFrame
        n_train, first, second, number, below (whether `number` is only an upper bound): the paper's.
    labels : mapping of str to str
        The source tasks that are shown.
    alpha : float
        Level of the tests.
    """
    sizes = sorted(set(pairs["n_train"]) | set(printed["n_train"]))
    tasks = [task for task in TASK_STYLE if task in labels]
    ours = {(row.n_train, frozenset((row.first, row.second))): row.p_value for row in pairs.itertuples()}
    paper = {
        (row.n_train, frozenset((row.first, row.second))): 0.0 if row.below else row.number
        for row in printed.itertuples()
    }
    with style():
        figure, panels = new_grid(len(sizes), 2, 2.2)
        for axes, n in zip(panels, sizes, strict=True):
            values = pd.DataFrame(np.nan, index=tasks, columns=tasks)
            for i, row in enumerate(tasks):
                for j, column in enumerate(tasks):
                    values.iloc[i, j] = (paper if i > j else ours).get((n, frozenset((row, column))), np.nan)
            below = values < alpha
            shown = values.map(lambda p: "–" if np.isnan(p) else p_text(p, below="<.001").removeprefix("0"))
            look = {"cmap": [PAPER, BLUE], "vmin": 0, "vmax": 1, "cbar": False, "linewidths": 0.5, "linecolor": FAINT}
            texts = {"annot": shown, "fmt": "", "annot_kws": {"fontsize": 8}}
            sns.heatmap(below.astype(float), mask=np.eye(len(tasks), dtype=bool), ax=axes, **look, **texts)
            for text in axes.texts:
                column, row = (int(side) for side in text.get_position())
                text.set_color(PAPER if below.iloc[row, column] else INK)
            axes.tick_params(length=0, labelsize=8)
            short = [task[:6] + ("." if len(task) > 6 else "") for task in tasks]
            axes.set_xticks(np.arange(len(tasks)) + 0.5, short, rotation=0)
            axes.set_yticks(np.arange(len(tasks)) + 0.5, tasks, rotation=0)
            axes.set_title(f"n = {n}")
            axes.grid(False)
        handles = [
            Patch(facecolor=BLUE, edgecolor=FAINT, label=f"p < {alpha:g}"),
            Patch(facecolor=PAPER, edgecolor=FAINT, label=f"p ≥ {alpha:g}, or –: not run"),
            Line2D([], [], ls="none", label="below the diagonal: paper; above: this run"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def bland_altman(
    points: pd.DataFrame, agreement: pd.DataFrame, measure: str, *, n_train: int, labels: Mapping[str, str]
) -> BookFigure:
    """Difference from the expert against the mean of both, image by image (Bland and Altman 1986).

    Parameters
    ----------
    points : DataFrame
        source_task, n_train, mean, difference: one row an image.
    agreement : DataFrame
        source_task, n_train, bias, lower_limit, upper_limit, margin (of equivalence).
    measure : {"sma_cm2", "smd_hu"}
    n_train : int
        Which training-set size to show.
    labels : mapping of str to str
        How each source task is called.

    Returns
    -------
    BookFigure
        One panel a source task: points are images, the full line the mean difference, dashed lines the 95 % limits of
        agreement, the band the margin of equivalence.
    """
    unit = MEASURES[measure].unit
    chosen = points[points["n_train"] == n_train]
    tasks = list(dict.fromkeys(chosen["source_task"]))
    limits = agreement[agreement["n_train"] == n_train].set_index("source_task")
    with style():
        figure, panels = new_grid(len(tasks), 3, 2.3, sharex=True, sharey=True)
        for number, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
            # A panel above an empty one has to show its scale.
            axes.tick_params(labelbottom=number + 3 >= len(tasks))
            images, limit = chosen[chosen["source_task"] == task], limits.loc[task]
            colour, marker = TASK_STYLE[task]
            axes.axhspan(-limit["margin"], limit["margin"], color=FAINT, alpha=0.12, lw=0)
            axes.axhline(0, color=INK, lw=0.8)
            sns.scatterplot(images, x="mean", y="difference", color=colour, marker=marker, s=18, alpha=0.8, ax=axes)
            for value, dashes in ((limit["bias"], "-"), (limit["lower_limit"], "--"), (limit["upper_limit"], "--")):
                if np.isfinite(value):
                    axes.axhline(value, color=VERMILION, lw=1.2, ls=dashes)
            axes.set(xlabel="", ylabel="")
            axes.set_title(labels[task], fontsize=9)
        name = MEASURES[measure].label.removesuffix(f" ({unit})")
        figure.supxlabel(f"{name}, mean of prediction and expert ({unit})", fontsize=10)
        figure.supylabel(f"prediction − expert ({unit})", fontsize=10)
    return figure
