"""Agreement with the expert: the observers, the readings of the distance, the tests between source tasks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from scipy.spatial import cKDTree

from l3muscle.figures.look import (
    FAINT,
    INK,
    PAPER,
    TASK_STYLE,
    VERMILION,
    PageFigure,
    in_two_widths,
    new_figure,
    plain_log,
    style,
)
from l3muscle.metrics import boundary, rms_dta
from l3muscle.statistics.printed import ALPHA

OBSERVER_PANELS = {
    "dice": "Dice",
    "rms_dta_cm": "RMS-DTA (cm)",
    "smd_difference_hu": "density, observer − expert (HU)",
    "sma_difference_cm2": "area, observer − expert (cm²)",
}
BLUE = TASK_STYLE["segmentation"][0]
GREEN = TASK_STYLE["jigsaw"][0]
READING_STYLE = {
    "symmetric": (GREEN, "^", "symmetric"),
    "equation4": (VERMILION, "s", "Equation 4 as printed"),
}


@in_two_widths
def observer_agreement(observers: pd.DataFrame, *, narrow: bool = False) -> PageFigure:
    """Every observer outline against the expert's, image by image (Section 2.4).

    Parameters
    ----------
    observers : DataFrame
        Observer table.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        One panel a measure. Images stand in the same order in all, by their mean Dice; dots are outlines, bars the
        means of an image, the line and its band the mean over images and its standard error.
    """
    order = observers.groupby("patient_id")["dice"].mean().sort_values().index
    place = {patient: number for number, patient in enumerate(order, start=1)}
    x = observers["patient_id"].map(place)
    with style():
        figure, panels = new_figure(
            9.6 if narrow else 5.4, rows=4 if narrow else 2, columns=1 if narrow else 2, narrow=narrow, sharex=True
        )
        for axes, (metric, name) in zip(panels.ravel(), OBSERVER_PANELS.items(), strict=True):
            means = observers.groupby("patient_id")[metric].mean().reindex(order)
            middle, error = means.mean(), means.sem()
            axes.axhspan(middle - error, middle + error, color=VERMILION, alpha=0.2, lw=0)
            axes.axhline(middle, color=VERMILION, lw=1.2, ls=(0, (4, 2)))
            if "difference" in metric:
                axes.axhline(0, color=INK, lw=0.8)
            axes.plot(x, observers[metric], "o", ms=3.2, color=BLUE, alpha=0.55, mew=0)
            axes.plot(range(1, len(order) + 1), means, "_", ms=7, mew=1.6, color=INK)
            axes.set_title(name, fontsize=10, loc="left")
            axes.set_xticks([])
        for axes in panels[-1]:
            axes.set_xlabel(f"{len(order)} test images, by mean Dice")
        handles = [
            Line2D([], [], color=BLUE, marker="o", ms=4, ls="none", label="one outline"),
            Line2D([], [], color=INK, marker="_", ms=8, mew=1.6, ls="none", label="mean of an image"),
            Line2D([], [], color=VERMILION, ls=(0, (4, 2)), label="mean of the images ± standard error"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 3, fontsize=9)
    return figure


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Segments from each point to the nearest of the others, as x and y."""
    _, places = cKDTree(others).query(points)
    return np.stack([points[:, ::-1], others[places][:, ::-1]], axis=1)


@in_two_widths
def distance_definitions(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, float], *, narrow: bool = False
) -> PageFigure:
    """The readings of Equation 4 on a pair of masks small enough to see every boundary pixel.

    Parameters
    ----------
    pred, ref : ndarray, (H, W) bool
    spacing : (float, float)
        Row and column spacing, mm.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        Three panels, each with the distances that the reading takes and what it comes to.
    """
    points, others = np.argwhere(boundary(pred)), np.argwhere(boundary(ref))
    there, back = _nearest(points, others), _nearest(others, points)
    back_from_nearest = np.stack([_nearest(segment[1:, ::-1], points)[0] for segment in there])
    drawn = {
        "surface": [(there, BLUE)],
        "symmetric": [(there, BLUE), (back, VERMILION)],
        "equation4": [(there, BLUE), (back_from_nearest, VERMILION)],
    }
    titles = {"surface": "surface (used here)", "symmetric": "symmetric", "equation4": "Equation 4 as printed"}
    with style():
        figure, panels = new_figure(
            9.2 if narrow else 2.35, columns=1 if narrow else 3, rows=3 if narrow else 1, narrow=narrow
        )
        values = []
        for axes, (reading, sets) in zip(panels.ravel(), drawn.items(), strict=True):
            axes.set_axis_off()
            axes.plot(others[:, 1], others[:, 0], "s", ms=2.6, color=FAINT, mew=0)
            axes.plot(points[:, 1], points[:, 0], "o", ms=2.6, color=INK, mew=0)
            for segments, colour in sets:
                axes.add_collection(LineCollection(segments, colors=colour, linewidths=1.1))
            axes.set_aspect(spacing[0] / spacing[1])
            axes.invert_yaxis()
            value = rms_dta(pred, ref, spacing, definition=reading) * 10
            values.append(f"{titles[reading]} {value:.2f} mm")
            axes.set_title(f"{titles[reading]}\n{value:.2f} mm", fontsize=9, loc="left")
        figure.said = f"{', '.join(values)}."
        handles = [
            Line2D([], [], color=INK, marker="o", ms=4, ls="none", label="predicted boundary"),
            Line2D([], [], color=FAINT, marker="s", ms=4, ls="none", label="reference boundary"),
            Line2D([], [], color=BLUE, label="prediction to reference"),
            Line2D([], [], color=VERMILION, label="reference to prediction"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 4, fontsize=8.5)
    return figure


@in_two_widths
def distance_readings(readings: pd.DataFrame, *, narrow: bool = False) -> PageFigure:
    """The other readings of the distance against the one that is used, a point a prediction.

    Parameters
    ----------
    readings : DataFrame
        surface, symmetric, equation4, in cm.
    narrow : bool
        Whether it is drawn for a narrow screen.
    """
    known = readings.dropna(subset=["surface", "symmetric", "equation4"])
    with style():
        figure, [[axes]] = new_figure(4.4 if narrow else 4.2, narrow=narrow)
        # Thousands of points as vectors would make a page of several megabytes.
        for name, (colour, marker, _) in READING_STYLE.items():
            axes.plot(
                known["surface"],
                known[name],
                marker,
                ms=3,
                color=colour,
                alpha=0.45,
                mew=0,
                ls="none",
                rasterized=len(known) > 300,
            )
        if len(known):
            ends = np.array([known["surface"].min() / 1.1, known["surface"].max() * 1.1])
            axes.plot(ends, ends, color=INK, lw=0.9)
            axes.plot(ends, 2 * ends, color=INK, lw=0.9, ls=(0, (4, 2)))
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_log(axes.xaxis)
            plain_log(axes.yaxis)
        axes.set_xlabel("RMS-DTA, surface (cm)")
        axes.set_ylabel("RMS-DTA, other reading (cm)")
        handles = [
            Line2D([], [], color=colour, marker=marker, ms=5, ls="none", label=label)
            for colour, marker, label in READING_STYLE.values()
        ]
        handles += [
            Line2D([], [], color=INK, lw=0.9, label="equal"),
            Line2D([], [], color=INK, lw=0.9, ls=(0, (4, 2)), label="twice as large"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 4, fontsize=9)
    return figure


def _p_short(p_value: float) -> str:
    if np.isnan(p_value):
        return "–"
    return "<.001" if p_value < ALPHA else f"{p_value:.3f}".removeprefix("0")


@in_two_widths
def p_value_matrices(
    pairs: pd.DataFrame, printed: pd.DataFrame, *, labels: Mapping[str, str], narrow: bool = False
) -> PageFigure:
    """Tests between source tasks at every size: the paper below the diagonal, this run above it (Appendix C).

    Parameters
    ----------
    pairs : DataFrame
        From `mann_whitney_pairs`.
    printed : DataFrame
        From `printed_pairs`.
    labels : mapping of str to str
        The source tasks that are shown.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
    """
    sizes = sorted(set(pairs["n_train"]) | set(printed["n_train"]))
    tasks = [task for task in TASK_STYLE if task in labels]
    ours = {(row.n_train, frozenset((row.first, row.second))): row.p_value for row in pairs.itertuples()}
    paper = {(row.n_train, row.first, row.second): 0.0 if row.below else row.number for row in printed.itertuples()}
    columns = 1 if narrow else min(2, len(sizes))
    rows = -(-len(sizes) // columns)
    with style():
        figure, panels = new_figure(rows * 2.35 + (0.9 if narrow else 0.5), rows=rows, columns=columns, narrow=narrow)
        for axes in panels.ravel()[len(sizes) :]:
            axes.set_visible(False)
        for axes, n in zip(panels.ravel(), sizes, strict=False):
            for i, first in enumerate(tasks):
                for j, second in enumerate(tasks):
                    if i == j:
                        continue
                    if i > j:
                        p = paper.get((n, first, second), np.nan)
                    else:
                        p = ours.get((n, frozenset((first, second))), np.nan)
                    found = p < ALPHA
                    axes.add_patch(Rectangle((j, i), 1, 1, facecolor=BLUE if found else PAPER, edgecolor=FAINT, lw=0.5))
                    axes.text(
                        j + 0.5,
                        i + 0.5,
                        _p_short(p),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=PAPER if found else INK,
                    )
            axes.plot([0, len(tasks)], [0, len(tasks)], color=FAINT, lw=0.6)
            axes.set_xlim(0, len(tasks))
            axes.set_ylim(len(tasks), 0)
            axes.grid(False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0, labelsize=8)
            short = [task[:6] + ("." if len(task) > 6 else "") for task in tasks]
            axes.set_xticks(np.arange(len(tasks)) + 0.5, short)
            axes.set_yticks(np.arange(len(tasks)) + 0.5, tasks)
            axes.set_title(f"n = {n}", fontsize=10, loc="left")
        handles = [
            Patch(facecolor=BLUE, edgecolor=FAINT, label="p < 0.001"),
            Patch(facecolor=PAPER, edgecolor=FAINT, label="p ≥ 0.001, or –: not run"),
            Line2D([], [], ls="none", label="below the diagonal: paper; above: this run"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 3, fontsize=9)
    return figure


@in_two_widths
def bland_altman(
    points: pd.DataFrame,
    agreement: pd.DataFrame,
    measure: str,
    *,
    n_train: int,
    labels: Mapping[str, str],
    narrow: bool = False,
) -> PageFigure:
    """Difference from the expert against the mean of both, image by image (Bland and Altman 1986).

    Parameters
    ----------
    points : DataFrame
        From `l3muscle.statistics.bland_altman_points`.
    agreement : DataFrame
        From `l3muscle.statistics.agreement_table`: bias and limits of the same cells.
    measure : {"sma_cm2", "smd_hu"}
    n_train : int
        Which training-set size to show.
    labels : mapping of str to str
        How each source task is called.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        One panel a source task: points are images, the full line the mean difference, dashed lines the 95 % limits of
        agreement, the band the margin of equivalence.
    """
    name, unit = {"sma_cm2": ("area", "cm²"), "smd_hu": ("density", "HU")}[measure]
    chosen = points[points["n_train"] == n_train]
    tasks = list(dict.fromkeys(chosen["source_task"]))
    rows = agreement[agreement["n_train"] == n_train].set_index("source_task")
    columns = min(len(tasks), 2 if narrow else 3)
    with style():
        figure, panels = new_figure(
            (2.1 if narrow else 2.5) * -(-len(tasks) // columns) + 0.5,
            rows=-(-len(tasks) // columns),
            columns=columns,
            narrow=narrow,
            sharex=True,
            sharey=True,
        )
        for place, axes in enumerate(panels.ravel()):
            axes.set_visible(place < len(tasks))
            # What stands over an empty place has to tell its own scale.
            axes.tick_params(labelbottom=place + columns >= len(tasks))
        for axes, task in zip(panels.ravel(), tasks, strict=False):
            own, row = chosen[chosen["source_task"] == task], rows.loc[task]
            colour, marker = TASK_STYLE[task]
            axes.axhspan(-row["margin"], row["margin"], color=FAINT, alpha=0.12, lw=0)
            axes.axhline(0, color=INK, lw=0.8)
            axes.plot(own["mean"], own["difference"], marker, ms=4, color=colour, alpha=0.8, mew=0)
            for value, dashes in ((row["bias"], "-"), (row["lower_limit"], "--"), (row["upper_limit"], "--")):
                if np.isfinite(value):
                    axes.axhline(value, color=VERMILION, lw=1.2, ls=dashes)
            axes.set_title(labels[task], fontsize=8 if narrow else 9, loc="left")
        biases = ", ".join(f"{labels[task]} {rows.loc[task, 'bias']:+z.1f}" for task in tasks)
        figure.said = f"At n = {n_train} the mean differences in {unit} are: {biases}.".replace("-", "−")
        figure.supxlabel(f"muscle {name}, mean of prediction and expert ({unit})", fontsize=10)
        figure.supylabel(f"prediction − expert ({unit})", fontsize=10)
    return figure
