"""A place to try things out: one small training at a time, watched while it goes on.

Nothing is ever written beside a stored study. What is needed of one is copied to a scratch folder and read there, as a
store sets damaged artefacts aside; without one, a small phantom is drawn and source tasks are learned briefly.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Generator, Tensor

from l3muscle import runtime
from l3muscle.errors import L3MuscleError
from l3muscle.metrics import dice
from l3muscle.models import FCN, transfer_weights
from l3muscle.phantom.patients import write_phantom
from l3muscle.preprocess import restore_mask, to_network_input
from l3muscle.profile import AugmentationSettings, Positive, Profile, Settings, SourceTask, load_profile
from l3muscle.segmenter.model_file import build_network
from l3muscle.store import Store
from l3muscle.study import (
    Study,
    StudyError,
    StudyResults,
    is_published,
    open_results,
    predict_test,
    source_settings,
    train_source,
)
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import CurvePoint, Loop, TrainingPaused, fit

# Of the phantom that is drawn where no study is stored; a profile with less keeps its own.
PATIENTS, TEST_PATIENTS, SIZE = 40, 12, 256
SHORTER = 10  # a source task that is learned here gets one of so many steps of the profile
VALIDATIONS = 10  # of one training, and pictures
MARGIN = 18  # about a watched outline, one of so many parts of the slice
STRONGEST = 3.0  # augmentation, as a multiple of the profile's
Say = Callable[[str], None]


class PlaygroundError(L3MuscleError):
    """A training that cannot be tried."""


class Choice(Settings):
    """What can be changed from one training to the next."""

    source_task: SourceTask = "segmentation"
    n_train: Positive = 10  # annotated slices
    fold: Annotated[int, Field(ge=0)] = 0  # which part of the patients validates
    seed: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # of the order of slices and of their augmentation
    bce_weight: Annotated[float, Field(ge=0, le=10)] = 1.0
    dice_weight: Annotated[float, Field(ge=0, le=10)] = 1.0
    augmentation: Annotated[float, Field(ge=0, le=STRONGEST)] = 1.0  # 0 for none, 1 for the profile's
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    steps: Annotated[int, Field(ge=2, le=2_000)] = 160


# What a notebook's parameters of these names may be, as `l3muscle.parameters.check_parameters` takes it.
LIMITS = {name: Annotated[field.annotation, field] for name, field in Choice.model_fields.items()}


@dataclass(frozen=True)
class Snapshot:
    """One slice's outline at a validation.

    Attributes
    ----------
    step : int
    outline : ndarray, (H, W) bool
    dice : float
        With the expert's.
    """

    step: int
    outline: np.ndarray
    dice: float


@dataclass(frozen=True)
class Watched:
    """The test slice whose outline is followed.

    Attributes
    ----------
    patient_id : str
    hu : ndarray, (H, W)
    spacing : (float, float)
        Row and column spacing, mm.
    expert : ndarray, (H, W) bool
    """

    patient_id: str
    hu: np.ndarray
    spacing: tuple[float, float]
    expert: np.ndarray

    def box(self) -> tuple[slice, slice]:
        """The part of the slice that is worth looking at: the expert's outline and a margin."""
        edges = []
        for axis in (1, 0):
            inside = np.flatnonzero(self.expert.any(axis))
            margin = len(self.hu) // MARGIN
            edges.append(slice(max(inside[0] - margin, 0), inside[-1] + margin + 1))
        return edges[0], edges[1]


@dataclass(frozen=True)
class Run:
    """A training and what came of it.

    Attributes
    ----------
    choice : Choice
    start : str
        Where the source weights come from.
    curve : DataFrame
        One row a validation: step, train_loss, validation_loss.
    watched : Watched
    snapshots : tuple of Snapshot
        One a validation.
    scores : Series
        Dice of each test slice with the weights of lowest validation loss, by patient.
    best_step : int
        When those were.
    stopped : str
        As `l3muscle.training.Fit.stopped`, or `"stopped by hand"`.
    seconds : float
        Wall time, without what a source task took to learn.
    """

    choice: Choice
    start: str
    curve: pd.DataFrame
    watched: Watched
    snapshots: tuple[Snapshot, ...]
    scores: pd.Series
    best_step: int
    stopped: str
    seconds: float

    def film(self, pictures: int = 3) -> list[tuple[str, np.ndarray, tuple[float, float], dict[str, np.ndarray]]]:
        """The watched outline from the first validation to the last, as `l3muscle.figures.outlines` takes slices."""
        places = np.unique(np.linspace(0, len(self.snapshots) - 1, pictures).round().astype(int))
        box = self.watched.box()
        film = []
        for shot in (self.snapshots[place] for place in places):
            masks = {"expert": self.watched.expert, "network": shot.outline}
            shown = {name: mask[box] for name, mask in masks.items() if mask[box].any()}
            film.append((f"step {shot.step}, Dice {shot.dice:.2f}", self.watched.hu[box], self.watched.spacing, shown))
        return film


def strengthened(settings: AugmentationSettings, strength: float) -> AugmentationSettings:
    """The same augmentation, `strength` times as far: turns, scalings and shifts grow, flips stop at the profile's.

    Parameters
    ----------
    settings : AugmentationSettings
    strength : float
        0 leaves every slice as it is, 1 changes nothing.
    """
    return AugmentationSettings(
        flip_probability=settings.flip_probability * min(strength, 1.0),
        rotation_degrees=min(settings.rotation_degrees * strength, 180.0),
        rotation_probability=settings.rotation_probability,
        scale=min(settings.scale * strength, 0.9),
        scale_probability=settings.scale_probability,
        elastic_nodes=settings.elastic_nodes,
        elastic_shift=min(settings.elastic_shift * strength, 0.9),
        elastic_probability=settings.elastic_probability,
    )


class _StopSign:
    """A checkpoint of `l3muscle.training.fit` that is due when somebody has had enough, and keeps the best weights."""

    def __init__(self, raised: threading.Event) -> None:
        self._raised = raised
        self.weights: dict[str, Tensor] = {}
        self.best_step = 0

    def due(self) -> bool:
        return False

    def out_of_time(self) -> bool:
        return self._raised.is_set()

    def save(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        best = "best/"
        self.weights = {name.removeprefix(best): value for name, value in tensors.items() if name.startswith(best)}
        self.best_step = values["best"][1]

    def load(self) -> None:
        return None


class _Counted(MuscleSegmentation):
    """The target task, telling of every batch that it gives out."""

    def __init__(self, *arguments: Any, on_step: Callable[[int], None]) -> None:
        super().__init__(*arguments)
        self._on_step, self._steps = on_step, 0

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        self._steps += 1
        self._on_step(self._steps)
        return super().training_batch(generator)


class Playground:
    """Trains one model after another on one cohort. Made by `open_playground`.

    Parameters
    ----------
    study : Study
        Of the profile and the cohort, in a scratch folder.
    results : StudyResults or None
        The stored study, where there is one.
    scratch : TemporaryDirectory
        Goes with the playground.
    about : str
        Whose slices these are, as a sentence.
    """

    def __init__(
        self, study: Study, results: StudyResults | None, scratch: tempfile.TemporaryDirectory, about: str
    ) -> None:
        self.study, self.results, self.about = study, results, about
        self._scratch = scratch
        self._copies = Store(Path(scratch.name) / "copies")
        self._sources: dict[str, tuple[dict[str, Tensor] | None, str]] = {"random": (None, "random weights")}
        self._of_study: dict[tuple[str, int], tuple[float, int] | None] = {}

    @property
    def profile(self) -> Profile:
        """Settings of every training, as far as a `Choice` does not change them."""
        return self.study.profile

    @property
    def largest(self) -> int:
        """The largest training set that the cohort allows."""
        return min(len(order) for subsets in self.study.splits.orders for order in subsets)

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.study.splits.folds)

    @property
    def test_ids(self) -> tuple[str, ...]:
        """Patients of the test slices."""
        return self.study.prepared.test_ids

    def usual(self) -> Choice:
        """The profile's own settings, with a small training set."""
        settings = self.profile.training
        return Choice(
            n_train=min(10, self.largest),
            bce_weight=settings.bce_weight,
            dice_weight=settings.dice_weight,
            learning_rate=settings.learning_rate_fine_tune,
            steps=settings.max_steps,
        )

    def _copied(self, kind: str, key: str | None) -> dict[str, Any] | None:
        """Record of a stored artefact, once it is copied to the scratch store; None where none is sound."""
        if self.results is None or key is None:
            return None
        place = self.results.store.folder(kind, key)
        if place.is_dir() and not self._copies.folder(kind, key).exists():
            shutil.copytree(place, self._copies.folder(kind, key))
        return self._copies.record(kind, key)

    def source(self, source_task: str, *, say: Say = print) -> tuple[dict[str, Tensor] | None, str]:
        """Weights to start from and where they come from: the stored study's, or learned here once, and briefly."""
        if source_task not in self._sources:
            key = None if self.results is None else self.results.plan["sources"].get(source_task)
            record = self._copied("sources", key)
            if record is not None:
                weights, words = self._copies.weights("sources", key), f"{record['kind']}, of the stored study"
            else:
                weights, words = self._learn(source_task, say)
            self._sources[source_task] = weights, words
        return self._sources[source_task]

    def _learn(self, source_task: str, say: Say) -> tuple[dict[str, Tensor], str]:
        if is_published(self.profile, source_task):
            artefact = train_source(self.profile, source_task, self.study.prepared)
            return dict(artefact.weights["weights"]), f"published weights {artefact.record['kind']}"
        whole = source_settings(self.profile, source_task)
        steps = max(whole.steps // SHORTER, 2)
        say(f"Learning the source task {source_task} first: {steps} steps, once.")
        shorter = whole.model_copy(update={"steps": steps, "validate_every": min(whole.validate_every, steps)})
        sources = self.profile.sources
        name = next(name for name in type(sources).model_fields if getattr(sources, name) is whole)
        profile = self.profile.model_copy(update={"sources": sources.model_copy(update={name: shorter})})
        artefact = train_source(profile, source_task, self.study.prepared)
        return dict(artefact.weights["weights"]), f"{artefact.record['kind']}, learned here in {steps} steps"

    def check(self, choice: Choice) -> None:
        """Raise a `PlaygroundError` for a choice that this cohort does not allow, or that leaves nothing to learn."""
        if choice.n_train > self.largest:
            raise PlaygroundError(
                f"n_train = {choice.n_train} does not fit: this cohort leaves {self.largest} slices to train on"
            )
        if choice.fold >= self.folds:
            raise PlaygroundError(f"fold = {choice.fold}: there are {self.folds} folds, counted from 0")
        if not choice.bce_weight + choice.dice_weight:
            raise PlaygroundError("with both loss weights at 0 there is nothing to learn; raise one of them")

    def watched(self, patient_id: str | None = None) -> Watched:
        """A test slice; the first where none is named."""
        prepared = self.study.prepared
        if patient_id is not None and patient_id not in prepared.test_ids:
            raise PlaygroundError(f"{patient_id!r} is no test slice; there are {', '.join(prepared.test_ids)}")
        place = 0 if patient_id is None else prepared.test_ids.index(patient_id)
        row, column = prepared.test_spacing[place]
        return Watched(
            prepared.test_ids[place], prepared.test_hu[place], (float(row), float(column)), prepared.test_masks[place]
        )

    def train(
        self,
        choice: Choice,
        *,
        watch: str | None = None,
        on_snapshot: Callable[[pd.DataFrame, Snapshot], None] | None = None,
        on_step: Callable[[int], None] = lambda step: None,
        stop: threading.Event | None = None,
        say: Say = print,
    ) -> Run:
        """Fine-tune one model as the study does, and outline the test slices with it.

        Parameters
        ----------
        choice : Choice
        watch : str, optional
            Patient whose outline is followed; by default the first test patient.
        on_snapshot : callable, optional
            Called at each validation with the curve so far and the outline.
        on_step : callable
            Called with the number of each step as it begins.
        stop : threading.Event, optional
            Set by somebody who has had enough: the training ends at the next validation, with its best weights.
        say : callable
            Takes one line of text: what takes a while.

        Returns
        -------
        Run

        Raises
        ------
        PlaygroundError
            If the choice does not fit the cohort, or leaves nothing to learn.
        TrainingError
            If the loss is not finite before the first validation.
        """
        self.check(choice)
        prepared, splits = self.study.prepared, self.study.splits
        settings = self.profile.training
        device = runtime.begin_training(threads=self.profile.threads_per_worker, deterministic=settings.deterministic)
        weights, start = self.source(choice.source_task, say=say)
        watched = self.watched(watch)
        started = time.perf_counter()
        # The study's own seed: a stored experiment draws the same slices in the same order.
        place = (choice.source_task, choice.n_train, choice.fold, 0, choice.seed)
        seed = runtime.seed_of("experiment", self.profile.grid.seed, *place)
        torch.manual_seed(seed)
        network = build_network(self.profile.network)
        if weights is not None:
            transfer_weights(weights, network)
        changed = {"bce_weight": choice.bce_weight, "dice_weight": choice.dice_weight}
        settings = settings.model_copy(update=changed)
        training_ids = splits.training_ids(choice.fold, 0, choice.n_train)
        task = _Counted(
            *(part.to(device) for part in prepared.select(training_ids)),
            *(part.to(device) for part in prepared.select(splits.validation_ids(choice.fold))),
            settings,
            strengthened(self.profile.augmentation, choice.augmentation),
            on_step=on_step,
        )
        loop = Loop(
            learning_rate=choice.learning_rate,
            max_steps=choice.steps,
            validate_every=-(-choice.steps // VALIDATIONS),
            patience=VALIDATIONS,
            schedule=settings.schedule,
            precision=runtime.resolve_precision(settings.precision, device),
            device=device,
        )
        curve: list[dict[str, float]] = []
        snapshots: list[Snapshot] = []

        def look(point: CurvePoint) -> None:
            outline = self._outline(network, watched.patient_id, device)
            curve.append({name: value for name, value in asdict(point).items() if value is not None})
            snapshots.append(Snapshot(point.step, outline, dice(outline, watched.expert)))
            if on_snapshot is not None:
                on_snapshot(pd.DataFrame(curve), snapshots[-1])

        sign = _StopSign(stop or threading.Event())
        generator = Generator().manual_seed(seed)
        try:
            outcome = fit(network, task, loop, generator=generator, checkpoint=sign, on_validation=look)
            best, best_step, stopped = outcome.weights, outcome.best_step, outcome.stopped
        except TrainingPaused:
            best, best_step, stopped = sign.weights, sign.best_step, "stopped by hand"
        network.load_state_dict(best)
        outlines = predict_test(network, prepared, device)
        scores = [dice(outline, expert) for outline, expert in zip(outlines, prepared.test_masks, strict=True)]
        return Run(
            choice,
            start,
            pd.DataFrame(curve),
            watched,
            tuple(snapshots),
            pd.Series(scores, index=list(prepared.test_ids), name="dice"),
            best_step,
            stopped,
            time.perf_counter() - started,
        )

    def _outline(self, network: FCN, patient_id: str, device: str) -> np.ndarray:
        """The network's present outline of one test slice, on the slice's own grid."""
        prepared = self.study.prepared
        place = prepared.test_ids.index(patient_id)
        images, _ = prepared.select([patient_id])
        network.eval()
        with torch.inference_mode():
            logits = network(to_network_input(images).to(device)).cpu()
        network.train()
        return restore_mask(logits[0], prepared.test_frames[place], prepared.test_hu.shape[1:])

    def of_study(self, choice: Choice) -> tuple[float, int] | None:
        """Mean Dice of the stored study at this source task and n, and over how many models; None where it has none."""
        cell = (choice.source_task, choice.n_train)
        if cell not in self._of_study:
            entries = [] if self.results is None else self.results.plan["experiments"]
            keys = [entry["key"] for entry in entries if (entry["source_task"], entry["n_train"]) == cell]
            stored = [key for key in keys if self._copied("experiments", key) is not None]
            means = [self._copies.table("experiments", key, "scores")["dice"].mean() for key in stored]
            self._of_study[cell] = (float(np.mean(means)), len(means)) if means else None
        return self._of_study[cell]


def open_playground(profile: str, runs: str | Path = "runs", *, workers: int = 2, say: Say = print) -> Playground:
    """Open a playground on the cohort and the source tasks of a stored study, or without one on a small phantom.

    Parameters
    ----------
    profile : str
    runs : str or Path
        As in `l3muscle.study.open_results`; it is only read.
    workers : int
        Processes that draw the small phantom.
    say : callable
        Takes one line of text: what takes a while.
    """
    scratch = tempfile.TemporaryDirectory(prefix="l3muscle-play-")
    try:
        results = open_results(profile, runs)
    except StudyError:
        results = None
    if results is not None and results.cohort_folder.is_dir():
        whose = "the phantoms" if results.plan["phantom"] else "the slices"
        about = f"On {whose} of the stored study, {results.plan['patients']} patients, and from its source tasks."
        say(f"Reading the cohort of the stored study: {results.plan['patients']} patients.")
        study = Study(
            results.profile,
            runs=Path(scratch.name),
            cohort_folder=results.cohort_folder,
            usable_only=results.plan.get("usable_only", False),
        )
    else:
        settings = load_profile(profile) if results is None else results.profile
        study = _small_phantom(settings, Path(scratch.name), workers, say)
        about = f"On {len(study.cohort)} phantoms drawn for this session: the cohort of a stored study is not there."
    playground = Playground(study, results, scratch, about)
    study.prepared  # noqa: B018  reads and prepares every slice now, not at the first training
    return playground


def _small_phantom(profile: Profile, scratch: Path, workers: int, say: Say) -> Study:
    cohort, folder = profile.cohort, scratch / "phantom"
    patients, size = min(cohort.patients, PATIENTS), min(cohort.size, SIZE)
    held_out = min(cohort.test_patients, TEST_PATIENTS)
    say(f"Drawing a small phantom cohort: {patients} patients, once a session.")
    # No observers: nothing here is compared with them.
    write_phantom(
        folder,
        patients=patients,
        seed=cohort.seed,
        size=size,
        setting=cohort.setting,
        test_patients=0,
        workers=workers,
    )
    small = cohort.model_copy(update={"patients": patients, "test_patients": held_out, "size": size})
    grid = profile.grid.model_copy(update={"sizes": (1,)})
    changed = profile.model_copy(update={"cohort": small, "grid": grid})
    return Study(changed, runs=scratch, cohort_folder=folder)
