"""The playground: trains as the study does, stops when told, compares, and leaves a stored study as it was."""

import hashlib
import json
import shutil
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from l3muscle.playground.panel import Panel
from l3muscle.playground.session import Choice, Playground, PlaygroundError, open_playground
from l3muscle.store import StoreError
from l3muscle.study import open_results
from l3muscle.training import TrainingError

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "playground.ipynb"
USUAL = Choice("segmentation", 2, 0, 0, 0, steps=6, learning_rate=0.01, augmentation=1.0)  # the tiny study's own


def train_with(play: Playground):
    """The notebook's own function, as its cell defines it."""
    [cell] = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "def train(" in cell.source]
    names = {"play": play}
    exec(cell.source, names)
    return names["train"]


def curve_of(play: Playground, **changes):
    return train_with(play)(replace(USUAL, **changes), lambda point, network: None).curve


def state(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with the files' hashes."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def play(finished, runs) -> Playground:
    return open_playground("smoke", runs)


@pytest.fixture
def panel(play) -> Panel:
    return Panel(play, train_with(play), USUAL)


def test_a_training_with_the_studys_settings_is_the_studys(play, runs):
    before = state(runs)
    points = curve_of(play)
    results = open_results("smoke", runs)
    same = "source_task == 'segmentation' and n_train == 2"
    # The tiny study validates every third step, the playground every one.
    stored = results.curves().query(f"{same} and fold == 0 and subset == 0 and repeat == 0")
    losses = [point.train_loss for point in points]
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(stored["train_loss"], [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-5)
    np.testing.assert_allclose(stored["validation_loss"], [points[2].validation_loss, points[5].validation_loss], 1e-5)
    weights = play.source_weights("segmentation")
    network_size = play.outcome(USUAL, train_with(play)(USUAL, lambda *_: None).weights, points)
    assert network_size["study_dice"] == pytest.approx(results.scores().query(same)["dice"].mean()) and weights
    assert np.isnan(
        play.outcome(replace(USUAL, n_train=3), {**train_with(play)(USUAL, lambda *_: None).weights}, points)[
            "study_dice"
        ]
    )
    assert state(runs) == before


def test_every_setting_counts(play):
    base = curve_of(play)
    assert curve_of(play) == base
    changes = {
        "source_task": "random",
        "n_train": 3,
        "fold": 1,
        "repeat": 1,
        "learning_rate": 0.02,
        "augmentation": 0.0,
    }
    for name, value in changes.items():
        assert curve_of(play, **{name: value}) != base, name
    assert len(curve_of(play, steps=4)) == 4


def test_augmentation_grows_from_none_through_the_profiles_to_its_bounds(play):
    own = play.study.profile.augmentation
    none, same, most = (
        play.study_with(replace(USUAL, augmentation=strength)).profile.augmentation for strength in (0.0, 1.0, 3.0)
    )
    assert same == own
    assert (none.flip_probability, none.rotation_degrees, none.scale, none.elastic_shift) == (0, 0, 0, 0)
    assert most.flip_probability == own.flip_probability and most.rotation_degrees == 3 * own.rotation_degrees
    assert most.elastic_shift == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": 6}, "n_train = 6: from 1 to 5 can be trained here"),
        ({"fold": 2}, "fold = 2: from 0 to 1 can"),
        ({"subset": 1}, "subset = 1: from 0 to 0 can"),
        ({"steps": 1}, "steps = 1: from 2 to 2000 can"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: from 0.0001 to 1.0 can"),
        ({"augmentation": 9.0}, "augmentation = 9.0: from 0.0 to 3.0 can"),
    ],
)
def test_what_cannot_be_trained_is_refused(play, changes, message):
    with pytest.raises(PlaygroundError, match=message):
        Panel(play, train_with(play), replace(USUAL, **changes))


def test_damaged_source_weights_are_told_and_left_where_they_are(finished, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    for path in (tmp_path / "runs" / "smoke" / "sources").glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = state(tmp_path / "runs")
    with pytest.raises(StoreError, match="does not match its checksum"):
        open_playground("smoke", tmp_path / "runs").source_weights("segmentation")
    assert state(tmp_path / "runs") == before


def test_without_a_study_a_small_phantom_is_drawn_and_nothing_is_left(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "own.yml").write_text(json.dumps({**tiny.model_dump(mode="json"), "name": "own"}))
    play = open_playground(str(tmp_path / "own.yml"), tmp_path / "runs")
    assert "Drawing a small phantom cohort: 14 patients." in capsys.readouterr().out
    assert curve_of(play, source_task="reconstruction") != curve_of(play, source_task="random")
    assert play.source_weights("reconstruction") is play.source_weights("reconstruction")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["own.yml", "temporary"]


def test_the_panel_trains_what_is_chosen_and_compares_its_runs(panel):
    assert 'alt="loss; PHANTOM-' in panel.picture.value and panel.playground.about in panel.status.value
    panel.train_button.click()
    panel.thread.join()
    panel.controls["n_train"].value, panel.controls["source_task"].value = 1000, "random"
    panel.train_button.click()
    panel.thread.join()
    table = panel.comparison()
    assert list(table.index) == [1, 2] and list(table["n_train"]) == [2, 5], "held to what the cohort allows"
    assert list(table["source_task"]) == ["segmentation", "random"] and list(table["steps"]) == [6, 6]
    assert panel.table.value.count(f"{table['test_dice'].max():.3f}") >= 1 and "–" in panel.table.value
    assert "Run 2: mean Dice" in panel.status.value and "test slice: Dice" in panel.picture.value
    assert (panel.progress.value, panel.train_button.disabled, panel.stop_button.disabled) == (6, False, True)
    assert all(control.description for control in [*panel.controls.values(), panel.watch, panel.progress])


def test_a_stopped_training_is_scored_with_its_best_weights_and_shows_the_steps_it_took(panel):
    train, seen = panel.train, []

    def train_and_stop(choice, show):
        def look(point, network):
            seen.append((point, deepcopy(network.state_dict())))
            if point.step == 3:
                assert panel.train_button.disabled and not panel.stop_button.disabled
                panel.stop_button.click()
            show(point, network)

        return train(choice, look)

    panel.train = train_and_stop
    panel.start()
    panel.thread.join()
    _, best = min(seen, key=lambda pair: pair[0].validation_loss)
    assert panel.rows == [panel.playground.outcome(USUAL, best, [point for point, _ in seen])]
    assert (
        panel.rows[0]["steps"] == panel.progress.value == 3 and "after 3 steps (stopped by hand)" in panel.status.value
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrainingError("the loss is not finite at step 1"), "Not trained: the loss is not finite at step 1"),
        (ValueError("a fault <of> theirs"), "Not trained: ValueError: a fault &lt;of&gt; theirs"),
    ],
)
def test_a_training_that_fails_says_why_and_the_next_one_goes(panel, error, told):
    def fail(choice, show):
        raise error

    panel.train, sound = fail, panel.train
    panel.start()
    panel.thread.join()
    assert told in panel.status.value and not panel.rows and not panel.train_button.disabled
    panel.train = sound
    panel.start()
    panel.thread.join()
    assert len(panel.rows) == 1


def test_the_notebook_trains_by_itself_and_writes_nothing_into_the_runs(finished, runs, tmp_path):
    before = state(runs)
    chosen = {"profile": "smoke", "runs": str(runs), "n_train": 4, "steps": 4, "augmentation": 0.0}
    executed = papermill.execute_notebook(str(NOTEBOOK), str(tmp_path / "out.ipynb"), chosen, progress_bar=False)
    shown = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/svg+xml" in data for data in shown) == 1, "one picture that was drawn anew"
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 1
    assert any("study_dice" in data.get("text/html", "") for data in shown)
    assert state(runs) == before


def test_the_notebook_refuses_an_unknown_source_task(tmp_path):
    with pytest.raises(PapermillExecutionError, match="source_task = 'jigsav': should be 'random'"):
        papermill.execute_notebook(
            str(NOTEBOOK), str(tmp_path / "out.ipynb"), {"source_task": "jigsav"}, progress_bar=False
        )
