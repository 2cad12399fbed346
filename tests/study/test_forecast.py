"""What a run will cost, against what it then cost."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from l3muscle import forecast as module
from l3muscle.forecast import Cost, Forecast, forecast
from l3muscle.runner import run_study
from l3muscle.study import Study


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(module, "TRIAL_SECONDS", 0.1)


def silent(line: str) -> None:
    pass


def test_a_cost_is_a_straight_line():
    cost = Cost(fixed=2.0, step=0.5, validation=1.0, stored=0, weights=0, memory=0)
    assert cost.seconds(steps=10, validate_every=5) == pytest.approx(2 + 5 + 2)
    assert cost.seconds(steps=11, validate_every=5) == pytest.approx(2 + 5.5 + 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no Linux")
def test_the_memory_of_the_process_before_is_not_counted():
    # In a process of its own, whose peak no other test goes by.
    inner = "from l3muscle.forecast import _peak_memory; print(_peak_memory())"
    outer = (
        "import subprocess, sys; import numpy as np; ballast = np.ones(2**28); "
        f"subprocess.run([sys.executable, '-c', {inner!r}], check=True); assert ballast.nbytes == 2**31"
    )
    said = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True).stdout
    assert 2**26 < int(said) < 2**31


def test_patients_whom_observers_outline_take_their_own_time(tiny, tmp_path, monkeypatch):
    def drawn_in(index: int, **settings) -> float:
        module.write_patient(index, **settings)
        return 2.0 if index in settings["observers"] else 0.5

    class Threads(ThreadPoolExecutor):
        def __init__(self, workers: int, **_) -> None:
            super().__init__(workers)

    monkeypatch.setattr(module, "_timed_patient", drawn_in)
    monkeypatch.setattr(module, "ProcessPoolExecutor", Threads)
    cohort, drawing, reading = module._stand_in(Study(tiny, runs=tmp_path), workers=2)
    size = tiny.cohort
    assert len(cohort.patient_ids) == len(cohort.images) == size.patients
    assert len(cohort.observers) == size.test_patients
    expected = (0.5 * (size.patients - size.test_patients) + 2.0 * size.test_patients) / 2
    # Besides, only the time to start, less what the first patients claim to have taken.
    assert expected - 2.0 <= drawing < expected + 5 and 0 < reading < 5
    assert list(tmp_path.iterdir()) == []


def test_counts_disk_and_an_untouched_folder(tiny, tmp_path):
    study = Study(tiny, runs=tmp_path)
    predicted = forecast(study, say=silent)
    assert list(tmp_path.iterdir()) == []
    assert predicted.experiments == len(study.profile.grid.source_tasks) * 4
    assert predicted.sources == len(study.source_tasks())
    assert predicted.phantom_seconds > 0 and predicted.seconds > predicted.phantom_seconds
    assert predicted.memory > 50e6
    study.make_phantom()
    run_study(study, say=silent)
    written = sum(
        path.stat().st_size
        for kind in ("experiments", "sources")
        for path in (study.folder / kind).rglob("*")
        if path.is_file()
    )
    assert predicted.disk == pytest.approx(written, rel=0.25)
    assert forecast(study, say=silent).experiments == 0


def test_workers_are_tried_side_by_side_and_one_alone_in_this_process(finished, tiny, tmp_path, monkeypatch):
    study = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    two = forecast(study, workers=2, say=silent)

    def no_cluster(workers: int) -> None:
        raise AssertionError("one worker needs no cluster")

    monkeypatch.setattr(module, "local_client", no_cluster)
    one = forecast(study, workers=1, say=silent)
    assert (one.experiments, one.sources) == (two.experiments, two.sources) == (8, len(study.source_tasks()))
    assert one.memory == pytest.approx(module._peak_memory(), rel=0.1)
    assert two.memory > psutil.Process().memory_info().rss
    assert one.experiment_seconds > 0 and two.experiment_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_counted(finished, tiny, tmp_path):
    more = tiny.model_copy(update={"grid": tiny.grid.model_copy(update={"repeats": 2})})
    study = Study(more, runs=finished.folder.parent)
    predicted = forecast(study, say=silent)
    assert predicted.experiments == len(finished.jobs)
    assert predicted.sources == 0
    assert predicted.phantom_seconds == predicted.source_seconds == 0


def test_lines_say_all_of_it():
    text = "\n".join(Forecast(560, 4, 60, 30, 400, 4000, 2, 3 * 2**30, 50 * 2**20, at_most=True).lines())
    for part in (
        "560 experiments, 4 source tasks, the phantom",
        "at most 38.2 min with 2 workers",
        "3.0 GiB",
        "50 MiB",
    ):
        assert part in text
