"""A try of the whole road on phantoms, where the true outline of every slice is known.

Phantoms stand in for a scanner archive: some with outlines, the rest without, one of them altered to look like another
part of the body. As the truth is known, a round of correction can be played through and its gain measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from l3muscle.cohort import Patient
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.drafts import remove, remove_abandoned
from l3muscle.metrics import Reference
from l3muscle.phantom.patients import PhantomSlice, phantom_slice
from l3muscle.segmenter.model_file import Segmenter
from l3muscle.store import checked_folder, damaged_file

FIRST_SEED = 0x0175  # far from the study's own phantoms
OUTLINED, REST, TEST = 10, 15, 15  # slices
AIR_IN_CHEST_HU = -850


@dataclass(frozen=True)
class Demo:
    """Folders of a demonstration, and what is true of its phantoms.

    Attributes
    ----------
    outlined, rest : Path
        Slices with RTSTRUCTs, and slices without.
    altered : str
        Patient ID of the slice in `rest` that looks like another part of the body.
    truth : dict of str to Patient
        By patient ID, of every other slice in `rest`.
    test : list of Patient
        Slices that no model sees.
    """

    outlined: Path
    rest: Path
    altered: str
    truth: dict[str, Patient]
    test: list[Patient]


def runs_folder(runs: str) -> Path:
    """A folder of runs, which a notebook finds from the project's top or from where it lies."""
    above = Path("..") / runs
    return above if not Path(runs).is_dir() and above.is_dir() else Path(runs)


def _patient(name: str, drawn: PhantomSlice) -> Patient:
    return Patient(name, name, drawn.hu, drawn.spacing, drawn.mask)


def like_a_chest(drawn: PhantomSlice) -> np.ndarray:
    """A phantom's slice with air in place of what its muscles enclose, (H, W) int16."""
    rows, columns = np.nonzero(drawn.mask)
    inner = np.zeros_like(drawn.mask)
    height, width = np.ptp(rows), np.ptp(columns)
    inner[
        rows.min() + height // 5 : rows.max() - height // 3, columns.min() + width // 6 : columns.max() - width // 6
    ] = True
    return np.where(inner & ~drawn.mask & (drawn.hu < 150), AIR_IN_CHEST_HU, drawn.hu).astype(np.int16)


def write_demo(folder: Path, *, size: int) -> Demo:
    """Write the demonstration's phantoms as DICOM, unless they are there as they were written.

    Parameters
    ----------
    folder : Path
    size : int
        Pixels a side.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + OUTLINED + REST + TEST)
    drawn = {f"OWN-{place:02d}": phantom_slice(seed, size=size) for place, seed in enumerate(seeds, start=1)}
    names = list(drawn)
    rest = names[OUTLINED : OUTLINED + REST]
    demo = Demo(
        folder / "outlined",
        folder / "rest",
        rest[0],
        {name: _patient(name, drawn[name]) for name in rest[1:]},
        [_patient(name, drawn[name]) for name in names[OUTLINED + REST :]],
    )
    if damaged_file(folder) is None:
        return demo
    remove(folder)
    remove_abandoned(folder.parent, folder.name)
    with checked_folder(folder) as draft:
        for name in names[:OUTLINED]:
            add_outlined(draft / demo.outlined.name, _patient(name, drawn[name]))
        (draft / demo.rest.name).mkdir()
        for name in rest:
            hu = like_a_chest(drawn[name]) if name == demo.altered else drawn[name].hu
            write_ct_slice(draft / demo.rest.name / f"{name}.dcm", hu, drawn[name].spacing, patient_id=name)
    return demo


def add_outlined(folder: Path, patient: Patient) -> None:
    """Write a slice and its outline into a folder, as a person does with a corrected one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{patient.patient_id}.dcm"
    write_ct_slice(path, patient.hu, patient.spacing, patient_id=patient.patient_id)
    write_rtstruct(folder / f"{patient.patient_id}.rtstruct.dcm", {"expert": patient.expert}, read_ct_slice(path))


def score_on(model: Segmenter, patients: Sequence[Patient]) -> pd.DataFrame:
    """Scores of a model's outlines: slice, patient_id, agreement and the measures of `l3muscle.metrics.Score`."""
    outlines = model.outline([(patient.hu, patient.spacing) for patient in patients])
    return pd.DataFrame(
        [
            {
                "slice": patient.name,
                "patient_id": patient.patient_id,
                "agreement": outline.agreement,
                **Reference(patient.expert, patient.hu, patient.spacing).score(outline.mask)._asdict(),
            }
            for patient, outline in zip(patients, outlines, strict=True)
        ]
    )
