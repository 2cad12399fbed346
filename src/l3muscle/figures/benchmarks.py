"""Comparisons with other libraries: ratios, sharpness, accuracy at equal cost, forecasts."""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from l3muscle.book.comparisons import OURS, plain, values_of
from l3muscle.book.resolution import siemens_star, warp_once_and_in_chain
from l3muscle.book.theme import hover_id
from l3muscle.figures.look import FAINT, INK, VERMILION, new_figure, not_run, plain_log, size_axis, style
from l3muscle.profile import AugmentationSettings

BLUE = "#0072b2"
SIDE_STYLES = (("#e69f00", "s"), ("#009e73", "^"), ("#cc79a7", "v"), ("#5b6068", "D"), ("#56b4e9", "P"))


def ratio_chart(table: pd.DataFrame) -> Figure:
    """How many times better ours is than each peer, with the range over the repeats.

    Parameters
    ----------
    table : DataFrame
        From `l3muscle.book.comparisons.compare`; rows without a ratio are left out.

    Returns
    -------
    Figure
        Right of the line at 1 ours is better, left of it the peer.
    """
    shown = table.dropna(subset="ratio")
    if shown.empty:
        return not_run("this comparison")
    cases = list(dict.fromkeys(shown["case"]))
    lines = len(shown) + 1.3 * len(cases)
    with style():
        figure, [[axes]] = new_figure(0.9 + 0.24 * lines)
        axes.grid(False)
        axes.grid(axis="x")
        place, ticks, names = 0.0, [], []
        for case in cases:
            place -= 0.3
            axes.annotate(
                case,
                (0, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                weight="bold",
                fontsize=9,
            )
            for row in shown[shown["case"] == case].itertuples():
                place -= 1
                colour = BLUE if row.ratio >= 1 else VERMILION
                axes.plot([row.low, row.high], [place, place], color=colour, lw=2, solid_capstyle="round")
                text = f"{row.peer}, {case}: {plain(row.ratio, 2)} ({plain(row.low, 2)} to {plain(row.high, 2)})"
                gid = hover_id("", "", text)
                axes.plot([row.ratio], [place], color=colour, marker="o" if row.ratio >= 1 else "s", ms=6, gid=gid)
                ticks.append(place)
                names.append(row.peer)
            place -= 1
        axes.axvline(1, color=INK, lw=1)
        axes.set_yticks(ticks, names, fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(place + 0.3, 0.4)
        axes.set_xscale("log")
        low, high = shown["low"].min(), shown["high"].max()
        axes.set_xlim(min(low, 1) / 1.35, max(high, 1) * 1.35)
        plain_log(axes.xaxis)
        axes.set_xlabel("← the other is better     times better than the other     ours is better →")
    return figure


def contrast_curves(scores: pd.DataFrame) -> Figure:
    """Contrast of line pairs that augmentation leaves, against their frequency.

    Parameters
    ----------
    scores : DataFrame
        The archive's rows of the quantity `contrast kept`, whose case is `"0.25 cycles a pixel"`.

    Returns
    -------
    Figure
        Medians over random warps. The dashed line is sinc², what a perfectly placed linear interpolation leaves at
        every place between pixels alike.
    """
    own = scores[scores["value"].notna()]
    if own.empty:
        return not_run("sharpness")
    own = own.assign(frequency=own["case"].str.split().str[0].astype(float))
    curves = own.groupby(["side", "frequency"], sort=False)["value"].median().unstack(0)
    end = curves.iloc[-1].sort_values(ascending=False)
    with style():
        figure, [[axes]] = new_figure(4.2)
        fine = np.linspace(0, curves.index.max(), 200)
        axes.plot(fine, np.sinc(fine) ** 2, color=FAINT, lw=1.2, ls=(0, (4, 2)), zorder=1)
        others = [name for name in end.index if name != OURS]
        looks = dict(zip(others, (SIDE_STYLES * 3)[: len(others)], strict=True))
        looks[OURS] = (BLUE, "o")
        for name in end.index:
            colour, marker = looks[name]
            axes.plot(
                curves.index,
                curves[name],
                color=colour,
                marker=marker,
                ms=5,
                lw=2.2 if name == OURS else 1.3,
                zorder=3 if name == OURS else 2,
                label=name,
            )
        axes.plot([], [], color=FAINT, lw=1.2, ls=(0, (4, 2)), label="one ideal linear interpolation")
        axes.set_xlabel("frequency (cycles a pixel)")
        axes.set_ylabel("share of the contrast kept")
        axes.set_ylim(0, 1.03)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def stars(size: int = 220, *, seed: int = 1) -> Figure:
    """A Siemens star as drawn, after one interpolation and after three.

    Parameters
    ----------
    size : int
        Pixels a side.
    seed : int
        Of the warp.
    """
    star = torch.from_numpy(siemens_star(size))[None, None]
    once, chain = warp_once_and_in_chain(star, AugmentationSettings(elastic_shift=0.1), seed=seed)
    names = ("as drawn", "one interpolation", "three, in a chain")
    # The middle, where spokes are finest; still in a picture of pixels.
    middle = slice(round(0.28 * size), round(0.72 * size))
    with style():
        figure, [panels] = new_figure(2.9, columns=3)
        for axes, image, name in zip(panels, (star, once, chain), names, strict=True):
            axes.imshow(image[0, 0, middle, middle], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(name, fontsize=9, loc="left")
    return figure


def accuracy_at_budget(scores: pd.DataFrame) -> Figure:
    """Dice against the number of training slices, each side after the same computing time.

    Parameters
    ----------
    scores : DataFrame
        The archive's rows of the quantity `Dice`, whose case is `"n = 10"`.

    Returns
    -------
    Figure
        Points are medians over the repeats, bars their range.
    """
    scores = scores[scores["value"].notna()]
    if scores.empty:
        return not_run("this comparison")
    sides = list(dict.fromkeys(scores["side"]))
    own = scores.assign(n=scores["case"].str.removeprefix("n = ").astype(int))
    sizes = sorted(own["n"].unique())
    with style():
        figure, [[axes]] = new_figure(3.8)
        for place, side in enumerate(sides):
            colour, marker = (BLUE, "o") if side == OURS else SIDE_STYLES[(place - 1) % len(SIDE_STYLES)]
            points = [(n, values_of(own[own["n"] == n], side)) for n in sizes]
            points = [(n * 1.03 ** (place - (len(sides) - 1) / 2), values) for n, values in points if len(values)]
            if not points:
                continue
            x = [n for n, _ in points]
            middle = np.array([values.median() for _, values in points])
            bars = [
                middle - np.array([values.min() for _, values in points]),
                np.array([values.max() for _, values in points]) - middle,
            ]
            axes.errorbar(x, middle, yerr=bars, color=colour, marker=marker, ms=6, lw=1.4, capsize=3, label=side)
        size_axis(axes, sizes)
        axes.set_ylabel("Dice similarity coefficient")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def forecast_and_measured(scores: pd.DataFrame) -> Figure:
    """Time and memory of a study as forecast and as measured, while one thing at a time grows.

    Parameters
    ----------
    scores : DataFrame
        The archive's rows of the part `scaling`, whose case is `"models = 8"`.

    Returns
    -------
    Figure
        One panel for each quantity and thing that grows.
    """
    own = scores[scores["value"].notna()]
    if own.empty:
        return not_run("this comparison")
    own = own.assign(thing=own["case"].str.partition(" = ")[0], at=own["case"].str.partition(" = ")[2])
    things = list(dict.fromkeys(own["thing"]))
    names = {"n": "training slices n", "image": "pixels", "models": "models", "workers": "workers"}
    quantities = {"time": "time (s)", "memory": "memory (MiB)"}
    with style():
        figure, panels = new_figure(4.4, rows=2, columns=len(things), sharey="row")
        for row, (quantity, label) in zip(panels, quantities.items(), strict=True):
            for axes, thing in zip(row, things, strict=True):
                part = own[(own["thing"] == thing) & (own["quantity"] == quantity)]
                values = list(dict.fromkeys(part["at"]))
                for who, colour, marker, line in (("predicted", VERMILION, "s", "--"), ("measured", BLUE, "o", "-")):
                    found = part[part["side"] == who].set_index("at")["value"].reindex(values)
                    axes.plot(range(len(values)), found, color=colour, marker=marker, ls=line, ms=5, lw=1.4, label=who)
                axes.set_xticks(range(len(values)), [value.replace(" x ", " ×\n") for value in values], fontsize=8)
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_xlim(-0.4, len(values) - 0.6)
                axes.set_ylim(0, None)
                if quantity == "memory":
                    axes.set_xlabel(names.get(thing, thing), fontsize=9)
            row[0].set_ylabel(label)
        handles, words = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=2, fontsize=9)
    return figure
