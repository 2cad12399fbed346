"""DICOM in and out: exact masks, sound files, and a reason for every refusal."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless
from scipy import ndimage
from skimage.draw import polygon, polygon2mask

from l3muscle.cohort import dicom
from l3muscle.cohort.dicom import DicomError

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct" / "dicom"


def random_mask(seed: int, shape=(40, 50)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0, 3))
    return smooth > np.quantile(smooth, rng.uniform(0.05, 0.95))


@pytest.fixture
def ct(tmp_path) -> dicom.CTSlice:
    hu = np.random.default_rng(0).integers(-1000, 1500, (40, 50))
    dicom.write_ct_slice(tmp_path / "ct.dcm", hu, (0.8, 1.1), patient_id="P1", position_mm=12.5)
    return dicom.read_ct_slice(tmp_path / "ct.dcm")


@pytest.mark.parametrize("seed", range(30))
def test_masks_survive_contours_exactly(seed):
    mask = random_mask(seed)
    assert np.array_equal(dicom.fill_contours(dicom.mask_contours(mask), mask.shape), mask)


@pytest.mark.parametrize("mask", [np.zeros((5, 6), bool), np.ones((5, 6), bool), np.eye(6, dtype=bool)])
def test_degenerate_masks_survive_contours(mask):
    assert np.array_equal(dicom.fill_contours(dicom.mask_contours(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(10))
def test_filling_agrees_with_point_in_polygon(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 45, (rng.integers(3, 12), 2))
    expected = np.zeros((40, 40), bool)
    expected[polygon(corners[:, 0], corners[:, 1], expected.shape)] = True
    assert np.array_equal(dicom.fill_contours([corners], (40, 40)), expected)


def test_filling_twice_is_a_hole():
    square = np.array([[1.5, 1.5], [1.5, 8.5], [8.5, 8.5], [8.5, 1.5]])
    inner = 3 + (square - 1.5) / 7 * 3.0 + 0.5
    mask = dicom.fill_contours([square, inner], (10, 10))
    assert mask[2, 2]
    assert not mask[5, 5]
    assert mask.sum() == 49 - 9


def test_slice_comes_back_as_written(ct):
    hu = np.random.default_rng(0).integers(-1000, 1500, (40, 50))
    assert np.array_equal(ct.hu, hu)
    assert ct.spacing == (0.8, 1.1)
    assert ct.location_mm == pytest.approx(12.5)
    assert ct.patient_id == "P1"


@pytest.mark.parametrize("seed", range(5))
def test_masks_survive_rtstruct_exactly(ct, tmp_path, seed):
    masks = {"expert": random_mask(seed), "observer 01": random_mask(seed + 100)}
    dicom.write_rtstruct(tmp_path / "rt.dcm", masks, ct)
    back = dicom.read_rtstruct(tmp_path / "rt.dcm", ct)
    assert set(back) == set(masks)
    assert all(np.array_equal(back[name], masks[name]) for name in masks)


def test_seg_and_nifti_hold_the_mask(ct, tmp_path):
    import highdicom
    import nibabel

    mask = random_mask(3)
    dicom.write_seg(tmp_path / "seg.dcm", mask, ct)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert np.array_equal(seg.pixel_array.squeeze().astype(bool), mask)
    assert seg.StudyInstanceUID == ct.header.StudyInstanceUID
    dicom.write_nifti(tmp_path / "mask.nii.gz", mask, ct)
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(image.get_fdata()[..., 0].astype(bool), mask.T)
    corner = image.affine @ [49, 39, 0, 1]
    last = ct.position + ct.orientation[0] * 49 * 1.1 + ct.orientation[1] * 39 * 0.8
    np.testing.assert_allclose(corner[:3], last * [-1, -1, 1], atol=1e-4)


def test_the_same_content_is_the_same_file(tmp_path):
    hu = np.zeros((16, 16))
    for name in ("a", "b"):
        dicom.write_ct_slice(tmp_path / name, hu, (1, 1), patient_id="P")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def spoil(path: Path, **changes) -> Path:
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    spoilt = path.with_name("spoilt.dcm")
    dataset.save_as(spoilt)
    return spoilt


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "MR"}, "not a CT image"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"RescaleIntercept": None}, "RescaleIntercept is missing"),
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"PixelSpacing": [0, 1]}, "cannot be right"),
        ({"PixelSpacing": [1]}, "PixelSpacing is missing or not 2"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not an axial slice"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"Rows": 60000}, "at most 4096"),
        ({"FrameOfReferenceUID": ""}, "FrameOfReferenceUID is missing"),
        ({"RescaleSlope": "1000"}, "not Hounsfield units"),
    ],
)
def test_refusals_name_file_and_reason(ct, changes, reason):
    path = spoil(ct.path, **changes)
    with pytest.raises(DicomError, match=reason) as caught:
        dicom.read_ct_slice(path)
    assert str(caught.value).startswith("spoilt.dcm: ")
    assert "\n" not in str(caught.value)


def test_emptied_identities_fall_back_on_the_meta_header(ct, tmp_path):
    emptied = dict.fromkeys(("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"), "")
    bare = dicom.read_ct_slice(spoil(ct.path, **emptied))
    assert bare.sop_instance_uid == ct.sop_instance_uid
    assert bare.patient_id == ""
    dicom.write_rtstruct(tmp_path / "rt.dcm", {"m": random_mask(0)}, bare)
    dicom.write_seg(tmp_path / "seg.dcm", random_mask(0), bare)
    studies = {pydicom.dcmread(tmp_path / name).StudyInstanceUID for name in ("rt.dcm", "seg.dcm")}
    assert len(studies) == 1
    assert "" not in studies


def test_truncated_and_foreign_files_are_refused(ct, tmp_path):
    whole = ct.path.read_bytes()
    for length in (0, 100, 140, 400, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.dcm").write_bytes(whole[:length])
        with pytest.raises(DicomError, match=r"cut\.dcm"):
            dicom.read_ct_slice(tmp_path / "cut.dcm")
    (tmp_path / "note.dcm").write_text("not DICOM")
    with pytest.raises(DicomError, match="not a DICOM file"):
        dicom.read_ct_slice(tmp_path / "note.dcm")


def test_structure_set_of_another_frame_is_refused(ct, tmp_path):
    other = tmp_path / "other.dcm"
    dicom.write_ct_slice(other, ct.hu, ct.spacing, patient_id="P2")
    dicom.write_rtstruct(tmp_path / "rt.dcm", {"expert": random_mask(0)}, dicom.read_ct_slice(other))
    with pytest.raises(DicomError, match="another frame of reference"):
        dicom.read_rtstruct(tmp_path / "rt.dcm", ct)


def test_names_and_birth_dates_go_nowhere(ct, tmp_path):
    path = spoil(ct.path, PatientName="Doe^Jane", PatientBirthDate="19500101")
    named = dicom.read_ct_slice(path)
    dicom.write_rtstruct(tmp_path / "rt.dcm", {"m": random_mask(0)}, named)
    dicom.write_seg(tmp_path / "seg.dcm", random_mask(0), named)
    for name in ("rt.dcm", "seg.dcm"):
        content = (tmp_path / name).read_bytes()
        assert b"Doe" not in content
        assert b"19500101" not in content


def test_other_libraries_see_slice_and_contours_where_ours_are(ct, tmp_path):
    import highdicom

    image = highdicom.imread(ct.path)
    assert np.array_equal(image.get_frame(1, apply_modality_transform=True), ct.hu)
    geometry = image.get_volume_geometry()
    np.testing.assert_allclose(geometry.pixel_spacing, ct.spacing)
    mask = random_mask(4)
    dicom.write_rtstruct(tmp_path / "rt.dcm", {"expert": mask}, ct)
    # From the patient to pixels by highdicom, and inside or outside by scikit-image.
    to_pixels = highdicom.spatial.ReferenceToImageTransformer(
        ct.position.tolist(), ct.orientation.ravel().tolist(), ct.spacing, spacing_between_slices=1.0
    )
    filled = np.zeros(mask.shape, bool)
    for contour in pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence:
        points = to_pixels(np.array(contour.ContourData, dtype=float).reshape(-1, 3))
        np.testing.assert_allclose(points[:, 2], 0, atol=1e-3)
        corners = points[:, 1::-1] - 0.5  # image coordinates begin at a pixel's corner
        filled ^= polygon2mask(mask.shape, corners)
    assert np.array_equal(filled, mask)


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT beside the checkout")
def test_real_jpeg_2000_slices_read():
    slices = dicom.read_ct_folder(REAL_CT)
    assert len(slices) == 20
    assert np.allclose(np.diff([ct.location_mm for ct in slices]), 2.0)
    assert all(ct.hu.shape == (512, 512) and ct.spacing == pytest.approx((0.9766, 0.9766), abs=1e-3) for ct in slices)
    assert pydicom.dcmread(slices[0].path).file_meta.TransferSyntaxUID == JPEG2000Lossless
    # Liver and spleen: soft tissue is the commonest thing inside the body.
    body = np.concatenate([ct.hu[ct.hu > -300] for ct in slices])
    assert 20 < np.median(body) < 120


def test_contours_beyond_64_kilobytes_survive(tmp_path):
    # A decimal string has a 16-bit length; a comb's one contour is longer.
    comb = np.zeros((300, 1000), bool)
    comb[100:102] = True
    comb[20:102, ::2] = True
    dicom.write_ct_slice(tmp_path / "ct.dcm", np.zeros(comb.shape), (0.7, 0.9), patient_id="P1")
    ct = dicom.read_ct_slice(tmp_path / "ct.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dicom.write_rtstruct(tmp_path / "rt.dcm", {"comb": comb}, ct)
    written = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert max(len(contour.ContourData) for contour in written) > 3000
    assert np.array_equal(dicom.read_rtstruct(tmp_path / "rt.dcm", ct)["comb"], comb)


def test_corners_are_fewer_and_turn():
    square = np.zeros((20, 20), bool)
    square[4:15, 4:15] = True
    (contour,) = dicom.mask_contours(square)
    assert len(contour) == 8


@pytest.fixture
def original(tmp_path) -> Path:
    """A slice as a scanner writes it: a body of fat around muscle in air, and what the reconstruction was asked for."""
    rows, columns = np.ogrid[:64, :64]
    radius = np.hypot(rows - 31.5, columns - 31.5)
    hu = np.select([radius < 16, radius < 24], [55, -100], -1000) + np.random.default_rng(0).integers(-9, 9, (64, 64))
    dicom.write_ct_slice(tmp_path / "ct.dcm", hu, (2, 2), patient_id="P1", position_mm=5)
    asked = {"ReconstructionDiameter": 128, "ReconstructionTargetCenterPatient": [0, 0, 5]}
    return spoil(tmp_path / "ct.dcm", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **asked)


def test_a_scanners_own_slice_is_read(original):
    assert dicom.read_ct_slice(original).spacing == (2, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelSpacing": [2, 2.001]}, "whose pixels are square"),
        ({"PixelSpacing": [2, 2.001], "ReconstructionDiameter": None}, "whose pixels are square"),
        ({"PixelSpacing": [2.1, 2.1]}, "contradicts a field of view"),
        ({"ImagePositionPatient": [-63, -33, 5]}, "was asked for at"),
        ({"ImagePositionPatient": [-63, -63, 15]}, "was asked for at"),
        ({"ReconstructionTargetCenterPatient": [0, float("nan"), 5]}, "missing or not 3 finite"),
        *(({"RescaleSlope": slope}, "not Hounsfield units") for slope in ("2", "3", "9", "0.2")),
        *(({"RescaleIntercept": shift}, "not Hounsfield units") for shift in ("1024", "-24", "-124", "-1524", "-9024")),
        ({"RescaleIntercept": "0"}, "not Hounsfield units"),
    ],
)
def test_a_scanners_own_slice_is_held_against_what_else_it_says(original, changes, reason):
    with pytest.raises(DicomError, match=reason):
        dicom.read_ct_slice(spoil(original, **changes))


def test_what_other_software_derived_is_not_held_against_a_scanner(original):
    derived = spoil(original, ImageType=["DERIVED", "PRIMARY"], PixelSpacing=[2, 1.7], ImagePositionPatient=[0, 0, 5])
    assert dicom.read_ct_slice(derived).spacing == (2, 1.7)


@pytest.mark.parametrize("padding", [-3000, -1500])
def test_padding_around_the_field_is_no_air(original, padding):
    dataset = pydicom.dcmread(original)
    stored = dataset.pixel_array.astype(np.int16) - 1024
    rows, columns = np.ogrid[:64, :64]
    stored[np.hypot(rows - 31.5, columns - 31.5) > 30] = padding
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    dataset.BitsStored, dataset.HighBit, dataset.PixelData = 16, 15, stored.tobytes()
    dataset.save_as(original)
    assert dicom.read_ct_slice(original).hu.min() == -1024


def test_a_slice_without_air_is_read(original):
    """A patient wider than the field of view."""
    dataset = pydicom.dcmread(original)
    stored = dataset.pixel_array
    stored[stored < 800] = 924
    stored[0, 0] = 200
    dataset.PixelData = stored.tobytes()
    dataset.save_as(original)
    assert dicom.read_ct_slice(original).hu.shape == (64, 64)
