"""A phantom of the abdomen at L3: procedural patients, drawn from parameters, with the expert's mask.

Not patients: no number from them says anything about people. They exist so that the whole study can be run, checked
and taught without private data. `draw_patient` says who, `l3muscle.phantom.anatomy` draws them, `_scan` images them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy import fft, ndimage
from threadpoolctl import threadpool_limits

from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.drafts import draft_of, remove, remove_abandoned
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.phantom.anatomy import COMPARTMENTS, Patient, Torso
from l3muscle.phantom.canvas import AIR_HU, Canvas, smooth_field
from l3muscle.phantom.observers import assign_observers, outline_as_observer

FIELD_OF_VIEW_MM = (500.0, 600.0, 700.0)  # reconstruction diameters usual for the CT of a PET-CT
MUSCLE_COMPARTMENTS = COMPARTMENTS
Setting = Literal["realistic", "randomised"]
ABOUT = "phantom.json"
GENERATOR_VERSION = 3  # goes up when the same seed no longer gives the same bits
CHUNK = 2  # patients that a process is given at a time


class PhantomError(L3MuscleError):
    """A phantom cohort that cannot be written."""


@dataclass(frozen=True)
class PhantomSlice:
    """One procedural patient.

    Attributes
    ----------
    hu : ndarray, (size, size) int16
    mask : ndarray, (size, size) bool
        All skeletal muscle of the trunk: the expert's outline.
    compartments : ndarray, (size, size) uint8
        0, or 1 + index into `MUSCLE_COMPARTMENTS`.
    spacing : (float, float)
        mm.
    patient : Patient
        What was drawn.
    """

    hu: np.ndarray
    mask: np.ndarray
    compartments: np.ndarray
    spacing: tuple[float, float]
    patient: Patient


@dataclass(frozen=True)
class Scanner:
    """How a patient is imaged (HU and mm)."""

    blur: float  # standard deviation of the point spread
    noise: float
    cut: float  # frequency at which the kernel rolls the noise off, 1/mm
    stretch: float  # of the noise, across against along
    sharpening: float  # overshoot at edges, as sharp kernels have it
    gain: float  # of the HU scale, about water
    offset: float  # of soft tissue
    shading: float  # slow variation over the body
    coarse: float  # pixel of an image that was resampled once before; 0 for none


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient of an oesophago-gastric cancer clinic: mostly men, mostly over sixty, cachectic to obese.

    Muscle area and density are set so that the cohort's means lie where L3 reference values do (van der Werf et al.
    2018: fifth percentiles of healthy adults 134 and 89 cm^2, 29 and 22 HU, for men and women, both falling with age
    and density falling with body mass).
    """
    male = bool(rng.random() < 0.7)
    age = float(np.clip(rng.normal(66, 9.5), 30, 90))
    obesity = float(np.clip(rng.normal(0.45, 0.27), 0.0, 1.3))
    stature = float(rng.normal(1.0 if male else 0.915, 0.035))
    muscularity = (1.0 if male else 0.89) * (1 - 0.005 * (age - 66) + 0.20 * (obesity - 0.45)) * rng.normal(1, 0.11)
    if rng.random() < 0.12:
        muscularity *= rng.uniform(0.7, 0.88)  # cachexia
    visceral = np.clip(obesity + rng.normal(0.08 if male else -0.08, 0.15), 0, 1.4)
    # Men store fat inside the wall, women outside it.
    under_skin = (1.0 if male else 1.4) * obesity
    infiltration = float(np.clip(rng.gamma(2.2, 0.08) + 0.004 * (age - 66) + 0.12 * (obesity - 0.45), 0.02, 0.7))
    hernia = bool(rng.random() < 0.03)
    return Patient(
        male=male,
        age=age,
        obesity=obesity,
        stature=stature,
        muscularity=float(np.clip(muscularity, 0.5, 1.45)),
        wall_width=float((rng.normal(131, 5) + 27 * visceral) * stature),
        wall_front=float((rng.normal(72, 6) + 58 * visceral) * stature),
        fat_front=float(4 + under_skin * rng.uniform(18, 42)),
        fat_side=float(4 + under_skin * rng.uniform(16, 40)),
        fat_back=float(5 + under_skin * rng.uniform(18, 46)),
        muscle_hu=float(np.clip(rng.normal(58, 6.5) - 0.25 * (age - 66) - 8 * (obesity - 0.45), 24, 74)),
        fat_hu=float(rng.normal(-103, 7)),
        infiltration=infiltration,
        planes=float(rng.gamma(3, 0.3) + 1.5 * infiltration),
        contrast=float(rng.random() < 0.45) * float(rng.uniform(0.4, 1.0)),
        ascites=bool(rng.random() < 0.04),
        oedema=float(rng.random() ** 4),
        diastasis=float(rng.uniform(12, 30)) if hernia else float(rng.random() < 0.15) * float(rng.uniform(8, 40)),
        stoma=bool(rng.random() < 0.02),
        arms=bool(rng.random() < 0.08),
        screws=bool(rng.random() < 0.015),
        hernia=hernia,
        liver=bool(rng.random() < 0.4),
        spleen=bool(rng.random() < 0.08),
        masses=int(rng.random() < 0.08),
        stomach=bool(rng.random() < 0.12),
        ribs=int(rng.choice([0, 1, 2], p=[0.72, 0.22, 0.06])),
        latissimus=float(rng.random() < 0.5) * float(rng.uniform(1.5, 5)),
        lamina=bool(rng.random() < 0.85),
        psoas=float(np.clip(rng.normal(1, 0.2), 0.45, 1.6)),
        quadratus=float(np.clip(rng.normal(1, 0.22), 0.35, 1.6)),
        erector=float(np.clip(rng.normal(1, 0.1), 0.7, 1.4)),
        wall=float(np.clip(rng.normal(1, 0.12), 0.6, 1.45)),
    )


def draw_randomised_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient from wider than life, for a network that has to get along with scans it has never seen.

    Domain randomisation after SynthSeg (Billot et al. 2023): what differs between real scans is drawn from ranges that
    include them all, whether or not a single draw is plausible, so that only what is true of every scan can be learned.
    """
    usual = draw_patient(rng)
    uniform = rng.uniform
    obesity = float(uniform(0, 1.3))
    stature = float(uniform(0.82, 1.1))
    visceral = obesity + rng.normal(0, 0.25)
    infiltration = float(uniform(0.02, 0.75) ** 1.5)
    hernia = bool(rng.random() < 0.06)
    return replace(
        usual,
        obesity=obesity,
        stature=stature,
        muscularity=float(uniform(0.5, 1.5)),
        wall_width=float((rng.normal(128, 10) + 27 * visceral) * stature),
        wall_front=float(max(rng.normal(74, 12) + 52 * visceral, 48) * stature),
        fat_front=float(3 + obesity * uniform(5, 55)),
        fat_side=float(3 + obesity * uniform(5, 55)),
        fat_back=float(4 + obesity * uniform(5, 55)),
        muscle_hu=float(uniform(8, 82)),
        fat_hu=float(uniform(-122, -82)),
        infiltration=infiltration,
        planes=float(rng.gamma(2, 0.5) + 1.5 * infiltration),
        contrast=float(rng.random() < 0.5) * float(uniform(0.2, 1.5)),
        ascites=bool(rng.random() < 0.08),
        oedema=float(rng.random() ** 2),
        diastasis=float(uniform(12, 35)) if hernia else float(rng.random() < 0.35) * float(uniform(4, 45)),
        stoma=bool(rng.random() < 0.04),
        arms=bool(rng.random() < 0.15),
        screws=bool(rng.random() < 0.03),
        hernia=hernia,
        liver=bool(rng.random() < 0.6),
        spleen=bool(rng.random() < 0.3),
        masses=int(rng.poisson(1.2)),
        stomach=bool(rng.random() < 0.35),
        ribs=int(rng.integers(0, 3)),
        latissimus=float(rng.random() < 0.6) * float(uniform(1.5, 8)),
        lamina=bool(rng.random() < 0.6),
        psoas=float(uniform(0.2, 1.5)),
        quadratus=float(uniform(0.05, 1.5)),
        erector=float(uniform(0.75, 1.45)),
        wall=float(uniform(0.55, 1.45)),
        spread=float(uniform(1, 2.2)),
        organ_spread_hu=float(uniform(5, 30)),
    )


def draw_scanner(rng: np.random.Generator, setting: Setting) -> Scanner:
    """Draw a scanner: those of a clinic's PET-CT, or any."""
    if setting == "realistic":
        return Scanner(
            blur=rng.uniform(0.45, 0.95),
            noise=rng.uniform(7, 20),
            cut=rng.uniform(0.22, 0.38),
            stretch=rng.uniform(-0.3, 0.5),
            sharpening=0.0,
            gain=1.0,
            offset=0.0,
            shading=3.0,
            coarse=0.0,
        )
    return Scanner(
        blur=rng.uniform(0.3, 1.7),
        noise=float(np.exp(rng.uniform(np.log(2), np.log(45)))),
        cut=rng.uniform(0.12, 0.6),
        stretch=rng.uniform(-0.5, 0.8),
        sharpening=float(rng.random() < 0.3) * rng.uniform(0, 0.8),
        gain=rng.uniform(0.93, 1.07),
        offset=rng.uniform(-12, 12),
        shading=rng.uniform(0, 10),
        coarse=float(rng.random() < 0.3) * rng.uniform(1, 3.2),
    )


def _couch(hu: np.ndarray, pixel: float, rng: np.random.Generator) -> None:
    """Draw the table into the air below the patient: a thin pad, and the two skins of a curved shell."""
    size = len(hu)
    axis = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    body = hu > -400
    lowest = np.flatnonzero(body.any(axis=1)).max(initial=size // 2)
    x, y = axis[None], axis[:, None]
    top = axis[min(lowest, size - 1)] + rng.uniform(2, 14) + (x / 210) ** 2 * rng.uniform(-60, -15)
    below = y - top
    # Everything under the patient's own silhouette is open to the table; beside the body it ends at the edge.
    free = ~body & (np.abs(x) < rng.uniform(190, 230)) & (y > axis[lowest] - 45)
    thickness = rng.uniform(14, 30)
    pad = np.clip(0.5 - np.abs(below + 3) / pixel + 2 / pixel, 0, 1) * free
    hu += pad * (-860 - hu)
    for depth in (0.0, thickness):
        skin = np.clip(0.5 + (1.2 - np.abs(below - depth)) / pixel, 0, 1) * free
        hu += skin * (rng.uniform(-250, 150) - hu)
    core = (below > 1.2) & (below < thickness - 1.2) & free
    hu[core] = rng.uniform(-960, -880)


def _scan(hu: np.ndarray, pixel: float, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Image the tissue map: the kernel's blur, its correlated noise, streaks, and a trace of beam hardening.

    Noise grows with the square root of the attenuation along the path, here the thickness of tissue around a place.
    """
    size = len(hu)
    shape = hu.shape
    frequency = np.hypot(fft.fftfreq(size, pixel)[:, None], fft.rfftfreq(size, pixel)[None]).astype(np.float32)
    spectrum = fft.rfft2(hu)
    soft = np.exp(-2 * (np.pi * scanner.blur * frequency) ** 2)
    soft *= 1 + scanner.sharpening * (1 - np.exp(-2 * (np.pi * 1.2 * frequency) ** 2))
    image = fft.irfft2(spectrum * soft, s=shape)
    around = fft.irfft2(fft.rfft2((hu > -500).astype(np.float32)) * np.exp(-2 * (np.pi * 35 * frequency) ** 2), s=shape)
    bone = fft.irfft2(fft.rfft2(np.clip(hu - 200, 0, 1500)) * np.exp(-2 * (np.pi * 14 * frequency) ** 2), s=shape)
    # Filtered back-projection: a ramp, rolled off by the kernel.
    colour = np.sqrt(frequency) * np.exp(-((frequency / scanner.cut) ** 2))
    direction = np.arctan2(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    stretch = 1 + scanner.stretch * np.cos(2 * direction)
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * (colour * stretch), s=shape)
    noise *= scanner.noise / noise.std()
    thickness = np.clip(around, 0, 1)
    image += noise * (0.35 + 0.75 * thickness)
    image += scanner.shading * smooth_field(rng, shape, 90 / pixel) * thickness - 0.02 * bone
    pieces, count = ndimage.label(hu > 2500)
    rows, columns = np.ogrid[:size, :size]
    for row, column in ndimage.center_of_mass(pieces > 0, pieces, range(1, count + 1)):
        # Photon starvation: rays of light and shade from each piece of metal, fading outwards.
        angle = np.arctan2(rows - row, columns - column)
        reach = np.hypot(rows - row, columns - column) * pixel
        rays = sum(np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 5, 9, 16, 25))
        image += (thickness * 45 * rays / (1 + reach / 25)).astype(np.float32)
    if scanner.coarse > pixel:
        few = round(size * pixel / scanner.coarse)
        image = ndimage.zoom(ndimage.zoom(image, few / size, order=1, grid_mode=True, mode="nearest"), size / few,
                             order=1, grid_mode=True, mode="nearest")  # fmt: skip
    return image * scanner.gain + thickness * scanner.offset


# More threads only wait for one another over matrices this small, and their number would change the last digits.
@threadpool_limits.wrap(limits=1, user_api="blas")
def phantom_slice(seed: int, *, size: int = 512, setting: Setting = "realistic") -> PhantomSlice:
    """Draw one patient at L3.

    Parameters
    ----------
    seed : int
        Decides everything; the same seed gives the same bits (with the same versions of numpy and scipy on the same
        kind of processor), however many cores there are.
    size : int
        Pixels a side.
    setting : {"realistic", "randomised"}
        A clinic's patients and scanners, or both drawn from wider than life.

    Returns
    -------
    PhantomSlice
    """
    rng = np.random.default_rng(np.random.SeedSequence([0x4C33, seed]))
    realistic = setting == "realistic"
    patient = draw_patient(rng) if realistic else draw_randomised_patient(rng)
    widest = 2 * (patient.wall_width + patient.fat_side)
    if realistic:
        fields = [fov for fov in FIELD_OF_VIEW_MM if fov > widest + 20] or [FIELD_OF_VIEW_MM[-1]]
        pixel = float(rng.choice(fields)) / size
    else:
        pixel = float(rng.uniform(max(300, 0.97 * widest), 700)) / size
    scoliotic = rng.random() < (0.1 if realistic else 0.3)
    stray = 1.0 if realistic else 2.0
    canvas = Canvas(
        rng,
        size,
        pixel,
        extent=(
            patient.wall_width + patient.fat_side + (125 if patient.arms else 22),
            patient.wall_front + patient.fat_front + 22,
            80 * patient.stature + patient.fat_back + 22,
        ),
        shift=(rng.normal(0, 9 * stray), rng.normal(12, 12)),
        turn=rng.normal(0, stray * np.deg2rad(6 if scoliotic else 2.2)),
        bend=stray * (rng.uniform(3, 4.5) if scoliotic else rng.uniform(1.5, 3.0)),
    )
    Torso(canvas, patient).draw()
    tissue = np.full((size, size), AIR_HU, dtype=np.float32)
    tissue[canvas.box] = canvas.hu
    _couch(tissue, pixel, rng)
    compartments = np.zeros((size, size), dtype=np.uint8)
    compartments[canvas.box] = canvas.label
    hu = np.clip(np.rint(_scan(tissue, pixel, draw_scanner(rng, setting), rng)), -1024, 3071).astype(np.int16)
    return PhantomSlice(
        hu=hu, mask=compartments > 0, compartments=compartments, spacing=(pixel, pixel), patient=patient
    )


def patient_name(index: int) -> str:
    """Identity of a phantom patient: `PHANTOM-0001` ..."""
    return f"PHANTOM-{index + 1:04d}"


def write_patient(
    index: int, *, folder: Path, seed: int, size: int, setting: Setting, observers: Mapping[int, tuple[int, ...]]
) -> dict[str, object]:
    """Draw one patient of a cohort and write it into a folder of its own; returns who it is.

    Parameters
    ----------
    index : int
        Place in the cohort, from 0.
    folder : Path
        Of the cohort.
    seed, size, setting
        Of the cohort, as `write_phantom` takes them.
    observers : mapping of int to tuple of int
        Who outlines which patients beside the expert, from `observers_of`.
    """
    phantom = phantom_slice(_patient_seed(seed, index), size=size, setting=setting)
    name = patient_name(index)
    place = folder / name
    place.mkdir()
    write_ct_slice(place / "ct.dcm", phantom.hu, phantom.spacing, patient_id=name)
    outlines = {"expert": phantom.mask}
    for observer in observers.get(index, ()):
        rng = np.random.default_rng(np.random.SeedSequence([0x0B5, seed, index, observer]))
        outlines[f"observer {observer + 1:02d}"] = outline_as_observer(
            phantom.mask, phantom.compartments, phantom.hu, phantom.spacing, observer=observer, rng=rng
        )
    write_rtstruct(place / "rtstruct.dcm", outlines, read_ct_slice(place / "ct.dcm"))
    return {"patient_id": name, **asdict(phantom.patient)}


def observers_of(patients: int, test_patients: int) -> dict[int, tuple[int, ...]]:
    """Observers of the patients at the end of a cohort, who are its test set, by the patients' places."""
    return {patients - test_patients + place: group for place, group in assign_observers(test_patients).items()}


def _patient_seed(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def write_phantom(
    folder: Path,
    *,
    patients: int = 204,
    seed: int = 0,
    size: int = 512,
    setting: Setting = "realistic",
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
    setting : {"realistic", "randomised"}
    workers : int
        Processes.
    progress : callable, optional
        Called with the number of patients done.

    Raises
    ------
    PhantomError
        If the folder exists or cannot be written, or there are more test patients than patients.
    """
    if setting not in get_args(Setting):
        raise PhantomError(f"there is no setting {setting!r}; choose one of {', '.join(get_args(Setting))}")
    if test_patients > patients:
        raise PhantomError(f"{test_patients} test patients cannot be chosen from {patients} patients")
    if folder.exists():
        raise PhantomError(f"{folder} exists already")
    observers = observers_of(patients, test_patients)
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, folder.name)
        draft = draft_of(folder)
        draft.mkdir()
        write = partial(write_patient, folder=draft, seed=seed, size=size, setting=setting, observers=observers)
        if workers == 1:
            people = _watched(map(write, range(patients)), progress)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                people = _watched(pool.map(write, range(patients), chunksize=CHUNK), progress)
        settings = {
            "setting": setting,
            "patients": patients,
            "test_patients": test_patients,
            "seed": seed,
            "size": size,
        }
        about = {"generator": GENERATOR_VERSION, **settings, "people": people}
        (draft / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        draft.rename(folder)
    except OSError as error:
        raise PhantomError(f"cannot write {folder}: {reason_of(error)}") from None
    finally:
        if draft is not None:
            remove(draft)


def people_of(folder: Path) -> dict[str, dict[str, object]]:
    """Parameters of every patient of a phantom cohort, by patient ID; empty for any other cohort."""
    try:
        people = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["people"]
        return {person["patient_id"]: person for person in people}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _watched(results: Iterable[dict[str, object]], progress: Callable[[int], None] | None) -> list[dict[str, object]]:
    people = []
    for person in results:
        people.append(person)
        if progress is not None:
            progress(len(people))
    return people
