"""Reading and writing axial CT slices as DICOM.

What is not known to be an axial, single-frame CT slice in Hounsfield units with its spacing stated is refused with the
reason. Spacing is never guessed. Slices are read upright (see `l3muscle.cohort.geometry`).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DA, TM

from l3muscle.cohort.files import reading
from l3muscle.cohort.geometry import MAX_PIXEL_MM, MAX_SIDE, Grid, Turn
from l3muscle.cohort.pixels import STORED_HU, hounsfield, numbers, rescale
from l3muscle.errors import L3MuscleError

USUAL_MATRICES = (256, 320, 340, 512, 768, 1024)
FIELD_TOLERANCE = 0.003  # one pixel of 512, and diameters in whole millimetres
UNDEFINED_LENGTH = 0xFFFFFFFF
FIRST_GROUPS = (b"\x02\0", b"\x08\0")  # with which a file begins that lacks the preamble
# Kept of a slice's header to tie a mask to it. Names and birth dates are not among them.
HEADER_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "Modality", "SeriesNumber", "InstanceNumber",
    "Manufacturer", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "SliceThickness", "PositionReferenceIndicator", "PatientSize",
)  # fmt: skip
STUDY_KEYWORDS = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientSex")  # empty where unknown
SEXES = ("", "M", "F", "O")


@dataclass(frozen=True, kw_only=True)
class CTSlice(Grid):
    """An axial CT slice, from DICOM or a plane of a NIfTI volume: its header, and its pixels when they are asked for.

    Its grid is upright.

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

    @property
    def hu(self) -> np.ndarray:
        """Hounsfield units (H, W) int16, upright, padding as -1024; read from the file anew at every look.

        Raises
        ------
        L3MuscleError
            If the pixels cannot be decoded or are not Hounsfield units.
        """
        return self.pixels()


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
    FileError
        If it is not one, or is cut short.
    """
    name = name or path.name
    with reading(name):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        except InvalidDicomError:
            with path.open("rb") as file:
                if file.read(2) not in FIRST_GROUPS:
                    raise L3MuscleError("not a DICOM file") from None
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        # The parser takes what is left of the file for an element's value, however much longer that should be.
        for _, element in dataset.items():
            is_raw = isinstance(element, RawDataElement) and isinstance(element.value, bytes)
            if is_raw and len(element.value) < element.length < UNDEFINED_LENGTH:
                raise L3MuscleError("the file is cut short")
        return dataset


def modality(dataset: Dataset, name: str) -> str:
    """What kind of object a data set is; `name` is the file's, for messages."""
    with reading(name):
        return str(dataset.get("Modality") or "not stated")


def read_ct_slice(path: Path, name: str = "") -> CTSlice:
    """Read one axial CT slice from a DICOM file; see `ct_slice` for what is refused."""
    return ct_slice(read_dataset(path, name, pixels=False), path, name)


def ct_slice(dataset: Dataset, path: Path, name: str = "") -> CTSlice:
    """The slice that a DICOM file holds, by its data set, after all checks that need no pixel.

    Parameters
    ----------
    dataset : Dataset
    path : Path
    name : str, optional
        The file as messages call it; by default its name without the folders.

    Raises
    ------
    FileError
        One sentence that names the file and what is wrong with it.
    """
    name = name or path.name
    with reading(name):
        # De-identification empties some of these in the data set and leaves them in the file's meta header.
        meta = getattr(dataset, "file_meta", None) or Dataset()
        sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
        sop_instance = str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "")
        _check_kind(dataset, sop_class)
        if not sop_instance:
            raise L3MuscleError("SOPInstanceUID is missing")
        stored = _stored_grid(dataset)
        rescale(dataset)
        upright, turn = stored.upright()
        frame = str(dataset.get("FrameOfReferenceUID") or "")
        header = Dataset()
        for keyword in HEADER_KEYWORDS:
            if _is_sound(dataset, keyword):
                header[keyword] = dataset[keyword]
        header.SOPClassUID, header.SOPInstanceUID, header.Modality = sop_class, sop_instance, "CT"
        # Empty study and series follow from the frame of reference, so that masks of one scan share them.
        header.StudyInstanceUID = dataset.get("StudyInstanceUID") or uid("study of frame", frame or sop_instance)
        header.SeriesInstanceUID = dataset.get("SeriesInstanceUID") or uid("series of frame", frame or sop_instance)
        header.FrameOfReferenceUID = frame or uid("frame of", header.SeriesInstanceUID)
        return CTSlice(
            **vars(upright),
            path=path,
            name=name,
            patient_id=str(dataset.get("PatientID") or ""),
            stored=stored,
            turn=turn,
            pixels=lambda: turn.apply(_decoded(path, stored.shape, name)),
            sop_instance_uid=sop_instance,
            frame_of_reference_uid=frame,
            header=header,
        )


def _decoded(path: Path, shape: tuple[int, int], name: str) -> np.ndarray:
    dataset = read_dataset(path, name)
    with reading(name):
        return hounsfield(dataset, shape)


def _check_kind(dataset: Dataset, sop_class: str) -> None:
    kind = dataset.get("Modality") or "not stated"
    name = UID(sop_class).name.removesuffix(" Storage") if sop_class else "file of no stated class"
    if "Enhanced CT" in name or int(dataset.get("NumberOfFrames") or 1) != 1:
        raise L3MuscleError(f"{name}, which may hold several frames; convert it to CT files of one slice each")
    if "Secondary Capture" in name:
        raise L3MuscleError(f"{name}: a picture without Hounsfield units, not a CT image")
    if sop_class != CTImageStorage or kind not in ("CT", "not stated"):
        raise L3MuscleError(f"not a CT image but {name} (modality {kind})")
    # White or black, this says how to show the pixels, and nothing about Hounsfield units.
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise L3MuscleError(f"PhotometricInterpretation is {dataset.get('PhotometricInterpretation') or 'missing'}")


def _stored_grid(dataset: Dataset) -> Grid:
    rows, columns = (int(v) for v in (dataset.get("Rows") or 0, dataset.get("Columns") or 0))
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise L3MuscleError(f"{rows} x {columns} pixels; at most {MAX_SIDE} a side are accepted")
    spacing = numbers(dataset, "PixelSpacing", 2)
    if (spacing <= 0).any() or (spacing > MAX_PIXEL_MM).any():
        raise L3MuscleError(f"PixelSpacing of {spacing.tolist()} mm cannot be right")
    if "ORIGINAL" in (dataset.get("ImageType") or ()) and (diameter := dataset.get("ReconstructionDiameter")):
        _check_field_of_view(float(diameter), spacing, (rows, columns))
    return Grid(
        shape=(rows, columns),
        spacing=(float(spacing[0]), float(spacing[1])),
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6).reshape(2, 3),
    )


def _check_field_of_view(diameter: float, spacing: np.ndarray, shape: tuple[int, int]) -> None:
    """Hold the spacing of a scanner's own image against its field of view, which is spread over a usual matrix.

    The image's own size is not enough: a cropped one keeps both.
    """
    matrix, usual = diameter / spacing, np.array([*shape, *USUAL_MATRICES])
    if (np.abs(matrix[:, None] / usual - 1).min(axis=1) > FIELD_TOLERANCE).any():
        stated = " x ".join(f"{value:.8g}" for value in spacing)
        raise L3MuscleError(f"PixelSpacing of {stated} mm contradicts a field of view of {diameter:g} mm")


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
