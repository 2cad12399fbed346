"""Reading and writing CT slices and masks as DICOM, and masks as NIfTI.

Reading is by whitelist: what is not known to be an axial, single-frame CT slice with its spacing and rescale stated is
refused with the reason. Spacing is never guessed.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)
from skimage.measure import find_contours

from l3muscle.errors import L3MuscleError, reason_of

MAX_SIDE = 4096  # pixels; a header that claims more is refused before anything is allocated
MAX_PIXEL_MM = 12.0  # a 700 mm field of 64 pixels has 10.9
AXIAL_TOLERANCE = 0.02  # of a direction cosine: about one degree
STORED_INTERCEPT = -1024
HU_RANGE = (-1024, 3071)  # what twelve stored bits hold
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


@dataclass(frozen=True)
class CTSlice:
    """One axial CT slice.

    Attributes
    ----------
    path : Path
    hu : ndarray, (H, W) int16
    spacing : (float, float)
        Row and column spacing, mm.
    patient_id, sop_instance_uid, frame_of_reference_uid : str
        The patient ID is empty in slices that were de-identified to that degree.
    position : ndarray, (3,)
        Centre of the first pixel, mm in the patient's frame.
    orientation : ndarray, (2, 3)
        Direction of increasing column index, then of increasing row index.
    header : Dataset
        What a mask's file needs to refer to the slice; neither name nor birth date. Study and series UIDs that are
        empty in the slice follow from its frame of reference here, so that masks of one scan share them.
    """

    path: Path
    hu: np.ndarray
    spacing: tuple[float, float]
    patient_id: str
    sop_instance_uid: str
    frame_of_reference_uid: str
    position: np.ndarray
    orientation: np.ndarray
    header: Dataset

    @property
    def location_mm(self) -> float:
        """Position along the slice's normal."""
        return float(np.dot(np.cross(*self.orientation), self.position))


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


def read_dataset(path: Path) -> FileDataset:
    """Read a DICOM file.

    Raises
    ------
    DicomError
        If it is not one, or is cut short.
    """
    with naming_damage(path.name):
        try:
            return pydicom.dcmread(path)
        except InvalidDicomError:
            raise DicomError(f"{path.name}: not a DICOM file") from None
        except OSError as error:
            raise DicomError(f"{path.name}: cannot be read ({reason_of(error)})") from None


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


def ct_slice(dataset: Dataset, path: Path) -> CTSlice:
    """Check a dataset against the whitelist and decode it; see `read_ct_slice`."""
    with naming_damage(path.name):
        return _ct_slice(dataset, path)


def _ct_slice(dataset: Dataset, path: Path) -> CTSlice:
    name = path.name
    # De-identification empties some of these in the data set and leaves them in the file's meta header.
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    sop_instance = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
    if dataset.get("Modality") != "CT" or sop_class != CTImageStorage:
        raise DicomError(f"{name}: not a CT image (modality {dataset.get('Modality', 'not stated')})")
    if not sop_instance:
        raise DicomError(f"{name}: SOPInstanceUID is missing")
    if not dataset.get("FrameOfReferenceUID"):
        raise DicomError(f"{name}: FrameOfReferenceUID is missing")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DicomError(f"{name}: holds several frames; one slice a file is expected")
    if dataset.get("PhotometricInterpretation") != "MONOCHROME2" or dataset.get("SamplesPerPixel") != 1:
        raise DicomError(f"{name}: pixels are {dataset.get('PhotometricInterpretation')}, not MONOCHROME2")
    rows, columns = (int(v) for v in (dataset.get("Rows") or 0, dataset.get("Columns") or 0))
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise DicomError(f"{name}: {rows} x {columns} pixels; at most {MAX_SIDE} a side are accepted")
    slope = _numbers(dataset, "RescaleSlope", 1, name)[0]
    intercept = _numbers(dataset, "RescaleIntercept", 1, name)[0]
    if slope <= 0:
        raise DicomError(f"{name}: RescaleSlope is {slope:g}")
    spacing = _numbers(dataset, "PixelSpacing", 2, name)
    if (spacing <= 0).any() or (spacing > MAX_PIXEL_MM).any():
        raise DicomError(f"{name}: PixelSpacing of {spacing.tolist()} mm cannot be right")
    orientation = _numbers(dataset, "ImageOrientationPatient", 6, name).reshape(2, 3)
    if not np.allclose(np.abs(orientation), [[1, 0, 0], [0, 1, 0]], atol=AXIAL_TOLERANCE):
        raise DicomError(f"{name}: not an axial slice (orientation {orientation.ravel().round(3).tolist()})")
    position = _numbers(dataset, "ImagePositionPatient", 3, name)
    try:
        stored = dataset.pixel_array
    except Exception as error:  # each decoder raises its own kinds
        raise DicomError(f"{name}: pixels cannot be decoded ({type(error).__name__}: {error})") from None
    if stored.shape != (rows, columns):
        raise DicomError(f"{name}: {stored.shape} pixels decoded where the header says {(rows, columns)}")
    hu = np.rint(stored * slope + intercept)
    if hu.min() < -32768 or hu.max() > 32767:
        raise DicomError(f"{name}: values from {hu.min():g} to {hu.max():g} are not Hounsfield units")
    header = Dataset()
    for keyword in HEADER_KEYWORDS:
        if keyword in dataset:
            header[keyword] = dataset[keyword]
    header.SOPClassUID, header.SOPInstanceUID = sop_class, sop_instance
    frame = str(dataset.FrameOfReferenceUID)
    header.StudyInstanceUID = dataset.get("StudyInstanceUID") or _uid("study of frame", frame)
    header.SeriesInstanceUID = dataset.get("SeriesInstanceUID") or _uid("series of frame", frame)
    return CTSlice(
        path=path,
        hu=hu.astype(np.int16),
        spacing=(float(spacing[0]), float(spacing[1])),
        patient_id=str(dataset.get("PatientID") or ""),
        sop_instance_uid=str(sop_instance),
        frame_of_reference_uid=frame,
        position=position,
        orientation=orientation,
        header=header,
    )


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
    files = [path for path in files if path.suffix.lower() not in (".json", ".csv", ".txt", ".md")]
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


def referenced_slices(dataset: Dataset, name: str) -> set[str]:
    """SOP Instance UIDs of the slices that a structure set's contours lie on; `name` is the file's, for messages."""
    with naming_damage(name):
        return {
            image.ReferencedSOPInstanceUID
            for roi in dataset.get("ROIContourSequence", [])
            for contour in roi.get("ContourSequence", [])
            for image in contour.get("ContourImageSequence", [])
        }


def _contour_points(contour: Dataset) -> np.ndarray:
    """Points (K, 3), mm. Taken from the raw text, as pydicom's decimal strings cost most of a cohort's reading time."""
    value = contour.get_item("ContourData").value
    numbers = value.decode("ascii").split("\\") if isinstance(value, bytes) else value
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def rtstruct_masks(dataset: Dataset, ct: CTSlice, name: str) -> dict[str, np.ndarray]:
    """The ROIs of a structure set that lie on a slice, as masks.

    Parameters
    ----------
    dataset : Dataset
        Of modality RTSTRUCT.
    ct : CTSlice
    name : str
        Of the file, for messages.

    Returns
    -------
    dict of str to ndarray, (H, W) bool

    Raises
    ------
    DicomError
        If it lies in another frame of reference, or a contour is malformed or off the slice's plane.
    """
    with naming_damage(name):
        return _rtstruct_masks(dataset, ct, name)


def _rtstruct_masks(dataset: Dataset, ct: CTSlice, name: str) -> dict[str, np.ndarray]:
    frames = {roi.get("ReferencedFrameOfReferenceUID") for roi in dataset.get("StructureSetROISequence", [])}
    if frames - {None, ct.frame_of_reference_uid}:
        raise DicomError(f"{name}: drawn in another frame of reference than {ct.path.name}")
    names = {roi.ROINumber: str(roi.get("ROIName", "")) for roi in dataset.get("StructureSetROISequence", [])}
    normal = np.cross(*ct.orientation)
    masks: dict[str, np.ndarray] = {}
    for item in dataset.get("ROIContourSequence", []):
        outlines = []
        for contour in item.get("ContourSequence", []):
            images = {image.ReferencedSOPInstanceUID for image in contour.get("ContourImageSequence", [])}
            if images and ct.sop_instance_uid not in images:
                continue
            try:
                points = _contour_points(contour) - ct.position
            except (AttributeError, TypeError, ValueError):
                raise DicomError(f"{name}: a contour's points are not triples of numbers") from None
            if not np.isfinite(points).all() or np.abs(points @ normal).max(initial=0) > 1.0:
                raise DicomError(f"{name}: a contour does not lie in the plane of {ct.path.name}")
            rows = points @ ct.orientation[1] / ct.spacing[0]
            columns = points @ ct.orientation[0] / ct.spacing[1]
            outlines.append(np.stack([rows, columns], axis=1))
        roi = names.get(item.get("ReferencedROINumber"), "")
        if outlines:
            masks[roi] = fill_contours(outlines, ct.hu.shape)
    return masks


def read_rtstruct(path: Path, ct: CTSlice) -> dict[str, np.ndarray]:
    """Read the ROIs of an RT Structure Set that lie on `ct`; see `rtstruct_masks`."""
    dataset = read_dataset(path)
    if modality(dataset, path.name) != "RTSTRUCT":
        raise DicomError(f"{path.name}: not an RTSTRUCT")
    return rtstruct_masks(dataset, ct, path.name)


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
