"""Every way into a cohort: what belongs to which slice, what `cohort.csv` chooses, and what no report repeats."""

import os
import shutil
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from building import (
    LAS,
    REAL_CT,
    SHAPE,
    add_outlined,
    add_pair,
    add_slice,
    blob,
    body,
    edit,
    needs_real_ct,
    save_nifti,
    write_foreign_seg,
)
from PIL import Image

from l3muscle.cohort import CohortError, check_folder, load_cohort
from l3muscle.cohort.cohort import one_line
from l3muscle.cohort.ct import read_ct_slice
from l3muscle.cohort.files import folder_signature
from l3muscle.cohort.nifti import write_nifti
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.cohort.seg import write_seg
from l3muscle.segmenter.slices import find_slices


def refusals(folder: Path) -> list[str]:
    return check_folder(folder).refused


def write_csv(folder: Path, *rows: str, delimiter: str = ",", encoding: str = "utf-8") -> None:
    text = "\n".join(rows)
    if delimiter == ";":
        text = text.translate({ord(","): ";", ord(";"): ","})
    (folder / "cohort.csv").write_text(text + "\n", encoding=encoding)


# One slice, every format


def test_the_same_slice_has_one_area_in_every_format(tmp_path):
    ct = add_slice(tmp_path / "rt" / "ct.dcm")
    write_rtstruct(tmp_path / "rt" / "rt.dcm", {"muscle": blob(2)}, ct)
    for name in ("seg", "png", "dicom and nifti"):
        shutil.copytree(tmp_path / "rt", tmp_path / name, ignore=shutil.ignore_patterns("rt.dcm"))
    write_foreign_seg(tmp_path / "seg" / "seg", [ct], {"muscle": blob(2)[None]})
    Image.fromarray(blob(2)).save(tmp_path / "png" / "ct.png")
    write_nifti(tmp_path / "dicom and nifti" / "ct_mask.nii.gz", blob(2), ct)
    affine = np.diag([-1.1, -0.8, 3, 1])
    save_nifti(tmp_path / "nifti" / "P1.nii.gz", body().T[..., None], affine)
    save_nifti(tmp_path / "nifti" / "P1_mask.nii.gz", blob(2).T[..., None].astype(np.uint8), affine)
    for folder in tmp_path.iterdir():
        cohort = load_cohort(folder)
        assert cohort.patient_ids == ("P1",), folder
        assert np.array_equal(cohort.masks[0], blob(2)) and np.array_equal(cohort.images[0], body()), folder
        assert cohort.spacing[0] == pytest.approx((0.8, 1.1))


# Masks of DICOM slices


@pytest.mark.parametrize("name", ["x.nii.gz", "x_mask.nii.gz", "x.seg.nii.gz", "x.mask.nii", "x_mask.png", "X.png"])
@pytest.mark.parametrize("slice_name", ["x.dcm", "x"])
def test_masks_beside_a_slice(tmp_path, name, slice_name):
    ct = add_slice(tmp_path / "deep" / slice_name.replace("x", name[0]), "A", 1)
    if name.endswith("png"):
        Image.fromarray(blob(2)).save(tmp_path / "deep" / name)
    else:
        write_nifti(tmp_path / "deep" / name, blob(2), ct)
    assert np.array_equal(load_cohort(tmp_path).masks[0], blob(2))


def test_observers_beside_a_slice(tmp_path):
    ct = add_outlined(tmp_path / "x.dcm", "A")
    Image.fromarray(blob(2)).save(tmp_path / "x_observer 01.png")
    write_nifti(tmp_path / "x_observer 02.nii.gz", blob(3), ct)
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.masks[0], blob(0))
    assert np.array_equal(cohort.observers["A"]["observer 01"], blob(2))
    assert np.array_equal(cohort.observers["A"]["observer 02"], blob(3))


def test_two_files_of_one_outline_have_to_agree(tmp_path):
    ct = add_outlined(tmp_path / "x.dcm", "A")
    write_seg(tmp_path / "seg", blob(0), ct)
    assert np.array_equal(load_cohort(tmp_path).masks[0], blob(0))
    write_seg(tmp_path / "seg", blob(2), ct)
    assert refusals(tmp_path) == ["x.rt: outlines it by 'expert' differently from seg (x.dcm)"]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones(SHAPE[::-1], bool), "x.png: has 47 x 33 pixels where the slice has 33 x 47 (x.dcm)"),
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


def test_links_are_followed_and_each_file_is_met_once(tmp_path):
    add_outlined(tmp_path / "elsewhere" / "one" / "x.dcm", "A")
    add_outlined(tmp_path / "elsewhere" / "two" / "x.dcm", "B", 1)
    folder = tmp_path / "links"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    (folder / "again").symlink_to(tmp_path / "elsewhere" / "one")
    (folder / "one more.dcm").symlink_to(tmp_path / "elsewhere" / "two" / "x.dcm")
    (tmp_path / "elsewhere" / "one" / "circle").symlink_to(folder)
    assert load_cohort(folder).patient_ids == ("A", "B")


def test_links_that_lead_nowhere_are_named(tmp_path):
    """As where a disk is missing: a cohort without some of its patients is another one."""
    add_outlined(tmp_path / "in" / "x.dcm", "A")
    signature = folder_signature(tmp_path / "in")
    for name in ("patient B", "y.nii.gz"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "nowhere" / name)
    named = {f"{name}: cannot be read (No such file or directory)" for name in ("patient B", "y.nii.gz")}
    assert set(refusals(tmp_path / "in")) == set(find_slices([tmp_path / "in"]).refused) == named
    assert folder_signature(tmp_path / "in") != signature


def test_what_is_hidden_is_left_out(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    for name in (".AppleDouble/x.dcm", "deep/.Trash/y/z.dcm", "._x.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert refusals(tmp_path) == []


# NIfTI pairs


def test_pairs_by_name_and_by_folder(tmp_path):
    hu = add_pair(tmp_path / "one", "case 7.nii.gz", "case 7_mask.nii.gz", 1)
    other = add_pair(tmp_path / "case 8", "image.nii", "mask.nii.gz", 2, planes=1, at=0)
    Image.fromarray(blob(5)).save(tmp_path / "case 8" / "image_observer 01.png")
    cohort = load_cohort(tmp_path)
    assert cohort.patient_ids == ("case 7", "case 8")
    assert np.array_equal(cohort.images[0], hu[..., 1]) and np.array_equal(cohort.masks[0], blob(1))
    assert np.array_equal(cohort.images[1], other[..., 0]) and np.array_equal(cohort.masks[1], blob(2))
    assert np.array_equal(cohort.observers["case 8"]["observer 01"], blob(5))


def test_a_mask_of_one_plane_finds_its_place_in_the_volume(tmp_path):
    hu = add_pair(tmp_path, "a.nii.gz", None, 1, planes=5)
    plane = LAS.copy()
    plane[:3, 3] += 3 * LAS[:3, 2]
    save_nifti(tmp_path / "a_mask.nii.gz", blob(2).T[..., None].astype(np.uint8), plane)
    assert np.array_equal(load_cohort(tmp_path).images[0], hu[..., 3])


def test_two_dimensional_pairs(tmp_path):
    for name, array in (("a", body(1)), ("a_mask", blob(1).astype(np.uint8))):
        save_nifti(tmp_path / f"{name}.nii", array.T)
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.images[0], body(1)) and np.array_equal(cohort.masks[0], blob(1))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"at": None}, "patient 'a' has 3 outlined slices where one is expected: a.nii.gz[0]"),
        ({"mask": None}, "a.nii.gz: no outline refers to it"),
    ],
)
def test_pairs_that_do_not_say_which_slice(tmp_path, arguments, reason):
    add_pair(tmp_path, "a.nii.gz", **{"mask": "a_mask.nii.gz", "seed": 1, **arguments})
    (line,) = refusals(tmp_path)
    assert line.startswith(reason)


def test_one_patient_twice_in_two_formats(tmp_path):
    add_outlined(tmp_path / "x.dcm", "A")
    add_pair(tmp_path, "A.nii.gz", "A_mask.nii.gz", 1)
    (line,) = refusals(tmp_path)
    assert "patient 'A' has 2 outlined slices" in line and "x.dcm, A.nii.gz[1]" in line


def test_slices_one_by_one(tmp_path):
    add_pair(tmp_path, "a.nii", "a_mask.nii", 1, at=None)
    add_pair(tmp_path, "b.nii", None, 2)
    for z in range(3):
        add_slice(tmp_path / f"{z}.dcm", "", z, 5.0 * z)
    write_rtstruct(tmp_path / "rt", {"expert": blob(1)}, read_ct_slice(tmp_path / "1.dcm"))
    report = check_folder(tmp_path, several=True)
    assert [(p.patient_id, p.name) for p in report.usable] == [
        ("(no PatientID)", "1.dcm"), ("a", "a.nii[0]"), ("a", "a.nii[1]"), ("a", "a.nii[2]"),
    ]  # fmt: skip
    assert sorted(report.unlabelled) == ["0.dcm", "2.dcm", "b.nii"] and report.refused == []


def test_slices_without_outlines_are_found_for_segmenting(tmp_path):
    add_outlined(tmp_path / "in" / "x.dcm", "A", 0, 3.0)
    add_slice(tmp_path / "in" / "y.dcm", "A", 1)
    shutil.copy(tmp_path / "in" / "y.dcm", tmp_path / "in" / "z.dcm")
    add_pair(tmp_path / "in", "v.nii", "v_mask.nii", 2)
    (tmp_path / "in" / "w.dcm").write_bytes(b"x")
    found = find_slices([tmp_path / "in"])
    assert [one.ct.name for one in found.slices] == ["y.dcm", "x.dcm", "v.nii[0]", "v.nii[1]", "v.nii[2]"]
    assert found.refused == ["w.dcm: not a DICOM file", "z.dcm: the same slice as y.dcm"]
    assert found.notes == ["2 outline files in the folders were passed over"]


# cohort.csv


@pytest.fixture
def series(tmp_path) -> Path:
    """Two series of four slices, every slice outlined; nobody has an ID."""
    for name in "AB":
        for z in range(4):
            path = tmp_path / name / f"{z}.dcm"
            ct = add_outlined(path, name, z, 5.0 * z, InstanceNumber=z + 1)
            edit(ct.path, PatientID="")
    return tmp_path


def test_without_a_choice_a_series_of_outlined_slices_is_refused(tmp_path):
    for z in range(2):
        add_outlined(tmp_path / f"{z}.dcm", "A", z, 5.0 * z)
    (line,) = refusals(tmp_path)
    assert line.startswith("patient 'A' has 2 outlined slices where one is expected: 0.dcm, 1.dcm")


@pytest.mark.parametrize(("delimiter", "encoding", "height"), [(",", "utf-8", "4.8"), (";", "utf-8-sig", "4;8")])
def test_every_way_to_choose_a_slice(series, delimiter, encoding, height):
    uid = read_ct_slice(series / "A" / "1.dcm").sop_instance_uid
    serie = pydicom.dcmread(series / "B" / "0.dcm").SeriesInstanceUID
    for row, z in {
        "p,A/2.dcm,,,,": 2, f"p,,{uid},,,": 1, f"p,,,{serie},4,": 3, f"p,,,{serie},,{height}": 1,
    }.items():  # fmt: skip
        head = "patient_id,file,sop_instance_uid,series_instance_uid,instance_number,position_mm"
        write_csv(series, head, row, delimiter=delimiter, encoding=encoding)
        cohort = load_cohort(series)
        assert cohort.patient_ids == ("p",)
        assert np.array_equal(cohort.images[0], body(z)) and np.array_equal(cohort.masks[0], blob(z))


def test_columns_that_a_spreadsheet_leaves_empty_mean_nothing(series):
    write_csv(series, "patient_id,file,,", "p,A/2.dcm,,")
    assert np.array_equal(load_cohort(series).images[0], body(2))
    write_csv(series, "patient_id,file,,", "p,A/2.dcm,,what")
    assert refusals(series) == ["cohort.csv line 2: has more cells than there are columns"]


def test_masks_rois_and_observers_of_one_s_choice(series):
    ct = read_ct_slice(series / "A" / "1.dcm")
    Image.fromarray(blob(7)).save(series / "m.png")
    write_seg(series / "seg.dcm", blob(8), ct)
    write_rtstruct(series / "two.dcm", {"K": blob(5), "L": blob(6)}, ct)
    write_rtstruct(series / "three.dcm", {"K": blob(5), "body": blob(6)}, read_ct_slice(series / "B" / "1.dcm"))
    write_csv(
        series,
        "patient_id,file,mask,observer,roi",
        "p,A/1.dcm,m.png,,",
        "q,B/1.dcm,three.dcm,,k",
        "p,,seg.dcm,observer 01,",
        "p,,two.dcm,l,",
        "p,,two.dcm,2,K",
    )
    cohort = load_cohort(series)
    assert cohort.patient_ids == ("p", "q")
    assert np.array_equal(cohort.masks[0], blob(7)) and np.array_equal(cohort.masks[1], blob(5))
    drawn = {"observer 01": 8, "observer l": 6, "observer 2": 5}
    assert cohort.observers["p"].keys() == drawn.keys()
    assert all(np.array_equal(cohort.observers["p"][by], blob(seed)) for by, seed in drawn.items())


def test_an_expert_s_outline_is_not_taken_for_an_observer_s(series):
    write_rtstruct(series / "A" / "1.rt", {"expert": blob(1), "observer 1": blob(5)}, read_ct_slice(series / "A/1.dcm"))
    write_csv(series, "patient_id,file,mask,observer", "p,A/1.dcm,A/1.rt,", "p,,A/1.rt,1", "p,,A/1.rt,3")
    assert refusals(series) == ["cohort.csv line 2: A/1.rt: holds no outline of A/1.dcm by 'observer 3'"]


def test_what_the_choice_passes_over_is_not_judged(series):
    (series / "holiday.jpg").write_bytes(b"\xff\xd8\xff\xe0")
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
        (["patient_id,file", "p,../A/0.dcm"], "line 2: '../A/0.dcm' lies outside the folder"),
        (["patient_id,file", "p,/etc/passwd"], "line 2: '/etc/passwd' lies outside the folder"),
        (["patient_id,file,mask", "p,A/0.dcm,x.png"], "line 2: there is no file 'x.png'"),
        (["patient_id,file", "p," + "9" * 400], "line 2: there is no file '999"),
        (["patient_id,file", "p,A/0.dcm", "p,A/1.dcm"], "line 3: the same patient as line 2"),
        (["patient_id,file", "p,A/0.dcm", "q,A/0.dcm"], "line 3: the same slice as line 2"),
        (["patient_id,file", "p,A/0.dcm", "q,A/1.dcm"], "line 3: a slice of the same scan as line 2, which is another"),
        (["patient_id,file,sop_instance_uid", "p,A/0.dcm,1.2"], "line 2: needs one of file, sop_instance_uid"),
        (["patient_id,file", "p,"], "line 2: needs one of file, sop_instance_uid"),
        (["patient_id,series_instance_uid", "p,1.2"], "line 2: one of instance_number and position_mm goes with"),
        (["patient_id,series_instance_uid,instance_number", "p,1.2,three"], "line 2: instance_number is 'three'"),
        (["patient_id,series_instance_uid,position_mm", "p,1.2,nan"], "line 2: position_mm is 'nan', not a finite"),
        (["patient_id,series_instance_uid,instance_number", "p,1.2,3"], "line 2: 0 of the series' 0 slices"),
        (["patient_id,sop_instance_uid", "p,1.2"], "line 2: no slice has the SOPInstanceUID 1.2"),
        (["patient_id,file,slice", "p,A/0.dcm,1"], "line 2: the column slice is for NIfTI volumes"),
        (["patient_id,file,roi", "p,A/0.dcm,x"], "line 2: the column roi goes with mask"),
        (["patient_id,file", "p,A/0.dcm,what,else"], "line 2: has more cells than there are columns"),
        (["patient_id,file", 'p,"A/0.dcm'], "line 2: unexpected end of data"),
        (["patient_id,file,observer", "p,A/0.dcm,", "p,A/0.dcm,x"], "line 3: an observer's row needs a mask"),
        (["patient_id,file,mask,observer", "p,,A/0.rt,x"], "line 2: an observer's outline of a patient without"),
        (["patient_id,file", "p,A/0.rt"], "line 2: A/0.rt: not a CT image but RT Structure Set (modality RTSTRUCT)"),
        (["patient_id,file,mask", "p,A/0.dcm,A/1.dcm"], "line 2: A/1.dcm: holds no outlines (modality CT)"),
        (["patient_id,file,mask", "p,A/0.dcm,B/1.rt"], "line 2: A/0.dcm: no muscle is outlined on it (B/1.rt)"),
        (["patient_id,file,mask,roi", "p,A/0.dcm,A/0.rt,x"], "line 2: A/0.rt: outlines 'expert'; none is called 'x'"),
    ],
)  # fmt: skip
def test_mistakes_in_the_choice_are_named_by_their_line(series, rows, reason):
    write_csv(series, *rows)
    (line,) = refusals(series)
    assert line.startswith(f"cohort.csv {reason}")


def test_tables_that_are_none(series):
    (series / "cohort.csv").write_bytes(b"patient_id\xff\xfe")
    assert refusals(series) == ["cohort.csv: not a text in UTF-8"]
    (series / "cohort.csv").write_bytes(b"patient_id\n" + b"x" * (1 << 24))
    assert refusals(series) == ["cohort.csv: larger than 16 MiB"]


# What is refused, and the rest used


@pytest.fixture
def folder(tmp_path) -> Path:
    add_outlined(tmp_path / "x" / "A.ct", "A", 1)
    add_outlined(tmp_path / "y" / "deep" / "B.ct", "B", 2)
    return tmp_path


def two_nameless(folder: Path) -> None:
    write_rtstruct(folder / "x" / "A.rt", {"psoas": blob(1), "rectus": blob(2)}, read_ct_slice(folder / "x" / "A.ct"))


def outline_outside(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "x" / "A.rt")
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [float(v) + (500 if i % 3 == 0 else 0) for i, v in enumerate(contour.ContourData)]
    dataset.save_as(folder / "x" / "A.rt")


@pytest.mark.parametrize(
    ("harm", "reason", "left"),
    [
        (lambda f: edit(f / "x" / "A.ct", Modality="MR"), "A.ct: not a CT image", "B"),
        (lambda f: edit(f / "x" / "A.ct", PixelSpacing=None), "x/A.ct: PixelSpacing is missing", "B"),
        (lambda f: edit(f / "x" / "A.ct", PatientID=""), "A.ct: PatientID is missing", "B"),
        (lambda f: edit(f / "x" / "A.ct", RescaleIntercept=0), "x/A.ct: values from 14 to", "B"),
        (lambda f: (f / "x" / "A.rt").unlink(), "A.ct: no outline refers to it", "B"),
        (lambda f: (f / "x" / "A.ct").unlink(), "A.rt: it outlines no slice", "B"),
        (outline_outside, "A.rt: an outline reaches beyond the slice's pixels", "B"),
        (two_nameless, "x/A.rt: outlines 'psoas', 'rectus'; which is the muscle", "B"),
        (lambda f: shutil.copy(f / "x" / "A.ct", f / "c.ct"), "the same SOPInstanceUID as", "AB"),
        (lambda f: add_outlined(f / "x" / "C.ct", "A", 5, 3.0), "patient 'A' has 2 outlined slices", "B"),
        (lambda f: (f / "x" / "A.ct").write_bytes(b"x" * 900), "x/A.ct: ", "B"),
        (lambda f: (f / "p.jpg").write_bytes(b"\xff\xd8\xff"), "p.jpg: not a DICOM file", "AB"),
    ],
)
def test_what_is_refused_is_named_and_the_rest_is_usable(folder, harm, reason, left):
    harm(folder)
    report = check_folder(folder)
    assert any(reason in line for line in report.refused), report.refused
    assert [patient.patient_id for patient in report.usable] == list(left)
    assert list(report.lines())[-1].startswith(f"{len(left)} patients usable")
    with pytest.raises(CohortError) as caught:
        load_cohort(folder)
    assert "\n" not in str(caught.value)
    assert load_cohort(folder, usable_only=True).patient_ids == tuple(left)


def test_folders_without_anything(tmp_path):
    with pytest.raises(CohortError, match="there is no folder"):
        load_cohort(tmp_path / "nowhere")
    with pytest.raises(CohortError, match="no files"):
        load_cohort(tmp_path)
    add_slice(tmp_path / "a.dcm")
    with pytest.raises(CohortError, match="can be used"):
        load_cohort(tmp_path, usable_only=True)


def test_the_index_of_an_export_is_passed_over(tmp_path):
    from pydicom.fileset import FileSet

    add_outlined(tmp_path / "x.dcm", "A", StudyDate="20200101", StudyTime="120000", StudyID="1")
    files = FileSet()
    files.add(tmp_path / "x.dcm")
    files.write(tmp_path / "export")
    shutil.move(tmp_path / "export" / "DICOMDIR", tmp_path / "DICOMDIR")
    shutil.rmtree(tmp_path / "export")
    assert refusals(tmp_path) == [] and find_slices([tmp_path]).refused == []


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


def test_reports_repeat_no_names_and_birth_dates(tmp_path):
    secret = {"PatientName": "Quixote^Dulcinea", "PatientBirthDate": "19430217"}
    accent = {"PatientName": "Müller-Weiß^René", "SpecificCharacterSet": "ISO_IR 192"}
    for seed, name in enumerate(("Müller-Weiß", unicodedata.normalize("NFD", "MÜLLER-Weiß"), "Mueller, Rene")):
        add_slice(tmp_path / name / "x.dcm", f"D{seed}", 3 + seed, **accent)
    ct = add_outlined(tmp_path / "Quixote_Dulcinea" / "1943-02-17 x.dcm", "A", 0, **secret)
    add_slice(tmp_path / "Quixote_Dulcinea" / "QUIXOTE 19430217.dcm", "B", 1, **secret)
    seen = add_outlined(tmp_path / "c.dcm", "C", 2)
    write_rtstruct(tmp_path / "dulcinea's outline of C", {"expert": blob(1)}, seen)
    report = check_folder(tmp_path)
    text = "\n".join([*report.lines(), *(patient.name for patient in report.usable)])
    secrets = ("quixote", "dulcinea", "1943", "ller", "wei", "rene", "rené")
    assert "***" in text and not any(word in text.casefold() for word in secrets)
    assert b"Quixote" not in ct.path.with_suffix(".rt").read_bytes()


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


# Real scans


@needs_real_ct
def test_a_real_series_with_its_own_outlines(tmp_path):
    shutil.copytree(REAL_CT / "dicom", tmp_path / "series")
    ct = find_slices([tmp_path / "series"]).slices[7].ct
    write_rtstruct(tmp_path / "a", {"muscle": ct.hu > 0}, ct)
    write_csv(tmp_path, "patient_id,sop_instance_uid", f"real,{ct.sop_instance_uid}")
    cohort = load_cohort(tmp_path)
    assert np.array_equal(cohort.masks[0], ct.hu > 0) and np.array_equal(cohort.images[0], ct.hu)


@needs_real_ct
def test_a_real_volume_with_its_mask(tmp_path):
    for name, source in (("image", "ct_3mm"), ("mask", "skeletal_muscle_3mm")):
        (tmp_path / "real").mkdir(exist_ok=True)
        shutil.copy(REAL_CT / f"{source}.nii.gz", tmp_path / "real" / f"{name}.nii.gz")
    write_csv(tmp_path, "patient_id,file,slice", "real,real/image.nii.gz,12")
    cohort = load_cohort(tmp_path)
    canonical = [
        nibabel.as_closest_canonical(nibabel.load(tmp_path / "real" / f"{n}.nii.gz")) for n in ("image", "mask")
    ]
    stored = nibabel.load(tmp_path / "real" / "image.nii.gz")
    plane = 12 if nibabel.aff2axcodes(stored.affine)[2] == "S" else stored.shape[2] - 13
    image, mask = (c.get_fdata()[::-1, ::-1, plane].T for c in canonical)
    assert np.array_equal(cohort.images[0], np.maximum(np.rint(image), -1024)) and np.array_equal(
        cohort.masks[0], mask > 0
    )
