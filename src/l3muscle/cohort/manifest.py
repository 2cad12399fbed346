"""`cohort.csv`: which slices of a folder make up the cohort, chosen by a person.

It lies at the top of the folder: a table in UTF-8, columns parted by commas or semicolons, one row a patient.

| column | meaning |
| --- | --- |
| `patient_id` | required; stands in place of what the files say |
| `file` | the slice: path from the folder, of a DICOM slice or a NIfTI image |
| `sop_instance_uid` | or: the DICOM slice with this UID |
| `series_instance_uid` | or: a slice of this series, together with `instance_number` or `position_mm` |
| `instance_number` | the slice's InstanceNumber |
| `position_mm` | third number of the slice's ImagePositionPatient, to half a millimetre |
| `slice` | of a NIfTI volume: the slice's number along the axial axis, from 0, as the file stores it |
| `mask` | path from the folder, of an RTSTRUCT, DICOM-SEG, NIfTI or PNG; by default what the folder holds for it |
| `roi` | name of the outline in `mask` that is the muscle |
| `observer` | the row gives this observer's outline, in `mask`, of a patient who has a row of their own |

Spacing is no column: it comes from the files or not at all.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from l3muscle.cohort.cohort import CohortError
from l3muscle.cohort.files import read_table

FILE_NAME = "cohort.csv"


class Row(BaseModel):
    """One row of `cohort.csv`; what it leaves empty is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patient_id: str
    file: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    instance_number: int | None = None
    position_mm: FiniteFloat | None = None
    slice: int | None = None
    mask: str | None = None
    roi: str | None = None
    observer: str | None = None

    @model_validator(mode="after")
    def _selects_one(self) -> "Row":
        if self.roi is not None and self.mask is None:
            raise ValueError("the column roi goes with mask")
        if self.observer is not None:
            if self.mask is None:
                raise ValueError("an observer's row needs a mask")
            return self
        if sum(name is not None for name in (self.file, self.sop_instance_uid, self.series_instance_uid)) != 1:
            raise ValueError("needs one of file, sop_instance_uid and series_instance_uid")
        in_series = sum(value is not None for value in (self.instance_number, self.position_mm))
        if in_series != (self.series_instance_uid is not None):
            raise ValueError("one of instance_number and position_mm goes with series_instance_uid, and only with it")
        return self

    @property
    def selection(self) -> tuple:
        """What names the slice."""
        series = (self.series_instance_uid, self.instance_number, self.position_mm)
        return (self.file, self.sop_instance_uid, *series, self.slice)


@dataclass(frozen=True)
class Choice:
    """A patient's row with its line number, and the rows of the observers who outlined the same slice."""

    line: int
    row: Row
    observers: tuple[tuple[int, Row], ...]

    @property
    def where(self) -> str:
        """The row as messages call it."""
        return f"{FILE_NAME} line {self.line}"


def path_in(folder: Path, name: str) -> Path:
    """A file that a row names.

    Raises
    ------
    CohortError
        If it is not there, or not below the folder.
    """
    path = Path(os.path.abspath(folder / name.replace("\\", "/")))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise CohortError(f"{name!r} lies outside the folder")
    # Unlike the method of a path, this one takes names that no file system takes.
    if not os.path.isfile(path):
        raise CohortError(f"there is no file {name!r}")
    return path


def read_choices(folder: Path, *, several: bool = False) -> tuple[list[Choice], list[str]]:
    """Read a folder's `cohort.csv`.

    Parameters
    ----------
    folder : Path
    several : bool
        Whether a patient may have rows of several slices. An observer's row then belongs to all of the patient's.

    Returns
    -------
    choices : list of Choice
        Sound ones, in the order of patient IDs.
    refused : list of str
        Why other rows are refused.

    Raises
    ------
    FileError
        If the table as a whole cannot be read, or has columns that it should not have.
    """
    rows, wrong = read_table(folder / FILE_NAME, Row)
    refused = [reason for _, reason in wrong]
    patients: list[tuple[int, Row]] = []
    observers: dict[str, list[tuple[int, Row]]] = {}
    seen: dict[tuple, int] = {}
    for line, row in rows:
        if row.observer is not None:
            keys = {("observer", row.patient_id, row.observer): "the same patient and observer as"}
        else:
            keys = {("slice", *row.selection): "the same slice as"}
            if not several:
                keys = {("patient", row.patient_id): "the same patient as"} | keys
        if twice := [(words, seen[key]) for key, words in keys.items() if key in seen]:
            refused.append(f"{FILE_NAME} line {line}: {twice[0][0]} line {twice[0][1]}")
            continue
        seen |= dict.fromkeys(keys, line)
        (patients if row.observer is None else observers.setdefault(row.patient_id, [])).append((line, row))
    known = {row.patient_id for _, row in patients}
    for patient_id in observers.keys() - known:
        for line, _ in observers[patient_id]:
            reason = "an observer's outline of a patient without a sound row of their own"
            refused.append(f"{FILE_NAME} line {line}: {reason}")
    patients.sort(key=lambda entry: (entry[1].patient_id, entry[0]))
    return [Choice(line, row, tuple(observers.get(row.patient_id, ()))) for line, row in patients], refused
