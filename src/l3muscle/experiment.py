"""One model of the study: its data, network, training, prediction and scores (Sections 2.1 to 2.4).

`notebooks/experiment.ipynb` and `notebooks/pretrain.ipynb` show these steps one after the other.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn

from l3muscle import runtime
from l3muscle.augment import augment
from l3muscle.cohort import Cohort
from l3muscle.errors import L3MuscleError
from l3muscle.losses import LOSSES
from l3muscle.metrics import Reference, Score
from l3muscle.models import FCN, build_fcn
from l3muscle.preprocess import Crop, crop_of, prepare_image, prepare_mask, restore_mask, to_network_input
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.profile import Profile
from l3muscle.settings import SourceTrainingSettings, TrainingSettings
from l3muscle.training import Checkpoint, Fit, Loop, Shuffled, Task, fit

# Part of every identity: raise it when a change of code changes what a network learns, and all is trained again.
# `tests/core/test_oracle.py` notices such a change.
METHOD_VERSION = 2
PREDICTION_BATCH = 16


class ExperimentError(L3MuscleError):
    """An experiment that the grid does not have."""


@dataclass(frozen=True, order=True)
class Experiment:
    """One fine-tuned model: its configuration (source task and size), and fold, subset and repeat within it."""

    source_task: str
    n_train: int
    fold: int
    subset: int
    repeat: int

    @property
    def configuration(self) -> tuple[str, int]:
        """Source task and number of training slices."""
        return self.source_task, self.n_train

    def __str__(self) -> str:
        return f"{self.source_task} n={self.n_train} fold {self.fold} subset {self.subset} repeat {self.repeat}"


AXES = tuple(field.name for field in fields(Experiment))


def experiments(profile: Profile) -> list[Experiment]:
    """All experiments of a profile, ordered so that every beginning of the list is as balanced as it can be.

    Repeats, subsets and folds vary slowest: an interrupted study has the same number of models, give or take one, in
    every configuration of source task and training-set size.
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
    ExperimentError
        For an axis that does not exist, or a value that no experiment has.
    """
    for axis, wanted in only.items():
        if axis not in AXES:
            raise ExperimentError(f"experiments have no {axis!r}; they have {', '.join(AXES)}")
        there = dict.fromkeys(getattr(experiment, axis) for experiment in chosen)
        for value in wanted:
            if value not in there:
                raise ExperimentError(f"the grid has no {axis} {value}; it has {', '.join(map(str, there))}")
    return [
        experiment
        for experiment in chosen
        if all(not wanted or getattr(experiment, axis) in wanted for axis, wanted in only.items())
    ]


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
    test_crops : tuple of Crop
    """

    patient_ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    test_ids: tuple[str, ...]
    test_hu: np.ndarray
    test_masks: np.ndarray
    test_spacing: np.ndarray
    test_crops: tuple[Crop, ...]

    def select(self, patient_ids: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Images and masks, (n, 1, rows, columns), of these patients, in this order."""
        index = {patient: number for number, patient in enumerate(self.patient_ids)}
        chosen = [index[patient] for patient in patient_ids]
        return self.images[chosen], self.masks[chosen]

    @property
    def source_images(self) -> Tensor:
        """Slices that source tasks may learn from: of every patient who is not held out for testing."""
        held_out = set(self.test_ids)
        return self.select(patient for patient in self.patient_ids if patient not in held_out)[0]

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
    crops = [crop_of(hu, spacing, settings) for hu, spacing in zip(cohort.images, cohort.spacing, strict=True)]
    images = [prepare_image(hu, crop, settings) for hu, crop in zip(cohort.images, crops, strict=True)]
    masks = [prepare_mask(mask, crop, settings) for mask, crop in zip(cohort.masks, crops, strict=True)]
    test_ids = tuple(test_ids)
    test = [cohort.index(patient) for patient in test_ids]
    return PreparedCohort(
        patient_ids=tuple(cohort.patient_ids),
        images=torch.stack(images),
        masks=torch.stack(masks),
        test_ids=test_ids,
        test_hu=cohort.images[test],
        test_masks=cohort.masks[test],
        test_spacing=cohort.spacing[test],
        test_crops=tuple(crops[index] for index in test),
    )


class SegmentationTask(Task):
    """The target task: skeletal muscle at L3 (Section 2.3).

    Parameters
    ----------
    images, masks : Tensor, (n_train, 1, H, W)
        Prepared by `l3muscle.preprocess`; augmented anew in every batch.
    validation_images, validation_masks : Tensor, (n_validation, 1, H, W)
        Of the fold that is left out; never augmented.
    profile : Profile
        Its loss, batch size and augmentation count.
    """

    def __init__(
        self, images: Tensor, masks: Tensor, validation_images: Tensor, validation_masks: Tensor, profile: Profile
    ) -> None:
        self.images, self.masks = images, masks
        validation = (to_network_input(validation_images), validation_masks)
        self.validation = list(zip(*(part.split(PREDICTION_BATCH) for part in validation), strict=True))
        self.batch_size = profile.training.batch_size
        self.augmentation = profile.augmentation
        self.loss = LOSSES[profile.training.loss]()
        self.order = Shuffled(len(images))

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Next images in shuffled order, each seen once before any is seen again; input (N, 3, H, W), masks."""
        chosen = self.order.take(self.batch_size, generator)
        images, masks = augment(self.images[chosen], self.masks[chosen], self.augmentation, generator=generator)
        return to_network_input(images), masks


def build_network(profile: Profile) -> FCN:
    """The untrained network of the target task."""
    return build_fcn(**dict(profile.network), out_channels=1)


def experiment_seed(profile: Profile, experiment: Experiment) -> int:
    """Of the initialisation, the order of images, augmentation and dropout of one model."""
    return runtime.seed_of("experiment", profile.grid.seed, *asdict(experiment).values())


def source_seed(profile: Profile, source_task: str) -> int:
    """The same of a source task."""
    return runtime.seed_of("source", source_task, profile.sources.seed)


def _loop(
    profile: Profile,
    settings: TrainingSettings | SourceTrainingSettings,
    *,
    learning_rate: float,
    max_steps: int,
    device: str,
) -> Loop:
    """What a training has in its own settings, with what all trainings of a profile have in common."""
    common = profile.training
    return Loop(
        learning_rate=learning_rate,
        max_steps=max_steps,
        validate_every=settings.validate_every,
        patience=settings.patience,
        min_improvement=common.min_improvement,
        schedule=settings.schedule,
        precision=runtime.resolve_precision(common.precision, device),
        compiled=common.compiled,
        device=device,
    )


def target_loop(profile: Profile, device: str, *, fine_tuned: bool) -> Loop:
    """Settings of `fit` for the target task: a lower learning rate after pre-training (Section 2.3)."""
    settings = profile.training
    rate = settings.learning_rate_fine_tune if fine_tuned else settings.learning_rate_random
    return _loop(profile, settings, learning_rate=rate, max_steps=settings.max_steps, device=device)


def source_loop(profile: Profile, source_task: str, device: str) -> Loop:
    """Settings of `fit` for a source task (Appendix A)."""
    settings = profile.source(source_task)
    return _loop(profile, settings, learning_rate=settings.learning_rate, max_steps=settings.steps, device=device)


def learn_source(
    profile: Profile, source_task: str, images: Tensor, device: str, checkpoint: Checkpoint | None = None
) -> tuple[nn.Module, Task, Fit]:
    """Learn a source task (Section 2.2), as `notebooks/pretrain.ipynb` does step by step.

    Parameters
    ----------
    profile : Profile
    source_task : str
        One that is learned here.
    images : Tensor, (N, 1, rows, columns)
        The cohort's slices that are not held out for testing; only tasks that use the cohort look at them.
    device : str
    checkpoint : Checkpoint, optional

    Returns
    -------
    (nn.Module, Task, Fit)
        The network has the best weights.
    """
    seed = source_seed(profile, source_task)
    torch.manual_seed(seed)
    network, task = SOURCE_TASKS[source_task].build(profile, images, seed=seed, device=device)
    loop = source_loop(profile, source_task, device)
    fitted = fit(network, task, loop, generator=Generator().manual_seed(seed), checkpoint=checkpoint)
    network.load_state_dict(fitted.weights)
    return network, task, fitted


def predict(network: FCN, prepared: PreparedCohort, device: str) -> np.ndarray:
    """Outline every test slice: (n_test, H, W) bool, each on its own grid."""
    network.eval().to(device)
    images, _ = prepared.select(prepared.test_ids)
    # A GPU that trains a network has room for all of them at once.
    batch = len(images) if device == "cuda" else PREDICTION_BATCH
    with torch.inference_mode():
        parts = [network(to_network_input(part).to(device)).cpu() for part in images.split(batch)]
    shape = prepared.test_hu.shape[1:]
    crops = prepared.test_crops
    return np.stack([restore_mask(out, crop, shape) for out, crop in zip(torch.cat(parts), crops, strict=True)])


def score(predictions: np.ndarray, prepared: PreparedCohort) -> pd.DataFrame:
    """Score the outlines of the test slices against the expert's (Section 2.4).

    Parameters
    ----------
    predictions : ndarray, (n_test, H, W) bool
    prepared : PreparedCohort

    Returns
    -------
    DataFrame
        One row an image: patient_id and the measures of `l3muscle.metrics`.
    """
    rows = [reference.score(mask)._asdict() for reference, mask in zip(prepared.references, predictions, strict=True)]
    table = pd.DataFrame(rows)
    table.insert(0, "patient_id", prepared.test_ids)
    return table


def score_observers(cohort: Cohort) -> pd.DataFrame:
    """Score every observer outline against the expert (Section 2.4): one row an outline, none without observers."""
    rows = []
    for patient_id, outlines in cohort.observers.items():
        index = cohort.index(patient_id)
        reference = Reference(cohort.masks[index], cohort.images[index], cohort.spacing[index])
        for observer, mask in outlines.items():
            rows.append({"observer": observer, "patient_id": patient_id, **reference.score(mask)._asdict()})
    return pd.DataFrame(rows, columns=["observer", "patient_id", *Score._fields])
