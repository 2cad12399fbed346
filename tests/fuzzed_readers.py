"""The readers of foreign files with files to begin from, and ways to damage them: for `test_fuzz.py` and `make soak`.

A reader takes the folder that its file lies in, and may return whatever it likes or raise an `L3MuscleError`; anything
else is a finding. So is a file that is accepted with another area than an independent library sees: `agrees` says.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from matplotlib.path import Path as Polygon
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from l3muscle.cohort import Cohort, check_folder
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.manifest import read_choices
from l3muscle.cohort.nifti import Volume
from l3muscle.cohort.outlines import Picture
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.scan import open_outlines
from l3muscle.cohort.seg import write_seg

SHAPE = (32, 40)
SPACING = (0.9, 0.9)
LPS = np.array([[-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 3, -5], [0, 0, 0, 1.0]])
SIDE = np.hypot(*np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j])
BODY = np.where(SIDE < 0.9, 60, -1000) + np.random.default_rng(0).integers(-20, 20, SHAPE)
MASK = SIDE < 0.5
#: What tends to break parsers: extremes of every width, text in place of numbers, and structure out of place.
TOKENS = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"-1", b"1e999", b"nan",
    b"inf", b"9" * 400, b"\\", b'"', b"{", b"[", b"null", b"\xe2\x80\xa8", b"\r", b"\n", b",", b";", b"../", b"'",
    b"true", b"0.5", b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three kinds of damage at places drawn at random."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.choice(("flip", "byte", "token", "insert", "delete", "repeat", "cut"))
        if kind == "flip" and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and data:
            data[at] = rng.randrange(256)
        elif kind in ("token", "insert"):
            token = rng.choice(TOKENS)
            data[at : at + (len(token) if kind == "token" else 0)] = token
        elif kind == "delete":
            del data[at : at + rng.randint(1, 64)]
        elif kind == "repeat":
            data[at:at] = data[at : at + rng.randint(1, 300)]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes
    ----------
    file : str
        Path, within the folder, of the file that is damaged.
    read : callable
        Takes the folder.
    seeds : tuple of bytes
        Sound contents of the file.
    agrees : callable
        Takes the damaged file and what the reader returned of it: whether another library sees the same area.
    """

    file: str
    read: Callable[[Path], object]
    seeds: tuple[bytes, ...]
    agrees: Callable[[Path, object], bool] = lambda path, found: True


def _slices(folder: Path) -> tuple[bytes, ...]:
    """A slice in several encodings."""
    write_ct_slice(folder / "ct.dcm", BODY, SPACING, patient_id="P1", position_mm=12.5)
    found = []
    for syntax in (None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless):
        dataset = pydicom.dcmread(folder / "ct.dcm")
        if syntax in (RLELossless, JPEG2000Lossless):
            plugin = "pydicom" if syntax == RLELossless else ""
            dataset.compress(syntax, generate_instance_uid=False, encoding_plugin=plugin)
        elif syntax:
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(folder / "packed.dcm", enforce_file_format=True)
        found.append((folder / "packed.dcm").read_bytes())
    return tuple(found)


def _same_pixels(path: Path, found: tuple) -> bool:
    """Area of what is denser than fat, by pydicom and NumPy."""
    dataset = pydicom.dcmread(path)
    hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    pixel = float(dataset.PixelSpacing[0]) * float(dataset.PixelSpacing[1])
    spacing, own = found
    return _close(np.sum((own > -30) & (own < 150)) * np.prod(spacing), np.sum((hu > -30) & (hu < 150)) * pixel)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 0.005 * max(one, other) + 2


def _same_contours(path: Path, masks: dict) -> bool:
    """Pixels of the expert's mask, by pydicom and matplotlib; the seed's only contour, or what has become of it."""
    if "expert" not in masks:
        return True
    dataset = pydicom.dcmread(path)
    names = {roi.ROINumber: str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    corner, inside = np.array([-0.9 * 19.5, -0.9 * 15.5]), np.zeros(SHAPE, bool)
    centres = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]][::-1], axis=-1).reshape(-1, 2)
    for item in dataset.ROIContourSequence:
        if len(names) > 1 and names.get(item.ReferencedROINumber, "").casefold() != "expert":
            continue
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)[:, :2]
            inside |= Polygon((points - corner) / 0.9, closed=False).contains_points(centres).reshape(SHAPE)
    return _close(inside.sum(), masks["expert"].sum())


def _same_frames(path: Path, masks: dict) -> bool:
    """Pixels of the only frame, by pydicom."""
    return "expert" not in masks or _close(np.sum(pydicom.dcmread(path).pixel_array > 0), masks["expert"].sum())


def _same_mask(path: Path, masks: dict) -> bool:
    """Voxels of one of the planes, by nibabel."""
    image = nibabel.load(path)
    planes = np.moveaxis(image.get_fdata().reshape(image.shape[:3]), np.argmax(np.abs(image.affine[2, :3])), 0)
    return any(_close(count, masks["expert"].sum()) for count in np.count_nonzero(planes, axis=(1, 2)))


def _same_voxels(path: Path, found: tuple) -> bool:
    """Area of what is denser than fat on the first plane, by nibabel."""
    image = nibabel.load(path)
    spacing, hu = found
    values = np.moveaxis(image.get_fdata().reshape(image.shape[:3]), np.argmax(np.abs(image.affine[2, :3])), 0)[0]
    in_plane = np.delete(nibabel.affines.voxel_sizes(image.affine), np.argmax(np.abs(image.affine[2, :3])))
    area = np.sum((values > -30) & (values < 150)) * np.prod(in_plane)
    return _close(np.sum((hu > -30) & (hu < 150)) * np.prod(spacing), area)


def readers(folder: Path) -> dict[str, Reader]:
    """Fill a folder with sound files and return the readers of it, by name."""
    slices = _slices(folder)
    (folder / "ct.dcm").write_bytes(slices[0])
    ct = read_ct_slice(folder / "ct.dcm")
    write_rtstruct(folder / "rt.dcm", {"expert": MASK}, ct)
    write_seg(folder / "seg.dcm", MASK, ct)
    volume = np.stack([BODY, BODY + 1], axis=-1).transpose(1, 0, 2).astype(np.int16)
    drawn = np.stack([MASK * 0, MASK], axis=-1).transpose(1, 0, 2).astype(np.uint8)
    for name, image in (
        ("image.nii", nibabel.Nifti1Image(volume, LPS)),
        ("image.nii.gz", nibabel.Nifti1Image(volume, LPS)),
        ("image2.nii.gz", nibabel.Nifti2Image(volume, LPS)),
        ("mask.nii", nibabel.Nifti1Image(drawn, LPS)),
        ("mask.nii.gz", nibabel.Nifti1Image(drawn, LPS)),
    ):
        nibabel.save(image, folder / name)
    plane = Volume(folder / "image.nii").slice(1)
    Image.fromarray(np.uint8(MASK) * 255).save(folder / "mask.png")

    chosen, saros = folder / "chosen", folder / "saros"
    shutil.copytree(folder, chosen, ignore=shutil.ignore_patterns("chosen"))
    table = "patient_id,file,mask,slice,observer\nP1,ct.dcm,rt.dcm,,\nP2,image.nii,mask.nii.gz,1,\nP1,,seg.dcm,,01\n"
    (chosen / "cohort.csv").write_text(table)
    check_folder(chosen).cohort().save(folder / "cohort.npz")
    (saros / "case_000").mkdir(parents=True)
    shutil.copy(folder / "image.nii.gz", saros / "case_000" / "image.nii.gz")
    regions = nibabel.Nifti1Image(np.where(drawn, 2, 1).astype(np.uint8), LPS)
    nibabel.save(regions, saros / "case_000" / "body-regions.nii.gz")
    levels, info = "case,slice,z_mm\ncase_000,1,\n", "id,tcia_collection,tcia_case_id\ncase_000,A,1\n"
    (saros / "levels.csv").write_text(levels)
    (saros / "Segmentation-Info.csv").write_text(info)

    def outlines(name: str, of: object) -> Callable[[Path], dict]:
        def read(at: Path) -> dict:
            file = open_outlines(at / name, name)
            file.slices([of])
            return file.masks(of)

        return read

    def slice_of(at: Path) -> tuple:
        found = read_ct_slice(at / "ct.dcm")
        return found.spacing, found.hu

    def first_plane(name: str) -> Callable[[Path], tuple]:
        def read(at: Path) -> tuple:
            volume = Volume(at / name, name)
            return volume.stored_grid(0).spacing, volume.hu(0)

        return read

    def of(*names: str) -> tuple[bytes, ...]:
        return tuple((folder / name).read_bytes() for name in names)

    def checked(name: str) -> Callable[[Path], list]:
        return lambda at: list(check_folder(at / name).lines())

    def picture(at: Path) -> dict:
        return Picture(at / "mask.png", "mask.png").masks(plane)

    regions_file = "saros/case_000/body-regions.nii.gz"
    return {
        "ct": Reader("ct.dcm", slice_of, slices, _same_pixels),
        "rtstruct": Reader("rt.dcm", outlines("rt.dcm", ct), of("rt.dcm"), _same_contours),
        "seg": Reader("seg.dcm", outlines("seg.dcm", ct), of("seg.dcm"), _same_frames),
        "nifti": Reader("image.nii", first_plane("image.nii"), of("image.nii"), _same_voxels),
        "nifti-gz": Reader(
            "image.nii.gz", first_plane("image.nii.gz"), of("image.nii.gz", "image2.nii.gz"), _same_voxels
        ),
        "nifti-mask": Reader("mask.nii", outlines("mask.nii", plane), of("mask.nii"), _same_mask),
        "png": Reader("mask.png", picture, of("mask.png")),
        "cohort-csv": Reader("chosen/cohort.csv", lambda at: read_choices(at / "chosen"), (table.encode(),)),
        "cohort-folder": Reader("chosen/cohort.csv", checked("chosen"), (table.encode(),)),
        "saved-cohort": Reader("cohort.npz", lambda at: Cohort.load(at / "cohort.npz"), of("cohort.npz")),
        "saros-levels": Reader("saros/levels.csv", checked("saros"), (levels.encode(),)),
        "saros-info": Reader("saros/Segmentation-Info.csv", checked("saros"), (info.encode(),)),
        "saros-regions": Reader(regions_file, checked("saros"), of(regions_file)),
    }
