"""What a cohort holds and how it is split."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from l3muscle.book.reference_values import POPULATIONS, reference_values
from l3muscle.cohort.splits import Splits
from l3muscle.figures.look import (
    INK,
    OUTLINE_COLOURS,
    PAPER,
    TASK_STYLE,
    VERMILION,
    PageFigure,
    in_two_widths,
    new_figure,
    style,
)


@in_two_widths
def split_map(splits: Splits, sizes: Sequence[int], *, narrow: bool = False) -> PageFigure:
    """Who is held out, validates and trains, in each fold and subset (the paper's Figure 1).

    Parameters
    ----------
    splits : Splits
    sizes : sequence of int
        Training-set sizes, rising.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
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
    # Greys that a dark copy leaves alone, as it must the picture's pixels.
    colours = ["#d8d4cb", *shades, VERMILION, "#4d5562"]
    names = ["not used", *(f"in from n = {size}" for size in sizes), "validation", "test (held out)"]
    with style():
        figure, ((axes,),) = new_figure(4.4 if narrow else 3.6, narrow=narrow)
        folds = ", ".join(str(len(fold)) for fold in splits.folds)
        figure.said = f"{len(splits.test_ids)} patients are held out; the folds hold {folds}."
        axes.grid(False)
        # Lines between columns a pixel wide would hide them.
        axes.pcolormesh(grid, cmap=ListedColormap(colours), vmin=-0.5, vmax=test + 0.5, rasterized=True)
        for row in range(1, len(grid)):
            axes.axhline(row, color=PAPER, lw=2.5 if row % subsets == 0 else 0.8)
        axes.invert_yaxis()
        rows = [f"fold {row // subsets + 1} out, set {row % subsets + 1}" for row in range(len(grid))]
        axes.set_yticks(np.arange(len(grid)) + 0.5, rows)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("patient")
        axes.spines[:].set_visible(False)
        handles = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3 if narrow else 5, fontsize=9)
    return figure


HU_EDGES = np.arange(-200, 251, 10)


def hu_shares(images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """How Hounsfield units are distributed in slices and in the muscle: what `hu_histogram` draws of one cohort.

    Parameters
    ----------
    images : ndarray, (N, H, W), HU
    masks : ndarray, (N, H, W) bool

    Returns
    -------
    DataFrame
        region (`"slice"`, `"muscle"`), hu (middle of a bin of 10), and of the share of pixels in it, in per cent, over
        the patients: median, low and high (5th and 95th percentile; NaN for fewer than ten patients).
    """
    parts = []
    for region, values in (
        ("slice", list(images)),
        ("muscle", [hu[mask] for hu, mask in zip(images, masks, strict=True)]),
    ):
        counts = np.array([np.histogram(own, HU_EDGES)[0] for own in values])
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        low, high = (
            np.percentile(shares, [5, 95], axis=0) if len(shares) >= 10 else np.full((2, shares.shape[1]), np.nan)
        )
        middle = (HU_EDGES[:-1] + HU_EDGES[1:]) / 2
        part = {"region": region, "hu": middle, "median": np.median(shares, axis=0), "low": low, "high": high}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


@in_two_widths
def hu_histogram(cohorts: Mapping[str, tuple[np.ndarray, np.ndarray]], *, narrow: bool = False) -> PageFigure:
    """How Hounsfield units are distributed in the slices and in the muscle, for one cohort or several.

    Parameters
    ----------
    cohorts : mapping of str to (images (N, H, W) in HU, masks (N, H, W) bool)
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        Medians over patients, with the range from the 5th to the 95th percentile where there are ten or more.
    """
    with style():
        figure, panels = new_figure(
            5.6 if narrow else 3.2, columns=1 if narrow else 2, rows=2 if narrow else 1, narrow=narrow
        )
        panels = panels.ravel()
        for number, (name, (images, masks)) in enumerate(cohorts.items()):
            colour = OUTLINE_COLOURS[(6, 5, 2)[number % 3]]
            for axes, (_, part) in zip(panels, hu_shares(images, masks).groupby("region", sort=False), strict=True):
                axes.plot(part["hu"], part["median"], color=colour, label=name)
                axes.fill_between(part["hu"], part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
        for axes, title in zip(
            panels, ("all of the slice from −200 to 250 HU", "muscle, expert's outline"), strict=True
        ):
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("HU")
            axes.set_ylim(bottom=0)
        for axes in panels if narrow else panels[:1]:
            axes.set_ylabel("pixels a bin of 10 HU (%)")
        if len(cohorts) > 1:
            panels[0].legend()
    return figure


@in_two_widths
def against_reference(measures: pd.DataFrame, *, narrow: bool = False) -> PageFigure:
    """Muscle area and density of a cohort, by sex, beside published values.

    Parameters
    ----------
    measures : DataFrame
        One row a patient: sma_cm2, smd_hu, sex (`"men"` or `"women"`).
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
    """
    table = reference_values()
    markers = dict(zip(POPULATIONS, ("D", "s"), strict=True))
    colours = dict(zip(POPULATIONS, ("#d55e00", "#009e73"), strict=True))
    rng = np.random.default_rng(0)
    with style():
        figure, (panels,) = new_figure(4.2 if narrow else 3.7, columns=2, narrow=narrow)
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
        figure.legend(handles=handles, loc="outside lower center", fontsize=7.5 if narrow else 9)
    return figure
