"""A model applied to files of every kind: masks that other readers open, and rows that lead back to their source."""

import shutil
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from skimage.draw import polygon2mask

from l3muscle.cohort import check_folder
from l3muscle.cohort.ct import read_ct_slice
from l3muscle.errors import L3MuscleError
from l3muscle.segmenter.model_file import Segmenter, load_model
from l3muscle.segmenter.segment import measure, read_heights, segment_slices


@pytest.fixture(scope="module")
def model(trained) -> Segmenter:
    return load_model(trained.path)


@pytest.fixture
def three(patients, write, tmp_path) -> Path:
    """A folder of three patients' slices."""
    for patient in patients[:3]:
        write(tmp_path / "in", patient)
    return tmp_path / "in"


def write_volume(path: Path, patients, step_mm: float) -> None:
    affine = np.diag([-patients[0].spacing[1], -patients[0].spacing[0], step_mm, 1])
    nibabel.save(nibabel.Nifti1Image(np.stack([one.hu.T for one in patients], axis=-1), affine), path)


def test_measures_with_and_without_the_range_and_the_height():
    hu = np.full((20, 20), 50, dtype=np.int16)
    hu[:, 10:] = -60
    mask = np.ones_like(hu, dtype=bool)
    found = measure(mask, hu, (1.0, 2.0), 2.0)
    assert found["sma_cm2"] == pytest.approx(8) and found["sma_range_cm2"] == pytest.approx(4)
    assert found["smd_hu"] == pytest.approx(-5) and found["smd_range_hu"] == pytest.approx(50)
    assert found["smi_cm2_m2"] == pytest.approx(2) and found["smi_range_cm2_m2"] == pytest.approx(1)
    assert np.isnan(measure(mask, hu, (1.0, 2.0), None)["smi_cm2_m2"])
    hu[:, 10:14] = (-191, -190, -30, -29)
    assert measure(mask, hu, (1.0, 2.0), None)["imat_cm2"] == pytest.approx(0.4 * 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient_id,height_m\nA,172\n", "'172' is no height in metres"),
        ("patient_id,height_m\nA,tall\n", "'tall' is no height in metres"),
        ("patient_id,height_m\nA,1.7\nA,1.8\n", "'A' has two heights"),
        ("name,height_m\nA,1.7\n", "needs the columns"),
        ("", "h.csv cannot be read as a table"),
    ],
)
def test_heights_that_cannot_be_right_are_refused(tmp_path, text, words):
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(L3MuscleError, match=words):
        read_heights(tmp_path / "h.csv")


def test_every_patient_has_a_height_whatever_the_id(tmp_path):
    (tmp_path / "h.csv").write_text("patient_id,height_m\nNA,1.7\n007,1.8\nnull,1.6\nlater,\n")
    assert read_heights(tmp_path / "h.csv") == {"NA": 1.7, "007": 1.8, "null": 1.6}


def test_a_folder_of_everything(model, patients, write, tmp_path):
    source = tmp_path / "in"
    paths = [write(source, patient, outlined=True) for patient in patients[:3]]
    tall = pydicom.dcmread(paths[0])
    tall.PatientSize = "1.75"
    tall.save_as(paths[0])
    mr = pydicom.dcmread(paths[2])
    mr.Modality = "MR"
    mr.save_as(paths[2])
    write_volume(source / "two.nii.gz", patients[3:5], 5)
    shutil.copy(source / "two.nii.gz", source / "two_mask.nii.gz")
    (source / "heights.csv").write_text("patient_id;height_m\nP1;1,60\nP9;1,70\n")
    out, heights = tmp_path / "out", read_heights(source / "heights.csv")
    outcome = segment_slices([source], model, out, formats=["rtstruct", "seg"], heights=heights, overlays=False)
    assert len(outcome.measures) == 4
    assert len(outcome.refused) == 1 and "modality MR" in (out / "refused.txt").read_text()
    table = pd.read_csv(out / "measures.csv").set_index("source")
    assert table.loc["P0-0.dcm", "height_m"] == 1.75 and table.loc["P1-0.dcm", "height_m"] == 1.6
    assert table["review_first"].is_monotonic_decreasing and (out / "sheet-01.png").is_file()
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["two-000.mask.nii.gz", "two-001.mask.nii.gz"]
    assert any("1 heights are of no patient or slice" in note and "P9" in note for note in outcome.notes)
    assert any("1 NIfTI images are written as NIfTI and not as rtstruct and seg" in note for note in outcome.notes)
    assert any("4 outline files in the folders were passed over" in note for note in outcome.notes)


def test_third_party_readers_find_the_same_mask(model, patients, write, tmp_path):
    path, out = write(tmp_path, patients[0]), tmp_path / "out"
    outcome = segment_slices([path], model, out, formats=["seg", "rtstruct", "nifti"])
    ct = read_ct_slice(path)
    mask = model.predict(ct.hu, ct.spacing)
    assert mask.any()
    [name] = outcome.measures["slice"]
    seg = highdicom.seg.segread(out / f"{name}.seg.dcm")
    pixels = seg.get_pixels_by_source_instance([ct.sop_instance_uid], segment_numbers=[1])
    np.testing.assert_array_equal(pixels[0, ..., 0] > 0, mask)
    image = nibabel.load(out / f"{name}.mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T > 0, mask)
    np.testing.assert_allclose((image.affine @ [0, 0, 0, 1])[:3], ct.position * [-1, -1, 1], atol=1e-4)
    rt = pydicom.dcmread(out / f"{name}.rtstruct.dcm")
    filled = np.zeros_like(mask)
    for contour in rt.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - ct.position
        filled ^= polygon2mask(mask.shape, np.stack([points[:, 1] / ct.spacing[0], points[:, 0] / ct.spacing[1]], 1))
    np.testing.assert_array_equal(filled, mask)


def test_corrected_outlines_come_back_as_training_slices(model, patients, write, tmp_path):
    segment_slices([write(tmp_path, patients[0])], model, tmp_path / "out")
    for seg in (tmp_path / "out").glob("*.seg.dcm"):
        seg.rename(tmp_path / seg.name)
    report = check_folder(tmp_path, several=True)
    assert [patient.patient_id for patient in report.usable] == ["P0"] and not report.unlabelled


def test_every_row_leads_back_to_its_file_and_names_do_not_depend_on_the_neighbours(model, patients, write, tmp_path):
    for series in ("a", "b"):  # two series whose files are called alike, by numbers that end in a dot and digits
        for index in (1, 2):
            patient = patients[index if series == "a" else index + 2]
            write(tmp_path / "in" / series, patient).rename(tmp_path / "in" / series / f"1.2.84{index}")
    write_volume(tmp_path / "in" / "down.nii.gz", patients[:3], -5)  # stored from the head to the feet
    first = segment_slices([tmp_path / "in"], model, tmp_path / "out 1", overlays=False).measures.set_index("source")
    assert sorted(set(first.index)) == ["a/1.2.841", "a/1.2.842", "b/1.2.841", "b/1.2.842", "down.nii.gz"]
    assert first["slice"].is_unique
    for source in ("a/1.2.841", "b/1.2.842"):
        row, stored = first.loc[source], pydicom.dcmread(tmp_path / "in" / source)
        assert row["sop_instance_uid"] == stored.SOPInstanceUID and row["patient_id"] == stored.PatientID
        assert row["slice"].startswith(source.replace("/", "_")) and np.isnan(row["plane"])
    for row in first.loc["down.nii.gz"].itertuples():
        stored = nibabel.load(tmp_path / "in" / "down.nii.gz").get_fdata()[..., int(row.plane)].T
        mask = model.predict(stored.astype(np.int16), patients[0].spacing)
        assert row.slice == f"down-{int(row.plane):03d}"
        assert row.sma_cm2 == pytest.approx(mask.sum() * np.prod(patients[0].spacing) / 100, rel=1e-6)
    shutil.rmtree(tmp_path / "in" / "a")
    again = segment_slices([tmp_path / "in"], model, tmp_path / "out 2", overlays=False).measures
    assert set(again["slice"]) == set(first["slice"]) - set(first["slice"].filter(like="a/"))


def test_copies_are_measured_once_and_named(model, three, patients, tmp_path):
    shutil.copy(three / "P0-0.dcm", three / "copy.dcm")
    write_volume(three / "v.nii.gz", patients[3:4], 5)
    shutil.copy(three / "v.nii.gz", three / "w.nii.gz")
    other = pydicom.dcmread(three / "P1-0.dcm")
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(three / "other.dcm")
    outcome = segment_slices([three], model, tmp_path / "out", overlays=False)
    assert len(outcome.measures) == 4
    assert "w.nii.gz is a copy of v.nii.gz, and is left out" in outcome.notes
    assert outcome.refused == ["copy.dcm: the same slice as P0-0.dcm", "other.dcm: the same slice as P1-0.dcm"]


def test_results_of_two_runs_never_lie_together_and_a_persons_work_is_kept(model, three, tmp_path):
    out = tmp_path / "out"
    (three / "note.xyz").write_text("no slice")
    first = segment_slices([three], model, out)
    (out / "my notes.txt").write_text("keep")
    assert (out / "refused.txt").is_file()
    for path in (three / "note.xyz", three / "P0-0.dcm"):
        path.unlink()
    second = segment_slices([three], model, out)
    gone = (set(first.measures["slice"]) - set(second.measures["slice"])).pop()
    assert gone.startswith("P0-0") and not list(out.glob(f"{gone}*")) and not (out / "refused.txt").exists()
    assert (out / "my notes.txt").read_text() == "keep"
    listed = [line.split("  ")[1] for line in (out / "SHA256SUMS.txt").read_text().splitlines()]
    assert sorted([*listed, "SHA256SUMS.txt", "my notes.txt"]) == sorted(path.name for path in out.iterdir())
    corrected = next(out.glob("*.seg.dcm"))
    corrected.write_bytes(b"corrected")
    with pytest.raises(L3MuscleError, match=f"{corrected.name} were changed since"):
        segment_slices([three], model, out)
    assert corrected.read_bytes() == b"corrected" and len(list(out.glob("*.png"))) == 3
    (out / "SHA256SUMS.txt").unlink()
    with pytest.raises(L3MuscleError, match="holds results of another run"):
        segment_slices([three], model, out)


BROKEN = {
    "P1": {
        "PatientSex": "U",
        "StudyDate": "00000000",
        "StudyTime": "240000",
        "SliceThickness": "3,0",
        "InstanceNumber": "first",
    },
    "P2": {"StudyDate": "20201301", "SliceThickness": ""},
}


def test_slices_with_broken_elements_are_segmented_and_cost_no_other(model, three, tmp_path):
    for patient, elements in BROKEN.items():
        dataset = pydicom.dcmread(three / f"{patient}-0.dcm")
        for keyword, value in elements.items():
            element, text = dataset.data_element(keyword) or pydicom.DataElement(keyword, "DS", "1"), value.encode()
            text += b" " * (len(text) % 2)
            raw = RawDataElement(Tag(keyword), element.VR, len(text), text, 0, False, True)
            dataset._dict[Tag(keyword)] = raw
        dataset.save_as(three / f"{patient}-0.dcm")
    formats = ["seg", "rtstruct", "nifti"]
    outcome = segment_slices([three], model, tmp_path / "out", formats=formats, overlays=False)
    assert len(outcome.measures) == 3 and not outcome.refused
    names = outcome.measures.set_index("patient_id")["slice"]
    for patient, elements in BROKEN.items():
        mask = model.predict(*(getattr(read_ct_slice(three / f"{patient}-0.dcm"), name) for name in ("hu", "spacing")))
        seg = highdicom.seg.segread(tmp_path / "out" / f"{names[patient]}.seg.dcm")
        np.testing.assert_array_equal(seg.pixel_array.squeeze() > 0, mask)
        assert not [keyword for keyword, value in elements.items() if value and seg.get(keyword) == value]
        assert np.asarray(nibabel.load(tmp_path / "out" / f"{names[patient]}.mask.nii.gz").dataobj).sum() == mask.sum()


def test_a_slice_for_which_no_mask_can_be_written_is_refused_and_the_others_are_done(model, three, tmp_path):
    dataset = pydicom.dcmread(three / "P1-0.dcm")
    del dataset.PixelData
    dataset.save_as(three / "P1-0.dcm")
    outcome = segment_slices([three], model, tmp_path / "out")
    assert sorted(outcome.measures["patient_id"]) == ["P0", "P2"]
    [refusal] = outcome.refused
    assert refusal.startswith("P1-0.dcm: ")


def test_names_that_would_overwrite_one_another_are_refused(model, patients, tmp_path):
    write_volume(tmp_path / "x.nii.gz", patients[:1], 5)
    write_volume(tmp_path / "x.nii", patients[1:2], 5)
    outcome = segment_slices([tmp_path], model, tmp_path / "out", overlays=False)
    assert len(outcome.measures) == 1 and "rename one" in outcome.refused[0]
