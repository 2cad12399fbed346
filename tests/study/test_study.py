"""The grid, the identity of an experiment, and runs that stop, resume and repeat."""

import shutil
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from dask.distributed import LocalCluster

from l3muscle import runner
from l3muscle.metrics import dice
from l3muscle.profile import load_profile
from l3muscle.runner import RunnerError, run_study
from l3muscle.study import (
    Experiment,
    Study,
    StudyError,
    choose,
    experiments,
    method_digest,
    open_results,
    run_experiment,
)


def quiet(line: str) -> None:
    pass


@pytest.fixture
def copy(finished, tiny, tmp_path) -> Study:
    """A copy of the finished run that a test may spoil, over the same cohort."""
    shutil.copytree(finished.folder, tmp_path / tiny.name)
    study = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    study.is_phantom = True
    return study


def scores_of(study: Study) -> pd.DataFrame:
    """All scores, in the grid's order."""
    return pd.concat([study.store.table("experiments", job.key, "scores") for job in study.jobs])


def test_the_grid_is_the_papers():
    grid = experiments(load_profile("paper"))
    assert len(grid) == len(set(grid)) == 560
    cells = Counter((e.source_task, e.n_train) for e in grid)
    assert len(cells) == 35 and set(cells.values()) == {16}


def test_every_beginning_of_the_grid_is_balanced():
    grid = experiments(load_profile("paper"))
    for length in range(1, len(grid) + 1):
        cells = Counter((e.source_task, e.n_train) for e in grid[:length])
        if len(cells) == 35:
            assert max(cells.values()) - min(cells.values()) <= 1


def test_results_hold_one_row_a_model_and_test_image(finished, tiny, runs):
    results = open_results("smoke", runs)
    scores = results.scores()
    assert len(scores) == 2 * 2 * 2 * 4
    assert scores.groupby(["source_task", "n_train", "fold"])["patient_id"].nunique().eq(4).all()
    assert scores["dice"].between(0, 1).all()
    assert len(results.observer_scores()) == sum(len(o) for o in finished.cohort.observers.values())
    assert results.source_kind("segmentation") == "procedural" and results.source_kind("random") == "random"


def test_stored_predictions_give_the_stored_scores(finished, runs):
    results = open_results("smoke", runs)
    experiment = Experiment("segmentation", 4, 1, 0, 0)
    masks = results.predictions(experiment)
    scores = results.scores().query("source_task == 'segmentation' and n_train == 4 and fold == 1")
    for mask, row in zip(masks, scores.itertuples(), strict=True):
        assert dice(mask, finished.cohort.masks[finished.cohort.index(row.patient_id)]) == row.dice


def test_a_second_run_does_nothing(copy):
    progress = run_study(copy, say=quiet)
    assert progress.complete and progress.finished == 0 and progress.done_before == 8


def test_a_run_says_what_has_changed_since_the_last_one(copy, tiny):
    assert copy.changes() == []
    changed = tiny.model_copy(update={"image": tiny.image.model_copy(update={"level_hu": 45.0})})
    other = Study(changed, runs=copy.folder.parent, cohort_folder=copy.cohort_folder)
    settings, orphans = other.changes()
    assert settings.endswith("since the last run: image")
    assert orphans.startswith("8 finished experiments")


def test_a_run_on_another_cohort_says_so(copy, finished):
    kept = copy.cohort
    copy.cohort = replace(kept, images=kept.images + 1)
    assert copy.changes()[0].startswith("the cohort is not the one of the last run")


def test_what_observers_drew_trains_no_model_again(copy):
    kept = copy.cohort
    moved = {name: {observer: ~mask for observer, mask in own.items()} for name, own in kept.observers.items()}
    copy.cohort = replace(kept, observers=moved)
    assert [line for line in copy.changes() if "finished experiments" in line] == []
    before = open_results(copy.profile.name, copy.folder.parent).observer_scores()
    progress = run_study(copy, say=quiet)
    assert progress.finished == 0 and progress.done_before == 8
    assert not open_results(copy.profile.name, copy.folder.parent).observer_scores().equals(before)


@pytest.mark.parametrize(
    ("plan", "reason"), [("{}", "another version"), ("[1]", "another version"), ("{", "cannot be read")]
)
def test_a_plan_of_another_version_is_refused(copy, plan, reason):
    (copy.folder / "plan.json").write_text(plan, encoding="utf-8")
    with pytest.raises(StudyError, match=reason):
        open_results(copy.profile.name, copy.folder.parent)


def test_a_lost_and_a_damaged_artefact_are_made_again_bit_for_bit(copy, finished):
    lost, damaged = copy.jobs[0], copy.jobs[3]
    shutil.rmtree(copy.store.folder("experiments", lost.key))
    (copy.store.folder("experiments", damaged.key) / "scores.parquet").write_bytes(b"x")
    said = []
    progress = run_study(copy, say=said.append)
    assert progress.complete and progress.finished == 2
    assert any(damaged.key in line for line in said)
    for job in (lost, damaged):
        again, before = (s.store.table("experiments", job.key, "scores") for s in (copy, finished))
        pd.testing.assert_frame_equal(again, before, check_exact=True)


def test_workers_give_the_same_scores_as_one_process(finished, tiny, tmp_path):
    study = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    progress = run_study(study, workers=2, say=quiet)
    assert progress.complete and progress.finished == 8
    assert [job.key for job in study.jobs] == [job.key for job in finished.jobs]
    pd.testing.assert_frame_equal(scores_of(study), scores_of(finished), check_exact=True)


def test_a_worker_of_many_threads_gives_the_same_scores_too(finished, tiny, tmp_path):
    study = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    said: list[str] = []
    options = {"n_workers": 1, "threads_per_worker": 4, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**options) as cluster:
        run_study(study, scheduler=cluster.scheduler_address, say=said.append)
    assert any("--nthreads 1" in line for line in said)
    pd.testing.assert_frame_equal(scores_of(study), scores_of(finished), check_exact=True)


def test_a_spent_budget_stops_cleanly_and_the_rest_follows(copy):
    for job in copy.jobs:
        shutil.rmtree(copy.store.folder("experiments", job.key))
    first = run_study(copy, time_budget=0.0, say=quiet)
    assert not first.complete and first.finished == 0 and first.left == 8
    rest = run_study(copy, say=quiet)
    assert rest.complete and rest.done_before + rest.finished == 8


def test_a_setting_changes_the_identity_of_what_it_affects_and_of_nothing_else(finished, tiny, tmp_path):
    def keys(**overrides):
        changed = load_profile("smoke", **{**TINY, **overrides})
        study = Study(changed, runs=tmp_path, cohort_folder=finished.cohort_folder)
        return {job.experiment: job.key for job in study.jobs}

    base = keys()
    other_steps = keys(**{"training.max_steps": 7})
    assert not set(base.values()) & set(other_steps.values())
    other_source = keys(**{"sources.seed": 9})
    for experiment, key in base.items():
        assert (key == other_source[experiment]) == (experiment.source_task == "random")
    more_sizes = keys(**{"grid.sizes": [2, 3, 4]})
    assert all(more_sizes[experiment] == key for experiment, key in base.items())


def test_only_representative_models_keep_their_weights(finished):
    kept = {
        job.experiment
        for job in finished.jobs
        if (finished.store.folder("experiments", job.key) / "weights.safetensors").is_file()
    }
    assert kept == {e for e in experiments(finished.profile) if e.fold == e.subset == e.repeat == 0}


def test_pre_training_reaches_the_target_network(finished):
    job = next(job for job in finished.jobs if job.experiment.source_task == "segmentation")
    record = finished.store.record("experiments", job.key)
    assert "tensors moved" in record["transfer"] and "2 of the network left random" in record["transfer"]
    assert record["training_ids"] == list(job.training_ids)


def test_training_never_sees_test_or_validation_patients(finished):
    for job in finished.jobs:
        groups = [set(job.training_ids), set(job.validation_ids), set(finished.splits.test_ids)]
        assert len(job.training_ids) == job.experiment.n_train
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_the_order_of_experiments_does_not_matter(finished):
    job = finished.jobs[0]
    assert job.experiment.source_task == "random"
    run_experiment(finished.jobs[2], finished.prepared, None)
    again = run_experiment(job, finished.prepared, None).tables["scores"]
    pd.testing.assert_frame_equal(
        again, finished.store.table("experiments", job.key, "scores"), check_exact=True, check_dtype=False
    )


def test_records_name_no_machine(finished):
    import getpass
    import socket

    record = finished.store.record("experiments", finished.jobs[0].key)
    text = str(record["provenance"])
    assert socket.gethostname() not in text.split() and f"/{getpass.getuser()}" not in text
    assert record["provenance"]["versions"]["torch"] and record["seconds"] > 0
    assert asdict(finished.jobs[0].experiment) == record["experiment"]


def test_a_study_that_was_not_started_says_how_to(tmp_path):
    with pytest.raises(StudyError, match="l3muscle study run --profile smoke"):
        open_results("smoke", tmp_path)


def test_a_scheduler_that_is_not_there_is_one_sentence(copy):
    shutil.rmtree(copy.store.folder("experiments", copy.jobs[0].key))
    with pytest.raises(RunnerError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        run_study(copy, scheduler="tcp://127.0.0.1:9", say=quiet)


class StandIn:
    """A Dask client as far as the check of its workers goes."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def run(self, function):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_worker_with_other_code_is_named_and_gets_no_work(finished):
    runner._check_workers(StandIn({"tcp://a:1": method_digest()}))
    with pytest.raises(RunnerError, match="the worker at tcp://b:2 has another version"):
        runner._check_workers(StandIn({"tcp://a:1": method_digest(), "tcp://b:2": "older"}))
    with pytest.raises(RunnerError, match="cannot load this version .*No module named 'l3muscle'"):
        runner._check_workers(StandIn(ModuleNotFoundError("No module named 'l3muscle'")))
    # One that joins later meets the same check in each experiment.
    with pytest.raises(StudyError, match="another version"):
        run_experiment(replace(finished.jobs[0], code="older"), finished.prepared, None)


def test_prepared_cohort_keeps_the_masks_area(finished):
    prepared = finished.prepared
    height, width = finished.profile.image.field_of_view_mm
    rows, columns = finished.profile.image.shape
    for place, mask in enumerate(prepared.masks):
        area = float(mask.sum()) * (height / rows) * (width / columns)
        expected = finished.cohort.masks[place].sum() * np.prod(finished.cohort.spacing[place])
        assert area == pytest.approx(expected, rel=0.06)


def test_experiments_are_chosen_by_any_axis():
    grid = experiments(load_profile("paper"))
    assert choose(grid, {}) == grid
    part = choose(grid, {"source_task": ["jigsaw"], "n_train": [5, 125], "fold": []})
    assert len(part) == 2 * 16 and {e.source_task for e in part} == {"jigsaw"}
    with pytest.raises(StudyError, match="no n_train 7; it has 5, 10"):
        choose(grid, {"n_train": [7]})
    with pytest.raises(StudyError, match="no 'task'"):
        choose(grid, {"task": ["jigsaw"]})
