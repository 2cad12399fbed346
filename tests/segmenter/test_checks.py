"""Outlined slices held against their images, and slices that a person should review first."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from l3muscle.cohort import UNNAMED, check_folder
from l3muscle.errors import L3MuscleError
from l3muscle.phantom.patients import phantom_slice
from l3muscle.segmenter import flags
from l3muscle.segmenter.checks import TURNS, check_outline, check_patients, check_training_folder, require_enough

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct"


def test_sound_outlines_pass_and_those_that_lie_the_wrong_way_round_are_refused(patients):
    assert check_patients(patients) == []
    for words, turn in TURNS.items():
        for patient in patients:
            [finding] = check_outline(replace(patient, expert=turn(patient.expert)))
            assert finding.severity == "refused" and words in finding.reason and patient.name in str(finding)


@pytest.mark.parametrize(("low", "high", "tissue"), [(-190, -30, "fat"), (-1100, -400, "air"), (176, 4000, "bone")])
def test_outlines_of_something_else_are_refused(patients, low, high, tissue):
    patient = patients[0]
    wrong = (patient.hu >= low) & (patient.hu < high)
    wrong |= wrong[:, ::-1] | wrong[::-1] | wrong[::-1, ::-1] if tissue == "air" else wrong
    found = check_outline(replace(patient, expert=wrong))
    assert found[0].severity == "refused"
    assert f"of it is {tissue}" in found[0].reason or "fits better" in found[0].reason


def test_the_same_picture_twice_is_refused_and_one_person_under_two_ids_is_named(patients):
    shifted = replace(patients[1], patient_id="Q", name="Q.dcm", hu=patients[1].hu + np.int16(1))
    findings = check_patients([*patients, replace(patients[0], patient_id="R", name="R.dcm"), shifted])
    assert [(f.severity, f.name) for f in findings] == [("refused", "R.dcm"), ("warning", "Q.dcm")]
    assert "the same picture as P0.dcm" in findings[0].reason and "patient_id in cohort.csv" in findings[1].reason


def test_slices_of_one_volume_under_several_patient_ids_are_refused_however_far_apart_they_are(patients, tmp_path):
    affine = np.diag([-patients[0].spacing[1], -patients[0].spacing[0], 30, 1])
    for name, planes in (
        ("scan", [patient.hu.T for patient in patients]),
        ("scan_mask", [patient.expert.T.astype(np.uint8) for patient in patients]),
    ):
        nibabel.save(nibabel.Nifti1Image(np.stack(planes, -1), affine), tmp_path / f"{name}.nii.gz")
    rows = [f"person {plane},scan.nii.gz,{plane}" for plane in range(len(patients))]
    (tmp_path / "cohort.csv").write_text("\n".join(["patient_id,file,slice", *rows]))
    report, findings = check_training_folder(tmp_path)
    assert len(report.usable) == 1 and sum("a slice of the same scan" in line for line in findings) == 5


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT beside the checkout")
def test_outlines_of_a_real_scan_pass_and_their_mirror_images_do_not(tmp_path):
    for name, source in (("scan", "ct_3mm"), ("scan_mask", "skeletal_muscle_3mm")):
        (tmp_path / f"{name}.nii.gz").write_bytes((REAL_CT / f"{source}.nii.gz").read_bytes())
    report = check_folder(tmp_path, several=True)
    assert len(report.usable) == 30 and check_patients(report.usable) == []
    for patient in report.usable:
        [finding] = check_outline(replace(patient, expert=patient.expert[:, ::-1]))
        assert "mirrored left-right" in finding.reason


def test_a_folder_of_several_slices_of_a_patient_and_some_without_outline(patients, write, tmp_path):
    for index, patient in enumerate(patients[:3]):
        one = replace(patient, patient_id="A" if index < 2 else "B")
        write(tmp_path, one, position_mm=3.0 * index, outlined=True)
    write(tmp_path, patients[3])
    report, findings = check_training_folder(tmp_path)
    assert [patient.patient_id for patient in report.usable] == ["A", "A", "B"] and not report.refused
    assert report.unlabelled == ["P3-0.dcm"] and findings == []
    for patient, known in zip(report.usable, patients, strict=False):
        np.testing.assert_array_equal(patient.expert, known.expert)
    with pytest.raises(L3MuscleError, match="3 usable outlined slices in .* and 10 are needed: outline 7 more"):
        require_enough(report, usable_only=False)


def test_slices_that_lost_their_patient_id_are_taken_for_one_patients(patients, write, tmp_path):
    for index, patient in enumerate(patients[:3]):
        path = write(tmp_path, patient, position_mm=3.0 * index, outlined=True)
        if index:
            dataset = pydicom.dcmread(path)
            dataset.PatientID = ""
            dataset.save_as(path)
    report, findings = check_training_folder(tmp_path)
    assert sorted(patient.patient_id for patient in report.usable) == [UNNAMED, UNNAMED, "P0"]
    [warning] = findings
    assert "has no PatientID, like 1 more; they are taken for one patient's slices" in warning


def test_a_refusal_stops_the_training_unless_asked_to_go_on(patients, write, tmp_path):
    for index, patient in enumerate(patients):
        write(tmp_path, replace(patient, expert=patient.expert[::-1]) if index == 0 else patient, outlined=True)
    report, findings = check_training_folder(tmp_path)
    assert len(report.usable) == 5 and findings[0].startswith("refused: P0-0.dcm: the outline fits better mirrored up")
    with pytest.raises(L3MuscleError, match="1 refusals"):
        require_enough(report, usable_only=False, least=3)
    assert len(require_enough(report, usable_only=True, least=3)) == 5


def test_pairwise_agreement():
    a = np.zeros((8, 8), dtype=bool)
    a[:4] = True
    assert flags.pairwise_dice(np.stack([a, a])) == 1
    assert flags.pairwise_dice(np.stack([a, ~a])) == 0
    assert flags.pairwise_dice(np.zeros((3, 4, 4), dtype=bool)) == 1
    assert flags.pairwise_dice(np.stack([a, a, ~a])) == pytest.approx(1 / 3)


def test_slices_unlike_the_training_are_told_apart_and_like_ones_are_not():
    known = [phantom_slice(seed, size=256) for seed in range(12)]
    calibration = flags.calibrate([flags.describe(p.hu, p.mask, p.spacing) for p in known], [0.9, 0.93])
    assert flags.Calibration.model_validate_json(calibration.model_dump_json()) == calibration

    def reasons(hu, mask, spacing, agreement=0.95):
        return " ".join(flags.review_reasons(hu, mask, spacing, agreement, calibration))

    new = [phantom_slice(seed, size=256) for seed in range(100, 115)]
    assert sum(bool(reasons(p.hu, p.mask, p.spacing)) for p in new) <= 1
    one = new[0]
    assert "the models disagree: mean Dice between them 0.80" in reasons(one.hu, one.mask, one.spacing, 0.8)
    assert "no muscle found" in reasons(one.hu, np.zeros_like(one.mask), one.spacing)
    inner = np.zeros_like(one.mask)
    rows, columns = np.nonzero(one.mask)
    inner[rows.min() + 20 : rows.max() - 40, columns.min() + 25 : columns.max() - 25] = True
    assert "air inside the body" in reasons(np.where(inner & (one.hu < 150), -850, one.hu), one.mask, one.spacing)
    assert "or MR?" in reasons(np.abs(one.hu // 4), one.mask, one.spacing)
    assert "no body" in reasons(np.full_like(one.hu, -1000), one.mask, one.spacing)
    assert "body width" in reasons(one.hu, one.mask, (one.spacing[0], one.spacing[1] * 2))
