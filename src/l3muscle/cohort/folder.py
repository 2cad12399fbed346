"""A cohort from a folder of DICOM slices and RT Structure Sets, however they are nested and named."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3muscle.cohort.cohort import Cohort
from l3muscle.cohort.dicom import CTSlice, DicomError, ct_slice, dicom_files, read_dataset, referenced_slices, rtstruct_masks
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
            if dataset.get("Modality") == "RTSTRUCT":
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
        targets = referenced_slices(dataset) & set(slices)
        if not targets:
            report.refused.append(f"{path.name}: its contours lie on no slice of this folder")
        for uid in sorted(targets):
            try:
                outlines.setdefault(uid, {}).update(rtstruct_masks(dataset, slices[uid], path.name))
            except DicomError as error:
                report.refused.append(str(error))
    patients: dict[str, Patient] = {}
    for uid, ct in slices.items():
        if not ct.patient_id:
            report.refused.append(f"{ct.path.name}: PatientID is missing, so patients cannot be told apart")
            continue
        if uid not in outlines:
            report.refused.append(f"{ct.path.name}: no outline refers to it")
            continue
        try:
            patient = _usable(ct, outlines[uid])
        except DicomError as error:
            report.refused.append(str(error))
            continue
        if ct.patient_id in patients:
            report.refused.append(f"{ct.path.name}: a second outlined slice under the same patient ID")
        else:
            patients[ct.patient_id] = patient
    report.usable = [patients[patient_id] for patient_id in sorted(patients)]
    return report


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
        If nothing can be used, something was refused, or the slices differ in size.
    """
    folder = Path(folder)
    report = check_folder(folder)
    if report.refused and not usable_only:
        more = f" (and {len(report.refused) - 1} more; `l3muscle cohort check {folder}` lists them)"
        raise CohortError(f"{folder}: {report.refused[0]}{more if len(report.refused) > 1 else ''}")
    if not report.usable:
        raise CohortError(f"nothing in {folder} can be used")
    shapes = {patient.ct.hu.shape for patient in report.usable}
    if len(shapes) > 1:
        raise CohortError(f"{folder}: slices of different sizes: {', '.join(map(str, sorted(shapes)))}")
    return Cohort(
        images=np.stack([patient.ct.hu for patient in report.usable]),
        masks=np.stack([patient.expert for patient in report.usable]),
        spacing=np.array([patient.ct.spacing for patient in report.usable]),
        patient_ids=tuple(patient.ct.patient_id for patient in report.usable),
        observers={patient.ct.patient_id: patient.observers for patient in report.usable if patient.observers},
    )
