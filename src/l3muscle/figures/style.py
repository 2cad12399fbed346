"""What every figure shares: colours, names, axes, and how a figure becomes one SVG for both themes."""

import base64
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from l3muscle.pretext import SOURCE_TASKS

WIDTH_IN = 6.6  # a little less than the page's text column, so that 10 pt stays legible on a phone
PICTURE_DPI = 144  # of the slices inside an SVG
PAPER = "#fdfcf9"
INK = "#23272e"
FAINT = "#6b717b"
GRID = "#e6e3dc"
TASK_STYLE = {name: (task.colour, task.marker) for name, task in SOURCE_TASKS.items()}
BLUE, GREEN, VERMILION = TASK_STYLE["segmentation"][0], TASK_STYLE["jigsaw"][0], "#d55e00"
# Whose outline it is; the observers' take the other colours in turn.
OUTLINE_STYLE = {"expert": ("#ffb000", 1.6), "prediction": ("#56b4e9", 1.4)}
OTHER_OUTLINES = ("#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2")
# Matplotlib knows no variables, so these colours are written as the book's, then as Jupyter's, then as themselves.
THEME = {
    PAPER: f"var(--l3-paper, var(--jp-layout-color0, {PAPER}))",
    INK: f"var(--l3-ink, var(--jp-content-font-color1, {INK}))",
    FAINT: f"var(--l3-faint, var(--jp-content-font-color2, {FAINT}))",
    GRID: f"var(--l3-grid, var(--jp-border-color2, {GRID}))",
    TASK_STYLE["random"][0]: f"var(--l3-grey, {TASK_STYLE['random'][0]})",
    BLUE: f"var(--l3-blue, {BLUE})",
}
# A slice with its outlines takes a third of what matplotlib writes.
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_PATH = re.compile(r' d="[^"]*"')
EMBEDDED_PICTURE = re.compile(r'"data:image/png;base64,([^"]+)"')
STYLE = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "axes.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "l3muscle",
    "svg.fonttype": "none",
}


@contextmanager
def style():
    """The look of every figure, for the duration of a `with` block."""
    with matplotlib.rc_context(STYLE):
        yield


@dataclass(frozen=True)
class Point:
    """A point of a figure that says its value under the pointer and may be a link.

    Attributes
    ----------
    axes : Axes
    x, y : float
        In data coordinates.
    text : str
    href : str
        Address that it leads to, from the page; empty for none.
    """

    axes: Axes
    x: float
    y: float
    text: str
    href: str = ""


class BookFigure(Figure):
    """A figure of the book: a notebook shows it as SVG.

    Attributes
    ----------
    points : list of Point
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.points: list[Point] = []

    def _repr_svg_(self) -> str:
        return svg_text(self)


def svg_text(figure: Figure, name: str = "figure", alt: str = "") -> str:
    """A figure as one SVG for both themes, as wide as what it stands in.

    Parameters
    ----------
    figure : Figure
    name : str
        Goes before every id, so that two figures of a page share none.
    alt : str
        What it shows, for those who cannot see it.

    Returns
    -------
    str
        The `<svg>` element, without the date and without the head of a file.
    """
    stream = io.StringIO()
    # What pyplot lays out has wide margins.
    cut = None if isinstance(figure, BookFigure) else "tight"
    with style():
        figure.savefig(stream, format="svg", dpi=PICTURE_DPI, metadata={"Date": None}, bbox_inches=cut)
    _, _, body = stream.getvalue().partition("<svg ")
    width, height = map(float, _SIZE.search(body).groups())
    body = EMBEDDED_PICTURE.sub(_in_grey, _PATH.sub(_shorter, body[body.index(">") + 1 :]))
    for before, after in {'id="': f'id="{name}-', 'href="#': f'href="#{name}-', "url(#": f"url(#{name}-"}.items():
        body = body.replace(before, after)
    for colour, variable in THEME.items():
        body = body.replace(colour, variable)
    points = getattr(figure, "points", [])
    head = (
        '<svg class="l3-drawing" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" style="width:100%;height:auto;aspect-ratio:{width:g}/{height:g}" '
        f'role="{"group" if points else "img"}" aria-label="{escape(alt)}">'
    )
    return head + body.replace("</svg>", _point_marks(points, height) + "</svg>").strip()


def show_as_svg() -> None:
    """Show every figure of a notebook as one SVG in the book's colours, which follow the theme of the page."""
    shell = get_ipython()
    shell.run_line_magic("matplotlib", "inline")
    matplotlib.rcParams.update(STYLE)
    formatters, number = shell.display_formatter.formatters, itertools.count(1)
    formatters["image/png"].pop(Figure, None)
    formatters["image/svg+xml"].for_type(Figure, lambda one: svg_text(one, f"figure-{next(number)}", described(one)))


def described(figure: Figure) -> str:
    """What the panels of a figure are called or show, for those who cannot see it."""

    def called(panel: Axes) -> str:
        labels = filter(None, (panel.get_ylabel(), panel.get_xlabel()))
        return panel.get_title("left") or panel.get_title() or " against ".join(labels)

    return "; ".join(filter(None, map(called, figure.axes))) or "a picture"


def _shorter(path: re.Match[str]) -> str:
    """A path in tenths of a point instead of millionths, and without line breaks."""
    return " " + re.sub(r"(\.\d)\d+", r"\1", " ".join(path.group().split()).replace(" L ", "L"))


def _in_grey(picture: re.Match[str]) -> str:
    """A picture that has no colour with one number a pixel instead of four."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture[1]))))
    if pixels.ndim != 3 or (pixels[..., 3] < 255).any() or (pixels[..., :2] != pixels[..., 1:3]).any():
        return picture.group()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(stream, "PNG", optimize=True)
    return picture.group().replace(picture[1], base64.b64encode(stream.getvalue()).decode())


def _point_marks(points: Sequence[Point], height: float) -> str:
    """Unseen circles over the points of a drawn figure, each with its value as a title."""
    marks = []
    for point in points:
        x, y = point.axes.transData.transform((point.x, point.y)) * 72 / point.axes.figure.dpi
        circle = f'cx="{x:.1f}" cy="{height - y:.1f}" r="7" fill="transparent"'
        mark = f'<circle class="l3-point" {circle}><title>{escape(point.text)}</title></circle>'
        marks.append(f'<a href="{escape(point.href)}">{mark}</a>' if point.href else mark)
    return "".join(marks)


def new_figure(height: float, *, columns: int = 1, rows: int = 1, **grid: Any) -> tuple[BookFigure, np.ndarray]:
    """A figure as wide as the page and its panels, (rows, columns); made without pyplot, so that it leaves no state."""
    figure = BookFigure(figsize=(WIDTH_IN, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def new_grid(count: int, columns: int, row_height: float, *, more: float = 0.5, **grid: Any) -> tuple[BookFigure, list]:
    """A figure of so many panels in rows of at most so many columns, and the panels; `more` is height for a legend."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, panels = new_figure(rows * row_height + more, rows=rows, columns=columns, **grid)
    for axes in panels.ravel()[count:]:
        axes.set_visible(False)
    return figure, list(panels.ravel()[:count])


def without_axes(axes: Axes) -> None:
    """Leave of a picture's axes nothing but a title and a label."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def task_palette(tasks: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    """What seaborn takes to draw source tasks by their labels: `palette`, `markers`, and the order of both."""
    names = [labels[task] for task in tasks]
    return {
        "hue_order": names,
        "style_order": names,
        "palette": {labels[task]: TASK_STYLE[task][0] for task in tasks},
        "markers": {labels[task]: TASK_STYLE[task][1] for task in tasks},
    }


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Move the legend of one panel below the figure."""
    handles, names = axes.get_legend_handles_labels()
    if axes.get_legend() is not None:
        axes.get_legend().remove()
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Training-set size on a logarithmic axis that is labelled where there are data and nowhere else."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
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
