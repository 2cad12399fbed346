"""Reading and writing masks as DICOM Segmentations: binary, fractional and label maps.

Frames find their slices by frame of reference and plane; one that names a single source image belongs to that image.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import highdicom
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from l3muscle.cohort.ct import CTHeader, CTSlice, DicomError, naming_damage, uid
from l3muscle.cohort.geometry import GRID_TOLERANCE_MM, MAX_SIDE, GeometryError, Grid, Turn
from l3muscle.cohort.outlines import roles
from l3muscle.cohort.pixels import numbers
from l3muscle.errors import L3MuscleError

SKELETAL_MUSCLE = highdicom.sr.CodedConcept("127954009", "SCT", "Skeletal muscle")
TISSUE = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")


@lru_cache(maxsize=2)
def _segmentation(path: Path, _modified_ns: int) -> highdicom.seg.Segmentation:
    return highdicom.seg.segread(path)


@dataclass(frozen=True)
class _Frame:
    index: int  # from 0
    segment: int | None  # None in a label map
    images: frozenset[str]
    grid: Grid
    turn: Turn


class SegmentationFile:
    """The muscle's and the observers' segments of a DICOM Segmentation.

    Parameters
    ----------
    path : Path
    name : str
        The file as messages call it.
    wanted : sequence of str
        Labels of the segments that are muscle; without any, by the rules of `l3muscle.cohort.outlines`.

    Raises
    ------
    DicomError
        If it does not say which segment is the muscle, or where its frames lie.
    """

    def __init__(self, path: Path, name: str, wanted: Sequence[str] = ()) -> None:
        self.path, self.name = path, name
        self._found: dict[str, dict[str, list[tuple[_Frame, int]]]] = {}
        with naming_damage(name):
            dataset = self._dataset()
            if not (0 < dataset.Rows <= MAX_SIDE and 0 < dataset.Columns <= MAX_SIDE):
                raise DicomError(f"{name}: {dataset.Rows} x {dataset.Columns} pixels; at most {MAX_SIDE} a side")
            self._is_label_map = str(dataset.SegmentationType) == "LABELMAP"
            self._maximum = 1
            if str(dataset.SegmentationType) == "FRACTIONAL":
                self._maximum = int(dataset.MaximumFractionalValue)
            labels, describes = {}, {}
            for segment in dataset.SegmentSequence:
                if number := int(segment.SegmentNumber):  # 0 is the background of a label map
                    labels[number] = str(segment.get("SegmentLabel", ""))
                    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or []
                    describes[number] = " ".join(str(kind.get("CodeMeaning", "")) for kind in kinds)
            self._roles = roles(labels, wanted, describes)
            self._frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
            frames = dataset.PerFrameFunctionalGroupsSequence
            self._frames = [self._frame(dataset, index, own, shared) for index, own in enumerate(frames)]

    def _dataset(self) -> highdicom.seg.Segmentation:
        return _segmentation(self.path, self.path.stat().st_mtime_ns)

    def _frame(self, dataset: Dataset, index: int, own: Dataset, shared: Dataset) -> _Frame:
        def group(keyword: str) -> Dataset:
            return (own.get(keyword) or shared[keyword].value)[0]

        measures = group("PixelMeasuresSequence")
        stored = Grid(
            shape=(int(dataset.Rows), int(dataset.Columns)),
            spacing=tuple(numbers(measures, "PixelSpacing", 2).tolist()),
            position=numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6).reshape(2, 3),
        )
        images = frozenset(
            str(image.get("ReferencedSOPInstanceUID"))
            for groups in (own, shared)
            for derivation in groups.get("DerivationImageSequence") or []
            for image in derivation.get("SourceImageSequence") or []
        )
        number = None
        if not self._is_label_map:
            number = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
        return _Frame(index, number, images, *stored.upright())

    def slices(self, candidates: Sequence[CTHeader]) -> set[str]:
        """Keys of the slices on which one of its outlines has a pixel.

        Raises
        ------
        DicomError
            If a frame names a slice that it does not lie on, or lies on two slices and names neither.
        """
        with naming_damage(self.name):
            self._found = defaultdict(lambda: defaultdict(list))
            known = {ct.sop_instance_uid: ct for ct in candidates if ct.sop_instance_uid}
            in_frame = [ct for ct in candidates if ct.frame_of_reference_uid == self._frame_of_reference != ""]
            locations = np.array([ct.location_mm for ct in in_frame])
            for frame in self._frames:
                inside = {
                    (by, number): self._inside(frame, number).any()
                    for by, segments in self._roles.items()
                    for number in segments
                    if frame.segment in (None, number)
                }
                if not any(inside.values()):
                    continue
                named = [known[image] for image in frame.images if image in known]
                if not frame.images:
                    near = np.flatnonzero(np.abs(locations - frame.grid.location_mm) < GRID_TOLERANCE_MM)
                    on = self._slice_of(frame, [in_frame[index] for index in near])
                else:
                    on = self._slice_of(frame, named)
                if on is not None:
                    for (by, number), marked in inside.items():
                        if marked:
                            self._found[on.key][by].append((frame, number))
            return set(self._found)

    def _slice_of(self, frame: _Frame, candidates: Sequence[CTHeader]) -> CTHeader | None:
        """The candidate, named by a frame or near it, that the frame lies on."""
        if any(ct.frame_of_reference_uid not in ("", self._frame_of_reference) for ct in candidates):
            raise DicomError(f"{self.name}: drawn in another frame of reference than {candidates[0].name}")
        if len(frame.images) == 1:
            for ct in candidates:
                ct.place(np.zeros(frame.grid.shape, bool), frame.grid)
            return candidates[0] if candidates else None
        on = [ct for ct in candidates if _is_on(frame, ct)]
        if len(on) > 1:
            raise L3MuscleError(f"a frame that names no single image lies on {on[0].name} and on {on[1].name}")
        return on[0] if on else None

    def _inside(self, frame: _Frame, number: int) -> np.ndarray:
        values = self._dataset().get_stored_frame(frame.index + 1)
        if self._is_label_map:
            return values == number
        if self._maximum > 1 and values.max() == 1:
            raise L3MuscleError(f"a fractional segmentation whose values are 0 and 1 of {self._maximum}")
        return (values > 0) & (values >= self._maximum / 2)

    def masks(self, ct: CTHeader) -> dict[str, np.ndarray]:
        """Its outlines of a slice by who drew them, (H, W) bool; `slices` says which slices there are."""
        with naming_damage(self.name):
            masks: dict[str, np.ndarray] = {}
            for by, frames in self._found.get(ct.key, {}).items():
                parts = [ct.place(f.turn.apply(self._inside(f, number)), f.grid) for f, number in frames]
                masks[by] = np.logical_or.reduce(parts)
            return masks


def _is_on(frame: _Frame, ct: CTHeader) -> bool:
    try:
        ct.place(np.zeros(frame.grid.shape, bool), frame.grid)
    except GeometryError:
        return False
    return True


def write_seg(path: Path, mask: np.ndarray, ct: CTSlice) -> None:
    """Write a mask (H, W) bool, upright, as DICOM Segmentation of the slice `ct`, in the slice's own pixels."""
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
    source.SliceThickness = source.get("SliceThickness")
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
    stored = ct.turn.undo(mask)
    digest = hashlib.sha256(np.packbits(stored).tobytes()).hexdigest()
    segmentation = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=stored[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=uid("seg series", ct.sop_instance_uid, digest),
        series_number=1,
        sop_instance_uid=uid("seg", ct.sop_instance_uid, digest),
        instance_number=1,
        manufacturer="l3muscle",
        manufacturer_model_name="l3muscle",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )
    segmentation.save_as(path)
