"""The slices that are to be segmented, from files of every kind; all contact with the cohort's files lies here."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from l3muscle.cohort import dicom
from l3muscle.cohort.dicom import CTSlice
from l3muscle.cohort.folder import IMAGE, MASK, MASK_NAME
from l3muscle.cohort.masks import is_nifti, is_png
from l3muscle.cohort.nifti import Volume
from l3muscle.errors import L3MuscleError

HEIGHT_M = (1.0, 2.4)  # beyond, a height is taken for a mistake
KNOWN_SUFFIX = re.compile(r"\.(dcm|dicom|ima|nii\.gz|nii)$", re.IGNORECASE)
MAX_NAME = 120  # letters of a path that a result's name repeats; file systems take 255 in all
PARSERS = {"DA": DA, "TM": TM, "DS": float, "IS": float}
MASK_WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray, CTSlice], None]]] = {
    "seg": ("seg.dcm", dicom.write_seg),
    "rtstruct": ("rtstruct.dcm", lambda path, mask, ct: dicom.write_rtstruct(path, {"skeletal muscle": mask}, ct)),
    "nifti": ("mask.nii.gz", dicom.write_nifti),
}


@dataclass(frozen=True)
class Slice:
    """A slice that is known to be there and not yet read.

    Attributes
    ----------
    name : str
        Of its results: made from `source`, and the SOP Instance UID or the plane.
    source : str
        Path of its file within the folder.
    sop_instance_uid : str
        Empty for NIfTI.
    plane : int or None
        Of a NIfTI volume, from 0 along the axial axis as the file stores it; None for DICOM.
    patient_id : str
    position_mm : float
        Along the scan axis.
    height_m : float or None
        Of the patient, where the file states one that a person can have.
    read : callable
        Returns the `CTSlice`; raises an `L3MuscleError` where it cannot be read soundly.
    """

    name: str
    source: str
    sop_instance_uid: str
    plane: int | None
    patient_id: str
    position_mm: float
    height_m: float | None
    read: Callable[[], CTSlice]


@dataclass
class Found:
    """Slices in the order of patients and positions; files that are refused, and why; what else is worth saying."""

    slices: list[Slice] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_slices(paths: Sequence[Path]) -> Found:
    """What slices there are; outlines in folders are passed over, whatever else is no slice is refused.

    Parameters
    ----------
    paths : sequence of Path
        DICOM files, NIfTI images, or folders of them. Every axial plane of a NIfTI volume is a slice.

    Raises
    ------
    L3MuscleError
        If a path does not exist, or there is no file.
    """
    files = list(dict.fromkeys(Path(os.path.abspath(path)) for path in dicom.dicom_files(paths)))
    named = {Path(os.path.abspath(path)) for path in paths if path.is_file()}
    root = os.path.commonpath([os.path.abspath(path.parent if path.is_file() else path) for path in paths])
    found, outlines = Found(), 0
    first_with: dict[str, tuple[Path, str]] = {}
    for path in files:
        source = Path(os.path.relpath(path, root)).as_posix()
        try:
            slices, identity = _slices_of(path, source, is_named=path in named)
        except L3MuscleError as error:
            found.refused.append(str(error))
            continue
        if not slices:
            outlines += 1
            continue
        first, first_source = first_with.setdefault(identity, (path, source))
        if first is path:
            found.slices += slices
        elif path.read_bytes() == first.read_bytes():
            found.notes.append(f"{source} is a copy of {first_source}, and was measured once")
        else:
            found.refused.append(f"{source}: the same SOPInstanceUID as {first_source}, and another content")
    if outlines:
        found.notes.append(f"{outlines} outline files in the folders were passed over")
    _refuse_equal_names(found)
    found.slices.sort(key=lambda one: (one.patient_id, one.position_mm, one.name))
    return found


def _slices_of(path: Path, source: str, *, is_named: bool) -> tuple[list[Slice], str]:
    """The slices in a file, none where it holds outlines, and what tells its content from that of others."""
    if is_nifti(path) or is_png(path):
        match = MASK_NAME.fullmatch(path.name)
        if not is_named and (is_png(path) or (match and (match["role"] or match["stem"].lower() == MASK))):
            return [], ""
        slices = _planes(path, source)
        with path.open("rb") as file:
            return slices, hashlib.file_digest(file, "sha256").hexdigest()
    dataset = dicom.read_dataset(path, source, pixels=False)
    if not is_named and dicom.modality(dataset, source) in ("RTSTRUCT", "SEG"):
        return [], ""
    ct = dicom.ct_header(dataset, path, source)
    uid = ct.sop_instance_uid
    name = f"{_readable(source)}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"

    def read() -> CTSlice:
        decoded = dicom.ct_slice(dicom.read_dataset(path, source), path, source)
        return replace(decoded, header=_valid_elements(decoded.header))

    return [Slice(name, source, uid, None, ct.patient_id, ct.location_mm, _height(dataset), read)], uid


def _planes(path: Path, source: str) -> list[Slice]:
    volume = Volume(path, source)
    stem = KNOWN_SUFFIX.sub("", path.name)
    patient_id = path.parent.name if stem.lower() == IMAGE else stem
    grids = [volume.grid(plane) for plane in range(volume.planes)]
    header = Dataset()
    if len(grids) > 1:
        header.SliceThickness = f"{float(np.linalg.norm(grids[1].position - grids[0].position)):.10g}"

    def read(plane: int) -> CTSlice:
        return CTSlice(
            **vars(grids[plane]), path=path, name=source, patient_id=patient_id, sop_instance_uid="",
            frame_of_reference_uid="", header=header, hu=volume.hu(plane),
        )  # fmt: skip

    slices = []
    for plane, grid in enumerate(grids):
        index, position = volume.in_order_of_file(plane), float(grid.position[2])
        name = _readable(source) + (f"-{index:03d}" if len(grids) > 1 else "")
        slices.append(Slice(name, source, "", index, patient_id, position, None, lambda plane=plane: read(plane)))
    return slices


def _readable(source: str) -> str:
    """A path as part of a file's name; of a file that is called by its UID, every number stays."""
    return re.sub(r"[^\w.+-]+", "_", KNOWN_SUFFIX.sub("", source))[-MAX_NAME:].lstrip(".-")


def _refuse_equal_names(found: Found) -> None:
    """Refuse slices whose results would overwrite those of others, also where letters' case does not count."""
    first: dict[str, Slice] = {}
    for one in list(found.slices):
        other = first.setdefault(one.name.casefold(), one)
        if other is not one:
            found.slices.remove(one)
            found.refused.append(f"{one.source}: its results would be called as those of {other.source}; rename one")


def _height(dataset: Dataset) -> float | None:
    try:
        height = float(dataset.get("PatientSize") or 0)
    except (TypeError, ValueError):
        return None
    return height if HEIGHT_M[0] <= height <= HEIGHT_M[1] else None


def _valid_elements(header: Dataset) -> Dataset:
    """A slice's header, emptied of values that the standard does not allow, so that a mask's file can repeat it."""
    valid = Dataset()
    for tag in header.keys():  # noqa: SIM118 (iterating over values converts them, which is what may fail)
        try:
            element = header[tag]
            for value in [element.value] if element.VM <= 1 else element.value:
                if value not in (None, ""):
                    PARSERS.get(element.VR, str)(value)
            valid[tag] = element
        except (TypeError, ValueError):
            valid.add_new(tag, dictionary_VR(tag), None)
    if valid.get("PatientSex") not in ("M", "F", "O"):
        valid.PatientSex = None
    if not valid.get("SliceThickness"):
        valid.SliceThickness = "1"  # which a segmentation has to state; no measure depends on it
    return valid
