"""A cohort in memory, and the report of what a folder holds, whichever road it came by."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from l3muscle.errors import L3MuscleError


class CohortError(L3MuscleError):
    """A folder that does not hold a sound cohort."""


@dataclass(frozen=True)
class Cohort:
    """Slices with the expert's masks, and for some patients the observers'.

    Attributes
    ----------
    images : ndarray, (N, H, W) int16
        Hounsfield units.
    masks : ndarray, (N, H, W) bool
        The expert's.
    spacing : ndarray, (N, 2)
        Row and column spacing, mm.
    patient_ids : tuple of str
    observers : dict of str to dict of str to ndarray, (H, W) bool
        By patient, then by observer.
    """

    images: np.ndarray
    masks: np.ndarray
    spacing: np.ndarray
    patient_ids: tuple[str, ...]
    observers: dict[str, dict[str, np.ndarray]]

    def __len__(self) -> int:
        return len(self.patient_ids)

    def index(self, patient_id: str) -> int:
        """Place of a patient in the arrays."""
        return self.patient_ids.index(patient_id)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the cohort, as hexadecimal digits."""
        digest = hashlib.sha256(self.slices_fingerprint.encode())
        for patient, outlines in sorted(self.observers.items()):
            for observer, mask in sorted(outlines.items()):
                digest.update(f"{patient}\0{observer}".encode())
                digest.update(np.packbits(mask))
        return digest.hexdigest()

    @cached_property
    def slices_fingerprint(self) -> str:
        """SHA-256 of what models learn from and are scored against: everything but the observers' outlines."""
        digest = hashlib.sha256(repr((self.patient_ids, self.images.shape)).encode())
        digest.update(np.ascontiguousarray(self.images).view(np.uint8))
        digest.update(np.packbits(self.masks))
        digest.update(np.ascontiguousarray(self.spacing, dtype=np.float64).view(np.uint8))
        return digest.hexdigest()


UNNAMED = "(no PatientID)"


@dataclass
class Patient:
    """One usable patient: a slice, the expert's mask, and observers' masks.

    Attributes
    ----------
    patient_id : str
    name : str
        File that the slice came from, as reports name it; never the patient's name.
    hu : ndarray, (H, W) int16
    spacing : (float, float)
        Row and column spacing, mm.
    expert : ndarray, (H, W) bool
    observers : dict of str to ndarray, (H, W) bool
    """

    patient_id: str
    name: str
    hu: np.ndarray
    spacing: tuple[float, float]
    expert: np.ndarray
    observers: dict[str, np.ndarray] = field(default_factory=dict)


def one_line(text: str) -> str:
    """`text` on one line of printable characters, whatever a file's name or a damaged header put into it."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _kind(refusal: str) -> str:
    """A refusal without what is particular to one file."""
    reason = re.sub(r"^(cohort\.csv line \d+: )?([^:]*: )?", "", one_line(refusal))
    reason = re.sub(r"\([^)]*\)|'[^']*'", "...", reason.split("; ")[0])
    return re.sub(r"\S*\d\S*", "...", reason).split(": ")[0].strip(" .")


@dataclass
class CohortReport:
    """What of a folder can be used, and what cannot and why; by name, what `check_slices` found without an outline."""

    folder: Path
    usable: list[Patient] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report as text, a line each: every refusal, how often each reason occurs, and the sum of it all."""
        for reason in self.refused:
            yield f"refused: {one_line(reason)}"
        if len(self.refused) > 1:
            for kind, count in Counter(map(_kind, self.refused)).most_common():
                yield f"{count:>6} x {kind}"
        observed = sum(bool(patient.observers) for patient in self.usable)
        yield f"{len(self.usable)} patients usable, {observed} of them with observers; {len(self.refused)} refusals"

    def refuse_odd_sizes(self) -> None:
        """A cohort's slices share one size: the commonest stays, the others are refused."""
        sizes = Counter(patient.hu.shape for patient in self.usable)
        if len(sizes) < 2:
            return
        common = max(sizes, key=lambda size: (sizes[size], size))
        for patient in self.usable:
            if patient.hu.shape != common:
                found, usual = (" x ".join(map(str, size)) for size in (patient.hu.shape, common))
                self.refused.append(f"{patient.name}: {found} pixels where most slices have {usual}")
        self.usable = [patient for patient in self.usable if patient.hu.shape == common]

    def cohort(self, *, usable_only: bool = False) -> Cohort:
        """The usable patients as a cohort, in the order of the report.

        Parameters
        ----------
        usable_only : bool
            Go on with the sound patients where something was refused; otherwise that is an error.

        Raises
        ------
        CohortError
            If nothing can be used, or something was refused and `usable_only` is false.
        """
        if self.refused and not usable_only:
            more = f" (and {len(self.refused) - 1} more; `l3muscle cohort check {self.folder}` lists them)"
            raise CohortError(f"{self.folder}: {one_line(self.refused[0])}{more if len(self.refused) > 1 else ''}")
        if not self.usable:
            raise CohortError(f"nothing in {self.folder} can be used")
        return Cohort(
            images=np.stack([patient.hu for patient in self.usable]),
            masks=np.stack([patient.expert for patient in self.usable]),
            spacing=np.array([patient.spacing for patient in self.usable]),
            patient_ids=tuple(patient.patient_id for patient in self.usable),
            observers={patient.patient_id: patient.observers for patient in self.usable if patient.observers},
        )
