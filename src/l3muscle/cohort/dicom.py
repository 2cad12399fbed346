"""Reading and writing CT slices and their masks as DICOM, and writing masks as NIfTI.

Reading is by whitelist: what is not known to be an axial, single-frame CT slice with its spacing and rescale stated is
refused with the reason. Spacing is never guessed.
"""

import hashlib
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)
from skimage.measure import find_contours

from l3muscle.cohort.grid import Grid
from l3muscle.errors import L3MuscleError, reason_of

MAX_SIDE = 4096  # pixels; a header that claims more is refused before anything is allocated
MAX_PIXEL_MM = 12.0  # a 700 mm field of 64 pixels has 10.9
USUAL_MATRICES = (256, 320, 340, 512, 768, 1024)
FIELD_TOLERANCE = 0.01
SQUARE_TOLERANCE = 1e-5  # of a scanner's own pixels, which are square: the same number, written twice
CENTRE_TOLERANCE_MM = 2.0  # between an image's centre and the one that the scanner was asked for
BODY_HU = (-300, 300)  # fat and soft tissue
MIN_BODY_SHARE = (0.02, 0.25)  # of an image, and of its pixels that are no thinner than fat
AIR_HU = (-1200, -800)  # holds the thinner part of what is thin, whatever the noise of a sharp kernel
MAX_THIN_HU = -500
MIN_AIR_SHARE = 0.01  # of an image; with less air than that its value says nothing
AXIAL_TOLERANCE = 0.02  # of a direction cosine: about one degree
STORED_INTERCEPT = -1024
HU_RANGE = (-1024, 3071)  # what twelve stored bits hold
PADDING_HU = -1024  # scanners fill what they did not measure with -2000, -3000 ...; as Hounsfield units that is air
HU_TYPES = ("", "HU", "HU_MOD")
MAX_INFLATED_BYTES = 1 << 28  # of a deflated data set, which can unfold to a thousand times its file's size
PLANE_TOLERANCE_MM = 0.5  # of a contour that names no slice
UNDEFINED_LENGTH = 0xFFFFFFFF
NOTES = (".json", ".csv", ".txt", ".md")
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
MAX_CONTOUR_ROWS = 20_000_000  # rows crossed by all edges of an ROI: a thousand times what a person draws
META_GROUP_START = 132 + 12  # preamble, prefix and the group length before the rest of the meta header
EXPLICIT_DS_BYTES = 0xFFFF  # longer contours fit only the implicit transfer syntax
CONTOUR_DATA = Tag("ContourData")
SKELETAL_MUSCLE = highdicom.sr.CodedConcept("127954009", "SCT", "Skeletal muscle")
TISSUE = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
# Kept of a slice's header to tie a mask to it. Names and birth dates are not among them.
HEADER_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Modality", "SeriesNumber", "InstanceNumber",
    "Manufacturer", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "SliceThickness", "PositionReferenceIndicator",
)  # fmt: skip


class DicomError(L3MuscleError):
    """A file that is not what it should be."""


@dataclass(frozen=True, kw_only=True)
class CTHeader(Grid):
    """What one axial CT slice says of itself, its pixels apart; its grid is in the attributes of `Grid`.

    Attributes
    ----------
    path : Path
    name : str
        The file as messages call it.
    patient_id, sop_instance_uid, frame_of_reference_uid : str
        The patient ID is empty in slices that were de-identified to that degree.
    header : Dataset
        What a mask's file needs to refer to the slice; neither name nor birth date. Study and series UIDs that are
        empty in the slice follow from its frame of reference here, so that masks of one scan share them.
    """

    path: Path
    name: str
    patient_id: str
    sop_instance_uid: str
    frame_of_reference_uid: str
    header: Dataset

    @property
    def location_mm(self) -> float:
        """Position along the slice's normal."""
        return float(np.dot(np.cross(*self.orientation), self.position))


@dataclass(frozen=True, kw_only=True)
class CTSlice(CTHeader):
    """One axial CT slice.

    Attributes
    ----------
    hu : ndarray, (H, W) int16
        Hounsfield units; padding below -1024 reads as -1024.
    """

    hu: np.ndarray


@contextmanager
def naming_damage(name: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the parser raise into a refusal that names the file.

    Values are parsed when they are first looked at, so this has to be around every look at an untrusted data set.
    """
    with warnings.catch_warnings():
        # Of what pydicom warns about, the checks here refuse what matters; the rest would only bury their reasons.
        warnings.filterwarnings("ignore", module="pydicom")
        try:
            yield
        except DicomError:
            raise
        except Exception as error:
            raise DicomError(f"{name}: damaged DICOM file ({type(error).__name__})") from None


def read_dataset(path: Path, name: str = "", *, pixels: bool = True) -> FileDataset:
    """Read a DICOM file.

    Parameters
    ----------
    path : Path
    name : str, optional
        The file as messages call it; by default its name without the folders.
    pixels : bool
        False leaves the pixels, and what stands behind them, in the file.

    Raises
    ------
    DicomError
        If it is not one, or is cut short.
    """
    name = name or path.name
    with naming_damage(name):
        try:
            _refuse_inflation(path, name)
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        except InvalidDicomError:
            raise DicomError(f"{name}: not a DICOM file") from None
        except OSError as error:
            raise DicomError(f"{name}: cannot be read ({reason_of(error)})") from None
        # The parser takes what is left of the file for an element's value, however much longer that should be.
        for _, element in dataset.items():
            is_raw = isinstance(element, RawDataElement) and isinstance(element.value, bytes)
            if is_raw and len(element.value) < element.length < UNDEFINED_LENGTH:
                raise DicomError(f"{name}: the file is cut short")
        return dataset


def _refuse_inflation(path: Path, name: str) -> None:
    """Refuse a deflated data set that unfolds beyond all measure, before the parser unfolds it."""
    with path.open("rb") as file:
        if DeflatedExplicitVRLittleEndian.encode() not in file.read(1024):
            return
        file.seek(META_GROUP_START + int(read_file_meta_info(path).FileMetaInformationGroupLength))
        inflator = zlib.decompressobj(-zlib.MAX_WBITS)
        size = 0
        while size <= MAX_INFLATED_BYTES and not inflator.eof:
            packed = inflator.unconsumed_tail or file.read(1 << 20)
            if not packed:
                return
            size += len(inflator.decompress(packed, 1 << 20))
    if size > MAX_INFLATED_BYTES:
        raise DicomError(f"{name}: unfolds to more than {MAX_INFLATED_BYTES >> 20} MiB")


def modality(dataset: Dataset, name: str) -> str:
    """What kind of object a data set is; `name` is the file's, for messages."""
    with naming_damage(name):
        return str(dataset.get("Modality") or "not stated")


def _numbers(dataset: Dataset, keyword: str, count: int, name: str) -> np.ndarray:
    value = dataset.get(keyword)
    try:
        numbers = np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if value is None or numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise DicomError(f"{name}: {keyword} is missing or not {count} finite number{'s' if count > 1 else ''}")
    return numbers


def read_ct_slice(path: Path) -> CTSlice:
    """Read one axial CT slice.

    Parameters
    ----------
    path : Path

    Returns
    -------
    CTSlice

    Raises
    ------
    DicomError
        One sentence that names the file and what is wrong with it.
    """
    return ct_slice(read_dataset(path), path)


def ct_slice(dataset: Dataset, path: Path, name: str = "") -> CTSlice:
    """Check a dataset against the whitelist and decode it; see `read_ct_slice`."""
    return decode(dataset, ct_header(dataset, path, name))


def ct_header(dataset: Dataset, path: Path, name: str = "") -> CTHeader:
    """Check a dataset, its pixels apart, against the whitelist.

    Parameters
    ----------
    dataset : Dataset
    path : Path
    name : str, optional
        The file as messages call it; by default its name without the folders.

    Raises
    ------
    DicomError
        One sentence that names the file and what is wrong with it.
    """
    with naming_damage(name or path.name):
        return _ct_header(dataset, path, name or path.name)


def _ct_header(dataset: Dataset, path: Path, name: str) -> CTHeader:
    # De-identification empties some of these in the data set and leaves them in the file's meta header.
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    sop_instance = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
    kind = dataset.get("Modality") or "not stated"
    if kind == "CT" and int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DicomError(f"{name}: holds several frames; one slice a file is expected")
    if kind != "CT" or sop_class != CTImageStorage:
        raise DicomError(f"{name}: not a CT image (modality {kind})")
    if not sop_instance:
        raise DicomError(f"{name}: SOPInstanceUID is missing")
    if not dataset.get("FrameOfReferenceUID"):
        raise DicomError(f"{name}: FrameOfReferenceUID is missing")
    if dataset.get("PhotometricInterpretation") != "MONOCHROME2" or dataset.get("SamplesPerPixel") != 1:
        raise DicomError(f"{name}: pixels are {dataset.get('PhotometricInterpretation')}, not MONOCHROME2")
    rows, columns = (int(v) for v in (dataset.get("Rows") or 0, dataset.get("Columns") or 0))
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise DicomError(f"{name}: {rows} x {columns} pixels; at most {MAX_SIDE} a side are accepted")
    _rescale(dataset, name)
    spacing = _numbers(dataset, "PixelSpacing", 2, name)
    if (spacing <= 0).any() or (spacing > MAX_PIXEL_MM).any():
        raise DicomError(f"{name}: PixelSpacing of {spacing.tolist()} mm cannot be right")
    _check_field_of_view(dataset, spacing, (rows, columns), name)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6, name).reshape(2, 3)
    if not np.allclose(np.abs(orientation), [[1, 0, 0], [0, 1, 0]], atol=AXIAL_TOLERANCE):
        raise DicomError(f"{name}: not an axial slice (orientation {orientation.ravel().round(3).tolist()})")
    position = _numbers(dataset, "ImagePositionPatient", 3, name)
    _check_centre(dataset, position + _to_centre(orientation, spacing, (rows, columns)), name)
    header = Dataset()
    for keyword in HEADER_KEYWORDS:
        if keyword in dataset:
            header[keyword] = dataset[keyword]
    header.SOPClassUID, header.SOPInstanceUID = sop_class, sop_instance
    frame = str(dataset.FrameOfReferenceUID)
    header.StudyInstanceUID = dataset.get("StudyInstanceUID") or _uid("study of frame", frame)
    header.SeriesInstanceUID = dataset.get("SeriesInstanceUID") or _uid("series of frame", frame)
    return CTHeader(
        shape=(rows, columns),
        spacing=(float(spacing[0]), float(spacing[1])),
        position=position,
        orientation=orientation,
        path=path,
        name=name,
        patient_id=str(dataset.get("PatientID") or ""),
        sop_instance_uid=str(sop_instance),
        frame_of_reference_uid=frame,
        header=header,
    )


def _check_field_of_view(dataset: Dataset, spacing: np.ndarray, shape: tuple[int, int], name: str) -> None:
    """Hold the spacing of a scanner's own image against its field of view, which is spread over a usual matrix.

    The image's own size is not enough: a cropped one keeps both. A scanner's own pixels are square, so that one spacing
    that was damaged by less stands out against the other.
    """
    if not _is_original(dataset):
        return
    if diameter := dataset.get("ReconstructionDiameter"):
        matrix = float(diameter) / spacing
        usual = np.array([*shape, *USUAL_MATRICES])
        if (np.abs(matrix[:, None] / usual - 1).min(axis=1) > FIELD_TOLERANCE).any():
            found = " x ".join(f"{value:.4g}" for value in spacing)
            raise DicomError(
                f"{name}: PixelSpacing of {found} mm contradicts a field of view of {float(diameter):g} mm"
            )
    if abs(spacing[0] / spacing[1] - 1) > SQUARE_TOLERANCE:
        found = " x ".join(f"{value:.8g}" for value in spacing)
        raise DicomError(f"{name}: PixelSpacing of {found} mm in a scanner's own image, whose pixels are square")


def _is_original(dataset: Dataset) -> bool:
    """Whether an image is as the scanner reconstructed it, not resampled, cropped or drawn by other software."""
    return "ORIGINAL" in (dataset.get("ImageType") or ())


def _to_centre(orientation: np.ndarray, spacing: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """From the centre of the first pixel to that of the image, mm."""
    return (orientation[0] * spacing[1] * (shape[1] - 1) + orientation[1] * spacing[0] * (shape[0] - 1)) / 2


def _check_centre(dataset: Dataset, centre: np.ndarray, name: str) -> None:
    """Hold the position of a scanner's own image against the centre that its reconstruction was asked for."""
    if not _is_original(dataset) or not dataset.get("ReconstructionTargetCenterPatient"):
        return
    asked = _numbers(dataset, "ReconstructionTargetCenterPatient", 3, name)
    if np.abs(centre - asked).max() > CENTRE_TOLERANCE_MM:
        found, expected = (", ".join(f"{value:.1f}" for value in place) for place in (centre, asked))
        raise DicomError(f"{name}: its centre lies at {found} mm and was asked for at {expected} mm")


def _rescale(dataset: Dataset, name: str) -> tuple[float, float]:
    """Slope and intercept from stored values to Hounsfield units."""
    slope = float(_numbers(dataset, "RescaleSlope", 1, name)[0])
    intercept = float(_numbers(dataset, "RescaleIntercept", 1, name)[0])
    if slope <= 0:
        raise DicomError(f"{name}: RescaleSlope is {slope:g}")
    if str(dataset.get("RescaleType") or "") not in HU_TYPES:
        raise DicomError(f"{name}: rescales to {dataset.RescaleType}, not to Hounsfield units")
    return slope, intercept


def decode(dataset: Dataset, header: CTHeader) -> CTSlice:
    """Decode the pixels that belong to a checked header.

    Raises
    ------
    DicomError
        If they cannot be decoded, do not have the size that the header states, or are not Hounsfield units.
    """
    name = header.name
    with naming_damage(name):
        slope, intercept = _rescale(dataset, name)
        found = _coded_shape(dataset)
        if found != header.shape:
            raise DicomError(f"{name}: the pixel data hold {found} pixels where the header says {header.shape}")
        try:
            stored = dataset.pixel_array
        except Exception as error:  # each decoder raises its own kinds
            raise DicomError(f"{name}: pixels cannot be decoded ({type(error).__name__}: {reason_of(error)})") from None
        if stored.shape != header.shape:
            raise DicomError(f"{name}: {stored.shape} pixels decoded where the header says {header.shape}")
        hu = np.rint(stored * slope + intercept)
        if hu.min() < -32768 or hu.max() > 32767:
            raise DicomError(f"{name}: values from {hu.min():g} to {hu.max():g} are not Hounsfield units")
        if _is_original(dataset):
            _check_tissues(hu, name)
    return CTSlice(**vars(header), hu=np.maximum(hu, PADDING_HU).astype(np.int16))


def _check_tissues(hu: np.ndarray, name: str) -> None:
    """Hold the rescaled values of a scanner's own image against what every slice of a body holds: air and soft tissue.

    A wrong slope or intercept is found if it moves air or soft tissue by more than they vary, about 200 HU. The image
    does not tell smaller errors apart.
    """
    body = np.count_nonzero((hu >= BODY_HU[0]) & (hu <= BODY_HU[1]))
    least = (MIN_BODY_SHARE[0] * hu.size, MIN_BODY_SHARE[1] * np.count_nonzero(hu >= BODY_HU[0]))
    thin = hu[(hu < MAX_THIN_HU) & (hu > hu.min())]  # padding, where there is any, is the least of all
    air = np.quantile(thin, 0.1) if len(thin) > MIN_AIR_SHARE * hu.size else np.mean(AIR_HU)
    if body < max(least) or hu.min() >= BODY_HU[0] or not AIR_HU[0] <= air <= AIR_HU[1]:
        raise DicomError(f"{name}: its values are not Hounsfield units; no body has such shares of air and soft tissue")


def _coded_shape(dataset: Dataset) -> tuple[int, int]:
    """Rows and columns that the pixel data themselves hold, which a damaged or forged header may contradict."""
    shape = (int(dataset.Rows), int(dataset.Columns))
    data = dataset.get("PixelData", b"")
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        row = shape[1] * int(dataset.BitsAllocated) // 8
        # Values have an even length: one byte may be padding.
        return shape if len(data) == (shape[0] * row + 1) // 2 * 2 else (len(data) // row, shape[1])
    frame = get_frame(data, 0, number_of_frames=1)
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: image size less its offset, in the first segment
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    if frame[:2] != b"\xff\xd8":  # run lengths, which unfold to the header's size or fail
        return shape
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:  # JPEG and JPEG-LS: the segment that starts the frame
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 2 + length
    return 0, 0


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """All files named, and all below the folders named, in a stable order; hidden files and JSON notes are left out.

    Raises
    ------
    DicomError
        If a path does not exist, or there is no file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            files.append(path)
        else:
            raise DicomError(f"there is no file or folder {path}")
    files = [path for path in files if path.suffix.lower() not in NOTES]
    if not files:
        raise DicomError(f"no files in {', '.join(map(str, paths))}")
    return files


def read_ct_folder(paths: Path | Sequence[Path]) -> list[CTSlice]:
    """Read CT slices from files and folders, sorted by position along the scan.

    Raises
    ------
    DicomError
        For the first file that is not a sound CT slice.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    slices = [read_ct_slice(path) for path in dicom_files(paths)]
    return sorted(slices, key=lambda ct: (ct.patient_id, ct.location_mm))


def _uid(*parts: object) -> str:
    """A UID that follows from its parts, so that the same content is the same file."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def _file(sop_class: str, sop_instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_instance
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def write_ct_slice(
    path: Path, hu: np.ndarray, spacing: tuple[float, float], *, patient_id: str, position_mm: float = 0.0
) -> None:
    """Write one axial CT slice (CT Image Storage, explicit VR little endian).

    Parameters
    ----------
    path : Path
    hu : ndarray, (H, W)
        Clipped to what twelve bits hold, -1024 to 3071.
    spacing : (float, float)
        Row and column spacing, mm.
    patient_id : str
    position_mm : float
        Along the patient's long axis.
    """
    stored = (np.clip(np.rint(hu), *HU_RANGE) - STORED_INTERCEPT).astype("<u2")
    content = hashlib.sha256(stored.tobytes()).hexdigest()
    ds = _file(CTImageStorage, _uid("ct", patient_id, content, *spacing, position_mm))
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Modality, ds.Manufacturer = "CT", "l3muscle"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "", patient_id, "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", patient_id), _uid("series", patient_id)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = _uid("frame", patient_id), ""
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 1, 1, 1
    ds.KVP, ds.SliceThickness = "", "3"
    ds.PatientPosition = "HFS"
    rows, columns = stored.shape
    ds.PixelSpacing = [f"{float(value):.10g}" for value in spacing]
    left, top = (-(count - 1) / 2 * pixel for count, pixel in ((columns, spacing[1]), (rows, spacing[0])))
    ds.ImagePositionPatient = [f"{left:.6f}", f"{top:.6f}", f"{position_mm:.6f}"]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = STORED_INTERCEPT, 1, "HU"
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)


def mask_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Closed contours of a mask, (K, 2) rows and columns, halfway between the pixels inside and outside.

    Filled by the even-odd rule they give the same mask again, whatever its holes and islands.
    """
    padded = np.pad(mask, 1).astype(np.float32)
    return [_corners(contour[:-1] - 1) for contour in find_contours(padded, 0.5)]


def _corners(contour: np.ndarray) -> np.ndarray:
    """The points of a closed contour at which it turns: about half of them, and the same line."""
    before, after = contour - np.roll(contour, 1, axis=0), np.roll(contour, -1, axis=0) - contour
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return contour[turns != 0]


def fill_contours(contours: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fill closed contours by the even-odd rule.

    Scan lines through the pixel centres: each edge toggles its row from where it crosses it to the right. All contours
    at once take time in proportion to their length; a point-in-polygon test of every pixel took 4 ms a contour and
    most of the time of reading a cohort.

    Parameters
    ----------
    contours : iterable of ndarray, (K, 2)
        Rows and columns of the corners; pixel centres are whole numbers.
    shape : (int, int)

    Returns
    -------
    ndarray, (H, W) bool
        Pixels whose centres lie inside an odd number of contours.
    """
    contours = [contour for contour in contours if len(contour)]
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    if not contours:
        return toggles[:, :-1].astype(bool)
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    # An edge owns the rows from its upper end, inclusive, to its lower end, exclusive: corners count once.
    first = np.ceil(np.minimum(start[:, 0], end[:, 0])).clip(0, shape[0]).astype(int)
    last = np.ceil(np.maximum(start[:, 0], end[:, 0])).clip(0, shape[0]).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 1] - start[edge, 1]) / (end[edge, 0] - start[edge, 0])
    column = np.ceil(start[edge, 1] + (row - start[edge, 0]) * slope).clip(0, shape[1]).astype(int)
    np.add.at(toggles, (row, column), 1)
    return np.cumsum(toggles[:, :-1], axis=1) % 2 == 1


def write_rtstruct(path: Path, masks: Mapping[str, np.ndarray], ct: CTSlice) -> None:
    """Write masks of one slice as an RT Structure Set.

    Parameters
    ----------
    path : Path
    masks : mapping of str to ndarray, (H, W) bool
        By ROI name. An empty mask becomes an ROI without contours.
    ct : CTSlice
        The slice they belong to.
    """
    content = hashlib.sha256(b"".join(name.encode() + np.packbits(mask).tobytes() for name, mask in masks.items()))
    ds = _file(RTStructureSetStorage, _uid("rtstruct", ct.sop_instance_uid, content.hexdigest()))
    source = ct.header
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.StudyInstanceUID, _uid("rt series", ds.SOPInstanceUID)
    ds.StudyDate, ds.StudyTime = source.get("StudyDate", ""), source.get("StudyTime", "")
    ds.AccessionNumber, ds.StudyID = source.get("AccessionNumber", ""), source.get("StudyID", "")
    ds.ReferringPhysicianName = ds.OperatorsName = ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber = "RTSTRUCT", "l3muscle", 1
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        "",
        ct.patient_id,
        "",
        source.get("PatientSex", ""),
    )
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "skeletal muscle", "", ""

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, ct.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = source.SeriesInstanceUID, DicomSequence([image])
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", source.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = ct.frame_of_reference_uid, DicomSequence([study])
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])

    rois, contours, observations = [], [], []
    for number, (name, mask) in enumerate(masks.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, ""
        roi.ReferencedFrameOfReferenceUID = ct.frame_of_reference_uid
        rois.append(roi)
        item = Dataset()
        item.ReferencedROINumber = number
        outlines = []
        for contour in mask_contours(mask):
            points = (
                ct.position
                + contour[:, 1:] * ct.spacing[1] * ct.orientation[0]
                + contour[:, :1] * ct.spacing[0] * ct.orientation[1]
            )
            outline = Dataset()
            outline.ContourImageSequence = DicomSequence([image])
            outline.ContourGeometricType = "CLOSED_PLANAR"
            outline.NumberOfContourPoints = len(points)
            # As finished text: checking every number on its own took longer than drawing the patient.
            text = "\\".join(f"{value:.4f}" for value in points.ravel().tolist()).encode()
            text += b" " * (len(text) % 2)
            if len(text) > EXPLICIT_DS_BYTES:
                ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            outline[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(text), text, 0, False, True)
            outlines.append(outline)
        if outlines:
            item.ContourSequence = DicomSequence(outlines)
        contours.append(item)
        observation = Dataset()
        observation.ObservationNumber, observation.ReferencedROINumber = number, number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
        observations.append(observation)
    ds.StructureSetROISequence = DicomSequence(rois)
    ds.ROIContourSequence = DicomSequence(contours)
    ds.RTROIObservationsSequence = DicomSequence(observations)
    ds.save_as(path, enforce_file_format=True)


def referenced_slices(dataset: Dataset, name: str, slices: Iterable[CTHeader] = ()) -> set[str]:
    """SOP Instance UIDs of the slices that a structure set's closed contours lie on.

    Parameters
    ----------
    dataset : Dataset
        Of modality RTSTRUCT.
    name : str
        The file as messages call it.
    slices : iterable of CTHeader
        Where contours that name no slice, as the standard allows, look for theirs by frame of reference and position.
    """
    with naming_damage(name):
        named, heights = set(), {}
        frames = _roi_frames(dataset)
        for item in dataset.get("ROIContourSequence", []):
            for contour in item.get("ContourSequence", []):
                if not _is_closed(contour, name):
                    continue
                images = _named_slices(contour)
                named |= images
                if not images:
                    frame = frames.get(item.get("ReferencedROINumber"))
                    heights.setdefault(frame, set()).add(float(_contour_points(contour, name)[0, 2]))
        for ct in slices if heights else ():
            at = np.array(list(heights.get(ct.frame_of_reference_uid, ())))
            if (np.abs(at - ct.position[2]) <= PLANE_TOLERANCE_MM).any():
                named.add(ct.sop_instance_uid)
        return named


def _named_slices(contour: Dataset) -> set[str]:
    return {image.ReferencedSOPInstanceUID for image in contour.get("ContourImageSequence", [])}


def _roi_frames(dataset: Dataset) -> dict[int, str]:
    return {
        roi.ROINumber: roi.get("ReferencedFrameOfReferenceUID") for roi in dataset.get("StructureSetROISequence", [])
    }


def _is_closed(contour: Dataset, name: str) -> bool:
    kind = contour.get("ContourGeometricType")
    if kind not in (*CLOSED, "POINT"):
        raise DicomError(f"{name}: a contour is of type {kind or 'not stated'}, not a closed one in a plane")
    return kind != "POINT"


def _contour_points(contour: Dataset, name: str) -> np.ndarray:
    """Points (K, 3), mm. Taken from the raw text, as pydicom's decimal strings cost most of a cohort's reading time."""
    try:
        value = contour.get_item("ContourData").value
        numbers = value.decode("ascii").split("\\") if isinstance(value, bytes) else value
        points = np.array(numbers, dtype=np.float64).reshape(-1, 3)
    except (AttributeError, TypeError, ValueError):
        raise DicomError(f"{name}: a contour's points are not triples of numbers") from None
    if not len(points) or not np.isfinite(points).all():
        raise DicomError(f"{name}: a contour's points are not triples of numbers")
    return points


def rtstruct_masks(dataset: Dataset, ct: CTHeader, name: str) -> dict[str, np.ndarray]:
    """The ROIs of a structure set that lie on a slice, as masks.

    All closed contours of an ROI are filled together by the even-odd rule: a contour inside another is a hole, and so
    is what a keyhole's channel leads to.

    Parameters
    ----------
    dataset : Dataset
        Of modality RTSTRUCT.
    ct : CTHeader
    name : str
        The file as messages call it.

    Returns
    -------
    dict of str to ndarray, (H, W) bool

    Raises
    ------
    DicomError
        If it lies in another frame of reference, a contour is malformed, open or off the slice's plane, or two ROIs
        share a name.
    """
    with naming_damage(name):
        return _rtstruct_masks(dataset, ct, name)


def _rtstruct_masks(dataset: Dataset, ct: CTHeader, name: str) -> dict[str, np.ndarray]:
    frames = _roi_frames(dataset)
    if set(frames.values()) - {None, ct.frame_of_reference_uid}:
        raise DicomError(f"{name}: drawn in another frame of reference than {ct.name}")
    names = {roi.ROINumber: str(roi.get("ROIName", "")) for roi in dataset.get("StructureSetROISequence", [])}
    normal = np.cross(*ct.orientation)
    masks: dict[str, np.ndarray] = {}
    for item in dataset.get("ROIContourSequence", []):
        outlines = []
        for contour in item.get("ContourSequence", []):
            if not _is_closed(contour, name):
                continue
            images = _named_slices(contour)
            if images and ct.sop_instance_uid not in images:
                continue
            points = _contour_points(contour, name) - ct.position
            height = np.abs(points @ normal).max()
            if not images and height > PLANE_TOLERANCE_MM:
                continue
            if height > 1.0:
                raise DicomError(f"{name}: a contour does not lie in the plane of {ct.name}")
            rows = points @ ct.orientation[1] / ct.spacing[0]
            columns = points @ ct.orientation[0] / ct.spacing[1]
            outlines.append(np.stack([rows, columns], axis=1))
        if not outlines:
            continue
        roi = names.get(item.get("ReferencedROINumber"), "")
        if roi in masks:
            raise DicomError(f"{name}: two outlines of {ct.name} are called {roi!r}")
        within = (np.clip(outline[:, 0], 0, ct.shape[0]) for outline in outlines)
        if sum(np.abs(np.diff(rows, append=rows[0])).sum() for rows in within) > MAX_CONTOUR_ROWS:
            raise DicomError(f"{name}: its contours are longer than any that a person draws")
        masks[roi] = fill_contours(outlines, ct.shape)
    return masks


def read_rtstruct(path: Path, ct: CTSlice) -> dict[str, np.ndarray]:
    """Read the ROIs of an RT Structure Set that lie on `ct`; see `rtstruct_masks`."""
    dataset = read_dataset(path)
    if modality(dataset, path.name) != "RTSTRUCT":
        raise DicomError(f"{path.name}: not an RTSTRUCT")
    return rtstruct_masks(dataset, ct, path.name)


@dataclass(frozen=True)
class SegFrame:
    """One frame of a segmentation.

    Attributes
    ----------
    index : int
        Place among the frames, from 0.
    segments : tuple of int
        Numbers of the segments that it holds; several only in a label map.
    slices : frozenset of str
        SOP Instance UIDs of the slices that it was drawn on.
    groups : tuple of Dataset
        Its own functional groups, then the shared ones.
    """

    index: int
    segments: tuple[int, ...]
    slices: frozenset[str]
    groups: tuple[Dataset, ...]

    def group(self, keyword: str) -> Dataset:
        """The only item of a functional group, whether the frame's own or shared.

        Raises
        ------
        AttributeError
            If the frame has none.
        """
        for groups in self.groups:
            if groups.get(keyword):
                return groups[keyword].value[0]
        raise AttributeError(keyword)


def seg_frames(dataset: Dataset, name: str) -> list[SegFrame]:
    """The frames of a DICOM Segmentation; `name` is the file as messages call it.

    Raises
    ------
    DicomError
        If a frame does not say which segment it holds.
    """
    with naming_damage(name):
        is_label_map = dataset.get("SegmentationType") == "LABELMAP"
        numbers = (int(segment.SegmentNumber) for segment in dataset.SegmentSequence)
        every = tuple(number for number in numbers if number)  # 0 is the background of a label map
        shared = tuple(dataset.get("SharedFunctionalGroupsSequence", []))[:1]
        frames = []
        for index, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            frame = SegFrame(
                index,
                every,
                frozenset(
                    str(image.ReferencedSOPInstanceUID)
                    for groups in (own, *shared)
                    for derivation in groups.get("DerivationImageSequence", [])
                    for image in derivation.get("SourceImageSequence", [])
                ),
                (own, *shared),
            )
            if not is_label_map:
                number = int(frame.group("SegmentIdentificationSequence").ReferencedSegmentNumber)
                frame = replace(frame, segments=(number,))
            frames.append(frame)
        return frames


def _frame_pixels(dataset: Dataset, path: Path, index: int) -> np.ndarray:
    if dataset.BitsAllocated == 1 and dataset.Rows * dataset.Columns % 8:
        # The decoder loses its place where frames begin within a byte.
        return pixel_array(path).reshape(-1, dataset.Rows, dataset.Columns)[index]
    return pixel_array(path, index=index)


def seg_masks(dataset: Dataset, ct: CTHeader, path: Path, name: str) -> dict[str, np.ndarray]:
    """The segments of a DICOM Segmentation that lie on a slice, as masks.

    Binary segmentations, fractional ones (muscle where the value is at least half of the greatest possible) and label
    maps. Frames are found by the slice's SOP Instance UID; then frame of reference, size, position, orientation and
    spacing must agree with the slice as well, as nothing is resampled.

    Parameters
    ----------
    dataset : Dataset
        Of modality SEG; its pixels are read from the file, frame by frame.
    ct : CTHeader
    path : Path
    name : str
        The file as messages call it.

    Returns
    -------
    dict of str to ndarray, (H, W) bool
        By segment label. Segments without a frame, or with an empty one, on this slice are left out.

    Raises
    ------
    DicomError
        If it does not belong onto the slice, or two segments share a label.
    """
    with naming_damage(name):
        frames = [frame for frame in seg_frames(dataset, name) if ct.sop_instance_uid in frame.slices]
        if dataset.get("FrameOfReferenceUID") != ct.frame_of_reference_uid:
            raise DicomError(f"{name}: drawn in another frame of reference than {ct.name}")
        labels = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in dataset.SegmentSequence}
        half = int(dataset.get("MaximumFractionalValue") or 1) / 2
        masks: dict[int, np.ndarray] = {}
        for frame in frames:
            measures = frame.group("PixelMeasuresSequence")
            grid = Grid(
                shape=(int(dataset.Rows), int(dataset.Columns)),
                spacing=tuple(_numbers(measures, "PixelSpacing", 2, name).tolist()),
                position=_numbers(frame.group("PlanePositionSequence"), "ImagePositionPatient", 3, name),
                orientation=_numbers(
                    frame.group("PlaneOrientationSequence"), "ImageOrientationPatient", 6, name
                ).reshape(2, 3),
            )
            if difference := ct.mismatch(grid):
                raise DicomError(f"{name}: {difference} ({ct.name})")
            pixels = _frame_pixels(dataset, path, frame.index)
            for number in frame.segments:
                inside = pixels == number if len(frame.segments) > 1 else (pixels > 0) & (pixels >= half)
                masks[number] = masks.get(number, False) | inside
        drawn = {number: mask for number, mask in masks.items() if mask.any()}
        if len({labels[number] for number in drawn}) < len(drawn):
            raise DicomError(f"{name}: two outlines of {ct.name} share a label")
        return {labels[number]: mask for number, mask in drawn.items()}


def write_seg(path: Path, mask: np.ndarray, ct: CTSlice) -> None:
    """Write a mask (H, W) bool as DICOM Segmentation of the slice `ct`."""
    source = Dataset()
    source.update(ct.header)
    for keyword in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
    ):
        if keyword not in source:
            setattr(source, keyword, "")
    # highdicom asks its sources for a transfer syntax, which says nothing about the mask.
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="skeletal muscle",
        segmented_property_category=TISSUE,
        segmented_property_type=SKELETAL_MUSCLE,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="l3muscle", version="1", family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
        ),
    )
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    segmentation = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=mask[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=_uid("seg series", ct.sop_instance_uid, digest),
        series_number=1,
        sop_instance_uid=_uid("seg", ct.sop_instance_uid, digest),
        instance_number=1,
        manufacturer="l3muscle",
        manufacturer_model_name="l3muscle",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    segmentation.save_as(path)


def write_nifti(path: Path, mask: np.ndarray, ct: CTSlice) -> None:
    """Write a mask (H, W) bool as a one-slice NIfTI volume, (W, H, 1), in the patient's frame (RAS)."""
    thickness = float(ct.header.get("SliceThickness") or 1.0)
    affine = np.eye(4)
    affine[:3, 0] = ct.orientation[0] * ct.spacing[1]
    affine[:3, 1] = ct.orientation[1] * ct.spacing[0]
    affine[:3, 2] = np.cross(*ct.orientation) * thickness
    affine[:3, 3] = ct.position
    # DICOM's axes run to the patient's left and back, NIfTI's to the right and front.
    affine = np.diag([-1, -1, 1, 1]) @ affine
    nibabel.save(nibabel.Nifti1Image(mask.T[..., None].astype(np.uint8), affine), path)
