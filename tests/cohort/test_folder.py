"""Every road into a cohort: what belongs to which slice, what `cohort.csv` chooses, and what no report repeats."""

import logging
import os
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from l3muscle import cli
from l3muscle.cohort import check_folder, dicom, load_cohort
from l3muscle.cohort.cohort import CohortError, one_line

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct"
SHAPE = (32, 40)
LAS = np.array([[-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 3, -5], [0, 0, 0, 1.0]])

needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT beside the checkout")


def blob(seed: int) -> np.ndarray:
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(rows - 12 - seed % 5, columns - 18) < 6 + seed % 3


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 300, SHAPE)


def add_slice(path: Path, patient: str, seed: int = 0, position: float = 0.0, **changes) -> dicom.CTSlice:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom.write_ct_slice(path, pixels(seed), (0.9, 1.1), patient_id=patient, position_mm=position)
    if changes:
        dataset = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return dicom.read_ct_slice(path)


def add_outlined(path: Path, patient: str, seed: int = 0, position: float = 0.0, **changes) -> dicom.CTSlice:
    ct = add_slice(path, patient, seed, position, **changes)
    dicom.write_rtstruct(path.with_suffix(".rt"), {"expert": blob(seed)}, ct)
    return ct


def add_pair(folder: Path, image: str, mask: str | None, seed: int, planes: int = 3, at: int | None = 1) -> np.ndarray:
    """A NIfTI volume, of which plane `at` (or all) is outlined; returns its pixels (rows, columns, planes)."""
    folder.mkdir(parents=True, exist_ok=True)
    hu = np.stack([pixels(seed + 10 * plane) for plane in range(planes)], axis=-1).astype(np.int16)
    drawn = np.zeros((*SHAPE, planes), np.uint8)
    drawn[..., slice(None) if at is None else at] = blob(seed)[..., None] if at is None else blob(seed)
    nibabel.save(nibabel.Nifti1Image(hu.transpose(1, 0, 2), LAS), folder / image)
    if mask:
        nibabel.save(nibabel.Nifti1Image(drawn.transpose(1, 0, 2), LAS), folder / mask)
    return hu


def refusals(folder: Path) -> list[str]:
    return check_folder(folder).refused


def write_csv(folder: Path, *rows: str, delimiter: str = ",", encoding: str = "utf-8") -> None:
    (folder / "cohort.csv").write_text("\n".join(rows).replace(",", delimiter) + "\n", encoding=encoding)


@pytest.fixture
def run(monkeypatch, capfd):
    """Run `l3muscle ...` in this process; returns exit status and everything that it wrote to the screen."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["l3muscle", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
        captured = capfd.readouterr()
        return caught.value.code or 0, captured.out + captured.err

    return call


# Masks of DICOM slices


def test_a_segmentation_belongs_to_its_slice_wherever_it_lies(tmp_path):
    ct = add_slice(tmp_path / "a" / "image", "A")
    (tmp_path / "b").mkdir()
    dicom.write_seg(tmp_path / "b" / "anything", blob(3), ct)
    assert np.array_equal(load_cohort(tmp_path).masks[0], blob(3))


def test_a_segmentation_of_a_series_counts_where_it_marks(tmp_path):
    from test_masks import write_foreign_seg

    slices = [add_slice(tmp_path / f"{z}.dcm", "A", z, float(z)) for z in range(4)]
    expert = np.zeros((4, *SHAPE), bool)
    expert[2] = blob(1)
    write_foreign_seg(tmp_path / "seg", slices, {"muscle": expert})
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], pixels(2)) and np.array_equal(cohort.masks[0], blob(1))


@pytest.mark.parametrize("name", ["x.nii.gz", "x_mask.nii.gz", "x.seg.nii.gz", "x.mask.nii", "x_mask.png", "X.png"])
@pytest.mark.parametrize("slice_name", ["x.dcm", "x"])
def test_masks_beside_a_slice(tmp_path, name, slice_name):
    stem = name[0]
    ct = add_slice(tmp_path / "deep" / slice_name.replace("x", stem), "A", 1)
    if name.endswith("png"):
        Image.fromarray(blob(2)).save(tmp_path / "deep" / name)
    else:
        dicom.write_nifti(tmp_path / "deep" / name, blob(2), ct)
    assert np.array_equal(load_cohort(tmp_path).masks[0], blob(2))


def test_observers_beside_a_slice(tmp_path):
    ct = add_outlined(tmp_path / "x.dcm", "A")
    Image.fromarray(blob(2)).save(tmp_path / "x_observer 01.png")
    dicom.write_nifti(tmp_path / "x_observer 02.nii.gz", blob(3), ct)
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.masks[0], blob(0))
    assert np.array_equal(cohort.observers["A"]["observer 01"], blob(2))
    assert np.array_equal(cohort.observers["A"]["observer 02"], blob(3))


def test_two_experts_are_one_too_many(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    Image.fromarray(blob(2)).save(tmp_path / "x.png")
    assert refusals(tmp_path) == ["x.png: another file also outlines x.dcm as 'expert'"]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones((40, 32), bool), "x.png: has 40 x 32 pixels where the slice has 32 x 40"),
        (np.zeros(SHAPE, bool), "x.dcm: the outline holds no pixel"),
        (np.ones(SHAPE, bool), "x.dcm: the outline covers the whole slice"),
    ],
)
def test_masks_that_cannot_be_right(tmp_path, mask, reason):
    add_slice(tmp_path / "x.dcm", "A")
    Image.fromarray(mask).save(tmp_path / "x.png")
    assert refusals(tmp_path) == [reason]


def test_masks_of_nothing_are_named(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    Image.fromarray(blob(2)).save(tmp_path / "y.png")
    assert refusals(tmp_path) == ["y.png: no slice or image of that name lies beside it"]


# NIfTI pairs


def test_pairs_by_name_and_by_folder(tmp_path):
    hu = add_pair(tmp_path / "one", "case 7.nii.gz", "case 7_mask.nii.gz", 1)
    other = add_pair(tmp_path / "case 8", "image.nii", "mask.nii.gz", 2, planes=1, at=0)
    Image.fromarray(blob(5)).save(tmp_path / "case 8" / "image_observer 01.png")
    cohort = load_cohort(tmp_path)
    assert cohort.patient_ids == ("case 7", "case 8")
    assert np.array_equal(cohort.images[0], hu[..., 1]) and np.array_equal(cohort.masks[0], blob(1))
    assert np.array_equal(cohort.images[1], other[..., 0]) and np.array_equal(cohort.masks[1], blob(2))
    np.testing.assert_allclose(cohort.spacing, [[0.8, 0.9]] * 2, rtol=1e-6)
    assert np.array_equal(cohort.observers["case 8"]["observer 01"], blob(5))


def test_a_mask_of_one_plane_finds_its_place_in_the_volume(tmp_path):
    hu = add_pair(tmp_path, "a.nii.gz", None, 1, planes=5)
    plane = LAS.copy()
    plane[:3, 3] += 3 * LAS[:3, 2]
    nibabel.save(nibabel.Nifti1Image(blob(2).T[..., None].astype(np.uint8), plane), tmp_path / "a_mask.nii.gz")
    assert np.array_equal(load_cohort(tmp_path).images[0], hu[..., 3])


def test_two_dimensional_pairs(tmp_path):
    for name, array in (("a", pixels(1).astype(np.int16)), ("a_mask", blob(1).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array.T, LAS), tmp_path / f"{name}.nii")
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], pixels(1)) and np.array_equal(cohort.masks[0], blob(1))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"at": None}, "a_mask.nii.gz: 3 slices are annotated where one is expected"),
        ({"mask": None}, "a.nii.gz: no mask lies beside it"),
    ],
)
def test_pairs_that_do_not_say_which_slice(tmp_path, arguments, reason):
    add_pair(tmp_path, "a.nii.gz", **{"mask": "a_mask.nii.gz", "seed": 1, **arguments})
    (line,) = refusals(tmp_path)
    assert line.startswith(reason)


def test_one_patient_twice_by_two_roads(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    add_pair(tmp_path, "A.nii.gz", "A_mask.nii.gz", 1)
    (line,) = refusals(tmp_path)
    assert line.startswith("patient 'A' is there 2 times: x.dcm, A.nii.gz")


# cohort.csv


@pytest.fixture
def series(tmp_path) -> Path:
    """Two series of four slices, every slice outlined; nobody has an ID."""
    for name in "AB":
        for z in range(4):
            path = tmp_path / name / f"{z}.dcm"
            add_slice(path, name, z, 5.0 * z, InstanceNumber=z + 1)
            dicom.write_rtstruct(path.with_suffix(".rt"), {"expert": blob(z)}, dicom.read_ct_slice(path))
            dataset = pydicom.dcmread(path)
            dataset.PatientID = ""
            dataset.save_as(path)
    return tmp_path


def test_without_a_choice_a_series_of_outlined_slices_is_refused(tmp_path):
    for z in range(2):
        add_outlined(tmp_path / f"{z}.dcm", "A", z, 5.0 * z)
    assert "patient 'A' has 2 outlined slices where one is expected: 0.dcm, 1.dcm" in refusals(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_way_to_choose_a_slice(series, delimiter, encoding):
    uid = dicom.read_ct_slice(series / "A" / "1.dcm").sop_instance_uid
    serie = pydicom.dcmread(series / "B" / "0.dcm").SeriesInstanceUID
    for name, row in {
        "file": "p,A/2.dcm,,,,",
        "sop": f"p,,{uid},,,",
        "number": f"p,,,{serie},4,",
        "position": f"p,,,{serie},,4.8",
    }.items():
        head = "patient_id,file,sop_instance_uid,series_instance_uid,instance_number,position_mm"
        write_csv(series, head, row, delimiter=delimiter, encoding=encoding)
        cohort = load_cohort(series)
        assert cohort.patient_ids == ("p",)
        z = {"file": 2, "sop": 1, "number": 3, "position": 1}[name]
        assert np.array_equal(cohort.images[0], pixels(z)) and np.array_equal(cohort.masks[0], blob(z))


def test_masks_and_observers_of_one_s_choice(series):
    ct = dicom.read_ct_slice(series / "A" / "1.dcm")
    Image.fromarray(blob(7)).save(series / "m.png")
    dicom.write_seg(series / "seg.dcm", blob(8), ct)
    dicom.write_rtstruct(series / "two.dcm", {"K": blob(5), "L": blob(6)}, ct)
    write_csv(
        series,
        "patient_id,file,mask,observer",
        "p,A/1.dcm,m.png,",
        "q,B/1.dcm,,",
        "p,,seg.dcm,observer 01",
        "p,,two.dcm,l",
    )
    cohort = load_cohort(series)
    assert cohort.patient_ids == ("p", "q")
    assert np.array_equal(cohort.masks[0], blob(7)) and np.array_equal(cohort.masks[1], blob(1))
    assert set(cohort.observers["p"]) == {"observer 01", "observer l"}
    assert np.array_equal(cohort.observers["p"]["observer 01"], blob(8))
    assert np.array_equal(cohort.observers["p"]["observer l"], blob(6))


def test_slices_of_a_volume_are_chosen_as_the_file_counts_them(tmp_path):
    hu = add_pair(tmp_path, "a.nii.gz", "a_mask.nii.gz", 1, at=None)
    head_first = nibabel.load(tmp_path / "a.nii.gz").as_reoriented(np.array([[0, 1], [1, 1], [2, -1]]))
    nibabel.save(head_first, tmp_path / "b.nii.gz")
    write_csv(tmp_path, "patient_id,file,slice,mask", "p,a.nii.gz,0,", "q,b.nii.gz,0,a_mask.nii.gz")
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images, [hu[..., 0], hu[..., 2]])


def test_what_the_choice_passes_over_is_not_judged(series):
    (series / "holiday.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    add_slice(series / "mr.dcm", "C", Modality="CT")
    write_csv(series, "patient_id,file", "p,A/0.dcm")
    assert refusals(series) == []


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["patient_id,file,spacing_row_mm", "p,A/0.dcm,0.8"], "line 1: there is no column 'spacing_row_mm'"),
        (["file", "A/0.dcm"], "line 1: needs a column 'patient_id'"),
        (["patient_id,patient_id,file", "p,p,A/0.dcm"], "line 1: needs a column 'patient_id', and each column once"),
        (["patient_id,file", ",A/0.dcm"], "line 2: patient_id is empty"),
        (["patient_id,file", "", "p,A/9.dcm"], "line 3: there is no file 'A/9.dcm'"),
        (["patient_id,file", "p,../A/0.dcm"], "line 2: file '../A/0.dcm' lies outside the folder"),
        (["patient_id,file", "p,/etc/passwd"], "line 2: file '/etc/passwd' lies outside the folder"),
        (["patient_id,file,mask", "p,A/0.dcm,x.png"], "line 2: there is no file 'x.png'"),
        (["patient_id,file", "p,A/0.dcm", "p,A/1.dcm"], "line 3: the same patient as line 2"),
        (["patient_id,file", "p,A/0.dcm", "q,A/0.dcm"], "line 3: the same slice as line 2"),
        (["patient_id,file,sop_instance_uid", "p,A/0.dcm,1.2"], "line 2: needs one of file, sop_instance_uid"),
        (["patient_id,file", "p,"], "line 2: needs one of file, sop_instance_uid"),
        (["patient_id,series_instance_uid", "p,1.2"], "line 2: one of instance_number and position_mm goes with"),
        (["patient_id,file,instance_number", "p,A/0.dcm,3"], "line 2: one of instance_number and position_mm goes"),
        (["patient_id,series_instance_uid,instance_number", "p,1.2,three"], "line 2: instance_number is 'three'"),
        (["patient_id,series_instance_uid,instance_number", "p,1.2,3"], "line 2: 0 of the series' 0 slices"),
        (["patient_id,sop_instance_uid", "p,1.2"], "line 2: no slice has the SOPInstanceUID 1.2"),
        (["patient_id,file,slice", "p,A/0.dcm,1"], "line 2: the column slice is for NIfTI volumes"),
        (["patient_id,file", "p,A/0.dcm,what,else"], "line 2: has more cells than there are columns"),
        (["patient_id,file", 'p,"A/0.dcm'], "line 2: unexpected end of data"),
        (["patient_id,file,observer", "p,A/0.dcm,", "p,A/0.dcm,x"], "line 3: an observer's row needs a mask"),
        (["patient_id,file,mask,observer", "p,,A/0.rt,x"], "line 2: an observer's outline of a patient without"),
        (["patient_id,file", "p,A/0.rt"], "line 2: A/0.rt: not a CT image (modality RTSTRUCT)"),
        (["patient_id,file,mask", "p,A/0.dcm,A/1.dcm"], "line 2: A/1.dcm: holds no outlines (modality CT)"),
        (["patient_id,file,mask", "p,A/0.dcm,B/1.rt"], "line 2: B/1.rt: drawn in another frame of reference"),
    ],
)
def test_mistakes_in_the_choice_are_named_by_their_line(series, rows, reason):
    write_csv(series, *rows)
    (line,) = refusals(series)
    assert line.startswith(f"cohort.csv {reason}")


def test_tables_that_are_none(series):
    (series / "cohort.csv").write_bytes(b"patient_id\xff\xfe")
    assert refusals(series) == ["cohort.csv: not a text in UTF-8"]
    (series / "cohort.csv").write_bytes(b"")
    assert refusals(series)[0].startswith("cohort.csv line 1: needs a column 'patient_id'")
    with pytest.raises(CohortError, match=r"cohort\.csv line 1"):
        load_cohort(series)


# DICOM as it comes


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_transfer_syntaxes(tmp_path, syntax):
    ct = add_outlined(tmp_path / "x.dcm", "A", 3)
    dataset = pydicom.dcmread(ct.path)
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(ct.path, dataset, little_endian=syntax != ExplicitVRBigEndian, implicit_vr=False)
    assert np.array_equal(load_cohort(tmp_path).images[0], pixels(3))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, monkeypatch):
    ct = add_outlined(tmp_path / "x.dcm", "A", 3)
    dataset = pydicom.dcmread(ct.path)
    dataset.compress(syntax, generate_instance_uid=False)
    frame = bytearray(dataset.PixelData)
    if syntax == JPEG2000Lossless:
        at = frame.index(b"\xff\x4f\xff\x51") + 8
        frame[at : at + 8] = (60000).to_bytes(4, "big") * 2
    else:
        at = frame.index(b"\xff\xf7") + 5
        frame[at : at + 4] = (60000).to_bytes(2, "big") * 2
    dataset.PixelData = bytes(frame)
    dataset.save_as(ct.path)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: pytest.fail("was decoded")))
    assert refusals(tmp_path) == ["x.dcm: the pixel data hold (60000, 60000) pixels where the header says (32, 40)"]


def test_deflated_files_cannot_fill_the_memory(tmp_path, monkeypatch):
    ct = add_outlined(tmp_path / "x.dcm", "A", 3)
    dataset = pydicom.dcmread(ct.path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new((0x0009, 0x0010), "LO", "filler")
    dataset.add_new((0x0009, 0x1001), "OB", bytes(3 << 20))
    dataset.save_as(ct.path)
    assert refusals(tmp_path) == []
    monkeypatch.setattr(dicom, "MAX_INFLATED_BYTES", 2 << 20)
    assert "x.dcm: unfolds to more than 2 MiB" in refusals(tmp_path)


def test_rows_that_the_pixels_contradict_are_refused(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.Rows = 16
    dataset.save_as(tmp_path / "x.dcm")
    assert refusals(tmp_path) == ["x.dcm: the pixel data hold (32, 40) pixels where the header says (16, 40)"]


def test_padding_reads_as_air(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A", RescaleIntercept=-3000)
    assert load_cohort(tmp_path).images.min() == -1024


def test_values_in_other_units_are_refused(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.RescaleType = "Z_EFF"
    dataset.save_as(tmp_path / "x.dcm")
    assert "x.dcm: rescales to Z_EFF, not to Hounsfield units" in refusals(tmp_path)


def test_the_index_of_an_export_is_passed_over(tmp_path):
    from pydicom.fileset import FileSet

    dates = {"StudyDate": "20200101", "StudyTime": "120000", "StudyID": "1"}
    add_outlined(tmp_path / "x.dcm", "A", **dates)
    files = FileSet()
    files.add(tmp_path / "x.dcm")
    files.write(tmp_path / "export")
    shutil.move(tmp_path / "export" / "DICOMDIR", tmp_path / "DICOMDIR")
    shutil.rmtree(tmp_path / "export")
    assert refusals(tmp_path) == []


def test_pixels_of_slices_that_are_not_used_stay_in_their_files(tmp_path, monkeypatch):
    add_outlined(tmp_path / "x.dcm", "A")
    add_slice(tmp_path / "y.dcm", "A", 1, 3.0)
    decoded = []
    monkeypatch.setattr("l3muscle.cohort.folder.decode", lambda ds, ct: decoded.append(ct.name) or dicom.decode(ds, ct))
    assert len(load_cohort(tmp_path)) == 1
    assert decoded == ["x.dcm"]


# Two patients under one ID


@pytest.mark.parametrize(
    ("keyword", "values", "what"),
    [
        ("PatientName", ("Quixote^Dulcinea", "Panza^Sancho"), "names"),
        ("PatientBirthDate", ("19430217", "19600131"), "birth dates"),
        ("PatientSex", ("F", "M"), "sexes"),
    ],
)
def test_two_patients_under_one_id(tmp_path, keyword, values, what):
    add_outlined(tmp_path / "x.dcm", "A", 0, **{keyword: values[0]})
    add_slice(tmp_path / "y.dcm", "A", 1, 3.0, **{keyword: values[1]})
    add_outlined(tmp_path / "z.dcm", "B", 2)
    report = check_folder(tmp_path)
    assert [patient.patient_id for patient in report.usable] == ["B"]
    (line,) = report.refused
    assert f"under different {what}" in line and "two patients under one ID" in line
    assert not any(value in line for value in values if len(value) > 1)


def test_one_name_written_in_two_ways_is_one_patient(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A", 0, PatientName="Quixote^Dulcinea", PatientSex="F")
    add_slice(tmp_path / "y.dcm", "A", 1, 3.0, PatientName="QUIXOTE Dulcinea", PatientSex="")
    assert refusals(tmp_path) == []


def test_outlined_slices_of_two_scans_under_one_id(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A", 0)
    other = add_slice(tmp_path / "y.dcm", "other", 1)
    dicom.write_rtstruct(tmp_path / "y.rt", {"expert": blob(1)}, other)
    dataset = pydicom.dcmread(tmp_path / "y.dcm")
    dataset.PatientID = "A"
    dataset.save_as(tmp_path / "y.dcm")
    (line,) = refusals(tmp_path)
    assert "2 outlined slices where one is expected of 2 scans, or of two patients under one ID" in line


# What reports say


def test_refusals_are_counted_by_reason(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    for index in range(3):
        (tmp_path / f"holiday {index}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
        add_slice(tmp_path / f"{index}.dcm", f"P{index}", index)
    lines = list(check_folder(tmp_path).lines())
    assert "     3 x not a DICOM file" in lines and "     3 x no outline refers to it" in lines
    assert lines[-1] == "1 patients usable, 0 of them with observers; 6 refusals"


def test_names_of_files_cannot_break_a_line(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    (tmp_path / "two\nlines\x1b[31m.jpg").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    lines = list(check_folder(tmp_path).lines())
    assert len(lines) == 4  # two refusals, one count, one sum
    assert all(line.isprintable() and line.encode() for line in lines)
    assert one_line("a\n b\x07") == "a b?"


def test_check_warns_of_too_few_patients_and_takes_their_numbers(run, tmp_path):
    for index in range(8):
        add_outlined(tmp_path / f"{index}.dcm", f"P{index}", index)
    code, text = run("cohort", "check", tmp_path)
    assert code == 0 and "warning: 8 patients are too few to hold out 37" in text
    code, text = run("cohort", "check", tmp_path, "--test-patients", 2, "--folds", 4)
    assert code == 0 and "warning: 6 patients besides the test set are too few for 4 folds" in text
    code, text = run("cohort", "check", tmp_path, "--test-patients", 2, "--folds", 3, "--largest", 5)
    assert code == 0 and "warning: a training set of 5 does not fit" in text
    code, text = run("cohort", "check", tmp_path, "--test-patients", 2, "--folds", 3, "--largest", 4)
    assert code == 0 and "warning" not in text and "8 patients usable" in text


def test_names_and_birth_dates_reach_nothing(run, finished, tiny, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "cohort"
    secrets = ("Quixote", "Dulcinea", "19430217", "1943-02-17")
    for index, path in enumerate(sorted(finished.cohort_folder.rglob("ct.dcm"))):
        place = folder / f"Quixote_Dulcinea_{path.parent.name}"
        place.mkdir(parents=True)
        for name in ("ct.dcm", "rtstruct.dcm"):
            dataset = pydicom.dcmread(path.parent / name)
            dataset.PatientName, dataset.PatientBirthDate = "Quixote^Dulcinea", "19430217"
            dataset.save_as(place / ("QUIXOTE 1943-02-17 " + name))
        if index < 4:
            damaged = place / ("QUIXOTE 1943-02-17 " + ("ct.dcm", "rtstruct.dcm")[index % 2])
            damaged.write_bytes(damaged.read_bytes()[: 900 + 200 * index])
    settings = tiny.model_dump(mode="json") | {"name": "named"}
    settings["grid"] |= {"sizes": [2], "folds": 2, "source_tasks": ["random"]}
    settings["training"] |= {"max_steps": 2, "validate_every": 1}
    (tmp_path / "named.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    said = [run("cohort", "check", folder)[1]]
    options = ("--profile", tmp_path / "named.yml", "--runs", tmp_path / "runs", "--cohort", folder, "--workers", 1)
    code, text = run("study", "run", *options)
    assert code == 2 and "lists them" in text
    said.append(text)
    code, text = run("study", "run", *options, "--usable-only")
    assert code == 0 and "2 of 2 experiments done" in text
    said += [text, *(record.getMessage() for record in caplog.records)]
    assert "refused: " in said[0] and "***" in said[0]
    everything = "\n".join(said).replace(str(folder), "")
    for path in (tmp_path / "runs").rglob("*"):
        everything += path.name
        if path.is_file():
            everything += path.read_bytes().decode("latin-1")
    found = [secret for secret in secrets if secret.casefold() in everything.casefold()]
    assert found == []


# Real scans


@needs_real_ct
def test_a_real_series_with_its_own_outlines(tmp_path):
    shutil.copytree(REAL_CT / "dicom", tmp_path / "series")
    slices = dicom.read_ct_folder(tmp_path / "series")
    mask = slices[7].hu > 0
    (tmp_path / "masks").mkdir()
    dicom.write_rtstruct(tmp_path / "masks" / "a", {"muscle": mask}, slices[7])
    write_csv(tmp_path, "patient_id,sop_instance_uid", f"real,{slices[7].sop_instance_uid}")
    cohort = load_cohort(tmp_path)
    assert cohort.patient_ids == ("real",)
    assert np.array_equal(cohort.masks[0], mask) and np.array_equal(cohort.images[0], slices[7].hu)


@needs_real_ct
def test_a_real_volume_with_its_mask(tmp_path):
    for name, source in (("image", "ct_3mm"), ("mask", "skeletal_muscle_3mm")):
        (tmp_path / "real").mkdir(exist_ok=True)
        shutil.copy(REAL_CT / f"{source}.nii.gz", tmp_path / "real" / f"{name}.nii.gz")
    (line,) = refusals(tmp_path)
    assert "slices are annotated where one is expected" in line
    write_csv(tmp_path, "patient_id,file,slice", "real,real/image.nii.gz,12")
    cohort = load_cohort(tmp_path)
    assert cohort.spacing[0] == pytest.approx([3, 3], abs=1e-3)
    hu = cohort.images[0][cohort.masks[0]]
    assert 20 < np.median(hu) < 80
    # The spine, the densest part, lies behind the middle of the body: anterior is at the top.
    body, bone = (np.argwhere(cohort.images[0] > threshold)[:, 0].mean() for threshold in (-300, 400))
    assert bone > body


@pytest.fixture
def real_slice() -> Path:
    return sorted((REAL_CT / "dicom").iterdir())[3]


@needs_real_ct
def test_no_damage_to_a_real_slice_raises_or_slips_through(real_slice, tmp_path):
    content = real_slice.read_bytes()
    sound = dicom.read_ct_slice(real_slice)
    header = len(content) - len(pydicom.dcmread(real_slice).PixelData)
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(160):
        data = bytearray(content)
        if trial % 4 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(0, header, trial % 4):
                data[place] = int(rng.integers(256))
        (tmp_path / "x.dcm").write_bytes(data)
        try:
            read = dicom.read_ct_slice(tmp_path / "x.dcm")
        except dicom.DicomError as error:
            refused += 1
            assert str(error).startswith("x.dcm: ") and "\n" not in str(error)
        else:
            assert read.spacing == sound.spacing and np.array_equal(read.hu, sound.hu)
    assert refused > 40


@needs_real_ct
@pytest.mark.parametrize("place", range(4))
def test_a_wrong_digit_in_the_spacing_shows(real_slice, tmp_path, place):
    content = real_slice.read_bytes()
    # 0.9765625 twice: the first four digits of the first.
    at = content.index(b"0.9765625\\0.9765625") + (0, 2, 3, 4)[place]
    for digit in b"0123456789":
        data = content[:at] + bytes([digit]) + content[at + 1 :]
        (tmp_path / "x.dcm").write_bytes(data)
        try:
            row, column = dicom.read_ct_slice(tmp_path / "x.dcm").spacing
        except dicom.DicomError as error:
            assert any(words in str(error) for words in ("field of view", "cannot be right", "are square"))
        else:
            assert row == column


@pytest.mark.parametrize("name", ["9" * 400, "x/" * 3000, "a\0b"], ids=["long", "deep", "NUL"])
def test_a_name_that_no_file_can_have_is_no_file(tmp_path, name):
    add_outlined(tmp_path / "a.dcm", "P1")
    write_csv(tmp_path, "patient_id,file", f"P1,{name}")
    assert any("cohort.csv line 2: there is no file" in reason for reason in refusals(tmp_path))
