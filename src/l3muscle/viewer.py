"""The slice viewer of the book: every test slice with its outlines, as files that a page reads without a kernel.

A page opened from a folder may load scripts but no other data, so each file is a script that hands over one object. A
slice's grey values travel as an 8-bit PNG, cropped to the body; outlines as polygons on half pixels.
"""

import base64
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from l3muscle.metrics import Reference
from l3muscle.notebooks import EXECUTED
from l3muscle.study import Experiment, StudyResults
from l3muscle.summary import source_labels

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


def pack_outline(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """Outline of a mask as polygons.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
    origin : (int, int)
        Row and column that count as zero.

    Returns
    -------
    list of list of int
        One list a polygon: x, y of its first corner, then steps dx, dy from corner to corner, in half pixels; pixel
        centres lie on even numbers. The polygon closes by itself.
    """
    polygons = []
    if not mask.any():
        return polygons
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    shift = np.array([top - 1, left - 1])
    for contour in find_contours(part, 0.5):
        steps = np.diff(contour, axis=0)
        turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
        corners = contour[:-1][turns]
        half = np.rint(2 * (corners + shift - origin)).astype(int)[:, ::-1]
        steps = np.diff(half, axis=0, prepend=0)
        polygons.append(steps.ravel().tolist())
    return polygons


def unpack_outline(polygons: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Corners of packed polygons: for each an (N, 2) array of row and column in pixels."""
    return [np.cumsum(np.reshape(polygon, (-1, 2)), axis=0)[:, ::-1] / 2 for polygon in polygons]


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


def _chosen(scores: pd.DataFrame) -> tuple[dict[str, Any], set[tuple[Experiment, str]]]:
    """What the viewer offers of each cell: one model on every image, and the extremes of all of them.

    Returns
    -------
    (dict, set)
        Entries for the index, and the predictions (experiment, patient) that have to be written.
    """
    cells, wanted = {}, set()
    for (task, n_train), cell in scores.groupby(["source_task", "n_train"], sort=False):
        shown = _experiment(cell.sort_values(["fold", "subset", "repeat"]).iloc[0])
        entry: dict[str, Any] = {"model": _name(shown)}
        wanted |= {(shown, patient) for patient in cell["patient_id"].unique()}
        for rank, row in _ranked(cell).items():
            entry[rank] = [row["patient_id"], _name(_experiment(row))]
            wanted.add((_experiment(row), row["patient_id"]))
        cells[f"{task}|{n_train}"] = entry
    return cells, wanted


def _predictions(results: StudyResults, wanted: Iterable[tuple[Experiment, str]]) -> dict[str, dict[str, Any]]:
    """Wanted masks by patient and by `task|n|model`; each experiment's file is read once."""
    place = {patient: k for k, patient in enumerate(results.splits().test_ids)}
    by_experiment: dict[Experiment, list[str]] = {}
    for experiment, patient in wanted:
        by_experiment.setdefault(experiment, []).append(patient)
    masks: dict[str, dict[str, Any]] = {}
    for experiment, patients in sorted(by_experiment.items(), key=lambda item: str(item[0])):
        stack = results.predictions(experiment)
        key = f"{experiment.source_task}|{experiment.n_train}|{_name(experiment)}"
        for patient in sorted(patients):
            masks.setdefault(patient, {})[key] = stack[place[patient]]
    return masks


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
        The folder: `index.js` with what there is to choose, and `slice-<number>.js` for each test image.

    Raises
    ------
    StudyError
        If no experiment is finished yet.
    """
    if folder is None:
        top = Path() if EXECUTED.parent.is_dir() else Path("..")
        folder = top / EXECUTED / "viewer"
    scores, cohort, settings = results.scores(), results.cohort(), results.profile.image
    cells, wanted = _chosen(scores)
    masks = _predictions(results, wanted)
    rows = {
        (row.patient_id, f"{row.source_task}|{row.n_train}|{row.fold}.{row.subset}.{row.repeat}"): _measures(row)
        for row in scores.itertuples()
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = []
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
            "predictions": {
                key: {**rows[patient, key], "outline": pack_outline(mask, corner)}
                for key, mask in masks.get(patient, {}).items()
            },
        }
        _write(folder / f"slice-{number}.js", "slice", number, content)
        height, width = hu[box].shape
        images.append({"id": patient, "size": [width, height], "spacing": [float(spacing[1]), float(spacing[0])]})
    index = {
        "profile": results.profile.name,
        "window": settings.window_hu,
        "level": settings.level_hu,
        "grey": [LOWEST_HU, HU_A_STEP],
        "tasks": {task: label for task, label in source_labels(results).items() if task in set(scores["source_task"])},
        "sizes": [int(n) for n in sorted(scores["n_train"].unique())],
        "images": images,
        "cells": cells,
    }
    _write(folder / "index.js", "index", index)
    return folder


VIEWER_HTML = """\
<div class="l3-viewer" id="l3-viewer">
<noscript>The viewer needs JavaScript, which this browser does not run.</noscript>
<form class="l3-viewer-choices" aria-label="What is shown">
<div><label for="l3-image">Test image</label><select id="l3-image" disabled></select></div>
<div><label for="l3-task">Source task</label><select id="l3-task" disabled></select></div>
<div><label for="l3-n">Training slices n</label><select id="l3-n" disabled></select></div>
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
<p class="l3-viewer-about" id="l3-keys">Keys on the image: ← → other image, ↑ ↓ other n; drag to change window and
level.</p>
</div>
"""
