"""A cohort from SAROS, a public set of 900 CT scans with body regions outlined on every fifth slice or so.

Koitka et al. 2024, "SAROS: A dataset for whole-body region and organ segmentation in CT imaging", Scientific Data 11.
A case is a folder, `case_000` to `case_899`, with the scan in `image.nii.gz` and the regions in `body-regions.nii.gz`
on the same voxels: 2 is muscle, and 255 marks what nobody annotated. Which slice is L3 comes from one of

- `levels.csv` at the top: the columns `case`, and `slice` (place along the axial axis, from 0, as the file stores it)
  or `z_mm` (third coordinate of the affine's space, which is also DICOM's);
- `vertebrae_L3.nii.gz` in the case's folder or in its folder `segmentations`, as TotalSegmentator writes it from
  `image.nii.gz`. The level is then the median plane of its voxels, most of which belong to the vertebra's body.

The cohort's slice is the annotated one nearest that level. With the data set's table `Segmentation-Info….csv` at the
top, only the first usable case of a patient counts: 18 of the 900 scans are a patient's second. The table's split is
not used, as the study makes its own.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l3muscle.cohort import manifest
from l3muscle.cohort.cohort import CohortError, CohortReport, Patient
from l3muscle.cohort.nifti import Volume
from l3muscle.errors import L3MuscleError, reason_of

IMAGE, REGIONS = "image.nii.gz", "body-regions.nii.gz"
LEVEL_MAPS = ("vertebrae_L3.nii.gz", "segmentations/vertebrae_L3.nii.gz")
LEVELS = "levels.csv"
INFO_NAMES = ("segmentation-info", "info.csv")  # beginnings; the release's file name ends with its date
MUSCLE, NOT_ANNOTATED = 2, 255
REGION_LABELS = (*range(14), NOT_ANNOTATED)
# Half a vertebra with its disc. Annotated slices lie 25 mm apart, so one within 12.5 mm is the rule.
MAX_DISTANCE_MM = 20.0
VERTEBRA_MM = (10.0, 90.0)  # height of anything that may pass for one lumbar vertebra with its processes
AIR_HU = -500  # there is no muscle in what is thinner
MAX_TABLE_BYTES = 1 << 24


@dataclass(frozen=True)
class _Level:
    """Where a row of `levels.csv` puts L3: at a place in the file, or at a coordinate."""

    place: int | None = None
    z_mm: float | None = None


def is_saros(folder: Path) -> bool:
    """Whether a folder has the published layout; a `cohort.csv` at the top asks for other rules."""
    return not (folder / manifest.FILE_NAME).exists() and any(folder.glob(f"*/{REGIONS}"))


def check_saros(folder: Path) -> CohortReport:
    """Look at a folder of SAROS cases; what is wrong with one becomes a line of the report and never an error.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    CohortReport
        Patients carry the names of their cases, in order.
    """
    report = CohortReport(folder)
    cases = sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_case(path))
    try:
        levels = _levels(folder, set(cases), report.refused)
        people = _people(folder)
    except CohortError as error:
        report.refused.append(str(error))
        return report
    used: dict[tuple[str, ...], str] = {}
    for case in cases:
        try:
            if people is not None and case not in people:
                raise CohortError(f"{case}: the table of the data set does not list it, so its patient is not known")
            person = (case,) if people is None else people[case]
            if person in used:
                raise CohortError(f"{case}: another scan of the patient of {used[person]}")
            level = levels.get(case)
            if isinstance(level, CohortError):
                raise level
            report.usable.append(_patient(folder, case, level))
            used[person] = case
        except L3MuscleError as error:
            report.refused.append(str(error))
    report.refuse_odd_sizes()
    return report


def _is_case(path: Path) -> bool:
    return path.name.startswith("case_") or (path / REGIONS).is_file()


def _patient(folder: Path, case: str, level: _Level | None) -> Patient:
    image, regions = (_volume(folder, f"{case}/{name}") for name in (IMAGE, REGIONS))
    _same_voxels(image, regions)
    z_mm = _vertebra(folder, case, image) if level is None else _given(level, image)
    plane = _nearest_annotated(regions, z_mm)
    hu, labels = image.hu(plane), regions.values(plane)
    where = f"{regions.name}: slice {regions.in_order_of_file(plane)}"
    if strange := sorted(set(np.unique(labels)) - set(REGION_LABELS)):
        raise CohortError(f"{where} holds the label {strange[0]:g}; the data set's are 0 to 13, and 255")
    if ((labels == NOT_ANNOTATED) & (hu > AIR_HU)).any():
        raise CohortError(f"{where} is annotated only in part")
    muscle = labels == MUSCLE
    if not muscle.any():
        raise CohortError(f"{where} holds no muscle (label {MUSCLE})")
    return Patient(case, image.name, hu, image.grid(plane).spacing, muscle)


def _volume(folder: Path, name: str) -> Volume:
    if not (folder / name).is_file():
        raise CohortError(f"{name}: there is no such file")
    return Volume(folder / name, name)


def _same_voxels(image: Volume, other: Volume) -> None:
    if other.planes != image.planes:
        raise CohortError(f"{other.name}: has {other.planes} slices where the image has {image.planes}")
    for plane in (0, image.planes - 1):
        if difference := image.grid(plane).mismatch(other.grid(plane)):
            raise CohortError(f"{other.name}: {difference}")


def _heights(volume: Volume) -> np.ndarray:
    """Third coordinate of each plane, mm."""
    return np.array([volume.grid(plane).position[2] for plane in range(volume.planes)])


def _vertebra(folder: Path, case: str, image: Volume) -> float:
    """The level of a vertebra's map, mm."""
    name = next((f"{case}/{name}" for name in LEVEL_MAPS if (folder / case / name).is_file()), None)
    if name is None:
        raise CohortError(f"{case}: neither {LEVELS} nor a {LEVEL_MAPS[0]} says where L3 is")
    vertebra = _volume(folder, name)
    _same_voxels(image, vertebra)
    zeros, ones = vertebra.counts(0, 1)
    if (zeros + ones != np.prod(vertebra.shape)).any():
        raise CohortError(f"{name}: not a map of one vertebra; it holds other values than 0 and 1")
    found = np.flatnonzero(ones)
    if not len(found):
        raise CohortError(f"{name}: there is no L3 in it")
    if found[0] == 0 or found[-1] == vertebra.planes - 1:
        raise CohortError(f"{name}: L3 touches the end of the scan and may be cut off")
    heights = _heights(vertebra)
    thickness = abs(heights[1] - heights[0])
    tall = thickness * (found[-1] - found[0] + 1)
    if not VERTEBRA_MM[0] - 0.01 <= tall <= VERTEBRA_MM[1] + 0.01:
        raise CohortError(f"{name}: what it shows is {tall:.0f} mm tall, which no single vertebra is")
    return float(heights[np.searchsorted(np.cumsum(ones), ones.sum() / 2)])


def _given(level: _Level, image: Volume) -> float:
    """The level of a row of `levels.csv`, mm."""
    heights = _heights(image)
    if level.place is not None:
        if not 0 <= level.place < image.planes:
            raise CohortError(f"{image.name}: {LEVELS} asks for slice {level.place} of {image.planes}, from 0")
        return float(heights[image.in_order_of_file(level.place)])
    half = abs(heights[-1] - heights[0]) / max(image.planes - 1, 1) / 2
    if not heights.min() - half <= level.z_mm <= heights.max() + half:
        raise CohortError(f"{image.name}: {LEVELS} puts L3 at {level.z_mm:g} mm, outside the scan")
    return level.z_mm


def _nearest_annotated(regions: Volume, z_mm: float) -> int:
    (blank,) = regions.counts(NOT_ANNOTATED)
    annotated = np.flatnonzero(blank < np.prod(regions.shape))
    if not len(annotated):
        raise CohortError(f"{regions.name}: no slice is annotated")
    # To a micrometre, so that of two planes equally far the lower one is taken whatever the affine's rounding.
    distances = np.abs(_heights(regions)[annotated] - z_mm).round(3)
    nearest = int(np.argmin(distances))
    if distances[nearest] > MAX_DISTANCE_MM:
        raise CohortError(
            f"{regions.name}: the annotated slice nearest L3 lies {distances[nearest]:.0f} mm from its middle"
        )
    return int(annotated[nearest])


def _levels(folder: Path, cases: set[str], refused: list[str]) -> dict[str, _Level | CohortError]:
    """The rows of `levels.csv`, if there is one; what is wrong with a case's row stands in the row's place."""
    if not (folder / LEVELS).is_file():
        return {}
    levels: dict[str, _Level | CohortError] = {}
    for line, row in _rows(folder / LEVELS, "case"):
        where, case = f"{LEVELS} line {line}", row["case"]
        if case not in cases:
            refused.append(f"{where}: there is no case {case!r}")
        elif case in levels:
            levels[case] = CohortError(f"{where}: a second row for {case}")
        else:
            try:
                levels[case] = _level(where, row.get("slice", ""), row.get("z_mm", ""))
            except CohortError as error:
                levels[case] = error
    return levels


def _level(where: str, place: str, z_mm: str) -> _Level:
    if bool(place) == bool(z_mm):
        raise CohortError(f"{where}: needs either slice or z_mm")
    try:
        return _Level(place=int(place)) if place else _Level(z_mm=float(z_mm))
    except ValueError:
        words = f"slice is {place!r}, not a whole number" if place else f"z_mm is {z_mm!r}, not a number"
        raise CohortError(f"{where}: {words}") from None


def _people(folder: Path) -> dict[str, tuple[str, ...]] | None:
    """Collection and patient of each case from the data set's table; None where the table does not lie there."""
    tables = [
        path
        for path in sorted(folder.glob("*.[cC][sS][vV]"))
        if path.name.lower().replace(" ", "-").replace("_", "-").startswith(INFO_NAMES)
    ]
    if not tables:
        return None
    if len(tables) > 1:
        raise CohortError(f"{tables[1].name}: a second table of the data set beside {tables[0].name}")
    people: dict[str, tuple[str, ...]] = {}
    columns = ("id", "tcia_collection", "tcia_case_id")
    for line, row in _rows(tables[0], *columns):
        case, *person = (row[column] for column in columns)
        if not case or not all(person):
            raise CohortError(f"{tables[0].name} line {line}: one of {', '.join(columns)} is empty")
        if people.setdefault(case, tuple(person)) != tuple(person):
            raise CohortError(f"{tables[0].name} line {line}: a second patient for {case}")
    return people


def _rows(path: Path, *required: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of each row of a table with a header, in UTF-8, parted by commas or semicolons.

    Raises
    ------
    CohortError
        If it is no such table, or lacks one of the columns `required`.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise CohortError(f"{path.name}: larger than {MAX_TABLE_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise CohortError(f"{path.name}: not a text in UTF-8") from None
    except OSError as error:
        raise CohortError(f"{path.name}: cannot be read ({reason_of(error)})") from None
    first = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=";" if ";" in first and "," not in first else ",", strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := [column for column in required if column not in names]:
            raise CohortError(f"{path.name} line 1: there is no column {missing[0]!r}")
        for cells in reader:
            if any(cell.strip() for cell in cells):
                padded = [cell.strip() for cell in cells] + [""] * len(names)
                yield reader.line_num, dict(zip(names, padded, strict=False))
    except csv.Error as error:
        raise CohortError(f"{path.name} line {reader.line_num}: {error}") from None
