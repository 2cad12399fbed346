"""A cohort from a folder of DICOM slices and RT Structure Sets, however they are nested and named."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3muscle.cohort.cohort import Cohort
from l3muscle.cohort.dicom import (
    CTSlice,
    DicomError,
    ct_slice,
    dicom_files,
    modality,
    read_dataset,
    referenced_slices,
    rtstruct_masks,
)
from l3muscle.errors import L3MuscleError

EXPERT = "expert"
OBSERVER_PREFIX = "observer"


class CohortError(L3MuscleError):
    """A folder that does not hold a sound cohort."""


@dataclass
class Patient:
    """One usable patient: a slice, the expert's mask, and observers' masks."""

    ct: CTSlice
    expert: np.ndarray
    observers: dict[str, np.ndarray]


@dataclass
class CohortReport:
    """What of a folder can be used, and what cannot and why."""

    usable: list[Patient] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report as text, a line each."""
        for reason in self.refused:
            yield f"refused: {reason}"
        observed = sum(bool(patient.observers) for patient in self.usable)
        yield f"{len(self.usable)} patients usable, {observed} of them with observers; {len(self.refused)} refusals"


def _usable(ct: CTSlice, rois: dict[str, np.ndarray]) -> Patient:
    observers = {name: mask for name, mask in rois.items() if name.lower().startswith(OBSERVER_PREFIX)}
    others = {name: mask for name, mask in rois.items() if name not in observers}
    named = [name for name in others if name.lower() == EXPERT]
    if len(others) != 1 and len(named) != 1:
        found = ", ".join(sorted(others)) or "none"
        raise DicomError(f"{ct.path.name}: needs one outline, or one named {EXPERT!r}; there are: {found}")
    expert = others[named[0]] if named else next(iter(others.values()))
    if not expert.any():
        raise DicomError(f"{ct.path.name}: the outline holds no pixel")
    return Patient(ct, expert, observers)


def check_folder(folder: Path) -> CohortReport:
    """Look at every file of a folder; a bad one becomes a line of the report and never an error.

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
    if not folder.is_dir():
        raise CohortError(f"there is no folder {folder}")
    report = CohortReport()
    slices: dict[str, CTSlice] = {}
    structure_sets = []
    try:
        files = dicom_files([folder])
    except DicomError as error:
        raise CohortError(str(error)) from None
    for path in files:
        try:
            dataset = read_dataset(path)
            if modality(dataset, path.name) == "RTSTRUCT":
                structure_sets.append((path, dataset))
                continue
            ct = ct_slice(dataset, path)
        except DicomError as error:
            report.refused.append(str(error))
            continue
        if ct.sop_instance_uid in slices:
            report.refused.append(f"{path.name}: the same SOPInstanceUID as {slices[ct.sop_instance_uid].path.name}")
        else:
            slices[ct.sop_instance_uid] = ct
    outlines: dict[str, dict[str, np.ndarray]] = {}
    for path, dataset in structure_sets:
        try:
            targets = referenced_slices(dataset, path.name) & set(slices)
            if not targets:
                report.refused.append(f"{path.name}: its contours lie on no slice of this folder")
            for uid in sorted(targets):
                outlines.setdefault(uid, {}).update(rtstruct_masks(dataset, slices[uid], path.name))
        except DicomError as error:
            report.refused.append(str(error))
    patients: dict[str, list[CTSlice]] = {}
    for ct in slices.values():
        if ct.patient_id:
            patients.setdefault(ct.patient_id, []).append(ct)
        else:
            report.refused.append(f"{ct.path.name}: PatientID is missing, so patients cannot be told apart")
    for patient_id in sorted(patients):
        try:
            report.usable.append(_usable(*_outlined(patient_id, patients[patient_id], outlines)))
        except DicomError as error:
            report.refused.append(str(error))
    _refuse_odd_sizes(report)
    return report


def _outlined(
    patient_id: str, slices: list[CTSlice], outlines: dict[str, dict[str, np.ndarray]]
) -> tuple[CTSlice, dict[str, np.ndarray]]:
    """The one slice of a patient that is outlined; others of a whole series may lie beside it."""
    drawn = [ct for ct in slices if ct.sop_instance_uid in outlines]
    if not drawn:
        more = f" (nor to {len(slices) - 1} more of this patient)" if len(slices) > 1 else ""
        raise DicomError(f"{slices[0].path.name}: no outline refers to it{more}")
    if len(drawn) > 1:
        names = ", ".join(ct.path.name for ct in drawn[:3])
        raise DicomError(f"patient {patient_id!r} has {len(drawn)} outlined slices where one is expected: {names}")
    return drawn[0], outlines[drawn[0].sop_instance_uid]


def _refuse_odd_sizes(report: CohortReport) -> None:
    """A cohort's slices share one size: the commonest stays."""
    sizes = Counter(patient.ct.hu.shape for patient in report.usable)
    if len(sizes) < 2:
        return
    common = max(sizes, key=lambda size: (sizes[size], size))
    for patient in report.usable:
        if patient.ct.hu.shape != common:
            found, usual = (" x ".join(map(str, size)) for size in (patient.ct.hu.shape, common))
            report.refused.append(f"{patient.ct.path.name}: {found} pixels where most slices have {usual}")
    report.usable = [patient for patient in report.usable if patient.ct.hu.shape == common]


def load_cohort(folder: str | Path, *, usable_only: bool = False) -> Cohort:
    """Load a cohort from a folder of DICOM CT slices and RT Structure Sets.

    A structure set belongs to the slices that its contours refer to. Of its ROIs, `expert` (or the only one) is the
    gold standard, and those whose name begins with `observer` are the observers'.

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
    folder = Path(folder)
    report = check_folder(folder)
    if report.refused and not usable_only:
        more = f" (and {len(report.refused) - 1} more; `l3muscle cohort check {folder}` lists them)"
        raise CohortError(f"{folder}: {report.refused[0]}{more if len(report.refused) > 1 else ''}")
    if not report.usable:
        raise CohortError(f"nothing in {folder} can be used")
    return Cohort(
        images=np.stack([patient.ct.hu for patient in report.usable]),
        masks=np.stack([patient.expert for patient in report.usable]),
        spacing=np.array([patient.ct.spacing for patient in report.usable]),
        patient_ids=tuple(patient.ct.patient_id for patient in report.usable),
        observers={patient.ct.patient_id: patient.observers for patient in report.usable if patient.observers},
    )
