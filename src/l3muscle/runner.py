"""Running a study: here, on local worker processes, or on any Dask cluster.

Workers compute and hand back artefacts; only this process writes to the store. So a worker needs neither the cohort's
folder nor the store's, and one that dies costs its experiment a retry and nothing else.
"""

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import dask
from dask.distributed import Client, Future, LocalCluster, Worker, WorkerPlugin
from distributed.comm import CommClosedError
from torch import Tensor
from tqdm import tqdm

from l3muscle import runtime
from l3muscle.errors import L3MuscleError
from l3muscle.store import Artefact
from l3muscle.study import (
    FAILURES,
    MODEL,
    Experiment,
    Job,
    Study,
    choose,
    is_published,
    method_digest,
    run_experiment,
    train_source,
)

RETRIES = 2
POLL_S = 0.2  # between two looks at what the workers have finished; each has one more experiment in hand
RESULT_TIMEOUT_S = 60.0  # for a result to travel here
GONE = ("cancelled", "lost")  # of a future whose worker, or whose input's worker, died
COHORT = "cohort"  # name of the prepared cohort among what is sent to workers
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
# Dask looks at a training's call stack a hundred times a second, for a page of its dashboard: a tenth of the time.
UNWATCHED = {"distributed.worker.profile.enabled": False}
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
    def total(self) -> int:
        """Experiments asked for."""
        return self.done_before + self.finished + len(self.failed) + self.left

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
    """A progress bar on a terminal, a widget in a notebook, a line every quarter of a minute in a file."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    if kernel is not None and kernel.IPKernelApp.initialized():
        from tqdm.notebook import tqdm as notebook_bar  # brings IPython, which a command would wait for

        return notebook_bar(total=total, desc=description, unit=unit, initial=initial, smoothing=0.05)
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


class _OneCard(WorkerPlugin):
    """Gives each local worker one GPU, in turn, before its process has looked for any."""

    name = "one-card"

    def __init__(self, cards: list[str]) -> None:
        self.cards = cards

    def setup(self, worker: Worker) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = self.cards[int(worker.name) % len(self.cards)]


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """A client of a cluster of local one-thread processes, bound to loopback, which share the GPUs evenly."""
    with (
        dask.config.set(UNWATCHED),
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
        if cards := runtime.cards():
            client.register_plugin(_OneCard(cards))
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


_TRAINING = threading.Lock()


def _one_at_a_time(function: Callable, *arguments: Any, **options: Any) -> Any:
    """Train while no other thread of this process does: they would share torch's random numbers and its threads."""
    with _TRAINING:
        return function(*arguments, **options)


def _say_of_threads(client: Client, say: Callable[[str], None]) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if idle := sum(worker["nthreads"] - 1 for worker in workers):
        say(f"a process trains one model at a time: {idle} threads of the workers idle; start them with --nthreads 1")


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
        self.deadline = None if seconds is None else time.time() + seconds
        self.longest = 0.0

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def note(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)

    def allows_another(self) -> bool:
        return self.seconds is None or self.elapsed() + self.longest < self.seconds


def sources_missing(study: Study, jobs: list[Job]) -> list[str]:
    """Source tasks that these experiments begin from and that are not learned or loaded yet."""
    needed = {job.experiment.source_task for job in jobs}
    tasks = [task for task in study.source_tasks() if task in needed]
    return [task for task in tasks if study.store.record("sources", study.source_key(task)) is None]


def run_study(
    study: Study,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    queue: str | None = None,
    time_budget: float | None = None,
    only: Mapping[str, Collection[Any]] | None = None,
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
        Seconds after which no further experiment is begun that could not be expected to end inside them. A training
        that is still under way then leaves its state at its next validation; the next run goes on from there.
    only : mapping, optional
        Wanted values by axis of the grid, as `l3muscle.study.choose` takes them; by default all of it.
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
    wanted = set(choose([job.experiment for job in study.jobs], only or {}))
    jobs = [job for job in study.jobs if job.experiment in wanted]
    had_model = os.path.lexists(study.folder / MODEL)
    for sentence in (*study.tidy(), *study.changes()):
        say(sentence)
    study.write_plan()
    missing = [job for job in jobs if study.store.record("experiments", job.key) is None]
    needed = {job.experiment.source_task for job in missing}
    # What is learned here is shown in its own right, so a lost one is learned again even if no experiment needs it.
    unlearned = [t for t in sources_missing(study, jobs) if t in needed or not is_published(study.profile, t)]
    for damaged in study.store.set_aside:
        say(f"damaged artefact {damaged} set aside; it is made again")
    study.store.set_aside.clear()
    # Not on a worker, which need not reach the internet and has no terminal for a download's progress.
    for task in list(unlearned):
        if is_published(study.profile, task):
            study.store_source(task, train_source(study.profile, task, study.prepared))
            unlearned.remove(task)
    progress = Progress(len(jobs) - len(missing), 0, {}, len(missing), 0.0)
    if missing or unlearned:
        with progress_bar(len(jobs), "experiments", unit="model", initial=progress.done_before) as bar:
            if workers == 1 and scheduler is None and queue is None:
                _run_here(study, missing, unlearned, budget, progress, bar)
            else:
                with _workers(workers, scheduler, queue) as client:
                    say(f"dashboard: {client.dashboard_link}")
                    _say_of_threads(client, say)
                    dispatch = _Dispatch(study, missing, unlearned, budget, progress, bar, client)
                    dispatch.run(expected=workers if queue else 1)
    entries = [{"experiment": asdict(experiment), "reason": why} for experiment, why in progress.failed.items()]
    study.store.write_document(FAILURES, {"failed": entries})
    published = study.publish_model()
    if published is not None and not had_model and not progress.finished:
        say(f"{published} was missing; it is written anew")
    progress.seconds = budget.elapsed()
    return progress


def _finish(study: Study, job: Job, artefact: Artefact, budget: _Budget, progress: Progress, bar: tqdm) -> None:
    study.store_experiment(job, artefact)
    budget.note(artefact.record["seconds"])
    progress.finished += 1
    progress.left -= 1
    bar.set_postfix_str(str(job.experiment), refresh=False)
    bar.update()


def _run_here(
    study: Study, missing: list[Job], unlearned: list[str], budget: _Budget, progress: Progress, bar: tqdm
) -> None:
    weights: dict[str, dict[str, Tensor]] = {}
    for task in unlearned:
        if not budget.allows_another():
            return
        bar.set_postfix_str(f"source task {task}")
        checkpoint = study.checkpoint(study.source_key(task))
        learned = train_source(study.profile, task, study.prepared, checkpoint=checkpoint, deadline=budget.deadline)
        if learned is None:
            return
        study.store_source(task, learned)
    for job in missing:
        if not budget.allows_another():
            return
        task = job.experiment.source_task
        if task != "random" and task not in weights:
            weights[task] = study.store.weights("sources", study.source_key(task))
        artefact = run_experiment(
            job, study.prepared, weights.get(task), checkpoint=study.checkpoint(job.key), deadline=budget.deadline
        )
        if artefact is None:
            return
        _finish(study, job, artefact, budget, progress, bar)


def _scatter(client: Client, value: Any) -> Future:
    """Send a value to every worker, as one value.

    Dask takes a bare dict for many values and its names for their keys, which all source tasks share: the workers would
    go on with whichever task's tensors came first.
    """
    [future] = client.scatter([value], broadcast=True, hash=False)
    return future


class _Dispatch:
    """The experiments of one run on the workers of one cluster, which may come and go."""

    def __init__(
        self,
        study: Study,
        missing: list[Job],
        unlearned: list[str],
        budget: _Budget,
        progress: Progress,
        bar: tqdm,
        client: Client,
    ) -> None:
        self.study, self.budget, self.progress, self.bar, self.client = study, budget, progress, bar, client
        self.waiting: list[Job] = list(missing)
        self.unlearned: list[str] = list(unlearned)
        self.learning: dict[Future, str] = {}
        self.running: dict[Future, Job] = {}
        self.sent: dict[str, Future] = {}
        self.attempts: Counter[str] = Counter()
        self.paused = False

    def run(self, expected: int) -> None:
        """Give out work until none is left, or the time is up."""
        while True:
            try:
                self._fill(expected)
            except (OSError, CancelledError):
                # A connection that breaks, or that cannot be made any more.
                self._scheduler_has_gone()
            left = self.waiting or self.unlearned
            if not self.learning and not self.running and (not left or not self._may_begin()):
                return
            if self.client.status != "running":
                self._scheduler_has_gone()
            for future in [f for f in (*self.learning, *self.running) if f.status != "pending"]:
                self._take(future)
            time.sleep(POLL_S)

    def _may_begin(self) -> bool:
        return not self.paused and self.budget.allows_another()

    def _scheduler_has_gone(self) -> NoReturn:
        raise RunnerError(
            f"the Dask scheduler has gone; what this run has finished ({self.progress.finished} experiments) is kept, "
            "and the same command goes on from there"
        ) from None

    def _say_what_is_learned(self) -> None:
        """Before the first experiment is finished nothing else moves."""
        if self.learning and not self.progress.finished:
            self.bar.set_postfix_str(f"source tasks: {', '.join(self.learning.values())}")

    def _shared(self, name: str) -> Future:
        """The prepared cohort, or a source task's weights, on the workers; sent again where all that had it died."""
        if name not in self.sent or self.sent[name].status in GONE:
            study = self.study
            value = study.prepared if name == COHORT else study.store.weights("sources", study.source_key(name))
            self.sent[name] = _scatter(self.client, value)
        return self.sent[name]

    def _submit(self, function: Callable, *arguments: Any, checkpoint: Path) -> Future:
        return self.client.submit(
            _one_at_a_time,
            function,
            *arguments,
            checkpoint=checkpoint.resolve(),
            deadline=self.budget.deadline,
            retries=RETRIES,
            pure=False,
        )

    def _fill(self, expected: int) -> None:
        workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            return
        # One experiment a worker and one in hand, so that stopping at the budget wastes little.
        slots = 2 * max(workers, expected) - len(self.running) - len(self.learning)
        try:
            for task in list(self.unlearned):
                if not self._may_begin():
                    return
                place = self.study.checkpoint(self.study.source_key(task))
                future = self._submit(train_source, self.study.profile, task, self._shared(COHORT), checkpoint=place)
                self.learning[future] = task
                self.unlearned.remove(task)
                slots -= 1
                self._say_what_is_learned()
            unready = {*self.learning.values(), *self.unlearned}
            for job in list(self.waiting):
                if slots <= 0 or not self._may_begin():
                    return
                task = job.experiment.source_task
                if task in unready:
                    continue
                source = None if task == "random" else self._shared(task)
                future = self._submit(
                    run_experiment, job, self._shared(COHORT), source, checkpoint=self.study.checkpoint(job.key)
                )
                self.running[future] = job
                self.waiting.remove(job)
                slots -= 1
        except TimeoutError:
            # The workers left while something was being sent to them; the next round sees who is there.
            return

    def _take(self, future: Future) -> None:
        """What has become of one task: stored, given out again, or noted as failed."""
        outcome, error = None, None
        gone = future.status in GONE
        if not gone:
            try:
                outcome = future.result(timeout=RESULT_TIMEOUT_S)
            except (CancelledError, TimeoutError, CommClosedError):
                gone = True
            except Exception as raised:  # whatever the training raised on its worker
                error = raised
        task, job = self.learning.pop(future, None), self.running.pop(future, None)
        name = task or str(job.experiment)
        if gone:
            self.attempts[name] += 1
            if self.attempts[name] <= RETRIES:
                if job is None:
                    self.unlearned.append(task)
                else:
                    self.waiting.insert(0, job)
                return
            error = RunnerError(f"its workers died, {self.attempts[name]} times")
        if error is not None:
            reason = " ".join(str(error).split()) or type(error).__name__
            lost = [job] if job is not None else [j for j in self.waiting if j.experiment.source_task == task]
            for one in lost:
                self.progress.failed[one.experiment] = reason if job else f"source task {task}: {reason}"
                self.progress.left -= 1
            self.waiting = [one for one in self.waiting if one not in lost]
        elif outcome is None:
            # Its state is safe, for the next run.
            self.paused = True
        elif job is None:
            self.study.store_source(task, outcome)
            self._say_what_is_learned()
        else:
            _finish(self.study, job, outcome, self.budget, self.progress, self.bar)
