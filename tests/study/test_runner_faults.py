"""Workers and schedulers that are killed in the middle of a run cost time, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY

from l3muscle.checkpoint import CheckpointFile
from l3muscle.profile import Profile, load_profile
from l3muscle.runner import Progress, RunnerError, run_study
from l3muscle.study import Study, StudyResults

# Long enough to be hit in the middle.
SLOW = {**TINY, "training": {"max_steps": 60, "validate_every": 20}}
PATIENCE_S = 120


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def slow() -> Profile:
    return load_profile("smoke", **SLOW)


@pytest.fixture
def study(slow, finished, tmp_path) -> Study:
    return Study(slow, runs=tmp_path, cohort_folder=finished.cohort_folder)


@pytest.fixture(scope="module")
def undisturbed(slow, finished, tmp_path_factory) -> pd.DataFrame:
    study = Study(slow, runs=tmp_path_factory.mktemp("undisturbed"), cohort_folder=finished.cohort_folder)
    run_study(study, say=lambda line: None)
    return StudyResults(study.folder).scores()


def start(processes: list[subprocess.Popen], *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    processes.append(process)
    return process


def start_scheduler(processes: list[subprocess.Popen], tmp_path: Path) -> tuple[subprocess.Popen, str]:
    note = tmp_path / "scheduler.json"
    loopback = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(note))
    process = start(processes, "distributed.cli.dask_scheduler", *loopback)
    wait_until(note.exists)
    return process, str(note)


def start_worker(processes: list[subprocess.Popen], note: str) -> subprocess.Popen:
    options = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1")
    return start(processes, "distributed.cli.dask_worker", "--scheduler-file", note, *options)


def wait_until(true: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < PATIENCE_S, "waited in vain"
        time.sleep(0.05)


def address_of(note: str) -> str:
    return pd.read_json(note, typ="series")["address"]


class Run(threading.Thread):
    """A run of a study beside the test."""

    def __init__(self, study: Study, scheduler: str) -> None:
        super().__init__(daemon=True)
        self.study, self.scheduler = study, scheduler
        self.progress: Progress | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.progress = run_study(self.study, scheduler=self.scheduler, say=lambda line: None)
        except Exception as error:
            self.error = error

    def done(self) -> int:
        return len(list((self.study.folder / "experiments").glob("[!.]*")))


def test_a_run_outlives_all_of_its_workers(study, undisturbed, processes, tmp_path):
    _, note = start_scheduler(processes, tmp_path)
    worker = start_worker(processes, note)
    run = Run(study, address_of(note))
    run.start()
    wait_until(lambda: run.done() >= 2 or run.error is not None)
    worker.send_signal(signal.SIGKILL)
    start_worker(processes, note)
    run.join(PATIENCE_S)
    assert run.error is None and run.progress is not None and run.progress.complete
    pd.testing.assert_frame_equal(StudyResults(study.folder).scores(), undisturbed)


def test_a_scheduler_that_is_killed_is_named_and_the_run_goes_on_elsewhere(study, undisturbed, processes, tmp_path):
    scheduler, note = start_scheduler(processes, tmp_path)
    start_worker(processes, note)
    run = Run(study, address_of(note))
    run.start()
    wait_until(lambda: run.done() >= 2 or run.error is not None)
    scheduler.send_signal(signal.SIGKILL)
    run.join(PATIENCE_S)
    assert isinstance(run.error, RunnerError) and "scheduler has gone" in str(run.error)
    again = Study(study.profile, runs=tmp_path, cohort_folder=study.cohort_folder)
    progress = run_study(again, say=lambda line: None)
    assert progress.complete and progress.done_before >= 2
    pd.testing.assert_frame_equal(StudyResults(study.folder).scores(), undisturbed)


def test_a_long_training_stops_at_the_budget_and_goes_on_from_there(slow, finished, undisturbed, tmp_path, monkeypatch):
    study = Study(slow, runs=tmp_path, cohort_folder=finished.cohort_folder)
    first = {"source_task": ["random"], "n_train": [2], "fold": [0]}
    with monkeypatch.context() as hour_later:
        # However fast the machine is: the time is up at the first validation.
        hour_later.setattr(CheckpointFile, "out_of_time", lambda self: self.deadline is not None)
        progress = run_study(study, time_budget=3600, only=first, say=lambda line: None)
    assert (progress.finished, progress.left, progress.total) == (0, 1, 1)
    [state] = (study.folder / "checkpoints").iterdir()
    assert state.suffix == ".safetensors"
    assert run_study(study, say=lambda line: None).complete
    results = StudyResults(study.folder)
    assert [r["resumed_at"] for r in results.records.values() if r["resumed_at"]] == [20]
    pd.testing.assert_frame_equal(results.scores(), undisturbed)


def test_only_a_part_of_the_grid_is_run(study):
    progress = run_study(study, only={"source_task": ["random"], "n_train": [4]}, say=lambda line: None)
    assert progress.complete and progress.finished == progress.total == 2
    done = StudyResults(study.folder).records
    assert {(e.source_task, e.n_train) for e in done} == {("random", 4)}
    assert not (study.folder / "sources").exists(), "a source task was learned that nobody needs"
