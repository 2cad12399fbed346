"""A cohort from a folder of one's own, however it is nested and its files are named.

Slices are DICOM files or NIfTI images; `l3muscle.cohort.scan` says which files outline them. Of several planes the one
that is outlined counts. Where that does not decide, a `cohort.csv` at the top does (see `l3muscle.cohort.manifest`);
files that it does not mention are then passed over in silence, unless they outline its slices.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from l3muscle.cohort import manifest
from l3muscle.cohort.cohort import Cohort, CohortError, CohortReport
from l3muscle.cohort.ct import CTSlice, ct_slice, read_dataset
from l3muscle.cohort.files import FileError, find_files
from l3muscle.cohort.manifest import Choice, Row
from l3muscle.cohort.nifti import NiftiMask, Volume, is_nifti
from l3muscle.cohort.outlines import EXPERT, OBSERVER_PREFIX, OutlineFile, Picture
from l3muscle.cohort.saros import check_saros, is_saros
from l3muscle.cohort.scan import IMAGE, Contents, Pair, marked_planes, open_outlines, split_name
from l3muscle.errors import L3MuscleError

POSITION_TOLERANCE_MM = 0.5  # of a position typed into cohort.csv


def check_folder(folder: str | Path, *, rois: Sequence[str] = (), several: bool = False) -> CohortReport:
    """Look at a folder; what is wrong with a file or a patient becomes a line of the report and never an error.

    Pixels are decoded only of slices that are used, so whole series may lie in the folder.

    Parameters
    ----------
    folder : str or Path
    rois : sequence of str
        Names of the ROIs or segments that are muscle, where their names do not say so.
    several : bool
        For a training that takes slices one by one. A patient may then have several outlined slices, each of them an
        entry of `usable` with the same `patient_id`. DICOM slices without a PatientID, as de-identifying may leave
        them, are all taken for those of one patient, `UNNAMED`: none of them is then held out from a model that may
        have learned from the same person. Slices and images without an outline wait to be outlined: they are in
        `unlabelled` and not refused.

    Returns
    -------
    CohortReport

    Raises
    ------
    CohortError
        Only if there is no such folder, or it holds no file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    if is_saros(folder):
        return check_saros(folder)
    report = CohortReport(folder)
    contents = Contents(Path(os.path.abspath(folder)), rois)
    try:
        contents.scan(find_files([contents.root]))
    except FileError:
        raise CohortError(f"no files in {folder}") from None
    if (contents.root / manifest.FILE_NAME).is_file():
        _use_chosen(contents, report, several=several)
    else:
        _use_all(contents, report, several=several)
    report.refused = [contents.without_secrets(reason) for reason in report.refused]
    report.unlabelled = [contents.without_secrets(name) for name in report.unlabelled]
    for patient in report.usable:
        patient.name = contents.without_secrets(patient.name)
    return report


def _use_all(contents: Contents, report: CohortReport, *, several: bool) -> None:
    """Every patient who has an outlined slice."""
    report.refused += contents.refused.values()
    sources: dict[str, list[tuple[list[str], Callable[[], list[Pair]]]]] = defaultdict(list)
    scans: dict[str, list[CTSlice]] = defaultdict(list)
    for ct in sorted(contents.slices.values(), key=lambda ct: (ct.patient_id, ct.location_mm)):
        if ct.patient_id or several:
            scans[ct.patient_id].append(ct)
        else:
            reason = "PatientID is missing, so patients cannot be told apart; a cohort.csv can say who is who"
            report.refused.append(f"{ct.name}: {reason}")
    for patient_id, slices in scans.items():
        names = [ct.name for ct in slices if not (several and contents.outlines.get(ct.key))]
        sources[patient_id].append((names, partial(contents.pairs_of_scan, patient_id, slices)))
    for (parent, stem), paths in contents.cases.items():
        patient_id = parent.name if stem.lower() == IMAGE else stem
        images = [contents.name_of(path) for path in paths if split_name(path)[1] is None]
        sources[patient_id].append((images, partial(contents.pairs_of_case, patient_id, paths)))
    for patient_id, of_patient in sorted(sources.items()):
        pairs: list[Pair] = []
        try:
            for names, find_pairs in of_patient:
                found = find_pairs()
                pairs += found
                if several and (not found or found[0].ct.sop_instance_uid):
                    report.unlabelled += names
                elif not found:
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


def _require_one(patient_id: str, pairs: Sequence[Pair]) -> None:
    if len(pairs) > 1:
        names = ", ".join(pair.ct.name for pair in pairs[:3])
        frames = len({pair.ct.frame_of_reference_uid for pair in pairs})
        scans = f" of {frames} scans, or of two patients under one ID" if frames > 1 else ""
        raise CohortError(
            f"patient {patient_id!r} has {len(pairs)} outlined slices where one is expected{scans}: {names}; "
            "a cohort.csv can name one"
        )


def _use_chosen(contents: Contents, report: CohortReport, *, several: bool) -> None:
    """The slices that `cohort.csv` names."""
    try:
        choices, refused = manifest.read_choices(contents.root, several=several)
    except L3MuscleError as error:
        report.refused.append(str(error))
        return
    report.refused += refused
    used: dict[str, Choice] = {}
    scans: dict[str, Choice] = {}
    for choice in choices:
        try:
            ct = _chosen_slice(contents, choice.row)
            first = used.setdefault(ct.key, choice)
            if first is not choice:
                raise CohortError(f"the same slice as line {first.line}")
            scan = scans.setdefault(str(ct.header.get("SeriesInstanceUID") or ct.path), choice)
            if scan.row.patient_id != choice.row.patient_id:
                raise CohortError(f"a slice of the same scan as line {scan.line}, which is another patient's")
            report.usable.append(Pair(choice.row.patient_id, ct, _chosen_outlines(contents, choice, ct)).patient())
        except L3MuscleError as error:
            report.refused.append(f"{choice.where}: {error}")


def _chosen_slice(contents: Contents, row: Row) -> CTSlice:
    if row.file is not None:
        path = manifest.path_in(contents.root, row.file)
        if is_nifti(path):
            return _chosen_plane(contents, row, path)
    if row.slice is not None:
        raise CohortError("the column slice is for NIfTI volumes")
    if row.file is not None:
        name = contents.name_of(path)
        return contents.by_path.get(path) or ct_slice(read_dataset(path, name, pixels=False), path, name)
    if row.sop_instance_uid is not None:
        if row.sop_instance_uid not in contents.slices:
            raise CohortError(f"no slice has the SOPInstanceUID {row.sop_instance_uid}")
        return contents.slices[row.sop_instance_uid]
    series = [ct for ct in contents.slices.values() if ct.header.SeriesInstanceUID == row.series_instance_uid]
    if row.instance_number is not None:
        named = [ct for ct in series if ct.header.get("InstanceNumber") == row.instance_number]
    else:
        named = [ct for ct in series if abs(ct.position[2] - row.position_mm) <= POSITION_TOLERANCE_MM]
    if len(named) != 1:
        raise CohortError(
            f"{len(named)} of the series' {len(series)} slices are at that position where one is expected"
        )
    return named[0]


def _chosen_plane(contents: Contents, row: Row, path: Path) -> CTSlice:
    image = Volume(path, contents.name_of(path))
    if row.slice is not None:
        if not 0 <= row.slice < image.planes:
            raise CohortError(f"{image.name}: has no slice {row.slice}; there are {image.planes}, counted from 0")
        return image.slice(row.slice, row.patient_id)
    mask = manifest.path_in(contents.root, row.mask) if row.mask else _mask_beside(contents, path)
    planes = marked_planes(image, open_outlines(mask, contents.name_of(mask)))
    if len(planes) != 1:
        raise CohortError(f"{contents.name_of(mask)}: {len(planes)} slices are outlined; the column slice can name one")
    return image.slice(planes[0], row.patient_id)


def _mask_beside(contents: Contents, image: Path) -> Path:
    stem = split_name(image)[0]
    masks = [path for path in contents.cases.get((image.parent, stem), []) if split_name(path)[1] == EXPERT]
    if len(masks) != 1:
        raise CohortError(f"{contents.name_of(image)}: {len(masks)} masks lie beside it where one is expected")
    return masks[0]


def _chosen_outlines(contents: Contents, choice: Choice, ct: CTSlice) -> list[OutlineFile]:
    """The files that outline a chosen slice, ready to be asked for it."""
    row = choice.row
    if row.mask is None and ct.sop_instance_uid:
        files = list(contents.outlines.get(ct.key, []))
        if not files:
            raise CohortError(f"{ct.name}: no outline refers to it")
    else:
        path = manifest.path_in(contents.root, row.mask) if row.mask else _mask_beside(contents, ct.path)
        files = [_chosen_file(contents, path, EXPERT, (row.roi,) if row.roi else contents.wanted, ct)]
    for _, other in choice.observers:
        by = other.observer
        by = by if by.casefold().startswith(OBSERVER_PREFIX) else f"{OBSERVER_PREFIX} {by}"
        path = manifest.path_in(contents.root, other.mask)
        named = True
        try:
            file = _chosen_file(contents, path, by, (other.roi or other.observer,), ct)
        except L3MuscleError:
            named, file = False, _chosen_file(contents, path, by, (), ct)
        files.append(_DrawnBy(file, by, named))
    return files


def _chosen_file(contents: Contents, path: Path, by: str, wanted: Sequence[str], ct: CTSlice) -> OutlineFile:
    file = open_outlines(path, contents.name_of(path), by, wanted)
    of_volume = isinstance(file, Picture | NiftiMask)
    file.slices([ct] if of_volume or ct.key not in contents.slices else list(contents.slices.values()))
    return file


@dataclass(frozen=True)
class _DrawnBy:
    """A file of which one outline, the one that the row names or the only one, is an observer's."""

    file: OutlineFile
    by: str
    named: bool

    @property
    def name(self) -> str:
        """The file as messages call it."""
        return self.file.name

    def masks(self, ct: CTSlice) -> dict[str, np.ndarray]:
        """The observer's outline."""
        drawn = self.file.masks(ct)
        names = {by.casefold(): by for by in drawn}
        only = next(iter(drawn)) if len(drawn) == 1 else None
        name = names.get(self.by.casefold(), EXPERT if self.named and EXPERT in drawn else only)
        if name is None:
            raise CohortError(f"{self.name}: holds no outline of {ct.name} by {self.by!r}")
        return {self.by: drawn[name]}


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
