"""A cohort in memory."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


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
        digest = hashlib.sha256(repr((self.patient_ids, self.images.shape)).encode())
        digest.update(np.ascontiguousarray(self.images).view(np.uint8))
        digest.update(np.packbits(self.masks))
        digest.update(np.ascontiguousarray(self.spacing, dtype=np.float64).view(np.uint8))
        for patient, outlines in sorted(self.observers.items()):
            for observer, mask in sorted(outlines.items()):
                digest.update(f"{patient}\0{observer}".encode())
                digest.update(np.packbits(mask))
        return digest.hexdigest()
