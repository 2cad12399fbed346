"""What the playground can change of a study, where its networks begin, and what came of them."""

import copy
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from l3muscle.errors import L3MuscleError
from l3muscle.experiment import AXES, Experiment, PreparedCohort, build_network, learn_source, predict
from l3muscle.metrics import dice
from l3muscle.models import FCN
from l3muscle.profile import load_profile
from l3muscle.runtime import begin_training
from l3muscle.study import Study, StudyError, StudyResults, open_results
from l3muscle.training import CurvePoint

# Of the phantom that is drawn where no study is stored; a profile with less keeps its own.
PATIENTS, TEST_PATIENTS, SIZE = 40, 12, 256
SOURCE_STEPS_DIVISOR = 10  # a source task that is learned here gets the profile's steps divided by this
VALIDATIONS = 10  # of one training


class PlaygroundError(L3MuscleError):
    """A training that cannot be tried."""


@dataclass(frozen=True)
class Choice(Experiment):
    """What can be changed from one training to the next: which model of the study, and how it is trained."""

    steps: int
    learning_rate: float
    augmentation: float  # 0 for none, 1 for the profile's

    @property
    def experiment(self) -> Experiment:
        """The model of the study with the same axes."""
        return Experiment(*(getattr(self, axis) for axis in AXES))


def outline(network: FCN, watched: PreparedCohort, device: str) -> np.ndarray:
    """Outline of one test slice, (H, W) bool, by a network whose training goes on afterwards."""
    mask = predict(network, watched, device)[0]
    network.train()  # for its dropout
    return mask


class Playground:
    """A study whose settings can be changed from one training to the next. Made by `open_playground`.

    Attributes
    ----------
    about : str
        Whose slices these are, as a sentence.
    device : str
        Where networks are trained.
    prepared : PreparedCohort
    allowed : dict of str to (int, int) or (float, float)
        Lowest and highest value of what can be chosen.
    """

    def __init__(self, study: Study, results: StudyResults | None, about: str) -> None:
        self.study, self.results, self.about = study, results, about
        self.prepared, orders = study.prepared, study.splits.orders
        self.device = begin_training(study.profile)
        largest = min(len(order) for subsets in orders for order in subsets)
        self.allowed = {
            "n_train": (1, largest),
            "fold": (0, len(orders) - 1),
            "subset": (0, len(orders[0]) - 1),
            "repeat": (0, 999),
            "steps": (2, 2000),
            "learning_rate": (0.0001, 1.0),
            "augmentation": (0.0, 3.0),
        }
        self._sources: dict[str, dict[str, Tensor] | None] = {"random": None}
        self._study_dice: dict[tuple[str, int], float] = {}
        if results is not None and results.keys:
            self._study_dice = results.scores().groupby(["source_task", "n_train"])["dice"].mean().to_dict()

    def watched(self, index: int = 0) -> PreparedCohort:
        """The prepared cohort with one of its test slices."""
        names = ("test_ids", "test_hu", "test_masks", "test_spacing", "test_crops")
        return replace(self.prepared, **{name: getattr(self.prepared, name)[index : index + 1] for name in names})

    def study_with(self, choice: Choice) -> Study:
        """The study with a choice in place of its settings; a `PlaygroundError` if it is not `allowed`."""
        for name, (low, high) in self.allowed.items():
            value = getattr(choice, name)
            if not low <= value <= high:
                raise PlaygroundError(f"{name} = {value}: from {low} to {high} can be trained here")
        profile, strength = self.study.profile, choice.augmentation
        augmentation = {
            "flip_probability": profile.augmentation.flip_probability * min(strength, 1.0),
            "rotation_degrees": min(profile.augmentation.rotation_degrees * strength, 180.0),
            "scale": min(profile.augmentation.scale * strength, 0.9),
            "elastic_shift": min(profile.augmentation.elastic_shift * strength, 0.9),
        }
        training = {
            "learning_rate_random": choice.learning_rate,
            "learning_rate_fine_tune": choice.learning_rate,
            "max_steps": choice.steps,
            "validate_every": math.ceil(choice.steps / VALIDATIONS),
            "patience": VALIDATIONS,
        }
        changes = {
            "training": profile.training.model_copy(update=training),
            "augmentation": profile.augmentation.model_copy(update=augmentation),
        }
        study = copy.copy(self.study)  # on the same slices, which stay prepared
        study.profile = profile.model_copy(update=changes)
        return study

    def source_weights(self, source_task: str) -> dict[str, Tensor] | None:
        """State dict to begin from: the stored study's, or learned here, once; None for random initialisation."""
        if source_task not in self._sources:
            results = self.results
            if results is not None and results.source_record(source_task) is not None:
                weights = results.store.weights("sources", results.plan["sources"][source_task])
            else:
                weights = self._learned(source_task)
            self._sources[source_task] = weights
        return self._sources[source_task]

    def _learned(self, source_task: str) -> dict[str, Tensor]:
        profile, settings = self.study.profile, self.study.profile.source(source_task)
        steps = max(settings.steps // SOURCE_STEPS_DIVISOR, 2)
        brief = settings.model_copy(update={"steps": steps, "validate_every": min(settings.validate_every, steps)})
        sources = profile.sources.model_copy(update={source_task: brief})
        profile = profile.model_copy(update={"sources": sources})
        return learn_source(profile, source_task, self.prepared.source_images, self.device)[2].weights

    def outcome(self, choice: Choice, weights: dict[str, Tensor], curve: Sequence[CurvePoint]) -> dict[str, Any]:
        """What came of a training, as a row of a table, from its best weights and its curve.

        The choice, with the steps that were taken; the lowest validation loss; mean and lowest Dice of the test slices;
        the stored study's mean Dice at this source task and n, NaN where it has none.
        """
        network = build_network(self.study.profile)
        network.load_state_dict(weights)
        outlines = predict(network, self.prepared, self.device)
        scores = [dice(mask, expert) for mask, expert in zip(outlines, self.prepared.test_masks, strict=True)]
        return asdict(choice) | {
            "steps": curve[-1].step,
            "validation_loss": min(point.validation_loss for point in curve),
            "test_dice": float(np.mean(scores)),
            "lowest_dice": float(min(scores)),
            "study_dice": self._study_dice.get(choice.configuration, math.nan),
        }


def open_playground(profile: str, runs: str | Path = "runs") -> Playground:
    """Open a playground on a stored study, or without one on a small phantom. Parameters as `open_results`."""
    settings, results = load_profile(profile), None
    with suppress(StudyError):
        results = open_results(profile, runs)
    if results is not None and results.cohort_folder.is_dir():
        plan = results.plan
        about = f"the {'phantoms' if plan['phantom'] else 'slices'} of the stored study, {plan['patients']} patients"
        print(f"Reading {about}.")
        where = results.cohort_options | {"cohort_folder": results.cohort_folder}
        study = Study(results.profile, runs=results.folder.parent, **where)
        for sentence in study.changes():
            print(f"Not as it was: {sentence}.")
        return Playground(study, results, f"On {about}, and from its source tasks.")
    patients, tested, size = settings.cohort.patients, settings.cohort.test_patients, settings.cohort.size
    small = {"patients": min(patients, PATIENTS), "test_patients": min(tested, TEST_PATIENTS), "size": min(size, SIZE)}
    settings = load_profile(profile, cohort=small, grid={"sizes": [1]})
    print(f"No study is stored. Drawing a small phantom cohort: {settings.cohort.patients} patients.")
    about = f"On {settings.cohort.patients} phantoms drawn for this session; source tasks are learned here, briefly."
    with tempfile.TemporaryDirectory(prefix="l3muscle-") as scratch:
        study = Study(settings, runs=Path(scratch))
        study.make_phantom()
        return Playground(study, None, about)  # which has read all of it when the folder goes
