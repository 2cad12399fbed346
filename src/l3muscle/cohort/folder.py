"""A cohort from a folder of one's own, however it is nested and its files are named.

Slices are DICOM files or NIfTI images. A DICOM slice is used if something outlines it: an RTSTRUCT or a DICOM-SEG that
refers to it, wherever in the folder, or beside it a NIfTI or PNG file of the same name (`x.dcm` with `x_mask.nii.gz`,
`x.mask.nii.gz`, `x.seg.nii.gz`, `x.nii.gz`, `x_mask.png` or `x.png`). A NIfTI image is used with the mask beside it:
`x.nii.gz` with `x_mask.nii.gz`, and then the patient is called `x`, or `image.nii.gz` with `mask.nii.gz` in a folder
whose name is the patient's. `x_observer 01.nii.gz`, or `.png`, is an observer's outline. Of several planes the one
that is outlined counts. Where that does not decide, a `cohort.csv` at the top does (see `l3muscle.cohort.manifest`);
files that it does not mention are then passed over in silence, unless they outline its slices.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from l3muscle.cohort import manifest
from l3muscle.cohort.cohort import UNNAMED, Cohort, CohortError, CohortReport, Patient
from l3muscle.cohort.ct import CTHeader, DicomError, ct_header, modality, naming_damage, read_dataset
from l3muscle.cohort.files import TableError, find_files
from l3muscle.cohort.manifest import Choice, Row
from l3muscle.cohort.nifti import NiftiMask, Volume, is_nifti
from l3muscle.cohort.outlines import EXPERT, OBSERVER_PREFIX, OutlineFile, Picture, merge
from l3muscle.cohort.rtstruct import StructureSet
from l3muscle.cohort.saros import check_saros, is_saros
from l3muscle.cohort.seg import SegmentationFile
from l3muscle.errors import L3MuscleError

POSITION_TOLERANCE_MM = 0.5  # of a position typed into cohort.csv
DIRECTORY_RECORD = "1.2.840.10008.1.3.10"  # a DICOMDIR, the index that comes with every export
MASK_NAME = re.compile(
    r"(?P<stem>.+?)(?P<role>_mask|\.mask|\.seg|_observer[^.]*)?(?P<suffix>\.nii(\.gz)?|\.png)", re.IGNORECASE
)
IMAGE, MASK = "image", "mask"  # file names in a folder for each case


def is_png(path: Path) -> bool:
    """Whether a file is called as a PNG is."""
    return path.suffix.lower() == ".png"


def split_name(path: Path) -> tuple[str, str | None]:
    """Of which case a NIfTI or PNG file is, by its name, and whose outline (None for an image)."""
    match = MASK_NAME.fullmatch(path.name)
    stem, role = (match["stem"], (match["role"] or "").lower()) if match else (path.name, "")
    if role.startswith("_observer"):
        return stem, role[1:]
    return stem, EXPERT if role or is_png(path) or stem.lower() == MASK else None


def open_outlines(path: Path, name: str, drawn_by: str = EXPERT, wanted: Sequence[str] = ()) -> OutlineFile:
    """Open a file of outlines of any kind.

    Parameters
    ----------
    path : Path
    name : str
        The file as messages call it.
    drawn_by : str
        Whose outline a NIfTI or PNG file holds.
    wanted : sequence of str
        Names of the ROIs or segments that are muscle.

    Raises
    ------
    L3MuscleError
        If it is none, or does not say which of its outlines is the muscle.
    """
    if is_nifti(path):
        return NiftiMask(Volume(path, name), drawn_by)
    if is_png(path):
        return Picture(path, name, drawn_by)
    dataset = read_dataset(path, name, pixels=False)
    kind = modality(dataset, name)
    if kind == "RTSTRUCT":
        return StructureSet(dataset, name, wanted)
    if kind == "SEG":
        return SegmentationFile(path, name, wanted)
    raise DicomError(f"{name}: holds no outlines (modality {kind})")


@dataclass(frozen=True)
class _Pair:
    """A slice and the files that outline it."""

    patient_id: str
    ct: CTHeader
    files: Sequence[OutlineFile]

    def patient(self) -> Patient:
        """The slice with its masks.

        Raises
        ------
        L3MuscleError
            If one of the files cannot be used, or there is no sound outline of the muscle.
        """
        name = self.ct.name
        try:
            drawn = merge([(file.name, file.masks(self.ct)) for file in self.files])
        except L3MuscleError as error:
            raise CohortError(str(error) if name in str(error) else f"{error} ({name})") from None
        if EXPERT not in drawn:
            files = ", ".join(file.name for file in self.files)
            raise CohortError(f"{name}: no muscle is outlined on it ({files})")
        expert = drawn.pop(EXPERT)
        if not expert.any():
            raise CohortError(f"{name}: the outline holds no pixel")
        if expert.all():
            raise CohortError(f"{name}: the outline covers the whole slice")
        return Patient(self.patient_id, name, self.ct.read().hu, self.ct.spacing, expert, drawn)


@dataclass
class _Found:
    """What lies in a folder: headers and contours, read once and without pixels; NIfTI and PNG by name."""

    root: Path
    wanted: Sequence[str] = ()
    slices: dict[str, CTHeader] = field(default_factory=dict)
    by_path: dict[Path, CTHeader] = field(default_factory=dict)
    outlines: dict[str, list[OutlineFile]] = field(default_factory=lambda: defaultdict(list))
    cases: dict[tuple[Path, str], list[Path]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[Path, str] = field(default_factory=dict)
    people: dict[str, tuple[str, ...]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    def name_of(self, path: Path) -> str:
        """A file as messages call it: its path from the folder."""
        return path.relative_to(self.root).as_posix()

    def scan(self, files: Iterable[Path]) -> None:
        """Look at files; what is wrong with one becomes its line in `refused`."""
        outlines: list[tuple[Path, OutlineFile]] = []
        beside: list[Path] = []
        for path in files:
            if is_nifti(path) or is_png(path):
                beside.append(path)
                continue
            name = self.name_of(path)
            try:
                dataset = read_dataset(path, name, pixels=False)
                kind = modality(dataset, name)
                with naming_damage(name):
                    self._note_person(dataset)
                    if dataset.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY_RECORD:
                        continue
                if kind in ("RTSTRUCT", "SEG"):
                    outlines.append((path, open_outlines(path, name, wanted=self.wanted)))
                else:
                    self._add_slice(ct_header(dataset, path, name))
            except L3MuscleError as error:
                self.refused[path] = str(error)
        candidates = list(self.slices.values())
        for path, file in outlines:
            try:
                keys = file.slices(candidates)
                if not keys:
                    raise DicomError(f"{file.name}: its contours lie on no slice of this folder")
                for key in keys:
                    self.outlines[key].append(file)
            except L3MuscleError as error:
                self.refused[path] = str(error)
        self._match_names(beside)

    def _add_slice(self, ct: CTHeader) -> None:
        self.by_path[ct.path] = ct
        first = self.slices.setdefault(ct.key, ct)
        if first is not ct:
            self.refused[ct.path] = f"{ct.name}: the same SOPInstanceUID as {first.name}"

    def _match_names(self, beside: Iterable[Path]) -> None:
        """Give NIfTI and PNG masks to the DICOM slices they lie beside, and sort the others by folder and case."""
        neighbours: dict[tuple[Path, str], list[CTHeader]] = defaultdict(list)
        for ct in self.slices.values():
            for stem in {ct.path.name, ct.path.stem}:
                neighbours[ct.path.parent, stem].append(ct)
        for path in beside:
            stem, drawn_by = split_name(path)
            slices = neighbours.get((path.parent, stem), [])
            try:
                for ct in slices:
                    self.outlines[ct.key].append(open_outlines(path, self.name_of(path), drawn_by or EXPERT))
            except L3MuscleError as error:
                self.refused[path] = str(error)
            if not slices:
                # mask.nii.gz belongs to image.nii.gz in the same folder.
                self.cases[path.parent, IMAGE if stem.lower() == MASK else stem].append(path)
        for key, files in list(self.cases.items()):
            if all(split_name(path)[1] for path in files):
                del self.cases[key]
                for path in files:
                    self.refused[path] = f"{self.name_of(path)}: no slice or image of that name lies beside it"

    def _note_person(self, dataset: Dataset) -> None:
        """Keep what tells people apart, and the words that no report may repeat."""
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
        self.people.setdefault(sop_instance, (name, born, sex))

    def without_secrets(self, text: str) -> str:
        """`text` with every path that repeats a patient's name or birth date blacked out in that part."""
        if not self.secrets:
            return text
        pattern = re.compile("|".join(map(re.escape, sorted(self.secrets, key=len, reverse=True))), re.IGNORECASE)
        for path in {*self.by_path, *self.refused, *(file for files in self.cases.values() for file in files)}:
            name = self.name_of(path)
            if name in text:
                text = text.replace(name, pattern.sub("***", name))
        return text

    def pairs_of_scan(self, patient_id: str, slices: Sequence[CTHeader]) -> list[_Pair]:
        """The outlined ones of a patient's DICOM slices.

        Raises
        ------
        CohortError
            If their names, birth dates or sexes differ.
        """
        people = zip(*(self.people[ct.sop_instance_uid] for ct in slices), strict=True)
        for what, values in zip(("names", "birth dates", "sexes"), people, strict=True):
            if len(set(values) - {""}) > 1:
                raise CohortError(
                    f"patient {patient_id!r} has {len(slices)} slices under different {what} (such as "
                    f"{slices[0].name}): two patients under one ID"
                )
        return [_Pair(patient_id or UNNAMED, ct, self.outlines[ct.key]) for ct in slices if self.outlines.get(ct.key)]

    def pairs_of_case(self, patient_id: str, paths: Sequence[Path]) -> list[_Pair]:
        """The outlined planes of a NIfTI image; none where no expert's mask lies beside it.

        Raises
        ------
        L3MuscleError
            If files contradict each other, or do not say which plane is outlined.
        """
        images = [path for path in paths if split_name(path)[1] is None]
        if len(images) > 1:
            raise CohortError(f"{self.name_of(images[1])}: a second image called {split_name(images[1])[0]!r}")
        drawings: dict[str, OutlineFile] = {}
        for path in paths:
            drawn_by = split_name(path)[1]
            if drawn_by in drawings:
                raise CohortError(f"{self.name_of(path)}: a second outline by {drawn_by!r}")
            if drawn_by:
                drawings[drawn_by] = open_outlines(path, self.name_of(path), drawn_by)
        image, expert = Volume(images[0], self.name_of(images[0])), drawings.get(EXPERT)
        if expert is None:
            return []
        return [_Pair(patient_id, image.slice(index), list(drawings.values())) for index in _planes(image, expert)]


def _planes(image: Volume, expert: OutlineFile) -> list[int]:
    """The planes of an image that a mask marks, as the image's file counts them."""
    if image.planes == 1:
        return [0]
    if not isinstance(expert, NiftiMask):
        raise CohortError(f"{image.name}: nothing says which of {image.planes} slices is meant")
    if not expert.volume.annotated:
        raise CohortError(f"{expert.name}: the outline holds no pixel")
    return [image.nearest(expert.volume.grid(index)) for index in expert.volume.annotated]


def check_folder(folder: str | Path, *, rois: Sequence[str] = ()) -> CohortReport:
    """Look at a folder; what is wrong with a file or a patient becomes a line of the report and never an error.

    Pixels are decoded only of slices that are used, so whole series may lie in the folder.

    Parameters
    ----------
    folder : str or Path
    rois : sequence of str
        Names of the ROIs or segments that are muscle, where their names do not say so.

    Returns
    -------
    CohortReport

    Raises
    ------
    CohortError
        Only if there is no such folder, or it holds no file.
    """
    return _check(Path(folder), several=False, wanted=rois)


def check_slices(folder: str | Path, *, rois: Sequence[str] = ()) -> CohortReport:
    """Look at a folder as `check_folder` does, for a training that takes slices one by one.

    A patient may have several outlined slices, each of them an entry of `usable` with the same `patient_id`. DICOM
    slices without a PatientID, as de-identifying may leave them, are all taken for those of one patient, `UNNAMED`:
    none of them is then held out from a model that may have learned from the same person. Slices and images without an
    outline wait to be outlined: they are in `unlabelled` and not refused.

    Raises
    ------
    CohortError
        As `check_folder`.
    """
    return _check(Path(folder), several=True, wanted=rois)


def _check(folder: Path, *, several: bool, wanted: Sequence[str]) -> CohortReport:
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    if is_saros(folder):
        return check_saros(folder)
    report = CohortReport(folder)
    found = _Found(Path(os.path.abspath(folder)), wanted)
    try:
        found.scan(find_files([found.root]))
    except TableError:
        raise CohortError(f"no files in {folder}") from None
    if (found.root / manifest.FILE_NAME).is_file():
        _use_chosen(found, report, several=several)
    else:
        _use_all(found, report, several=several)
    report.refused = [found.without_secrets(reason) for reason in report.refused]
    report.unlabelled = [found.without_secrets(name) for name in report.unlabelled]
    for patient in report.usable:
        patient.name = found.without_secrets(patient.name)
    return report


def _use_all(found: _Found, report: CohortReport, *, several: bool) -> None:
    """Every patient who has an outlined slice."""
    report.refused += found.refused.values()
    sources: dict[str, list[tuple[list[str], Callable[[], list[_Pair]]]]] = defaultdict(list)
    scans: dict[str, list[CTHeader]] = defaultdict(list)
    for ct in sorted(found.slices.values(), key=lambda ct: (ct.patient_id, ct.location_mm)):
        if ct.patient_id or several:
            scans[ct.patient_id].append(ct)
        else:
            reason = "PatientID is missing, so patients cannot be told apart; a cohort.csv can say who is who"
            report.refused.append(f"{ct.name}: {reason}")
    for patient_id, slices in scans.items():
        names = [ct.name for ct in slices if several <= (not found.outlines.get(ct.key))]
        sources[patient_id].append((names, partial(found.pairs_of_scan, patient_id, slices)))
    for (parent, stem), paths in found.cases.items():
        patient_id = parent.name if stem.lower() == IMAGE else stem
        images = [found.name_of(path) for path in paths if split_name(path)[1] is None]
        sources[patient_id].append((images, partial(found.pairs_of_case, patient_id, paths)))
    for patient_id, ways in sorted(sources.items()):
        pairs: list[_Pair] = []
        try:
            for names, way in ways:
                these = way()
                pairs += these
                if several and (not these or these[0].ct.sop_instance_uid):
                    report.unlabelled += names
                elif not these:
                    more = f" (nor to {len(names) - 1} more of this patient)" if len(names) > 1 else ""
                    raise CohortError(f"{names[0]}: no outline refers to it{more}")
            if not several:
                _require_one(patient_id, pairs)
        except L3MuscleError as error:
            report.refused.append(str(error))
            continue
        for pair in pairs:
            try:
                report.usable.append(pair.patient())
            except L3MuscleError as error:
                report.refused.append(str(error))


def _require_one(patient_id: str, pairs: Sequence[_Pair]) -> None:
    if len(pairs) > 1:
        names = ", ".join(pair.ct.name for pair in pairs[:3])
        frames = len({pair.ct.frame_of_reference_uid for pair in pairs})
        scans = f" of {frames} scans, or of two patients under one ID" if frames > 1 else ""
        raise CohortError(
            f"patient {patient_id!r} has {len(pairs)} outlined slices where one is expected{scans}: {names}; "
            "a cohort.csv can name one"
        )


def _use_chosen(found: _Found, report: CohortReport, *, several: bool) -> None:
    """The slices that `cohort.csv` names."""
    try:
        choices, refused = manifest.read_choices(found.root, several=several)
    except L3MuscleError as error:
        report.refused.append(str(error))
        return
    report.refused += refused
    used: dict[str, Choice] = {}
    scans: dict[str, Choice] = {}
    for choice in choices:
        try:
            ct = _chosen_slice(found, choice.row)
            first = used.setdefault(ct.key, choice)
            if first is not choice:
                raise CohortError(f"the same slice as line {first.line}")
            scan = scans.setdefault(str(ct.header.get("SeriesInstanceUID") or ct.path), choice)
            if scan.row.patient_id != choice.row.patient_id:
                raise CohortError(f"a slice of the same scan as line {scan.line}, which is another patient's")
            report.usable.append(_Pair(choice.row.patient_id, ct, _chosen_outlines(found, choice, ct)).patient())
        except L3MuscleError as error:
            report.refused.append(f"{choice.where}: {error}")


def _chosen_slice(found: _Found, row: Row) -> CTHeader:
    if row.file is not None:
        path = manifest.path_in(found.root, row.file)
        if is_nifti(path):
            return _chosen_plane(found, row, path)
    if row.slice is not None:
        raise CohortError("the column slice is for NIfTI volumes")
    if row.file is not None:
        name = found.name_of(path)
        return found.by_path.get(path) or ct_header(read_dataset(path, name, pixels=False), path, name)
    if row.sop_instance_uid is not None:
        if row.sop_instance_uid not in found.slices:
            raise CohortError(f"no slice has the SOPInstanceUID {row.sop_instance_uid}")
        return found.slices[row.sop_instance_uid]
    series = [ct for ct in found.slices.values() if ct.header.SeriesInstanceUID == row.series_instance_uid]
    if row.instance_number is not None:
        named = [ct for ct in series if ct.header.get("InstanceNumber") == row.instance_number]
    else:
        named = [ct for ct in series if abs(ct.position[2] - row.position_mm) <= POSITION_TOLERANCE_MM]
    if len(named) != 1:
        raise CohortError(
            f"{len(named)} of the series' {len(series)} slices are at that position where one is expected"
        )
    return named[0]


def _chosen_plane(found: _Found, row: Row, path: Path) -> CTHeader:
    image = Volume(path, found.name_of(path))
    if row.slice is not None:
        if not 0 <= row.slice < image.planes:
            raise CohortError(f"{image.name}: has no slice {row.slice}; there are {image.planes}, counted from 0")
        return image.slice(row.slice, row.patient_id)
    mask = manifest.path_in(found.root, row.mask) if row.mask else _mask_beside(found, path)
    planes = _planes(image, open_outlines(mask, found.name_of(mask)))
    if len(planes) != 1:
        raise CohortError(f"{found.name_of(mask)}: {len(planes)} slices are outlined; the column slice can name one")
    return image.slice(planes[0], row.patient_id)


def _mask_beside(found: _Found, image: Path) -> Path:
    stem = split_name(image)[0]
    masks = [path for path in found.cases.get((image.parent, stem), []) if split_name(path)[1] == EXPERT]
    if len(masks) != 1:
        raise CohortError(f"{found.name_of(image)}: {len(masks)} masks lie beside it where one is expected")
    return masks[0]


def _chosen_outlines(found: _Found, choice: Choice, ct: CTHeader) -> list[OutlineFile]:
    """The files that outline a chosen slice, ready to be asked for it."""
    row = choice.row
    if row.mask is None and ct.sop_instance_uid:
        files = list(found.outlines.get(ct.key, []))
        if not files:
            raise CohortError(f"{ct.name}: no outline refers to it")
    else:
        path = manifest.path_in(found.root, row.mask) if row.mask else _mask_beside(found, ct.path)
        files = [_chosen_file(found, path, EXPERT, (row.roi,) if row.roi else found.wanted, ct)]
    for _, other in choice.observers:
        by = other.observer
        by = by if by.casefold().startswith(OBSERVER_PREFIX) else f"{OBSERVER_PREFIX} {by}"
        path = manifest.path_in(found.root, other.mask)
        try:
            file = _chosen_file(found, path, by, (other.roi or other.observer,), ct)
        except L3MuscleError:
            file = _chosen_file(found, path, by, (), ct)
        files.append(_DrawnBy(file, by))
    return files


def _chosen_file(found: _Found, path: Path, by: str, wanted: Sequence[str], ct: CTHeader) -> OutlineFile:
    file = open_outlines(path, found.name_of(path), by, wanted)
    of_volume = isinstance(file, Picture | NiftiMask)
    file.slices([ct] if of_volume or ct.key not in found.slices else list(found.slices.values()))
    return file


@dataclass(frozen=True)
class _DrawnBy:
    """A file of which one outline, or the only one, is an observer's."""

    file: OutlineFile
    by: str

    @property
    def name(self) -> str:
        """The file as messages call it."""
        return self.file.name

    def slices(self, candidates: Sequence[CTHeader]) -> set[str]:
        """As the file's."""
        return self.file.slices(candidates)

    def masks(self, ct: CTHeader) -> dict[str, np.ndarray]:
        """The observer's outline."""
        drawn = self.file.masks(ct)
        names = {by.casefold(): by for by in drawn}
        name = names.get(self.by.casefold(), names.get(EXPERT, next(iter(drawn)) if len(drawn) == 1 else None))
        if name is None:
            raise CohortError(f"{self.name}: holds no outline of {ct.name} by {self.by!r}")
        return {self.by: drawn[name]}


def find_slices(paths: Iterable[Path]) -> tuple[list[CTHeader], list[str], int]:
    """Every CT slice among files and folders, without its pixels; every plane of a NIfTI volume is one.

    A slice is named by its file's path within the folder it was found in.

    Parameters
    ----------
    paths : iterable of Path

    Returns
    -------
    slices : list of CTHeader
        By patient, from the feet up.
    refused : list of str
        Files that are no slice that can be read, and why.
    outlines : int
        How many files of outlines lay in the folders and were passed over.

    Raises
    ------
    TableError
        If a path does not exist, or there is no file.
    """
    slices: list[CTHeader] = []
    refused: list[str] = []
    seen: dict[str, str] = {}
    outlines = 0
    for top in paths:
        for path in find_files([top]):
            name = path.relative_to(top).as_posix() if top.is_dir() else path.name
            try:
                if is_nifti(path) or is_png(path):
                    if top.is_dir() and (is_png(path) or split_name(path)[1]):
                        outlines += 1
                        continue
                    volume = Volume(path, name)
                    cts = [volume.slice(index) for index in range(volume.planes)]
                else:
                    dataset = read_dataset(path, name, pixels=False)
                    if top.is_dir() and modality(dataset, name) in ("RTSTRUCT", "SEG"):
                        outlines += 1
                        continue
                    cts = [ct_header(dataset, path, name)]
                for ct in cts:
                    first = seen.setdefault(ct.key, ct.name)
                    if first is not ct.name:
                        raise DicomError(f"{ct.name}: the same slice as {first}")
                slices += cts
            except L3MuscleError as error:
                refused.append(str(error))
    slices.sort(key=lambda ct: (ct.patient_id, ct.location_mm))
    return slices, refused, outlines


def load_cohort(folder: str | Path, *, usable_only: bool = False, rois: Sequence[str] = ()) -> Cohort:
    """Load a cohort from a folder of DICOM slices or NIfTI images with outlines of skeletal muscle.

    An outline belongs to the slice that it refers to or lies beside. Which of a file's outlines is the muscle, the gold
    standard, is said by its name (see `l3muscle.cohort.outlines`); those whose name begins with `observer` are the
    observers'.

    Parameters
    ----------
    folder : str or Path
    usable_only : bool
        Go on with the sound patients where some files were refused; otherwise that is an error.
    rois : sequence of str
        Names of the ROIs or segments that are muscle, where their names do not say so.

    Returns
    -------
    Cohort
        In the order of patient IDs.

    Raises
    ------
    CohortError
        If nothing can be used, or something was refused and `usable_only` is false.
    """
    return check_folder(folder, rois=rois).cohort(usable_only=usable_only)
