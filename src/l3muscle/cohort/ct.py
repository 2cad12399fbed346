"""Reading and writing axial CT slices as DICOM.

What is not known to be an axial, single-frame CT slice in Hounsfield units with its spacing stated is refused with the
reason. Spacing is never guessed. Slices are read upright (see `l3muscle.cohort.geometry`).
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DA, TM
from scipy import ndimage

from l3muscle.cohort.geometry import MAX_PIXEL_MM, MAX_SIDE, Grid, Turn
from l3muscle.errors import L3MuscleError, reason_of

AIR_HU = -1024  # what scanners did not measure they fill with -2000, -3000 ...; as Hounsfield units that is air
STORED_HU = (-1024, 3071)  # what twelve stored bits hold
LARGEST_HU = 31_000  # of the extended scale for metal; beyond are negative numbers read without their sign
TISSUE_HU = (-300, 300)
DENSE_HU = 700  # compact bone and metal
THIN_HU = -500
AIR_RANGE_HU = (-1200, -800)  # holds the thinner part of what is thin, whatever the noise of a sharp kernel
HU_TYPES = ("", "HU", "HU_MOD", "US")  # US: unspecified
USUAL_MATRICES = (256, 320, 340, 512, 768, 1024)
FIELD_TOLERANCE = 0.01
SQUARE_TOLERANCE = 1e-5
UNDEFINED_LENGTH = 0xFFFFFFFF
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
# pydicom's name of the decoder for each packing, and what to install for it.
DECODERS = {
    **dict.fromkeys(JPEG, ("gdcm", "python-gdcm")),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("pyjpegls", "pyjpegls")),
    **dict.fromkeys(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"), ("pylibjpeg", "pylibjpeg-openjpeg")),
    "1.2.840.10008.1.2.5": ("pydicom", "pydicom"),
}
# Kept of a slice's header to tie a mask to it. Names and birth dates are not among them.
HEADER_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Modality", "SeriesNumber", "InstanceNumber",
    "Manufacturer", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "SliceThickness", "PositionReferenceIndicator", "PatientSize",
)  # fmt: skip
SEXES = ("", "M", "F", "O")


class DicomError(L3MuscleError):
    """A file that is not what it should be."""


@dataclass(frozen=True, kw_only=True)
class CTHeader(Grid):
    """An axial CT slice whose pixels are not read yet, from DICOM or a plane of a NIfTI volume; its grid is upright.

    Attributes
    ----------
    path : Path
    name : str
        The file as messages call it.
    patient_id : str
        Empty in slices that were de-identified to that degree.
    stored : Grid
        The pixels as the file stores them.
    turn : Turn
        From stored pixels to upright ones.
    pixels : callable
        Reads the upright Hounsfield units (H, W) int16.
    index : int or None
        Of a NIfTI plane: its number along the axial axis, from 0, as the file stores it.
    sop_instance_uid, frame_of_reference_uid : str
        Empty in NIfTI; the second also in some DICOM.
    header : Dataset
        What a mask's file needs to refer to the slice; neither name nor birth date.
    """

    path: Path
    name: str
    patient_id: str
    stored: Grid
    turn: Turn
    pixels: Callable[[], np.ndarray] = field(repr=False, compare=False)
    index: int | None = None
    sop_instance_uid: str = ""
    frame_of_reference_uid: str = ""
    header: Dataset = field(default_factory=Dataset, repr=False)

    @property
    def key(self) -> str:
        """What tells the slice from all others: its SOP Instance UID, or volume and plane."""
        return self.sop_instance_uid or f"{self.path}[{self.index}]"

    def read(self) -> "CTSlice":
        """The slice with its pixels.

        Raises
        ------
        L3MuscleError
            If they cannot be decoded or are not Hounsfield units.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(CTHeader)}
        return CTSlice(**values, hu=self.pixels())


@dataclass(frozen=True, kw_only=True)
class CTSlice(CTHeader):
    """One axial CT slice.

    Attributes
    ----------
    hu : ndarray, (H, W) int16
        Hounsfield units, upright; padding reads as -1024.
    """

    hu: np.ndarray


@contextmanager
def naming_damage(name: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the parser raise into a refusal that names the file.

    Values are parsed when they are first looked at, so this has to be around every look at an untrusted data set.
    """
    with warnings.catch_warnings():
        # Of what pydicom and highdicom warn about, the checks here refuse what matters.
        warnings.simplefilter("ignore")
        try:
            yield
        except DicomError:
            raise
        except L3MuscleError as error:
            raise DicomError(f"{name}: {error}") from None
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


def modality(dataset: Dataset, name: str) -> str:
    """What kind of object a data set is; `name` is the file's, for messages."""
    with naming_damage(name):
        return str(dataset.get("Modality") or "not stated")


def numbers(dataset: Dataset, keyword: str, count: int) -> np.ndarray:
    """An element's finite numbers, (count,).

    Raises
    ------
    L3MuscleError
        If it is missing or not that.
    """
    try:
        values = np.atleast_1d(np.array(dataset.get(keyword), dtype=np.float64))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise L3MuscleError(f"{keyword} is missing or not {count} finite number{'s' if count > 1 else ''}")
    return values


def read_ct_slice(path: Path, name: str = "") -> CTSlice:
    """Read one axial CT slice from a DICOM file; see `ct_header` for what is refused."""
    return ct_header(read_dataset(path, name, pixels=False), path, name).read()


def ct_header(dataset: Dataset, path: Path, name: str = "") -> CTHeader:
    """Check a data set, its pixels apart.

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
    name = name or path.name
    with naming_damage(name):
        # De-identification empties some of these in the data set and leaves them in the file's meta header.
        meta = getattr(dataset, "file_meta", None) or Dataset()
        sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
        sop_instance = str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "")
        _check_kind(dataset, sop_class)
        if not sop_instance:
            raise DicomError(f"{name}: SOPInstanceUID is missing")
        stored = _stored_grid(dataset)
        _rescale(dataset)
        upright, turn = stored.upright()
        frame = str(dataset.get("FrameOfReferenceUID") or "")
        header = Dataset()
        for keyword in HEADER_KEYWORDS:
            if _is_sound(dataset, keyword):
                header[keyword] = dataset[keyword]
        header.SOPClassUID, header.SOPInstanceUID = sop_class, sop_instance
        # Empty study and series follow from the frame of reference, so that masks of one scan share them.
        header.StudyInstanceUID = dataset.get("StudyInstanceUID") or uid("study of frame", frame or sop_instance)
        header.SeriesInstanceUID = dataset.get("SeriesInstanceUID") or uid("series of frame", frame or sop_instance)
        header.FrameOfReferenceUID = frame or uid("frame of", header.SeriesInstanceUID)
        return CTHeader(
            **vars(upright),
            path=path,
            name=name,
            patient_id=str(dataset.get("PatientID") or ""),
            stored=stored,
            turn=turn,
            pixels=lambda: turn.apply(_decode(read_dataset(path, name), stored.shape, name)),
            sop_instance_uid=sop_instance,
            frame_of_reference_uid=frame,
            header=header,
        )


def _check_kind(dataset: Dataset, sop_class: str) -> None:
    kind = dataset.get("Modality") or "not stated"
    name = UID(sop_class).name.removesuffix(" Storage") if sop_class else "file of no stated class"
    if "Enhanced CT" in name or int(dataset.get("NumberOfFrames") or 1) != 1:
        raise L3MuscleError(f"{name} of several frames; convert it to CT files of one slice each")
    if "Secondary Capture" in name:
        raise L3MuscleError(f"{name}: a picture without Hounsfield units, not a CT image")
    if kind != "CT" or sop_class != CTImageStorage:
        raise L3MuscleError(f"not a CT image but {name} (modality {kind})")
    if dataset.get("PhotometricInterpretation") != "MONOCHROME2" or dataset.get("SamplesPerPixel") != 1:
        raise L3MuscleError(f"pixels are {dataset.get('PhotometricInterpretation')}, not MONOCHROME2")


def _stored_grid(dataset: Dataset) -> Grid:
    rows, columns = (int(v) for v in (dataset.get("Rows") or 0, dataset.get("Columns") or 0))
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise L3MuscleError(f"{rows} x {columns} pixels; at most {MAX_SIDE} a side are accepted")
    spacing = numbers(dataset, "PixelSpacing", 2)
    if (spacing <= 0).any() or (spacing > MAX_PIXEL_MM).any():
        raise L3MuscleError(f"PixelSpacing of {spacing.tolist()} mm cannot be right")
    if "ORIGINAL" in (dataset.get("ImageType") or ()):
        _check_field_of_view(dataset, spacing, (rows, columns))
    return Grid(
        shape=(rows, columns),
        spacing=(float(spacing[0]), float(spacing[1])),
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6).reshape(2, 3),
    )


def _check_field_of_view(dataset: Dataset, spacing: np.ndarray, shape: tuple[int, int]) -> None:
    """Hold the spacing of a scanner's own image against its field of view, which is spread over a usual matrix.

    The image's own size is not enough: a cropped one keeps both. A scanner's own pixels are square, so that one spacing
    that was damaged by less stands out against the other.
    """
    stated = " x ".join(f"{value:.8g}" for value in spacing)
    if diameter := dataset.get("ReconstructionDiameter"):
        matrix, usual = float(diameter) / spacing, np.array([*shape, *USUAL_MATRICES])
        if (np.abs(matrix[:, None] / usual - 1).min(axis=1) > FIELD_TOLERANCE).any():
            raise L3MuscleError(f"PixelSpacing of {stated} mm contradicts a field of view of {float(diameter):g} mm")
    if abs(spacing[0] / spacing[1] - 1) > SQUARE_TOLERANCE:
        raise L3MuscleError(f"PixelSpacing of {stated} mm in a scanner's own image, whose pixels are square")


def _is_sound(dataset: Dataset, keyword: str) -> bool:
    """Whether an element is there with a value that may be written again."""
    try:
        value, kind = dataset[keyword].value, dataset[keyword].VR
        if kind in ("DS", "IS") and value not in (None, ""):
            np.array(value, dtype=np.float64)
        elif kind in ("DA", "TM"):
            (DA if kind == "DA" else TM)(value)
        return keyword != "PatientSex" or value in SEXES
    except Exception:
        return False


def _rescale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept from stored values to Hounsfield units."""
    slope, intercept = (float(numbers(dataset, keyword, 1)[0]) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope <= 0:
        raise L3MuscleError(f"RescaleSlope is {slope:g}")
    if str(dataset.get("RescaleType") or "") not in HU_TYPES:
        raise L3MuscleError(f"rescales to {dataset.RescaleType}, not to Hounsfield units")
    return slope, intercept


def _decode(dataset: FileDataset, shape: tuple[int, int], name: str) -> np.ndarray:
    """Hounsfield units (H, W) int16 as the file stores them."""
    with naming_damage(name):
        slope, intercept = _rescale(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            plugin, package = DECODERS.get(syntax, ("", "a decoder for pydicom"))
            if plugin not in get_decoder(syntax).available_plugins:
                raise DicomError(f"{name}: pixels are packed as {syntax.name}; to read them install {package}")
            if syntax in JPEG:
                _check_jpeg(get_frame(dataset.PixelData, 0, number_of_frames=1), shape)
            dataset.pixel_array_options(decoding_plugin=plugin)
        else:
            row = shape[1] * int(dataset.BitsAllocated) // 8
            # Values have an even length: one byte may be padding.
            if len(dataset.get("PixelData", b"")) != (shape[0] * row + 1) // 2 * 2:
                raise DicomError(f"{name}: the pixel data are not of the {shape[0]} x {shape[1]} pixels it states")
        try:
            stored = dataset.pixel_array
        except Exception as error:  # each decoder raises its own kinds
            raise DicomError(f"{name}: pixels cannot be decoded ({type(error).__name__}: {reason_of(error)})") from None
        if stored.shape != shape:
            raise DicomError(f"{name}: {stored.shape} pixels decoded where the header says {shape}")
        hu = np.rint(stored * slope + intercept)
        hu[_padding(dataset, stored, hu)] = AIR_HU
        return as_hounsfield(hu)


def _check_jpeg(frame: bytes, shape: tuple[int, int]) -> None:
    """Refuse a damaged JPEG stream, for which the decoder would end the whole process."""
    at, markers, sound = 2, [], frame[:2] == b"\xff\xd8"
    while sound and markers[-1:] != [0xDA]:
        sound = frame[at : at + 1] == b"\xff" and at + 10 <= len(frame)
        if sound:
            markers.append(frame[at + 1])
            if markers[-1] in (0xC0, 0xC1, 0xC3):  # the start of the frame: precision, rows, columns, components
                stated = int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
                sound = stated == shape and frame[at + 4] <= 16 and frame[at + 9] == 1
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    known = all(marker in (0xC0, 0xC1, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE) or marker >> 4 == 0xE for marker in markers)
    once = sum(marker in (0xC0, 0xC1, 0xC3) for marker in markers) == 1 and 0xC4 in markers
    scan = np.frombuffer(frame[at:], np.uint8)
    follows = scan[1:][scan[:-1] == 0xFF]  # in coded data a zero, a restart or the end
    if not (sound and known and once and np.isin(follows, (0, *range(0xD0, 0xD8), 0xD9, 0xFF)).all()):
        raise L3MuscleError("pixels cannot be decoded (a damaged JPEG stream, or one of other pixels)")


def _padding(dataset: Dataset, stored: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool that hold no measurement.

    Specks of a padding value that tissue can have as well are taken for tissue.
    """
    padding = np.zeros(stored.shape, dtype=bool)
    if dataset.get("PixelPaddingValue") is not None:
        # Signed or unsigned, whichever its writer took: the same bits.
        bits = 1 << int(dataset.BitsAllocated)
        ends = [
            int(dataset.get(key, dataset.PixelPaddingValue)) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        ]
        low, high = min(ends), max(ends)
        values = stored.astype(np.int64)
        padding = (values - low) % bits <= high - low
        tissue = padding & (hu > AIR_HU) & (hu <= STORED_HU[1])
        if tissue.any():
            regions, _ = ndimage.label(tissue)
            padding &= ~tissue | (np.bincount(regions.ravel()) > hu.size // 10_000)[regions]
    return padding | (hu > LARGEST_HU) if int(dataset.PixelRepresentation) == 0 else padding


def as_hounsfield(values: np.ndarray) -> np.ndarray:
    """Check that values (H, W) are Hounsfield units of a body, and return them as int16, with -1024 for less.

    What every slice of a body holds, air and soft tissue, gives a wrong slope or intercept away if it moves them by
    more than they vary, about 200 HU; smaller errors do not show.

    Raises
    ------
    L3MuscleError
        If they are not.
    """
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all() or high > 32767:
        raise L3MuscleError(f"values from {low:g} to {high:g} are not Hounsfield units")
    hu = np.maximum(np.rint(values), AIR_HU).astype(np.int16)
    step = max(1, min(hu.shape) // 128)
    some = hu[::step, ::step]
    tissue = np.mean((some >= TISSUE_HU[0]) & (some <= TISSUE_HU[1]))
    thin = some[(some < THIN_HU) & (some > hu.min())]  # padding, where there is any, is the least of all
    has_air = len(thin) > 0.01 * some.size
    air = np.quantile(thin, 0.1) if has_air else AIR_HU
    sound = tissue >= max(0.02, 0.25 * np.mean(some >= TISSUE_HU[0])) and AIR_RANGE_HU[0] <= air <= AIR_RANGE_HU[1]
    # Without air, the least is fat or gas in the bowel, and little is as dense as bone.
    if not sound or (not has_air and hu.min() > THIN_HU and (hu.min() > -30 or np.mean(some > DENSE_HU) > 0.05)):
        raise L3MuscleError(
            f"values from {low:g} to {high:g} are not Hounsfield units; no body has such shares of air and soft tissue"
        )
    return hu


def uid(*parts: object) -> str:
    """A UID that follows from its parts, so that the same content is the same file."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def new_file(sop_class: str, sop_instance: str) -> FileDataset:
    """An empty DICOM file of a class."""
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
    intercept = STORED_HU[0]
    stored = (np.clip(np.rint(hu), *STORED_HU) - intercept).astype("<u2")
    content = hashlib.sha256(stored.tobytes()).hexdigest()
    ds = new_file(CTImageStorage, uid("ct", patient_id, content, *spacing, position_mm))
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Modality, ds.Manufacturer = "CT", "l3muscle"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "", patient_id, "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study", patient_id), uid("series", patient_id)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid("frame", patient_id), ""
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
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = intercept, 1, "HU"
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)
