"""A cohort from a folder of DICOM slices and RT Structure Sets, however they are nested and named."""

from pathlib import Path

import numpy as np

from l3muscle.cohort.cohort import Cohort, CohortError, CohortReport, Patient
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

EXPERT = "expert"
OBSERVER_PREFIX = "observer"


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
    return Patient(ct.patient_id, ct.path.name, ct.hu, ct.spacing, expert, observers)


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
    report = CohortReport(folder)
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
    report.refuse_odd_sizes()
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
    return check_folder(Path(folder)).cohort(usable_only=usable_only)
