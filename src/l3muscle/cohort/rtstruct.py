"""Reading and writing outlines as RT Structure Sets.

Of a structure set only the muscle's and the observers' contours are read. What a contour means:

- contours inside others are holes, and islands in holes are muscle again; so are keyholes, where one line runs to the
  inner contour and back;
- contours that are there twice count once;
- contours that overlap add up;
- what lies between a hole that crosses its edge and an overlap is refused.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from skimage.measure import find_contours

from l3muscle.cohort.ct import STUDY_KEYWORDS, CTSlice, new_file, uid
from l3muscle.cohort.files import reading
from l3muscle.cohort.outlines import Part, ReferringFile, roles
from l3muscle.errors import L3MuscleError

FARTHEST_MM = 1e4
CLOSED, EXCLUSIVE = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
REPEAT_PIXELS = 0.5  # between the corners of a contour and another drawn again
OUTSIDE_SHARE = 0.2  # of the smaller contour; less of it outside the larger one is not told from a hole
EXPLICIT_DS_BYTES = 0xFFFF  # longer contours fit only the implicit transfer syntax
CONTOUR_DATA = Tag("ContourData")


@dataclass
class _Loop:
    """A closed line without repeated corners, the pixels (H, W) that it encloses, and the box around them."""

    corners: np.ndarray
    mask: np.ndarray
    box: tuple[slice, slice]
    depth: int = 0

    def __post_init__(self) -> None:
        self.size = int(np.count_nonzero(self.mask[self.box]))

    def shared(self, other: "_Loop") -> int:
        """How many pixels lie in both."""
        return int(np.count_nonzero(self.mask[self.box] & other.mask[self.box]))

    def repeats(self, other: "_Loop") -> bool:
        """Whether every corner lies on the line of `other`, which is about as large."""
        if not 0.5 < self.size / other.size < 2:
            return False
        start, end = other.corners, np.roll(other.corners, -1, axis=0)
        along = end - start
        length = np.maximum((along**2).sum(axis=1), 1e-12)
        to = self.corners[:, None] - start
        share = np.clip((to * along).sum(axis=2) / length, 0, 1)
        return bool((np.linalg.norm(to - share[..., None] * along, axis=2).min(axis=1) < REPEAT_PIXELS).all())


def _split(contour: np.ndarray) -> list[np.ndarray]:
    """Part a line where it comes back to an earlier corner: a keyhole becomes its outer and its inner contour."""
    loops, path, where = [], [], {}
    for corner in map(tuple, np.round(contour, 3).tolist()):
        if corner in where:
            first = where[corner]
            loops.append(path[first:])
            for gone in path[first + 1 :]:
                del where[gone]
            del path[first + 1 :]
        else:
            where[corner] = len(path)
            path.append(corner)
    return [np.array(loop) for loop in (*loops, path) if len(loop) > 2]


def _winding(contour: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """How often a closed line runs around the centres of the pixels in its box, (h, w) int, and that box.

    Scan lines through the pixel centres: each edge counts, by its direction, from where it crosses its row to the
    right. A point-in-polygon test of every pixel took most of the time of reading a cohort.
    """
    low = np.ceil(contour.min(axis=0)).clip(0, shape).astype(int)
    high = np.ceil(contour.max(axis=0)).clip(0, shape).astype(int)
    toggles = np.zeros((high[0] - low[0], high[1] - low[1] + 1), dtype=np.int32)
    start, end = contour, np.roll(contour, -1, axis=0)
    # An edge owns the rows from its upper end, inclusive, to its lower end, exclusive: corners count once.
    first = np.ceil(np.minimum(start[:, 0], end[:, 0])).clip(low[0], high[0]).astype(int)
    last = np.ceil(np.maximum(start[:, 0], end[:, 0])).clip(low[0], high[0]).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 1] - start[edge, 1]) / (end[edge, 0] - start[edge, 0])
    column = np.ceil(start[edge, 1] + (row - start[edge, 0]) * slope).clip(low[1], high[1]).astype(int)
    np.add.at(toggles, (row - low[0], column - low[1]), np.where(end[edge, 0] > start[edge, 0], 1, -1))
    return np.cumsum(toggles[:, :-1], axis=1), np.s_[low[0] : high[0], low[1] : high[1]]


def fill_contours(contours: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fill the closed contours of one outline; see above for what they mean.

    Parameters
    ----------
    contours : iterable of ndarray, (K, 2)
        Rows and columns of the corners; pixel centres are whole numbers.
    shape : (int, int)

    Returns
    -------
    ndarray, (H, W) bool
        Pixels whose centres lie inside.

    Raises
    ------
    L3MuscleError
        If they could mean two things.
    """
    loops = []
    for corners in (loop for contour in contours for loop in _split(contour)):
        turns, box = _winding(corners, shape)
        # Where a line crosses itself, small overlaps add up.
        if np.count_nonzero(turns % 2 == 0) - np.count_nonzero(turns == 0) > max(1, 0.02 * np.count_nonzero(turns)):
            raise L3MuscleError("a contour crosses itself, so that what it encloses cannot be told")
        if turns.any():
            mask = np.zeros(shape, dtype=bool)
            mask[box] = turns != 0
            loops.append(_Loop(corners, mask, box))
    larger: list[_Loop] = []
    for loop in sorted(loops, key=lambda loop: -loop.size):
        if _find_depth(loop, larger):
            larger.append(loop)
    filled = np.zeros(shape, dtype=bool)
    for loop in sorted(larger, key=lambda loop: loop.depth):
        filled[loop.box][loop.mask[loop.box]] = loop.depth % 2 == 0
    return filled


def _find_depth(loop: _Loop, larger: Sequence[_Loop]) -> bool:
    """Note how many contours a loop lies inside of, one another's overlaps counting as one; False for a repeat."""
    around, beside = [-1], set()
    for other in larger:
        shared, size = loop.shared(other), loop.size
        if not shared:
            continue
        union = size + other.size - shared
        if loop.repeats(other):
            return False
        if shared == size:
            around.append(other.depth)
        elif size - shared >= OUTSIDE_SHARE * size or shared > 0.9 * union or shared < 0.002 * union:
            beside.add(other.depth)
        else:
            raise L3MuscleError("a contour crosses the edge of another a little: a hole or a part cannot be told apart")
    loop.depth = max(around) + 1
    if beside - {loop.depth}:
        raise L3MuscleError("contours overlap in a way that holes and parts cannot be told apart")
    return True


class StructureSet(ReferringFile):
    """The muscle's and the observers' contours of an RT Structure Set.

    Parameters
    ----------
    dataset : Dataset
    name : str
        The file as messages call it.
    wanted : sequence of str
        Names of the ROIs that are muscle; without any, by the rules of `l3muscle.cohort.outlines`.

    Raises
    ------
    FileError
        If it does not say which ROI is the muscle, or one of its contours is open or malformed.
    """

    def __init__(self, dataset: Dataset, name: str, wanted: Sequence[str] = ()) -> None:
        with reading(name):
            rois = {int(roi.ROINumber): roi for roi in dataset.get("StructureSetROISequence") or []}
            kinds = {
                item.get("ReferencedROINumber"): str(item.get("RTROIInterpretedType") or "")
                for item in dataset.get("RTROIObservationsSequence") or []
            }
            drawn: dict[int, list[Dataset]] = defaultdict(list)
            for item in dataset.get("ROIContourSequence") or []:
                contours = item.get("ContourSequence") or []
                drawn[int(item.ReferencedROINumber)] += [c for c in contours if _has_area(c)]
            names = {
                number: str(rois[number].get("ROIName", "")) for number in drawn if drawn[number] and number in rois
            }
            frames = dataset.get("ReferencedFrameOfReferenceSequence") or []
            frame = str(frames[0].get("FrameOfReferenceUID") or "") if len(frames) == 1 else ""
            parts = [
                _parse(contour, by, number, str(rois[number].get("ReferencedFrameOfReferenceUID") or frame))
                for by, numbers in roles(names, wanted, kinds).items()
                for number in numbers
                for contour in drawn[number]
            ]
            series = {
                str(series.get("SeriesInstanceUID"))
                for item in frames
                for study in item.get("RTReferencedStudySequence") or []
                for series in study.get("RTReferencedSeriesSequence") or []
            }
        super().__init__(name, parts, series)

    def fill(self, contents: Sequence[tuple[int, np.ndarray, str]], ct: CTSlice) -> np.ndarray:
        """The outline of ROI numbers, points (K, 3), mm, and types of contours; several ROIs add up."""
        rois = defaultdict(list)
        for number, points, kind in contents:
            rois[number].append((ct.indices(points), kind))
        return np.logical_or.reduce([_fill_roi(contours, ct.shape) for contours in rois.values()])


def _fill_roi(contours: Sequence[tuple[np.ndarray, str]], shape: tuple[int, int]) -> np.ndarray:
    lines, kinds = [line for line, _ in contours], {kind for _, kind in contours}
    if any((line < -1).any() or (line > shape).any() for line in lines):
        raise L3MuscleError("an outline reaches beyond the slice's pixels")
    if len(kinds) > 1:
        raise L3MuscleError(f"contours of {CLOSED} and {EXCLUSIVE} in one outline")
    if kinds == {EXCLUSIVE}:
        return np.logical_xor.reduce([fill_contours([line], shape) for line in lines])
    return fill_contours(lines, shape)


def _has_area(contour: Dataset) -> bool:
    """Whether a contour is more than a marker, or nothing."""
    data = contour.get_item("ContourData")
    return contour.get("ContourGeometricType") != "POINT" and data is not None and bool(data.value)


def _parse(contour: Dataset, by: str, number: int, frame: str) -> Part:
    kind = contour.get("ContourGeometricType")
    if kind not in (CLOSED, EXCLUSIVE):
        raise L3MuscleError(f"a contour of the muscle is of type {kind or 'not stated'}, not a closed one in a plane")
    # From the raw text, as pydicom's decimal strings cost most of a cohort's reading time.
    value = contour.get_item("ContourData").value
    try:
        values = value.decode("ascii").rstrip("\0 ").split("\\") if isinstance(value, bytes) else value
        points = np.array(values, dtype=np.float64).reshape(-1, 3)
    except (AttributeError, TypeError, ValueError):
        raise L3MuscleError("a contour's points are not triples of numbers") from None
    if not np.isfinite(points).all() or np.abs(points).max() > FARTHEST_MM:
        raise L3MuscleError("a contour's points are not triples of numbers in millimetres")
    images = {str(item.get("ReferencedSOPInstanceUID") or "") for item in contour.get("ContourImageSequence") or []}
    return Part(by, frozenset(images - {""}), frame, points, (number, points, kind))


def mask_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Closed contours of a mask, (K, 2) rows and columns, halfway between the pixels inside and outside.

    Filled again they give the same mask, whatever its holes and islands. Only corners are kept: about half of the
    points, and the same line.
    """
    contours = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        contour = contour[:-1] - 1
        before, after = contour - np.roll(contour, 1, axis=0), np.roll(contour, -1, axis=0) - contour
        contours.append(contour[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])
    return contours


def write_rtstruct(path: Path, masks: Mapping[str, np.ndarray], ct: CTSlice) -> None:
    """Write masks of one slice as an RT Structure Set.

    Parameters
    ----------
    path : Path
    masks : mapping of str to ndarray, (H, W) bool
        Upright, by ROI name. An empty mask becomes an ROI without contours.
    ct : CTSlice
        The slice they belong to.
    """
    content = hashlib.sha256(b"".join(name.encode() + np.packbits(mask).tobytes() for name, mask in masks.items()))
    ds = new_file(RTStructureSetStorage, uid("rtstruct", ct.sop_instance_uid, content.hexdigest()))
    source = ct.header
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.StudyInstanceUID, uid("rt series", ds.SOPInstanceUID)
    for keyword in STUDY_KEYWORDS:
        setattr(ds, keyword, source.get(keyword, ""))
    ds.ReferringPhysicianName = ds.OperatorsName = ds.PatientName = ds.PatientBirthDate = ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.PatientID = "RTSTRUCT", "l3muscle", 1, ct.patient_id
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "skeletal muscle", "", ""

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, ct.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = source.SeriesInstanceUID, DicomSequence([image])
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", source.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source.FrameOfReferenceUID, DicomSequence([study])
    ds.ReferencedFrameOfReferenceSequence = DicomSequence([frame])

    rois, drawn, observations = [], [], []
    for number, (name, mask) in enumerate(masks.items(), start=1):
        roi, item, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, ""
        roi.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
        item.ReferencedROINumber = number
        outlines = [_contour_item(ds, ct.points(contour), image) for contour in mask_contours(mask)]
        if outlines:
            item.ContourSequence = DicomSequence(outlines)
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
        rois.append(roi)
        drawn.append(item)
        observations.append(observation)
    ds.StructureSetROISequence = DicomSequence(rois)
    ds.ROIContourSequence = DicomSequence(drawn)
    ds.RTROIObservationsSequence = DicomSequence(observations)
    ds.save_as(path, enforce_file_format=True)


def _contour_item(ds: Dataset, points: np.ndarray, image: Dataset) -> Dataset:
    outline = Dataset()
    outline.ContourImageSequence = DicomSequence([image])
    outline.ContourGeometricType = CLOSED
    outline.NumberOfContourPoints = len(points)
    # As finished text: checking every number on its own took longer than drawing the patient.
    text = "\\".join(f"{value:.4f}" for value in points.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    if len(text) > EXPLICIT_DS_BYTES:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    outline[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(text), text, 0, False, True)
    return outline
