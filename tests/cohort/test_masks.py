"""Masks from RTSTRUCT, DICOM-SEG, NIfTI and PNG: the right pixels, or a reason."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from l3muscle.cohort import dicom, masks
from l3muscle.cohort.dicom import DicomError
from l3muscle.cohort.masks import MaskError
from l3muscle.cohort.nifti import NiftiError, Volume

SHAPE = (33, 47)  # neither of them whole bytes
SPACING = (0.8, 1.1)


def blob(seed: int, shape=SHAPE) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - 12 - seed % 5, columns - 18 - seed % 3) < 6 + seed % 4


def slice_at(path: Path, position: float = 12.5, patient: str = "P1") -> dicom.CTSlice:
    hu = np.random.default_rng(0).integers(-1000, 1500, SHAPE)
    dicom.write_ct_slice(path, hu, SPACING, patient_id=patient, position_mm=position)
    return dicom.read_ct_slice(path)


@pytest.fixture
def ct(tmp_path) -> dicom.CTSlice:
    return slice_at(tmp_path / "ct.dcm")


def source(ct: dicom.CTSlice) -> pydicom.Dataset:
    dataset = pydicom.dcmread(ct.path, stop_before_pixels=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write_foreign_seg(path: Path, slices, arrays: dict[str, np.ndarray], kind: str = "BINARY", syntax=None) -> Path:
    """A segmentation of several slices as highdicom writes it: (slices, rows, columns) for each label."""
    dtype = np.float32 if kind == "FRACTIONAL" else np.uint8
    segmentation = highdicom.seg.Segmentation(
        source_images=[source(ct) for ct in slices],
        pixel_array=np.stack([array.astype(dtype) for array in arrays.values()], axis=-1),
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                number, label, dicom.TISSUE, dicom.SKELETAL_MUSCLE, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
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
    return path


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


def test_our_segmentations_read_back(ct, tmp_path):
    dicom.write_seg(tmp_path / "seg.dcm", blob(1), ct)
    assert [*(read := masks.read_masks(tmp_path / "seg.dcm", ct, "seg"))] == ["skeletal muscle"]
    assert np.array_equal(read["skeletal muscle"], blob(1))


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_of_one_slice_among_several(tmp_path, kind):
    slices = [slice_at(tmp_path / f"{z}.dcm", z) for z in (0.0, 3.0, 6.0)]
    expert = np.stack([blob(1), blob(2), blob(3)])
    observer = np.stack([np.zeros(SHAPE, bool), np.roll(blob(1), 20, axis=1) & ~blob(2), np.zeros(SHAPE, bool)])
    path = write_foreign_seg(tmp_path / "seg.dcm", slices, {"expert": expert, "observer 03": observer}, kind)
    read = masks.read_masks(path, slices[1], "seg.dcm")
    assert set(read) == {"expert", "observer 03"}
    assert np.array_equal(read["expert"], expert[1]) and np.array_equal(read["observer 03"], observer[1])
    assert set(masks.read_masks(path, slices[2], "seg.dcm")) == {"expert"}


def test_a_fractional_segment_is_muscle_from_one_half(ct, tmp_path):
    share = np.where(blob(2), 0.8, np.where(blob(1), 0.3, 0.0))
    path = write_foreign_seg(tmp_path / "seg.dcm", [ct], {"expert": share[None]}, "FRACTIONAL")
    assert np.array_equal(masks.read_masks(path, ct, "seg")["expert"], share > 0.5)


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless])
def test_compressed_segmentations_read(ct, tmp_path, syntax):
    path = write_foreign_seg(tmp_path / "seg.dcm", [ct], {"expert": blob(4)[None]}, "FRACTIONAL", syntax)
    assert np.array_equal(masks.read_masks(path, ct, "seg")["expert"], blob(4))


def shift(dataset) -> None:
    item = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    item.ImagePositionPatient = [float(item.ImagePositionPatient[0]) + 0.6, *item.ImagePositionPatient[1:]]


def turn(dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    shared.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def other_frame(dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.3"


def other_size(dataset) -> None:
    dataset.Rows = 32


def huge(dataset) -> None:
    dataset.Rows = dataset.Columns = 65535


def other_spacing(dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.8, 1.15]


def no_segment(dataset) -> None:
    for groups in (dataset.PerFrameFunctionalGroupsSequence[0], dataset.SharedFunctionalGroupsSequence[0]):
        groups.pop("SegmentIdentificationSequence", None)


def no_position(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (shift, "lies up to 0.6 mm off"),
        (turn, "off the slice"),
        (other_frame, "another frame of reference"),
        (other_size, "has 32 x 47 pixels where the slice has 33 x 47"),
        (huge, "has 65535 x 65535 pixels"),
        (other_spacing, "mm off the slice"),
        (no_segment, "damaged DICOM file"),
        (no_position, "damaged DICOM file"),
    ],
)
def test_segmentations_off_the_slice_are_refused(ct, tmp_path, harm, reason):
    dicom.write_seg(tmp_path / "seg.dcm", blob(1), ct)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    harm(dataset)
    dataset.save_as(tmp_path / "seg.dcm")
    with pytest.raises(DicomError, match=reason) as caught:
        masks.read_masks(tmp_path / "seg.dcm", ct, "seg.dcm")
    assert str(caught.value).startswith("seg.dcm: ")


def write_contours(path: Path, ct: dicom.CTSlice, rois: dict[str, list[np.ndarray]], change=None) -> Path:
    """Contours (rows, columns) written as given, not as masks."""
    dicom.write_rtstruct(path, {name: blob(1) for name in rois}, ct)
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


def ring() -> np.ndarray:
    expected = np.zeros(SHAPE, bool)
    expected[5:25, 5:25] = True
    expected[10:15, 10:15] = False
    return expected


def test_a_contour_inside_another_is_a_hole(ct, tmp_path):
    path = write_contours(tmp_path / "rt.dcm", ct, {"expert": [square(4.5, 24.5), square(9.5, 14.5)]})
    assert np.array_equal(dicom.read_rtstruct(path, ct)["expert"], ring())


def keyhole(width: float) -> np.ndarray:
    """Outer square, a channel down to the inner one, around it the other way, and back."""
    around = square(4.5, 24.5)[[1, 2, 3, 0]]
    inner = square(9.5, 14.5)[[0, 3, 2, 1]]
    enter, leave = np.array([[4.5, 9.5]]), np.array([[9.5, 9.5 + width], [4.5, 9.5 + width]])
    return np.concatenate([around, enter, inner, leave])


@pytest.mark.parametrize("width", [0.0, 0.05])
def test_keyholes_open_no_channel(ct, tmp_path, width):
    path = write_contours(tmp_path / "rt.dcm", ct, {"expert": [keyhole(width)]})
    assert np.array_equal(dicom.read_rtstruct(path, ct)["expert"], ring())


def test_a_repeated_first_point_changes_nothing(ct, tmp_path):
    closed = np.concatenate([square(4.5, 24.5), square(4.5, 24.5)[:1]])
    path = write_contours(tmp_path / "rt.dcm", ct, {"expert": [closed, square(9.5, 14.5)]})
    assert np.array_equal(dicom.read_rtstruct(path, ct)["expert"], ring())


def test_contours_that_name_no_slice_go_by_position(tmp_path):
    below, here, above = (slice_at(tmp_path / f"{z}.dcm", z) for z in (0.0, 1.0, 2.0))

    def unname(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            del contour.ContourImageSequence

    path = write_contours(tmp_path / "rt.dcm", here, {"m": [square(4.5, 24.5), square(9.5, 14.5)]}, unname)
    dataset = dicom.read_dataset(path)
    assert dicom.referenced_slices(dataset, "rt", [below, here, above]) == {here.sop_instance_uid}
    assert np.array_equal(dicom.rtstruct_masks(dataset, here, "rt")["m"], ring())
    assert dicom.rtstruct_masks(dataset, above, "rt") == {}


def geometric_type(value: str):
    def change(dataset) -> None:
        dataset.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = value

    return change


def rename_second(dataset) -> None:
    dataset.StructureSetROISequence[1].ROIName = "expert"


def test_points_are_no_outline(ct, tmp_path):
    rois = {"marker": [square(4.5, 24.5)], "expert": [square(4.5, 9.5)]}
    path = write_contours(tmp_path / "rt.dcm", ct, rois, geometric_type("POINT"))
    assert set(dicom.read_rtstruct(path, ct)) == {"expert"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (geometric_type("OPEN_PLANAR"), "OPEN_PLANAR, not a closed one"),
        (rename_second, "two outlines of ct.dcm are called 'expert'"),
    ],
)
def test_structure_sets_that_could_be_read_two_ways_are_refused(ct, tmp_path, change, reason):
    rois = {"expert": [square(4.5, 24.5)], "other": [square(4.5, 9.5)]}
    path = write_contours(tmp_path / "rt.dcm", ct, rois, change)
    with pytest.raises(DicomError, match=reason):
        dicom.read_rtstruct(path, ct)


def test_contours_of_absurd_length_are_refused(ct, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_CONTOUR_ROWS", 500)
    zigzag = np.array([[0.0, 1.0], [30.0, 2.0]] * 10)
    path = write_contours(tmp_path / "rt.dcm", ct, {"expert": [zigzag]})
    with pytest.raises(DicomError, match="longer than any"):
        dicom.read_rtstruct(path, ct)


def test_a_structure_set_cut_anywhere_loses_no_outline_in_silence(ct, tmp_path):
    whole = {"expert": blob(1), "observer 01": blob(2), "observer 02": blob(3)}
    dicom.write_rtstruct(tmp_path / "rt.dcm", whole, ct)
    content = (tmp_path / "rt.dcm").read_bytes()
    refused = 0
    for length in range(140, len(content), 37):
        (tmp_path / "cut.dcm").write_bytes(content[:length])
        try:
            read = dicom.read_rtstruct(tmp_path / "cut.dcm", ct)
        except DicomError:
            refused += 1
            continue
        assert not read or all(np.array_equal(read[name], mask) for name, mask in whole.items())
    assert refused > 20


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_nifti_masks_come_onto_the_slice_whatever_their_order_of_axes(tmp_path, flips, order):
    path = slice_at(tmp_path / "ct.dcm").path
    dataset = pydicom.dcmread(path)
    dataset.ImageOrientationPatient = [flips[0], 0, 0, 0, flips[1], 0]
    dataset.save_as(path)
    ct = dicom.read_ct_slice(path)
    dicom.write_nifti(tmp_path / "mask.nii.gz", blob(1), ct)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    volume = np.repeat(written.get_fdata().astype(np.uint8), 3, axis=2)
    volume[..., (0, 2)] = 0
    affine = written.affine.copy()
    affine[:3, 3] -= affine[:3, 2]
    affine = affine[:, [*order, 3]]
    nibabel.save(nibabel.Nifti1Image(volume.transpose(order), affine), tmp_path / "turned.nii")
    assert np.array_equal(masks.nifti_mask(tmp_path / "mask.nii.gz", ct, "m"), blob(1))
    assert np.array_equal(masks.nifti_mask(tmp_path / "turned.nii", ct, "m"), blob(1))


def test_nifti_masks_off_the_slice_are_refused(ct, tmp_path):
    dicom.write_nifti(tmp_path / "m.nii.gz", blob(1), ct)
    image = nibabel.load(tmp_path / "m.nii.gz")
    data = np.asanyarray(image.dataobj)
    for change, reason in (
        (np.diag([1.05, 1, 1, 1]), "mm off the slice"),
        (np.array([[1, 0, 0, 0.6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "up to 0.6 mm off"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]), "up to 3.0 mm off"),
    ):
        nibabel.save(nibabel.Nifti1Image(data, change @ image.affine), tmp_path / "moved.nii")
        with pytest.raises(NiftiError, match=reason):
            masks.nifti_mask(tmp_path / "moved.nii", ct, "moved.nii")
    nibabel.save(nibabel.Nifti1Image(data[:-1], image.affine), tmp_path / "small.nii")
    with pytest.raises(NiftiError, match="has 33 x 46 pixels where the slice has 33 x 47"):
        masks.nifti_mask(tmp_path / "small.nii", ct, "small.nii")
    nibabel.save(
        nibabel.Nifti1Image(data + np.eye(*data.shape[:2], dtype=np.uint8)[..., None], image.affine), tmp_path / "l.nii"
    )
    with pytest.raises(MaskError, match="holds 0 and one other value; this holds 0, 1, 2"):
        masks.nifti_mask(tmp_path / "l.nii", ct, "l.nii")


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(blob(1)),
        Image.fromarray(blob(1).astype(np.uint8)),
        Image.fromarray(blob(1).astype(np.uint8) * 255),
        Image.fromarray(blob(1).astype(np.uint16) * 65535),
    ],
)
def test_png_masks_of_every_depth(ct, tmp_path, picture):
    picture.save(tmp_path / "m.png")
    assert np.array_equal(masks.png_mask(tmp_path / "m.png", ct, "m.png"), blob(1))


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.fromarray(blob(1, (47, 33)).astype(np.uint8)), "has 47 x 33 pixels where the slice has 33 x 47"),
        (Image.fromarray(blob(1).astype(np.uint8) + blob(2)), "holds 0, 1, 2"),
        (Image.fromarray(blob(1).astype(np.uint8) * 100 + 50), "holds 50, 150"),
        (Image.fromarray(blob(1)).convert("RGB"), "mode RGB"),
        (Image.new("1", (5000, 5000)), "has 5000 x 5000 pixels"),
    ],
)
def test_pictures_that_are_no_mask_are_refused(ct, tmp_path, picture, reason):
    picture.save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=reason):
        masks.png_mask(tmp_path / "m.png", ct, "m.png")


def test_damaged_pictures_are_refused(ct, tmp_path):
    Image.fromarray(blob(1)).save(tmp_path / "m.png")
    content = (tmp_path / "m.png").read_bytes()
    for length in range(0, len(content) - 24, 5):  # what is left of it then lacks some rows
        (tmp_path / "cut.png").write_bytes(content[:length])
        with pytest.raises(MaskError, match=r"^cut\.png: "):
            masks.png_mask(tmp_path / "cut.png", ct, "cut.png")


def body(planes: int = 3) -> np.ndarray:
    """A volume (W, H, planes) in which every voxel tells where it is."""
    x, y, z = np.meshgrid(np.arange(40), np.arange(30), np.arange(planes), indexing="ij")
    return (-1000 + x * 31 + y * 7 + z * 100).astype(np.int16)


LAS = np.array([[-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 3, -5], [0, 0, 0, 1.0]])  # to the left, back and head


def save(path: Path, data: np.ndarray, affine=LAS, **header) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def test_planes_are_shown_as_dicom_shows_them(tmp_path):
    volume = Volume(save(tmp_path / "v.nii.gz", body()), "v")
    assert (volume.planes, volume.shape) == (3, (30, 40))
    assert np.array_equal(volume.hu(1), body()[:, :, 1].T)
    grid = volume.grid(1)
    assert grid.spacing == pytest.approx((0.8, 0.9))
    np.testing.assert_allclose(grid.position, [-20, -30, -2])
    np.testing.assert_allclose(grid.orientation, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_every_orientation_gives_the_same_picture(tmp_path, flips, order):
    reference = Volume(save(tmp_path / "v.nii", body()), "v")
    image = nibabel.Nifti1Image(body(), LAS)
    turned = image.as_reoriented(np.array([[order[i], flips[i]] for i in range(3)]))
    nibabel.save(turned, tmp_path / "turned.nii")
    volume = Volume(tmp_path / "turned.nii", "t")
    for plane in range(3):
        assert np.array_equal(volume.hu(plane), reference.hu(plane))
        assert reference.grid(plane).mismatch(volume.grid(plane)) == ""
    assert volume.in_order_of_file(0) == (0 if flips[2] == 1 else 2)


def test_padding_is_air(tmp_path):
    data = body().astype(np.float32)
    data[0, 0] = -3000
    data[1, 0] = -1000.4
    volume = Volume(save(tmp_path / "v.nii", data), "v")
    assert volume.hu(0)[0, :2].tolist() == [-1024, -1000]


def oblique() -> np.ndarray:
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ LAS


@pytest.mark.parametrize(
    ("data", "affine", "header", "reason"),
    [
        (body(), oblique(), {}, "oblique"),
        (body(), LAS, {"xyzt_units": 3}, "unit of length is micron"),
        (body(), LAS, {"pixdim": [1, 0.9, 0.9, 3, 0, 0, 0, 0]}, "different spacings"),
        (body(), LAS, {"sform_code": 0, "qform_code": 0}, "states no orientation"),
        (body(), np.diag([-40, -0.8, 3, 1]), {}, "cannot be right"),
        (np.zeros((4, 4, 2, 3), np.int16), LAS, {}, "4 x 4 x 2 x 3 voxels"),
        (np.zeros((4, 5000), np.int16), LAS, {}, "at most 4096 a side"),
        (np.zeros((4, 4, 2001), np.int16), LAS, {}, "2000 axial planes"),
        (np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), LAS, {}, "one number a voxel"),
        (body()[:, :, 0], LAS[:, [0, 2, 1, 3]], {}, "not an axial plane"),
    ],
)
def test_volumes_that_would_need_a_guess_are_refused(tmp_path, data, affine, header, reason):
    save(tmp_path / "v.nii", data, affine)
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    image = nibabel.load(tmp_path / "v.nii")
    for key, value in header.items():
        image.header[key] = value
    raw[:348] = image.header.binaryblock  # saving would put it right again
    raw[108:112] = struct.pack("<f", 352)
    (tmp_path / "v.nii").write_bytes(raw)
    with pytest.raises(NiftiError, match=reason) as caught:
        Volume(tmp_path / "v.nii", "v.nii")
    assert str(caught.value).startswith("v.nii: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.linspace(0, 255, 1200).astype(np.uint8), "from 0 to 255 are not Hounsfield"),
        (np.linspace(0, 1, 1200).astype(np.float32), "from 0 to 1 are not Hounsfield"),
        (np.linspace(-3, 4, 1200).astype(np.float32), "from -3 to 4 are not Hounsfield"),
        (np.full(1200, -1000, np.int16), "from -1000 to -1000 are not Hounsfield"),
        (np.linspace(-1e6, 1e6, 1200).astype(np.float32), "are not Hounsfield"),
        (np.r_[np.linspace(-1000, 1000, 1199), np.nan].astype(np.float32), "not finite"),
    ],
)
def test_values_that_are_not_hounsfield_units_are_refused(tmp_path, values, reason):
    volume = Volume(save(tmp_path / "v.nii", values.reshape(40, 30, 1)), "v.nii")
    with pytest.raises(NiftiError, match=reason):
        volume.hu(0)


def test_absurd_sizes_and_bombs_cost_no_memory(ct, tmp_path):
    whole = bytearray(gzip.decompress(save(tmp_path / "v.nii.gz", body()).read_bytes()))
    headers = {
        "huge": {40: struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)},
        "large": {40: struct.pack("<8h", 3, 4096, 4096, 2000, 1, 1, 1, 1)},
        "offset": {108: struct.pack("<f", 3e9)},
        "extension": {348: b"\1\0\0\0", 352: struct.pack("<2i", -16, 0)},
    }
    tracemalloc.start()
    for name, changes in headers.items():
        content = bytearray(whole)
        for place, value in changes.items():
            content[place : place + len(value)] = value
        with gzip.open(tmp_path / f"{name}.nii.gz", "wb", compresslevel=1) as file:
            file.write(content)
            for _ in range(64):
                file.write(bytes(1 << 20))
        try:
            masks.nifti_mask(tmp_path / f"{name}.nii.gz", ct, name)
        except NiftiError as error:
            assert str(error).startswith(f"{name}: ")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_damaged_volumes_raise_only_what_is_declared(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("v.nii", "v.nii.gz"):
        content = save(tmp_path / name, body()).read_bytes()
        outcomes = set()
        for trial in range(300):
            data = bytearray(content)
            if trial % 3 == 0:
                del data[int(rng.integers(len(data))) :]
            else:
                for place in rng.integers(0, 400, 3):
                    data[place] = int(rng.integers(256))
            (tmp_path / name).write_bytes(data)
            try:
                volume = Volume(tmp_path / name, name)
                volume.annotated, volume.hu(0)
                outcomes.add("read")
            except NiftiError as error:
                assert "\n" not in str(error)
                outcomes.add("refused")
        assert "refused" in outcomes
