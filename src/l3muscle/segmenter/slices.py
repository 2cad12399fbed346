"""The slices that are to be segmented, how their results are called, and how masks of them are written."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3muscle.cohort.ct import CTSlice, ct_slice, modality, read_dataset
from l3muscle.cohort.files import FileError, find_files
from l3muscle.cohort.nifti import Volume, is_nifti, write_nifti
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.scan import IMAGE, OUTLINES, is_png, split_name
from l3muscle.cohort.seg import write_seg
from l3muscle.errors import L3MuscleError
from l3muscle.files import file_sha256

HEIGHT_M = (1.0, 2.4)  # beyond, a height is taken for a mistake
KNOWN_SUFFIX = re.compile(r"\.(dcm|dicom|ima|nii\.gz|nii)$", re.IGNORECASE)
MAX_NAME = 120  # letters of a path that a result's name repeats; file systems take 255 in all
MASK_WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray, CTSlice], None]]] = {
    "seg": ("seg.dcm", write_seg),
    "rtstruct": ("rtstruct.dcm", lambda path, mask, ct: write_rtstruct(path, {"skeletal muscle": mask}, ct)),
    "nifti": ("mask.nii.gz", write_nifti),
}


@dataclass(frozen=True)
class Slice:
    """A slice that is not read yet."""

    name: str  # of its results: made from `source`, and the SOP Instance UID or the plane
    source: str  # path of its file within the folder
    patient_id: str
    height_m: float | None  # of the patient, where the file states one that a person can have
    ct: CTSlice

    @property
    def is_dicom(self) -> bool:
        """Whether it is a DICOM slice, to which RTSTRUCT and SEG can refer, and not a plane of a NIfTI volume."""
        return bool(self.ct.sop_instance_uid)


@dataclass
class Inventory:
    """Slices in the order of patients and positions; what is refused, and why; what else is worth saying."""

    slices: list[Slice] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_slices(paths: Sequence[Path]) -> Inventory:
    """What slices there are, without their pixels; outlines in folders are passed over, what else is none is refused.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files, NIfTI images, or folders of them. Every axial plane of a NIfTI volume is a slice.

    Raises
    ------
    L3MuscleError
        If a path does not exist, or there is no file.
    """
    inventory, slices, outlines = Inventory(), [], 0
    seen: dict[str, str] = {}
    for top in dict.fromkeys(Path(os.path.abspath(path)) for path in paths):
        for path in find_files([top]):
            file = path.relative_to(top).as_posix() if top.is_dir() else path.name
            try:
                found = _slices_of(path, file, in_folder=top.is_dir())
                for ct in found:
                    twin = seen.setdefault(ct.key, ct.name)
                    if twin is not ct.name:
                        raise FileError(f"{ct.name}: the same slice as {twin}")
            except L3MuscleError as error:
                inventory.refused.append(str(error))
            else:
                slices += found
                outlines += not found
    slices.sort(key=lambda ct: (ct.patient_id, ct.location_mm))
    root = os.path.commonpath([os.path.abspath(path.parent if path.is_file() else path) for path in paths])
    sources = {ct.path: Path(os.path.relpath(ct.path, root)).as_posix() for ct in slices}
    copies = _copies_of_volumes(slices)
    inventory.notes += [
        f"{sources[one]} is a copy of {sources[other]}, and is left out" for one, other in copies.items()
    ]
    first: dict[str, str] = {}
    for ct in (ct for ct in slices if ct.path not in copies):
        source = sources[ct.path]
        name = _name(ct, source)
        # Also where letters' case does not count.
        if first.setdefault(name.casefold(), source) != source:
            other = first[name.casefold()]
            inventory.refused.append(f"{source}: its results would be called as those of {other}; rename one of them")
            continue
        is_in_case_folder = not ct.sop_instance_uid and ct.patient_id.lower() == IMAGE
        patient_id = ct.path.parent.name if is_in_case_folder else ct.patient_id
        if not ct.header.get("SliceThickness"):
            ct.header.SliceThickness = "1"  # which a segmentation has to state; no measure depends on it
        inventory.slices.append(Slice(name, source, patient_id, _height(ct), ct))
    if outlines:
        inventory.notes.append(f"{outlines} outline files in the folders were passed over")
    return inventory


def _slices_of(path: Path, name: str, *, in_folder: bool) -> list[CTSlice]:
    """The slices of a file, every plane of a NIfTI volume being one; none of a file of outlines in a folder."""
    if is_nifti(path) or is_png(path):
        if in_folder and (is_png(path) or split_name(path)[1]):
            return []
        volume = Volume(path, name)
        return [volume.slice(index) for index in range(volume.planes)]
    dataset = read_dataset(path, name, pixels=False)
    if in_folder and modality(dataset, name) in OUTLINES:
        return []
    return [ct_slice(dataset, path, name)]


def _copies_of_volumes(slices: Sequence[CTSlice]) -> dict[Path, Path]:
    """NIfTI files whose content is another's, which comes first; copies of DICOM slices are told by their UIDs."""
    first: dict[str, Path] = {}
    paths = dict.fromkeys(ct.path for ct in slices if not ct.sop_instance_uid)
    same = {path: first.setdefault(file_sha256(path), path) for path in sorted(paths)}
    return {path: other for path, other in same.items() if path != other}


def _name(ct: CTSlice, source: str) -> str:
    """A path as part of a file's name, and what tells the slice from others; of a file called by its UID, all stays."""
    readable = re.sub(r"[^\w.+-]+", "_", KNOWN_SUFFIX.sub("", source))[-MAX_NAME:].lstrip(".-")
    if ct.sop_instance_uid:
        return f"{readable}-{hashlib.sha256(ct.sop_instance_uid.encode()).hexdigest()[:8]}"
    return f"{readable}-{ct.index:03d}"


def _height(ct: CTSlice) -> float | None:
    try:
        height = float(ct.header.get("PatientSize") or 0)
    except (TypeError, ValueError):
        return None
    return height if HEIGHT_M[0] <= height <= HEIGHT_M[1] else None
