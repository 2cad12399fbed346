"""Workers that a batch system starts: tried with dask-jobqueue's own stand-in for one, which runs jobs as processes."""

import sys

import dask
import dask_jobqueue
import dask_jobqueue.local
import pytest

from l3muscle import runner
from l3muscle.profile import load_profile
from l3muscle.runner import RunnerError, run_study
from l3muscle.study import Study, StudyResults

TINY = {
    "cohort": {"patients": 12, "test_patients": 2, "size": 64},
    "image": {"shape": (24, 32)},
    "training": {"max_steps": 4, "validate_every": 4},
    "grid": {"source_tasks": ["random"], "sizes": [3], "folds": 2, "subsets": 1, "repeats": 1},
}


@pytest.fixture
def local_queue(monkeypatch, tmp_path):
    """A batch system whose jobs are processes of this machine."""
    monkeypatch.setitem(runner.QUEUES, "slurm", "LocalCluster")
    monkeypatch.setattr(dask_jobqueue, "LocalCluster", dask_jobqueue.local.LocalCluster, raising=False)
    settings = {
        "jobqueue.local.cores": 1,
        "jobqueue.local.processes": 1,
        "jobqueue.local.memory": "2GB",
        "jobqueue.local.python": sys.executable,
        "jobqueue.local.local-directory": str(tmp_path),
        "jobqueue.local.scheduler-options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    }
    with dask.config.set(settings):
        yield


def test_jobs_of_a_batch_system_give_the_scores_of_one_process(local_queue, tmp_path):
    profile = load_profile("smoke", **TINY)
    here, there = (Study(profile, runs=tmp_path / name) for name in ("here", "there"))
    here.make_phantom()
    there.cohort_folder = here.cohort_folder
    said = []
    assert run_study(here, workers=1, say=said.append).complete
    assert run_study(there, workers=2, queue="slurm", say=said.append).complete
    assert any(line.startswith("dashboard: http://127.0.0.1") for line in said)
    scores = [StudyResults(study.folder).scores() for study in (here, there)]
    assert scores[0].equals(scores[1])


def test_a_queue_that_is_not_set_up_is_named(monkeypatch, tmp_path):
    study = Study(load_profile("smoke", **TINY), runs=tmp_path)
    study.make_phantom()
    with pytest.raises(RunnerError, match="the slurm queue cannot be used: .*cores"):
        run_study(study, workers=2, queue="slurm", say=lambda line: None)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(RunnerError, match="needs dask-jobqueue"):
        run_study(study, workers=2, queue="slurm", say=lambda line: None)
