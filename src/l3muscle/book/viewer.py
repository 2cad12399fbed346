"""The slice viewer of the book: every test slice with its masks, as files that a page reads without a kernel.

A page opened from a folder may load scripts but no other data, so each file is a script that hands over one object. A
slice's grey values travel as an 8-bit PNG, masks as 1-bit PNGs, all cropped to the body. A page fetches the predictions
of one slice and one source task at a time.
"""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from l3muscle.book.run_header import names_of, source_labels
from l3muscle.metrics import muscle_area, muscle_density, remove_bone
from l3muscle.study import Experiment, StudyResults

LOWEST_HU, HU_A_STEP = -350, 3  # grey value 0, and what one grey value is worth: up to 415 HU
BODY_HU = -250
MARGIN_PX = 6
FIRST_VIEW = {"task": "segmentation", "n": 10}  # the paper's answer


def body_box(hu: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest body in a slice, with a small margin; the whole slice where there is none.

    Parameters
    ----------
    hu : ndarray, (H, W)
    """
    labels, count = ndimage.label(ndimage.binary_opening(hu > BODY_HU, iterations=2))
    if count == 0:
        return slice(0, hu.shape[0]), slice(0, hu.shape[1])
    box = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
    rows, columns = (
        slice(max(side.start - MARGIN_PX, 0), min(side.stop + MARGIN_PX, length))
        for side, length in zip(box, hu.shape, strict=True)
    )
    return rows, columns


def png(image: np.ndarray) -> str:
    """An image as PNG in base64: HU in 8 bits, `LOWEST_HU + HU_A_STEP` times the grey value; a mask in 1 bit.

    Parameters
    ----------
    image : ndarray, (H, W), HU or bool
    """
    if image.dtype != bool:
        image = np.clip(np.rint((image - LOWEST_HU) / HU_A_STEP), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def _rounded(values: dict[str, float], digits: dict[str, int]) -> dict[str, float | None]:
    return {name: None if np.isnan(values[name]) else round(float(values[name]), d) for name, d in digits.items()}


DIGITS = {"dice": 4, "rms_dta_cm": 3, "sma_cm2": 2, "smd_hu": 2}


def _model_name(experiment: Any) -> str:
    return f"{experiment.fold}.{experiment.subset}.{experiment.repeat}"


def _configurations(scores: pd.DataFrame, names: dict[str, str]) -> dict[str, Any]:
    """The models of each configuration, and the prediction of best, median and worst Dice over models and images."""
    configurations = {}
    for (task, n_train), own in scores.groupby(["source_task", "n_train"], sort=False):
        ordered = list(own.sort_values(["dice", "patient_id"], ascending=False).itertuples())
        ranked = {"best": ordered[0], "median": ordered[len(ordered) // 2], "worst": ordered[-1]}
        configurations[f"{task}|{n_train}"] = {
            "models": sorted({_model_name(row) for row in ordered}),
            **{rank: [names[row.patient_id], _model_name(row)] for rank, row in ranked.items()},
        }
    return configurations


def _write(path: Path, function: str, *values: Any) -> None:
    arguments = ",".join(json.dumps(value, separators=(",", ":"), ensure_ascii=False) for value in values)
    path.write_text(f"l3viewer.{function}({arguments});\n", encoding="utf-8")


def _write_predictions(
    results: StudyResults, scores: pd.DataFrame, folder: Path, boxes: list[tuple[slice, slice]]
) -> None:
    """Write `slice-<number>-<source task>.js`: mask and measures of every model's prediction for one image."""
    test_ids = results.splits().test_ids
    columns = [*Experiment.__dataclass_fields__, "patient_id"]
    measures = scores.set_index(columns)[list(DIGITS)].to_dict("index")
    for task in results.profile.grid.source_tasks:
        images: list[dict[str, Any]] = [{} for _ in boxes]
        for experiment in (one for one in results.records if one.source_task == task):
            key = f"{experiment.n_train}|{_model_name(experiment)}"
            for image, patient, box, mask in zip(images, test_ids, boxes, results.predictions(experiment), strict=True):
                values = measures[(*vars(experiment).values(), patient)]
                image[key] = _rounded(values, DIGITS) | {"mask": png(mask[box])}
        for k, image in enumerate(images):
            if image:
                _write(folder / f"slice-{k}-{task}.js", "predictions", k, task, image)


def write_viewer(results: StudyResults, folder: Path) -> Path:
    """Write what the viewer shows of a run; patients of a cohort of one's own have pseudonyms.

    Parameters
    ----------
    results : StudyResults
    folder : Path
        Replaced if it exists.

    Returns
    -------
    Path
        The folder: `index.js` with what there is to choose, `slice-<number>.js` for each test image with its expert
        and observers, and `slice-<number>-<source task>.js` with every model's prediction.

    Raises
    ------
    StudyError
        If no model is finished yet.
    """
    scores, cohort, names, settings = results.scores(), results.cohort(), names_of(results), results.profile.image
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images, boxes = [], []
    for number, patient in enumerate(results.splits().test_ids):
        k = cohort.index(patient)
        hu, expert, spacing = cohort.images[k], cohort.masks[k], tuple(float(side) for side in cohort.spacing[k])
        box = body_box(hu)
        own = {"sma_cm2": muscle_area(expert, spacing), "smd_hu": muscle_density(remove_bone(expert, hu, spacing), hu)}
        content = {
            "png": png(hu[box]),
            "expert": {**_rounded(own, {"sma_cm2": 2, "smd_hu": 2}), "mask": png(expert[box])},
            "observers": [png(mask[box]) for mask in cohort.observers.get(patient, {}).values()],
        }
        _write(folder / f"slice-{number}.js", "slice", number, content)
        boxes.append(box)
        images.append({"id": names[patient], "size": hu[box].shape[::-1], "spacing": spacing[::-1]})
    _write_predictions(results, scores, folder, boxes)
    index = {
        "window": settings.window_hu,
        "level": settings.level_hu,
        "grey": [LOWEST_HU, HU_A_STEP],
        "tasks": {task: label for task, label in source_labels(results).items() if task in set(scores["source_task"])},
        "sizes": [int(n) for n in sorted(scores["n_train"].unique())],
        "first": FIRST_VIEW,
        "images": images,
        "configurations": _configurations(scores, names),
    }
    _write(folder / "index.js", "index", index)
    return folder


def view_address(source_task: str, n_train: int) -> str:
    """Address of the viewer's view of a configuration, from another chapter."""
    return f"viewer.html#task={source_task}&n={n_train}"


# What the chapter shows; `viewer.js` fills it.
VIEWER_HTML = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
