"""Slices, outlines and small images."""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path as MplPath
from scipy import ndimage
from torch import Tensor

from l3muscle.figures.style import (
    OTHER_OUTLINES,
    OUTLINE_STYLE,
    VERMILION,
    WIDTH_IN,
    BookFigure,
    new_figure,
    new_grid,
    style,
    without_axes,
)
from l3muscle.metrics import remove_bone

SIMPLER_PX = 0.4  # how far a drawn outline may lie beside the mask's
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # once the colours are spent


def _box_around(masks: Sequence[np.ndarray], margin: int) -> tuple[slice, slice]:
    """Rows and columns around all masks; the whole slice where there are none or they are empty."""
    union = np.logical_or.reduce(masks)
    if not np.any(union):
        return slice(None), slice(None)
    rows, columns = ndimage.find_objects(union.astype(int))[0]
    return (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(columns.start - margin, 0), columns.stop + margin),
    )


def _grey(window: tuple[float, float]) -> dict[str, Any]:
    """How `imshow` shows Hounsfield units through a window of this width and level."""
    width, level = window
    return {"cmap": "gray", "vmin": level - width / 2, "vmax": level + width / 2}


def _show_slice(axes: Axes, hu: np.ndarray, spacing: Sequence[float], window: tuple[float, float]) -> None:
    axes.imshow(hu, aspect=spacing[0] / spacing[1], **_grey(window))
    axes.set_axis_off()


def _outline(axes: Axes, mask: np.ndarray, **look: Any) -> None:
    """A mask's outline, with no more points than it needs: one at every pixel would make a page of megabytes."""
    if not mask.any():
        return
    drawn = axes.contour(np.pad(mask, 1).astype(float), [0.5], origin=None, **look)
    simple = []
    for path in drawn.get_paths():
        path = MplPath(path.vertices - 1, path.codes)
        path.simplify_threshold = SIMPLER_PX
        path = path.cleaned(simplify=True)
        # It ends with a mark that a path which is drawn must not have.
        simple.append(MplPath(path.vertices[:-1], path.codes[:-1]))
    drawn.set_paths(simple)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, width and dashes of outlines: the expert's and a prediction's are the same in every figure."""
    looks, others = {}, cycle(product(DASHES, OTHER_OUTLINES))
    for name in names:
        if name in OUTLINE_STYLE:
            dashes, (colour, width) = "-", OUTLINE_STYLE[name]
        else:
            (dashes, colour), width = next(others), 0.9
        looks[name] = {"colors": [colour], "linewidths": width, "linestyles": [dashes]}
    return looks


def outlines(
    slices: Sequence[tuple[str, np.ndarray, Sequence[float], Mapping[str, np.ndarray]]],
    *,
    columns: int = 3,
    window: tuple[float, float],
) -> BookFigure:
    """Slices with outlines of one or more masks (Figure 2).

    Parameters
    ----------
    slices : sequence of (title, hu (H, W), spacing in mm, masks by name)
        `expert` and `prediction` have their own colours, the same in every figure; any other name, an observer's,
        keeps its line throughout this one.
    columns : int
    window : (float, float)
        Width and level, HU.
    """
    looks = _looks(list(dict.fromkeys(name for *_, masks in slices for name in masks)))
    lines = max(title.count("\n") for title, *_ in slices)
    height = WIDTH_IN / min(columns, len(slices)) * 0.74 + 0.2 + 0.16 * lines
    with style():
        figure, panels = new_grid(len(slices), columns, height, more=0.35)
        for axes, (title, hu, spacing, masks) in zip(panels, slices, strict=True):
            box = _box_around(list(masks.values()), 28)
            _show_slice(axes, hu[box], spacing, window)
            for name, mask in masks.items():
                _outline(axes, mask[box], **looks[name])
            axes.set_title(title, fontsize=9)
        handles = [
            Line2D([], [], color=look["colors"][0], ls=look["linestyles"][0], lw=2, label=name)
            for name, look in looks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(looks), 4))
    return figure


def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[Mapping[str, np.ndarray]],
    *,
    window: tuple[float, float],
    columns: int = 4,
    width: float = WIDTH_IN,
) -> BookFigure:
    """Slices edge to edge, each cropped to its muscle and what lies around it.

    Parameters
    ----------
    images : sequence of ndarray, (H, W), HU
    masks : sequence of mapping of str to ndarray, (H, W) bool
        By whose they are; `expert` and `prediction` have their own colours. An image without masks is shown whole.
    window : (float, float)
        Width and level, HU.
    columns : int
    width : float
        Of the figure, inches.
    """
    rows = -(-len(images) // columns)
    with style():
        figure = BookFigure(figsize=(width, 0.75 * width / columns * rows), facecolor="#000000")
        panels = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.01, hspace=0.01)
        for axes in panels.ravel():
            axes.set_axis_off()
        for axes, hu, drawn in zip(panels.ravel(), images, masks, strict=False):
            box = _box_around(list(drawn.values()), round(0.06 * max(hu.shape)))
            axes.imshow(hu[box], **_grey(window))
            for name, look in _looks(list(drawn)).items():
                _outline(axes, drawn[name][box], **look | {"linewidths": 0.5 * look["linewidths"] * width / columns})
    return figure


def image_grid(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str] = ()) -> BookFigure:
    """Rows of grey images in [0, 1], all of one shape, with a name beside each row and a title above each column."""
    first = next(iter(rows.values()))
    height, width = first[0].shape
    with style():
        figure, panels = new_figure(
            len(rows) * WIDTH_IN / len(first) * height / width + 0.3, rows=len(rows), columns=len(first)
        )
        for line, (name, images) in zip(panels, rows.items(), strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(image, cmap="gray", vmin=0, vmax=1)
                without_axes(axes)
            line[0].set_ylabel(name, fontsize=9)
        for axes, title in zip(panels[0], titles, strict=False):
            axes.set_title(title, fontsize=9)
    return figure


def training_batch(inputs: Tensor, target: Tensor, count: int = 4) -> BookFigure:
    """What a source task's network is given, and what it has to answer.

    Parameters
    ----------
    inputs : Tensor, (N, 3, rows, columns), or (N, 9, 3, rows, columns) of tiles
    target : Tensor
        Images (N, 3, rows, columns), labels of pixels (N, rows, columns), or classes (N,).
    count : int
        Of images shown.
    """
    inputs, target = inputs[:count].cpu(), target[:count].cpu()
    if inputs.ndim == 5:  # nine tiles as they lie
        inputs = inputs.unflatten(1, (3, 3)).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    if target.ndim == 1:
        return image_grid({"input": _stretched(inputs[:, 0])}, [f"class {label}" for label in target.tolist()])
    answers = target[:, 0] if target.ndim == 4 else target
    return image_grid({"input": _stretched(inputs[:, 0]), "target": _stretched(answers)})


def _stretched(images: Tensor) -> Tensor:
    """Images with their least value at 0 and their greatest at 1."""
    return (images - images.min()) / (images.max() - images.min())


def puzzles(examples: Mapping[str, np.ndarray], *, gap: int = 2) -> BookFigure:
    """Jigsaw puzzles as the network gets them, as it orders their tiles, and as they should lie.

    Parameters
    ----------
    examples : mapping
        `tiles` (N, 9, h, w) as they lie in the puzzle; `guess` and `permutation` (N, 9), the position in the slice that
        the network names for each, and the true one.
    gap : int
        Pixels between tiles.
    """

    def ordered(tiles: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        height, width = tiles.shape[1:]
        sheet = np.ones((3 * height + 2 * gap, 3 * width + 2 * gap))
        for tile, position in zip(tiles, positions, strict=True):
            row, column = divmod(int(position), 3)
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = tile
        return sheet

    rows = {}
    parts = zip(examples["tiles"], examples["guess"], examples["permutation"], strict=True)
    for number, (tiles, guess, truth) in enumerate(parts, start=1):
        verdict = "solved" if np.array_equal(guess, truth) else "not solved"
        rows[f"{number}: {verdict}"] = [ordered(tiles, positions) for positions in (range(9), guess, truth)]
    return image_grid(rows, ["given", "network's answer", "right answer"])


def bone_removal(
    hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], *, window: tuple[float, float]
) -> BookFigure:
    """What bone removal takes out of a muscle mask: the whole muscle, and enlarged where it takes most.

    Parameters
    ----------
    hu : ndarray, (H, W)
    mask : ndarray, (H, W) bool
        Not empty.
    spacing : (float, float)
        Row and column spacing, mm.
    window : (float, float)
        Width and level, HU.
    """
    kept = remove_bone(mask, hu, spacing)
    dense = mask & ~remove_bone(mask, hu, spacing, margin_mm=0.0)
    layers = {
        "kept": (kept, OUTLINE_STYLE["prediction"][0], 0.35),
        "denser than 175 HU": (dense, VERMILION, 0.9),
        "within 2 mm of bone": (mask & ~kept & ~dense, "#f0e442", 0.8),
    }
    removed = ndimage.uniform_filter((mask & ~kept).astype(float), 15)
    centre = np.unravel_index(removed.argmax() if removed.any() else mask.argmax(), mask.shape)
    half = [round(22 / side) for side in spacing]
    near = tuple(slice(max(at - reach, 0), at + reach) for at, reach in zip(centre, half, strict=True))
    boxes = {"the mask": _box_around([mask], 12), "where most is removed": near}
    with style():
        figure, [panels] = new_figure(3.2, columns=2, width_ratios=[1.5, 1])
        for axes, (title, box) in zip(panels, boxes.items(), strict=True):
            _show_slice(axes, hu[box], spacing, window)
            for layer, colour, alpha in layers.values():
                shade = np.zeros((*layer[box].shape, 4))
                shade[layer[box]] = matplotlib.colors.to_rgba(colour, alpha)
                axes.imshow(shade, aspect=spacing[0] / spacing[1], interpolation="nearest")
            axes.set_title(title, fontsize=9)
        handles = [Patch(facecolor=colour, label=name) for name, (_, colour, _) in layers.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def error_maps(maps: Mapping[str, Any], *, window: tuple[float, float]) -> BookFigure:
    """Where on the slice outlines err: how often muscle is missed, and how often something else is taken for it.

    Parameters
    ----------
    maps : mapping of str to `l3muscle.book.error_maps.ErrorMap`
        By whose outlines they are.
    window : (float, float)
        Width and level, HU.

    Returns
    -------
    BookFigure
        One column an entry, one row a kind of error; the grey slice is the mean of the aligned test images.
    """
    rows = {"missed": "muscle, missed", "added": "not muscle, included"}
    most = max((getattr(one, kind).max() for one in maps.values() for kind in rows), default=0) or 1.0
    heat = matplotlib.colormaps["inferno"]
    height, width = next(iter(maps.values())).hu.shape
    with style():
        figure, panels = new_figure(2 * WIDTH_IN / len(maps) * height / width + 1.2, rows=2, columns=len(maps))
        for line, (kind, name) in zip(panels, rows.items(), strict=True):
            for axes, (title, one) in zip(line, maps.items(), strict=True):
                share = getattr(one, kind) / most
                axes.imshow(one.hu, **_grey(window))
                shade = heat(share)
                # Rare errors let the slice shine through.
                shade[..., 3] = np.clip(4 * share, 0, 0.95)
                axes.imshow(shade)
                axes.contour(one.muscle, [0.5], colors=["#ffffff"], linewidths=0.6)
                without_axes(axes)
                if kind == "missed":
                    axes.set_title(f"{title}\n{one.outlines} outlines", fontsize=9)
            line[0].set_ylabel(name, fontsize=9)
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 100 * most), heat)
        bar = figure.colorbar(scale, ax=panels, location="bottom", shrink=0.5, aspect=40)
        bar.set_label("share of outlines that err there (%)", fontsize=9)
        bar.outline.set_visible(False)
    return figure
