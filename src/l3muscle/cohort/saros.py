"""A cohort from SAROS, a public set of 900 CT scans with body regions outlined on every fifth slice or so.

Koitka et al. 2024, "SAROS: A dataset for whole-body region and organ segmentation in CT imaging", Scientific Data 11.
A case is a folder, `case_000` to `case_899`, with the scan in `image.nii.gz` and the regions in `body-regions.nii.gz`
on the same voxels: 2 is muscle, and 255 marks what nobody annotated. Which slice is L3 comes from one of

- `levels.csv` at the top: the columns `case`, and `slice` (number along the axial axis, from 0, as the file stores it)
  or `z_mm` (third coordinate of the affine's space, which is also DICOM's);
- `vertebrae_L3.nii.gz` in the case's folder or in its folder `segmentations`, as TotalSegmentator writes it from
  `image.nii.gz`. The level is then the median plane of its voxels, most of which belong to the vertebra's body.

The cohort's slice is the annotated one nearest that level. With the data set's table `Segmentation-Info….csv` at the
top, only the first usable case of a patient counts: 18 of the 900 scans are a patient's second. The table's split is
not used, as the study makes its own.
"""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, FiniteFloat, model_validator

from l3muscle.cohort import manifest
from l3muscle.cohort.cohort import CohortError, CohortReport, Patient
from l3muscle.cohort.files import FileError, read_table
from l3muscle.cohort.nifti import Volume
from l3muscle.errors import L3MuscleError

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


class Level(BaseModel):
    """A row of `levels.csv`: at which slice of the file, or at which height, L3 is."""

    case: str
    slice: int | None = None
    z_mm: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Level":
        if (self.slice is None) == (self.z_mm is None):
            raise ValueError("needs either slice or z_mm")
        return self


class Case(BaseModel):
    """A row of the data set's table: whose scan a case is."""

    id: str
    tcia_collection: str
    tcia_case_id: str


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
        levels, wrong = _levels(folder, cases, report.refused)
        people = _people(folder)
    except L3MuscleError as error:
        report.refused.append(str(error))
        return report
    used: dict[tuple[str, str], str] = {}
    for case in cases:
        try:
            if people is not None and case not in people:
                raise CohortError(f"{case}: the table of the data set does not list it, so its patient is not known")
            person = (case, "") if people is None else people[case]
            if person in used:
                raise CohortError(f"{case}: another scan of the patient of {used[person]}")
            if case in wrong:
                raise CohortError(wrong[case])
            report.usable.append(_patient(folder, case, levels.get(case)))
            used[person] = case
        except L3MuscleError as error:
            report.refused.append(str(error))
    return report


def _is_case(path: Path) -> bool:
    return path.name.startswith("case_") or (path / REGIONS).is_file()


def _patient(folder: Path, case: str, level: Level | None) -> Patient:
    image, regions = (_volume(folder, f"{case}/{name}") for name in (IMAGE, REGIONS))
    _same_voxels(image, regions)
    z_mm = _vertebra(folder, case, image) if level is None else _given(level, image)
    index = _nearest_annotated(regions, z_mm)
    plane = image.nearest(regions.grid(index))
    hu, labels = image.hu(plane), regions.values(index)
    where = f"{regions.name}: slice {index}"
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
    """Check that two volumes have the same planes, in whichever order."""
    if other.planes != image.planes:
        raise CohortError(f"{other.name}: has {other.planes} slices where the image has {image.planes}")
    for index in (0, image.planes - 1):
        grid = other.grid(index)
        try:
            image.grid(image.nearest(grid)).align(np.ones(grid.shape, bool), grid)
            if grid.shape != image.shape:
                raise L3MuscleError(f"has {grid.shape} pixels where the image has {image.shape}")
        except L3MuscleError as error:
            raise CohortError(f"{other.name}: {error}") from None


def _vertebra(folder: Path, case: str, image: Volume) -> float:
    """The level of a vertebra's map, mm."""
    name = next((f"{case}/{name}" for name in LEVEL_MAPS if (folder / case / name).is_file()), None)
    if name is None:
        raise CohortError(f"{case}: neither {LEVELS} nor a {LEVEL_MAPS[0]} says where L3 is")
    vertebra = _volume(folder, name)
    _same_voxels(image, vertebra)
    voxels = vertebra.planes_first
    ones = np.count_nonzero(voxels == 1, axis=(1, 2))
    if ones.sum() != np.count_nonzero(voxels):
        raise CohortError(f"{name}: not a map of one vertebra; it holds other values than 0 and 1")
    marked = np.flatnonzero(ones)
    if not len(marked):
        raise CohortError(f"{name}: there is no L3 in it")
    if marked[0] == 0 or marked[-1] == vertebra.planes - 1:
        raise CohortError(f"{name}: L3 touches the end of the scan and may be cut off")
    heights = vertebra.locations_mm
    tall = abs(heights[1] - heights[0]) * (marked[-1] - marked[0] + 1)
    if not VERTEBRA_MM[0] - 0.01 <= tall <= VERTEBRA_MM[1] + 0.01:
        raise CohortError(f"{name}: what it shows is {tall:.0f} mm tall, which no single vertebra is")
    upwards = np.argsort(heights)
    return float(heights[upwards][np.searchsorted(np.cumsum(ones[upwards]), ones.sum() / 2)])


def _given(level: Level, image: Volume) -> float:
    """The level of a row of `levels.csv`, mm."""
    heights = image.locations_mm
    if level.slice is not None:
        if not 0 <= level.slice < image.planes:
            raise CohortError(f"{image.name}: {LEVELS} asks for slice {level.slice} of {image.planes}, from 0")
        return float(heights[level.slice])
    half = np.ptp(heights) / max(image.planes - 1, 1) / 2
    if not heights.min() - half <= level.z_mm <= heights.max() + half:
        raise CohortError(f"{image.name}: {LEVELS} puts L3 at {level.z_mm:g} mm, outside the scan")
    return level.z_mm


def _nearest_annotated(regions: Volume, z_mm: float) -> int:
    annotated = np.flatnonzero((regions.planes_first != NOT_ANNOTATED).any(axis=(1, 2)))
    if not len(annotated):
        raise CohortError(f"{regions.name}: no slice is annotated")
    # To a micrometre, so that of two planes equally far the lower one is taken whatever the affine's rounding.
    heights = regions.locations_mm[annotated]
    distances = np.abs(heights - z_mm).round(3)
    nearest = np.lexsort((heights, distances))[0]
    if distances[nearest] > MAX_DISTANCE_MM:
        raise CohortError(
            f"{regions.name}: the annotated slice nearest L3 lies {distances[nearest]:.0f} mm from its middle"
        )
    return int(annotated[nearest])


def _levels(folder: Path, cases: list[str], refused: list[str]) -> tuple[dict[str, Level], dict[str, str]]:
    """The rows of `levels.csv`, if there is one, by case; and what is wrong with other cases' rows."""
    levels: dict[str, Level] = {}
    if not (folder / LEVELS).is_file():
        return levels, {}
    rows, mistakes = read_table(folder / LEVELS, Level)
    wrong = {cells.get("case", ""): reason for cells, reason in mistakes}
    for line, row in rows:
        if row.case in levels:
            wrong[row.case] = f"{LEVELS} line {line}: a second row for {row.case}"
        elif row.case not in cases:
            wrong[row.case] = f"{LEVELS} line {line}: there is no case {row.case!r}"
        levels[row.case] = row
    refused += [reason for case, reason in wrong.items() if case not in cases]
    return levels, wrong


def _people(folder: Path) -> dict[str, tuple[str, str]] | None:
    """Collection and patient of each case from the data set's table; None where the table does not lie there."""
    tables = [
        path
        for path in sorted(folder.glob("*.[cC][sS][vV]"))
        if path.name.lower().replace(" ", "-").replace("_", "-").startswith(INFO_NAMES)
    ]
    if not tables:
        return None
    if len(tables) > 1:
        raise FileError(f"{tables[1].name}: a second table of the data set beside {tables[0].name}")
    rows, mistakes = read_table(tables[0], Case)
    if mistakes:
        raise FileError(mistakes[0][1])
    people: dict[str, tuple[str, str]] = {}
    for line, row in rows:
        person = (row.tcia_collection, row.tcia_case_id)
        if people.setdefault(row.id, person) != person:
            raise FileError(f"{tables[0].name} line {line}: a second patient for {row.id}")
    return people
