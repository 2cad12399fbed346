"""The viewer's files hold the masks, grey values and measures of the run."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l3muscle.book import viewer
from l3muscle.study import StudyResults


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory) -> tuple[StudyResults, Path]:
    results, folder = StudyResults(finished.store.root), tmp_path_factory.mktemp("viewer") / "files"
    viewer.write_viewer(results, folder)
    return results, folder


def arguments(path: Path) -> list[Any]:
    [text] = re.fullmatch(r"l3viewer\.\w+\((.*)\);\n", path.read_text(encoding="utf-8"), re.DOTALL).groups()
    return json.loads(f"[{text}]")


def opened(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_grey_values_come_back_to_half_a_step_and_masks_as_they_are():
    hu = np.linspace(-1000, 1000, 300).reshape(10, 30)
    grey = opened(viewer.png(hu)).astype(float)
    back = viewer.LOWEST_HU + viewer.HU_A_STEP * grey
    inside = (hu >= -350) & (hu <= 415)
    assert np.abs(back - hu)[inside].max() <= viewer.HU_A_STEP / 2
    assert set(grey[hu < -352]) == {0} and set(grey[hu > 417]) == {255}
    mask = np.random.default_rng(0).random((37, 53)) > 0.5
    assert np.array_equal(opened(viewer.png(mask)), mask)


def test_the_body_is_what_is_left_of_a_slice():
    hu = np.full((100, 120), -1000)
    hu[30:70, 40:90] = 40
    hu[90:92] = 40  # couch
    assert viewer.around_body(hu) == (slice(24, 76), slice(34, 96))
    assert viewer.around_body(np.full((10, 12), -1000)) == (slice(0, 10), slice(0, 12))


def test_every_configuration_has_its_extremes(written):
    results, folder = written
    [index] = arguments(folder / "index.js")
    scores, ids = results.scores(), [image["id"] for image in index["images"]]
    assert ids == list(results.splits().test_ids)
    assert set(index["configurations"]) == {f"{task}|{n}" for task in ("random", "segmentation") for n in (2, 4)}
    for key, configuration in index["configurations"].items():
        task, n = key.split("|")
        own = scores[(scores.source_task == task) & (scores.n_train == int(n))]
        for rank, value in (("best", own.dice.max()), ("worst", own.dice.min())):
            patient, model = configuration[rank]
            _, _, predictions = arguments(folder / f"slice-{ids.index(patient)}-{task}.js")
            assert predictions[f"{n}|{model}"]["dice"] == pytest.approx(value, abs=1e-4)


def test_every_mask_is_there_with_the_measures_of_the_run(written):
    results, folder = written
    cohort = results.cohort()
    for number, patient in enumerate(results.splits().test_ids):
        _, content = arguments(folder / f"slice-{number}.js")
        k = cohort.index(patient)
        box = viewer.around_body(cohort.images[k])
        assert np.array_equal(opened(content["expert"]["mask"]), cohort.masks[k][box])
        assert len(content["observers"]) == len(cohort.observers[patient])
        for experiment in results.records:
            _, task, predictions = arguments(folder / f"slice-{number}-{experiment.source_task}.js")
            model = f"{experiment.fold}.{experiment.subset}.{experiment.repeat}"
            shown = predictions[f"{experiment.n_train}|{model}"]
            assert task == experiment.source_task
            assert np.array_equal(opened(shown["mask"]), results.predictions(experiment)[number][box])
            row = results.scores_of(experiment).loc[number]
            assert shown["dice"] == pytest.approx(row.dice, abs=1e-4)
            assert shown["sma_cm2"] == pytest.approx(row.sma_cm2, abs=1e-2)


def test_no_file_names_a_patient(finished, tmp_path):
    results = StudyResults(finished.store.root)
    results.plan["phantom"] = False
    viewer.write_viewer(results, tmp_path / "files")
    text = "".join(path.read_text() for path in (tmp_path / "files").iterdir())
    assert '"id":"patient 0' in text and not [name for name in results.cohort().patient_ids if name in text]


def test_every_control_has_a_name():
    for name in re.findall(r'<(?:select|input type="range")[^>]* id="([\w-]+)"', viewer.VIEWER_HTML):
        assert f'for="{name}"' in viewer.VIEWER_HTML
