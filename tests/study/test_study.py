"""The grid, what decides the identity of a model, and what a run keeps."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import TINY, train_all

from l3muscle import experiment, results, study
from l3muscle.experiment import Experiment, ExperimentError, choose, experiments
from l3muscle.metrics import dice
from l3muscle.profile import load_profile
from l3muscle.store import Store, StoreError
from l3muscle.study import Study, StudyError, open_results


@pytest.fixture
def copied(finished, tiny, tmp_path) -> Study:
    """A copy of all runs, in another folder, that a test may spoil."""
    shutil.copytree(finished.runs, tmp_path / "moved")
    return Study(tiny, runs=tmp_path / "moved")


def with_settings(finished: Study, **overrides) -> Study:
    return Study(load_profile("smoke", **{**TINY, **overrides}), cohort_folder=finished.cohort_folder)


# --- the grid ------------------------------------------------------------------------------------------------------


def test_every_beginning_of_the_papers_grid_is_balanced():
    grid = experiments(load_profile("paper"))
    assert len(grid) == len(set(grid)) == 560
    for length in range(35, len(grid) + 1):
        counts = Counter(one.configuration for one in grid[:length])
        assert len(counts) == 35 and max(counts.values()) - min(counts.values()) <= 1


def test_experiments_are_chosen_by_any_axis():
    grid = experiments(load_profile("paper"))
    assert choose(grid, {}) == grid
    part = choose(grid, {"source_task": ["jigsaw"], "n_train": [5, 125], "fold": []})
    assert len(part) == 2 * 16 and {one.source_task for one in part} == {"jigsaw"}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"n_train": [7]}, "the grid has no n_train 7; it has 5, 10, 25"),
        ({"source_task": ["imagenet"]}, "the grid has no source_task imagenet; it has random, classification"),
        ({"task": ["jigsaw"]}, "experiments have no 'task'; they have source_task, n_train"),
    ],
)
def test_what_the_grid_does_not_have_is_named(only, message):
    with pytest.raises(ExperimentError, match=message):
        choose(experiments(load_profile("paper")), only)


def test_training_never_sees_test_or_validation_patients(finished):
    for model in finished.keys:
        training, validation = finished.training_ids(model), finished.splits.validation_ids(model.fold)
        assert len(training) == model.n_train
        groups = [set(training), set(validation), set(finished.splits.test_ids)]
        assert len(set.union(*groups)) == sum(map(len, groups))


# --- what came out -------------------------------------------------------------------------------------------------


def test_results_hold_one_row_a_model_and_test_image(finished, runs):
    found = open_results("smoke", runs)
    scores = found.scores()
    assert len(scores) == 2 * 2 * 2 * 4
    assert scores.groupby(["source_task", "n_train", "fold"])["patient_id"].nunique().eq(4).all()
    assert scores["dice"].between(0, 1).all()
    assert len(found.observer_scores()) == sum(map(len, finished.cohort.observers.values()))
    assert [found.source_kind(task) for task in ("segmentation", "random")] == ["procedural", "random"]
    assert found.splits() == finished.splits and found.cohort().fingerprint == finished.cohort.fingerprint


def test_a_run_is_found_from_a_folder_beside_it(finished, runs, monkeypatch):
    (runs.parent / "notebooks").mkdir(exist_ok=True)
    monkeypatch.chdir(runs.parent / "notebooks")
    assert open_results("smoke", runs.name).plan == finished.results().plan


def test_stored_predictions_give_the_stored_scores(finished, runs):
    found = open_results("smoke", runs)
    masks = found.predictions(Experiment("segmentation", 4, 1, 0, 0))
    scores = found.scores().query("source_task == 'segmentation' and n_train == 4 and fold == 1")
    for mask, row in zip(masks, scores.itertuples(), strict=True):
        assert dice(mask, finished.cohort.masks[finished.cohort.index(row.patient_id)]) == row.dice


def test_records_say_how_a_model_came_about_and_name_no_machine(finished):
    import getpass
    import socket

    for model, record in finished.results().records.items():
        assert Experiment(**record["experiment"]) == model
        assert tuple(record["training_ids"]) == finished.training_ids(model)
        text = str(record["provenance"])
        assert socket.gethostname() not in text.split() and f"/{getpass.getuser()}" not in text
        assert ("weights.safetensors" in record["sha256"]) == (model.fold == 0)
    moved = finished.results().source_record("segmentation")["transfer"]["moved"]
    assert "backbone.conv1.weight" in moved and "classifier.4.weight" not in moved


def test_prepared_masks_keep_the_area_of_muscle(finished):
    (height, width), (rows, columns) = finished.profile.image.field_of_view_mm, finished.profile.image.shape
    for index, mask in enumerate(finished.prepared.masks):
        area = float(mask.sum()) * (height / rows) * (width / columns)
        expected = finished.cohort.masks[index].sum() * np.prod(finished.cohort.spacing[index])
        assert area == pytest.approx(expected, rel=0.06)


def test_a_model_without_its_source_task_says_how_to_learn_that(tiny, finished, tmp_path):
    empty = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    with pytest.raises(StudyError, match="segmentation is not learned yet .*papermill notebooks/pretrain.ipynb"):
        empty.source_weights("segmentation")


# --- identity ------------------------------------------------------------------------------------------------------


def test_a_setting_changes_the_identity_of_what_it_affects_and_of_nothing_else(finished):
    def changed(**overrides) -> set[str]:
        other = with_settings(finished, **overrides).keys
        return {model.source_task for model, key in finished.keys.items() if other[model] != key}

    both = {"random", "segmentation"}
    assert changed() == changed(**{"grid.sizes": [2, 3, 4]}) == changed(keep_weights="all") == set()
    assert changed(**{"sources.seed": 9}) == changed(**{"sources.segmentation.steps": 5}) == {"segmentation"}
    assert changed(**{"sources.jigsaw.steps": 5}) == changed(description="mine") == set()
    for setting, value in (
        ("training.max_steps", 7),
        ("training.learning_rate_random", 0.02),
        ("augmentation.scale", 0.2),
        ("image.level_hu", 45.0),
        ("network.width", 12),
        ("grid.seed", 1),
        ("threads_per_worker", 2),
        ("training.precision", "bf16"),
    ):
        assert changed(**{setting: value}) == both, setting


def test_a_model_is_one_of_the_precision_that_it_was_trained_in(finished, monkeypatch):
    """What `auto` becomes on a processor is part of the identity, not the word."""
    on_this, auto = finished.profile.training.precision, {"training.precision": "auto"}
    monkeypatch.setattr(study.runtime, "resolve_precision", lambda asked: on_this)
    assert with_settings(finished, **auto).keys == finished.keys
    monkeypatch.setattr(study.runtime, "resolve_precision", lambda asked: "bf16")
    assert not set(with_settings(finished, **auto).keys.values()) & set(finished.keys.values())


def test_the_method_and_the_slices_are_part_of_every_identity_and_the_observers_of_none(finished, monkeypatch):
    def keys(**cohort) -> set[str]:
        other = with_settings(finished)
        other.cohort = replace(finished.cohort, **cohort)
        return set(other.keys.values())

    kept, same = set(finished.keys.values()), finished.cohort
    observers = {name: {one: ~mask for one, mask in own.items()} for name, own in same.observers.items()}
    assert keys() == keys(observers=observers) == kept
    assert not keys(images=same.images + 1) & kept and not keys(masks=~same.masks) & kept
    monkeypatch.setattr(study, "METHOD_VERSION", experiment.METHOD_VERSION + 1)
    assert not keys() & kept


def test_a_run_says_what_has_changed_since_the_last_one(copied, tiny):
    assert copied.changes() == []
    changed = tiny.model_copy(update={"image": tiny.image.model_copy(update={"level_hu": 45.0})})
    settings, models = Study(changed, runs=copied.runs).changes()
    assert settings == "settings have changed since the last run: image"
    assert models.startswith("8 finished models belong to what was before")
    copied.cohort = replace(copied.cohort, images=copied.cohort.images + 1)
    assert copied.changes()[0].startswith("the cohort is not the one of the last run")


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch) -> list:
    """Networks that were trained by `train_all`."""
    import tiny_study

    fit, trained = tiny_study.fit, []
    monkeypatch.setattr(
        tiny_study, "fit", lambda network, *args, **more: trained.append(1) or fit(network, *args, **more)
    )
    return trained


def test_runs_that_were_moved_are_complete(copied, trainings):
    train_all(copied)
    assert trainings == [] and len(open_results("smoke", copied.runs).records) == 8
    assert open_results("smoke", copied.runs).cohort_folder == copied.cohort_folder


def test_a_new_measure_scores_the_predictions_anew_and_trains_nothing(copied, finished, trainings, monkeypatch):
    before = finished.results().scores()
    for module in (results, study):
        monkeypatch.setattr(module, "METRICS_VERSION", results.METRICS_VERSION + 1)
    assert copied.results().records == {}
    train_all(copied)
    assert trainings == []
    pd.testing.assert_frame_equal(copied.results().scores(), before, check_exact=True)
    assert len(list((copied.folder / "scores").iterdir())) == 16


def test_other_outlines_of_observers_are_scored_and_nothing_trained(copied, trainings):
    own = copied.cohort.observers
    copied.cohort = replace(copied.cohort, observers={n: {o: ~m for o, m in one.items()} for n, one in own.items()})
    before = copied.results().observer_scores()
    train_all(copied)
    assert trainings == [] and not copied.results().observer_scores().equals(before)


# --- damage --------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "deleted": Path.unlink,
}
# A file of each kind, and how many networks have to be trained for it.
FILES = {
    "models/*/record.json": 1,
    "models/*/curve.csv": 1,
    "models/*/predictions.npz": 1,
    "models/*/weights.safetensors": 1,
    "sources/*/record.json": 1,
    "sources/*/curve.csv": 1,
    "sources/*/weights.safetensors": 1,
    "scores/*/record.json": 0,
    "scores/*/scores.csv": 0,
    "observers/*/scores.csv": 0,
    "plan.json": 0,
    "splits.json": 0,
}


def everything(of: Study) -> dict[str, bytes]:
    """All files that decide what is shown, but for the records: those tell when they were written."""
    found = {path.relative_to(of.folder).as_posix(): path.read_bytes() for path in of.folder.rglob("*.*")}
    return {name: data for name, data in found.items() if not name.endswith("record.json")}


def read_all(of: Study) -> None:
    """Read what chapters read of a finished run."""
    found = of.results()
    for model in found.keys:
        found.predictions(model)
        if model.fold == 0:
            found.store.weights("models", found.keys[model])
    found.scores(), found.curves(), found.observer_scores(), found.source_curve("segmentation")
    found.store.weights("sources", found.plan["sources"]["segmentation"])


CASES = [(kind, "flipped") for kind in FILES]
CASES += [(kind, how) for kind in ("models/*/record.json", "models/*/curve.csv") for how in ("truncated", "deleted")]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_what_is_damaged_is_not_believed_and_alone_made_again_to_the_same_bits(copied, finished, trainings, kind, how):
    path = next(copied.folder.glob(kind))
    DAMAGES[how](path)
    if how != "deleted" and kind != "splits.json":
        with pytest.raises((StudyError, StoreError), match=f"{path.name} cannot be read.*makes it again") as caught:
            read_all(copied)
        assert "\n" not in str(caught.value)
    train_all(copied)
    assert len(trainings) == FILES[kind]
    assert everything(copied) == everything(finished)


def test_no_bit_of_a_plan_counts_for_nothing(copied):
    path = copied.folder / "plan.json"
    data, before = path.read_bytes(), copied.results().plan
    for index in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        try:
            found = copied.results().plan
        except StudyError:
            continue
        assert {name: found[name] for name in before} == before


@pytest.mark.parametrize("plan", ['{"format": 2}', "{}"])
def test_a_plan_of_another_version_is_told(copied, plan):
    (copied.folder / "plan.json").write_text(plan, encoding="utf-8")
    with pytest.raises(StudyError, match="written by another version"):
        copied.results()


@pytest.mark.parametrize("content", [None, {}, {"test_ids": 3, "folds": [], "orders": []}])
def test_a_document_that_holds_no_splits_is_refused(copied, content):
    (copied.folder / "splits.json").unlink()
    if content is not None:
        Store(copied.folder).write_document("splits.json", content)
    with pytest.raises(StudyError, match="splits.json holds no splits"):
        copied.results().splits()


def test_a_model_that_fails_is_recorded_until_it_is_trained(copied):
    from l3muscle.training import TrainingError

    model = next(iter(copied.keys))
    with copied.recording(model):
        raise TrainingError("the loss is not finite at step 3")
    assert Store(copied.folder).document(f"failed/{copied.keys[model]}.json")["reason"].endswith("step 3")
    with copied.recording(model):
        pass
    assert list((copied.folder / "failed").iterdir()) == []
