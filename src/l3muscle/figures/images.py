"""Slices, outlines and small images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path as MplPath
from scipy import ndimage

from l3muscle.book.predictions import ErrorMap
from l3muscle.figures.look import (
    OUTLINE_COLOURS,
    TASK_STYLE,
    VERMILION,
    PageFigure,
    in_two_widths,
    new_figure,
    page_width,
    style,
)
from l3muscle.metrics import boundary, remove_bone

SIMPLER_PX = 0.4  # how far a drawn outline may lie beside the mask's
PICTURE_LINES = {"expert": (OUTLINE_COLOURS[0], 1.5), "prediction": (OUTLINE_COLOURS[1], 1.5)}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # once the colours are spent


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


def _outline(axes: Axes, mask: np.ndarray, **look) -> None:
    """A mask's outline, with no more points than it needs: one at every pixel would make a page of megabytes."""
    drawn = axes.contour(mask.astype(float), [0.5], **look)
    simple = []
    for path in drawn.get_paths():
        path = MplPath(path.vertices, path.codes)
        path.simplify_threshold = SIMPLER_PX
        path = path.cleaned(simplify=True)
        # It ends with a mark that a path which is drawn must not have.
        simple.append(MplPath(path.vertices[:-1], path.codes[:-1]))
    drawn.set_paths(simple)


@in_two_widths
def outlines(
    slices: Sequence[tuple[str, np.ndarray, Sequence[float], Mapping[str, np.ndarray]]],
    *,
    columns: int = 3,
    window_hu: float = 400,
    level_hu: float = 50,
    narrow: bool = False,
) -> PageFigure:
    """Slices with outlines of one or more masks (Figure 2).

    Parameters
    ----------
    slices : sequence of (title, hu (H, W), spacing in mm, masks by name)
        A name keeps its line throughout the figure; the first name's is bolder, and no other has its colour.
    columns : int
        Two stand below each other on a narrow screen; more stay beside each other.
    window_hu, level_hu : float
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
    """
    names = list(dict.fromkeys(name for *_, masks in slices for name in masks))
    first, *others = OUTLINE_COLOURS
    looks = {names[0]: (first, "-")}
    for place, name in enumerate(names[1:]):
        looks[name] = others[place % len(others)], DASHES[place // len(others) % len(DASHES)]
    columns = 1 if narrow and columns == 2 else min(columns, len(slices))
    rows = -(-len(slices) // columns)
    with style():
        lines = max(title.count("\n") for title, *_ in slices)
        height = rows * (page_width(narrow) / columns * 0.74 + 0.16 * lines) + 0.35
        figure, panels = new_figure(height, rows=rows, columns=columns, narrow=narrow)
        for axes in panels.ravel()[len(slices) :]:
            axes.set_visible(False)
        for axes, (title, hu, spacing, masks) in zip(panels.ravel(), slices, strict=False):
            box = _box_around(list(masks.values()), 28)
            _show_slice(axes, hu[box], spacing, window_hu, level_hu)
            for name, mask in masks.items():
                width = 1.5 if name == names[0] else 0.9
                colour, dashes = looks[name]
                _outline(axes, mask[box], colors=[colour], linewidths=width, linestyles=[dashes])
            axes.set_title(title, fontsize=9, loc="left")
        handles = [
            Line2D([], [], color=colour, ls=dashes, lw=2, label=name) for name, (colour, dashes) in looks.items()
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(names), 3 if narrow else 6), fontsize=9
        )
    return figure


def training_so_far(
    curve: pd.DataFrame,
    last_step: int,
    watched: tuple[str, np.ndarray, Sequence[float], Mapping[str, np.ndarray]],
    *,
    window_hu: float = 400,
    level_hu: float = 50,
) -> Figure:
    """A training while it goes on: its losses beside the outline of one slice.

    Parameters
    ----------
    curve : DataFrame
        One row a validation: step, train_loss, validation_loss. May be empty.
    last_step : int
        Where the training will end: the axis does not change from picture to picture.
    watched : (title, hu (H, W), spacing in mm, masks by name)
        Shown whole.
    window_hu, level_hu : float

    Returns
    -------
    Figure
    """
    title, hu, spacing, masks = watched
    with style():
        figure, [[left, right]] = new_figure(3.3, columns=2, width_ratios=(1, 1.25))
        for column, label, colour, marker, dashes in (
            ("train_loss", "training", TASK_STYLE["segmentation"][0], "o", "-"),
            ("validation_loss", "validation", VERMILION, "s", "--"),
        ):
            values = curve.get(column, [])
            left.plot(curve.get("step", []), values, color=colour, marker=marker, ms=4, ls=dashes, label=label)
        left.set_xlim(0, 1.03 * last_step)
        left.set_ylim(bottom=0)
        left.set_xlabel("step")
        left.set_ylabel("loss")
        left.legend(loc="upper right")
        _show_slice(right, hu, spacing, window_hu, level_hu)
        for (name, mask), colour in zip(masks.items(), OUTLINE_COLOURS, strict=False):
            if mask.any():
                right.contour(mask.astype(float), [0.5], colors=[colour], linewidths=1.3)
            right.plot([], [], color=colour, lw=2, label=name)
        right.set_title(title, fontsize=9, loc="left")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(masks), fontsize=9)
    return figure


@in_two_widths
def contact_sheet(
    images: np.ndarray,
    masks: np.ndarray,
    *,
    columns: int = 6,
    window_hu: float = 400,
    level_hu: float = 50,
    narrow: bool = False,
) -> PageFigure:
    """Many small slices with the expert's outline.

    Parameters
    ----------
    images : ndarray, (N, H, W), HU
    masks : ndarray, (N, H, W) bool
        None of them empty.
    columns : int
        Half as many on a narrow screen.
    window_hu, level_hu : float
    narrow : bool
        Whether it is drawn for a narrow screen.
    """
    columns = max(columns // 2, 1) if narrow else columns
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
        width = page_width(narrow)
        figure = PageFigure(figsize=(width, width * sheet.shape[0] / sheet.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(sheet, interpolation="antialiased")
        axes.set_axis_off()
    return figure


def _rows_of_images(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str], *, narrow: bool
) -> PageFigure:
    """Small grey images in [0, 1], a name beside each row and a title above each column."""
    columns = len(titles)
    height, width = rows[0][1][0].shape
    with style():
        figure, panels = new_figure(
            len(rows) * page_width(narrow) / columns * height / width + 0.3,
            rows=len(rows),
            columns=columns,
            narrow=narrow,
        )
        for line, (name, images) in zip(panels, rows, strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(image, cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                axes.grid(False)
            line[0].set_ylabel(name, fontsize=8 if narrow else 9)
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, fontsize=9, loc="left")
    return figure


@in_two_widths
def reconstructions(examples: Mapping[str, np.ndarray], *, narrow: bool = False) -> PageFigure:
    """What goes into the autoencoder above what comes out of it.

    Parameters
    ----------
    examples : mapping
        `input` and `output`, (N, H, W), on the grey scale of the window.
    narrow : bool
        Whether it is drawn for a narrow screen.
    """
    rows = [(name, list(examples[name])) for name in ("input", "output")]
    return _rows_of_images(rows, [f"slice {k + 1}" for k in range(len(examples["input"]))], narrow=narrow)


@in_two_widths
def puzzles(examples: Mapping[str, np.ndarray], *, gap: int = 2, narrow: bool = False) -> PageFigure:
    """Jigsaw puzzles as the network gets them, as it lays them, and as they should lie.

    Parameters
    ----------
    examples : mapping
        `tiles` (N, 9, h, w) as they lie in the puzzle; `guess` and `permutation` (N, 9), the place in the slice that
        the network names for each, and the true one.
    gap : int
        Pixels between tiles.
    narrow : bool
        Whether it is drawn for a narrow screen.
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
        rows.append((f"{number + 1}: {verdict}", sheets))
    figure = _rows_of_images(rows, ["given", "network's answer", "right answer"], narrow=narrow)
    figure.said = f"Puzzle {'; '.join(name for name, _ in rows)}."
    return figure


@in_two_widths
def image_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]], *, narrow: bool = False) -> PageFigure:
    """Rows of grey images in [0, 1], all of one shape and as many in each row, with a name beside each row."""
    return _rows_of_images(rows, [""] * len(rows[0][1]), narrow=narrow)


@in_two_widths
def bone_removal(
    hu: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float],
    *,
    window_hu: float = 400,
    level_hu: float = 50,
    narrow: bool = False,
) -> PageFigure:
    """What bone removal takes out of a muscle mask: the whole muscle, and enlarged where it takes most.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
        Not empty.
    spacing : (float, float)
        Row and column spacing, mm.
    window_hu, level_hu : float
    narrow : bool
        Whether it is drawn for a narrow screen.
    """
    kept = remove_bone(mask, hu, spacing)
    dense = mask & ~remove_bone(mask, hu, spacing, margin_mm=0.0)
    margin = mask & ~kept & ~dense
    layers = {
        "kept": (kept, OUTLINE_COLOURS[1], 0.35),
        "denser than 175 HU": (dense, OUTLINE_COLOURS[5], 0.9),
        "within 2 mm of bone": (margin, OUTLINE_COLOURS[3], 0.8),
    }
    whole = _box_around([mask], 12)
    removed = ndimage.uniform_filter((dense | margin).astype(float), 15)
    row, column = np.unravel_index(removed.argmax() if removed.any() else mask.argmax(), mask.shape)
    half = [round(22 / side) for side in spacing]
    near = tuple(slice(max(at - reach, 0), at + reach) for at, reach in zip((row, column), half, strict=True))
    with style():
        if narrow:
            figure, panels = new_figure(7.0, rows=2, narrow=True, height_ratios=[1, 1.3])
        else:
            figure, panels = new_figure(3.5, columns=2, width_ratios=[1.5, 1])
        figure.said = f"{(dense | margin).sum()} of {mask.sum()} pixels are removed."
        for axes, box, title in zip(panels.ravel(), (whole, near), ("the mask", "where most is removed"), strict=True):
            _show_slice(axes, hu[box], spacing, window_hu, level_hu)
            for layer, colour, alpha in layers.values():
                shade = np.zeros((*layer[box].shape, 4))
                shade[layer[box]] = matplotlib.colors.to_rgba(colour, alpha)
                axes.imshow(shade, aspect=spacing[0] / spacing[1], interpolation="nearest")
            axes.set_title(title, fontsize=9, loc="left")
        handles = [Patch(facecolor=colour, label=name) for name, (_, colour, _) in layers.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=1 if narrow else 3, fontsize=9)
    return figure


@in_two_widths
def error_maps(maps: Mapping[str, ErrorMap], *, narrow: bool = False) -> PageFigure:
    """Where on the slice outlines err: how often muscle is missed, and how often something else is taken for it.

    Parameters
    ----------
    maps : mapping of str to ErrorMap
        By whose outlines they are.
    narrow : bool
        Whether it is drawn for a narrow screen.

    Returns
    -------
    PageFigure
        One column an entry, one row a kind of error; the grey slice is the mean of the aligned test images.
    """
    rows = {"missed": "muscle, missed", "added": "not muscle, taken in"}
    most = max((getattr(one, kind).max() for one in maps.values() for kind in rows), default=0) or 1.0
    heat = matplotlib.colormaps["inferno"]
    with style():
        height, width = next(iter(maps.values())).hu.shape
        figure, panels = new_figure(
            2 * page_width(narrow) / len(maps) * height / width + 1.2, rows=2, columns=len(maps), narrow=narrow
        )
        for line, (kind, name) in zip(panels, rows.items(), strict=True):
            for axes, (title, one) in zip(line, maps.items(), strict=True):
                share = getattr(one, kind)
                axes.imshow(one.hu, cmap="gray", vmin=-150, vmax=250)
                shade = heat(share / most)
                # Rare errors let the slice shine through.
                shade[..., 3] = np.clip(share / most * 4, 0, 0.95)
                axes.imshow(shade)
                axes.contour(one.muscle, [0.5], colors=["#ffffff"], linewidths=0.6)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if kind == "missed":
                    axes.set_title(f"{title}\n{one.outlines} outlines", fontsize=9, loc="left")
            line[0].set_ylabel(name, fontsize=9)
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 100 * most), heat)
        bar = figure.colorbar(scale, ax=panels, location="bottom", shrink=0.9 if narrow else 0.5, aspect=40)
        bar.set_label("share of outlines that err there (%)", fontsize=9)
        bar.outline.set_visible(False)
    return figure


@dataclass(frozen=True)
class Panel:
    """A slice of a small picture.

    Attributes
    ----------
    hu : ndarray, (H, W)
    stretch : float
        Height of a pixel over its width.
    masks : mapping of str to ndarray, (H, W) bool
        `expert` and `prediction` are drawn boldly, others, the observers', finely in white.
    """

    hu: np.ndarray
    stretch: float = 1.0
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


def _frame(panel: Panel, aspect: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a panel in pixels, so that it fills a cell: around its masks, or all that fits."""
    height, width = panel.hu.shape
    if panel.masks:
        rows, columns = _box_around(list(panel.masks.values()), 0)
        middle = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
        across = 1.12 * max(columns.stop - columns.start, (rows.stop - rows.start) * panel.stretch * aspect)
    else:
        middle = (height - 1) / 2, (width - 1) / 2
        across = min(width, height * panel.stretch * aspect)
    down = across / aspect / panel.stretch
    return middle[1] - across / 2, middle[1] + across / 2, middle[0] + down / 2, middle[0] - down / 2


def picture(panels: Sequence[Panel], *, size: tuple[float, float] = (3.2, 2.4)) -> Figure:
    """One slice or a few, edge to edge on black: a picture that needs no axes and no legend.

    Parameters
    ----------
    panels : sequence of Panel
        Masks are not empty.
    size : (float, float)
        Width and height in inches; panels are cropped to fill it.
    """
    columns = int(np.ceil(np.sqrt(len(panels))))
    rows = -(-len(panels) // columns)
    gap = 0.02 if len(panels) > 1 else 0.0
    with style():
        figure = Figure(figsize=size, facecolor="#000000")
        cells = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=gap, hspace=gap)
        for axes in cells.ravel():
            axes.set_axis_off()
        for axes, panel in zip(cells.ravel(), panels, strict=False):
            axes.imshow(panel.hu, cmap="gray", vmin=-150, vmax=250, aspect="auto")
            for name, mask in panel.masks.items():
                colour, width = PICTURE_LINES.get(name, ("#ffffff", 0.6))
                bold = name in PICTURE_LINES
                _outline(axes, mask, colors=[colour], linewidths=width, zorder=3 if bold else 2)
            axes.axis(_frame(panel, size[0] * rows / (size[1] * columns)))
    return figure
