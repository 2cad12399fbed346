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
| `slice` | of a NIfTI volume: the slice's place along the axial axis, counted from 0 as the file stores it |
| `mask` | path from the folder, of an RTSTRUCT, DICOM-SEG, NIfTI or PNG; by default what the folder holds for it |
| `observer` | the row gives this observer's outline, in `mask`, of a patient who has a row of their own |

Spacing is no column: it comes from the files or not at all.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from l3muscle.cohort.cohort import CohortError
from l3muscle.errors import reason_of

FILE_NAME = "cohort.csv"
COLUMNS = (
    "patient_id", "file", "sop_instance_uid", "series_instance_uid", "instance_number", "position_mm", "slice", "mask",
    "observer",
)  # fmt: skip
MAX_BYTES = 1 << 24


@dataclass(frozen=True)
class Row:
    """One row of `cohort.csv`; what it leaves empty is None.

    Attributes
    ----------
    line : int
        Of the file, from 1.
    patient_id : str
    file, mask : Path or None
    sop_instance_uid, series_instance_uid, observer : str or None
    instance_number, slice : int or None
    position_mm : float or None
    """

    line: int
    patient_id: str
    file: Path | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    instance_number: int | None = None
    position_mm: float | None = None
    slice: int | None = None
    mask: Path | None = None
    observer: str | None = None

    @property
    def where(self) -> str:
        """The row as messages call it."""
        return f"{FILE_NAME} line {self.line}"


@dataclass(frozen=True)
class Choice:
    """A patient's row, and the rows of the observers who outlined the same slice."""

    row: Row
    observers: tuple[Row, ...]


def read_choices(folder: Path, *, several: bool = False) -> tuple[list[Choice], list[str]]:
    """Read a folder's `cohort.csv`.

    Parameters
    ----------
    folder : Path
    several : bool
        Whether a patient may have rows of several slices. An observer's row then belongs to all of the patient's.

    Returns
    -------
    list of Choice
        Sound ones, in the order of patient IDs.
    list of str
        Why other rows are refused.

    Paths in them are absolute.

    Raises
    ------
    CohortError
        If the table as a whole cannot be read, or has columns that it should not have.
    """
    refused: list[str] = []
    patients: dict[tuple[str, int], Row] = {}
    observers: dict[str, dict[str, Row]] = {}
    slices: dict[tuple, Row] = {}
    for line, cells in _table(folder / FILE_NAME):
        try:
            row = _row(folder, line, cells)
            if row.observer is None:
                _selects_one(row)
                # Where several are allowed, each row is a case of its own.
                case = (row.patient_id, row.line if several else 0)
                _first(row, patients, case, "the same patient as")
                key = (row.file, row.sop_instance_uid, row.series_instance_uid, row.instance_number, row.position_mm)
                _first(row, slices, (*key, row.slice), "the same slice as")
                patients[case] = slices[(*key, row.slice)] = row
            else:
                if row.mask is None:
                    raise CohortError(f"{row.where}: an observer's row needs a mask")
                drawn = observers.setdefault(row.patient_id, {})
                _first(row, drawn, row.observer, "the same patient and observer as")
                drawn[row.observer] = row
        except CohortError as error:
            refused.append(str(error))
    for patient_id in observers.keys() - {patient_id for patient_id, _ in patients}:
        refused += [
            f"{row.where}: an observer's outline of a patient without a sound row of their own"
            for row in observers[patient_id].values()
        ]
    choices = [
        Choice(row, tuple(observers.get(patient_id, {}).values())) for (patient_id, _), row in sorted(patients.items())
    ]
    return choices, refused


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and non-empty cells of each row."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CohortError(f"{FILE_NAME}: larger than {MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CohortError(f"{FILE_NAME}: not a text in UTF-8") from None
    except OSError as error:
        raise CohortError(f"{FILE_NAME}: cannot be read ({reason_of(error)})") from None
    lines = text.splitlines()
    first = lines[0] if lines else ""
    # What spreadsheets write in countries with a decimal comma.
    reader = csv.reader(lines, delimiter=";" if ";" in first and "," not in first else ",", strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        unknown = [name for name in names if name not in COLUMNS]
        if unknown:
            raise CohortError(f"{FILE_NAME} line 1: there is no column {unknown[0]!r}; known: {', '.join(COLUMNS)}")
        if "patient_id" not in names or len(set(names)) < len(names):
            raise CohortError(f"{FILE_NAME} line 1: needs a column 'patient_id', and each column once")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(names):
                raise CohortError(f"{FILE_NAME} line {reader.line_num}: has more cells than there are columns")
            yield (
                reader.line_num,
                {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()},
            )
    except csv.Error as error:
        raise CohortError(f"{FILE_NAME} line {reader.line_num}: {error}") from None


def _row(folder: Path, line: int, cells: dict[str, str]) -> Row:
    where = f"{FILE_NAME} line {line}"
    if "patient_id" not in cells:
        raise CohortError(f"{where}: patient_id is empty")
    values: dict[str, object] = dict(cells)
    for column, kind in (("instance_number", int), ("slice", int), ("position_mm", float)):
        if column in cells:
            try:
                values[column] = kind(cells[column])
            except ValueError:
                raise CohortError(f"{where}: {column} is {cells[column]!r}, not a number") from None
    for column in ("file", "mask"):
        if column in cells:
            path = Path(os.path.abspath(folder / cells[column].replace("\\", "/")))
            if not path.is_relative_to(os.path.abspath(folder)):
                raise CohortError(f"{where}: {column} {cells[column]!r} lies outside the folder")
            # Unlike the method of a path, this one takes names that no file system takes.
            if not os.path.isfile(path):
                raise CohortError(f"{where}: there is no file {cells[column]!r}")
            values[column] = path
    return Row(line=line, **values)


def _selects_one(row: Row) -> None:
    """Exactly one way to the slice."""
    ways = [row.file, row.sop_instance_uid, row.series_instance_uid]
    in_series = [row.instance_number, row.position_mm]
    if sum(way is not None for way in ways) != 1:
        raise CohortError(f"{row.where}: needs one of file, sop_instance_uid and series_instance_uid")
    if sum(place is not None for place in in_series) != (row.series_instance_uid is not None):
        raise CohortError(
            f"{row.where}: one of instance_number and position_mm goes with series_instance_uid, and only with it"
        )


def _first(row: Row, earlier: dict, key: object, words: str) -> None:
    if key in earlier:
        raise CohortError(f"{row.where}: {words} line {earlier[key].line}")
