"""A cohort from a folder of one's own, however it is nested and its files are named.

Slices are DICOM files or NIfTI images. A DICOM slice is used if something outlines it: an RTSTRUCT or a DICOM-SEG that
refers to it, wherever in the folder, or beside it a NIfTI or PNG file of the same name (`x.dcm` with `x_mask.nii.gz`,
`x.mask.nii.gz`, `x.seg.nii.gz`, `x.nii.gz`, `x_mask.png` or `x.png`). A NIfTI image is used with the mask beside it:
`x.nii.gz` with `x_mask.nii.gz`, and then the patient is called `x`, or `image.nii.gz` with `mask.nii.gz` in a folder
whose name is the patient's. `x_observer 01.nii.gz`, or `.png`, is an observer's outline. Of several planes the one
that is outlined counts. Where that does not decide, a `cohort.csv` at the top does (see `l3muscle.cohort.manifest`);
files that it does not mention are then passed over in silence, unless they outline its slices.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from l3muscle.cohort import manifest, masks
from l3muscle.cohort.cohort import UNNAMED, Cohort, CohortError, CohortReport, Patient
from l3muscle.cohort.dicom import (
    CTHeader,
    DicomError,
    ct_header,
    decode,
    dicom_files,
    modality,
    naming_damage,
    read_dataset,
    referenced_slices,
    seg_frames,
)
from l3muscle.cohort.grid import Grid
from l3muscle.cohort.manifest import Choice, Row
from l3muscle.cohort.masks import EXPERT, OBSERVER_PREFIX, as_mask, is_nifti, is_png, read_masks
from l3muscle.cohort.nifti import Volume
from l3muscle.cohort.saros import check_saros, is_saros
from l3muscle.errors import L3MuscleError

Masks = dict[str, np.ndarray]

KEPT_BYTES = 1 << 20  # of a structure set; a larger one is read again rather than kept until its slice is due
POSITION_TOLERANCE_MM = 0.5  # of a position typed into cohort.csv
DIRECTORY_RECORD = "1.2.840.10008.1.3.10"  # a DICOMDIR, the index that comes with every export
MASK_NAME = re.compile(
    r"(?P<stem>.+?)(?P<role>_mask|\.mask|\.seg|_observer[^.]*)?(?P<suffix>\.nii(\.gz)?|\.png)", re.IGNORECASE
)
IMAGE, MASK = "image", "mask"  # file names in a folder for each case


@dataclass(frozen=True)
class _Outlines:
    """Outlines of a slice that wait in a file until it is known whether the slice is used."""

    name: str
    read: Callable[[CTHeader], Masks]


@dataclass(frozen=True)
class _Beside:
    """A NIfTI or PNG file, by what its name says: of which case, and whose outline (None for an image)."""

    path: Path
    stem: str
    drawn_by: str | None


@dataclass
class _Found:
    """What lies in a folder: DICOM headers and references, read once and without pixels; NIfTI and PNG by name."""

    root: Path
    slices: dict[str, CTHeader] = field(default_factory=dict)
    by_path: dict[Path, CTHeader] = field(default_factory=dict)
    outlines: dict[str, list[_Outlines]] = field(default_factory=lambda: defaultdict(list))
    beside: list[_Beside] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    people: dict[str, tuple[str, ...]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    def name_of(self, path: Path) -> str:
        """A file as messages call it: its path from the folder."""
        return path.relative_to(self.root).as_posix()

    def scan(self, files: Iterable[Path]) -> None:
        """Look at files; what is wrong with one becomes its line in `refused`."""
        structure_sets: list[tuple[Path, Dataset | None]] = []
        for path in files:
            if is_nifti(path) or is_png(path):
                self.beside.append(_beside(path))
                continue
            name = self.name_of(path)
            try:
                with naming_damage(name):
                    dataset = read_dataset(path, name, pixels=False)
                    self._note_person(dataset)
                    if modality(dataset, name) in ("RTSTRUCT", "SEG"):
                        structure_sets.append((path, dataset if path.stat().st_size <= KEPT_BYTES else None))
                    elif dataset.file_meta.get("MediaStorageSOPClassUID") != DIRECTORY_RECORD:
                        self._add_slice(ct_header(dataset, path, name))
            except DicomError as error:
                self.refused[path] = str(error)
        for path, dataset in structure_sets:
            try:
                self._add_outlines(path, dataset)
            except DicomError as error:
                self.refused[path] = str(error)

    def _add_slice(self, ct: CTHeader) -> None:
        self.by_path[ct.path] = ct
        first = self.slices.setdefault(ct.sop_instance_uid, ct)
        if first is not ct:
            self.refused[ct.path] = f"{ct.name}: the same SOPInstanceUID as {first.name}"

    def _add_outlines(self, path: Path, kept: Dataset | None) -> None:
        name = self.name_of(path)
        dataset = kept or read_dataset(path, name, pixels=False)
        if modality(dataset, name) == "SEG":
            targets = {uid for frame in seg_frames(dataset, name) for uid in frame.slices}
        else:
            targets = referenced_slices(dataset, name, self.slices.values())
        targets &= self.slices.keys()
        if not targets:
            raise DicomError(f"{name}: its contours lie on no slice of this folder")

        def read(ct: CTHeader) -> Masks:
            return masks.dicom_masks(kept or read_dataset(path, name, pixels=False), ct, path, name)

        for uid in targets:
            self.outlines[uid].append(_Outlines(name, read))

    def _note_person(self, dataset: Dataset) -> None:
        """Keep what tells people apart as hashes, and the words that no report may repeat."""
        name, born, sex = (
            " ".join(re.split(r"[\s^=]+", str(dataset.get(keyword) or "").casefold())).strip()
            for keyword in ("PatientName", "PatientBirthDate", "PatientSex")
        )
        patient_id = str(dataset.get("PatientID") or "").casefold()
        # A name that is the ID is a pseudonym.
        self.secrets |= {word for word in (*name.split(), born) if len(word) > 2 and word not in patient_id}
        if len(born) == 8:
            self.secrets.add(f"{born[:4]}-{born[4:6]}-{born[6:]}")
        sop_instance = str(dataset.get("SOPInstanceUID") or dataset.file_meta.get("MediaStorageSOPInstanceUID"))
        self.people.setdefault(
            sop_instance, tuple(hashlib.sha256(v.encode()).hexdigest() if v else "" for v in (name, born, sex))
        )

    def without_secrets(self, text: str) -> str:
        """`text` with every path that repeats a patient's name or birth date blacked out in that place."""
        if not self.secrets:
            return text
        pattern = re.compile("|".join(map(re.escape, sorted(self.secrets, key=len, reverse=True))), re.IGNORECASE)
        for path in (*self.by_path, *self.refused, *(file.path for file in self.beside)):
            name = self.name_of(path)
            if name in text:
                text = text.replace(name, pattern.sub("***", name))
        return text


def _beside(path: Path) -> _Beside:
    match = MASK_NAME.fullmatch(path.name)
    stem, role = (match["stem"], (match["role"] or "").lower()) if match else (path.name, "")
    if role.startswith("_observer"):
        return _Beside(path, stem, role[1:])
    is_mask = bool(role) or is_png(path) or stem.lower() == MASK
    return _Beside(path, stem, EXPERT if is_mask else None)


def _merged(sources: Iterable[_Outlines], ct: CTHeader) -> Masks:
    """The outlines of all files that hold some of this slice.

    Raises
    ------
    L3MuscleError
        If one of the files cannot be used, or two hold outlines of the same name.
    """
    drawn: Masks = {}
    for source in sources:
        found = source.read(ct)
        if twice := found.keys() & drawn.keys():
            raise DicomError(f"{source.name}: another file also outlines {ct.name} as {min(twice)!r}")
        drawn |= found
    return drawn


def _patient(patient_id: str, name: str, hu: np.ndarray, spacing: tuple[float, float], drawn: Masks) -> Patient:
    observers = {by: mask for by, mask in drawn.items() if by.lower().startswith(OBSERVER_PREFIX)}
    others = {by: mask for by, mask in drawn.items() if by not in observers}
    named = [by for by in others if by.lower() == EXPERT]
    if len(others) != 1 and len(named) != 1:
        found = ", ".join(sorted(others)) or "none"
        raise CohortError(f"{name}: needs one outline, or one named {EXPERT!r}; there are: {found}")
    expert = others[named[0]] if named else next(iter(others.values()))
    if not expert.any():
        raise CohortError(f"{name}: the outline holds no pixel")
    if expert.all():
        raise CohortError(f"{name}: the outline covers the whole slice")
    return Patient(patient_id, name, hu, spacing, expert, observers)


def _dicom_patient(patient_id: str, ct: CTHeader, drawn: Masks) -> Patient:
    decoded = decode(read_dataset(ct.path, ct.name), ct)
    return _patient(patient_id, ct.name, decoded.hu, decoded.spacing, drawn)


def _nifti_patient(
    patient_id: str, image: Volume, drawings: dict[str, Volume | tuple[Path, str]], place: int | None
) -> Patient:
    """A patient from a NIfTI image; outlines come as volumes, or as path and name of a PNG.

    The plane is the one at `place`, in the order of the file, or else the one that the expert's mask annotates.
    """
    expert = drawings.get(EXPERT)
    if place is not None:
        if not 0 <= place < image.planes:
            raise CohortError(f"{image.name}: has no slice {place}; there are {image.planes}, counted from 0")
        plane = image.in_order_of_file(place)
    elif image.planes == 1:
        plane = 0
    elif isinstance(expert, Volume):
        if len(expert.annotated) != 1:
            raise CohortError(
                f"{expert.name}: {len(expert.annotated)} slices are annotated where one is expected; "
                "the column slice of cohort.csv can name one"
            )
        plane = image.plane_at(expert.grid(expert.annotated[0]))
    else:
        raise CohortError(f"{image.name}: nothing says which of {image.planes} slices is meant")
    grid = image.grid(plane)
    drawn = {by: _drawn_on(grid, drawing) for by, drawing in drawings.items()}
    return _patient(patient_id, image.name, image.hu(plane), grid.spacing, drawn)


def _drawn_on(grid: Grid, drawing: Volume | tuple[Path, str]) -> np.ndarray:
    if isinstance(drawing, Volume):
        return as_mask(drawing.values(drawing.plane_at(grid)), drawing.name)
    return masks.png_mask(drawing[0], grid, drawing[1])


def _drawing(path: Path, name: str) -> Volume | tuple[Path, str]:
    if is_nifti(path):
        return Volume(path, name)
    if is_png(path):
        return path, name
    raise CohortError(f"{name}: the mask of a NIfTI image is NIfTI or PNG")


def check_folder(folder: Path) -> CohortReport:
    """Look at a folder; what is wrong with a file or a patient becomes a line of the report and never an error.

    Pixels are decoded only of slices that are used, so whole series may lie in the folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    CohortReport

    Raises
    ------
    CohortError
        Only if there is no such folder, or it holds no file.
    """
    report = _check(folder, several=False)
    report.refuse_odd_sizes()
    return report


def check_slices(folder: Path) -> CohortReport:
    """Look at a folder as `check_folder` does, for a training that takes slices one by one.

    A patient may have several outlined slices, each of them an entry of `usable` with the same `patient_id`, and slices
    may differ in size. DICOM slices without a PatientID, as de-identifying may leave them, are all taken for those of
    one patient, `UNNAMED`: none of them is then held out from a model that may have learned from the same person.
    Slices and images without an outline wait to be outlined: they are in `unlabelled` and not refused.

    Raises
    ------
    CohortError
        As `check_folder`.
    """
    return _check(folder, several=True)


def _check(folder: Path, *, several: bool) -> CohortReport:
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    if is_saros(folder):
        return check_saros(folder)
    report = CohortReport(folder)
    found = _Found(Path(os.path.abspath(folder)))
    try:
        files = dicom_files([found.root])
    except DicomError:
        raise CohortError(f"no files in {folder}") from None
    found.scan(files)
    if (found.root / manifest.FILE_NAME).is_file():
        _use_chosen(found, report, several=several)
    elif several:
        _use_slices(found, report)
    else:
        _use_all(found, report)
    report.refused = [found.without_secrets(reason) for reason in report.refused]
    report.unlabelled = [found.without_secrets(name) for name in report.unlabelled]
    for patient in report.usable:
        patient.name = found.without_secrets(patient.name)
    return report


def _use_all(found: _Found, report: CohortReport) -> None:
    cases = _match_names(found)
    report.refused += found.refused.values()
    patients: dict[str, list[Callable[[], Patient]]] = defaultdict(list)
    scans: dict[str, list[CTHeader]] = defaultdict(list)
    for ct in found.slices.values():
        if ct.patient_id:
            scans[ct.patient_id].append(ct)
        else:
            reason = "PatientID is missing, so patients cannot be told apart; a cohort.csv can say who is who"
            report.refused.append(f"{ct.name}: {reason}")
    for patient_id, slices in scans.items():
        patients[patient_id].append(lambda at=(patient_id, slices): _from_scan(found, *at))
    for (parent, stem), files in cases.items():
        patient_id = parent.name if stem.lower() == IMAGE else stem
        patients[patient_id].append(lambda at=(patient_id, files): _from_case(found, *at))
    for patient_id, ways in sorted(patients.items()):
        try:
            usable = [way() for way in ways]
            if len(usable) > 1:
                names = ", ".join(patient.name for patient in usable[:3])
                raise CohortError(f"patient {patient_id!r} is there {len(usable)} times: {names}")
            report.usable += usable
        except L3MuscleError as error:
            report.refused.append(str(error))


def _use_slices(found: _Found, report: CohortReport) -> None:
    """Every outlined slice on its own, however many of a patient there are."""
    cases = _match_names(found)
    report.refused += found.refused.values()
    scans: dict[str, list[CTHeader]] = defaultdict(list)
    for ct in sorted(found.slices.values(), key=lambda ct: (ct.patient_id, ct.location_mm)):
        scans[ct.patient_id].append(ct)
        try:
            sources = found.outlines.get(ct.sop_instance_uid, [])
            drawn = {by: mask for by, mask in _merged(sources, ct).items() if mask.any()}
            if not drawn:
                report.unlabelled.append(ct.name)
            else:
                report.usable.append(_dicom_patient(ct.patient_id or UNNAMED, ct, drawn))
        except L3MuscleError as error:
            report.refused.append(str(error))
    for patient_id, slices in scans.items():
        try:
            _check_person(found, patient_id, slices)
        except CohortError as error:
            report.refused.append(str(error))
            report.usable = [patient for patient in report.usable if patient.patient_id != (patient_id or UNNAMED)]
    for (parent, stem), files in sorted(cases.items()):
        patient_id = parent.name if stem.lower() == IMAGE else stem
        try:
            report.usable += _planes_of_case(found, patient_id, files, report.unlabelled)
        except L3MuscleError as error:
            report.refused.append(str(error))


def _planes_of_case(found: _Found, patient_id: str, files: list[_Beside], unlabelled: list[str]) -> list[Patient]:
    """Every plane of a NIfTI image that its mask annotates."""
    image, drawings = _case(found, files)
    expert = drawings.get(EXPERT)
    if expert is None:
        unlabelled.append(image.name)
        return []
    if not isinstance(expert, Volume) or len(expert.annotated) < 2:
        return [_nifti_patient(patient_id, image, drawings, None)]
    planes = [image.in_order_of_file(image.plane_at(expert.grid(place))) for place in expert.annotated]
    patients = [_nifti_patient(patient_id, image, drawings, plane) for plane in planes]
    return [replace(patient, name=f"{patient.name}[{plane}]") for patient, plane in zip(patients, planes, strict=True)]


def _match_names(found: _Found) -> dict[tuple[Path, str], list[_Beside]]:
    """Give NIfTI and PNG masks to the DICOM slices they lie beside; returns the other files by folder and case."""
    slices: dict[tuple[Path, str], list[CTHeader]] = defaultdict(list)
    for ct in found.slices.values():
        for stem in {ct.path.name, ct.path.stem}:
            slices[ct.path.parent, stem].append(ct)
    cases: dict[tuple[Path, str], list[_Beside]] = defaultdict(list)
    for file in found.beside:
        name = found.name_of(file.path)
        neighbours = slices.get((file.path.parent, file.stem), [])
        for ct in neighbours:
            read = _reader(file, name)
            found.outlines[ct.sop_instance_uid].append(_Outlines(name, read))
        if not neighbours:
            # mask.nii.gz belongs to image.nii.gz in the same folder.
            stem = IMAGE if file.stem.lower() == MASK else file.stem
            cases[file.path.parent, stem].append(file)
    for key, files in list(cases.items()):
        if all(file.drawn_by for file in files):
            del cases[key]
            for file in files:
                found.refused[file.path] = f"{found.name_of(file.path)}: no slice or image of that name lies beside it"
    return cases


def _reader(file: _Beside, name: str) -> Callable[[CTHeader], Masks]:
    return lambda ct: {file.drawn_by or EXPERT: next(iter(read_masks(file.path, ct, name).values()))}


def _case(found: _Found, files: list[_Beside]) -> tuple[Volume, dict[str, Volume | tuple[Path, str]]]:
    """The image among files of one name, and the drawings on it by who drew them."""
    images = [file for file in files if not file.drawn_by]
    drawings: dict[str, Volume | tuple[Path, str]] = {}
    if len(images) > 1:
        raise CohortError(f"{found.name_of(images[1].path)}: a second image called {images[1].stem!r}")
    for file in files:
        if file.drawn_by in drawings:
            raise CohortError(f"{found.name_of(file.path)}: a second outline by {file.drawn_by!r}")
        if file.drawn_by:
            drawings[file.drawn_by] = _drawing(file.path, found.name_of(file.path))
    return Volume(images[0].path, found.name_of(images[0].path)), drawings


def _from_case(found: _Found, patient_id: str, files: list[_Beside]) -> Patient:
    image, drawings = _case(found, files)
    if EXPERT not in drawings:
        raise CohortError(f"{image.name}: no mask lies beside it")
    return _nifti_patient(patient_id, image, drawings, None)


def _check_person(found: _Found, patient_id: str, slices: list[CTHeader]) -> None:
    """Refuse slices of one patient ID whose names, birth dates or sexes differ."""
    for what, hashes in zip(
        ("names", "birth dates", "sexes"),
        zip(*(found.people[ct.sop_instance_uid] for ct in slices), strict=True),
        strict=True,
    ):
        if len(set(hashes) - {""}) > 1:
            raise CohortError(
                f"patient {patient_id!r} has {len(slices)} slices under different {what} (such as {slices[0].name}): "
                "two patients under one ID"
            )


def _from_scan(found: _Found, patient_id: str, slices: list[CTHeader]) -> Patient:
    """A patient from the one slice that is outlined; others of a whole series may lie beside it."""
    _check_person(found, patient_id, slices)
    outlined = [ct for ct in slices if found.outlines.get(ct.sop_instance_uid)]
    if not outlined:
        more = f" (nor to {len(slices) - 1} more of this patient)" if len(slices) > 1 else ""
        raise CohortError(f"{slices[0].name}: no outline refers to it{more}")
    if len(outlined) > 1:
        # A segmentation of a whole series names every slice and marks few.
        outlined = [ct for ct in outlined if _is_marked(found, ct)] or outlined[:1]
    if len(outlined) > 1:
        names = ", ".join(ct.name for ct in outlined[:3])
        frames = len({ct.frame_of_reference_uid for ct in outlined})
        scans = f" of {frames} scans, or of two patients under one ID" if frames > 1 else ""
        raise CohortError(
            f"patient {patient_id!r} has {len(outlined)} outlined slices where one is expected{scans}: {names}"
        )
    ct = outlined[0]
    return _dicom_patient(patient_id, ct, _merged(found.outlines[ct.sop_instance_uid], ct))


def _is_marked(found: _Found, ct: CTHeader) -> bool:
    return any(mask.any() for source in found.outlines[ct.sop_instance_uid] for mask in source.read(ct).values())


def _use_chosen(found: _Found, report: CohortReport, *, several: bool) -> None:
    try:
        choices, refused = manifest.read_choices(found.root, several=several)
    except CohortError as error:
        report.refused.append(str(error))
        return
    report.refused += refused
    _match_names(found)
    used: dict[str, Row] = {}
    for chosen in choices:
        row = chosen.row
        try:
            if row.file is not None and is_nifti(row.file):
                report.usable.append(_chosen_nifti(found, chosen))
                continue
            ct = _chosen_slice(found, row)
            first = used.setdefault(ct.sop_instance_uid, row)
            if first is not row:
                raise CohortError(f"the same slice as line {first.line}")
            report.usable.append(_chosen_dicom(found, chosen, ct))
        except L3MuscleError as error:
            report.refused.append(f"{row.where}: {error}")


def _chosen_slice(found: _Found, row: Row) -> CTHeader:
    if row.slice is not None:
        raise CohortError("the column slice is for NIfTI volumes")
    if row.file is not None:
        name = found.name_of(row.file)
        ct = found.by_path.get(row.file)
        return ct or ct_header(read_dataset(row.file, name, pixels=False), row.file, name)
    if row.sop_instance_uid is not None:
        if row.sop_instance_uid not in found.slices:
            raise CohortError(f"no slice has the SOPInstanceUID {row.sop_instance_uid}")
        return found.slices[row.sop_instance_uid]
    series = [ct for ct in found.slices.values() if ct.header.SeriesInstanceUID == row.series_instance_uid]
    if row.instance_number is not None:
        there = [ct for ct in series if ct.header.get("InstanceNumber") == row.instance_number]
    else:
        there = [ct for ct in series if abs(ct.position[2] - row.position_mm) <= POSITION_TOLERANCE_MM]
    if len(there) != 1:
        raise CohortError(f"{len(there)} of the series' {len(series)} slices are at that place where one is expected")
    return there[0]


def _chosen_dicom(found: _Found, chosen: Choice, ct: CTHeader) -> Patient:
    if chosen.row.mask is None:
        drawn = _merged(found.outlines.get(ct.sop_instance_uid, []), ct)
        if not drawn:
            raise CohortError(f"{ct.name}: no outline refers to it")
    else:
        drawn = read_masks(chosen.row.mask, ct, found.name_of(chosen.row.mask))
    for row in chosen.observers:
        by_observer = read_masks(row.mask, ct, found.name_of(row.mask))
        named = [by for by in by_observer if by.casefold() == row.observer.casefold()]
        if len(by_observer) != 1 and len(named) != 1:
            raise CohortError(
                f"{found.name_of(row.mask)}: needs one outline, or one named {row.observer!r} (line {row.line})"
            )
        drawn = drawn | {_observer(row): by_observer[named[0] if named else next(iter(by_observer))]}
    return _dicom_patient(chosen.row.patient_id, ct, drawn)


def _chosen_nifti(found: _Found, chosen: Choice) -> Patient:
    row = chosen.row
    name = found.name_of(row.file)
    if row.mask is None:
        own = _beside(row.file)
        beside = [f for f in found.beside if f.path.parent == row.file.parent and f.drawn_by == EXPERT]
        beside = [f for f in beside if f.stem == (MASK if own.stem.lower() == IMAGE else own.stem)]
        if len(beside) != 1:
            raise CohortError(f"{name}: {len(beside)} masks lie beside it where one is expected")
        mask = beside[0].path
    else:
        mask = row.mask
    drawings = {EXPERT: _drawing(mask, found.name_of(mask))}
    for other in chosen.observers:
        drawings[_observer(other)] = _drawing(other.mask, found.name_of(other.mask))
    return _nifti_patient(row.patient_id, Volume(row.file, name), drawings, row.slice)


def _observer(row: Row) -> str:
    """An observer's name as outlines carry it."""
    return row.observer if row.observer.lower().startswith(OBSERVER_PREFIX) else f"{OBSERVER_PREFIX} {row.observer}"


def load_cohort(folder: str | Path, *, usable_only: bool = False) -> Cohort:
    """Load a cohort from a folder of DICOM slices or NIfTI images with outlines of skeletal muscle.

    An outline belongs to the slice that it refers to or lies beside. Of the outlines of a slice, `expert` (or the only
    one) is the gold standard, and those whose name begins with `observer` are the observers'.

    Parameters
    ----------
    folder : str or Path
    usable_only : bool
        Go on with the sound patients where some files were refused; otherwise that is an error.

    Returns
    -------
    Cohort
        In the order of patient IDs.

    Raises
    ------
    CohortError
        If nothing can be used, or something was refused and `usable_only` is false.
    """
    return check_folder(Path(folder)).cohort(usable_only=usable_only)
