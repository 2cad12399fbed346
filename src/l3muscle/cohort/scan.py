"""What lies in a folder: slices, the files that outline them, and which belongs to which.

A DICOM slice is outlined by an RTSTRUCT or a DICOM-SEG that refers to it, wherever in the folder, or by a NIfTI or PNG
file of the same name beside it (`x.dcm` with `x_mask.nii.gz`, `x.mask.nii.gz`, `x.seg.nii.gz`, `x.nii.gz`, `x_mask.png`
or `x.png`). A NIfTI image is outlined by the mask beside it: `x.nii.gz` by `x_mask.nii.gz`, and then the patient is
called `x`, or `image.nii.gz` by `mask.nii.gz` in a folder whose name is the patient's. `x_observer 01.nii.gz`, or
`.png`, is an observer's outline.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from l3muscle.cohort.cohort import UNNAMED, CohortError, Patient
from l3muscle.cohort.ct import CTSlice, ct_slice, modality, read_dataset
from l3muscle.cohort.files import FileError, reading
from l3muscle.cohort.nifti import NiftiMask, Volume, is_nifti
from l3muscle.cohort.outlines import EXPERT, OutlineFile, Picture, merge
from l3muscle.cohort.rtstruct import StructureSet
from l3muscle.cohort.seg import SegmentationFile
from l3muscle.errors import L3MuscleError

MASK_NAME = re.compile(
    r"(?P<stem>.+?)(?P<role>_mask|\.mask|\.seg|_observer[^.]*)?(?P<suffix>\.nii(\.gz)?|\.png)", re.IGNORECASE
)
OUTLINES = ("RTSTRUCT", "SEG")  # modalities
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
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


def open_outlines(
    path: Path, name: str, drawn_by: str = EXPERT, wanted: Sequence[str] = (), dataset: Dataset | None = None
) -> OutlineFile:
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
    dataset : Dataset, optional
        A DICOM file's elements, where they are read already.

    Raises
    ------
    L3MuscleError
        If it is none, or does not say which of its outlines is the muscle.
    """
    if is_nifti(path):
        return NiftiMask(Volume(path, name), drawn_by)
    if is_png(path):
        return Picture(path, name, drawn_by)
    if dataset is None:
        dataset = read_dataset(path, name, pixels=False)
    kind = modality(dataset, name)
    if kind == "RTSTRUCT":
        return StructureSet(dataset, name, wanted)
    if kind == "SEG":
        return SegmentationFile(path, name, wanted)
    raise FileError(f"{name}: holds no outlines (modality {kind})")


@dataclass(frozen=True)
class Pair:
    """A slice and the files that outline it."""

    patient_id: str
    ct: CTSlice
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
        return Patient(self.patient_id, name, self.ct.hu, self.ct.spacing, expert, drawn)


@dataclass
class Contents:
    """What lies in a folder: headers and contours, read once and without pixels; NIfTI and PNG by name."""

    root: Path
    wanted: Sequence[str] = ()
    slices: dict[str, CTSlice] = field(default_factory=dict)
    by_path: dict[Path, CTSlice] = field(default_factory=dict)
    outlines: dict[str, list[OutlineFile]] = field(default_factory=lambda: defaultdict(list))
    cases: dict[tuple[Path, str], list[Path]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[Path, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    people: dict[str, tuple[str, ...]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    def name_of(self, path: Path) -> str:
        """A file as messages call it: its path from the folder."""
        return path.relative_to(self.root).as_posix()

    def scan(self, files: Iterable[Path]) -> None:
        """Look at files; what is wrong with one becomes its line in `refused`."""
        outlines: list[tuple[Path, OutlineFile]] = []
        beside: list[Path] = []
        self.files = list(files)
        for path in self.files:
            if is_nifti(path) or is_png(path):
                beside.append(path)
                continue
            name = self.name_of(path)
            try:
                dataset = read_dataset(path, name, pixels=False)
                kind = modality(dataset, name)
                with reading(name):
                    self._note_person(dataset)
                if kind in OUTLINES:
                    outlines.append((path, open_outlines(path, name, wanted=self.wanted, dataset=dataset)))
                else:
                    self._add_slice(ct_slice(dataset, path, name))
            except L3MuscleError as error:
                self.refused[path] = str(error)
        candidates = list(self.slices.values())
        for path, file in outlines:
            try:
                keys = file.slices(candidates)
                if not keys:
                    raise FileError(f"{file.name}: it outlines no slice of this folder")
                for key in keys:
                    self.outlines[key].append(file)
            except L3MuscleError as error:
                self.refused[path] = str(error)
        self._match_names(beside)

    def _add_slice(self, ct: CTSlice) -> None:
        self.by_path[ct.path] = ct
        first = self.slices.setdefault(ct.key, ct)
        if first is not ct:
            self.refused[ct.path] = f"{ct.name}: the same SOPInstanceUID as {first.name}"

    def _match_names(self, beside: Iterable[Path]) -> None:
        """Give NIfTI and PNG masks to the DICOM slices they lie beside, and sort the others by folder and case."""
        neighbours: dict[tuple[Path, str], list[CTSlice]] = defaultdict(list)
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
        words = {born, *re.split(r"[\s^=-]+", str(dataset.get("PatientName") or "").lower())}
        # Files are often called without umlauts and accents.
        words |= {word.translate(UMLAUTS) for word in words}
        words |= {unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode() for word in words}
        # A name that is the ID is a pseudonym.
        self.secrets |= {word for word in words if len(word) > 2 and word not in patient_id}
        if len(born) == 8:
            self.secrets.add(f"{born[:4]}-{born[4:6]}-{born[6:]}")
        sop_instance = str(dataset.get("SOPInstanceUID") or dataset.file_meta.get("MediaStorageSOPInstanceUID"))
        self.people.setdefault(sop_instance, (name, born, sex))

    def without_secrets(self, text: str) -> str:
        """`text` with every path that repeats a patient's name or birth date blacked out in that part."""
        if not self.secrets:
            return text
        pattern = re.compile("|".join(map(re.escape, sorted(self.secrets, key=len, reverse=True))), re.IGNORECASE)
        for path in self.files:
            name = self.name_of(path)
            if name in text:
                # Some systems write a letter and its accent apart.
                text = text.replace(name, pattern.sub("***", unicodedata.normalize("NFC", name)))
        return text

    def pairs_of_scan(self, patient_id: str, slices: Sequence[CTSlice]) -> list[Pair]:
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
        return [Pair(patient_id or UNNAMED, ct, self.outlines[ct.key]) for ct in slices if self.outlines.get(ct.key)]

    def pairs_of_case(self, patient_id: str, paths: Sequence[Path]) -> list[Pair]:
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
        return [Pair(patient_id, image.slice(index), list(drawings.values())) for index in marked_planes(image, expert)]


def marked_planes(image: Volume, expert: OutlineFile) -> list[int]:
    """The planes of an image that a mask marks, as the image's file counts them."""
    if image.planes == 1:
        return [0]
    if not isinstance(expert, NiftiMask):
        raise CohortError(f"{image.name}: nothing says which of {image.planes} slices is meant")
    if not expert.volume.annotated:
        raise CohortError(f"{expert.name}: the outline holds no pixel")
    return [image.nearest(expert.volume.grid(index)) for index in expert.volume.annotated]
