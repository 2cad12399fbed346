"""A cohort in memory and in one file, and the report of what a folder holds."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import replaced

UNNAMED = "(no PatientID)"
AIR_HU = -1024  # what scanners did not measure they fill with -2000, -3000 ...; as Hounsfield units that is air
FORMAT = 1  # of the file that `Cohort.save` writes


class CohortError(L3MuscleError):
    """A folder that does not hold a sound cohort."""


@dataclass(frozen=True)
class Cohort:
    """Slices with the expert's masks, and for some patients the observers'.

    Slices of different sizes are filled up with air at the bottom and on the right to the size of the largest, and
    their masks with False; the pixels of `shapes` are a slice's own.

    Attributes
    ----------
    images : ndarray, (N, H, W) int16
        Hounsfield units; columns run to the patient's left, rows to the back.
    masks : ndarray, (N, H, W) bool
        The expert's.
    spacing : ndarray, (N, 2)
        Row and column spacing, mm.
    patient_ids : tuple of str
    observers : dict of str to dict of str to ndarray, (H, W) bool
        By patient, then by observer.
    shapes : tuple of (int, int)
        Rows and columns of each slice as its file has them; empty where all have (H, W).
    """

    images: np.ndarray
    masks: np.ndarray
    spacing: np.ndarray
    patient_ids: tuple[str, ...]
    observers: dict[str, dict[str, np.ndarray]]
    shapes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.patient_ids)

    def index(self, patient_id: str) -> int:
        """Index of a patient in the arrays."""
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
        digest = hashlib.sha256(repr((self.patient_ids, self.images.shape, *self.shapes)).encode())
        digest.update(np.ascontiguousarray(self.images).view(np.uint8))
        digest.update(np.packbits(self.masks))
        digest.update(np.ascontiguousarray(self.spacing, dtype=np.float64).view(np.uint8))
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the cohort into one uncompressed `.npz`, masks a bit a pixel, in place of an older one.

        Raises
        ------
        CohortError
            If it cannot be written.
        """
        drawn = [(patient, by, mask) for patient, masks in self.observers.items() for by, mask in masks.items()]
        try:
            with replaced(Path(path)) as unfinished, unfinished.open("wb") as file:
                np.savez(
                    file,
                    format=FORMAT,
                    images=self.images,
                    masks=np.packbits(self.masks, axis=-1),
                    spacing=self.spacing,
                    patient_ids=np.array(self.patient_ids, dtype=np.str_),
                    shapes=np.array(self.shapes, dtype=np.int64).reshape(-1, 2),
                    observed=np.array([patient for patient, _, _ in drawn], dtype=np.str_),
                    observers=np.array([by for _, by, _ in drawn], dtype=np.str_),
                    outlines=np.packbits(
                        np.array([mask for _, _, mask in drawn], bool).reshape(-1, *self.images.shape[1:]), axis=-1
                    ),
                    fingerprint=self.fingerprint,
                )
        except OSError as error:
            raise CohortError(f"cannot write {path}: {reason_of(error)}") from None

    @classmethod
    def load(cls, path: str | Path) -> "Cohort":
        """Read what `save` wrote; its checksums are compared.

        Raises
        ------
        CohortError
            If there is no such file, or it is damaged or another one.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                if int(content["format"]) != FORMAT:
                    raise CohortError(f"{path}: written by another version")
                images, width = content["images"], content["images"].shape[-1]
                masks, outlines = (
                    np.unpackbits(content[name], axis=-1, count=width).view(bool) for name in ("masks", "outlines")
                )
                observers: dict[str, dict[str, np.ndarray]] = {}
                who = zip(content["observed"].tolist(), content["observers"].tolist(), outlines, strict=True)
                for patient, by, mask in who:
                    observers.setdefault(patient, {})[by] = mask
                shapes = tuple((int(rows), int(columns)) for rows, columns in content["shapes"])
                cohort = cls(
                    images, masks, content["spacing"], tuple(content["patient_ids"].tolist()), observers, shapes
                )
                # Known already, and a second's work to count again.
                cohort.__dict__["fingerprint"] = str(content["fingerprint"])
        except CohortError:
            raise
        except FileNotFoundError:
            raise CohortError(f"{path}: there is no such file") from None
        except Exception as error:  # of a damaged archive NumPy raises all kinds
            raise CohortError(f"{path}: not a saved cohort, or damaged ({reason_of(error)})") from None
        if not masks.shape == images.shape or len(cohort) != len(images):
            raise CohortError(f"{path}: not a saved cohort, or damaged")
        return cohort


@dataclass
class Patient:
    """One usable slice of a patient: pixels, the expert's mask, and observers' masks.

    Attributes
    ----------
    patient_id : str
    name : str
        File that the slice came from, as reports name it; never the patient's name.
    hu : ndarray, (H, W) int16
        Upright.
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
    """What of a folder can be used, and what cannot and why; by name, slices that wait for an outline."""

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
        shapes = tuple(patient.hu.shape for patient in self.usable)
        largest = tuple(max(lengths) for lengths in zip(*shapes, strict=True))

        def filled(array: np.ndarray, value: int) -> np.ndarray:
            missing = [(0, most - length) for most, length in zip(largest, array.shape, strict=True)]
            return np.pad(array, missing, constant_values=value)

        return Cohort(
            images=np.stack([filled(patient.hu, AIR_HU) for patient in self.usable]),
            masks=np.stack([filled(patient.expert, False) for patient in self.usable]),
            spacing=np.array([patient.spacing for patient in self.usable]),
            patient_ids=tuple(patient.patient_id for patient in self.usable),
            observers={
                patient.patient_id: {by: filled(mask, False) for by, mask in patient.observers.items()}
                for patient in self.usable
                if patient.observers
            },
            shapes=shapes if len(set(shapes)) > 1 else (),
        )
