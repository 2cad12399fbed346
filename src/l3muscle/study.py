"""The study: its grid of experiments, what decides the outcome of each, and how one is run (Sections 2.1 to 2.3)."""

import ast
import hashlib
import inspect
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from l3muscle import augment, losses, metrics, models, preprocess, runtime, target_task, training
from l3muscle.checkpoint import CheckpointFile
from l3muscle.cohort import Cohort, load_cohort
from l3muscle.cohort import ct as ct_files
from l3muscle.cohort.splits import Splits, SplitsError, make_splits
from l3muscle.drafts import remove, remove_abandoned, set_aside
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import Reference
from l3muscle.models import build_fcn, build_trunk, transfer_weights
from l3muscle.phantom import anatomy, canvas, observers, patients
from l3muscle.phantom.patients import PhantomError
from l3muscle.preprocess import Frame, frame_of, prepare_image, prepare_mask, restore_mask, to_network_input
from l3muscle.pretext import fractals, jigsaw, reconstruction, scenes, unlabelled
from l3muscle.pretext.fractals import ProceduralClassification, ResNetClassifier, torchvision_names
from l3muscle.pretext.jigsaw import Jigsaw, JigsawNetwork
from l3muscle.pretext.pretrained import load_natural
from l3muscle.pretext.reconstruction import Reconstruction
from l3muscle.pretext.scenes import ProceduralSegmentation
from l3muscle.profile import NATURAL_TASKS, Profile, SourceTrainingSettings, load_profile
from l3muscle.segmenter.model_file import ModelFileError, load_model, save_model
from l3muscle.store import Artefact, Store, StoreError, checked_folder, damaged_file, unsealed
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import Fit, Loop, Task, TrainingPaused, fit

# Editing one of these can change the phantom, or the outcome of an experiment: their code is part of the identity.
PHANTOM_MODULES = (anatomy, canvas, ct_files, observers, patients)
METHOD_MODULES = (augment, losses, metrics, models, preprocess, target_task, training)
# The same for a source task that is learned here; `models`, `preprocess` and `training` count for all of them.
SOURCE_MODULES = {
    "classification": (fractals,),
    "segmentation": (scenes,),
    "reconstruction": (augment, reconstruction, unlabelled),
    "jigsaw": (augment, jigsaw, unlabelled),
}
COHORT_TASKS = ("reconstruction", "jigsaw")  # learned from the cohort's own slices
PREDICTION_BATCH = 16
PLAN, SPLITS, FAILURES, MODEL = "plan.json", "splits.json", "failed.json", "model.safetensors"
PLAN_FORMAT = 2  # of plan.json; a reader refuses any other
EXAMPLES = 3  # kept of a source task, for a picture


class StudyError(L3MuscleError):
    """A study that is not there or cannot go on."""


@dataclass(frozen=True, order=True)
class Experiment:
    """One fine-tuned model: where it stands in the grid."""

    source_task: str
    n_train: int
    fold: int
    subset: int
    repeat: int

    def __str__(self) -> str:
        return f"{self.source_task} n={self.n_train} fold {self.fold} subset {self.subset} repeat {self.repeat}"


AXES = tuple(field.name for field in fields(Experiment))


def experiments(profile: Profile) -> list[Experiment]:
    """All experiments of a profile, ordered so that every beginning of the list is as balanced as it can be.

    Repeats, subsets and folds vary slowest: an interrupted study has the same number of models, give or take one, in
    every cell of source task and training-set size.
    """
    grid = profile.grid
    return [
        Experiment(source_task, n_train, fold, subset, repeat)
        for repeat, subset, fold, n_train, source_task in itertools.product(
            range(grid.repeats), range(grid.subsets), range(grid.folds), grid.sizes, grid.source_tasks
        )
    ]


def choose(chosen: Sequence[Experiment], only: Mapping[str, Collection[Any]]) -> list[Experiment]:
    """Those of some experiments that have one of the wanted values on every axis.

    Parameters
    ----------
    chosen : sequence of Experiment
    only : mapping of str to collection
        Wanted values by axis (`source_task`, `n_train`, `fold`, `subset`, `repeat`); an axis without any is free.

    Returns
    -------
    list of Experiment
        In their order.

    Raises
    ------
    StudyError
        For an axis that does not exist, or a value that no experiment has.
    """
    for axis, wanted in only.items():
        if axis not in AXES:
            raise StudyError(f"experiments have no {axis!r}; they have {', '.join(AXES)}")
        there = dict.fromkeys(getattr(experiment, axis) for experiment in chosen)
        for value in wanted:
            if value not in there:
                raise StudyError(f"the grid has no {axis} {value}; it has {', '.join(map(str, there))}")
    return [
        experiment
        for experiment in chosen
        if all(not wanted or getattr(experiment, axis) in wanted for axis, wanted in only.items())
    ]


@cache
def _code_digest(module: ModuleType) -> str:
    """Hash of what a module does: comments and docstrings do not count."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def method_digest() -> str:
    """Hash of all code that decides outcomes: machines may share a study only if theirs agree."""
    modules = {*METHOD_MODULES, *itertools.chain.from_iterable(SOURCE_MODULES.values())}
    return _key({module.__name__: _code_digest(module) for module in modules})


def _key(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class PreparedCohort:
    """A cohort as the experiments use it: network-sized tensors of all patients, full slices of the test patients.

    Attributes
    ----------
    patient_ids : tuple of str
    images, masks : Tensor, (N, 1, rows, columns)
    test_ids : tuple of str
    test_hu, test_masks : ndarray, (n_test, H, W)
    test_spacing : ndarray, (n_test, 2), mm
    test_frames : tuple of Frame
    """

    patient_ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    test_ids: tuple[str, ...]
    test_hu: np.ndarray
    test_masks: np.ndarray
    test_spacing: np.ndarray
    test_frames: tuple[Frame, ...]

    def select(self, patient_ids: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Images and masks of these patients, in this order."""
        places = {patient: index for index, patient in enumerate(self.patient_ids)}
        chosen = [places[patient] for patient in patient_ids]
        return self.images[chosen], self.masks[chosen]

    @property
    def source_ids(self) -> tuple[str, ...]:
        """The full training set: every patient who is not held out for testing."""
        held_out = set(self.test_ids)
        return tuple(patient for patient in self.patient_ids if patient not in held_out)

    @cached_property
    def references(self) -> list[Reference]:
        """What belongs to each expert outline of the test set, computed once."""
        return [
            Reference(mask, hu, spacing)
            for mask, hu, spacing in zip(self.test_masks, self.test_hu, self.test_spacing, strict=True)
        ]


def prepare(cohort: Cohort, test_ids: Iterable[str], profile: Profile) -> PreparedCohort:
    """Bring a cohort to network size, once for all experiments."""
    settings = profile.image
    frames = [frame_of(hu, spacing, settings) for hu, spacing in zip(cohort.images, cohort.spacing, strict=True)]
    test_ids = tuple(test_ids)
    places = [cohort.index(patient) for patient in test_ids]
    return PreparedCohort(
        patient_ids=tuple(cohort.patient_ids),
        images=torch.stack(
            [prepare_image(hu, frame, settings) for hu, frame in zip(cohort.images, frames, strict=True)]
        ),
        masks=torch.stack(
            [prepare_mask(mask, frame, settings) for mask, frame in zip(cohort.masks, frames, strict=True)]
        ),
        test_ids=test_ids,
        test_hu=cohort.images[places],
        test_masks=cohort.masks[places],
        test_spacing=cohort.spacing[places],
        test_frames=tuple(frames[place] for place in places),
    )


@dataclass(frozen=True)
class Job:
    """One experiment with everything a worker needs besides the prepared cohort and the source weights."""

    experiment: Experiment
    key: str
    profile: Profile
    training_ids: tuple[str, ...]
    validation_ids: tuple[str, ...]
    keep_weights: bool
    code: str  # `method_digest` of the machine that gives out the job


def _build(profile: Profile, out_channels: int) -> models.FCN:
    network = profile.network
    return build_fcn(
        network.backbone, width=network.width, output_stride=network.output_stride, out_channels=out_channels
    )


def _curve_table(outcome: Fit) -> pd.DataFrame:
    return pd.DataFrame([asdict(point) for point in outcome.curve]).dropna(axis=1, how="all")


def _record(profile: Profile, outcome: Fit, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        **more,
        "best_step": outcome.best_step,
        "best_validation_loss": min(point.validation_loss for point in outcome.curve),
        "steps": outcome.curve[-1].step,
        "stopped": outcome.stopped,
        "resumed_at": outcome.resumed_at,
        "seconds": round(seconds, 3),
        "fit_seconds": round(outcome.seconds, 3),
        "validation_seconds": round(outcome.validation_seconds, 3),
        "threads": torch.get_num_threads(),
        "profile": profile.name,
        "provenance": runtime.provenance(),
    }


def _fit(
    network: torch.nn.Module, task: Task, loop: Loop, *, seed: int, checkpoint: Path | None, deadline: float | None
) -> Fit | None:
    """`fit`, or None where the deadline came first and the state waits in the checkpoint."""
    place = None if checkpoint is None else CheckpointFile(checkpoint, deadline=deadline)
    try:
        return fit(network, task, loop, generator=torch.Generator().manual_seed(seed), checkpoint=place)
    except TrainingPaused:
        return None


def _loop(profile: Profile, device: str, **settings: Any) -> Loop:
    precision = runtime.resolve_precision(profile.training.precision, device)
    return Loop(precision=precision, compiled=profile.training.compiled, device=device, **settings)


def _trunk(profile: Profile) -> torch.nn.Sequential:
    network = profile.network
    return build_trunk(network.backbone, width=network.width, output_stride=network.output_stride)


def source_settings(profile: Profile, source_task: str) -> SourceTrainingSettings:
    """Settings of a source task that is learned here."""
    name = source_task if source_task in COHORT_TASKS else f"procedural_{source_task}"
    return getattr(profile.sources, name)


def is_published(profile: Profile, source_task: str) -> bool:
    """Whether a source task's weights are torchvision's instead of learned here."""
    return source_task in NATURAL_TASKS and getattr(profile.sources, source_task) != "procedural"


def train_source(
    profile: Profile,
    source_task: str,
    prepared: PreparedCohort,
    *,
    checkpoint: Path | None = None,
    deadline: float | None = None,
) -> Artefact | None:
    """Learn a source task, or load its published weights (Section 2.2).

    Parameters
    ----------
    profile : Profile
    source_task : str
        Any but `"random"`.
    prepared : PreparedCohort
        Reconstruction and jigsaw learn from all its patients but the test patients, without their outlines.
    checkpoint : Path, optional
        Where a long training keeps its state, and one that was interrupted finds it.
    deadline : float, optional
        When to leave the state there and stop, as `time.time()` counts.

    Returns
    -------
    Artefact or None
        None at the deadline. `weights`; in the record, how they came about (`kind`) and what moves into the target
        network (`transfer`). For a task learned here also the table `curve`; for those on the cohort's slices the array
        set `examples`.
    """
    if is_published(profile, source_task):
        started = time.perf_counter()
        weights = load_natural(profile, source_task)
        record = {
            "source_task": source_task,
            "kind": getattr(profile.sources, source_task),
            "transfer": _transfer_record(weights, profile),
            "seconds": round(time.perf_counter() - started, 3),
            "profile": profile.name,
            "provenance": runtime.provenance(),
        }
        # safetensors takes no views into one storage.
        return Artefact(record=record, weights={"weights": {n: v.clone().contiguous() for n, v in weights.items()}})
    started = time.perf_counter()
    device = runtime.begin_training(threads=profile.threads_per_worker, deterministic=profile.training.deterministic)
    settings = source_settings(profile, source_task)
    seed = runtime.seed_of("source", source_task, profile.sources.seed)
    torch.manual_seed(seed)
    network, task = _network_and_task(profile, source_task, prepared, seed, device)
    outcome = _fit(
        network,
        task,
        _loop(
            profile,
            device,
            learning_rate=settings.learning_rate,
            schedule=settings.schedule,
            max_steps=settings.steps,
            validate_every=settings.validate_every,
            patience=settings.patience,
            min_improvement=profile.training.min_improvement,
        ),
        seed=seed,
        checkpoint=checkpoint,
        deadline=deadline,
    )
    if outcome is None:
        return None
    network.load_state_dict(outcome.weights)
    curve, more, weights = _curve_table(outcome), {}, outcome.weights
    if "validation_accuracy" in curve:
        best = curve.loc[curve["step"] == outcome.best_step, "validation_accuracy"].item()
        more = {"validation_accuracy": best, "chance": 1 / task.classes}
    if source_task == "classification":
        weights = torchvision_names(weights)
    if source_task in COHORT_TASKS:
        more["patients"] = {"training": len(task.slices.training), "validation": len(task.slices.validation)}
    return Artefact(
        record=_record(
            profile,
            outcome,
            time.perf_counter() - started,
            source_task=source_task,
            kind="cohort" if source_task in COHORT_TASKS else "procedural",
            transfer=_transfer_record(weights, profile),
            **more,
        ),
        tables={"curve": curve},
        arrays={"examples": task.examples(network, device, EXAMPLES)} if source_task in COHORT_TASKS else {},
        weights={"weights": weights},
    )


def _transfer_record(weights: Mapping[str, Tensor], profile: Profile) -> dict[str, Any]:
    """What of a source network's weights finds a place in the target network; foreign ones are refused at once."""
    return asdict(transfer_weights(weights, _build(profile, out_channels=1)))


def _network_and_task(
    profile: Profile, source_task: str, prepared: PreparedCohort, seed: int, device: str
) -> tuple[torch.nn.Module, Task]:
    """The randomly initialised source network and its task, whose images lie or are drawn on the device."""
    settings = source_settings(profile, source_task)
    if source_task == "segmentation":
        task = ProceduralSegmentation(settings, profile.image.shape, seed=seed, device=device)
        return _build(profile, task.out_channels), task
    if source_task == "classification":
        task = ProceduralClassification(settings, profile.image.shape, seed=seed, device=device)
        return ResNetClassifier(_trunk(profile), task.classes), task
    images = prepared.select(prepared.source_ids)[0].to(device)
    if source_task == "reconstruction":
        task = Reconstruction(images, settings, profile.augmentation, seed=seed)
        return _build(profile, task.out_channels), task
    task = Jigsaw(images, settings, profile.augmentation, seed=seed)
    network = JigsawNetwork(
        _trunk(profile), permutations=task.classes, embedding=settings.embedding, hidden=settings.hidden
    )
    return network, task


def predict_test(network: models.FCN, prepared: PreparedCohort, device: str) -> np.ndarray:
    """Outline every test slice: (n_test, H, W) bool, each on its own grid."""
    network.eval().to(device)
    images, _ = prepared.select(prepared.test_ids)
    # A card that trains a network has room for all of them at once.
    batch = len(images) if device == "cuda" else PREDICTION_BATCH
    with torch.inference_mode():
        parts = [network(to_network_input(part).to(device)).cpu() for part in images.split(batch)]
    shape = prepared.test_hu.shape[1:]
    frames = prepared.test_frames
    return np.stack([restore_mask(out, frame, shape) for out, frame in zip(torch.cat(parts), frames, strict=True)])


def run_experiment(
    job: Job,
    prepared: PreparedCohort,
    source_weights: dict[str, Tensor] | None,
    *,
    checkpoint: Path | None = None,
    deadline: float | None = None,
) -> Artefact | None:
    """Fine-tune one model and score it on the test set (Section 2.3).

    Parameters
    ----------
    job : Job
    prepared : PreparedCohort
    source_weights : dict or None
        State dict of the source network; None for random initialisation.
    checkpoint, deadline : optional
        As in `train_source`.

    Returns
    -------
    Artefact or None
        None at the deadline. Tables `scores` (one row a test image) and `curve`, array `predictions` (packed bits),
        and, where the job says so, `weights`.
    """
    if job.code != method_digest():
        raise StudyError("this worker has another version of l3muscle than the machine that runs the study")
    started = time.perf_counter()
    profile, experiment, settings = job.profile, job.experiment, job.profile.training
    device = runtime.begin_training(threads=profile.threads_per_worker, deterministic=settings.deterministic)
    seed = runtime.seed_of("experiment", profile.grid.seed, *asdict(experiment).values())
    torch.manual_seed(seed)
    network = _build(profile, out_channels=1)
    transfer = None if source_weights is None else transfer_weights(source_weights, network)
    task = MuscleSegmentation(
        *(part.to(device) for part in prepared.select(job.training_ids)),
        *(part.to(device) for part in prepared.select(job.validation_ids)),
        settings,
        profile.augmentation,
    )
    rate = settings.learning_rate_random if source_weights is None else settings.learning_rate_fine_tune
    outcome = _fit(
        network,
        task,
        _loop(
            profile,
            device,
            learning_rate=rate,
            schedule=settings.schedule,
            max_steps=settings.max_steps,
            validate_every=settings.validate_every,
            patience=settings.patience,
            min_improvement=settings.min_improvement,
        ),
        seed=seed,
        checkpoint=checkpoint,
        deadline=deadline,
    )
    if outcome is None:
        return None
    network.load_state_dict(outcome.weights)
    predictions = predict_test(network, prepared, device)
    scores = pd.DataFrame(
        [reference.score(mask)._asdict() for reference, mask in zip(prepared.references, predictions, strict=True)]
    )
    scores.insert(0, "patient_id", prepared.test_ids)
    for position, (name, value) in enumerate(asdict(experiment).items()):
        scores.insert(position, name, value)
    record = _record(
        profile,
        outcome,
        time.perf_counter() - started,
        experiment=asdict(experiment),
        seed=seed,
        training_ids=job.training_ids,
        validation_ids=job.validation_ids,
        transfer=None if transfer is None else str(transfer),
    )
    arrays = {"packed": np.packbits(predictions, axis=-1), "width": np.array(predictions.shape[-1])}
    return Artefact(
        record=record,
        tables={"scores": scores, "curve": _curve_table(outcome)},
        arrays={"predictions": arrays},
        weights={"weights": outcome.weights} if job.keep_weights else {},
    )


def score_observers(cohort: Cohort) -> pd.DataFrame:
    """Score every observer outline against the expert (Section 2.4): one row an outline."""
    rows = []
    for patient_id, outlines in cohort.observers.items():
        place = cohort.index(patient_id)
        reference = Reference(cohort.masks[place], cohort.images[place], cohort.spacing[place])
        for observer, mask in outlines.items():
            rows.append({"observer": observer, "patient_id": patient_id, **reference.score(mask)._asdict()})
    return pd.DataFrame(rows)


class Study:
    """One run of the study: a profile, a cohort and the store that holds what is done.

    Parameters
    ----------
    profile : Profile
    runs : Path
        Folder of all runs; this one's is `runs / profile.name`.
    cohort_folder : Path, optional
        Folder of one's own; by default the profile's phantom, under `runs / "cohorts"`.
    usable_only : bool
        Go on with the sound patients of the folder where some are refused; otherwise that is an error.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        runs: Path = Path("runs"),
        cohort_folder: Path | None = None,
        usable_only: bool = False,
    ) -> None:
        self.profile = profile
        self.folder = runs / profile.name
        self.store = Store(self.folder)
        code = [_code_digest(module) for module in PHANTOM_MODULES]
        phantom_key = _key({"cohort": profile.cohort.model_dump(), "code": code})
        self.is_phantom = cohort_folder is None
        self.usable_only = usable_only
        self.cohort_folder = cohort_folder or runs / "cohorts" / f"phantom-{phantom_key}"

    def make_phantom(self, *, workers: int = 1, on_patient: Callable[[int], None] | None = None) -> bool:
        """Write the profile's phantom cohort unless it is there as it was written; returns whether it was.

        A damaged one is set aside, as the store does with artefacts.

        Raises
        ------
        PhantomError
            If it cannot be written.
        StudyError
            If one of the worker processes dies.
        """
        place = self.cohort_folder
        if not self.is_phantom:
            return False
        remove_abandoned(place.parent)
        if os.path.lexists(place):
            damaged = damaged_file(place)
            if damaged is None:
                return False
            set_aside(place)
            self.store.set_aside.append(f"{place.parent.name}/{place.name}/{damaged}")
        settings, draft = self.profile.cohort, place
        try:
            with checked_folder(place) as draft:
                patients.write_phantom(
                    draft,
                    patients=settings.patients,
                    seed=settings.seed,
                    size=settings.size,
                    setting=settings.setting,
                    test_patients=settings.test_patients,
                    workers=workers,
                    progress=on_patient,
                )
        except PhantomError as error:
            raise PhantomError(str(error).replace(str(draft), str(place))) from None
        except OSError as error:
            raise PhantomError(f"cannot write {place}: {reason_of(error)}") from None
        except BrokenExecutor:
            raise StudyError("a process that drew the phantom has died; the same command draws it anew") from None
        return True

    @cached_property
    def cohort(self) -> Cohort:
        """The images, read through the DICOM reader."""
        return load_cohort(self.cohort_folder, usable_only=self.usable_only)

    @cached_property
    def splits(self) -> Splits:
        """Test patients, folds and nested training subsets."""
        grid = self.profile.grid
        return make_splits(
            self.cohort,
            sizes=grid.sizes,
            folds=grid.folds,
            subsets=grid.subsets,
            seed=grid.seed,
            test_patients=self.profile.cohort.test_patients,
        )

    @cached_property
    def prepared(self) -> PreparedCohort:
        """The cohort at network size."""
        return prepare(self.cohort, self.splits.test_ids, self.profile)

    def source_key(self, source_task: str) -> str:
        """Identity of a source task's weights: the hash of all that decides them."""
        profile = self.profile
        if is_published(profile, source_task):
            # Loaded, not learned: nothing decides them but which file it is.
            weights = getattr(profile.sources, source_task)
            return _key({"source_task": source_task, "backbone": profile.network.backbone, "weights": weights})
        content = {
            "source_task": source_task,
            "settings": source_settings(profile, source_task).model_dump(),
            "seed": profile.sources.seed,
            "network": profile.fingerprint("network", "threads_per_worker"),
            "shape": profile.image.shape,
            "loop": profile.training.model_dump(include={"precision", "min_improvement", "deterministic", "compiled"}),
            "code": [_code_digest(m) for m in (models, preprocess, training, *SOURCE_MODULES[source_task])],
        }
        if source_task in COHORT_TASKS:
            content |= {
                "cohort": self.cohort.slices_fingerprint,
                "held_out": tuple(self.splits.test_ids),
                "images": profile.fingerprint("image", "augmentation"),
            }
        return _key(content)

    def job(self, experiment: Experiment) -> Job:
        """The experiment with its patients and its identity: the hash of all that decides its outcome."""
        training_ids = tuple(self.splits.training_ids(experiment.fold, experiment.subset, experiment.n_train))
        validation_ids = tuple(self.splits.validation_ids(experiment.fold))
        source = None if experiment.source_task == "random" else self.source_key(experiment.source_task)
        parts = ("network", "image", "augmentation", "training", "threads_per_worker")
        key = _key(
            {
                "experiment": asdict(experiment),
                "seed": self.profile.grid.seed,
                "settings": self.profile.fingerprint(*parts),
                "cohort": self.cohort.slices_fingerprint,
                "patients": [training_ids, validation_ids, tuple(self.splits.test_ids)],
                "source": source,
                "code": [_code_digest(module) for module in METHOD_MODULES],
            }
        )
        representative = experiment.fold == experiment.subset == experiment.repeat == 0
        policy = self.profile.keep_weights
        return Job(
            experiment=experiment,
            key=key,
            profile=self.profile,
            training_ids=training_ids,
            validation_ids=validation_ids,
            code=method_digest(),
            keep_weights=policy == "all" or (policy == "representative" and representative),
        )

    @cached_property
    def jobs(self) -> list[Job]:
        """Every experiment of the grid, in the order in which they are run."""
        return [self.job(experiment) for experiment in experiments(self.profile)]

    def checkpoint(self, key: str) -> Path:
        """Where a long training of this identity keeps its state."""
        return self.folder / "checkpoints" / f"{key}.safetensors"

    def store_source(self, source_task: str, artefact: Artefact) -> None:
        """Keep a learned source task."""
        self._keep("sources", self.source_key(source_task), artefact)

    def store_experiment(self, job: Job, artefact: Artefact) -> None:
        """Keep a finished experiment."""
        self._keep("experiments", job.key, artefact)

    def _keep(self, kind: str, key: str, artefact: Artefact) -> None:
        self.store.write(kind, key, artefact)
        CheckpointFile(self.checkpoint(key)).remove()

    def source_tasks(self) -> list[str]:
        """Source tasks that have to be learned or loaded before the experiments that use them."""
        return [task for task in self.profile.grid.source_tasks if task != "random"]

    def tidy(self) -> list[str]:
        """Remove what killed runs left half-made, and find what was damaged since; returns what was, as sentences.

        Artefacts are looked at when they are needed, and the documents of a run are written anew by every run.
        """
        sentences = []
        for folder in (self.folder, *(self.folder / kind for kind in ("experiments", "sources", "observers"))):
            remove_abandoned(folder)
        for name in (PLAN, SPLITS, FAILURES):
            try:
                found = self.store.document(name)
            except StoreError as error:
                sentences.append(f"{error}; it is written anew")
            else:
                # Every run writes these two before its first experiment; failures, at its end.
                if found is None and name != FAILURES and (self.folder / "experiments").is_dir():
                    sentences.append(f"{self.folder / name} is missing; it is written anew")
        model = self.folder / MODEL
        if os.path.lexists(model):
            try:
                load_model(model)
            except ModelFileError as error:
                set_aside(model)
                sentences.append(f"{error}; set aside, and written anew from the best experiment")
        sentences += self._tidy_checkpoints()
        return sentences

    def _tidy_checkpoints(self) -> list[str]:
        sentences = []
        states = self.checkpoint("any").parent
        remove_abandoned(states)
        for path in states.glob("[!.]*"):
            finished = any(self.store.folder(kind, path.stem).is_dir() for kind in ("experiments", "sources"))
            # A run that was killed between storing an outcome and forgetting its last state.
            if not finished and CheckpointFile(path).load() is not None:
                continue
            if not finished:
                sentences.append(f"the state of an unfinished training, {path}, is damaged; it begins anew")
            remove(path)
        with suppress(OSError):
            states.rmdir()
        return sentences

    def changes(self) -> list[str]:
        """What is no longer as it was when this run was last started, as sentences; empty where all is.

        Nothing is ever mixed: what a change affects has another identity and is made again. But whoever changed
        something unawares wants to know before it is.
        """
        try:
            before = StudyResults(self.folder)
        except StudyError:
            return []
        sentences = []
        if before.plan["cohort"] != self.cohort.fingerprint:
            sentences.append(
                f"the cohort is not the one of the last run ({before.plan['patients']} patients then, "
                f"{len(self.cohort)} now, or their images or outlines differ)"
            )
        was, now = before.plan["profile"], self.profile.model_dump(mode="json")
        parts = [part for part in now if part not in ("name", "description") and was.get(part) != now[part]]
        if parts:
            sentences.append(f"settings have changed since the last run: {', '.join(parts)}")
        if before.plan.get("code") != method_digest():
            sentences.append("the method's code has changed since the last run")
        planned = {job.key for job in self.jobs}
        gone = [entry["key"] for entry in before.plan["experiments"] if entry["key"] not in planned]
        orphans = sum(self.store.folder("experiments", key).is_dir() for key in gone)
        if orphans:
            sentences.append(f"{orphans} finished experiments belong to what was before; they are kept and not counted")
        return sentences

    def write_plan(self) -> None:
        """Note which artefacts belong to this run, for readers that have no need of the cohort."""
        key = _key({"cohort": self.cohort.fingerprint, "code": _code_digest(metrics)})
        if self.store.record("observers", key) is None:
            self.store.write("observers", key, Artefact(record={}, tables={"scores": score_observers(self.cohort)}))
        plan = {
            "format": PLAN_FORMAT,
            "profile": self.profile.model_dump(mode="json"),
            # Relative, so that a folder of runs can be moved with its cohorts.
            "cohort_folder": os.path.relpath(self.cohort_folder, self.folder),
            "usable_only": self.usable_only,
            "code": method_digest(),
            "cohort": self.cohort.fingerprint,
            "patients": len(self.cohort),
            "phantom": self.is_phantom,
            "observers": key,
            "sources": {task: self.source_key(task) for task in self.source_tasks()},
            "experiments": [{**asdict(job.experiment), "key": job.key} for job in self.jobs],
        }
        self.store.write_document(SPLITS, json.loads(self.splits.to_json()))
        self.store.write_document(PLAN, plan)

    def publish_model(self) -> Path | None:
        """Copy the kept model of lowest validation loss at the largest size to `model.safetensors`."""
        kept = []
        for job in self.jobs:
            record = self.store.record("experiments", job.key) if job.keep_weights else None
            if record is not None:
                kept.append((-job.experiment.n_train, record["best_validation_loss"], job.experiment, job))
        if not kept:
            return None
        _, loss, experiment, job = min(kept)
        path = self.folder / MODEL
        about = {
            "experiment": asdict(experiment),
            "validation_loss": loss,
            "profile": self.profile.name,
            "cohort": "phantom" if self.is_phantom else "own",
            "cohort_fingerprint": self.cohort.fingerprint,
            "key": job.key,
        }
        weights = self.store.weights("experiments", job.key)
        save_model(path, weights, self.profile.network, self.profile.image, about)
        return path


Key = Annotated[str, Field(pattern=r"^[0-9a-z]+$")]  # names a folder of the store, so it must not lead out of it


class _PlannedExperiment(BaseModel):
    """One line of a plan: an experiment and the key of its artefact."""

    source_task: str
    n_train: int
    fold: int
    subset: int
    repeat: int
    key: Key

    model_config = ConfigDict(extra="forbid", strict=True)


class _Plan(BaseModel):
    """What `plan.json` holds, as far as its readers look."""

    profile: Profile
    cohort_folder: str
    cohort: str
    patients: int
    phantom: bool
    observers: Key
    sources: dict[str, Key]
    experiments: list[_PlannedExperiment]


class StudyResults:
    """What a run has produced so far, read from its store.

    Parameters
    ----------
    folder : Path
        `runs / <profile>`.

    Raises
    ------
    StudyError
        If no study was started there, or by a version that wrote in another way.
    """

    def __init__(self, folder: Path) -> None:
        try:
            plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StudyError(
                f"no study has been started in {folder}; run `l3muscle study run --profile {folder.name}`"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise StudyError(f"{folder / PLAN} cannot be read: {reason_of(error)}; {self._again(folder)}") from None
        found = plan.get("format") if isinstance(plan, dict) else None
        if found != PLAN_FORMAT:
            raise StudyError(
                f"{folder} was written by another version of L3 Muscle (its plan has format {found}, this version "
                f"reads {PLAN_FORMAT}); {self._again(folder)}, or use the version that wrote it"
            )
        try:
            self.plan = unsealed(PLAN, plan)
        except ValueError as error:
            raise StudyError(f"{folder / PLAN} is damaged: {error}; {self._again(folder)}") from None
        self.folder = folder
        self.store = Store(folder)
        try:
            self.profile = _Plan.model_validate(self.plan).profile
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise StudyError(f"{folder / PLAN} is damaged at {where}; move {folder} away") from None

    @staticmethod
    def _again(folder: Path) -> str:
        return f"`l3muscle study run --profile {folder.name}` makes it anew"

    @cached_property
    def records(self) -> dict[Experiment, dict[str, Any]]:
        """Records of the finished experiments.

        Raises
        ------
        StudyError
            Once, if some were damaged: they are set aside, and belong to what is missing from then on.
        """
        found = {}
        for entry in self.plan["experiments"]:
            place = dict(entry)
            record = self.store.record("experiments", place.pop("key"))
            if record is not None:
                found[Experiment(**place)] = record
        self._report_damage()
        return found

    def _report_damage(self) -> None:
        """Nobody reads what is left of a damaged run and takes it for all of it."""
        if self.store.set_aside:
            count, names = len(self.store.set_aside), ", ".join(self.store.set_aside[:3])
            self.store.set_aside.clear()
            raise StudyError(f"damaged and set aside ({count}): {names}; {self._again(self.folder)}")

    @cached_property
    def keys(self) -> dict[Experiment, str]:
        """Keys of the finished experiments."""
        entries = [dict(entry) for entry in self.plan["experiments"]]
        keys = {Experiment(**{k: v for k, v in e.items() if k != "key"}): e["key"] for e in entries}
        return {experiment: key for experiment, key in keys.items() if experiment in self.records}

    def failures(self) -> dict[Experiment, str]:
        """Experiments that failed when they were last tried and are still missing, with the reason."""
        try:
            entries = (self.store.document(FAILURES) or {"failed": []})["failed"]
            failed = {Experiment(**entry["experiment"]): entry["reason"] for entry in entries}
        except (StoreError, KeyError, TypeError):
            raise StudyError(f"{self.folder / FAILURES} is damaged; {self._again(self.folder)}") from None
        return {experiment: reason for experiment, reason in failed.items() if experiment not in self.records}

    def planned(self) -> int:
        """Number of experiments in the grid."""
        return len(self.plan["experiments"])

    def _tables(self, name: str) -> list[pd.DataFrame]:
        tables = []
        for experiment, key in self.keys.items():
            table = self.store.table("experiments", key, name)
            tables.append(table.assign(**asdict(experiment)))
        if not tables:
            raise StudyError(f"no experiment in {self.folder} is finished yet")
        return tables

    def scores(self) -> pd.DataFrame:
        """One row a model and test image."""
        return pd.concat(self._tables("scores"), ignore_index=True)

    def curves(self) -> pd.DataFrame:
        """One row a model and validation: step, train_loss, validation_loss."""
        return pd.concat(self._tables("curve"), ignore_index=True)

    def observer_scores(self) -> pd.DataFrame:
        """One row an observer outline."""
        return self.store.table("observers", self.plan["observers"], "scores")

    def source_record(self, source_task: str) -> dict[str, Any] | None:
        """How a source task's weights came about; None for random initialisation, and for what was not run.

        Raises
        ------
        StudyError
            Once, if it was damaged.
        """
        key = self.plan["sources"].get(source_task)
        record = None if key is None else self.store.record("sources", key)
        self._report_damage()
        return record

    def source_curve(self, source_task: str) -> pd.DataFrame | None:
        """Training curve of a source task: step, train_loss, validation_loss, and where it has classes their accuracy.

        None where nothing was learned in this run.
        """
        record = self.source_record(source_task)
        if record is None or "curve.parquet" not in record["sha256"]:
            return None
        return self.store.table("sources", self.plan["sources"][source_task], "curve")

    def source_examples(self, source_task: str) -> dict[str, np.ndarray] | None:
        """What the network of reconstruction or jigsaw makes of validation slices; None where there is none."""
        record = self.source_record(source_task)
        if record is None or "examples.npz" not in record["sha256"]:
            return None
        return self.store.arrays("sources", self.plan["sources"][source_task], "examples")

    def source_kind(self, source_task: str) -> str:
        """How the source task came about: `"random"`, `"procedural"`, `"cohort"`, or the name of published weights."""
        if source_task not in self.plan["sources"]:
            return source_task
        record = self.source_record(source_task)
        return "not run" if record is None else record["kind"]

    def predictions(self, experiment: Experiment) -> np.ndarray:
        """Outlines of the test slices: (n_test, H, W) bool, in the order of the splits' test patients."""
        arrays = self.store.arrays("experiments", self.keys[experiment], "predictions")
        return np.unpackbits(arrays["packed"], axis=-1, count=int(arrays["width"])).astype(bool)

    @property
    def cohort_folder(self) -> Path:
        """Where the cohort lies that the run used."""
        return Path(os.path.normpath(self.folder / self.plan["cohort_folder"]))

    def cohort(self) -> Cohort:
        """The cohort that the run used.

        Raises
        ------
        CohortError
            If it cannot be read.
        StudyError
            If it is not what the run used: images or outlines differ.
        """
        folder = self.cohort_folder
        damaged = damaged_file(folder) if self.plan["phantom"] and folder.is_dir() else None
        if damaged is not None:
            raise StudyError(f"{folder / damaged} is not as it was written; {self._again(self.folder)}")
        cohort = load_cohort(folder, usable_only=self.plan.get("usable_only", False))
        if cohort.fingerprint != self.plan["cohort"]:
            raise StudyError(f"the images or outlines in {folder} are not those that the run used")
        return cohort

    def splits(self) -> Splits:
        """The splits that the run used."""
        found = self.store.document(SPLITS)
        if found is None:
            raise StudyError(f"there is no {self.folder / SPLITS}; {self._again(self.folder)}")
        try:
            return Splits.from_json(json.dumps(found))
        except SplitsError as error:
            raise StudyError(f"{self.folder / SPLITS} cannot be read: {error}") from None


def open_results(profile: str, runs: str | Path = "runs") -> StudyResults:
    """Open what a run of `profile` has produced; the first line of a notebook.

    Parameters
    ----------
    profile : str
    runs : str or Path
        A relative folder is looked for in the working folder and in the one above it, as a notebook may be run from
        the project's top or from where it lies.

    Raises
    ------
    StudyError
        If there is no such run.
    """
    name = load_profile(profile).name
    above = Path("..") / runs
    found = above if not Path(runs).is_dir() and above.is_dir() else Path(runs)
    return StudyResults(found / name)
