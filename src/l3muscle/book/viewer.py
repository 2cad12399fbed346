"""The slice viewer of the book: every test slice with its outlines, as files that a page reads without a kernel.

A page opened from a folder may load scripts but no other data, so each file is a script that hands over one object. A
slice's grey values travel as an 8-bit PNG, cropped to the body; outlines as polygons on half pixels, one character for
each step, so that 560 models have room. A page fetches the predictions of one slice and one source task at a time.
"""

import base64
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from contourpy import contour_generator
from PIL import Image
from scipy import ndimage

from l3muscle.book.notebooks import EXECUTED
from l3muscle.book.summary import source_labels
from l3muscle.metrics import Reference
from l3muscle.study import Experiment, StudyResults

LOWEST_HU, HU_A_STEP = -350, 3  # grey value 0, and what one grey value is worth: up to 415 HU
BODY_HU = -250
MARGIN_PX = 6
RANKS = ("best", "median", "worst")


def body_box(hu: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest body in a slice, with a small margin; the whole slice where there is none.

    Parameters
    ----------
    hu : ndarray, (H, W)
    """
    labels, count = ndimage.label(ndimage.binary_opening(hu > BODY_HU, iterations=2))
    if count == 0:
        return slice(0, hu.shape[0]), slice(0, hu.shape[1])
    found = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
    rows, columns = (
        slice(max(side.start - MARGIN_PX, 0), min(side.stop + MARGIN_PX, length))
        for side, length in zip(found, hu.shape, strict=True)
    )
    return rows, columns


def grey_png(hu: np.ndarray) -> bytes:
    """A slice as an 8-bit PNG: `LOWEST_HU + HU_A_STEP` times the grey value gives the Hounsfield units, clipped."""
    grey = np.clip(np.rint((hu - LOWEST_HU) / HU_A_STEP), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return stream.getvalue()


# Steps along an outline: eight directions, in half pixels (row, column), each of 1 to 11 units; a character for each.
_UNITS = np.array([[0, 2], [1, 1], [2, 0], [1, -1], [0, -2], [-1, -1], [-2, 0], [-1, 1]])
_DIRECTION = np.zeros((5, 5), dtype=int)
_DIRECTION[tuple((_UNITS + 2).T)] = np.arange(len(_UNITS))
_LONGEST = 11
_ALPHABET = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\')[: len(_UNITS) * _LONGEST]


def _trace(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a padded mask: (N, 2) places in half pixels, row and column, one a crossing of a pixel's side.

    Pixels that meet at a corner only are not connected.
    """
    lines = contour_generator(z=mask.astype(np.float64)).lines(0.5)  # x and y, closed
    return [np.rint(2 * line[:-1, ::-1]).astype(int) for line in lines]


def pack_outline(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[list[int | str]]:
    """Outline of a mask as polygons.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    origin : (int, int)
        Row and column that count as zero.

    Returns
    -------
    list of list
        For each polygon x and y of its first point, in half pixels (pixel centres lie on even numbers), and the steps
        from point to point as text: the n-th character of the alphabet is a step of n % 11 + 1 units in direction
        n // 11. The polygon closes by itself.
    """
    if not mask.any():
        return []
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    shift = 2 * (np.array([top - 1, left - 1]) - origin)
    polygons = []
    for outline in _trace(part):
        moves = np.diff(outline, axis=0)
        directions = _DIRECTION[moves[:, 0] + 2, moves[:, 1] + 2]
        turns = np.flatnonzero(np.diff(directions)) + 1
        runs = np.diff(np.concatenate([[0], turns, [len(directions)]]))
        steps = []
        for direction, run in zip(directions[np.concatenate([[0], turns])].tolist(), runs.tolist(), strict=True):
            whole, rest = divmod(run, _LONGEST)
            first = direction * _LONGEST
            steps.append(_ALPHABET[first + _LONGEST - 1] * whole + (_ALPHABET[first + rest - 1] if rest else ""))
        row, column = (outline[0] + shift).tolist()
        polygons.append([column, row, "".join(steps)])
    return polygons


def unpack_outline(polygons: Sequence[Sequence[int | str]]) -> list[np.ndarray]:
    """Corners of packed polygons: for each an (N, 2) array of row and column in pixels."""
    corners = []
    for column, row, steps in polygons:
        directions, units = np.divmod([_ALPHABET.index(character) for character in steps], _LONGEST)
        moves = _UNITS[directions] * (units + 1)[:, None]
        corners.append(np.cumsum(np.vstack([[row, column], moves]), axis=0) / 2)
    return corners


def _number(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def _measures(row: Any) -> dict[str, float | None]:
    return {
        "dice": _number(row.dice, 4),
        "rms": _number(row.rms_dta_cm, 3),
        "sma": _number(row.sma_cm2, 2),
        "smd": _number(row.smd_hu, 2),
    }


def _name(experiment: Experiment) -> str:
    return f"{experiment.fold}.{experiment.subset}.{experiment.repeat}"


def _experiment(row: pd.Series) -> Experiment:
    numbers = (int(row[name]) for name in ("n_train", "fold", "subset", "repeat"))
    return Experiment(row["source_task"], *numbers)


def _ranked(cell: pd.DataFrame) -> dict[str, Any]:
    """Best, median and worst prediction of a cell by Dice, over all its models and images."""
    ordered = cell.sort_values(["dice", "patient_id"], ascending=False).reset_index(drop=True)
    places = (0, len(ordered) // 2, len(ordered) - 1)
    return {rank: ordered.loc[place] for rank, place in zip(RANKS, places, strict=True)}


def _cells(scores: pd.DataFrame) -> dict[str, Any]:
    """What the index says of each cell: its models, and where its extremes are."""
    cells = {}
    for (task, n_train), cell in scores.groupby(["source_task", "n_train"], sort=False):
        models = cell.drop_duplicates(["fold", "subset", "repeat"]).sort_values(["fold", "subset", "repeat"])
        entry: dict[str, Any] = {"models": [_name(_experiment(row)) for _, row in models.iterrows()]}
        for rank, row in _ranked(cell).items():
            entry[rank] = [row["patient_id"], _name(_experiment(row))]
        cells[f"{task}|{n_train}"] = entry
    return cells


def _write_predictions(results: StudyResults, folder: Path, corners: Sequence[tuple[int, int]]) -> None:
    """Write `slice-<number>-<source task>.js`: outline and measures of every model's prediction for one image."""
    for task in results.profile.grid.source_tasks:
        images: list[dict[str, Any]] = [{} for _ in corners]
        for experiment in (one for one in results.records if one.source_task == task):
            table = results.store.table("experiments", results.keys[experiment], "scores").itertuples()
            for image, corner, mask, row in zip(images, corners, results.predictions(experiment), table, strict=True):
                image[f"{experiment.n_train}|{_name(experiment)}"] = {
                    **_measures(row),
                    "outline": pack_outline(mask, corner),
                }
        for number, image in enumerate(images):
            if image:
                _write(folder / f"slice-{number}-{task}.js", "predictions", number, task, image)


def _write(path: Path, function: str, *values: Any) -> None:
    arguments = ",".join(json.dumps(value, separators=(",", ":"), ensure_ascii=False) for value in values)
    path.write_text(f"l3viewer.{function}({arguments});\n", encoding="utf-8")


def write_viewer(results: StudyResults, folder: Path | None = None) -> Path:
    """Write what the viewer shows of a run.

    Parameters
    ----------
    results : StudyResults
    folder : Path, optional
        Replaced if it exists. By default `book/executed/viewer`, in the working folder or the one above it.

    Returns
    -------
    Path
        The folder: `index.js` with what there is to choose, `slice-<number>.js` for each test image with its expert
        and observers, and `slice-<number>-<source task>.js` with every model's prediction.

    Raises
    ------
    StudyError
        If no experiment is finished yet.
    """
    if folder is None:
        top = Path() if EXECUTED.parent.is_dir() else Path("..")
        folder = top / EXECUTED / "viewer"
    scores, cohort, settings = results.scores(), results.cohort(), results.profile.image
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images, corners = [], []
    for number, patient in enumerate(results.splits().test_ids):
        place = cohort.index(patient)
        hu, spacing, expert = cohort.images[place], cohort.spacing[place], cohort.masks[place]
        box = body_box(hu)
        corner = (box[0].start, box[1].start)
        reference = Reference(expert, hu, spacing)
        content = {
            "png": base64.b64encode(grey_png(hu[box])).decode(),
            "expert": {
                "sma": _number(reference.sma_cm2, 2),
                "smd": _number(reference.smd_hu, 2),
                "outline": pack_outline(expert, corner),
            },
            "observers": [pack_outline(mask, corner) for mask in cohort.observers.get(patient, {}).values()],
        }
        corners.append(corner)
        _write(folder / f"slice-{number}.js", "slice", number, content)
        height, width = hu[box].shape
        images.append({"id": patient, "size": [width, height], "spacing": [float(spacing[1]), float(spacing[0])]})
    _write_predictions(results, folder, corners)
    index = {
        "profile": results.profile.name,
        "window": settings.window_hu,
        "level": settings.level_hu,
        "grey": [LOWEST_HU, HU_A_STEP],
        "tasks": {task: label for task, label in source_labels(results).items() if task in set(scores["source_task"])},
        "sizes": [int(n) for n in sorted(scores["n_train"].unique())],
        "images": images,
        "cells": _cells(scores),
        "units": _UNITS[:, ::-1].tolist(),
        "longest": _LONGEST,
        "alphabet": _ALPHABET,
        "files": {
            f"{experiment.source_task}|{experiment.n_train}|{_name(experiment)}": key
            for experiment, key in results.keys.items()
        },
    }
    _write(folder / "index.js", "index", index)
    return folder


def view_link(source_task: str, n_train: int, text: str = "outlines") -> str:
    """A link, as HTML, from another chapter to the viewer's view of a cell."""
    view = f"viewer.html#task={source_task}&amp;n={n_train}"
    return f'<a class="reference internal" href="{view}">{text}</a>'


VIEWER_HTML = """\
<div class="l3-viewer" id="l3-viewer">
<noscript>The viewer needs JavaScript, which this browser does not run.</noscript>
<form class="l3-viewer-choices" aria-label="What is shown">
<div><label for="l3-image">Test image</label><select id="l3-image" disabled></select></div>
<div><label for="l3-task">Source task</label><select id="l3-task" disabled></select></div>
<div><label for="l3-n">Training slices n</label><select id="l3-n" disabled></select></div>
<div><label for="l3-model">Model</label><select id="l3-model" disabled></select></div>
<div role="group" aria-label="Image">
<button type="button" id="l3-previous">Previous</button>
<button type="button" id="l3-next">Next</button></div>
<div role="group" aria-label="Extremes of this source task and n, by Dice">
<button type="button" id="l3-best">Best</button>
<button type="button" id="l3-median">Median</button>
<button type="button" id="l3-worst">Worst</button></div>
</form>
<div class="l3-viewer-stage">
<canvas id="l3-canvas" role="img" tabindex="0" aria-label="CT slice" aria-describedby="l3-values l3-keys"></canvas>
<form class="l3-viewer-look" aria-label="How it is shown">
<fieldset><legend>Outlines</legend>
<label class="l3-expert"><input type="checkbox" id="l3-show-expert" checked> expert</label>
<label class="l3-observers"><input type="checkbox" id="l3-show-observers"> observers</label>
<label class="l3-prediction"><input type="checkbox" id="l3-show-prediction" checked> prediction</label>
</fieldset>
<div><label for="l3-window">Window <output id="l3-window-out"></output></label>
<input type="range" id="l3-window" min="20" max="765" step="5"></div>
<div><label for="l3-level">Level <output id="l3-level-out"></output></label>
<input type="range" id="l3-level" min="-350" max="415" step="5"></div>
<div><button type="button" id="l3-reset">Muscle window</button></div>
<table class="l3-values" id="l3-values" aria-live="polite">
<caption>Measures of the shown outline</caption>
<thead><tr><th scope="col">measure</th><th scope="col">prediction</th><th scope="col">expert</th></tr></thead>
<tbody>
<tr><th scope="row">Dice</th><td id="l3-dice"></td><td></td></tr>
<tr><th scope="row">RMS-DTA, cm</th><td id="l3-rms"></td><td></td></tr>
<tr><th scope="row">SMA, cm²</th><td id="l3-sma"></td><td id="l3-sma-expert"></td></tr>
<tr><th scope="row">SMD, HU</th><td id="l3-smd"></td><td id="l3-smd-expert"></td></tr>
</tbody></table>
</form>
</div>
<p class="l3-viewer-about"><span id="l3-about" role="status">Loading …</span>
<a id="l3-link" href="#">Link to this view</a></p>
<p class="l3-viewer-about" id="l3-source"></p>
<p class="l3-viewer-about" id="l3-keys">Keys on the image: ← → other image, ↑ ↓ other n; drag to change window and
level.</p>
</div>
"""
