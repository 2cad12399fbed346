"""A cohort as one file, so that a notebook need not read every DICOM file again."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from l3muscle.cohort.cohort import Cohort
from l3muscle.cohort.folder import load_cohort
from l3muscle.files import replaced


def folder_signature(folder: Path) -> str:
    """Hash of the names, sizes and times of all files below a folder: whether it has changed since it was read."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            status = os.stat(os.path.join(root, name))
            path = os.path.relpath(os.path.join(root, name), folder)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def save_cohort(cohort: Cohort, path: Path) -> None:
    """Write a cohort so that `load_saved` gets it back."""
    names = [(patient, observer) for patient, outlines in cohort.observers.items() for observer in outlines]
    masks = [cohort.observers[patient][observer] for patient, observer in names]
    with path.open("wb") as stream:
        np.savez(
            stream,
            images=cohort.images,
            masks=np.packbits(cohort.masks, axis=-1),
            spacing=cohort.spacing,
            observers=np.packbits(np.array(masks, dtype=bool).reshape(len(masks), *cohort.images.shape[1:]), axis=-1),
            names=np.frombuffer(json.dumps([cohort.patient_ids, names]).encode(), dtype=np.uint8),
        )


def load_saved(path: Path) -> Cohort:
    """Read a cohort that `save_cohort` wrote; whatever NumPy raises where it is none."""
    with np.load(path, allow_pickle=False) as archive:
        images = archive["images"]
        width = images.shape[-1]
        masks, outlines = (
            np.unpackbits(archive[name], axis=-1, count=width).astype(bool) for name in ("masks", "observers")
        )
        patient_ids, names = json.loads(archive["names"].tobytes())
        observers: dict[str, dict[str, np.ndarray]] = {}
        for (patient, observer), mask in zip(names, outlines, strict=True):
            observers.setdefault(patient, {})[observer] = mask
        return Cohort(images, masks, archive["spacing"], tuple(patient_ids), observers)


def cached_cohort(folder: Path, runs: Path, *, usable_only: bool = False) -> Cohort:
    """Read a cohort from its folder once, and from one file below `runs` while the folder is unchanged.

    Parameters and errors as `l3muscle.cohort.load_cohort`.
    """
    if not folder.is_dir():
        return load_cohort(folder)  # which says what is wrong
    key = hashlib.sha256(f"{folder_signature(folder)} {usable_only}".encode()).hexdigest()[:20]
    saved = runs / "cohorts" / f"{key}.npz"
    with suppress(OSError, ValueError, KeyError):
        return load_saved(saved)
    cohort = load_cohort(folder, usable_only=usable_only)
    with suppress(OSError), replaced(saved) as temporary:
        save_cohort(cohort, temporary)
    return cohort
