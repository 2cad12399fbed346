"""Phantom patients: their slices with the expert's mask, and cohorts of them written as DICOM.

Not patients: no number from them says anything about people. They exist so that the whole study can be run, checked
and taught without private data.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import replaced
from l3muscle.phantom import PHANTOM_VERSION, anatomy
from l3muscle.phantom.body import Body
from l3muscle.phantom.canvas import AIR_HU, Canvas
from l3muscle.phantom.observers import assign_observers, outline_as_observer
from l3muscle.phantom.people import Draw, PhantomPatient, draw_patient
from l3muscle.phantom.scanner import draw_couch, draw_scanner, scan

FIELD_OF_VIEW_MM = (500.0, 600.0, 700.0)  # reconstruction diameters usual for the CT of a PET-CT
ABOUT = "phantom.json"
CHUNK = 2  # patients that a process is given at a time


class PhantomError(L3MuscleError):
    """A phantom cohort that cannot be written."""


@dataclass(frozen=True)
class PhantomSlice:
    """The slice of one phantom patient.

    Attributes
    ----------
    hu : ndarray, (size, size) int16
    mask : ndarray, (size, size) bool
        All skeletal muscle of the trunk: the expert's outline.
    compartments : ndarray, (size, size) uint8
        0, or 1 + index into `l3muscle.phantom.body.COMPARTMENTS`.
    spacing : (float, float)
        mm.
    patient : PhantomPatient
        What was drawn.
    """

    hu: np.ndarray
    mask: np.ndarray
    compartments: np.ndarray
    spacing: tuple[float, float]
    patient: PhantomPatient


# More threads only wait for one another over matrices this small, and their number would change the last digits.
@threadpool_limits.wrap(limits=1, user_api="blas")
def phantom_slice(seed: int, *, size: int = 512, diversity: float = 0.0) -> PhantomSlice:
    """Draw one patient at L3.

    Parameters
    ----------
    seed : int
        Decides everything; the same seed gives the same bits (with the same versions of numpy and scipy on the same
        kind of processor), however many cores there are.
    size : int
        Pixels a side.
    diversity : float
        From 0, a clinic's patients and scanners, to 1, domain randomisation of both.
    """
    rng = np.random.default_rng(np.random.SeedSequence([0x4C33, seed]))
    draw = Draw(rng, diversity)
    patient = draw_patient(rng, diversity)
    widest = 2 * (patient.wall_width + patient.fat_side)
    fields = [fov for fov in FIELD_OF_VIEW_MM if fov > widest + 20] or [FIELD_OF_VIEW_MM[-1]]
    pixel = draw.mix(float(rng.choice(fields)), rng.uniform(max(300, 0.97 * widest), 700)) / size
    scoliotic = draw.chance(0.1, 0.3)
    stray = 1 + diversity
    half_width = patient.wall_width + patient.fat_side + (125 if patient.arms else 22)
    front, back = patient.wall_front + patient.fat_front + 22, 80 * patient.stature + patient.fat_back + 22
    canvas = Canvas(
        rng,
        size,
        pixel,
        extent=(half_width, front, back),
        shift=(rng.normal(0, 9 * stray), rng.normal(12, 12)),
        turn=rng.normal(0, stray * np.deg2rad(6 if scoliotic else 2.2)),
        bend=stray * (rng.uniform(3, 4.5) if scoliotic else rng.uniform(1.5, 3.0)),
    )
    anatomy.draw(Body(canvas, patient))
    tissue = np.full((size, size), AIR_HU, dtype=np.float32)
    tissue[canvas.box] = canvas.hu
    draw_couch(tissue, pixel, rng)
    compartments = np.zeros((size, size), dtype=np.uint8)
    compartments[canvas.box] = canvas.label
    image = scan(tissue, pixel, draw_scanner(rng, diversity), rng)
    hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return PhantomSlice(hu, compartments > 0, compartments, (pixel, pixel), patient)


def write_patient(
    index: int, *, folder: Path, seed: int, size: int, diversity: float, observers: Mapping[int, tuple[int, ...]]
) -> dict[str, object]:
    """Draw one patient of a cohort, `PHANTOM-0001` ..., and write it into a folder of its own; returns who it is.

    Parameters
    ----------
    index : int
        In the cohort, from 0.
    folder : Path
        Of the cohort.
    seed, size, diversity
        Of the cohort, as `write_phantom` takes them.
    observers : mapping of int to tuple of int
        Who outlines which patients beside the expert, from `observers_of`.
    """
    phantom = phantom_slice(seed * 1_000_003 + index, size=size, diversity=diversity)
    name = f"PHANTOM-{index + 1:04d}"
    own = folder / name
    own.mkdir()
    write_ct_slice(own / "ct.dcm", phantom.hu, phantom.spacing, patient_id=name)
    outlines = {"expert": phantom.mask}
    shown = phantom.compartments, phantom.hu, phantom.spacing
    for observer in observers.get(index, ()):
        rng = np.random.default_rng(np.random.SeedSequence([0x0B5, seed, index, observer]))
        outlines[f"observer {observer + 1:02d}"] = outline_as_observer(*shown, observer=observer, rng=rng)
    write_rtstruct(own / "rtstruct.dcm", outlines, read_ct_slice(own / "ct.dcm"))
    return {"patient_id": name, **asdict(phantom.patient)}


def observers_of(patients: int, test_patients: int) -> dict[int, tuple[int, ...]]:
    """Observers of the patients at the end of a cohort, who are its test set, by the patients' indices."""
    return {patients - test_patients + image: group for image, group in assign_observers(test_patients).items()}


def write_phantom(
    folder: Path,
    *,
    patients: int = 204,
    seed: int = 0,
    size: int = 512,
    diversity: float = 0.0,
    test_patients: int = 37,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a phantom cohort as DICOM: one CT slice and one RTSTRUCT a patient.

    The last `test_patients` are outlined by ten simulated observers as well (Section 2.4). Beside the images,
    `phantom.json` keeps the settings and the parameters of every patient.

    Parameters
    ----------
    folder : Path
        Must not exist; appears when it is complete.
    patients, test_patients : int
    seed : int
    size : int
        Pixels a side.
    diversity : float
        From 0 to 1; see `phantom_slice`.
    workers : int
        Processes.
    progress : callable, optional
        Called with the number of patients done.

    Raises
    ------
    PhantomError
        If the folder exists or cannot be written, there are more test patients than patients, or the diversity is
        not between 0 and 1.
    """
    if not 0 <= diversity <= 1:
        raise PhantomError(f"the diversity of a phantom lies between 0 and 1, and is not {diversity:g}")
    if test_patients > patients:
        raise PhantomError(f"{test_patients} test patients cannot be chosen from {patients} patients")
    if folder.exists():
        raise PhantomError(f"{folder} exists already")
    settings = {"seed": seed, "size": size, "diversity": diversity}
    try:
        with replaced(folder) as draft:
            draft.mkdir()
            write = partial(write_patient, folder=draft, observers=observers_of(patients, test_patients), **settings)
            people = []
            for person in _mapped(write, patients, workers):
                people.append(person)
                if progress is not None:
                    progress(len(people))
            about = {"version": PHANTOM_VERSION, "patients": patients, "test_patients": test_patients, **settings}
            (draft / ABOUT).write_text(json.dumps({**about, "people": people}, indent=1), encoding="utf-8")
    except OSError as error:
        raise PhantomError(f"cannot write {folder}: {reason_of(error)}") from None


def _mapped(write: Callable[[int], dict[str, object]], patients: int, workers: int) -> Iterator[dict[str, object]]:
    if workers == 1:
        yield from map(write, range(patients))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, range(patients), chunksize=CHUNK)


def people_of(folder: Path) -> dict[str, dict[str, object]]:
    """Parameters of every patient of a phantom cohort, by patient ID; empty for any other cohort."""
    try:
        people = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["people"]
        return {person["patient_id"]: person for person in people}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
