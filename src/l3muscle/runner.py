"""Running a study: its notebooks, each by papermill in a kernel of its own, on local workers or any Dask cluster.

Pretraining comes first, then one notebook for each configuration of source task and training-set size. The workers
share the folder of runs; every model is written there as soon as it is done, so that a worker that dies costs little.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import dask
from dask.distributed import Client, Future, Nanny, Scheduler, SpecCluster, wait
from distributed.scheduler import KilledWorker
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpecManager

from l3muscle import runtime
from l3muscle.errors import L3MuscleError
from l3muscle.execution import Job, Outcome, is_current, run_job
from l3muscle.experiment import Experiment, choose
from l3muscle.files import remove_abandoned
from l3muscle.progress import progress_bar
from l3muscle.results import StudyError, notebook_name, score_key
from l3muscle.study import Study

DEATHS = 3  # of processes, with no model finished in between, after which a run stops
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
DASK_SETTINGS = {
    # Dask looks at call stacks a hundred times a second, for a page of its dashboard.
    "distributed.worker.profile.enabled": False,
    # A worker that dies is told at once; this module decides how often to go on.
    "distributed.scheduler.allowed-failures": 0,
}


class RunnerError(L3MuscleError):
    """Workers that cannot be had, or that die."""


@dataclass(frozen=True)
class Progress:
    """What a call of `run_study` did: numbers of models, and the reasons of what failed by its name."""

    done_before: int
    finished: int
    left: int
    failed: dict[str, str]
    seconds: float

    @property
    def total(self) -> int:
        """Models asked for."""
        return self.done_before + self.finished + self.left


def notebook_folder() -> Path:
    """Where the notebooks lie: the working folder's `notebooks/`, else the checkout's or the installed ones."""
    package = Path(str(resources.files("l3muscle")))
    folders = (Path("notebooks"), package / "notebooks", package.parents[1] / "notebooks")
    return next((folder for folder in folders if (folder / "experiment.ipynb").is_file()), folders[0])


def run_study(
    study: Study,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    queue: str | None = None,
    kernel: str = "python3",
    time_budget: float | None = None,
    only: Mapping[str, Collection[Any]] | None = None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Run what is missing of a study: source tasks first, then a notebook a configuration.

    Parameters
    ----------
    study : Study
        Its phantom is there.
    workers : int
        Local worker processes, each with one kernel. With `queue`, the number of jobs.
    scheduler : str, optional
        Address of a Dask scheduler (`tcp://host:8786`) to use instead. Its workers share this working folder.
    queue : {"slurm", "pbs", "lsf", "sge"}, optional
        Batch system whose jobs are the workers; what a job asks for stands in dask-jobqueue's configuration.
    kernel : str
        Name of the Jupyter kernel that executes the notebooks.
    time_budget : float, optional
        Seconds after which no further model is begun that could not be expected to end inside them. A training that
        is still under way then leaves its state at its next validation; the next run goes on from there.
    only : mapping, optional
        Wanted values by axis of the grid, as `l3muscle.experiment.choose` takes them; by default all of it.
    say : callable
        Takes one line of text for the person who waits.

    Returns
    -------
    Progress

    Raises
    ------
    RunnerError, StudyError, StoreError, ExperimentError
    """
    if kernel not in KernelSpecManager().find_kernel_specs():
        raise RunnerError(
            f"there is no Jupyter kernel {kernel!r}; `jupyter kernelspec list` names those that there are"
        )
    study.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.folder / ".lock")
    try:
        with lock.acquire(blocking=False):
            run = _Run(study, kernel, time_budget, only or {}, say)
            return run.go(lambda: _workers(workers, scheduler, queue, study.folder / "logs"))
    except Timeout:
        raise StudyError(f"another run of this study is going on in {study.folder.resolve()}") from None


class _Run:
    """One call of `run_study`."""

    def __init__(
        self,
        study: Study,
        kernel: str,
        time_budget: float | None,
        only: Mapping[str, Collection[Any]],
        say: Callable[[str], None],
    ) -> None:
        self.study, self.kernel, self.only, self.say = study, kernel, only, say
        self.started = time.monotonic()
        self.deadline = None if time_budget is None else time.time() + time_budget
        self.chosen = choose(list(study.keys), only)
        self.deaths, self.ended, self.finished_at_death = 0, 0, -1
        self.failed: dict[str, str] = {}

    def go(self, workers: Callable[[], AbstractContextManager[Client]]) -> Progress:
        """Do what is missing, on the workers that are only started where something is."""
        study = self.study
        for sentence in study.changes():
            self.say(sentence)
        if study.profile.training.precision == "bf16" and runtime.resolve_precision("auto") == "fp32":
            self.say("this processor has no instructions for bf16, which takes many times as long here as fp32 does")
        remove_abandoned(study.folder)
        study.store.remove_damaged("failed")
        study.write_plan()
        before = sum(study.is_done(experiment) for experiment in self.chosen)
        jobs = self.jobs()
        if jobs:
            with (
                workers() as client,
                progress_bar(len(self.chosen), "models", unit="model", initial=before) as bar,
            ):
                self._check(client)
                self._run(client, jobs, lambda: bar.update(self.done() - bar.n))
        failures = {one: study.store.document(f"failed/{study.keys[one]}.json") for one in self.chosen}
        self.failed |= {str(one): failure["reason"] for one, failure in failures.items() if failure is not None}
        done = self.done()
        return Progress(before, done - before, len(self.chosen) - done, self.failed, time.monotonic() - self.started)

    def done(self) -> int:
        """Number of chosen models that are there."""
        return sum(self.study.store.has("models", self.study.keys[experiment]) for experiment in self.chosen)

    # --- what there is to do -----------------------------------------------------------------------------------

    def jobs(self) -> dict[str, Job]:
        """Notebooks to execute, by name; each comes after the one that it names as `before`."""
        study = self.study
        filters = {f"{axis}s": sorted(self.only[axis]) for axis in ("fold", "subset", "repeat") if self.only.get(axis)}
        configurations: dict[tuple[str, int], list[Experiment]] = {}
        for experiment in self.chosen:
            configurations.setdefault(experiment.configuration, []).append(experiment)
        first: dict[str, Job] = {}
        then: dict[str, Job] = {}
        for (task, size), chosen in configurations.items():
            before = None
            if task != "random":
                pretrain = self._job("pretrain", notebook_name(task), {"source_task": task}, [study.source_key(task)])
                if not study.has_source(task) or not is_current(pretrain.out, pretrain.inputs):
                    before = pretrain.name
                    first[before] = pretrain
            keys = [study.keys[experiment] for experiment in chosen]
            parameters = {"source_task": task, "n_train": size, **filters}
            job = self._job("experiment", notebook_name(task, size), parameters, keys, before)
            scored = all(study.is_done(e) and study.store.sound("scores", score_key(study.keys[e])) for e in chosen)
            if not (scored and is_current(job.out, job.inputs)):
                then[job.name] = job
        return first | then

    def _job(
        self, template: str, name: str, parameters: dict[str, Any], keys: list[str], before: str | None = None
    ) -> Job:
        path = notebook_folder() / f"{template}.ipynb"
        common = {"profile": self.study.profile_name, "runs": os.path.relpath(self.study.runs)}
        inputs = hashlib.sha256(json.dumps([keys, parameters]).encode() + path.read_bytes()).hexdigest()
        folder = self.study.folder.resolve()
        return Job(
            name=name,
            template=path.resolve(),
            out=folder / "notebooks" / f"{name}.ipynb",
            log=folder / "logs" / f"{name}.txt",
            cwd=Path.cwd(),
            parameters={**common, **parameters},
            inputs=inputs,
            kernel=self.kernel,
            deadline=self.deadline,
            before=before,
        )

    # --- doing it ----------------------------------------------------------------------------------------------

    def _check(self, client: Client) -> None:
        """Nothing is begun with workers that do not see this run's folder."""
        plan = str(self.study.folder.resolve() / "plan.json")
        if not client.nthreads():
            self.say("waiting for a worker to join")
        client.wait_for_workers(1, timeout=None)
        blind = [address for address, sees in client.run(os.path.isfile, plan).items() if not sees]
        if blind:
            raise RunnerError(f"the worker at {blind[0]} does not see {plan}; the workers have to share this folder")

    def _run(self, client: Client, jobs: dict[str, Job], show: Callable[[], None]) -> None:
        futures: dict[str, Future] = {}
        running: dict[Future, tuple[Job, Future | None]] = {}

        def submit(job: Job) -> None:
            after = None if job.before is None else futures[job.before]
            priority = -list(jobs).index(job.name)
            futures[job.name] = client.submit(run_job, job, after, pure=False, priority=priority)
            running[futures[job.name]] = job, after

        for job in jobs.values():
            submit(job)
        while running:
            # The client cancels what waits for a scheduler that has gone.
            with suppress(TimeoutError, OSError, CancelledError):
                wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
            show()
            if client.status != "running":
                raise RunnerError(
                    "the Dask scheduler has gone; what this run has finished is kept, and the same command goes on "
                    "from there"
                )
            for future in [one for one in running if one.status != "pending"]:
                job, after = running.pop(future)
                # What it waited for died, so that it was not begun, and has been submitted again.
                in_vain = job.before is not None and futures[job.before] is not after
                if self._take(job, _outcome(future)) or in_vain:
                    submit(job)
        show()

    def _take(self, job: Job, outcome: Outcome) -> bool:
        """Note what has become of a notebook; whether to try it again."""
        self.ended += outcome.state == "done"
        failed = self.study.store.document("failed/notebooks.json") or {}
        failed.pop(job.name, None)
        if outcome.state in ("failed", "died"):
            failed[job.name] = outcome.reason
        self.study.store.write_document("failed/notebooks.json", failed)
        if outcome.state == "failed":
            self.failed[job.name] = outcome.reason
        if outcome.state != "died":
            return False
        finished = self.done() + self.ended
        self.deaths = self.deaths + 1 if finished == self.finished_at_death else 1
        self.finished_at_death = finished
        if self.deaths == DEATHS:
            raise RunnerError(self._too_many_deaths(job, outcome))
        return True

    def _too_many_deaths(self, job: Job, outcome: Outcome) -> str:
        given = " ".join(f"-p {key} {value}" for key, value in job.parameters.items() if not isinstance(value, list))
        template = os.path.relpath(job.template)
        return (
            f"processes died {self.deaths} times and nothing was finished in between, the last one in {job.name}: "
            f"{outcome.reason}. The memory may be short (try --workers 1), or a library may not suit this processor "
            f"(try ONEDNN_MAX_CPU_ISA=AVX2 before the command). What they wrote is in {self.study.folder / 'logs'}; "
            f"this runs the one notebook by itself: papermill {template} {job.name}.ipynb {given}"
        )


def _outcome(future: Future) -> Outcome:
    """What a notebook's future brings; whatever is raised on the way is told as it is."""
    try:
        return future.result(timeout=60)
    except KilledWorker:
        return Outcome("died", "its worker process was killed")
    except Exception as error:
        if future.status in ("cancelled", "lost"):
            return Outcome("died", "its worker process was lost")
        return Outcome("failed", " ".join(str(error).split()) or type(error).__name__)


# --- workers ---------------------------------------------------------------------------------------------------


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """A client of a cluster of local one-thread processes, bound to loopback, which share the GPUs evenly."""
    gpus = runtime.gpus()
    spec = {}
    for number in range(workers):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        options = {
            "nthreads": 1,
            "host": "127.0.0.1",
            # The kernels are other processes, whose memory a worker does not see.
            "memory_limit": 0,
            "silence_logs": logging.CRITICAL,
            "env": environment,
        }
        spec[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with (
        dask.config.set(DASK_SETTINGS),
        SpecCluster(workers=spec, scheduler=scheduler, silence_logs=False) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("distributed", "tornado", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.FileHandler(path, mode="w", delay=True)]
        logger.propagate = False


@contextmanager
def _cluster_client(scheduler: str) -> Iterator[Client]:
    """A client of somebody's scheduler."""
    try:
        client = Client(scheduler, timeout="5s")
    except (OSError, ValueError) as error:
        raise RunnerError(f"no Dask scheduler answers at {scheduler} ({error})") from None
    with client:
        yield client


@contextmanager
def _queue_client(system: str, jobs: int) -> Iterator[Client]:
    """A client of workers that a batch system starts, a job each, as dask-jobqueue's own configuration says."""
    try:
        import dask_jobqueue
    except ImportError:
        raise RunnerError("a batch queue needs dask-jobqueue: pip install -e '.[cluster]' in the checkout") from None
    try:
        cluster = getattr(dask_jobqueue, QUEUES[system])()
    except (OSError, ValueError, TypeError) as error:
        raise RunnerError(f"the {system} queue cannot be used: {' '.join(str(error).split())}") from None
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=jobs)
        yield client


def _workers(workers: int, scheduler: str | None, queue: str | None, logs: Path) -> AbstractContextManager[Client]:
    """A client of the workers that were asked for; what Dask has to say goes to a file in the folder `logs`."""
    _log_to(logs / "dask.txt")
    if scheduler is not None:
        return _cluster_client(scheduler)
    return local_client(workers) if queue is None else _queue_client(queue, workers)
