"""CT slices from DICOM: Hounsfield units as pydicom and NumPy have them, upright, or a reason."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from building import REAL_CT, SHAPE, SPACING, add_slice, blob, body, edit, needs_real_ct, stored_turned
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from l3muscle.cohort import pixels as pixel_files
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.files import FileError
from l3muscle.cohort.nifti import write_nifti
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.seg import write_seg


@pytest.fixture
def path(tmp_path) -> Path:
    return add_slice(tmp_path / "ct.dcm").path


def test_a_slice_comes_back_as_written(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 900, SHAPE)
    write_ct_slice(tmp_path / "ct", hu, SPACING, patient_id="P 7", position_mm=-312.5)
    ct = read_ct_slice(tmp_path / "ct")
    assert np.array_equal(ct.hu, hu) and ct.hu.dtype == np.int16
    assert (ct.patient_id, ct.spacing, ct.location_mm) == ("P 7", SPACING, -312.5)


def test_the_same_content_is_the_same_file(tmp_path):
    for name in "ab":
        ct = add_slice(tmp_path / name / "ct")
        write_rtstruct(tmp_path / name / "rt", {"expert": blob(1)}, ct)
        write_seg(tmp_path / name / "seg", blob(1), ct)
    uids = [[pydicom.dcmread(tmp_path / n / f).SOPInstanceUID for f in ("ct", "rt", "seg")] for n in "ab"]
    assert uids[0] == uids[1]


# Transfer syntaxes


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_slices(path, syntax):
    dataset = pydicom.dcmread(path)
    plugin = "pydicom" if syntax == RLELossless else ""
    dataset.compress(syntax, generate_instance_uid=False, encoding_plugin=plugin)
    dataset.save_as(path)
    assert np.array_equal(read_ct_slice(path).hu, body())


def test_a_damaged_jpeg_stream_is_refused_and_does_not_end_the_process(path, tmp_path):
    lossless_jpeg(path)
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    start = content.index(b"\xff\xd8\xff")
    for trial in range(200):
        data = bytearray(content)
        for at in rng.integers(start, start + 120 if trial % 2 else len(data), 3):
            data[at] = int(rng.integers(256))
        (tmp_path / "x.dcm").write_bytes(data)
        try:
            _ = read_ct_slice(tmp_path / "x.dcm").hu
        except FileError as error:
            refused += "JPEG stream" in str(error)
    assert refused > 20


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_slices(path, syntax):
    dataset = pydicom.dcmread(path)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, little_endian=little, implicit_vr=implicit)
    assert np.array_equal(read_ct_slice(path).hu, body())


@pytest.mark.parametrize("bare", ["no preamble", "no meta header", "no transfer syntax"])
def test_a_data_set_without_what_stands_before_it_is_read(path, bare):
    """As archives hold it that store data sets alone."""
    content = path.read_bytes()[132:]
    if bare == "no transfer syntax":
        dataset = pydicom.dcmread(path)
        del dataset.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
    else:
        length = 12 + int.from_bytes(content[8:12], "little")  # of the meta header's elements
        path.write_bytes(content[length:] if bare == "no meta header" else content)
    assert np.array_equal(read_ct_slice(path).hu, body())


@pytest.mark.parametrize("packed", [False, True])
def test_signed_values_may_lack_their_upper_bits(path, packed):
    dataset = pydicom.dcmread(path)
    stored = (body().astype(np.int64) & 0xFFF).astype("<u2")  # twelve bits of two's complement
    dataset.PixelData, dataset.RescaleIntercept = stored.tobytes(), 0
    if packed:
        dataset.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
    dataset.PixelRepresentation = 1
    dataset.save_as(path)
    assert np.array_equal(read_ct_slice(path).hu, body())


def lossless_jpeg(path: Path) -> None:
    """Pack a slice's pixels as JPEG Lossless by GDCM."""
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def test_lossless_jpeg_is_read(path):
    lossless_jpeg(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert np.array_equal(read_ct_slice(path).hu, body())


def test_without_a_decoder_the_sentence_says_what_to_install(path, monkeypatch):
    lossless_jpeg(path)
    monkeypatch.setattr(pixel_files, "get_decoder", lambda syntax: type("None", (), {"available_plugins": ()}))
    with pytest.raises(
        FileError, match=r"^ct\.dcm: pixels are packed as JPEG Lossless, .*; to read them install python-gdcm$"
    ):
        _ = read_ct_slice(path).hu


@needs_real_ct
def test_real_slices_are_what_pydicom_reads():
    for path in sorted((REAL_CT / "dicom").iterdir())[::4]:
        dataset, ct = pydicom.dcmread(path), read_ct_slice(path)
        expected = dataset.pixel_array.astype(float) * dataset.RescaleSlope + dataset.RescaleIntercept
        assert np.array_equal(ct.hu, np.maximum(expected, -1024))
        assert ct.spacing == tuple(dataset.PixelSpacing)


# Orientation

ORIENTATIONS = {
    "head first, supine": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "rows reversed": (1, 0, 0, 0, -1, 0),
    "transposed": (0, 1, 0, 1, 0, 0),
    "transposed and reversed": (0, -1, 0, 1, 0, 0),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_orientation_is_read_upright_and_results_go_into_the_file_s_own_pixels(tmp_path, orientation):
    path = stored_turned(tmp_path / "ct.dcm", body(), orientation)
    ct = read_ct_slice(path)
    assert np.array_equal(ct.hu, body())
    assert ct.spacing == pytest.approx(SPACING) and ct.shape == SHAPE
    np.testing.assert_allclose(ct.position, [-1.1 * 23, -0.8 * 16, 0])
    assert ct.location_mm == pytest.approx(0)
    stored = (
        pydicom.dcmread(stored_turned(tmp_path / "mask.dcm", np.where(blob(2), 1, 0), orientation)).pixel_array > 1024
    )
    write_seg(tmp_path / "seg", blob(2), ct)
    assert np.array_equal(pydicom.dcmread(tmp_path / "seg").pixel_array == 1, stored)
    write_rtstruct(tmp_path / "rt", {"m": blob(2)}, ct)
    item = pydicom.dcmread(tmp_path / "rt").ROIContourSequence[0].ContourSequence[0]
    x, y = np.array(item.ContourData, float).reshape(-1, 3)[:, :2].mean(axis=0)
    rows, columns = np.nonzero(blob(2))
    assert (x / 1.1 + 23, y / 0.8 + 16) == pytest.approx((columns.mean(), rows.mean()), abs=0.1)
    write_nifti(tmp_path / "m.nii.gz", blob(2), ct)
    import nibabel

    written = nibabel.load(tmp_path / "m.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj)[..., 0].T, stored)
    canonical = nibabel.as_closest_canonical(written)  # to the right and the front
    assert np.array_equal(np.asarray(canonical.dataobj)[::-1, ::-1, 0].T, blob(2))


def test_a_slice_that_is_not_axial_is_refused(path):
    with pytest.raises(FileError, match=r"^ct\.dcm: not an axial slice"):
        read_ct_slice(edit(path, ImageOrientationPatient=[1, 0, 0, 0, 0.97, 0.24]))
    with pytest.raises(FileError, match="not an axial slice"):
        read_ct_slice(edit(path, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))


# Padding


def stored_with(path: Path, region: np.ndarray, value: int, *, signed: bool, intercept: int, **tags: object) -> Path:
    dataset = pydicom.dcmread(path)
    hu = dataset.pixel_array.astype(np.int64) - 1024
    stored = np.where(region, value, hu - intercept).astype("<i2" if signed else "<u2")
    dataset.PixelRepresentation, dataset.RescaleIntercept = int(signed), intercept
    dataset.BitsStored, dataset.HighBit, dataset.PixelData = 16, 15, stored.tobytes()
    dataset.save_as(path)
    return edit(path, **tags)


@pytest.mark.parametrize(
    ("value", "signed", "intercept", "tags"),
    [
        (0, False, -1024, {"PixelPaddingValue": 0}),
        (4095, False, -1024, {"PixelPaddingValue": 4095}),
        (0, True, 0, {"PixelPaddingValue": 0}),
        (-2000, True, 0, {"PixelPaddingValue": -2000}),
        (-2000, True, 0, {}),
        (-32768, True, -1024, {"PixelPaddingValue": -32768}),
        (-32768, True, -1024, {}),
        (63536, False, -1024, {"PixelPaddingValue": 63536}),
        (63536, False, -1024, {}),
        (70, True, 0, {"PixelPaddingValue": 60, "PixelPaddingRangeLimit": 80}),
    ],
)
def test_padding_is_air(path, value, signed, intercept, tags):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    region = rows + columns < 25  # touches the body
    read = read_ct_slice(stored_with(path, region, value, signed=signed, intercept=intercept, **tags)).hu
    assert (read[region] == -1024).all()
    if "PixelPaddingRangeLimit" not in tags and value != 0:
        assert np.array_equal(read[~region], body()[~region])


def test_padding_and_overlays_in_bits_that_are_not_stored(path):
    """As programs write it that set padding to -2000 without a sign, or draw into the upper bits."""
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array.copy()
    stored[:3] = 63536
    stored[10:14, 15:25] |= 0x8000
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path)
    expected = body()
    expected[:3] = -1024
    assert np.array_equal(read_ct_slice(path).hu, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]},
        {"Modality": None},
        {"NumberOfFrames": 1},
    ],
)
def test_headers_whose_meaning_is_beyond_doubt(path, changes):
    assert np.array_equal(read_ct_slice(edit(path, **changes)).hu, body())


def test_specks_of_a_padding_value_that_tissue_has_are_tissue(tmp_path):
    hu = np.where(np.hypot(*np.mgrid[-100:100, -100:100]) < 80, 40, -1000)
    hu[100, 100] = 0
    hu[:, :30] = 0
    write_ct_slice(tmp_path / "ct", hu, (1, 1), patient_id="P")
    stored_with(tmp_path / "ct", np.zeros((200, 200), bool), 0, signed=True, intercept=0, PixelPaddingValue=0)
    read = read_ct_slice(tmp_path / "ct").hu
    assert read[100, 100] == 0 and (read[:, :30] == -1024).all()


# Hounsfield units


@pytest.mark.parametrize("kind", ["ORIGINAL", "DERIVED"])
@pytest.mark.parametrize(
    "changes",
    [{"RescaleIntercept": s} for s in (0, 1024, -324, -1524, -2048, -9024)]
    + [{"RescaleSlope": s} for s in (0.2, 2, 9)],
)
def test_values_that_no_body_has_are_refused(path, kind, changes):
    edit(path, ImageType=[kind, "PRIMARY", "AXIAL"], PixelSpacing=[0.8, 0.8])
    with pytest.raises(FileError, match=r"^ct\.dcm: values from .* are not Hounsfield units"):
        _ = read_ct_slice(edit(path, **changes)).hu


@pytest.mark.parametrize("shift", [1024, -1024, 500])
def test_padding_does_not_hide_a_wrong_intercept(path, shift):
    region = np.add(*np.mgrid[: SHAPE[0], : SHAPE[1]]) < 12
    stored_with(path, region, -9000, signed=True, intercept=0)
    with pytest.raises(FileError, match="are not Hounsfield units"):
        _ = read_ct_slice(edit(path, RescaleIntercept=shift)).hu


def test_a_body_wider_than_the_image_has_no_air(tmp_path):
    hu = np.random.default_rng(0).normal(40, 15, SHAPE)
    hu[:, :9] = -100
    hu[4:7, 20:22] = 900
    write_ct_slice(tmp_path / "ct", hu, SPACING, patient_id="P")
    assert read_ct_slice(tmp_path / "ct").hu.max() == 900


# What is refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "MR"}, "not a CT image but CT Image (modality MR)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1", "NumberOfFrames": 20}, "Enhanced CT Image, which may hold"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image: a picture without Hounsfield units"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.1", "Modality": "RTIMAGE"}, "not a CT image but RT Image"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"PixelSpacing": None}, "PixelSpacing is missing or not 2 finite numbers"),
        ({"PixelSpacing": [0, 1]}, "cannot be right"),
        ({"PixelSpacing": [13, 13]}, "cannot be right"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"RescaleSlope": -1}, "RescaleSlope is -1"),
        ({"RescaleType": "Z_EFF"}, "rescales to Z_EFF"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB"),
        ({"ImageOrientationPatient": [0.985, 0, 0, 0, 0.985, 0]}, "not of length 1"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"Rows": 5000}, "at most 4096 a side"),
        ({"Rows": 16}, "the pixel data are not of the 16 x 47 pixels it states"),
        ({"ImageType": ["ORIGINAL"], "ReconstructionDiameter": 500}, "contradicts a field of view of 500 mm"),
    ],
)
def test_refusals_name_file_and_reason(path, changes, reason):
    with pytest.raises(FileError) as caught:
        _ = read_ct_slice(edit(path, **changes)).hu
    assert str(caught.value).startswith("ct.dcm: ") and reason in str(caught.value)


def test_truncated_and_foreign_files_are_refused(path, tmp_path):
    content = path.read_bytes()
    for length in (0, 100, 200, 900, len(content) - 100):
        (tmp_path / "cut.dcm").write_bytes(content[:length])
        with pytest.raises(FileError, match=r"^cut\.dcm: "):
            _ = read_ct_slice(tmp_path / "cut.dcm").hu
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(FileError, match=r"^a\.png: not a DICOM file$"):
        read_ct_slice(tmp_path / "a.png")


def test_emptied_identities_fall_back_on_the_meta_header(path):
    dataset = pydicom.dcmread(path)
    uid = dataset.SOPInstanceUID
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, "")
    dataset.save_as(path)
    ct = read_ct_slice(path)
    assert ct.sop_instance_uid == uid and ct.header.StudyInstanceUID and ct.header.SeriesInstanceUID


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", b"U "),
        ("StudyDate", b"00000000"),
        ("StudyTime", b"240000"),
        ("SliceThickness", b"3,0 "),
        ("FrameOfReferenceUID", b""),
        ("InstanceNumber", b"1.5 "),
        ("PatientSize", b"1,74"),
        ("PatientID", None),
        ("Modality", None),
    ],
)
def test_a_slice_with_a_bad_element_is_segmented_without_it(path, tmp_path, keyword, value):
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    dataset = pydicom.dcmread(path)
    tag = Tag(keyword)
    vr = pydicom.datadict.dictionary_VR(tag)
    if value is None:
        del dataset[keyword]
    else:
        dataset[keyword] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    dataset.save_as(path)
    assert (value or b"").strip() in path.read_bytes()
    ct = read_ct_slice(path)
    write_seg(tmp_path / "seg", blob(1), ct)
    write_rtstruct(tmp_path / "rt", {"m": blob(1)}, ct)
    write_nifti(tmp_path / "m.nii", blob(1), ct)
    assert np.array_equal(pydicom.dcmread(tmp_path / "seg").pixel_array, blob(1))


@needs_real_ct
def test_a_wrong_digit_in_a_scanner_s_spacing_shows(tmp_path):
    content = sorted((REAL_CT / "dicom").iterdir())[3].read_bytes()
    first = content.index(b"0.9765625\\0.9765625")
    for place in (0, 2, 3, 4):
        for digit in b"0123456789":
            at = first + place
            (tmp_path / "x.dcm").write_bytes(content[:at] + bytes([digit]) + content[at + 1 :])
            try:
                row, column = read_ct_slice(tmp_path / "x.dcm").spacing
            except FileError as error:
                assert any(words in str(error) for words in ("field of view", "cannot be right"))
            else:
                assert row * column == pytest.approx(0.9765625**2, rel=0.005)
