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
from skimage.draw import polygon2mask

from l3muscle.book import viewer
from l3muscle.study import StudyResults


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory) -> tuple[StudyResults, Path]:
    results = StudyResults(finished.store.root)
    return results, viewer.write_viewer(results, tmp_path_factory.mktemp("viewer") / "files")


def arguments(path: Path) -> list[Any]:
    [text] = re.fullmatch(r"l3viewer\.\w+\((.*)\);\n", path.read_text(encoding="utf-8"), re.DOTALL).groups()
    return json.loads(f"[{text}]")


def filled(polygons: list[list[Any]], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside an odd number of the polygons."""
    mask = np.zeros(shape, bool)
    for corners in viewer.unpack_outline(polygons):
        mask ^= polygon2mask(shape, corners)
    return mask


def test_an_outline_comes_back_to_its_mask() -> None:
    rows, columns = np.mgrid[:60, :80]
    mask = (np.hypot(rows - 30, columns - 40) < 22) & (np.hypot(rows - 30, columns - 45) > 7)
    mask[0:4, 0:6] = True  # at the border
    mask[50, 70] = True  # one pixel
    assert np.array_equal(filled(viewer.pack_outline(mask), mask.shape), mask)
    part = viewer.pack_outline(mask[5:, 3:])
    assert viewer.pack_outline(np.pad(mask[5:, 3:], ((5, 0), (3, 0))), (5, 3)) == part
    assert viewer.pack_outline(np.zeros_like(mask)) == []


def test_long_sides_and_pixels_that_touch_at_a_corner_come_back_too() -> None:
    mask = np.zeros((90, 70), bool)
    mask[10:80, 5:60] = True  # sides of more steps than one character tells
    mask[2, 2] = mask[3, 3] = True
    packed = viewer.pack_outline(mask)
    assert len(packed) == 3
    assert np.array_equal(filled(packed, mask.shape), mask)
    assert not set("".join(steps for _, _, steps in packed)) & set('"\\')


def test_grey_values_come_back_to_half_a_step() -> None:
    hu = np.linspace(-1000, 1000, 300).reshape(10, 30)
    grey = np.asarray(Image.open(io.BytesIO(viewer.grey_png(hu)))).astype(float)
    back = viewer.LOWEST_HU + viewer.HU_A_STEP * grey
    inside = (hu >= -350) & (hu <= 415)
    assert np.abs(back - hu)[inside].max() <= viewer.HU_A_STEP / 2
    assert set(grey[hu < -352]) == {0} and set(grey[hu > 417]) == {255}


def test_the_body_is_what_is_left_of_a_slice() -> None:
    hu = np.full((100, 120), -1000)
    hu[30:70, 40:90] = 40
    hu[90:92] = 40  # couch
    assert viewer.body_box(hu) == (slice(24, 76), slice(34, 96))
    assert viewer.body_box(np.full((10, 12), -1000)) == (slice(0, 10), slice(0, 12))


def test_every_cell_has_its_extremes(written) -> None:
    results, folder = written
    [index] = arguments(folder / "index.js")
    scores = results.scores()
    assert [image["id"] for image in index["images"]] == list(results.splits().test_ids)
    assert set(index["cells"]) == {f"{task}|{n}" for task in ("random", "segmentation") for n in (2, 4)}
    for key, cell in index["cells"].items():
        task, n = key.split("|")
        own = scores[(scores.source_task == task) & (scores.n_train == int(n))]
        for rank, value in (("best", own.dice.max()), ("worst", own.dice.min())):
            patient, model = cell[rank]
            place = [image["id"] for image in index["images"]].index(patient)
            _, _, predictions = arguments(folder / f"slice-{place}-{task}.js")
            assert predictions[f"{n}|{model}"]["dice"] == pytest.approx(value, abs=1e-4)


def test_every_prediction_is_there_with_the_measures_of_the_run(written) -> None:
    results, folder = written
    [index] = arguments(folder / "index.js")
    cohort, boxes = results.cohort(), {}
    for number, patient in enumerate(results.splits().test_ids):
        _, content = arguments(folder / f"slice-{number}.js")
        width, height = index["images"][number]["size"]
        picture = Image.open(io.BytesIO(base64.b64decode(content["png"])))
        assert picture.size == (width, height)
        expert = cohort.masks[cohort.index(patient)]
        boxes[number] = viewer.body_box(cohort.images[cohort.index(patient)])
        assert np.array_equal(filled(content["expert"]["outline"], (height, width)), expert[boxes[number]])
        assert len(content["observers"]) == len(cohort.observers[patient])
    scores = results.scores()
    for experiment in results.records:
        masks, model = results.predictions(experiment), f"{experiment.fold}.{experiment.subset}.{experiment.repeat}"
        cell = f"{experiment.source_task}|{experiment.n_train}"
        assert model in index["cells"][cell]["models"]
        assert index["files"][f"{cell}|{model}"] == results.keys[experiment]
        own = scores.query(
            "source_task == @experiment.source_task and n_train == @experiment.n_train and fold == @experiment.fold"
        )
        for number, row in enumerate(own.itertuples()):
            place, task, predictions = arguments(folder / f"slice-{number}-{experiment.source_task}.js")
            assert (place, task) == (number, experiment.source_task)
            shown = predictions[f"{experiment.n_train}|{model}"]
            width, height = index["images"][number]["size"]
            assert np.array_equal(filled(shown["outline"], (height, width)), masks[number][boxes[number]])
            assert shown["dice"] == pytest.approx(row.dice, abs=1e-4)
            assert shown["sma"] == pytest.approx(row.sma_cm2, abs=1e-2)


def test_a_link_leads_to_a_view_of_the_viewer() -> None:
    assert viewer.view_link("jigsaw", 10) == (
        '<a class="reference internal" href="viewer.html#task=jigsaw&amp;n=10">outlines</a>'
    )


def test_every_control_has_a_name() -> None:
    html = viewer.VIEWER_HTML
    for name in re.findall(r'<(?:select|input type="range")[^>]* id="([\w-]+)"', html):
        assert f'for="{name}"' in html
