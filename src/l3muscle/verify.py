"""Training again what is stored, and comparing: is an outcome the same here, bit for bit?

Nothing is written to the stored run, and nothing of it is moved aside: what is needed of it is copied to a scratch
folder, and read and judged there.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from l3muscle import runtime
from l3muscle.errors import L3MuscleError
from l3muscle.profile import load_profile
from l3muscle.store import Artefact, Store
from l3muscle.study import (
    Experiment,
    Study,
    StudyError,
    StudyResults,
    experiments,
    method_digest,
    open_results,
    run_experiment,
    train_source,
)

# Of a provenance record: what can change the last bits of an outcome, and how it is called.
DECISIVE = {"processor": "processor", "gpu": "GPU", "cores": "number of cores", "system": "system", "commit": "commit"}


class VerifyError(L3MuscleError):
    """Nothing to train again, or nothing to compare it with."""


@dataclass(frozen=True)
class Comparison:
    """One experiment, trained again.

    Attributes
    ----------
    experiment : Experiment
    verdict : str
        `"same"`: every score of every test image is the same to the last bit; `"differs"`; `"not stored"`: there is no
        stored result, or none that is sound.
    largest : dict of str to float
        Of each measure the largest absolute difference between an image's stored and fresh score; inf where only one
        of them is undefined. Empty where nothing is stored.
    reasons : tuple of str
        What is not as it was: why scores may differ, or why there is nothing to compare them with.
    scores : DataFrame
        Of the fresh model: one row a test image.
    seconds : float
    """

    experiment: Experiment
    verdict: str
    largest: dict[str, float]
    reasons: tuple[str, ...]
    scores: pd.DataFrame
    seconds: float

    def __str__(self) -> str:
        why = f" ({'; '.join(self.reasons)})" if self.reasons and self.verdict != "same" else ""
        if self.verdict != "differs":
            return f"{self.experiment}: {self.verdict}{why}"
        gaps = _words(self.largest)
        return f"{self.experiment}: differs, by at most {gaps}{why or ' (for no reason that the records show)'}"


def largest_differences(stored: pd.DataFrame, fresh: pd.DataFrame) -> dict[str, float]:
    """Compare two tables of scores of the same test images, measure by measure.

    Parameters
    ----------
    stored, fresh : DataFrame
        One row a test image: `patient_id`, the fields of the experiment, and measures.

    Returns
    -------
    dict of str to float
        The largest absolute difference of each measure: 0 only where all are the same to the last bit, inf where a
        score, or the whole measure, is there in one table only.

    Raises
    ------
    VerifyError
        If the tables are not of the same images.
    """
    if sorted(stored["patient_id"]) != sorted(fresh["patient_id"]):
        raise VerifyError("the stored scores are of other test images than the fresh ones")
    place = {"patient_id", *(field.name for field in fields(Experiment))}
    stored, fresh = (table.set_index("patient_id").sort_index() for table in (stored, fresh))
    largest = {}
    for name in dict.fromkeys([*stored.columns, *fresh.columns]):
        if name in place:
            continue
        if name not in stored or name not in fresh:
            largest[name] = float("inf")
            continue
        if not is_numeric_dtype(fresh[name]):
            # Words, such as why a score is undefined: equal or not.
            largest[name] = 0.0 if list(stored[name]) == list(fresh[name]) else float("inf")
            continue
        one, two = stored[name].to_numpy(float), fresh[name].to_numpy(float)
        same = (one == two) | (np.isnan(one) & np.isnan(two))
        gaps = np.abs(one[~same] - two[~same])
        largest[name] = float(np.nan_to_num(gaps, nan=np.inf).max()) if len(gaps) else 0.0
    return largest


def reasons_for_difference(record: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """What in the records of two trainings of one experiment is not the same and could move its last bits.

    Parameters
    ----------
    record, fresh : dict
        As `l3muscle.study.run_experiment` leaves them.

    Returns
    -------
    list of str
    """
    before, now = record["provenance"], fresh["provenance"]
    reasons = [
        f"another {words}: {_short(before.get(name))}, here {_short(now.get(name))}"
        for name, words in DECISIVE.items()
        if before.get(name) != now.get(name)
    ]
    if record.get("threads") != fresh.get("threads"):
        reasons.append(f"another thread count: {record.get('threads')}, here {fresh.get('threads')}")
    reasons += [
        f"another {package}: {version}, here {now['versions'].get(package)}"
        for package, version in before.get("versions", {}).items()
        if now["versions"].get(package) != version
    ]
    if before.get("uncommitted_changes") or now.get("uncommitted_changes"):
        where = "there" if before.get("uncommitted_changes") else "here"
        reasons.append(f"uncommitted changes {where}")
    return reasons


def _short(value: Any) -> Any:
    """A commit by its first ten digits; the rest as it is."""
    return value[:10] if isinstance(value, str) and len(value) == 40 else value


def _words(gaps: dict[str, float]) -> str:
    return ", ".join(f"{name} {gap:.3g}" for name, gap in gaps.items() if gap)


class Verifier:
    """Trains experiments of a run again, beside it. Made by `verifier`.

    Parameters
    ----------
    study : Study
        Of the profile and the cohort that the run used.
    results : StudyResults or None
        The stored run, where there is one.
    scratch : Path
        Where copies go, and source tasks that have to be learned again.
    """

    def __init__(self, study: Study, results: StudyResults | None, scratch: Path) -> None:
        self.study, self.results = study, results
        self._scratch = Store(scratch / "copies")
        self._sources: dict[str, tuple[dict[str, Tensor] | None, str | None]] = {"random": (None, None)}
        entries = [] if results is None else [dict(entry) for entry in results.plan["experiments"]]
        keys = [entry.pop("key") for entry in entries]
        self._keys = {Experiment(**entry): key for entry, key in zip(entries, keys, strict=True)}

    def finished(self) -> list[Experiment]:
        """Experiments that have a stored result."""
        if self.results is None:
            return []
        return sorted(e for e, key in self._keys.items() if self.results.store.folder("experiments", key).is_dir())

    def choose(
        self, source_task: str, n_train: int, *, fold: int | None = None, subset: int | None = None,
        repeat: int | None = None,
    ) -> list[Experiment]:  # fmt: skip
        """Experiments of a cell; those of one fold, subset or repeat where that is given.

        Raises
        ------
        VerifyError
            If the grid of the profile has none, saying what it has.
        """
        wanted = {"source_task": source_task, "n_train": n_train, "fold": fold, "subset": subset, "repeat": repeat}
        grid = experiments(self.study.profile)
        for name, value in wanted.items():
            there = sorted({getattr(experiment, name) for experiment in grid})
            if value is not None and value not in there:
                raise VerifyError(
                    f"the grid of profile {self.study.profile.name!r} has no {name} {value!r}; "
                    f"it has {', '.join(map(str, there))}"
                )
        return [e for e in grid if all(value in (None, getattr(e, name)) for name, value in wanted.items())]

    def _copied(self, kind: str, key: str | None) -> dict[str, Any] | None:
        """Record of a stored artefact, once it is copied to the scratch store; None where none is sound."""
        if key is None or self.results is None:
            return None
        place = self.results.store.folder(kind, key)
        if place.is_dir() and not self._scratch.folder(kind, key).exists():
            shutil.copytree(place, self._scratch.folder(kind, key))
        return self._scratch.record(kind, key)

    def _source_weights(self, source_task: str) -> tuple[dict[str, Tensor] | None, str | None]:
        """Weights to fine-tune from, and what has to be said of them."""
        if source_task not in self._sources:
            key = None if self.results is None else self.results.plan["sources"].get(source_task)
            if self._copied("sources", key) is not None:
                self._sources[source_task] = (self._scratch.weights("sources", key), None)
            else:
                artefact = train_source(self.study.profile, source_task, self.study.prepared)
                self._sources[source_task] = (
                    dict(artefact.weights["weights"]),
                    "the source task was learned anew, as its weights are not stored",
                )
        return self._sources[source_task]

    def train(self, experiment: Experiment) -> Artefact:
        """Train an experiment exactly as the study does."""
        return run_experiment(
            self.study.job(experiment), self.study.prepared, self._source_weights(experiment.source_task)[0]
        )

    def compare(self, experiment: Experiment) -> Comparison:
        """Train an experiment again and compare its scores with the stored ones."""
        started = time.perf_counter()
        artefact = self.train(experiment)
        fresh = artefact.tables["scores"]
        key = self._keys.get(experiment)
        record = self._copied("experiments", key)
        _, about_source = self._source_weights(experiment.source_task)
        reasons = [] if about_source is None else [about_source]
        largest: dict[str, float] = {}
        if record is None:
            reasons = ["no run of this profile is stored" if self.results is None else "not finished, or damaged"]
            verdict = "not stored"
        else:
            largest = largest_differences(self._scratch.table("experiments", key, "scores"), fresh)
            verdict = "same" if not any(largest.values()) else "differs"
            if self.results.plan.get("code") != method_digest():
                reasons.append("the method's code has changed since")
            if self.results.plan["cohort"] != self.study.cohort.fingerprint:
                reasons.append("the cohort's images or outlines have changed since")
            reasons += reasons_for_difference(record, dict(artefact.record))
        return Comparison(experiment, verdict, largest, tuple(reasons), fresh, time.perf_counter() - started)


@contextmanager
def verifier(profile: str, runs: str | Path = "runs", *, say: Callable[[str], None] = print) -> Iterator[Verifier]:
    """Open a run for training parts of it again; the scratch folder goes when the block ends.

    Parameters
    ----------
    profile : str
        Where a run of it is stored, the settings are those that the run used; else those of the profile.
    runs : str or Path
        As in `l3muscle.study.open_results`.
    say : callable
        Takes one line of text: how long things take.
    """
    with tempfile.TemporaryDirectory(prefix="l3muscle-") as folder:
        scratch = Path(folder)
        try:
            results = open_results(profile, runs)
        except StudyError as error:
            if (Path(runs) / load_profile(profile).name / "plan.json").exists():
                raise
            say(f"nothing to compare with: {error}")
            results = None
        if results is not None:
            settings, cohort, usable = results.profile, results.cohort_folder, results.plan.get("usable_only", False)
            study = Study(settings, runs=scratch, cohort_folder=cohort, usable_only=usable)
            if not cohort.is_dir() and results.plan["phantom"]:
                study = Study(settings, runs=scratch)
        else:
            settings = load_profile(profile)
            study = Study(settings, runs=scratch)
            kept = Study(settings, runs=Path(runs)).cohort_folder
            if kept.is_dir():
                study = Study(settings, runs=scratch, cohort_folder=kept)
        if study.is_phantom:
            say(f"drawing the phantom cohort: {settings.cohort.patients} patients")
            study.make_phantom()
        yield Verifier(study, results, scratch)


def verify(
    profile: str,
    runs: str | Path = "runs",
    *,
    sample: int = 3,
    seed: int = 0,
    on_comparison: Callable[[Comparison], None] | None = None,
    say: Callable[[str], None] = print,
) -> list[Comparison]:
    """Train a random sample of a run's finished experiments again and compare.

    Parameters
    ----------
    profile : str
    runs : str or Path
    sample : int
        How many; all where there are fewer.
    seed : int
        Of the choice.
    on_comparison : callable, optional
        Called with each, as soon as it is there.
    say : callable

    Returns
    -------
    list of Comparison

    Raises
    ------
    VerifyError
        If no experiment is finished.
    """
    found = []
    with verifier(profile, runs, say=say) as beside:
        finished = beside.finished()
        if not finished:
            raise VerifyError(f"no experiment of profile {profile!r} is finished: there is nothing to verify")
        for experiment in random.Random(seed).sample(finished, min(sample, len(finished))):
            comparison = beside.compare(experiment)
            found.append(comparison)
            if on_comparison is not None:
                on_comparison(comparison)
    return found


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row an experiment: its place in the grid, the verdict, and the largest difference of each measure."""
    return pd.DataFrame(
        [
            {
                **asdict(one.experiment),
                "verdict": one.verdict,
                **{f"largest difference of {name}": gap for name, gap in one.largest.items()},
                "seconds": round(one.seconds, 1),
            }
            for one in comparisons
        ]
    )


def verdict_of(comparisons: Sequence[Comparison]) -> str:
    """One line for all: *same*, or how many differ and why they may."""
    count = len(comparisons)
    models = "model" if count == 1 else "models"
    stored = [one for one in comparisons if one.verdict != "not stored"]
    if not stored:
        return f"not stored: {count} {models} trained, nothing to compare with ({'; '.join(comparisons[0].reasons)})"
    differing = [one for one in stored if one.verdict == "differs"]
    left = f"; {count - len(stored)} have no stored result" if len(stored) < count else ""
    if not differing:
        return f"same: every score of {len(stored)} {models} is the stored one to the last bit, on {_here()}{left}"
    gaps = {name: max(one.largest[name] for one in differing) for name in differing[0].largest}
    reasons = dict.fromkeys(reason for one in differing for reason in one.reasons)
    why = "; ".join(reasons) or "nothing in the records says why"
    return f"differs: {len(differing)} of {len(stored)} {models}, by at most {_words(gaps)} ({why}){left}"


def _here() -> str:
    provenance = runtime.provenance()
    return provenance["gpu"] or provenance["processor"]
