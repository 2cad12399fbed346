"""The playground: trains as the study does, stops when told, compares, and leaves a stored study as it was."""

import hashlib
import shutil
import threading
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from matplotlib.figure import Figure

from l3muscle import playground, playground_panel
from l3muscle.parameters import ParameterError, documented, refuse
from l3muscle.playground import LIMITS, Choice, Playground, PlaygroundError, open_playground, strengthened
from l3muscle.playground_panel import Panel, comparison_html
from l3muscle.profile import AugmentationSettings
from l3muscle.study import open_results
from l3muscle.training import TrainingError

TEMPLATE = Path(__file__).resolve().parents[2] / "notebooks" / "playground.ipynb"


def quiet(line: str) -> None:
    pass


def state(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with the files' hashes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def ground(finished, runs) -> Playground:
    return open_playground("smoke", runs, say=quiet)


@pytest.fixture(scope="module")
def usual(ground) -> Choice:
    """The study's own settings, on two slices."""
    return ground.usual().model_copy(update={"n_train": 2})


@pytest.fixture
def panel(ground, usual) -> Panel:
    """Every step is drawn: few steps."""
    return Panel(ground, usual.model_copy(update={"steps": 2}))


def test_a_training_with_the_studys_settings_gives_the_studys_scores(ground, usual, runs, monkeypatch):
    before = state(runs)
    # The tiny study validates twice a training.
    monkeypatch.setattr(playground, "VALIDATIONS", 2)
    run = ground.train(usual)
    results = open_results("smoke", runs)
    stored = results.scores().query("source_task == 'segmentation' and n_train == 2")
    same = stored.query("fold == 0 and subset == 0 and repeat == 0").set_index("patient_id")["dice"]
    assert dict(run.scores) == dict(same) and len(run.scores) == 4
    assert run.start == "procedural, of the stored study" and run.stopped == "max_steps"
    mean, models = ground.of_study(usual)
    assert mean == pytest.approx(stored["dice"].mean()) and models == 2
    assert ground.of_study(usual.model_copy(update={"n_train": 3})) is None
    assert state(runs) == before


def test_one_snapshot_a_validation_and_a_film_of_some(ground, usual):
    seen, steps = [], []
    run = ground.train(usual, on_snapshot=lambda curve, shot: seen.append((len(curve), shot)), on_step=steps.append)
    assert [length for length, _ in seen] == list(range(1, 7)) and steps == [1, 2, 3, 4, 5, 6]
    assert tuple(shot for _, shot in seen) == run.snapshots and list(run.curve["step"]) == steps
    assert run.watched.patient_id == ground.test_ids[0] and run.watched.expert.any()
    assert [title.split(",")[0] for title, *_ in run.film(3)] == ["step 1", "step 3", "step 6"]
    assert all(hu.shape == masks["expert"].shape for _, hu, _, masks in run.film())


def test_every_setting_counts(ground, usual):
    def losses(**changes) -> list[float]:
        return list(ground.train(usual.model_copy(update=changes)).curve["train_loss"])

    base = losses()
    assert losses() == base
    changes = [
        {"source_task": "random"}, {"n_train": 3}, {"fold": 1}, {"seed": 1}, {"bce_weight": 0.5}, {"dice_weight": 0.0},
        {"augmentation": 0.0}, {"learning_rate": 0.02},
    ]  # fmt: skip
    assert all(losses(**change) != base for change in changes)
    assert len(losses(steps=4)) == 4


def test_a_stopped_training_is_scored_with_its_best_weights(ground, usual):
    enough = threading.Event()
    run = ground.train(usual, on_snapshot=lambda curve, shot: len(curve) == 2 and enough.set(), stop=enough)
    assert run.stopped == "stopped by hand" and len(run.snapshots) == 2
    assert run.best_step == run.curve.set_index("step")["validation_loss"].idxmin() and run.scores.notna().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": 6}, "n_train = 6 does not fit: this cohort leaves 5 slices"),
        ({"fold": 2}, "fold = 2: there are 2 folds, counted from 0"),
        ({"bce_weight": 0.0, "dice_weight": 0.0}, "nothing to learn"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is(ground, usual, changes, message):
    with pytest.raises(PlaygroundError, match=message):
        ground.train(usual.model_copy(update=changes), on_step=lambda step: pytest.fail("trained"))
    with pytest.raises(PlaygroundError, match=message):
        Panel(ground, usual.model_copy(update=changes))


def test_only_a_test_slice_can_be_watched(ground):
    with pytest.raises(PlaygroundError, match="'NOBODY' is no test slice; there are PHANTOM-0011"):
        ground.watched("NOBODY")


def test_augmentation_grows_from_none_through_the_profiles_to_its_bounds():
    settings = AugmentationSettings(rotation_degrees=70, scale=0.4)
    assert strengthened(settings, 1) == settings
    none = strengthened(settings, 0)
    assert (none.flip_probability, none.rotation_degrees, none.scale, none.elastic_shift) == (0, 0, 0, 0)
    most = strengthened(settings, 3)
    assert (most.flip_probability, most.rotation_degrees, most.scale) == (settings.flip_probability, 180, 0.9)
    assert most.elastic_shift == pytest.approx(0.9)


def test_a_damaged_source_task_is_learned_here_and_left_where_it_is(finished, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    for path in (tmp_path / "runs" / "smoke" / "sources").glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before, said = state(tmp_path / "runs"), []
    ground = open_playground("smoke", tmp_path / "runs", say=said.append)
    assert ground.source("segmentation", say=said.append)[1] == "procedural, learned here in 2 steps"
    assert "Learning the source task segmentation first: 2 steps, once." in said
    assert state(tmp_path / "runs") == before


def test_without_a_study_a_small_phantom_is_drawn(tiny, tmp_path):
    path = tmp_path / "own.yml"
    path.write_text(yaml.safe_dump({**tiny.model_dump(mode="json"), "name": "own"}))
    said = []
    ground = open_playground(str(path), tmp_path / "runs", workers=1, say=said.append)
    assert said == ["Drawing a small phantom cohort: 14 patients, once a session."]
    assert (len(ground.test_ids), ground.largest, ground.folds) == (4, 5, 2)
    choice = ground.usual().model_copy(update={"source_task": "reconstruction", "steps": 2, "n_train": 1})
    run = ground.train(choice, say=said.append)
    assert run.start.startswith("cohort, learned here in ") and len(run.scores) == 4
    assert len(said) == 2 and ground.source("reconstruction", say=said.append)[1] == run.start and len(said) == 2
    assert ground.of_study(choice) is None
    assert not (tmp_path / "runs").exists()


def test_the_panel_shows_what_was_chosen_and_compares_its_runs(panel, usual):
    short = panel.choice()
    assert short == usual.model_copy(update={"steps": 2}) and "No training yet" in panel.table.value
    waiting = panel.picture.value
    assert 'role="img"' in waiting and "Waiting" in waiting
    first = panel.run()
    assert first.choice == short and "Step 2 of 2" in panel.picture.value and panel.progress.value == 2
    panel.controls["n_train"].value = 4
    panel.controls["source_task"].value = "random"
    assert panel.run().choice == short.model_copy(update={"n_train": 4, "source_task": "random"})
    table = panel.comparison()
    assert list(table.index) == [1, 2] and list(table["n"]) == [2, 4]
    assert list(table["test Dice"]) == [run.scores.mean() for run in panel.runs]
    best = f"<b>{table['test Dice'].max():.3f}</b>"
    assert panel.table.value.count("<b>") == 1 and best in panel.table.value
    assert "mean Dice" in panel.status.value and "random weights" in panel.status.value
    assert (panel.train_button.disabled, panel.stop_button.disabled) == (False, True)


def test_every_control_has_a_label_and_a_bounded_value(panel):
    for control in [*panel.controls.values(), panel.watch, panel.progress]:
        assert control.description
    for button in (panel.train_button, panel.stop_button):
        assert button.description and button.tooltip
    panel.controls["n_train"].value = 1000
    assert panel.choice().n_train == panel.playground.largest


def test_stop_ends_a_panels_training_and_only_one_runs_at_a_time(panel, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    count = panel._count
    panel.controls["steps"].value = 6

    def wait_at_third(step: int) -> None:
        count(step)
        if step == 3:
            reached.set()
            go_on.wait(30)

    monkeypatch.setattr(panel, "_count", wait_at_third)
    panel.start()
    assert reached.wait(30) and panel.train_button.disabled and not panel.stop_button.disabled
    panel.train_button.click()
    panel.stop_button.click()
    go_on.set()
    panel.wait()
    assert [(run.stopped, len(run.snapshots)) for run in panel.runs] == [("stopped by hand", 3)]
    assert "stopped by hand" in panel.status.value and panel.progress.bar_style == "warning"


def test_a_training_that_fails_says_why_and_the_next_one_goes(panel, monkeypatch):
    panel.controls["bce_weight"].value = panel.controls["dice_weight"].value = 0
    with pytest.raises(PlaygroundError):
        panel.run()
    assert "Not trained: with both loss weights at 0" in panel.status.value and panel.progress.bar_style == "danger"

    def fail(*arguments, **options):
        raise ValueError("a fault <of> ours")

    monkeypatch.setattr(panel.playground, "train", fail)
    with pytest.raises(ValueError, match="a fault"):
        panel.run()
    assert "ValueError: a fault &lt;of&gt; ours" in panel.status.value and not panel.train_button.disabled
    monkeypatch.undo()
    panel.controls["dice_weight"].value = 1
    assert panel.run() and panel.failure is None and len(panel.runs) == 1


def test_a_loss_that_runs_away_is_an_outcome_and_not_a_traceback(ground, usual, monkeypatch):
    def explode(*arguments, **options):
        raise TrainingError("the loss is not finite at step 1")

    monkeypatch.setattr(playground, "fit", explode)
    panel = Panel(ground, usual)
    panel.start()
    panel.wait()
    assert "Not trained: the loss is not finite at step 1" in panel.status.value and panel.runs == []


def test_the_slice_to_watch_is_shown_at_once(panel):
    before = panel.picture.value
    panel.watch.value = panel.playground.test_ids[2]
    assert panel.picture.value != before and panel.playground.test_ids[2] in panel.picture.value
    assert panel.run().watched.patient_id == panel.playground.test_ids[2]


def test_what_the_study_has_not_is_a_dash(ground, usual):
    panel = Panel(ground, usual.model_copy(update={"n_train": 3, "steps": 2}))
    panel.run()
    assert "<td>–</td>" in comparison_html(panel.comparison())


def test_a_notebook_that_a_person_has_open_does_not_wait_and_any_other_does(ground, usual, monkeypatch):
    panel = Panel(ground, usual.model_copy(update={"steps": 2}))
    monkeypatch.setenv(playground_panel.SERVED, "playground.ipynb")
    film = panel.first()
    panel.wait()
    assert film is panel.film and "as it grew: step 1" in film.value
    monkeypatch.delenv(playground_panel.SERVED)
    assert isinstance(panel.first(), Figure) and len(panel.runs) == 2


def test_the_notebook_plays_by_itself_and_writes_nothing_into_the_runs(finished, runs, tmp_path, monkeypatch):
    monkeypatch.delenv(playground_panel.SERVED, raising=False)
    before = state(runs)
    chosen = {"profile": "smoke", "runs": str(runs), "n_train": 4, "steps": 4, "augmentation": 0}
    executed = papermill.execute_notebook(str(TEMPLATE), str(tmp_path / "out.ipynb"), chosen, progress_bar=False)
    shown = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert sum("image/svg+xml" in data for data in shown) == 2, "the curve with the outline, and how it grew"
    assert any("test Dice" in data.get("text/html", "") for data in shown)
    assert state(runs) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augmentation": 9}, "augmentation = 9: should be less than or equal to 3"),
        ({"source_task": "jigsav"}, "source_task = 'jigsav': should be 'random'"),
        ({"n_train": 0}, "n_train = 0: should be greater than 0"),
        ({"steps": 160.0}, "steps = 160.0: should be a valid integer"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: should be greater than 0"),
        ({"rate": 0.1}, "there is no parameter 'rate'"),
    ],
)
def test_the_notebook_refuses_what_cannot_be_chosen(given, message):
    [cell] = [
        cell for cell in nbformat.read(TEMPLATE, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])
    ]
    known = documented(cell.source)
    assert set(known) == {"profile", "runs", *Choice.model_fields}
    assert Choice(**{name: known[name].default for name in Choice.model_fields}) == Choice()
    with pytest.raises(ParameterError) as caught:
        refuse(known, given, **LIMITS)
    assert message in str(caught.value)
