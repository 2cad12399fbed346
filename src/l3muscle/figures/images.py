"""Slices, outlines and small images."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage

from l3muscle.figures.look import OUTLINE_COLOURS, PAGE_WIDTH_IN, TASK_STYLE, VERMILION, new_figure, style
from l3muscle.metrics import boundary, remove_bone
from l3muscle.predictions import ErrorMap


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
        A name keeps its colour throughout the figure; the first name's line is bolder.
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
        figure, panels = new_figure(rows * PAGE_WIDTH_IN / columns * 0.74 + 0.35, rows=rows, columns=columns)
        for axes in panels.ravel()[len(slices) :]:
            axes.set_visible(False)
        for axes, (title, hu, spacing, masks) in zip(panels.ravel(), slices, strict=False):
            box = _box_around(list(masks.values()), 28)
            _show_slice(axes, hu[box], spacing, window_hu, level_hu)
            for name, mask in masks.items():
                width = 1.5 if name == names[0] else 0.9
                axes.contour(mask[box].astype(float), [0.5], colors=[colours[name]], linewidths=width)
            axes.set_title(title, fontsize=9, loc="left")
        handles = [matplotlib.lines.Line2D([], [], color=colours[name], lw=2, label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 6), fontsize=9)
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


def _rows_of_images(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str]) -> Figure:
    """Small grey images in [0, 1], a name beside each row and a title above each column."""
    columns = len(titles)
    height, width = rows[0][1][0].shape
    with style():
        figure, panels = new_figure(
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


def bone_removal(
    hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], *, window_hu: float = 400, level_hu: float = 50
) -> Figure:
    """What bone removal takes out of a muscle mask: the whole muscle, and enlarged where it takes most.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
        Not empty.
    spacing : (float, float)
        Row and column spacing, mm.
    window_hu, level_hu : float
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
        figure, [panels] = new_figure(3.5, columns=2, width_ratios=[1.5, 1])
        for axes, box, title in zip(panels, (whole, near), ("the mask", "where most is removed"), strict=True):
            _show_slice(axes, hu[box], spacing, window_hu, level_hu)
            for layer, colour, alpha in layers.values():
                shade = np.zeros((*layer[box].shape, 4))
                shade[layer[box]] = matplotlib.colors.to_rgba(colour, alpha)
                axes.imshow(shade, aspect=spacing[0] / spacing[1], interpolation="nearest")
            axes.set_title(title, fontsize=9, loc="left")
        handles = [Patch(facecolor=colour, label=name) for name, (_, colour, _) in layers.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def error_maps(maps: Mapping[str, ErrorMap]) -> Figure:
    """Where on the slice outlines err: how often muscle is missed, and how often something else is taken for it.

    Parameters
    ----------
    maps : mapping of str to ErrorMap
        By whose outlines they are.

    Returns
    -------
    Figure
        One column an entry, one row a kind of error; the grey slice is the mean of the aligned test images.
    """
    rows = {"missed": "muscle, missed", "added": "not muscle, taken in"}
    most = max((getattr(one, kind).max() for one in maps.values() for kind in rows), default=0) or 1.0
    heat = matplotlib.colormaps["inferno"]
    with style():
        height, width = next(iter(maps.values())).hu.shape
        figure, panels = new_figure(2 * PAGE_WIDTH_IN / len(maps) * height / width + 1.2, rows=2, columns=len(maps))
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
        bar = figure.colorbar(scale, ax=panels, location="bottom", shrink=0.5, aspect=40)
        bar.set_label("share of outlines that err there (%)", fontsize=9)
        bar.outline.set_visible(False)
    return figure
