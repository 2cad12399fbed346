"""What every figure shares: its colours, its two widths, its axes."""

import io
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

PAGE_WIDTH_IN = 7.4  # drawn at the width of the page's text column, so that 10 pt stays 10 pt
NARROW_WIDTH_IN = 4.2  # and once more about as wide as a phone's screen, where the other's letters would be too small
NARROW_DRAWING = "application/x-l3muscle-narrow"  # how the narrow drawing leaves a notebook's kernel; it holds SVG
SAID = "text/x-l3muscle-said"  # and what the figure says in words
CROWDED = 1.4  # neighbours on a narrow logarithmic axis, as a ratio
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
VERMILION = "#d55e00"
OUTLINE_COLOURS = ("#ffb000", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
METRIC_LABELS = {
    "dice": "Dice similarity coefficient",
    "rms_dta_cm": "RMS distance-to-agreement (cm)",
    "smd_difference_hu": "muscle density, prediction − expert (HU)",
    "sma_difference_cm2": "muscle area, prediction − expert (cm²)",
}
METRIC_DIGITS = {"dice": 3, "rms_dta_cm": 3, "smd_difference_hu": 2, "sma_difference_cm2": 1}  # that mean something
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


class PageFigure(Figure):
    """A figure of the book: as wide as the page's text, with a second drawing for narrow screens.

    Attributes
    ----------
    draw_narrow : callable or None
        Draws the same for a narrow screen. It is called when a notebook shows the figure.
    said : str
        What the figure shows in words and numbers, for those who cannot see it: it goes on where the alternative text
        of the notebook's cell ends.
    """

    draw_narrow: "Callable[[], Figure] | None" = None
    said: str = ""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook keeps beside the picture that its own backend makes."""
        bundle = {SAID: self.said} if self.said else {}
        if self.draw_narrow is not None:
            bundle[NARROW_DRAWING] = svg_text(self.draw_narrow())
        return bundle


def svg_text(figure: Figure) -> str:
    """A figure as SVG, without the date."""
    stream = io.StringIO()
    with style():
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def in_two_widths(draw: Callable[..., PageFigure]) -> Callable[..., PageFigure]:
    """Give the figures of a function that takes `narrow` their second drawing: the same call with `narrow=True`."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> PageFigure:
        figure = draw(*args, **kwargs)
        figure.draw_narrow = partial(draw, *args, **(kwargs | {"narrow": True}))
        return figure

    return drawn


def page_width(narrow: bool) -> float:
    """Width of a figure in inches."""
    return NARROW_WIDTH_IN if narrow else PAGE_WIDTH_IN


def new_figure(
    height: float, *, columns: int = 1, rows: int = 1, narrow: bool = False, **grid
) -> tuple[PageFigure, np.ndarray]:
    """A figure as wide as the page, or as a narrow screen, and its panels, (rows, columns)."""
    figure = PageFigure(figsize=(page_width(narrow), height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, axes


def size_axis(axes: Axes, sizes: Sequence[int], *, narrow: bool = False) -> None:
    """Training-set size on a logarithmic axis that is labelled where there are data and nowhere else.

    On a narrow figure a label that would touch the one before it stands a line lower.
    """
    axes.set_xscale("log")
    labels, lowered = [], False
    for last, n in zip([None, *sizes], sizes, strict=False):
        lowered = narrow and last is not None and n / last < CROWDED and not lowered
        labels.append(f"\n{n}" if lowered else str(n))
    axes.set_xticks(sizes, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(sizes) / 1.22, max(sizes) * 1.22)
    axes.set_xlabel("training-set size n (annotated slices)")


def plain_log(axis: Axis) -> None:
    """Plain decimals at 1, 2 and 5 of each decade of a logarithmic axis, instead of powers of ten."""
    low, high = axis.get_view_interval()
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [value for value in (10.0 ** decades[:, None] * [1, 2, 5]).ravel() if low <= value <= high]
    axis.set_ticks(ticks, [f"{value:g}" for value in ticks])
    axis.set_minor_locator(NullLocator())


def not_run(what: str) -> Figure:
    """A low, empty panel that says what this run does not have, where another run has a figure."""
    with style():
        figure, [[axes]] = new_figure(0.6)
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"{what}: not part of this run", ha="center", va="center", color=FAINT)
    return figure
