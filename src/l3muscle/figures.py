"""One function a figure: tables or images in, a matplotlib figure out.

Figures are made without pyplot, so that they leave no state behind and can be drawn in any thread. They are drawn on a
light ground; for a dark page `l3muscle.theme` exchanges their colours.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from l3muscle.cohort.splits import Splits
from l3muscle.metrics import boundary
from l3muscle.reference_values import POPULATIONS, reference_values
from l3muscle.statistics import ObserverBand, learning_curve_table
from l3muscle.theme import hover_id

PAGE_WIDTH_IN = 7.4  # drawn at the width of the page's text column, so that 10 pt stays 10 pt
PAPER = "#fdfcf9"
INK = "#23272e"
FAINT = "#6b717b"
# Okabe and Ito's colours that keep apart for every kind of colour vision, each with a marker of its own.
TASK_STYLE = {
    "random": ("#5b6068", "o"),
    "classification": ("#e69f00", "s"),
    "segmentation": ("#0072b2", "D"),
    "jigsaw": ("#009e73", "^"),
    "reconstruction": ("#cc79a7", "v"),
}
OUTLINE_COLOURS = ("#ffb000", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
METRIC_LABELS = {
    "dice": "Dice similarity coefficient",
    "rms_dta_cm": "RMS distance-to-agreement (cm)",
    "smd_difference_hu": "muscle density, prediction − expert (HU)",
    "sma_difference_cm2": "muscle area, prediction − expert (cm²)",
}
STYLE = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e3dc",
    "legend.frameon": False,
    "svg.hashsalt": "l3muscle",
    "svg.fonttype": "path",
}


@contextmanager
def style():
    """The look of every figure, for the duration of a `with` block."""
    with matplotlib.rc_context(STYLE):
        yield


def _figure(height: float, *, columns: int = 1, rows: int = 1, **grid) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(PAGE_WIDTH_IN, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, axes


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Training-set size on a logarithmic axis that is labelled where there are data and nowhere else."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(sizes) / 1.22, max(sizes) * 1.22)
    axes.set_xlabel("training-set size n (annotated slices)")


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
        figure, [[axes]] = _figure(4.1)
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
        _size_axis(axes, sorted(table["n_train"].unique()))
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
        figure, [panels] = _figure(3.4, columns=2, sharey=True)
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
        figure, [[axes]] = _figure(3.0)
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


def _box_around(masks: Sequence[np.ndarray], margin: int) -> tuple[slice, slice]:
    union = np.logical_or.reduce(masks)
    if not union.any():
        return slice(None), slice(None)
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )


def _show_slice(axes: Axes, hu: np.ndarray, spacing: Sequence[float], window_hu: float, level_hu: float) -> None:
    axes.imshow(
        hu, cmap="gray", vmin=level_hu - window_hu / 2, vmax=level_hu + window_hu / 2, aspect=spacing[0] / spacing[1]
    )
    axes.set_axis_off()


def outlines(
    slices: Sequence[tuple[str, np.ndarray, Sequence[float], Mapping[str, np.ndarray]]],
    *,
    columns: int = 3,
    window_hu: float = 400,
    level_hu: float = 50,
) -> Figure:
    """Slices with outlines of one or more masks (Figure 2).

    Parameters
    ----------
    slices : sequence of (title, hu (H, W), spacing in mm, masks by name)
        A name keeps its colour throughout the figure.
    columns : int
    window_hu, level_hu : float

    Returns
    -------
    Figure
    """
    names = list(dict.fromkeys(name for *_, masks in slices for name in masks))
    colours = {name: OUTLINE_COLOURS[place % len(OUTLINE_COLOURS)] for place, name in enumerate(names)}
    columns = min(columns, len(slices))
    rows = -(-len(slices) // columns)
    with style():
        figure, panels = _figure(rows * PAGE_WIDTH_IN / columns * 0.74 + 0.35, rows=rows, columns=columns)
        for axes in panels.ravel()[len(slices) :]:
            axes.set_visible(False)
        for axes, (title, hu, spacing, masks) in zip(panels.ravel(), slices, strict=False):
            box = _box_around(list(masks.values()), 28)
            _show_slice(axes, hu[box], spacing, window_hu, level_hu)
            for name, mask in masks.items():
                axes.contour(mask[box].astype(float), [0.5], colors=[colours[name]], linewidths=0.9)
            axes.set_title(title, fontsize=9, loc="left")
        handles = [matplotlib.lines.Line2D([], [], color=colours[name], lw=2, label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 6), fontsize=9)
    return figure


def contact_sheet(
    images: np.ndarray, masks: np.ndarray, *, columns: int = 6, window_hu: float = 400, level_hu: float = 50
) -> Figure:
    """Many small slices with the expert's outline.

    Parameters
    ----------
    images : ndarray, (N, H, W), HU
    masks : ndarray, (N, H, W) bool
        None of them empty.
    columns : int
    window_hu, level_hu : float
    """
    low = level_hu - window_hu / 2
    tiles = []
    height, width = round(0.52 * images.shape[1]), round(0.64 * images.shape[2])
    for hu, mask in zip(images, masks, strict=True):
        # The middle of the muscle is the middle of the tile; most of a slice is air.
        rows, across = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        top = int(np.clip((rows[0] + rows[-1] - height) // 2, 0, hu.shape[0] - height))
        left = int(np.clip((across[0] + across[-1] - width) // 2, 0, hu.shape[1] - width))
        box = slice(top, top + height), slice(left, left + width)
        hu, mask = hu[box], mask[box]
        grey = np.clip((hu - low) / window_hu, 0, 1)
        tile = np.stack([grey] * 3, axis=-1)
        tile[boundary(mask)] = matplotlib.colors.to_rgb(OUTLINE_COLOURS[0])
        tiles.append(tile)
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    sheet = np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])
    with style():
        figure = Figure(figsize=(PAGE_WIDTH_IN, PAGE_WIDTH_IN * sheet.shape[0] / sheet.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(sheet, interpolation="antialiased")
        axes.set_axis_off()
    return figure


def not_run(what: str) -> Figure:
    """A low, empty panel that says what this run does not have, where another run has a figure."""
    with style():
        figure, [[axes]] = _figure(0.6)
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"{what}: not part of this run", ha="center", va="center", color=FAINT)
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
        figure, [[axes]] = _figure(2.6)
        axes.plot(
            curve["step"], curve["validation_accuracy"], color="#d55e00", marker="s", ms=4, ls="--", label="validation"
        )
        axes.axhline(chance, color=FAINT, lw=1.2, ls=(0, (1, 2)), label=f"chance ({chance:.1%})")
        axes.set_ylim(0, None)
        axes.set_xlabel("step")
        axes.set_ylabel("share right")
        axes.legend()
    return figure


def _rows_of_images(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str]) -> Figure:
    """Small grey images in [0, 1], a name beside each row and a title above each column."""
    columns = len(titles)
    height, width = rows[0][1][0].shape
    with style():
        figure, panels = _figure(
            len(rows) * PAGE_WIDTH_IN / columns * height / width + 0.3, rows=len(rows), columns=columns
        )
        for line, (name, images) in zip(panels, rows, strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(image, cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                axes.grid(False)
            line[0].set_ylabel(name, fontsize=9)
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, fontsize=9, loc="left")
    return figure


def reconstructions(examples: Mapping[str, np.ndarray]) -> Figure:
    """What goes into the autoencoder above what comes out of it.

    Parameters
    ----------
    examples : mapping
        `input` and `output`, (N, H, W), on the grey scale of the window.
    """
    rows = [(name, list(examples[name])) for name in ("input", "output")]
    return _rows_of_images(rows, [f"validation slice {k + 1}" for k in range(len(examples["input"]))])


def puzzles(examples: Mapping[str, np.ndarray], *, gap: int = 2) -> Figure:
    """Jigsaw puzzles as the network gets them, as it lays them, and as they should lie.

    Parameters
    ----------
    examples : mapping
        `tiles` (N, 9, h, w) as they lie in the puzzle; `guess` and `permutation` (N, 9), the place in the slice that
        the network names for each, and the true one.
    gap : int
        Pixels between tiles.
    """

    def lay(tiles: np.ndarray, places: Sequence[int]) -> np.ndarray:
        height, width = tiles.shape[1:]
        sheet = np.ones((3 * height + 2 * gap, 3 * width + 2 * gap))
        for tile, place in zip(tiles, places, strict=True):
            row, column = divmod(int(place), 3)
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = tile
        return sheet

    rows = []
    for number, (tiles, guess, truth) in enumerate(
        zip(examples["tiles"], examples["guess"], examples["permutation"], strict=True)
    ):
        verdict = "solved" if np.array_equal(guess, truth) else "not solved"
        sheets = [lay(tiles, places) for places in (range(9), guess, truth)]
        rows.append((f"puzzle {number + 1}: {verdict}", sheets))
    return _rows_of_images(rows, ["given", "as the network lays it", "right"])


def image_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Figure:
    """Rows of grey images in [0, 1], all of one shape and as many in each row, with a name beside each row."""
    return _rows_of_images(rows, [""] * len(rows[0][1]))


def split_map(splits: Splits, sizes: Sequence[int]) -> Figure:
    """Who is held out, validates and trains, in each fold and subset (the paper's Figure 1).

    Parameters
    ----------
    splits : Splits
    sizes : sequence of int
        Training-set sizes, rising.

    Returns
    -------
    Figure
        One row a fold and subset, one column a patient; a training patient's shade says from which size on the patient
        is in, so that smaller sets are seen to lie inside larger ones.
    """
    everyone = [patient for fold in splits.folds for patient in fold] + list(splits.test_ids)
    place = {patient: column for column, patient in enumerate(everyone)}
    unused, validation, test = 0, len(sizes) + 1, len(sizes) + 2
    subsets = len(splits.orders[0])
    grid = np.full((len(splits.folds) * subsets, len(everyone)), unused)
    grid[:, [place[patient] for patient in splits.test_ids]] = test
    for row in range(len(grid)):
        fold, subset = divmod(row, subsets)
        grid[row, [place[patient] for patient in splits.folds[fold]]] = validation
        for level, size in reversed(list(enumerate(sizes, start=1))):
            if size <= len(splits.orders[fold][subset]):
                grid[row, [place[patient] for patient in splits.training_ids(fold, subset, size)]] = level
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.95, len(sizes)))[:, :3]
    colours = ["#efece4", *shades, "#d55e00", "#3a3f47"]
    names = ["not used", *(f"n ≥ {size}" for size in sizes), "validation", "test (held out)"]
    with style():
        figure, ((axes,),) = _figure(3.6)
        axes.grid(False)
        axes.pcolormesh(
            grid, cmap=ListedColormap(colours), vmin=-0.5, vmax=test + 0.5, edgecolors=PAPER, linewidth=0.15
        )
        axes.invert_yaxis()
        rows = [f"fold {row // subsets + 1} out, set {row % subsets + 1}" for row in range(len(grid))]
        axes.set_yticks(np.arange(len(grid)) + 0.5, rows)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("patient")
        axes.spines[:].set_visible(False)
        handles = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def hu_histogram(cohorts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """How Hounsfield units are distributed in the slices and in the muscle, for one cohort or several.

    Parameters
    ----------
    cohorts : mapping of str to (images (N, H, W) in HU, masks (N, H, W) bool)

    Returns
    -------
    Figure
        Medians over patients, with the range from the 5th to the 95th percentile where there are ten or more.
    """
    edges = np.arange(-200, 251, 10)
    centres = (edges[:-1] + edges[1:]) / 2
    with style():
        figure, (panels,) = _figure(3.2, columns=2)
        for number, (name, (images, masks)) in enumerate(cohorts.items()):
            colour = OUTLINE_COLOURS[(6, 5, 2)[number % 3]]
            for axes, values in (
                (panels[0], list(images)),
                (panels[1], [hu[mask] for hu, mask in zip(images, masks, strict=True)]),
            ):
                shares = np.array([np.histogram(v, edges)[0] / max(np.histogram(v, edges)[0].sum(), 1) for v in values])
                axes.plot(centres, 100 * np.median(shares, axis=0), color=colour, label=name)
                if len(shares) >= 10:
                    low, high = 100 * np.percentile(shares, [5, 95], axis=0)
                    axes.fill_between(centres, low, high, color=colour, alpha=0.2, linewidth=0)
        for axes, title in zip(
            panels, ("all of the slice from −200 to 250 HU", "muscle, expert's outline"), strict=True
        ):
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("HU")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("pixels a bin of 10 HU (%)")
        if len(cohorts) > 1:
            panels[0].legend()
    return figure


def against_reference(measures: pd.DataFrame) -> Figure:
    """Muscle area and density of a cohort, by sex, beside published values.

    Parameters
    ----------
    measures : DataFrame
        One row a patient: sma_cm2, smd_hu, sex (`"men"` or `"women"`).

    Returns
    -------
    Figure
    """
    table = reference_values()
    markers = dict(zip(POPULATIONS, ("D", "s"), strict=True))
    colours = dict(zip(POPULATIONS, ("#d55e00", "#009e73"), strict=True))
    rng = np.random.default_rng(0)
    with style():
        figure, (panels,) = _figure(3.7, columns=2)
        for axes, (measure, label) in zip(
            panels, (("sma_cm2", "muscle area (cm²)"), ("smd_hu", "muscle density (HU)")), strict=True
        ):
            for place, sex in enumerate(("men", "women")):
                values = measures.loc[measures.sex == sex, measure]
                if len(values):
                    spread = place + rng.uniform(-0.13, 0.13, len(values))
                    axes.plot(spread, values, ".", color=TASK_STYLE["segmentation"][0], alpha=0.35, markersize=5)
                    axes.boxplot(
                        values,
                        positions=[place],
                        widths=0.42,
                        whis=(5, 95),
                        showfliers=False,
                        medianprops={"color": INK},
                    )
                for row in table[(table.measure == measure) & (table.sex == sex)].itertuples():
                    axes.plot(
                        place + 0.34, row.value, marker=markers[row.source], color=colours[row.source], linestyle="none"
                    )
            axes.set_xticks([0, 1], ["men", "women"])
            axes.set_xlim(-0.5, 1.5)
            axes.set_ylabel(label)
        kinds = dict(zip(table.source, table.kind, strict=True))
        handles = [
            Line2D([], [], marker=markers[key], color=colours[key], linestyle="none", label=f"{kinds[key]}, {name}")
            for key, name in POPULATIONS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", fontsize=9)
    return figure
