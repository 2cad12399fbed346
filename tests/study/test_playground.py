"""The playground: trains as the study does, stops when told, compares, and leaves a stored study as it was."""

import hashlib
import shutil
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest

from l3muscle.playground.panel import Panel
from l3muscle.playground.session import Choice, Playground, PlaygroundError, open_playground
from l3muscle.store import StoreError
from l3muscle.study import open_results
from l3muscle.training import Fit, TrainingError

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "playground.ipynb"
USUAL = Choice("segmentation", 2, 0, 0, 0, steps=6, learning_rate=0.01, augmentation=1.0)  # the tiny study's own


def train_with(play: Playground):
    names = {"play": play}
    exec(next(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if "def train(" in cell.source), names)
    return names["train"]


def fit_with(play: Playground, **changes) -> Fit:
    return train_with(play)(replace(USUAL, **changes), lambda point, network: None)


def state(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in folder.rglob("*")}


def run(panel: Panel) -> None:
    panel.train_button.click()
    panel.thread.join()


@pytest.fixture(scope="module")
def play(finished, runs) -> Playground:
    return open_playground("smoke", runs)


@pytest.fixture
def panel(play) -> Panel:
    return Panel(play, train_with(play), USUAL)


def test_a_training_with_the_studys_settings_is_the_studys(play, runs):
    fitted = fit_with(play)
    losses, validation = zip(*((point.train_loss, point.validation_loss) for point in fitted.curve), strict=True)
    results, same = open_results("smoke", runs), "source_task == 'segmentation' and n_train == 2"
    stored = results.curves().query(f"{same} and fold == 0")
    # The tiny study validates every third step, the playground every one.
    np.testing.assert_allclose(stored["train_loss"], [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-5)
    np.testing.assert_allclose(stored["validation_loss"], [validation[2], validation[5]], rtol=1e-5)
    assert play.outcome(USUAL, fitted.weights, fitted.curve)["study_dice"] == pytest.approx(
        results.scores().query(same)["dice"].mean()
    )


def test_every_setting_counts(play):
    base = fit_with(play).curve
    assert fit_with(play).curve == base
    axes = {"source_task": "random", "n_train": 3, "fold": 1, "repeat": 1}
    for name, value in {**axes, "learning_rate": 0.02, "augmentation": 2.0}.items():
        assert fit_with(play, **{name: value}).curve != base, name
    none = play.study_with(replace(USUAL, augmentation=0.0)).profile.augmentation
    assert (none.flip_probability, none.rotation_degrees, none.scale, none.elastic_shift) == (0, 0, 0, 0)


def test_what_cannot_be_trained_is_refused(play):
    for name, value, span in (("n_train", 6, "1 to 5"), ("fold", 2, "0 to 1"), ("learning_rate", 0.0, "0.0001 to 1.0")):
        with pytest.raises(PlaygroundError, match=f"{name} = {value}: from {span} can be trained here"):
            Panel(play, train_with(play), replace(USUAL, **{name: value}))


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
    (tmp_path / "own.yml").write_text(tiny.model_copy(update={"name": "own"}).model_dump_json())
    play = open_playground(str(tmp_path / "own.yml"), tmp_path / "runs")
    assert "Drawing a small phantom cohort: 14 patients." in capsys.readouterr().out
    assert fit_with(play, source_task="reconstruction").curve != fit_with(play, source_task="random").curve
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["own.yml", "temporary"]


def test_the_panel_trains_what_is_chosen_and_compares_its_runs(panel):
    run(panel)
    panel.watch.value, panel.controls["n_train"].value, panel.controls["source_task"].value = 2, 1000, "random"
    assert f'alt="loss against step; {panel.playground.prepared.test_ids[2]}, test slice"' in panel.picture.value
    run(panel)
    table = panel.comparison()
    # Held to what the cohort allows.
    assert list(table["n_train"]) == [2, 5] and list(table["source_task"]) == ["segmentation", "random"]
    assert f"{table['test_dice'].max():.3f}" in panel.table.value and "–" in panel.table.value
    assert "Run 2: mean Dice" in panel.status.value and "test slice: Dice" in panel.picture.value
    assert not panel.train_button.disabled and panel.stop_button.disabled


def test_a_stopped_training_is_scored_with_its_best_weights_and_shows_the_steps_it_took(panel):
    train, seen = panel.train, []

    def train_and_stop(choice, show):
        def look(point, network):
            seen.append((point, deepcopy(network.state_dict())))
            if point.step == 3:
                panel.stop_button.click()
            show(point, network)

        return train(choice, look)

    panel.train = train_and_stop
    run(panel)
    _, best = min(seen, key=lambda pair: pair[0].validation_loss)
    assert panel.rows == [panel.playground.outcome(USUAL, best, [point for point, _ in seen])]
    assert panel.rows[0]["steps"] == panel.progress.value == 3
    assert "after 3 steps (stopped by hand)" in panel.status.value


def test_a_training_that_fails_says_why(panel):
    def fail(choice, show):
        raise TrainingError("the loss is <not> finite at step 1")

    panel.train = fail
    run(panel)
    assert "Not trained: the loss is &lt;not&gt; finite at step 1" in panel.status.value and not panel.rows


def test_the_notebook_trains_by_itself_and_writes_nothing_into_the_runs(finished, runs, tmp_path):
    before, out = state(runs), str(tmp_path / "out.ipynb")
    chosen = {"profile": "smoke", "runs": str(runs), "n_train": 4, "steps": 4, "augmentation": 0.0}
    executed = papermill.execute_notebook(str(NOTEBOOK), out, chosen, progress_bar=False)
    shown = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/svg+xml" in data for data in shown) == 1, "one picture, drawn anew"
    assert any("study_dice" in data.get("text/html", "") for data in shown)
    assert state(runs) == before
