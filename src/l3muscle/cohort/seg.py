"""Reading and writing masks as DICOM Segmentations: binary, fractional and label maps."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from l3muscle.cohort.ct import STUDY_KEYWORDS, CTSlice, read_dataset, uid
from l3muscle.cohort.files import reading
from l3muscle.cohort.geometry import MAX_SIDE, Grid, Turn
from l3muscle.cohort.outlines import Part, ReferringFile, roles
from l3muscle.cohort.pixels import numbers, stored_values
from l3muscle.errors import L3MuscleError

SKELETAL_MUSCLE, TISSUE = ("127954009", "SCT", "Skeletal muscle"), ("85756007", "SCT", "Tissue")


@lru_cache(maxsize=2)
def _segmentation(path: Path, _modified_ns: int, name: str) -> FileDataset:
    return read_dataset(path, name)


class SegmentationFile(ReferringFile):
    """The muscle's and the observers' segments of a DICOM Segmentation, where they have a pixel.

    Frames are read by pydicom: highdicom, which writes them, refuses files that lack what nobody needs here.

    Parameters
    ----------
    path : Path
    name : str
        The file as messages call it.
    wanted : sequence of str
        Labels of the segments that are muscle; without any, by the rules of `l3muscle.cohort.outlines`.

    Raises
    ------
    FileError
        If it does not say which segment is the muscle, or where its frames lie.
    """

    def __init__(self, path: Path, name: str, wanted: Sequence[str] = ()) -> None:
        self._path = path
        with reading(name):
            dataset = _segmentation(path, path.stat().st_mtime_ns, name)
            self._shape = (int(dataset.Rows), int(dataset.Columns))
            if not 0 < min(self._shape) <= max(self._shape) <= MAX_SIDE:
                raise L3MuscleError("{} x {} pixels; at most {} a side".format(*self._shape, MAX_SIDE))
            kind = str(dataset.SegmentationType)
            self._is_label_map = kind == "LABELMAP"
            self._maximum = int(dataset.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
            labels, describes = {}, {}
            for segment in dataset.SegmentSequence:
                if number := int(segment.SegmentNumber):  # 0 is the background of a label map
                    labels[number] = str(segment.get("SegmentLabel", ""))
                    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or []
                    describes[number] = " ".join(str(kind.get("CodeMeaning", "")) for kind in kinds)
            drawn_by = {number: by for by, numbers in roles(labels, wanted, describes).items() for number in numbers}
            frames = enumerate(dataset.PerFrameFunctionalGroupsSequence)
            parts = [part for index, own in frames for part in self._parts_of(dataset, index, own, drawn_by)]
            series = {str(item.get("SeriesInstanceUID")) for item in dataset.get("ReferencedSeriesSequence") or []}
        super().__init__(name, parts, series)

    def _parts_of(self, dataset: Dataset, index: int, own: Dataset, drawn_by: dict[int, str]) -> Iterator[Part]:
        """What one frame, counted from 0, holds of the muscle's and the observers' segments."""
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

        def group(keyword: str) -> Dataset:
            return (own.get(keyword) or shared[keyword].value)[0]

        numbers_here = drawn_by
        if not self._is_label_map:
            numbers_here = {int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)} & drawn_by.keys()
        marked = [number for number in numbers_here if self._inside(dataset, index, number).any()]
        if not marked:
            return
        stored = Grid(
            shape=self._shape,
            spacing=tuple(numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2).tolist()),
            position=numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6).reshape(2, 3),
        )
        grid, turn = stored.upright()
        images = frozenset(
            str(image.get("ReferencedSOPInstanceUID"))
            for groups in (own, shared)
            for derivation in groups.get("DerivationImageSequence") or []
            for image in derivation.get("SourceImageSequence") or []
        )
        frame = str(dataset.get("FrameOfReferenceUID") or "")
        for number in marked:
            yield Part(drawn_by[number], images, frame, grid.corners, (index, number, grid, turn))

    def _inside(self, dataset: FileDataset, index: int, number: int) -> np.ndarray:
        """Pixels (H, W) bool of a segment in a frame, as stored."""
        values = stored_values(dataset, self._shape, index)
        if self._is_label_map:
            return values == number
        if self._maximum > 1 and values.max() == 1:
            raise L3MuscleError(f"a fractional segmentation whose values are 0 and 1 of {self._maximum}")
        return (values > 0) & (values >= self._maximum / 2)

    def fill(self, contents: Sequence[tuple[int, int, Grid, Turn]], ct: CTSlice) -> np.ndarray:
        """The outline of frames, segments' numbers in them, and where they lie."""
        dataset = _segmentation(self._path, self._path.stat().st_mtime_ns, self.name)
        return np.logical_or.reduce(
            [ct.align(turn.apply(self._inside(dataset, index, number)), grid) for index, number, grid, turn in contents]
        )


def write_seg(path: Path, mask: np.ndarray, ct: CTSlice) -> None:
    """Write a mask (H, W) bool, upright, as DICOM Segmentation of the slice `ct`, in the slice's own pixels."""
    import highdicom  # takes a second, which reading is spared

    source = Dataset()
    source.update(ct.header)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", *STUDY_KEYWORDS):
        setattr(source, keyword, source.get(keyword, ""))
    source.SliceThickness = source.get("SliceThickness")
    # highdicom asks its sources for a transfer syntax, which says nothing about the mask.
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="skeletal muscle",
        segmented_property_category=highdicom.sr.CodedConcept(*TISSUE),
        segmented_property_type=highdicom.sr.CodedConcept(*SKELETAL_MUSCLE),
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
