"""Runs of a study by its notebooks: the same scores whoever executes them, and what is interrupted goes on."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dask
import nbformat
import pandas as pd
import papermill
import psutil
import pytest
from dask.distributed import LocalCluster
from filelock import FileLock
from papermill.exceptions import PapermillExecutionError
from ruamel.yaml import YAML
from tiny_study import TINY, train_all

from l3muscle import runner, runtime
from l3muscle.execution import Job, Outcome, run_job
from l3muscle.experiment import ExperimentError
from l3muscle.profile import load_profile
from l3muscle.runner import RunnerError, local_client, notebook_folder, run_study
from l3muscle.study import Study, StudyError

ONE = {"source_task": ["random"], "n_train": [2]}  # one notebook of two models
TIMEOUT_S = 240
NEW_LINE = "        study.store_model(model, fitted, predict(network, study.prepared, device))"


def quiet(line: str) -> None:
    pass


def start(folder: Path, finished: Study, **overrides) -> Study:
    """A study in an empty folder, whose profile is a file that kernels can read, with the finished one's phantom."""
    path = folder / "smoke.yml"
    YAML(typ="safe").dump({"extends": "smoke", **TINY, **overrides}, path)
    shutil.copytree(finished.runs / "cohorts", folder / "runs" / "cohorts", dirs_exist_ok=True)
    return Study(load_profile(str(path)), runs=folder / "runs", profile_name=str(path))


@pytest.fixture
def study(finished, tmp_path) -> Study:
    return start(tmp_path, finished)


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    """Address of a scheduler whose worker is a thread of this process, for what is not about worker processes."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", memory_limit=None, silence_logs=logging.CRITICAL,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@pytest.fixture
def templates(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Put a notebook of one cell in the place of both notebooks, which starts in no time and trains nothing."""

    def put(source: str) -> None:
        folder = tmp_path / "notebooks"
        folder.mkdir(exist_ok=True)
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
        notebook.cells = [
            nbformat.v4.new_code_cell("runs: str = ''", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(source),
        ]
        for name in ("pretrain", "experiment"):
            nbformat.write(notebook, folder / f"{name}.ipynb")
        monkeypatch.setattr(runner, "notebook_folder", lambda: folder)

    return put


def edited(folder: Path, old: str, new: str) -> Path:
    """A folder of the project's notebooks, in which a line of `experiment` is another."""
    shutil.copytree(notebook_folder(), folder)
    path = folder / "experiment.ipynb"
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)
    return folder


def assert_same(study: Study, finished: Study, **axes) -> None:
    """The scores, curves and source weights of a study are those of the one trained in process, bit for bit."""
    query = " and ".join(f"{axis} == {value!r}" for axis, value in axes.items()) or "fold >= 0"
    for name in ("scores", "curves"):
        found, expected = (getattr(one.results(), name)() for one in (study, finished))
        pd.testing.assert_frame_equal(found, expected.query(query).reset_index(drop=True), check_exact=True)


# --- the same scores whoever executes them -------------------------------------------------------------------------


def test_plain_papermill_in_an_empty_folder_gives_the_scores_of_the_package(finished, tmp_path, monkeypatch):
    YAML(typ="safe").dump({"extends": "smoke", **TINY}, tmp_path / "smoke.yml")
    notebooks = notebook_folder().resolve()
    monkeypatch.chdir(tmp_path)

    def execute(template: str, **parameters) -> None:
        given = {"profile": "smoke.yml", "source_task": "segmentation", **parameters}
        papermill.execute_notebook(
            str(notebooks / f"{template}.ipynb"), f"{template}.ipynb", given, progress_bar=False, kernel_name="python3"
        )

    execute("pretrain")
    execute("experiment", n_train=2)
    assert_same(Study(finished.profile, runs=Path("runs")), finished, source_task="segmentation", n_train=2)
    assert {path.name for path in tmp_path.iterdir()} == {"smoke.yml", "runs", "pretrain.ipynb", "experiment.ipynb"}


def test_two_workers_give_the_scores_of_one_process_though_a_kernel_is_killed(study, finished, tmp_path, monkeypatch):
    note = tmp_path / "killed"
    once = f"""
        if not __import__("pathlib").Path({str(note)!r}).exists():
            open({str(note)!r}, "w").write(study.keys[model])
            __import__("os").kill(__import__("os").getpid(), 9)"""
    folder = edited(tmp_path / "notebooks", NEW_LINE, NEW_LINE + once)
    monkeypatch.setattr(runner, "notebook_folder", lambda: folder)
    only = {"n_train": [2]}
    progress = run_study(study, workers=2, only=only, say=quiet)
    assert (progress.finished, progress.left, progress.failed) == (4, 0, {})
    assert_same(study, finished, n_train=2)
    # What the killed kernel had finished was kept, not made a second time.
    model = study.store.folder("models", note.read_text()) / "record.json"
    assert model.stat().st_mtime <= note.stat().st_mtime
    executed = {path.stem for path in (study.folder / "notebooks").iterdir()}
    assert executed == {"pretrain-segmentation", "experiment-random-n002", "experiment-segmentation-n002"}
    assert study.results().failed_notebooks() == {}
    # A second run has nothing to do, and starts no worker.
    monkeypatch.setattr(runner, "local_client", None)
    fresh = Study(study.profile, runs=study.runs, profile_name=study.profile_name)
    again = run_study(fresh, workers=2, only=only, say=quiet)
    assert (again.done_before, again.finished, again.left, again.failed) == (4, 0, 0, {})


def test_a_lost_source_task_and_page_are_made_again(study, finished, templates, here):
    shutil.copytree(finished.folder, study.folder)
    (study.folder / "failed").mkdir(exist_ok=True)
    (study.folder / "failed" / "notebooks.json").write_text("half a no")
    templates("print(runs)")
    only = {"source_task": ["segmentation"], "n_train": [2]}
    assert run_study(study, scheduler=here, only=only, say=quiet).failed == {}  # the finished study has no pages yet
    pages = {path.stem: path.stat().st_mtime_ns for path in (study.folder / "notebooks").iterdir()}
    assert set(pages) == {"pretrain-segmentation", "experiment-segmentation-n002"}
    shutil.rmtree(study.store.folder("sources", study.source_key("segmentation")))
    run_study(study, scheduler=here, only=only, say=quiet)
    again = {
        path.stem for path in (study.folder / "notebooks").iterdir() if path.stat().st_mtime_ns != pages[path.stem]
    }
    assert again == {"pretrain-segmentation"}


# --- what stops a run and what does not ----------------------------------------------------------------------------


def test_a_failure_is_recorded_and_outlives_a_run_of_another_part(finished, templates, tmp_path, here):
    study = start(tmp_path, finished, training={**TINY["training"], "learning_rate_random": 1e30})
    progress = run_study(study, scheduler=here, only=ONE, say=quiet)
    models = [str(model) for model in study.keys if model.configuration == ("random", 2)]
    assert progress.left == 2
    # The second model was tried although the first had failed.
    assert set(progress.failed) == {*models, "experiment-random-n002"}
    assert "the loss is not finite at step" in progress.failed[models[0]]
    assert "no model of this configuration could be trained" in progress.failed["experiment-random-n002"]
    templates("print(runs)")
    run_study(study, scheduler=here, only={"source_task": ["random"], "n_train": [4]}, say=quiet)
    results = study.results()
    assert [str(model) for model in results.failures()] == models
    assert set(results.failed_notebooks()) == {"experiment-random-n002"}


def test_a_kernel_that_dies_three_times_ends_the_run_with_its_signal_and_last_words(study, templates, here):
    templates("import os, sys\nprint('free(): invalid size', file=sys.__stderr__, flush=True)\nos.abort()")
    with pytest.raises(RunnerError, match="processes died 3 times and nothing was finished in between") as caught:
        run_study(study, scheduler=here, only=ONE, say=quiet)
    text = str(caught.value)
    assert "\n" not in text and "signal SIGABRT" in text and "free(): invalid size" in text
    assert "in experiment-random-n002" in text and str(study.folder / "logs") in text
    assert f"-p profile {study.profile_name}" in text and "-p source_task random -p n_train 2" in text
    assert "free()" in (study.folder / "logs" / "experiment-random-n002.txt").read_text()
    assert "SIGABRT" in study.results().failed_notebooks()["experiment-random-n002"]


def test_a_worker_that_is_killed_costs_time_only(study, templates, tmp_path):
    mark = tmp_path / "killed"
    templates(
        f"import os, pathlib\nmark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getppid(), 9)"
    )
    progress = run_study(study, only=ONE, say=quiet)
    assert mark.exists() and progress.failed == {}
    assert (study.folder / "notebooks" / "experiment-random-n002.ipynb").exists()


class Done:
    """A future that was done before anyone looked."""

    status = "finished"

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def result(self, timeout: float) -> Outcome:
        return self.outcome


def test_what_waits_for_a_notebook_that_died_is_run_once_it_has_come_about(study, monkeypatch):
    """Also where the death and those that waited in vain are seen at once."""
    begun = []

    def job_done(job, after):
        if after is not None and after.outcome.state != "done":
            return Done(Outcome("paused"))
        begun.append(job.name)
        return Done(Outcome("died" if begun.count(job.name) == 1 and job.before is None else "done"))

    client = SimpleNamespace(status="running", submit=lambda function, job, after, **_: job_done(job, after))
    monkeypatch.setattr(runner, "wait", lambda *_, **__: None)
    run = runner._Run(study, "python3", None, {"source_task": ["segmentation"]}, quiet)
    run._run(client, run.jobs(), lambda: None)
    first, *waiting = run.jobs()
    assert waiting and begun == [first, first, *waiting]


def test_a_scheduler_that_is_killed_is_one_sentence(study, templates, tmp_path):
    note, begun = tmp_path / "scheduler.json", tmp_path / "begun"
    templates(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)")
    loopback = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", note]
    command = [sys.executable, "-m", "distributed.cli.dask_"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*command[:-1], command[-1] + "scheduler", *loopback, "--port", "0"], **silent)
    worker = subprocess.Popen([*command[:-1], command[-1] + "worker", *loopback, "--no-nanny"], **silent)
    killer = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\nwhile not os.path.exists({str(begun)!r}): time.sleep(0.05)\n"
         f"os.kill({scheduler.pid}, 9)"]
    )  # fmt: skip
    try:
        wait_until(note.exists)
        with pytest.raises(RunnerError, match="the Dask scheduler has gone; what this run has finished is kept"):
            run_study(study, scheduler=json.loads(note.read_text())["address"], only=ONE, say=quiet)
    finally:
        for process in (worker, scheduler, killer):
            process.kill()
            process.wait()


def test_ctrl_c_is_one_sentence_and_leaves_no_process(study, templates, tmp_path, finished):
    begun = tmp_path / "begun"
    templates(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)")
    arguments = ["study", "run", "--profile", study.profile_name, "--runs", str(study.runs), "--workers", "1"]
    command = [sys.executable, "-c", "from l3muscle.cli import main; main()", *arguments]
    # In its own session, as in a terminal of its own: Ctrl-C reaches every process there.
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(begun.exists)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2  # a worker and its kernel
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "l3muscle: stopped; what was finished is kept"
    assert "Traceback" not in out + err and "Error" not in out + err
    _, alive = psutil.wait_procs(family, timeout=TIMEOUT_S)
    assert alive == []


def wait_until(true: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < TIMEOUT_S, "waited in vain"
        time.sleep(0.05)


# --- the time budget -----------------------------------------------------------------------------------------------


def test_a_spent_budget_begins_nothing_and_is_no_failure(study, here):
    progress = run_study(study, scheduler=here, time_budget=0.0, say=quiet)
    assert (progress.finished, progress.left, progress.failed) == (0, 8, {})
    assert not (study.folder / "notebooks").exists()


def test_a_budget_that_ends_in_a_training_is_no_failure_and_the_training_goes_on_from_there(finished, tmp_path):
    study = start(tmp_path, finished, training={**TINY["training"], "max_steps": 60})
    study.write_plan()
    job = Job(
        name="n", template=notebook_folder() / "experiment.ipynb", out=tmp_path / "n.ipynb",
        log=tmp_path / "n.txt", cwd=tmp_path, inputs="", kernel="python3", deadline=time.time() + 0.14,
        parameters={"profile": study.profile_name, "runs": str(study.runs), "source_task": "random", "n_train": 2},
    )  # fmt: skip
    assert run_job(job).state == "paused"
    assert not (study.folder / "models").exists() and not (study.folder / "failed").exists()
    train_all(study)
    first = next(iter(study.results().records.values()))
    assert first["resumed_at"] >= 3 and first["steps"] == 60 and first["seconds"] > 0
    assert not (study.folder / "checkpoints").exists()


# --- refused before anything is trained ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel": "nope"}, RunnerError, "there is no Jupyter kernel 'nope'"),
        ({"only": {"n_train": [3]}}, ExperimentError, "the grid has no n_train 3; it has 2, 4"),
        ({"only": {"source_task": ["x"]}}, ExperimentError, "the grid has no source_task x"),
        ({"scheduler": "tcp://127.0.0.1:9"}, RunnerError, "no Dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(study, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        run_study(study, say=quiet, **arguments)
    assert "\n" not in str(caught.value) and not (study.folder / "notebooks").exists()


def test_a_second_run_says_that_one_is_going_on(study):
    study.folder.mkdir(parents=True)
    with (
        FileLock(study.folder / ".lock"),
        pytest.raises(StudyError, match="another run of this study is going on in /"),
    ):
        run_study(study, say=quiet)


def test_a_worker_that_does_not_see_the_folder_of_runs_gets_no_work(study, monkeypatch, here):
    # As if the plan had been written on another machine's disk.
    monkeypatch.setattr(study, "write_plan", lambda: None)
    with pytest.raises(RunnerError, match="does not see .*smoke/plan.json; the workers have to share this folder"):
        run_study(study, scheduler=here, say=quiet)


def test_plain_papermill_with_a_misspelt_parameter_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    template = str(notebook_folder().resolve() / "experiment.ipynb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PapermillExecutionError, match="ParameterError: there is no parameter 'n_trian'") as caught:
        papermill.execute_notebook(template, "out.ipynb", {"n_trian": 5}, kernel_name="python3", progress_bar=False)
    assert "Traceback" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


# --- workers -------------------------------------------------------------------------------------------------------


def test_jobs_of_a_batch_system_are_workers_too(study, templates, monkeypatch, tmp_path):
    """Tried with dask-jobqueue's own stand-in for a batch system, which runs jobs as processes."""
    import dask_jobqueue
    import dask_jobqueue.local

    templates("print(runs)")
    with pytest.raises(RunnerError, match="the slurm queue cannot be used: .*cores"):
        run_study(study, queue="slurm", only=ONE, say=quiet)
    monkeypatch.setitem(runner.QUEUES, "slurm", "LocalCluster")
    monkeypatch.setattr(dask_jobqueue, "LocalCluster", dask_jobqueue.local.LocalCluster, raising=False)
    settings = {"cores": 1, "processes": 1, "memory": "2GB", "python": sys.executable, "local-directory": str(tmp_path)}
    scheduler = {"scheduler-options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with dask.config.set({"jobqueue.local": {**dask.config.get("jobqueue.local", {}), **settings, **scheduler}}):
        assert run_study(study, queue="slurm", only=ONE, say=quiet).failed == {}
    assert (study.folder / "notebooks" / "experiment-random-n002.ipynb").exists()
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(RunnerError, match="a batch queue needs dask-jobqueue"):
        run_study(study, queue="slurm", say=quiet)


def test_local_workers_share_the_gpus_and_are_left_in_peace(monkeypatch):
    monkeypatch.setattr(runtime, "gpus", lambda: ["2", "5"])
    with local_client(2) as client:
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["2", "5"]
        assert set(client.run(dask.config.get, "distributed.worker.profile.enabled").values()) == {False}
