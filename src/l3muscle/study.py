"""The study: its grid of models, what decides each of them, what is done, and what came out (Sections 2.1 to 2.4)."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from l3muscle import phantom, runtime
from l3muscle.cohort import Cohort
from l3muscle.cohort.cache import cached_cohort
from l3muscle.cohort.splits import Splits, make_splits
from l3muscle.errors import reason_of
from l3muscle.experiment import (
    METHOD_VERSION,
    Experiment,
    PreparedCohort,
    SegmentationTask,
    build_network,
    choose,
    experiments,
    prepare,
    score,
    score_observers,
)
from l3muscle.files import here_or_above
from l3muscle.metrics import METRICS_VERSION
from l3muscle.models import transfer_weights
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.profile import Profile, load_profile
from l3muscle.results import (
    PLAN,
    PLAN_FORMAT,
    SPLITS,
    StudyError,
    StudyResults,
    curve_table,
    fit_record,
    open_results,
    pack_predictions,
    score_key,
    unpack_predictions,
    with_axes,
)
from l3muscle.store import Store, key_of
from l3muscle.training import Checkpoint, Fit, Task, TrainingError, TrainingPaused

__all__ = ["Experiment", "Study", "StudyError", "StudyResults", "choose", "experiments", "open_results", "open_study"]

EXAMPLES = 3  # kept of a source task, for a picture
# What of a profile decides a model, besides its patients and its source task.
MODEL_SETTINGS = ("network", "image", "augmentation", "training", "threads_per_worker")


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
    rois : sequence of str
        Names of the outlines that are muscle, where the files do not tell.
    profile_name : str, optional
        Name or path under which a notebook finds the profile.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        runs: Path = Path("runs"),
        cohort_folder: Path | None = None,
        usable_only: bool = False,
        rois: Sequence[str] = (),
        profile_name: str | None = None,
    ) -> None:
        # What the processor offers decides `auto`, and with it what every model is.
        precision = runtime.resolve_precision(profile.training.precision)
        training = profile.training.model_copy(update={"precision": precision})
        self.profile = profile.model_copy(update={"training": training})
        self.profile_name = profile_name or profile.name
        self.runs = runs
        self.folder = runs / profile.name
        self.store = Store(self.folder)
        self.is_phantom = cohort_folder is None
        self.usable_only, self.rois = usable_only, list(rois)
        phantom_key = key_of({"cohort": profile.cohort.model_dump(), "version": phantom.PHANTOM_VERSION})
        self.cohort_folder = cohort_folder or runs / "cohorts" / f"phantom-{phantom_key}"

    # --- the cohort --------------------------------------------------------------------------------------------

    def make_phantom(self, *, workers: int = 1, on_patient: Callable[[int], None] | None = None) -> None:
        """Draw the profile's phantom cohort unless it is there.

        Raises
        ------
        PhantomError
            If it cannot be written.
        StudyError
            If one of the worker processes dies.
        """
        if not self.is_phantom or self.cohort_folder.is_dir():
            return
        from l3muscle.phantom.patients import write_phantom  # the rest of a run has no need of it

        try:
            write_phantom(self.cohort_folder, **dict(self.profile.cohort), workers=workers, progress=on_patient)
        except BrokenExecutor:
            raise StudyError("a process that drew the phantom has died; the same command draws it anew") from None

    @cached_property
    def cohort(self) -> Cohort:
        """The images and outlines: read from the folder once, and from one file while the folder is unchanged."""
        return cached_cohort(self.cohort_folder, self.runs, usable_only=self.usable_only, rois=self.rois)

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

    def training_ids(self, experiment: Experiment) -> tuple[str, ...]:
        """Patients whom a model learns from."""
        return tuple(self.splits.training_ids(experiment.fold, experiment.subset, experiment.n_train))

    def task(self, experiment: Experiment, device: str) -> SegmentationTask:
        """Training and validation slices of a model, on the device, as `l3muscle.training.fit` takes them."""
        images, masks = self.prepared.select(self.training_ids(experiment))
        validation = self.prepared.select(self.splits.validation_ids(experiment.fold))
        return SegmentationTask(*(part.to(device) for part in (images, masks, *validation)), self.profile)

    # --- identity ----------------------------------------------------------------------------------------------

    def source_key(self, source_task: str) -> str:
        """Identity of a source task's weights: the hash of all that decides them."""
        profile = self.profile
        published = profile.published_weights(source_task)
        if published is not None:
            # Loaded, not learned: nothing decides them but which file it is.
            return key_of({"source_task": source_task, "backbone": profile.network.backbone, "weights": published})
        loop = profile.training.model_dump(include={"precision", "min_improvement", "deterministic", "compiled"})
        content = {
            "method": METHOD_VERSION,
            "source_task": source_task,
            "settings": profile.source(source_task).model_dump(),
            "seed": profile.sources.seed,
            "network": profile.fingerprint("network", "threads_per_worker"),
            "shape": profile.image.shape,
            "loop": loop,
        }
        if profile.builds_on_classification(source_task):
            content["classification"] = self.source_key("classification")
        if SOURCE_TASKS[source_task].uses_cohort:
            content |= {
                "cohort": self.cohort.slices_fingerprint,
                "held_out": tuple(self.splits.test_ids),
                "images": profile.fingerprint("image", "augmentation"),
            }
        return key_of(content)

    def key(self, experiment: Experiment) -> str:
        """Identity of a model: the hash of all that decides it."""
        source = None if experiment.source_task == "random" else self.source_key(experiment.source_task)
        patients = [self.training_ids(experiment), self.splits.validation_ids(experiment.fold), self.splits.test_ids]
        return key_of(
            {
                "method": METHOD_VERSION,
                "experiment": asdict(experiment),
                "seed": self.profile.grid.seed,
                "settings": self.profile.fingerprint(*MODEL_SETTINGS),
                "cohort": self.cohort.slices_fingerprint,
                "patients": patients,
                "source": source,
            }
        )

    @cached_property
    def keys(self) -> dict[Experiment, str]:
        """Every model of the grid and its identity, in the order in which they are trained."""
        return {experiment: self.key(experiment) for experiment in experiments(self.profile)}

    # --- source tasks ------------------------------------------------------------------------------------------

    def has_source(self, source_task: str) -> bool:
        """Whether a source task's weights are there."""
        return source_task == "random" or self.store.sound("sources", self.source_key(source_task))

    def source_weights(self, source_task: str) -> dict[str, Tensor] | None:
        """State dict of a source network; None of random initialisation.

        Raises
        ------
        StudyError
            If it is not learned yet.
        """
        if source_task == "random":
            return None
        if not self.has_source(source_task):
            raise StudyError(
                f"the source task {source_task} is not learned yet in {self.folder.resolve()}; first run "
                f"papermill notebooks/pretrain.ipynb OUT.ipynb -p profile {self.profile_name} -p source_task "
                f"{source_task} -p runs {self.runs}"
            )
        return self.store.weights("sources", self.source_key(source_task))

    def store_source(
        self,
        source_task: str,
        weights: dict[str, Tensor],
        *,
        fitted: Fit | None = None,
        task: Task | None = None,
        network: nn.Module | None = None,
    ) -> None:
        """Keep a source task's weights, with how they came about.

        Parameters
        ----------
        source_task : str
        weights : dict of str to Tensor
            State dict of the source network.
        fitted, task, network : optional
            Of one that was learned here: what `fit` returned, and the trained network.

        Raises
        ------
        TransferError
            If they do not belong to the target network.
        StoreError
            If they cannot be written.
        """
        record: dict[str, Any] = {
            "source_task": source_task,
            "kind": self.profile.source_kind(source_task),
            "transfer": asdict(transfer_weights(weights, build_network(self.profile))),
            "profile": self.profile.name,
            "provenance": runtime.provenance(),
        }
        tables, arrays = {}, {}
        if fitted is not None:
            record |= fit_record(fitted)
            tables["curve"] = curve_table(fitted)
            if task.classes is not None:
                best = next(point for point in fitted.curve if point.step == fitted.best_step)
                record |= {"validation_accuracy": best.validation_accuracy, "chance": 1 / task.classes}
            if SOURCE_TASKS[source_task].uses_cohort:
                arrays["examples"] = task.examples(network, next(network.parameters()).device, EXAMPLES)
        key = self.source_key(source_task)
        self.store.write("sources", key, record, tables=tables, arrays=arrays, weights=weights)
        self.checkpoint(key).remove()

    # --- models ------------------------------------------------------------------------------------------------

    def is_done(self, experiment: Experiment) -> bool:
        """Whether a model is trained and its files are sound."""
        return self.store.sound("models", self.keys[experiment])

    def trained(self, chosen: Sequence[Experiment]) -> list[Experiment]:
        """Those of some models that are done.

        Raises
        ------
        StudyError
            If none is, because they failed.
        TrainingPaused
            If none is, because the time was up.
        """
        if done := [experiment for experiment in chosen if self.is_done(experiment)]:
            return done
        failures = [self.store.document(f"failed/{self.keys[experiment]}.json") for experiment in chosen]
        for failure in filter(None, failures):
            raise StudyError(f"no model of this configuration could be trained: {failure['reason']}")
        raise TrainingPaused("the time was up before a model was trained; the same command goes on")

    def checkpoint(self, key: str, deadline: float | None = None) -> Checkpoint:
        """Where a long training of this identity keeps its state."""
        return Checkpoint(self.folder / "checkpoints" / f"{key}.pt", deadline=deadline)

    @contextmanager
    def recording(self, experiment: Experiment, deadline: float | None = None) -> Iterator[Checkpoint]:
        """A block that trains one model: a failure is recorded, and does not end those that follow.

        Parameters
        ----------
        experiment : Experiment
        deadline : float, optional
            When the training has to leave its state and stop, as `time.time()` counts.
        """
        failure = f"failed/{self.keys[experiment]}.json"
        checkpoint = self.checkpoint(self.keys[experiment], deadline)
        try:
            yield checkpoint
        except TrainingPaused:
            return
        except (TrainingError, MemoryError) as error:
            reason = reason_of(error)
            print(f"{experiment} failed: {reason}")
            self.store.write_document(failure, {"experiment": asdict(experiment), "reason": reason})
            return
        (self.folder / failure).unlink(missing_ok=True)
        checkpoint.remove()

    def store_model(self, experiment: Experiment, fitted: Fit, predictions: np.ndarray) -> None:
        """Keep a trained model: its curve, its predictions as packed bits, and where the profile says so its weights.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        representative = experiment.fold == experiment.subset == experiment.repeat == 0
        policy = self.profile.keep_weights
        record = {
            "experiment": asdict(experiment),
            "training_ids": self.training_ids(experiment),
            "validation_ids": self.splits.validation_ids(experiment.fold),
            **fit_record(fitted),
            "profile": self.profile.name,
            "provenance": runtime.provenance(),
        }
        self.store.write(
            "models",
            self.keys[experiment],
            record,
            tables={"curve": curve_table(fitted)},
            arrays={"predictions": pack_predictions(predictions)},
            weights=fitted.weights if policy == "all" or (policy == "representative" and representative) else None,
        )

    def predictions(self, experiment: Experiment) -> np.ndarray:
        """Outlines of the test slices: (n_test, H, W) bool, in the order of the splits' test patients."""
        return unpack_predictions(self.store.arrays("models", self.keys[experiment], "predictions"))

    def scores(self, chosen: Sequence[Experiment]) -> pd.DataFrame:
        """Scores of trained models, derived from their predictions where that has not been done: a row an image."""
        tables = []
        for experiment in chosen:
            key = score_key(self.keys[experiment])
            if not self.store.sound("scores", key):
                table = score(self.predictions(experiment), self.prepared)
                self.store.write("scores", key, {}, tables={"scores": table})
            tables.append(with_axes(self.store.table("scores", key, "scores"), experiment))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def curves(self, chosen: Sequence[Experiment]) -> pd.DataFrame:
        """Training curves of trained models: one row a validation."""
        tables = [with_axes(self.store.table("models", self.keys[one], "curve"), one) for one in chosen]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def observer_scores(self) -> pd.DataFrame:
        """Scores of the observers' outlines: one row an outline."""
        key = self.observers_key
        if not self.store.sound("observers", key):
            self.store.write("observers", key, {}, tables={"scores": score_observers(self.cohort)})
        return self.store.table("observers", key, "scores")

    @property
    def observers_key(self) -> str:
        """Identity of the observers' scores."""
        return key_of({"cohort": self.cohort.fingerprint, "metrics": METRICS_VERSION})

    # --- the plan ----------------------------------------------------------------------------------------------

    def write_plan(self) -> None:
        """Note which artefacts belong to this run, for readers that have no need of the cohort."""
        self.observer_scores()
        plan = {
            "format": PLAN_FORMAT,
            "method": METHOD_VERSION,
            "profile": self.profile.model_dump(mode="json"),
            # Relative, so that a folder of runs can be moved with its cohorts.
            "cohort_folder": os.path.relpath(self.cohort_folder, self.folder),
            "usable_only": self.usable_only,
            "rois": self.rois,
            "cohort": self.cohort.fingerprint,
            "patients": len(self.cohort),
            "phantom": self.is_phantom,
            "observers": self.observers_key,
            "sources": {task: self.source_key(task) for task in self.profile.grid.source_tasks if task != "random"},
            "experiments": [{**asdict(experiment), "key": key} for experiment, key in self.keys.items()],
        }
        self.store.write_document(SPLITS, asdict(self.splits))
        self.store.write_document(PLAN, plan)

    def results(self) -> StudyResults:
        """What is there so far, for reading."""
        return StudyResults(self.folder)

    def changes(self) -> list[str]:
        """What is no longer as it was when this run was last started, as sentences; empty where all is.

        Nothing is ever mixed: what a change affects has another identity and is made again. But whoever changed
        something unawares wants to know before it is.
        """
        try:
            before = self.results().plan
        except StudyError:
            return []
        sentences = []
        if before["cohort"] != self.cohort.fingerprint:
            sentences.append("the cohort is not the one of the last run: its patients, images or outlines differ")
        was, now = before["profile"], self.profile.model_dump(mode="json")
        parts = [part for part in now if part not in ("name", "description") and was.get(part) != now[part]]
        if parts:
            sentences.append(f"settings have changed since the last run: {', '.join(parts)}")
        keys_before = {entry["key"] for entry in before["experiments"]}
        count = sum(self.store.has("models", key) for key in keys_before - set(self.keys.values()))
        if count:
            sentences.append(f"{count} finished models belong to what was before; they are kept and not counted")
        return sentences


def open_study(profile: str, runs: str | Path = "runs", cohort: str | Path = "") -> Study:
    """Open the study that a notebook works on; its phantom is drawn where it is not there.

    Parameters
    ----------
    profile : str
        Name of a profile, or path of a `.yml` file.
    runs : str or Path
        As of `open_results`.
    cohort : str or Path
        Folder of slices to use instead of the profile's phantom. Where none is named, that of the run's last start.

    Raises
    ------
    ProfileError, CohortError, StudyError, StoreError
    """
    how = {"cohort_folder": Path(cohort)} if cohort else {}
    if not cohort:
        with suppress(StudyError):
            how = open_results(profile, runs).cohort_options
    study = Study(load_profile(profile), runs=here_or_above(runs), profile_name=profile, **how)
    study.make_phantom()
    study.write_plan()
    return study
