"""What a cohort holds and how it is split."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from l3muscle.figures.style import BLUE, GREEN, INK, PAPER, VERMILION, BookFigure, new_figure, style
from l3muscle.metrics import MEASURES

HU_EDGES = np.arange(-200, 251, 10)


def split_map(table: pd.DataFrame, sizes: Sequence[int]) -> BookFigure:
    """Who is held out, validates and trains, in each fold and subset (the paper's Figure 1).

    Parameters
    ----------
    table : DataFrame
        From `l3muscle.book.cohort_overview.split_table`.
    sizes : sequence of int
        Training-set sizes, rising.

    Returns
    -------
    BookFigure
        One row a fold and subset, one column a patient; a training patient's shade says from which size on the patient
        is in, so that smaller sets are seen to lie inside larger ones.
    """
    validation, test = len(sizes) + 1, len(sizes) + 2
    order, role = table["order"].fillna(0), table["role"]
    level = np.where(order <= max(sizes), 1 + np.searchsorted(sizes, order), 0)
    level = np.select([role == "validation", role == "test"], [validation, test], level)
    patients = [table.loc[role == name, "patient_id"].unique() for name in ("validation", "test")]
    grid = table.assign(level=level).pivot(index=["fold", "subset"], columns="patient_id", values="level")
    grid = grid.reindex(columns=np.concatenate(patients)).fillna(0).astype(int)
    subsets = table["subset"].nunique()
    colours = ["#d8d4cb", *sns.color_palette("viridis", len(sizes)), VERMILION, "#4d5562"]
    names = ["not used", *(f"in from n = {size}" for size in sizes), "validation", "test (held out)"]
    grid.index = [f"fold {fold} left out, subset {subset}" for fold, subset in grid.index]
    with style():
        figure, [[axes]] = new_figure(3.8)
        # Lines between columns a pixel wide would hide them.
        look = {"cmap": colours, "vmin": -0.5, "vmax": test + 0.5, "cbar": False, "rasterized": True}
        sns.heatmap(grid, xticklabels=False, yticklabels=True, ax=axes, **look)
        for row in range(1, len(grid)):
            axes.axhline(row, color=PAPER, lw=2.5 if row % subsets == 0 else 0.8)
        axes.tick_params(axis="y", length=0, labelrotation=0)
        axes.set(xlabel="patient", ylabel="")
        handles = [Patch(facecolor=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def hu_shares(images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """How Hounsfield units are distributed in slices and in the muscle: what `hu_histogram` draws.

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
        counts = np.array([np.histogram(of_patient, HU_EDGES)[0] for of_patient in values])
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        low, high = np.percentile(shares, [5, 95], axis=0) if len(shares) >= 10 else (np.nan, np.nan)
        middle = (HU_EDGES[:-1] + HU_EDGES[1:]) / 2
        part = {"region": region, "hu": middle, "median": np.median(shares, axis=0), "low": low, "high": high}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def hu_histogram(shares: pd.DataFrame) -> BookFigure:
    """How Hounsfield units are distributed in the slices and in the muscle of a cohort.

    Parameters
    ----------
    shares : DataFrame
        From `hu_shares`.

    Returns
    -------
    BookFigure
        Medians over patients, with the range from the 5th to the 95th percentile where there is one.
    """
    titles = {"slice": "all of the slice from −200 to 250 HU", "muscle": "muscle, expert's outline"}
    with style():
        figure, [panels] = new_figure(3.0, columns=2)
        for axes, (region, part) in zip(panels, shares.groupby("region", sort=False), strict=True):
            sns.lineplot(part, x="hu", y="median", color=BLUE, ax=axes)
            axes.fill_between(part["hu"], part["low"], part["high"], color=BLUE, alpha=0.2, lw=0)
            axes.set(title=titles[region], xlabel="HU", ylabel="")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("pixels a bin of 10 HU (%)")
    return figure


def against_reference(measures: pd.DataFrame, published: pd.DataFrame) -> BookFigure:
    """Muscle area and density of a cohort, by sex, beside published values.

    Parameters
    ----------
    measures : DataFrame
        One row a patient: sma_cm2, smd_hu, sex (`"men"` or `"women"`).
    published : DataFrame
        From `l3muscle.book.cohort_overview.reference_values`.

    Returns
    -------
    BookFigure
        Points are patients; boxes hold the middle half, whiskers reach the 5th and 95th percentiles.
    """
    sexes = ["men", "women"]
    marks = dict(zip(dict.fromkeys(published["population"]), (("D", VERMILION), ("s", GREEN)), strict=True))
    with style():
        figure, [panels] = new_figure(3.8, columns=2)
        for axes, measure in zip(panels, ("sma_cm2", "smd_hu"), strict=True):
            if measures["sex"].notna().any():
                common = {"data": measures, "x": "sex", "y": measure, "order": sexes, "ax": axes}
                sns.stripplot(**common, color=BLUE, alpha=0.35, size=4, jitter=0.13)
                sns.boxplot(**common, width=0.42, whis=(5, 95), showfliers=False, fill=False, color=INK, linewidth=1)
            for row in published[published["measure"] == measure].itertuples():
                marker, colour = marks[row.population]
                axes.plot(sexes.index(row.sex) + 0.36, row.value, marker, color=colour)
            axes.set_xticks([0, 1], sexes)
            axes.set(xlim=(-0.5, 1.6), xlabel="", ylabel=MEASURES[measure].label)
        kinds = dict(zip(published["population"], published["kind"], strict=True))
        handles = [
            Line2D([], [], marker=marker, color=colour, ls="none", label=f"{kinds[name]}, {name}")
            for name, (marker, colour) in marks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center")
    return figure
