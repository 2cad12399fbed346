"""The whole way from a folder of slices, ten or more of them outlined, to a model file with its card."""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l3muscle import __version__, runtime
from l3muscle.cohort import CohortReport, Patient, check_slices
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.metrics import muscle_area
from l3muscle.profile import Profile
from l3muscle.segmenter import checks, estimate, finetune, flags
from l3muscle.segmenter.checks import LEAST_SLICES, check_cohort
from l3muscle.segmenter.estimate import error_table, learning_curve, would_more_help
from l3muscle.segmenter.finetune import BEST, CrossValidation, Start, choose_start, cross_validate
from l3muscle.segmenter.model_file import save_ensemble, tensor_digest
from l3muscle.segmenter.segment import SheetSlice, write_sheets
from l3muscle.study import method_digest

MODEL, CARD, SCORES = "model.safetensors", "model.json", "held_out.csv"
CARD_FORMAT = "l3muscle-card-1"
NO_LICENCE = "not stated: the licence of the training slices decides; ask whoever owns them before you share it"


class OwnScansError(L3MuscleError):
    """A folder that cannot be trained on, or an output folder that cannot be written."""


@dataclass(frozen=True)
class OwnModel:
    """A model of one's own, as it lies in a folder.

    Attributes
    ----------
    path : Path
        Of the model file.
    card : dict
    scores : DataFrame
        Held-out slices at every training-set size; see `CrossValidation.scores`.
    """

    path: Path
    card: dict[str, Any]
    scores: pd.DataFrame

    @property
    def held_out(self) -> pd.DataFrame:
        """Held-out scores of the members: each slice once."""
        return self.scores[self.scores["member"]].reset_index(drop=True)

    def errors(self) -> pd.DataFrame:
        """Mean and interval of each measure; see `error_table`."""
        return error_table(self.held_out)

    def curve(self) -> pd.DataFrame:
        """Held-out Dice against training-set size; see `learning_curve`."""
        return learning_curve(self.scores)

    def lines(self) -> list[str]:
        """What was found, in sentences."""
        data = self.card["training_data"]
        lines = [
            f"{row.measure}: {row.mean:.3f} ("
            + ("no interval" if np.isnan(row.low) else f"95 % interval {row.low:.3f} to {row.high:.3f}")
            + f"; worst {row.worst:.3f})"
            for row in self.errors().itertuples()
        ]
        of = f"{data['slices']} slices of {data['patients']} patient{'s' * (data['patients'] > 1)}"
        few = "; so few leave wide intervals" if data["patients"] > 1 else ""
        return [
            f"held out once each: {of}{few}",
            *lines,
            *([self.card["error_estimate"]["warning"]] if self.card["error_estimate"]["warning"] else []),
            would_more_help(self.scores),
        ]


def check_own(folder: Path) -> tuple[CohortReport, list[str]]:
    """Read a folder and hold its outlines against the images.

    Returns
    -------
    CohortReport
        `usable` without what is refused here.
    list of str
        A sentence for each finding, refusals first.

    Raises
    ------
    CohortError
        If there is no such folder, or it holds no file.
    """
    report = check_slices(folder)
    findings = check_cohort(report.usable)
    bad = {finding.name for finding in findings if finding.severity == "refused"}
    report.refused += [f"{finding.name}: {finding.reason}" for finding in findings if finding.severity == "refused"]
    report.usable = [patient for patient in report.usable if patient.name not in bad]
    warnings = [str(finding) for finding in findings if finding.severity == "warning"]
    return report, [f"refused: {reason}" for reason in report.refused] + warnings


def require_enough(report: CohortReport, *, usable_only: bool, least: int = LEAST_SLICES) -> list[Patient]:
    """The slices to train on.

    Raises
    ------
    OwnScansError
        If something was refused and `usable_only` is false, or fewer than `least` slices are left.
    """
    if report.refused and not usable_only:
        raise OwnScansError(
            f"{len(report.refused)} refusals in {report.folder}; mend them, or go on without them (--usable-only)"
        )
    if len(report.usable) < least:
        raise OwnScansError(
            f"{len(report.usable)} usable outlined slices in {report.folder}, and {least} are needed: "
            f"outline {least - len(report.usable)} more"
        )
    return report.usable


def _identity(patients: Sequence[Patient], start: Start, options: dict[str, Any]) -> str:
    """Hash of all that decides the outcome."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for patient in patients:
        digest.update(repr((patient.patient_id, patient.name, patient.hu.shape, patient.spacing)).encode())
        digest.update(np.ascontiguousarray(patient.hu).tobytes())
        digest.update(np.packbits(patient.expert).tobytes())
    parts = ("network", "image", "augmentation", "training", "threads_per_worker")
    digest.update(start.profile.fingerprint(*parts).encode())
    digest.update((tensor_digest(start.weights) if start.weights else "random").encode())
    digest.update(method_digest().encode())
    for module in (finetune, checks, estimate, flags, inspect.getmodule(_identity)):
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"least": round(float(min(values)), 3), "greatest": round(float(max(values)), 3)}


def model_card(
    patients: Sequence[Patient],
    start: Start,
    outcome: CrossValidation,
    *,
    licence: str,
    inputs: str,
    seconds: float,
    folds: int,
) -> dict[str, Any]:
    """What a model is, what it was trained on, how good it is and what for; names no patient, file or folder."""
    profile = start.profile
    errors = error_table(outcome.held_out)
    warning = (
        "all slices are of one patient: the estimate is for more slices of this patient and says nothing of others"
        if outcome.one_patient
        else ""
    )
    return {
        "format": CARD_FORMAT,
        "name": f"L3 skeletal muscle, {len(outcome.members)} fine-tuned networks",
        "intended_use": "outlining skeletal muscle on axial CT at the third lumbar vertebra for research, on scans "
        "like those it was trained on, with a person looking at every outline and at the flagged ones first",
        "not_for": [
            "diagnosis, treatment or any decision about a patient: it is not a medical device",
            "other vertebral levels, other body regions, MR, or images that are not in Hounsfield units",
            "scanners, contrast phases or patients unlike those of the training slices, until it was tried on them",
        ],
        "licence": licence or NO_LICENCE,
        "preprocessing": {
            **profile.image.model_dump(mode="json"),
            "words": "the field of view is laid around the body, clipped to the window, resampled to the network's "
            "shape and normalised with ImageNet's mean and deviation",
        },
        "network": {**profile.network.model_dump(mode="json"), "members": len(outcome.members)},
        "training": {
            "profile": profile.name,
            "start": start.source,
            "start_words": start.words,
            **profile.training.model_dump(mode="json"),
        },
        "training_data": {
            "slices": len(patients),
            "patients": len({patient.patient_id for patient in patients}),
            "row_spacing_mm": _spread([patient.spacing[0] for patient in patients]),
            "column_spacing_mm": _spread([patient.spacing[1] for patient in patients]),
            "pixels": sorted({" x ".join(map(str, patient.hu.shape)) for patient in patients}),
            "muscle_area_cm2": _spread([muscle_area(patient.expert, patient.spacing) for patient in patients]),
        },
        "error_estimate": {
            "how": f"cross-validation in {folds} folds; each patient held out once, with all slices; of one member, "
            "while the ensemble's own error cannot be known from slices that other members have seen",
            "warning": warning,
            "measures": json.loads(errors.round(4).to_json(orient="records")),
            "learning_curve": json.loads(learning_curve(outcome.scores).round(4).to_json(orient="records")),
            "would_more_help": would_more_help(outcome.scores),
        },
        "quality_flags": outcome.calibration.as_dict(),
        "provenance": runtime.provenance(),
        "seconds": round(seconds, 1),
        "inputs": inputs,
        "l3muscle": __version__,
    }


def open_own(out: Path) -> OwnModel:
    """Open what `train_own` left in a folder.

    Raises
    ------
    OwnScansError
        If it is not there or cannot be read.
    """
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        if card["format"] != CARD_FORMAT or not (out / MODEL).is_file():
            raise ValueError("not a complete model folder")
        return OwnModel(out / MODEL, card, pd.read_csv(out / SCORES, dtype={"patient_id": str, "failure": str}))
    except (OSError, ValueError, KeyError) as error:
        raise OwnScansError(f"there is no model of one's own in {out}: {reason_of(error)}") from None


def train_own(
    patients: Sequence[Patient],
    out: Path,
    profile: Profile,
    *,
    start_from: str = BEST,
    runs: Path = Path("runs"),
    folds: int = 5,
    full_curve: bool = True,
    licence: str = "",
    kind: str = "own",
    seed: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = print,
    on_model: Callable[[int, int], None] | None = None,
) -> OwnModel:
    """Cross-validate, and leave the ensemble with its card, held-out scores and pictures in a folder.

    What the folder holds already is kept where nothing that decides it has changed.

    Parameters
    ----------
    patients : sequence of Patient
        One a slice, from `require_enough`.
    out : Path
        Receives `model.safetensors`, `model.json`, `held_out.csv` and pictures of the held-out outlines, worst first.
    profile : Profile
    start_from, runs
        See `choose_start`.
    folds, full_curve, seed, workers, on_model
        See `cross_validate`.
    licence : str
        Under which the model may be used.
    kind : str
        Of the slices, as the model file says it: `"own"` or `"phantom"`.
    say : callable
        Takes one line of text.

    Returns
    -------
    OwnModel

    Raises
    ------
    OwnScansError
        If `out` cannot be written.
    """
    started = time.perf_counter()
    start = choose_start(profile, start_from, runs=runs, slices=len(patients), say=say)
    say(f"starting from: {start.source} ({start.words})")
    options = {"folds": folds, "full_curve": full_curve, "seed": seed, "licence": licence, "kind": kind}
    inputs = _identity(patients, start, options)
    try:
        found = open_own(out)
        if found.card["inputs"] == inputs:
            say(f"{out} is up to date")
            return found
    except OwnScansError:
        pass
    outcome = cross_validate(
        patients, start, folds=folds, full_curve=full_curve, seed=seed, workers=workers, on_model=on_model
    )
    card = model_card(
        patients,
        start,
        outcome,
        licence=licence,
        inputs=inputs,
        seconds=time.perf_counter() - started,
        folds=len(outcome.members),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CARD).unlink(missing_ok=True)
        about = {"cohort": kind, "profile": profile.name, "card": card}
        save_ensemble(
            out / MODEL, outcome.members, start.profile.network, start.profile.image, about, outcome.calibration
        )
        outcome.scores.to_csv(out / SCORES, index=False, float_format="%.6f")
        ranked = outcome.held_out.assign(place=range(len(outcome.held_out))).sort_values("dice", kind="stable")
        places = {patient.name: place for place, patient in enumerate(patients)}
        write_sheets(
            out,
            "held-out",
            [
                SheetSlice.cut(
                    f"{row.slice}  Dice {row.dice:.2f}",
                    patients[places[row.slice]].hu,
                    patients[places[row.slice]].spacing,
                    outcome.outlines[places[row.slice]],
                    reference=patients[places[row.slice]].expert,
                )
                for row in ranked.itertuples()
            ],
        )
        (out / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
    except OSError as error:
        raise OwnScansError(f"cannot write to {out}: {reason_of(error)}") from None
    return open_own(out)
