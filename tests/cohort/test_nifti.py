"""Planes and masks of NIfTI volumes, written by nibabel, and PNG masks: the right pixels, or a reason."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from building import LAS, SHAPE, SPACING, add_pair, add_slice, blob, body, save_nifti
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from l3muscle.cohort import check_folder, load_cohort
from l3muscle.cohort import nifti as nifti_files
from l3muscle.cohort.files import FileError
from l3muscle.cohort.nifti import Volume, write_nifti
from l3muscle.cohort.outlines import Picture
from l3muscle.segmenter.slices import find_slices

HU = np.stack([body(seed) for seed in range(3)], axis=-1)  # rows, columns, planes from the feet up
MASKS = np.stack([blob(seed) for seed in range(3)], axis=-1)


def reoriented(path: Path, codes: str, data: np.ndarray, affine: np.ndarray = LAS) -> Path:
    """The volume (rows, columns, planes) in another order of axes; nibabel turns it."""
    image = nibabel.Nifti1Image(data.transpose(1, 0, 2), affine)
    nibabel.save(image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))), path)
    return path


def test_planes_are_shown_as_dicom_shows_them(tmp_path):
    volume = Volume(save_nifti(tmp_path / "v.nii.gz", HU.transpose(1, 0, 2)))
    assert (volume.planes, volume.shape) == (3, SHAPE)
    assert np.array_equal(volume.hu(1), HU[..., 1])
    grid = volume.grid(1)
    assert grid.spacing == pytest.approx(SPACING)
    np.testing.assert_allclose(grid.position, [-20, -30, -2], atol=1e-5)
    np.testing.assert_allclose(grid.orientation, [[1, 0, 0], [0, 1, 0]])


def test_all_48_orders_of_axes_give_one_picture_and_results_in_their_own(tmp_path):
    ways = 0
    for order in itertools.permutations(("RL", "AP", "SI")):
        for codes in itertools.product(*order):
            path = reoriented(tmp_path / "v.nii", "".join(codes), HU)
            volume = Volume(path)
            numbers = [0, 1, 2] if "S" in codes else [2, 1, 0]  # as the file counts them
            for index, plane in enumerate(numbers):
                assert np.array_equal(volume.hu(index), HU[..., plane])
                assert volume.grid(index).position == pytest.approx([-20, -30, -5 + 3 * plane], abs=1e-4)
            write_nifti(tmp_path / "m.nii", blob(1), volume.slice(numbers.index(1)))
            written, stored = nibabel.load(tmp_path / "m.nii"), nibabel.load(path)
            assert nibabel.aff2axcodes(written.affine) == codes
            axis = next(a for a in range(3) if codes[a] in "SI")
            first = np.zeros(4)
            first[axis], first[3] = numbers.index(1), 1
            np.testing.assert_allclose(written.affine[:, 3], stored.affine @ first, atol=1e-4)
            upright = written.as_reoriented(ornt_transform(io_orientation(written.affine), axcodes2ornt("LPS")))
            assert np.array_equal(np.asarray(upright.dataobj)[..., 0].T, blob(1))
            ways += 1
    assert ways == 48


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SLA"])
def test_segment_cohort_csv_and_training_count_planes_alike(tmp_path, codes):
    reoriented(tmp_path / "v.nii", codes, HU)
    reoriented(tmp_path / "v_mask.nii", codes, MASKS.astype(np.uint8))
    (tmp_path / "cohort.csv").write_text("patient_id,file,slice\nP,v.nii,0\n")
    chosen = load_cohort(tmp_path).images[0]
    (tmp_path / "cohort.csv").unlink()
    (first,) = [one.ct for one in find_slices([tmp_path / "v.nii"]).slices if one.ct.index == 0]
    (trained,) = [patient for patient in check_folder(tmp_path, several=True).usable if patient.name == "v.nii[0]"]
    plane = 2 if "I" in codes else 0
    for hu in (chosen, first.hu, trained.hu):
        assert np.array_equal(hu, HU[..., plane])
    assert np.array_equal(trained.expert, MASKS[..., plane])


def test_image_and_mask_may_be_stored_in_different_orders(tmp_path):
    reoriented(tmp_path / "v.nii", "SLA", HU)
    reoriented(tmp_path / "v_mask.nii", "RPI", (MASKS * [0, 1, 0]).astype(np.uint8))
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], HU[..., 1]) and np.array_equal(cohort.masks[0], MASKS[..., 1])


def test_a_compressed_volume_is_decompressed_once(tmp_path, monkeypatch):
    volume = Volume(save_nifti(tmp_path / "v.nii.gz", HU.transpose(1, 0, 2)))
    opened, really = [], nifti_files._open
    monkeypatch.setattr(nifti_files, "_open", lambda path: opened.append(path) or really(path))
    for index in range(3):
        volume.hu(index)
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nii"])
def test_what_a_file_is_called_does_not_say_whether_it_is_compressed(tmp_path, name):
    save_nifti(tmp_path / "x.nii", HU.transpose(1, 0, 2))
    content = (tmp_path / "x.nii").read_bytes()
    (tmp_path / name).write_bytes(content if name.endswith("gz") else gzip.compress(content))
    assert np.array_equal(Volume(tmp_path / name).hu(0), HU[..., 0])


def with_header(path: Path, **changes: object) -> Path:
    """Change header fields of a file behind nibabel's back."""
    image = nibabel.load(path)
    raw = bytearray(path.read_bytes())
    for key, value in changes.items():
        image.header[key] = value
    raw[:348] = image.header.binaryblock
    raw[108:112] = np.float32(352).tobytes()
    path.write_bytes(raw)
    return path


def test_qform_and_sform_that_disagree_are_refused(tmp_path):
    image = nibabel.Nifti1Image(HU.transpose(1, 0, 2), LAS)
    image.set_sform(LAS, 1)
    image.set_qform(LAS, 1)
    nibabel.save(image, tmp_path / "v.nii")
    assert Volume(tmp_path / "v.nii").planes == 3
    image.set_qform(LAS @ np.diag([-1, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "v.nii")
    with pytest.raises(FileError, match=r"^v\.nii: its qform and its sform disagree, by up to 101\.2 mm$"):
        Volume(tmp_path / "v.nii")
    nibabel.save(nibabel.Nifti1Image(MASKS.transpose(1, 0, 2).astype(np.uint8), LAS), tmp_path / "v_mask.nii")
    assert "qform and its sform disagree" in check_folder(tmp_path).refused[0]


def oblique() -> np.ndarray:
    angle, turn = np.deg2rad(10), np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ LAS


@pytest.mark.parametrize(
    ("data", "affine", "header", "reason"),
    [
        (HU, oblique(), {}, "not an axial slice"),
        (HU, LAS, {"xyzt_units": 3}, "unit of length is micron"),
        (HU, LAS, {"pixdim": [1, 1.1, 0.9, 3, 0, 0, 0, 0]}, "different spacings"),
        (HU, LAS, {"sform_code": 0, "qform_code": 0}, "states no orientation"),
        (HU, LAS, {"scl_slope": 1, "scl_inter": np.nan}, r"intercept \(scl_inter\) is nan, not a number"),
        (HU, np.diag([-40, -0.8, 3, 1]), {}, "no CT has such pixels"),
        (HU, np.eye(4), {}, "states no spacing"),
        (HU, np.diag([-1, -1, 1, 1]), {}, "states no spacing"),
        (np.zeros((4, 4, 2, 3), np.int16), LAS, {}, "4 x 4 x 2 x 3 voxels"),
        (np.zeros((4, 5000, 1), np.int16), LAS, {}, "no CT has such pixels"),
        (np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), LAS, {}, "one number a voxel"),
    ],
)
def test_volumes_that_would_need_a_guess_are_refused(tmp_path, data, affine, header, reason):
    path = save_nifti(tmp_path / "v.nii", data.transpose(1, 0, *range(2, data.ndim)), affine)
    with pytest.raises(FileError, match=reason) as caught:
        Volume(with_header(path, **header))
    assert str(caught.value).startswith("v.nii: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.linspace(0, 255, 1200).astype(np.uint8), "from 0 to 255 are not Hounsfield"),
        (np.linspace(0, 1, 1200).astype(np.float32), "from 0 to 1 are not Hounsfield"),
        (np.full(1200, -1000, np.int16), "from -1000 to -1000 are not Hounsfield"),
        (np.linspace(-1e6, 1e6, 1200).astype(np.float32), "are not Hounsfield"),
        (np.r_[np.linspace(-1000, 1000, 1199), np.nan].astype(np.float32), "not finite"),
        (body(0, (40, 30)).ravel() + 1024, "are not Hounsfield"),
    ],
)
def test_values_that_are_not_hounsfield_units_are_refused(tmp_path, values, reason):
    volume = Volume(save_nifti(tmp_path / "v.nii", values.reshape(40, 30, 1)))
    with pytest.raises(FileError, match=rf"^v\.nii: .*{reason}"):
        volume.hu(0)


def test_scaled_values_and_padding(tmp_path):
    data = HU.transpose(1, 0, 2).astype(np.float32)
    data[0, 0] = -3000
    image = nibabel.Nifti1Image(data, LAS)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(2.0, -100.0)
    nibabel.save(image, tmp_path / "v.nii")
    expected = np.maximum(nibabel.load(tmp_path / "v.nii").get_fdata()[..., 1].T, -1024)
    assert np.array_equal(Volume(tmp_path / "v.nii").hu(1), np.rint(expected))


# Masks


def test_a_mask_that_covers_a_part_of_the_image_is_placed(tmp_path):
    """As programs export labels that are cut to what is marked."""
    save_nifti(tmp_path / "a.nii", HU.transpose(1, 0, 2))
    corner = LAS.copy()
    corner[:3, 3] = LAS[:3] @ [8, 4, 1, 1]
    save_nifti(tmp_path / "a_mask.nii", blob(1)[4:30, 8:40, None].transpose(1, 0, 2).astype(np.uint8), corner)
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], HU[..., 1]) and np.array_equal(cohort.masks[0], blob(1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.diag([1.05, 1, 1, 1]), "mm off the slice"),
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "up to 0.5 mm off"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]), "up to 1.0 mm off"),
    ],
)
def test_masks_off_the_image_are_refused(tmp_path, change, reason):
    save_nifti(tmp_path / "a.nii", HU.transpose(1, 0, 2))
    save_nifti(tmp_path / "a_mask.nii", (MASKS * [0, 1, 0]).transpose(1, 0, 2).astype(np.uint8), change @ LAS)
    assert reason in check_folder(tmp_path).refused[0]


def test_a_mask_of_another_matrix_that_claims_the_image_s_pixels_is_refused(tmp_path):
    """As programs leave it that shrink the array and keep the affine: a corner of the image would be outlined."""
    save_nifti(tmp_path / "a.nii", HU.transpose(1, 0, 2))
    save_nifti(tmp_path / "a_mask.nii", (MASKS * [0, 1, 0])[::2, ::2].transpose(1, 0, 2).astype(np.uint8))
    assert check_folder(tmp_path).refused == ["a_mask.nii: has 17 x 24 pixels where the slice has 33 x 47 (a.nii[1])"]


def test_other_labels_are_no_muscle_where_muscle_is_not_drawn(tmp_path):
    """Label 2 is alone on its plane, and nothing says what it is."""
    save_nifti(tmp_path / "a.nii", HU.transpose(1, 0, 2))
    save_nifti(tmp_path / "a_mask.nii", (MASKS * [1, 2, 0]).transpose(1, 0, 2).astype(np.uint8))
    for several in (False, True):
        report = check_folder(tmp_path, several=several)
        assert not report.usable and "holds 0 and one other value; this holds 0, 1, 2" in report.refused[0]


def test_rows_of_one_volume_are_one_person_s(tmp_path):
    add_pair(tmp_path, "a.nii", "a_mask.nii", 1, at=None)
    rows = "".join(f"P{n},a.nii,{n}\n" for n in range(3))
    (tmp_path / "cohort.csv").write_text(f"patient_id,file,slice\n{rows}")
    report = check_folder(tmp_path)
    assert [patient.patient_id for patient in report.usable] == ["P0"]
    assert report.refused[0] == "cohort.csv line 3: a slice of the same scan as line 2, which is another patient's"


@pytest.mark.parametrize("as_", [bool, np.uint8, lambda m: m.astype(np.uint8) * 255, lambda m: m.astype(np.uint16) * 9])
def test_png_masks_of_every_depth(tmp_path, as_):
    ct = add_slice(tmp_path / "ct.dcm")
    Image.fromarray(blob(1).astype(as_) if isinstance(as_, type) else as_(blob(1))).save(tmp_path / "m.png")
    assert np.array_equal(Picture(tmp_path / "m.png", "m.png").masks(ct)["expert"], blob(1))


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.fromarray(blob(1, (47, 33)).astype(np.uint8)), "has 47 x 33 pixels where the slice has 33 x 47"),
        (Image.fromarray(blob(1).astype(np.uint8) + blob(2)), "holds 0, 1, 2"),
        (Image.fromarray(blob(1).astype(np.uint8) * 100 + 50), "holds 50, 150"),
        (Image.fromarray(blob(1)).convert("RGB"), "mode RGB"),
        (Image.new("1", (5000, 5000)), "has 5000 x 5000 pixels"),
        (None, "cannot be read|not a PNG"),
    ],
)
def test_pictures_that_are_no_mask_are_refused(tmp_path, picture, reason):
    ct = add_slice(tmp_path / "ct.dcm")
    (picture or Image.fromarray(blob(1))).save(tmp_path / "m.png")
    if picture is None:
        (tmp_path / "m.png").write_bytes((tmp_path / "m.png").read_bytes()[:60])
    with pytest.raises(FileError, match=rf"^m\.png: .*({reason})"):
        Picture(tmp_path / "m.png", "m.png").masks(ct)


def test_sizes_on_a_file_s_word_cost_no_memory(tmp_path):
    whole = bytearray(save_nifti(tmp_path / "v.nii", HU.transpose(1, 0, 2)).read_bytes())
    headers = {
        "huge": {40: np.array([3, 32767, 32767, 32767], "<i2")},
        "large": {40: np.array([3, 4096, 4096, 60], "<i2")},
        "offset": {108: np.array([3e9], "<f4")},
    }
    tracemalloc.start()
    for name, changes in headers.items():
        content = bytearray(whole)
        for at, value in changes.items():
            content[at : at + value.nbytes] = value.tobytes()
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress(content + bytes(1 << 20), 1))
        with pytest.raises(FileError, match=rf"^{name}\.nii\.gz: "):
            Volume(tmp_path / f"{name}.nii.gz").hu(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
