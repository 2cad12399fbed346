"""Small files of every kind, written by other libraries than the package where there are any."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from l3muscle.cohort.ct import CTSlice, read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.scan import open_outlines
from l3muscle.cohort.seg import SKELETAL_MUSCLE, TISSUE

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT beside the checkout")
SHAPE = (33, 47)  # neither of them whole bytes
SPACING = (0.8, 1.1)
LAS = np.array([[-1.1, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 3, -5], [0, 0, 0, 1.0]])  # to the left, back and head


def blob(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A disc that lies nowhere symmetrically."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - 12 - seed % 5, columns - 18 - seed % 3) < 6 + seed % 4


def body(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Hounsfield units of tissue in air; every pixel tells where it is."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = ((rows - 16) / 14) ** 2 + ((columns - 22) / 20) ** 2 < 1
    noise = np.random.default_rng(seed).integers(-40, 40, shape)
    return np.where(inside, rows + columns + noise, -1000 + noise // 4).astype(np.int16)


def edit(path: Path, **changes: object) -> Path:
    """Set elements of a DICOM file; None removes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if value is None and keyword in dataset:
            delattr(dataset, keyword)
        elif keyword.startswith("PixelPadding"):
            dataset.add_new(keyword, "SS" if dataset.PixelRepresentation else "US", value)
        elif value is not None:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def add_slice(path: Path, patient: str = "P1", seed: int = 0, position: float = 0.0, **changes: object) -> CTSlice:
    """One slice; changes as `edit` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ct_slice(path, body(seed), SPACING, patient_id=patient, position_mm=position)
    return read_ct_slice(edit(path, **changes) if changes else path)


def add_outlined(path: Path, patient: str = "P1", seed: int = 0, position: float = 0.0, **changes: object) -> CTSlice:
    """One slice with a structure set `.rt` of the same name."""
    ct = add_slice(path, patient, seed, position, **changes)
    write_rtstruct(path.with_suffix(".rt"), {"expert": blob(seed)}, ct)
    return ct


def stored_turned(path: Path, hu: np.ndarray, orientation: Sequence[float], **changes: object) -> Path:
    """The slice of upright `hu`, written with its pixels in another order; plain NumPy, no code of the package."""
    write_ct_slice(path, hu, SPACING, patient_id="P1")
    dataset = pydicom.dcmread(path)
    columns, rows = np.array(orientation, float).reshape(2, 3)
    stored, spacing = hu, list(SPACING)
    if abs(columns[0]) < abs(columns[1]):
        stored, spacing = hu.T, spacing[::-1]
    across, down = (columns, rows) if abs(columns[0]) > abs(columns[1]) else (rows, columns)
    first = np.array([float(value) for value in dataset.ImagePositionPatient])
    left = first[0] if across[0] > 0 else first[0] + SPACING[1] * (hu.shape[1] - 1)
    back = first[1] if down[1] > 0 else first[1] + SPACING[0] * (hu.shape[0] - 1)
    flip_x, flip_y = across[0] < 0, down[1] < 0
    axes = [axis for axis, flip in ((1, flip_x), (0, flip_y)) if flip]
    if stored is not hu:
        axes = [1 - axis for axis in axes]
    stored = np.flip(stored, axes)
    dataset.Rows, dataset.Columns = stored.shape
    dataset.PixelSpacing, dataset.ImageOrientationPatient = spacing, list(orientation)
    dataset.ImagePositionPatient = [left, back, first[2]]
    dataset.PixelData = (np.ascontiguousarray(stored) + 1024).astype("<u2").tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def write_contours(
    path: Path,
    ct: CTSlice,
    rois: Mapping[str, Sequence[np.ndarray]],
    change: Callable[[pydicom.Dataset], None] | None = None,
) -> Path:
    """A structure set whose contours (rows, columns, fractions of pixels) are written as given."""
    write_rtstruct(path, {name: blob(1) for name in rois}, ct)
    dataset = pydicom.dcmread(path)
    for item, contours in zip(dataset.ROIContourSequence, rois.values(), strict=True):
        model = item.ContourSequence[0]
        item.ContourSequence = []
        for contour in contours:
            points = ct.position + contour[:, 1:] * [SPACING[1], 0, 0] + contour[:, :1] * [0, SPACING[0], 0]
            outline = pydicom.Dataset()
            outline.ContourImageSequence = model.ContourImageSequence
            outline.ContourGeometricType = "CLOSED_PLANAR"
            outline.NumberOfContourPoints = len(points)
            outline.ContourData = [f"{v:.4f}" for v in points.ravel()]
            item.ContourSequence.append(outline)
    if change is not None:
        change(dataset)
    dataset.save_as(path)
    return path


def write_foreign_seg(
    path: Path,
    slices: Sequence[CTSlice],
    arrays: Mapping[str, np.ndarray],
    kind: str = "BINARY",
    syntax: str | None = None,
    change: Callable[[pydicom.Dataset], None] | None = None,
) -> Path:
    """A segmentation of several slices as highdicom writes it: (slices, rows, columns) as stored for each label."""
    sources = [pydicom.dcmread(ct.path, stop_before_pixels=True) for ct in slices]
    for dataset in sources:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dtype = np.float32 if kind == "FRACTIONAL" else np.uint8
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack([array.astype(dtype) for array in arrays.values()], axis=-1),
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                number,
                label,
                highdicom.sr.CodedConcept(*TISSUE),
                highdicom.sr.CodedConcept(*(SKELETAL_MUSCLE if "muscle" in label else TISSUE)),
                "MANUAL",
            )
            for number, label in enumerate(arrays, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="other",
        manufacturer_model_name="other",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
        **({} if syntax is None else {"transfer_syntax_uid": syntax}),
    )
    segmentation.save_as(path)
    if change is not None:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)
    return path


def save_nifti(path: Path, data: np.ndarray, affine: np.ndarray = LAS) -> Path:
    """A NIfTI file of voxels (columns, rows, planes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def add_pair(folder: Path, image: str, mask: str | None, seed: int, planes: int = 3, at: int | None = 1) -> np.ndarray:
    """A NIfTI volume, of which plane `at` (or all) is outlined; returns its pixels (rows, columns, planes)."""
    hu = np.stack([body(seed + 10 * plane) for plane in range(planes)], axis=-1)
    drawn = np.zeros((*SHAPE, planes), np.uint8)
    drawn[..., slice(None) if at is None else at] = blob(seed)[..., None] if at is None else blob(seed)
    save_nifti(folder / image, hu.transpose(1, 0, 2))
    if mask:
        save_nifti(folder / mask, drawn.transpose(1, 0, 2))
    return hu


def outlines(path: Path, ct: CTSlice, wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """What a file of outlines holds of one slice, by who drew it."""
    file = open_outlines(path, path.name, wanted=wanted)
    file.slices([ct])
    return file.masks(ct)
