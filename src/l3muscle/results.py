"""What a run has produced so far, read from its store: what chapters, tables and figures start from."""

import json
import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from l3muscle.cohort import Cohort
from l3muscle.cohort.cache import cached_cohort
from l3muscle.cohort.splits import Splits
from l3muscle.errors import L3MuscleError
from l3muscle.experiment import Experiment
from l3muscle.files import here_or_above
from l3muscle.metrics import METRICS_VERSION
from l3muscle.profile import Profile, load_profile
from l3muscle.store import Store, StoreError, key_of
from l3muscle.training import Fit

PLAN, SPLITS = "plan.json", "splits.json"
PLAN_FORMAT = 4  # of plan.json; a reader refuses any other


class StudyError(L3MuscleError):
    """A study that is not there or cannot go on."""


def score_key(model_key: str) -> str:
    """Identity of the scores of a model: they are derived from its predictions, and a new measure trains nothing."""
    return key_of({"model": model_key, "metrics": METRICS_VERSION})


def notebook_name(source_task: str, n_train: int | None = None) -> str:
    """Name, without its suffix, of the executed notebook of a configuration; without a size, of a source task."""
    return f"pretrain-{source_task}" if n_train is None else f"experiment-{source_task}-n{n_train:03d}"


def fit_record(fitted: Fit) -> dict[str, Any]:
    """What is kept of how a training went, besides its curve."""
    return {
        "best_step": fitted.best_step,
        "best_validation_loss": min(point.validation_loss for point in fitted.curve),
        "steps": fitted.curve[-1].step,
        "stopped": fitted.stopped,
        "resumed_at": fitted.resumed_at,
        "seconds": round(fitted.seconds, 3),
        "validation_seconds": round(fitted.validation_seconds, 3),
    }


def curve_table(fitted: Fit) -> pd.DataFrame:
    """The curve of a training: one row a validation."""
    return pd.DataFrame([asdict(point) for point in fitted.curve]).dropna(axis=1, how="all")


def pack_predictions(predictions: np.ndarray) -> dict[str, np.ndarray]:
    """Outlines, (n_test, H, W) bool, as the arrays that a model keeps of them."""
    return {"packed": np.packbits(predictions, -1), "width": np.array(predictions.shape[-1])}


def unpack_predictions(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Outlines from the arrays of `pack_predictions`."""
    return np.unpackbits(arrays["packed"], axis=-1, count=int(arrays["width"])).astype(bool)


def with_axes(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """A table of one model with the experiment's axes as its first columns."""
    axes = pd.DataFrame(asdict(experiment), index=table.index)
    return pd.concat([axes, table], axis=1)


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
        self.folder = folder
        self.store = Store(folder)
        again = f"`l3muscle study run --profile {folder.name}`"
        try:
            self.plan = self.store.document(PLAN)
        except StoreError as error:
            raise StudyError(str(error)) from None
        if self.plan is None:
            raise StudyError(f"no study has been started in {folder.resolve()}; {again} starts it")
        written = self.plan.get("format") if isinstance(self.plan, dict) else None
        if written != PLAN_FORMAT:
            raise StudyError(
                f"{folder.resolve()} was written by another version of L3 Muscle (its plan has format {written}, this "
                f"version reads {PLAN_FORMAT}); {again} makes it anew, or use the version that wrote it"
            )
        try:
            self.profile = Profile.model_validate_json(json.dumps(self.plan["profile"]))
            self._planned = {
                Experiment(**{name: value for name, value in entry.items() if name != "key"}): str(entry["key"])
                for entry in self.plan["experiments"]
            }
        except (KeyError, TypeError, ValidationError):
            raise StudyError(f"{folder.resolve() / PLAN} is damaged; {again} makes it anew") from None

    @cached_property
    def records(self) -> dict[Experiment, dict[str, Any]]:
        """Records of the finished models: those that are trained and scored."""
        return {
            experiment: self.store.record("models", key)
            for experiment, key in self._planned.items()
            if self.store.has("models", key) and self.store.has("scores", score_key(key))
        }

    @cached_property
    def keys(self) -> dict[Experiment, str]:
        """Keys of the finished models."""
        return {experiment: key for experiment, key in self._planned.items() if experiment in self.records}

    def failures(self) -> dict[Experiment, str]:
        """Models that failed when they were last tried and are still missing, with the reason."""
        missing = {experiment: key for experiment, key in self._planned.items() if experiment not in self.records}
        failures = {experiment: self.store.document(f"failed/{key}.json") for experiment, key in missing.items()}
        return {experiment: failure["reason"] for experiment, failure in failures.items() if failure is not None}

    def failed_notebooks(self) -> dict[str, str]:
        """Notebooks that failed when they were last run, with the reason."""
        return self.store.document("failed/notebooks.json") or {}

    def planned(self) -> int:
        """Number of models in the grid."""
        return len(self._planned)

    def _tables(self, kind: str, name: str) -> pd.DataFrame:
        keys = {experiment: score_key(key) if kind == "scores" else key for experiment, key in self.keys.items()}
        tables = [with_axes(self.store.table(kind, key, name), experiment) for experiment, key in keys.items()]
        if not tables:
            raise StudyError(f"no model in {self.folder.resolve()} is finished yet")
        return pd.concat(tables, ignore_index=True)

    def scores(self) -> pd.DataFrame:
        """One row a model and test image."""
        return self._tables("scores", "scores")

    def scores_of(self, experiment: Experiment) -> pd.DataFrame:
        """Scores of one model: one row a test image, in the order of the splits' test patients."""
        return self.store.table("scores", score_key(self.keys[experiment]), "scores")

    def curves(self) -> pd.DataFrame:
        """One row a model and validation: step, train_loss, validation_loss."""
        return self._tables("models", "curve")

    def trainings(self) -> pd.DataFrame:
        """One row a model: how its training ended (stopped), at which of its steps it was best, and its seconds."""
        columns = ("stopped", "steps", "best_step", "seconds")
        rows = [
            {**asdict(experiment), **{name: record[name] for name in columns}}
            for experiment, record in self.records.items()
        ]
        return pd.DataFrame(rows)

    def observer_scores(self) -> pd.DataFrame:
        """One row an observer outline."""
        return self.store.table("observers", self.plan["observers"], "scores")

    def source_record(self, source_task: str) -> dict[str, Any] | None:
        """How a source task's weights came about; None for random initialisation, and for what was not run."""
        key = self.plan["sources"].get(source_task)
        return self.store.record("sources", key) if key is not None and self.store.has("sources", key) else None

    def _of_source(self, source_task: str, file: str) -> str | None:
        """Key of a source task that has this file."""
        record = self.source_record(source_task)
        return None if record is None or file not in record["sha256"] else self.plan["sources"][source_task]

    def source_curve(self, source_task: str) -> pd.DataFrame | None:
        """Training curve of a source task: step, train_loss, validation_loss, and where it has classes their accuracy.

        None where nothing was learned in this run.
        """
        key = self._of_source(source_task, "curve.csv")
        return None if key is None else self.store.table("sources", key, "curve")

    def source_examples(self, source_task: str) -> dict[str, np.ndarray] | None:
        """What the network of reconstruction or jigsaw makes of validation slices; None where there is none."""
        key = self._of_source(source_task, "examples.npz")
        return None if key is None else self.store.arrays("sources", key, "examples")

    def source_kind(self, source_task: str) -> str:
        """How the source task came about, as `Profile.source_kind` says it; `"not run"` where it did not yet."""
        if source_task not in self.plan["sources"]:
            return source_task
        record = self.source_record(source_task)
        return "not run" if record is None else record["kind"]

    def predictions(self, experiment: Experiment) -> np.ndarray:
        """Outlines of the test slices: (n_test, H, W) bool, in the order of the splits' test patients."""
        return unpack_predictions(self.store.arrays("models", self.keys[experiment], "predictions"))

    @property
    def cohort_folder(self) -> Path:
        """Where the cohort lies that the run used."""
        return Path(os.path.normpath(self.folder / self.plan["cohort_folder"]))

    @property
    def cohort_options(self) -> dict[str, Any]:
        """Parameters of a `Study` on the same cohort."""
        options = {name: self.plan[name] for name in ("usable_only", "rois")}
        return options | {"cohort_folder": None if self.plan["phantom"] else self.cohort_folder}

    def cohort(self) -> Cohort:
        """The cohort that the run used.

        Raises
        ------
        CohortError
            If it cannot be read.
        StudyError
            If it is not what the run used: images or outlines differ.
        """
        how = {name: self.plan[name] for name in ("usable_only", "rois")}
        cohort = cached_cohort(self.cohort_folder, self.folder.parent, **how)
        if cohort.fingerprint != self.plan["cohort"]:
            raise StudyError(f"the images or outlines in {self.cohort_folder} are not those that the run used")
        return cohort

    def splits(self) -> Splits:
        """The splits that the run used."""
        try:
            return TypeAdapter(Splits).validate_python(self.store.document(SPLITS))
        except ValidationError:
            raise StudyError(f"{self.folder / SPLITS} holds no splits: it is absent or another file") from None


def open_results(profile: str, runs: str | Path = "runs") -> StudyResults:
    """Open what a run of `profile` has produced; the first line of a chapter.

    Parameters
    ----------
    profile : str
        Name of a profile, or path of a `.yml` file.
    runs : str or Path
        Folder of all runs; a relative one is looked for in the working folder and in the one above it.

    Raises
    ------
    StudyError
        If there is no such run; it names the folder in full.
    """
    return StudyResults(here_or_above(runs) / load_profile(profile).name)
