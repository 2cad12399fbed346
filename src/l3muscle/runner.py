"""Running a study: here, on local worker processes, or on any Dask cluster.

Workers compute and hand back artefacts; only this process writes to the store. So a worker needs neither the cohort's
folder nor the store's, and one that dies costs its experiment a retry and nothing else.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass

from dask.distributed import Client, Future, LocalCluster, as_completed
from torch import Tensor
from tqdm import tqdm

from l3muscle.errors import L3MuscleError
from l3muscle.store import Artefact
from l3muscle.study import FAILURES, Experiment, Job, Study, is_published, method_digest, run_experiment, train_source

RETRIES = 2
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
# Progress in a log file: a line now and then instead of a bar that redraws itself.
LOG_INTERVAL_S = 15.0


class RunnerError(L3MuscleError):
    """Workers that cannot be had."""


@dataclass
class Progress:
    """What a call of `run_study` did."""

    done_before: int
    finished: int
    failed: dict[Experiment, str]
    left: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every experiment of the grid is done."""
        return not self.failed and self.left == 0


class _Lines:
    """A log file as tqdm sees it: every update begins a line instead of overwriting the last one."""

    def write(self, text: str) -> None:
        sys.stderr.write(text.replace("\r", "\n"))

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, description: str, *, unit: str, initial: int = 0) -> tqdm:
    """A progress bar on a terminal, a line every quarter of a minute in a file."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else LOG_INTERVAL_S
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=terminal,
        smoothing=0.05,
        file=sys.stderr if terminal else _Lines(),
    )


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """A client of a cluster of local one-thread processes, bound to loopback."""
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            # A training step holds the interpreter's lock for seconds; silence is no sign of death.
            silence_logs=logging.ERROR,
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _cluster_client(scheduler: str) -> Iterator[Client]:
    """A client of somebody's scheduler."""
    try:
        client = Client(scheduler, timeout="5s")
    except (OSError, ValueError) as error:
        raise RunnerError(f"no Dask scheduler answers at {scheduler} ({error})") from None
    with client:
        _check_workers(client)
        yield client


def _check_workers(client: Client) -> None:
    """Nothing is begun with workers whose code would give other results than this machine's."""
    try:
        digests = client.run(method_digest)
    except Exception as error:  # whatever a worker without the package, or with an older one, raises
        raise RunnerError(f"a worker cannot load this version of l3muscle ({' '.join(str(error).split())})") from None
    other = [address for address, digest in digests.items() if digest != method_digest()]
    if other:
        raise RunnerError(f"the worker at {other[0]} has another version of l3muscle; install this one there")


@contextmanager
def _queue_client(system: str, jobs: int) -> Iterator[Client]:
    """A client of workers that a batch system starts, a job each, as dask-jobqueue's own configuration says."""
    try:
        import dask_jobqueue
    except ImportError:
        raise RunnerError("a batch queue needs dask-jobqueue: pip install 'l3-muscle[cluster]'") from None
    try:
        cluster = getattr(dask_jobqueue, QUEUES[system])()
    except (OSError, ValueError, TypeError) as error:
        raise RunnerError(f"the {system} queue cannot be used: {' '.join(str(error).split())}") from None
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=jobs)
        yield client


def _workers(workers: int, scheduler: str | None, queue: str | None) -> AbstractContextManager[Client]:
    if scheduler is not None:
        return _cluster_client(scheduler)
    return local_client(workers) if queue is None else _queue_client(queue, workers)


class _Budget:
    """Whether there is time for one more experiment."""

    def __init__(self, seconds: float | None) -> None:
        self.started = time.monotonic()
        self.seconds = seconds
        self.longest = 0.0

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def note(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)

    def allows_another(self) -> bool:
        return self.seconds is None or self.elapsed() + self.longest < self.seconds


def _sources_missing(study: Study) -> list[str]:
    return [t for t in study.source_tasks() if study.store.record("sources", study.source_key(t)) is None]


def run_study(
    study: Study,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    queue: str | None = None,
    time_budget: float | None = None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Run what is missing of a study, in the grid's balanced order.

    Parameters
    ----------
    study : Study
    workers : int
        Local worker processes; 1 runs everything in this process. With `queue`, the number of jobs.
    scheduler : str, optional
        Address of a Dask scheduler (`tcp://host:8786`) to use instead.
    queue : {"slurm", "pbs", "lsf", "sge"}, optional
        Batch system whose jobs are the workers; what a job asks for stands in dask-jobqueue's configuration.
    time_budget : float, optional
        Seconds after which no further experiment is begun that could not be expected to end inside them.
    say : callable
        Takes one line of text for the person who waits.

    Returns
    -------
    Progress

    Raises
    ------
    RunnerError, StudyError, StoreError
    """
    budget = _Budget(time_budget)
    for sentence in study.changes():
        say(sentence)
    study.write_plan()
    missing = [job for job in study.jobs if study.store.record("experiments", job.key) is None]
    for damaged in study.store.set_aside:
        say(f"damaged artefact {damaged} set aside; it is made again")
    if missing:
        # Not on a worker, which need not reach the internet and has no terminal for a download's progress.
        for task in _sources_missing(study):
            if is_published(study.profile, task):
                study.store_source(task, train_source(study.profile, task, study.prepared))
    progress = Progress(len(study.jobs) - len(missing), 0, {}, len(missing), 0.0)
    if missing:
        with progress_bar(len(study.jobs), "experiments", unit="model", initial=progress.done_before) as bar:
            if workers == 1 and scheduler is None and queue is None:
                _run_here(study, missing, budget, progress, bar)
            else:
                with _workers(workers, scheduler, queue) as client:
                    say(f"dashboard: {client.dashboard_link}")
                    _run_on_workers(study, missing, budget, progress, bar, client, expected=workers if queue else 1)
    entries = [{"experiment": asdict(experiment), "reason": why} for experiment, why in progress.failed.items()]
    study.store.write_text(FAILURES, json.dumps(entries, indent=1))
    study.publish_model()
    progress.seconds = budget.elapsed()
    return progress


def _finish(study: Study, job: Job, artefact: Artefact, budget: _Budget, progress: Progress, bar: tqdm) -> None:
    study.store_experiment(job, artefact)
    budget.note(artefact.record["seconds"])
    progress.finished += 1
    progress.left -= 1
    bar.set_postfix_str(str(job.experiment), refresh=False)
    bar.update()


def _run_here(study: Study, missing: list[Job], budget: _Budget, progress: Progress, bar: tqdm) -> None:
    for source_task in _sources_missing(study):
        bar.set_postfix_str(f"source task {source_task}")
        checkpoint = study.checkpoint(study.source_key(source_task))
        study.store_source(source_task, train_source(study.profile, source_task, study.prepared, checkpoint=checkpoint))
    weights = {task: study.store.weights("sources", study.source_key(task)) for task in study.source_tasks()}
    for job in missing:
        if not budget.allows_another():
            break
        source, checkpoint = weights.get(job.experiment.source_task), study.checkpoint(job.key)
        artefact = run_experiment(job, study.prepared, source, checkpoint=checkpoint)
        _finish(study, job, artefact, budget, progress, bar)


def _scatter_weights(client: Client, weights: Mapping[str, Tensor]) -> Future:
    """Send a state dict to every worker as one value.

    Dask takes a bare dict for many values and its names for their keys, which all source tasks share: the workers would
    go on with whichever task's tensors came first.
    """
    [future] = client.scatter([dict(weights)], broadcast=True, hash=False)
    return future


def _run_on_workers(
    study: Study, missing: list[Job], budget: _Budget, progress: Progress, bar: tqdm, client: Client, *, expected: int
) -> None:
    prepared = client.scatter(study.prepared, broadcast=True)
    learning: dict[Future, str] = {
        client.submit(
            train_source,
            study.profile,
            task,
            prepared,
            checkpoint=study.checkpoint(study.source_key(task)).resolve(),
            retries=RETRIES,
            pure=False,
        ): task
        for task in _sources_missing(study)
    }
    weights: dict[str, Future | None] = {"random": None}
    for task in study.source_tasks():
        if task not in learning.values():
            weights[task] = _scatter_weights(client, study.store.weights("sources", study.source_key(task)))
    waiting = list(missing)
    running: dict[Future, Job] = {}
    completed = as_completed(learning)

    def fill() -> None:
        # One experiment a worker and one in hand, so that stopping at the budget wastes little.
        slots = 2 * max(len(client.scheduler_info(n_workers=-1)["workers"]), expected) - len(running) - len(learning)
        for job in list(waiting):
            if slots <= 0 or not budget.allows_another():
                return
            if job.experiment.source_task not in weights:
                continue
            source = weights[job.experiment.source_task]
            checkpoint = study.checkpoint(job.key).resolve()
            future = client.submit(
                run_experiment, job, prepared, source, checkpoint=checkpoint, retries=RETRIES, pure=False
            )
            running[future] = job
            completed.add(future)
            waiting.remove(job)
            slots -= 1

    bar.set_postfix_str("source tasks " + ", ".join(learning.values()) if learning else "")
    fill()
    for future in completed:
        if future in learning:
            task = learning.pop(future)
            artefact = future.result()
            study.store_source(task, artefact)
            weights[task] = _scatter_weights(client, artefact.weights["weights"])
        else:
            job = running.pop(future)
            if future.status == "finished":
                _finish(study, job, future.result(), budget, progress, bar)
            else:
                progress.failed[job.experiment] = str(future.exception())
                progress.left -= 1
        fill()
