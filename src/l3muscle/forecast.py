"""What a run will cost on this machine, before it starts: time, memory and disk, from a short trial of its own work.

Every part of the cost is a straight line: a fixed part, so much a training step, so much a validation. Three short
trainings with the run's own network, images and settings give the three numbers, taken on as many processes at once as
the run will have, because processes that share a memory bus slow each other down.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from l3muscle.cohort import Cohort, load_cohort
from l3muscle.cohort.phantom import write_phantom
from l3muscle.profile import Profile
from l3muscle.runner import local_client
from l3muscle.store import Artefact, Store
from l3muscle.study import Job, PreparedCohort, Study, is_published, run_experiment, source_settings, train_source

TRIAL_SECONDS = 0.8  # of training in one trial
TRIAL_PATIENTS = 12  # drawn where the phantom is not there yet


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


def _measure(profile: Profile, source_task: str | None, job: Job, prepared: PreparedCohort) -> Cost:
    """Time short trainings of one kind in this process; the first one only warms up."""

    def timed(steps: int, validate_every: int) -> tuple[float, Artefact]:
        short = _shortened(profile, source_task, steps, validate_every)
        started = time.perf_counter()
        if source_task is None:
            artefact = run_experiment(replace(job, profile=short, keep_weights=True), prepared, None)
        else:
            artefact = train_source(short, source_task, prepared)
        return time.perf_counter() - started, artefact

    timed(1, 1)
    one, _ = timed(1, 1)
    three, _ = timed(3, 3)
    steps = max(2, min(round(TRIAL_SECONDS / max((three - one) / 2, 1e-4)), 200) // 2 * 2)
    base, artefact = timed(steps, steps)
    longer, _ = timed(2 * steps, 2 * steps)
    twice, _ = timed(steps, steps // 2)
    step = max(longer - base, 0.0) / steps
    validation = max(twice - base, 0.0)
    stored, weights = _size(artefact)
    return Cost(max(base - steps * step - validation, 0.0), step, validation, stored, weights, _peak_memory())


def _stand_in(study: Study, workers: int) -> tuple[Cohort, float, float]:
    """A few phantoms repeated to the cohort's size, and how long drawing and reading all of them will take."""
    settings = study.profile.cohort
    few = min(TRIAL_PATIENTS, settings.patients)
    observed = max(1, round(few * settings.test_patients / settings.patients))
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "phantom"
        started = time.perf_counter()
        write_phantom(
            folder,
            patients=few,
            seed=settings.seed,
            size=settings.size,
            setting=settings.setting,
            test_patients=observed,
            workers=workers,
        )
        drawn = time.perf_counter()
        cohort = load_cohort(folder)
        read = time.perf_counter()
    places = np.arange(settings.patients) % few
    first_test = settings.patients - settings.test_patients
    names = tuple(f"trial {index:05d}" for index in range(settings.patients))
    outlines = list(cohort.observers.values())
    return (
        Cohort(
            images=cohort.images[places],
            masks=cohort.masks[places],
            spacing=cohort.spacing[places],
            patient_ids=names,
            observers={name: outlines[index % len(outlines)] for index, name in enumerate(names[first_test:])},
        ),
        (drawn - started) / few * settings.patients,
        (read - drawn) / few * settings.patients,
    )


def forecast(study: Study, *, workers: int = 1, say: Callable[[str], None] = print) -> Forecast:
    """Predict what is missing of a run, its time, memory and disk, on this machine.

    Nothing is written to the run's folder. Trainings that may end early, when their losses have saturated, are counted
    with all their steps.

    Parameters
    ----------
    study : Study
    workers : int
        Local worker processes that the run will have.
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
    missing = [job for job in study.jobs if study.store.record("experiments", job.key) is None]
    untaught = [task for task in study.source_tasks() if study.store.record("sources", study.source_key(task)) is None]
    learned = [task for task in untaught if not is_published(profile, task)]
    if not missing:
        return Forecast(0, 0, phantom_seconds, 0.0, 0.0, 0.0, workers, 0, 0, False)
    largest = max(missing, key=lambda job: job.experiment.n_train)
    costs: dict[str | None, Cost] = {}
    say("trying a few steps of each training")
    with local_client(workers) as client:
        prepared = client.scatter(study.prepared, broadcast=True)
        # A worker's first task pays for its imports.
        client.gather([client.submit(_peak_memory, pure=False) for _ in range(workers)])
        start_seconds = reading_seconds + time.perf_counter() - started
        for task in (None, *learned):
            # On every worker at once, as the run will have it.
            trials = [client.submit(_measure, profile, task, largest, prepared, pure=False) for _ in range(workers)]
            measured = client.gather(trials)
            mean = {
                name: float(np.mean([getattr(c, name) for c in measured])) for name in ("fixed", "step", "validation")
            }
            costs[task] = replace(measured[0], **mean, memory=max(c.memory for c in measured))
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
        memory=workers * max(cost.memory for cost in costs.values()) + psutil.Process().memory_info().rss,
        disk=len(missing) * target.stored
        + kept * target.weights
        + sum(costs[task].stored + costs[task].weights for task in learned),
        at_most=training.schedule == "constant",
    )
