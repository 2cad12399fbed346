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

from l3muscle.book.run_header import names_of, source_labels
from l3muscle.experiment import AXES
from l3muscle.metrics import MEASURES, Reference
from l3muscle.preprocess import body_box
from l3muscle.statistics.score_table import DIFFERENCE_OF, MEASURE_OF, best_median_worst
from l3muscle.study import StudyResults

LOWEST_HU, HU_A_STEP = -350, 3  # grey value 0, and what one grey value is worth: up to 415 HU
MARGIN_PX = 6
FIRST_VIEW = {"task": "segmentation", "n": 10}  # the paper's answer
SHOWN = [column for column in MEASURES if column not in MEASURE_OF]


def around_body(hu: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the body in a slice (H, W), with a small margin; the whole slice where there is none."""
    rows, columns = (
        slice(max(side.start - MARGIN_PX, 0), min(side.stop + MARGIN_PX, length))
        for side, length in zip(body_box(hu), hu.shape, strict=True)
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


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    """Measures, with a digit more than pages show."""
    return {
        name: None if np.isnan(value) else round(float(value), MEASURES[name].digits + 1)
        for name, value in values.items()
    }


def _model_name(experiment: Any) -> str:
    return f"{experiment.fold}.{experiment.subset}.{experiment.repeat}"


def _configurations(scores: pd.DataFrame, names: dict[str, str]) -> dict[str, Any]:
    """The models of each configuration, and the prediction of best, median and worst Dice over models and images."""
    configurations = {}
    for (task, n_train), rows in scores.groupby(["source_task", "n_train"], sort=False):
        ranks = best_median_worst(rows)
        ranked = zip(ranks, rows.loc[list(ranks.values())].itertuples(), strict=True)
        configurations[f"{task}|{n_train}"] = {
            "models": sorted({_model_name(row) for row in rows.itertuples()}),
            **{rank: [names[row.patient_id], _model_name(row)] for rank, row in ranked},
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
    measures = scores.set_index([*AXES, "patient_id"])[SHOWN].to_dict("index")
    for task in results.profile.grid.source_tasks:
        images: list[dict[str, Any]] = [{} for _ in boxes]
        for experiment in (one for one in results.records if one.source_task == task):
            key = f"{experiment.n_train}|{_model_name(experiment)}"
            for image, patient, box, mask in zip(images, test_ids, boxes, results.predictions(experiment), strict=True):
                values = measures[(*vars(experiment).values(), patient)]
                image[key] = _rounded(values) | {"mask": png(mask[box])}
        for k, image in enumerate(images):
            if image:
                _write(folder / f"slice-{k}-{task}.js", "predictions", k, task, image)


def write_viewer(results: StudyResults, folder: Path) -> None:
    """Write what the viewer shows of a run; patients of a cohort of one's own have pseudonyms.

    Parameters
    ----------
    results : StudyResults
    folder : Path
        Replaced if it exists. Gets `index.js` with what there is to choose, `slice-<number>.js` for each test image
        with its expert and observers, and `slice-<number>-<source task>.js` with every model's prediction.

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
        box, reference = around_body(hu), Reference(expert, hu, spacing)
        measured = {column: getattr(reference, column) for column in DIFFERENCE_OF}
        content = {
            "png": png(hu[box]),
            "expert": {**_rounded(measured), "mask": png(expert[box])},
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


def view_address(source_task: str, n_train: int) -> str:
    """Address of the viewer's view of a configuration, from another chapter."""
    return f"viewer.html#task={source_task}&n={n_train}"


def _measure_row(column: str) -> str:
    """A row of the viewer's table: of the prediction, and of the expert where the measure is of a single outline."""
    row, expert = MEASURES[column], f' id="l3-expert-{column}"' if column in DIFFERENCE_OF else ""
    cell = f'<td id="l3-{column}" data-measure="{column}" data-digits="{row.digits}"></td>'
    return f'<tr><th scope="row">{row.label}</th>{cell}<td{expert}></td></tr>'


# What the chapter shows; `viewer.js` fills it.
_TEMPLATE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
VIEWER_HTML = _TEMPLATE.replace("<!-- a row a measure -->", "\n".join(map(_measure_row, SHOWN)))
