"""Outlined slices held against their images, before anything is trained on them.

What tells a sound outline from a misplaced one is the density of what it encloses: of an expert's outline nine tenths
and more lie within -29 to 150 HU. Bodies are nearly the same left and right, yet not to the pixel: on 30 phantoms and
30 slices of one real scan, the sound outline held at least 0.09 more of that range than its mirror image did. An image
that is mirrored together with its outline cannot be told from a sound one by this, and is not looked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from l3muscle.cohort import UNNAMED, CohortReport, Patient, check_folder
from l3muscle.errors import L3MuscleError
from l3muscle.metrics import muscle_area
from l3muscle.segmenter.flags import AIR_HU, BONE_HU, FAT_HU, muscle_range

MIN_SLICES = 10
REFUSED_SHARE = 0.5  # of the outline within the muscle range
DOUBTED_SHARE = 0.75
FLIP_GAIN = 0.05  # by which a mirrored outline has to fit better
PLAUSIBLE_AREA_CM2 = (30.0, 350.0)
THUMBNAIL = (32, 32)
THUMBNAIL_HU = 200  # both ways; beyond it air and bone would decide
# Slices 3 mm apart of one scan correlate by 0.96 and more, those of different phantoms by 0.94 and less.
SAME_PERSON = 0.955
TURNS = {
    "mirrored left-right": lambda mask: mask[:, ::-1],
    "mirrored up-down": lambda mask: mask[::-1],
    "turned by half a turn": lambda mask: mask[::-1, ::-1],
    "with rows and columns exchanged": lambda mask: mask.T,
}


class TrainingFolderError(L3MuscleError):
    """A folder that cannot be trained on."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a slice or its outline: not to be trained on (`"refused"`), or to be looked at."""

    severity: Literal["refused", "warning"]
    name: str  # of the slice
    reason: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.name}: {self.reason}"


def _share_in_range(mask: np.ndarray, hu: np.ndarray) -> float:
    return float(muscle_range(hu[mask]).mean())


def _main_tissue(inside: np.ndarray) -> str:
    shares = {
        "air": np.mean(inside < AIR_HU),
        "fat": np.mean((inside >= FAT_HU[0]) & (inside < FAT_HU[1])),
        "bone": np.mean(inside > BONE_HU),
    }
    name = max(shares, key=shares.get)
    return f"{shares[name]:.0%} of it is {name}"


def check_outline(patient: Patient) -> list[Finding]:
    """Hold one outline against its image."""
    hu, mask = patient.hu, patient.expert
    share = _share_in_range(mask, hu)
    turned = {words: _share_in_range(turn(mask), hu) for words, turn in TURNS.items() if turn(mask).shape == hu.shape}
    best = max(turned, key=turned.get)
    findings = []
    if turned[best] >= share + FLIP_GAIN:
        reason = (
            f"the outline fits better {best}: then {turned[best]:.0%} of it are within -29 to 150 HU, "
            f"and {share:.0%} as it lies"
        )
        findings.append(Finding("refused", patient.name, reason))
    elif share < DOUBTED_SHARE:
        reason = f"only {share:.0%} of the outline is within -29 to 150 HU; {_main_tissue(hu[mask])}"
        findings.append(Finding("refused" if share < REFUSED_SHARE else "warning", patient.name, reason))
    area = muscle_area(mask, patient.spacing)
    if not PLAUSIBLE_AREA_CM2[0] <= area <= PLAUSIBLE_AREA_CM2[1]:
        findings.append(Finding("warning", patient.name, f"an outline of {area:.0f} cm² is unusual for muscle at L3"))
    return findings


def _thumbnail(hu: np.ndarray) -> np.ndarray:
    clipped = np.clip(hu, -THUMBNAIL_HU, THUMBNAIL_HU).astype(np.float32)
    # Not smoothed: fine detail tells people apart, what is left without it is the shape that all bodies share.
    small = ndimage.zoom(clipped, np.divide(THUMBNAIL, hu.shape), order=1).ravel()
    return (small - small.mean()) / (np.linalg.norm(small - small.mean()) + 1e-9)


def _people(patients: Sequence[Patient]) -> Iterator[Finding]:
    """Warnings where patient IDs do not seem to tell people apart: the error estimate hangs on them."""
    nameless = [patient.name for patient in patients if patient.patient_id == UNNAMED]
    if nameless:
        reason = (
            f"has no PatientID, like {len(nameless) - 1} more; they are taken for one patient's slices, so how good "
            "the model is on other patients is not estimated from them; a cohort.csv can say who is who"
        )
        yield Finding("warning", nameless[0], reason)
    thumbnails = np.array([_thumbnail(patient.hu) for patient in patients]).reshape(len(patients), -1)
    alike = thumbnails @ thumbnails.T >= SAME_PERSON
    for i, patient in enumerate(patients):
        others = [patients[j] for j in np.flatnonzero(alike[i, :i])]
        other = next((other for other in others if other.patient_id != patient.patient_id), None)
        if other is not None:
            reason = (
                f"looks like the person of {other.name} under another patient ID; where it is, give both one "
                "patient_id in cohort.csv, or the error estimate comes out too good"
            )
            yield Finding("warning", patient.name, reason)


def check_patients(patients: Sequence[Patient]) -> list[Finding]:
    """Hold every outline against its image, and slices against one another.

    Parameters
    ----------
    patients : sequence of Patient
        One a slice, from `l3muscle.cohort.check_folder` with `several`.

    Returns
    -------
    list of Finding
        Outlines that hold no muscle or lie the wrong way round, and slices that are there twice; as warnings, slices
        whose patient IDs do not seem to tell people apart.
    """
    findings = [finding for patient in patients for finding in check_outline(patient)]
    first: dict[bytes, Patient] = {}
    for patient in patients:
        other = first.setdefault(patient.hu.tobytes(), patient)
        if other is not patient:
            findings.append(Finding("refused", patient.name, f"the same picture as {other.name}"))
    return findings + list(_people(list(first.values())))


def check_training_folder(folder: Path, *, rois: Sequence[str] = ()) -> tuple[CohortReport, list[str]]:
    """Read a folder of outlined slices and hold the outlines against the images.

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
    report = check_folder(folder, rois=rois, several=True)
    findings = check_patients(report.usable)
    refused = [finding for finding in findings if finding.severity == "refused"]
    bad = {finding.name for finding in refused}
    report.refused += [f"{finding.name}: {finding.reason}" for finding in refused]
    report.usable = [patient for patient in report.usable if patient.name not in bad]
    warnings = [str(finding) for finding in findings if finding.severity == "warning"]
    return report, [f"refused: {reason}" for reason in report.refused] + warnings


def require_enough(report: CohortReport, *, usable_only: bool, least: int = MIN_SLICES) -> list[Patient]:
    """The slices to train on.

    Raises
    ------
    TrainingFolderError
        If something was refused and `usable_only` is false, or fewer than `least` slices are left.
    """
    if report.refused and not usable_only:
        raise TrainingFolderError(
            f"{len(report.refused)} refusals in {report.folder}; mend them, or go on without them (--usable-only)"
        )
    if len(report.usable) < least:
        raise TrainingFolderError(
            f"{len(report.usable)} usable outlined slices in {report.folder}, and {least} are needed: "
            f"outline {least - len(report.usable)} more"
        )
    return report.usable
