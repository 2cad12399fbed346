"""Masks from DICOM Segmentations, written by highdicom, against the arrays that went in."""

import numpy as np
import pydicom
import pytest
from building import SHAPE, add_slice, blob, body, stored_turned, write_foreign_seg
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from l3muscle.cohort import check_folder, load_cohort
from l3muscle.cohort.ct import CTSlice, read_ct_slice
from l3muscle.cohort.files import FileError
from l3muscle.cohort.seg import SegmentationFile, write_seg


@pytest.fixture
def slices(tmp_path) -> list[CTSlice]:
    return [add_slice(tmp_path / f"{n}.dcm", seed=n, position=3.0 * n) for n in range(3)]


def read(path, slices, wanted=()) -> list[dict]:
    file = SegmentationFile(path, path.name, wanted)
    keys = file.slices(slices)
    masks = [file.masks(ct) for ct in slices]
    assert keys == {ct.key for ct, mask in zip(slices, masks, strict=True) if mask}
    return masks


EMPTY = np.zeros(SHAPE, bool)
EXPERT = np.stack([blob(1), blob(2), blob(3)])
OBSERVER = np.stack([EMPTY, np.roll(blob(1), 20, axis=1) & ~blob(2), EMPTY])


def test_our_segmentations_read_back(slices, tmp_path):
    write_seg(tmp_path / "seg.dcm", blob(1), slices[1])
    first, second, third = read(tmp_path / "seg.dcm", slices)
    assert not first and not third and np.array_equal(second["expert"], blob(1))
    assert pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].SegmentLabel == "skeletal muscle"


def forget_sources(dataset) -> None:
    for groups in (*dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence[0]):
        groups.pop("DerivationImageSequence", None)


def name_all_sources(dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    every = [groups[n].DerivationImageSequence[0].SourceImageSequence[0] for n in range(len(groups))]
    for own in groups:
        own.DerivationImageSequence[0].SourceImageSequence = every


@pytest.mark.parametrize("change", [None, forget_sources, name_all_sources])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_frames_find_their_slices_by_name_and_by_plane(slices, tmp_path, kind, change):
    arrays = {"muscle": EXPERT, "observer 03": OBSERVER}
    masks = read(write_foreign_seg(tmp_path / "seg", slices, arrays, kind, change=change), slices)
    assert [sorted(found) for found in masks] == [["expert"], ["expert", "observer 03"], ["expert"]]
    assert all(np.array_equal(found["expert"], mask) for found, mask in zip(masks, EXPERT, strict=True))
    assert np.array_equal(masks[1]["observer 03"], OBSERVER[1])


def test_of_a_label_map_only_the_described_muscle_counts(slices, tmp_path):
    """Pixels of other labels, which nothing describes, and padding are no muscle."""

    def pad(dataset) -> None:
        frames = dataset.pixel_array.copy()
        frames[:, :3] = 255
        frames[:, -3:] = 7
        dataset.PixelData = frames.tobytes()
        dataset.add_new("PixelPaddingValue", "US", 255)

    path = write_foreign_seg(tmp_path / "seg", slices, {"muscle": EXPERT}, "LABELMAP", change=pad)
    expected = EXPERT.copy()
    expected[:, :3] = expected[:, -3:] = False
    assert all(np.array_equal(m["expert"], e) for m, e in zip(read(path, slices), expected, strict=True))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_other_segments_are_no_muscle_where_muscle_is_not_drawn(slices, tmp_path, kind):
    arrays = {"muscle": np.stack([blob(1), EMPTY, EMPTY]), "kidney": np.stack([EMPTY, blob(2), blob(3)])}
    write_foreign_seg(tmp_path / "seg", slices, arrays, kind)
    report = check_folder(tmp_path, several=True)
    assert [p.name for p in report.usable] == ["0.dcm"] and report.unlabelled == ["1.dcm", "2.dcm"]
    assert np.array_equal(report.usable[0].expert, blob(1))


def test_a_segment_is_muscle_by_its_name_or_the_user_s_word(slices, tmp_path):
    path = write_foreign_seg(tmp_path / "seg", slices, {"K": EXPERT, "L": OBSERVER})
    with pytest.raises(FileError, match="seg: outlines 'K', 'L'; which is the muscle"):
        read(path, slices)
    assert np.array_equal(read(path, slices, ["l"])[1]["expert"], OBSERVER[1])
    assert np.array_equal(check_folder(tmp_path, rois=["l"]).usable[0].expert, OBSERVER[1])


def test_a_fractional_segment_is_muscle_from_one_half(slices, tmp_path):
    share = np.where(blob(2), 0.8, np.where(blob(1), 0.3, 0.0))
    path = write_foreign_seg(tmp_path / "seg", slices[:1], {"expert": share[None]}, "FRACTIONAL")
    assert np.array_equal(read(path, slices)[0]["expert"], share > 0.5)


def test_a_binary_mask_called_fractional_is_named(slices, tmp_path):
    def ones(dataset) -> None:
        dataset.PixelData = (dataset.pixel_array > 0).astype(np.uint8).tobytes()

    path = write_foreign_seg(tmp_path / "seg", slices, {"expert": EXPERT}, "FRACTIONAL", change=ones)
    with pytest.raises(FileError, match="seg: a fractional segmentation whose values are 0 and 1 of 255"):
        read(path, slices)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_compressed_segmentations(slices, tmp_path, syntax):
    path = write_foreign_seg(tmp_path / "seg", slices, {"expert": EXPERT}, "FRACTIONAL", syntax)
    assert all(np.array_equal(m["expert"], e) for m, e in zip(read(path, slices), EXPERT, strict=True))


def test_segmentations_that_lack_what_nobody_needs(slices, tmp_path):
    def forget(dataset) -> None:
        del dataset.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence
        del dataset.SegmentSequence[0].SegmentAlgorithmType
        dataset.compress(RLELossless, encoding_plugin="pydicom")

    path = write_foreign_seg(tmp_path / "seg", slices, {"muscle": EXPERT}, "FRACTIONAL", change=forget)
    assert all(np.array_equal(m["expert"], e) for m, e in zip(read(path, slices), EXPERT, strict=True))


def test_a_segmentation_of_a_series_counts_where_it_marks(slices, tmp_path):
    marked = np.stack([EMPTY, blob(1), EMPTY])
    write_foreign_seg(tmp_path / "seg", slices, {"muscle": marked})
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], body(1)) and np.array_equal(cohort.masks[0], blob(1))


@pytest.mark.parametrize("orientation", [(-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, -1, 0), (0, 1, 0, 1, 0, 0)])
def test_a_segmentation_may_be_stored_in_another_orientation_than_its_slice(tmp_path, orientation):
    turned = read_ct_slice(stored_turned(tmp_path / "turned.dcm", body(), orientation))
    stored = pydicom.dcmread(stored_turned(tmp_path / "m.dcm", np.where(blob(2), 1, 0), orientation)).pixel_array > 1024
    path = write_foreign_seg(tmp_path / "seg", [turned], {"muscle": stored[None]}, change=forget_sources)
    upright = add_slice(tmp_path / "ct.dcm", FrameOfReferenceUID=turned.frame_of_reference_uid)
    assert np.array_equal(read(path, [upright])[0]["expert"], blob(2))
    assert np.array_equal(read(path, [turned])[0]["expert"], blob(2))


def test_a_segmentation_may_cover_a_part_of_the_slice(slices, tmp_path):
    """As programs write it that cut masks to what is marked."""

    def cut(dataset) -> None:
        frames = dataset.pixel_array[:, 4:-4, 8:-3]
        dataset.Rows, dataset.Columns = frames.shape[1:]
        dataset.PixelData = np.ascontiguousarray(frames).tobytes()
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            x, y, z = groups.PlanePositionSequence[0].ImagePositionPatient
            groups.PlanePositionSequence[0].ImagePositionPatient = [x + 8 * 1.1, y + 4 * 0.8, z]

    masks = EXPERT & np.pad(np.ones((25, 36), bool), ((4, 4), (8, 3)))
    path = write_foreign_seg(tmp_path / "seg", slices, {"muscle": masks}, "LABELMAP", change=cut)
    assert all(np.array_equal(m["expert"], e) for m, e in zip(read(path, slices), masks, strict=True))


def shift(dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        item = groups.PlanePositionSequence[0]
        item.ImagePositionPatient = [float(item.ImagePositionPatient[0]) + 0.6, *item.ImagePositionPatient[1:]]


def turn(dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    shared.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def other_spacing(dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.8, 1.15]


def no_segment(dataset) -> None:
    for groups in (dataset.PerFrameFunctionalGroupsSequence[0], dataset.SharedFunctionalGroupsSequence[0]):
        groups.pop("SegmentIdentificationSequence", None)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (shift, "lies up to 0.5 mm off"),
        (turn, "reaches beyond the slice"),
        (lambda dataset: setattr(dataset, "FrameOfReferenceUID", "1.2.3"), "another frame of reference"),
        (lambda dataset: setattr(dataset, "Rows", 65535), "65535 x 47 pixels"),
        (other_spacing, "mm off the slice"),
        (no_segment, "damaged DICOM file"),
        (lambda dataset: dataset.PerFrameFunctionalGroupsSequence[0].pop("PlanePositionSequence"), "damaged DICOM"),
    ],
)
def test_segmentations_off_the_slice_are_refused(slices, tmp_path, harm, reason):
    write_seg(tmp_path / "seg.dcm", blob(1), slices[0])
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    harm(dataset)
    dataset.save_as(tmp_path / "seg.dcm")
    with pytest.raises(FileError, match=reason) as caught:
        read(tmp_path / "seg.dcm", slices)
    assert str(caught.value).startswith("seg.dcm: ")
