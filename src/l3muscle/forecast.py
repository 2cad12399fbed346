"""What a run will cost on this machine, before it starts: time, memory and disk, from a short trial of its own work.

Every part of the cost is a straight line: a fixed part, so much a training step, so much a validation. A short training
with the run's own network, images and settings gives the three numbers, taken while as many processes are busy as the
run will have, because processes that share a memory bus slow each other down. Where the run has finished experiments on
this machine already, their records give them better.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from l3muscle.cohort import Cohort, load_cohort
from l3muscle.phantom.patients import observers_of, write_patient
from l3muscle.profile import Profile
from l3muscle.runner import local_client, sources_missing
from l3muscle.runtime import provenance
from l3muscle.store import Artefact, Store
from l3muscle.study import (
    Job,
    PreparedCohort,
    Study,
    choose,
    is_published,
    run_experiment,
    source_settings,
    train_source,
)

TRIAL_SECONDS = 3.0  # of training in one trial; of shorter ones, two on the same machine were a third apart
TRIAL_ROUNDS, TRIAL_ROUNDS_OBSERVED = 5, 3  # patients that each process draws where the phantom is not there yet
ENOUGH_RECORDS = 8  # finished experiments that make a trial of the target task needless
_LINE = ("fixed", "step", "validation")


@dataclass(frozen=True)
class Cost:
    """Cost of one kind of training, in seconds and bytes.

    Attributes
    ----------
    fixed, step, validation : float
        Seconds: of everything around the training, of a step, of a validation.
    stored, weights : int
        Bytes on disk of what is always kept, and of the weights.
    memory : int
        Most memory that its process held, bytes.
    """

    fixed: float
    step: float
    validation: float
    stored: int
    weights: int
    memory: int

    def seconds(self, steps: int, validate_every: int) -> float:
        """Time of a training of so many steps."""
        return self.fixed + self.step * steps + self.validation * -(-steps // validate_every)


@dataclass(frozen=True)
class Forecast:
    """What is left of a run, and what it will cost.

    Attributes
    ----------
    experiments, sources : int
        Trainings that are missing.
    phantom_seconds, start_seconds : float
        Wall time of drawing the phantom; of reading the cohort and starting the workers.
    source_seconds, experiment_seconds : float
        Time of one worker for the trainings.
    workers : int
    memory, disk : int
        Bytes.
    at_most : bool
        Whether trainings may end early, so that the time is an upper limit.
    """

    experiments: int
    sources: int
    phantom_seconds: float
    start_seconds: float
    source_seconds: float
    experiment_seconds: float
    workers: int
    memory: int
    disk: int
    at_most: bool

    @property
    def seconds(self) -> float:
        """Wall time of the whole."""
        return (
            self.phantom_seconds + self.start_seconds + (self.source_seconds + self.experiment_seconds) / self.workers
        )

    def lines(self) -> list[str]:
        """The forecast as text."""
        limit = "at most " if self.at_most else "about "
        return [
            f"missing: {self.experiments} experiments, {self.sources} source tasks"
            + (", the phantom" if self.phantom_seconds else ""),
            f"time: {limit}{_duration(self.seconds)} with {self.workers} worker{'s' * (self.workers > 1)} "
            f"(phantom {_duration(self.phantom_seconds)}, start {_duration(self.start_seconds)}; of one worker: source "
            f"tasks {_duration(self.source_seconds)}, experiments {_duration(self.experiment_seconds)})",
            f"memory: about {self.memory / 2**30:.1f} GiB in all processes",
            f"disk: about {self.disk / 2**20:.0f} MiB",
        ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _shortened(profile: Profile, source_task: str | None, steps: int, validate_every: int) -> Profile:
    """The profile with shorter trainings: of the target task, or of a source task."""
    if source_task is None:
        changed = profile.training.model_copy(update={"max_steps": steps, "validate_every": validate_every})
        return profile.model_copy(update={"training": changed})
    settings = source_settings(profile, source_task)
    field = next(name for name in type(profile.sources).model_fields if getattr(profile.sources, name) is settings)
    changed = settings.model_copy(update={"steps": steps, "validate_every": validate_every})
    return profile.model_copy(update={"sources": profile.sources.model_copy(update={field: changed})})


def _peak_memory() -> int:
    """Bytes of memory that this process held at most."""
    # On Linux, getrusage includes the memory of the process that started this one; not every kernel says better.
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _size(artefact: Artefact) -> tuple[int, int]:
    """Bytes on disk of an artefact: without its weights, and of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write("trial", "trial", artefact)
        sizes = {path.suffix: 0 for path in store.folder("trial", "trial").iterdir()}
        for path in store.folder("trial", "trial").iterdir():
            sizes[path.suffix] += path.stat().st_size
    weights = sizes.pop(".safetensors", 0)
    return sum(sizes.values()), weights


def _cost_of(record: Mapping[str, Any], validations: int, wall: float, **sizes: int) -> Cost:
    """The straight line through one training."""
    fit, validating = record["fit_seconds"], record["validation_seconds"]
    steps = record["steps"] - record["resumed_at"]
    return Cost(wall - fit, (fit - validating) / steps, validating / validations, **sizes)


def _measure(profile: Profile, source_task: str | None, job: Job, prepared: PreparedCohort) -> Cost:
    """Time a short training of one kind in this process, after a shorter one that only warms up."""

    def timed(steps: int) -> tuple[float, Artefact]:
        short = _shortened(profile, source_task, steps, steps)
        started = time.perf_counter()
        if source_task is None:
            artefact = run_experiment(replace(job, profile=short, keep_weights=True), prepared, None)
        else:
            artefact = train_source(short, source_task, prepared)
        return time.perf_counter() - started, artefact

    _, warm = timed(2)
    step = (warm.record["fit_seconds"] - warm.record["validation_seconds"]) / 2
    wall, artefact = timed(int(np.clip(TRIAL_SECONDS / max(step, 1e-4), 4, 200)))
    stored, weights = _size(artefact)
    return _cost_of(artefact.record, 1, wall, stored=stored, weights=weights, memory=_peak_memory())


def _cost_from_records(study: Study) -> Cost | None:
    """What the run's finished experiments cost on this machine; None where there are too few to go by."""
    here = provenance()
    costs = []
    for job in study.jobs:
        record = study.store.record("experiments", job.key)
        if record is None or record["resumed_at"]:
            continue
        if all(record["provenance"][part] == here[part] for part in ("processor", "cores", "gpu")):
            folder = study.store.folder("experiments", job.key)
            sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
            weights = sizes.pop("weights.safetensors", 0)
            validations = -(-record["steps"] // study.profile.training.validate_every)
            stored = sum(sizes.values())
            costs.append(
                _cost_of(record, validations, record["seconds"], stored=stored, weights=weights, memory=_peak_memory())
            )
    if len(costs) < ENOUGH_RECORDS:
        return None
    median = {name: float(np.median([getattr(cost, name) for cost in costs])) for name in _LINE}
    return replace(costs[0], **median, weights=max(cost.weights for cost in costs))


def _timed_patient(index: int, **settings: Any) -> float:
    """Draw one patient; returns how long that took."""
    started = time.perf_counter()
    write_patient(index, **settings)
    return time.perf_counter() - started


def _stand_in(study: Study, workers: int) -> tuple[Cohort, float, float]:
    """A few phantoms repeated to the cohort's size, and how long drawing and reading all of them will take.

    Patients whom the observers outline as well take longer, and patients differ: both kinds are sampled evenly.
    """
    settings = study.profile.cohort
    count, first_test = settings.patients, settings.patients - settings.test_patients
    observers = observers_of(count, settings.test_patients)
    plain, observed = (
        sorted({int(place) for place in np.linspace(start, stop - 1, min(rounds * workers, stop - start))})
        for start, stop, rounds in ((0, first_test, TRIAL_ROUNDS), (first_test, count, TRIAL_ROUNDS_OBSERVED))
    )
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        draw = partial(
            _timed_patient,
            seed=settings.seed,
            size=settings.size,
            setting=settings.setting,
            observers=observers,
        )
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            began = time.perf_counter()
            # The first patient of a process pays for its imports.
            (folder / "first").mkdir()
            firsts = list(pool.map(partial(draw, folder=folder / "first"), (plain + observed)[:workers]))
            start = time.perf_counter() - began - float(np.mean(firsts))
            drawn = folder / "phantom"
            drawn.mkdir()
            seconds = dict(zip(plain + observed, pool.map(partial(draw, folder=drawn), plain + observed), strict=True))
        each, each_observed = (float(np.mean([seconds[place] for place in kind])) for kind in (plain, observed))
        finished = time.perf_counter()
        cohort = load_cohort(drawn)
        reading = (time.perf_counter() - finished) / len(seconds) * count
    drawing = start + (first_test * each + settings.test_patients * each_observed) / workers
    places = np.arange(count) % len(seconds)
    names = tuple(f"trial {index:05d}" for index in range(count))
    outlines = list(cohort.observers.values())
    stand_in = Cohort(
        images=cohort.images[places],
        masks=cohort.masks[places],
        spacing=cohort.spacing[places],
        patient_ids=names,
        observers={name: outlines[index % len(outlines)] for index, name in enumerate(names[first_test:])},
    )
    return stand_in, drawing, reading


def forecast(
    study: Study,
    *,
    workers: int = 1,
    only: Mapping[str, Collection[Any]] | None = None,
    say: Callable[[str], None] = print,
) -> Forecast:
    """Predict what is missing of a run, its time, memory and disk, on this machine.

    Nothing is written to the run's folder. Trainings that may end early, when their losses have saturated, are counted
    with all their steps.

    Parameters
    ----------
    study : Study
    workers : int
        Local worker processes that the run will have.
    only : mapping, optional
        As `l3muscle.runner.run_study` takes it.
    say : callable
        Takes one line of text for the person who waits.

    Returns
    -------
    Forecast
    """
    profile, phantom_seconds, reading_seconds = study.profile, 0.0, 0.0
    if study.is_phantom and not study.cohort_folder.is_dir():
        say("no phantom yet: drawing a few patients to see how long all will take")
        stand_in, phantom_seconds, reading_seconds = _stand_in(study, workers)
        study = Study(profile, runs=study.folder.parent, cohort_folder=study.cohort_folder)
        study.cohort = stand_in
    started = time.perf_counter()
    wanted = set(choose([job.experiment for job in study.jobs], only or {}))
    jobs = [job for job in study.jobs if job.experiment in wanted]
    missing = [job for job in jobs if study.store.record("experiments", job.key) is None]
    untaught = sources_missing(study, missing)
    learned = [task for task in untaught if not is_published(profile, task)]
    if not missing:
        return Forecast(0, 0, phantom_seconds, 0.0, 0.0, 0.0, workers, 0, 0, False)
    largest = max(missing, key=lambda job: job.experiment.n_train)
    costs: dict[str | None, Cost] = {}
    known = _cost_from_records(study)
    if known is not None:
        costs[None] = known
    tried = [task for task in (None, *learned) if task not in costs]
    say("trying a few steps of each training" if tried else "going by the experiments that are done")
    if tried and workers == 1:
        # Such a run trains in its own process.
        prepared = study.prepared
        start_seconds = reading_seconds + time.perf_counter() - started
        costs |= {task: _measure(profile, task, largest, prepared) for task in tried}
    elif tried:
        with local_client(workers) as client:
            prepared = client.scatter(study.prepared, broadcast=True)
            # A worker's first task pays for its imports.
            client.gather([client.submit(_peak_memory, pure=False) for _ in range(workers)])
            start_seconds = reading_seconds + time.perf_counter() - started
            # The target task, of which there are most, on every worker; enough others to keep all of them busy.
            kinds = [task for task in tried for _ in range(workers if task is None else 1)]
            kinds += kinds[-1:] * (-len(kinds) % workers)
            trials = [client.submit(_measure, profile, task, largest, prepared, pure=False) for task in kinds]
            measured = list(zip(kinds, client.gather(trials), strict=True))
        for task in tried:
            own = [cost for kind, cost in measured if kind == task]
            mean = {name: float(np.mean([getattr(cost, name) for cost in own])) for name in _LINE}
            costs[task] = replace(own[0], **mean, memory=max(cost.memory for cost in own))
    else:
        start_seconds = time.perf_counter() - started
    target = costs[None]
    training = profile.training
    source_seconds = sum(
        costs[task].seconds(source_settings(profile, task).steps, source_settings(profile, task).validate_every)
        for task in learned
    )
    kept = sum(job.keep_weights for job in missing)
    return Forecast(
        experiments=len(missing),
        sources=len(untaught),
        phantom_seconds=phantom_seconds,
        start_seconds=start_seconds,
        source_seconds=source_seconds,
        experiment_seconds=len(missing) * target.seconds(training.max_steps, training.validate_every),
        workers=workers,
        memory=workers * max(cost.memory for cost in costs.values())
        + (psutil.Process().memory_info().rss if workers > 1 else 0),
        disk=len(missing) * target.stored
        + kept * target.weights
        + sum(costs[task].stored + costs[task].weights for task in learned),
        at_most=training.schedule == "constant",
    )
