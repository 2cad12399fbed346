"""From a folder of outlined slices to a model, and from the model to slices that a person should look at first."""

import json
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from l3muscle.cohort import UNNAMED, Patient, check_slices
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.errors import L3MuscleError
from l3muscle.phantom.patients import phantom_slice
from l3muscle.segmenter import estimate, finetune, flags
from l3muscle.segmenter.checks import check_cohort, check_outline
from l3muscle.segmenter.finetune import choose_start, curve_sizes, make_folds
from l3muscle.segmenter.model_file import load_model
from l3muscle.segmenter.pictures import error_rows
from l3muscle.segmenter.segment import measure, read_heights, segment_slices
from l3muscle.segmenter.train import OwnModel, check_own, open_own, require_enough, train_own

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct"
SEEDS = range(6)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    drawn = [phantom_slice(seed, size=128) for seed in SEEDS]
    return [Patient(f"P{k}", f"P{k}.dcm", one.hu, one.spacing, one.mask) for k, one in enumerate(drawn)]


def write(folder: Path, patient: Patient, *, position_mm: float = 0.0, outlined: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{patient.patient_id}-{position_mm:g}.dcm"
    write_ct_slice(path, patient.hu, patient.spacing, patient_id=patient.patient_id, position_mm=position_mm)
    if outlined:
        write_rtstruct(path.with_suffix(".rt.dcm"), {"expert": patient.expert}, read_ct_slice(path))
    return path


@pytest.fixture(scope="module")
def own(tiny, patients, tmp_path_factory):
    """A model of six phantoms, one of whom has two slices."""
    out = tmp_path_factory.mktemp("own")
    twice = [*patients, replace(patients[0], name="P0 again.dcm", hu=np.roll(patients[0].hu, 1, axis=0))]
    reports = []
    model = train_own(
        twice, out / "model", tiny, start_from="random", runs=out, folds=3, kind="phantom", say=quiet,
        on_model=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    return model, reports, twice


def test_sound_outlines_pass(patients):
    assert [finding for patient in patients for finding in check_outline(patient)] == []


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda mask: mask[:, ::-1], "mirrored left-right"),
        (lambda mask: mask[::-1], "mirrored up-down"),
        (lambda mask: mask[::-1, ::-1], "turned by half a turn"),
        (lambda mask: mask.T, "with rows and columns exchanged"),
    ],
)
def test_outlines_that_lie_the_wrong_way_round_are_refused(patients, turn, words):
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
    findings = check_cohort([*patients, replace(patients[0], patient_id="R", name="R.dcm"), shifted])
    assert [(f.severity, f.name) for f in findings] == [("refused", "R.dcm"), ("warning", "Q.dcm")]
    assert "the same picture as P0.dcm" in findings[0].reason and "one patient_id in cohort.csv" in findings[1].reason


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT beside the checkout")
def test_outlines_of_a_real_scan_pass_and_their_mirror_images_do_not(tmp_path):
    for name, source in (("scan", "ct_3mm"), ("scan_mask", "skeletal_muscle_3mm")):
        (tmp_path / f"{name}.nii.gz").write_bytes((REAL_CT / f"{source}.nii.gz").read_bytes())
    report = check_slices(tmp_path)
    assert len(report.usable) == 30 and {patient.patient_id for patient in report.usable} == {"scan"}
    assert [finding for patient in report.usable for finding in check_outline(patient)] == []
    for patient in report.usable:
        [finding] = check_outline(replace(patient, expert=patient.expert[:, ::-1]))
        assert "mirrored left-right" in finding.reason


def test_a_folder_of_several_slices_of_a_patient_and_some_without_outline(patients, tmp_path):
    for place, patient in enumerate(patients[:3]):
        write(tmp_path, replace(patient, patient_id="A" if place < 2 else "B"), position_mm=3.0 * place)
    write(tmp_path, patients[3], outlined=False)
    report, findings = check_own(tmp_path)
    assert [patient.patient_id for patient in report.usable] == ["A", "A", "B"] and not report.refused
    assert report.unlabelled == ["P3-0.dcm"] and findings == []
    for patient, known in zip(report.usable, patients, strict=False):
        np.testing.assert_array_equal(patient.expert, known.expert)
    with pytest.raises(L3MuscleError, match="3 usable outlined slices in .* and 10 are needed: outline 7 more"):
        require_enough(report, usable_only=False)


def test_slices_that_were_robbed_of_their_patient_id_are_taken_for_one_patients(patients, tmp_path):
    for place, patient in enumerate(patients[:3]):
        path = write(tmp_path, patient, position_mm=3.0 * place)
        if place:
            dataset = pydicom.dcmread(path)
            dataset.PatientID = ""
            dataset.save_as(path)
    report, findings = check_own(tmp_path)
    assert sorted(patient.patient_id for patient in report.usable) == [UNNAMED, UNNAMED, patients[0].patient_id]
    assert not report.refused
    [warning] = findings
    assert "has no PatientID, like 1 more; they are taken for one patient's slices" in warning


def test_a_table_may_name_several_slices_of_a_patient(patients, tmp_path):
    rows = ["patient_id,file"]
    for place, patient in enumerate(patients[:2]):
        rows.append(f"one,{write(tmp_path, patient, position_mm=place).name}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    assert [patient.patient_id for patient in check_slices(tmp_path).usable] == ["one", "one"]


def test_a_refusal_stops_the_training_unless_asked_to_go_on(patients, tmp_path):
    for place, patient in enumerate(patients):
        wrong = replace(patient, expert=patient.expert[::-1]) if place == 0 else patient
        write(tmp_path, wrong)
    report, findings = check_own(tmp_path)
    assert len(report.usable) == 5 and findings[0].startswith("refused: P0-0.dcm: the outline fits better mirrored up")
    with pytest.raises(L3MuscleError, match="1 refusals"):
        require_enough(report, usable_only=False, least=3)
    assert len(require_enough(report, usable_only=True, least=3)) == 5


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_slices_of_one_patient_never_straddle_folds(patients, folds):
    many = [replace(patient, patient_id=f"P{k // 2}") for k, patient in enumerate(patients)]
    parts = make_folds(many, folds)
    assert sorted(place for part in parts for place in part) == list(range(len(many)))
    where = [{many[place].patient_id for place in part} for part in parts]
    assert sum(map(len, where)) == 3 and len(parts) == min(folds, 3)


def test_every_slice_is_held_out_once_and_the_members_are_the_ensemble(own):
    model, reports, slices = own
    held_out = model.held_out
    assert sorted(held_out["slice"]) == sorted(patient.name for patient in slices)
    assert held_out.groupby("patient_id")["fold"].nunique().max() == 1
    assert len(load_model(model.path).members) == 3 and reports[-1][0] == reports[-1][1] == len(reports)
    sizes = model.scores["n_train"].unique()
    assert len(sizes) >= 2 and all((model.scores["n_train"] == size).sum() == len(slices) for size in sizes)


def test_the_card_says_what_it_must_and_names_nobody(own):
    model, _, slices = own
    card = model.card
    assert {"preprocessing", "training_data", "licence", "error_estimate", "intended_use", "not_for"} <= card.keys()
    assert card["training_data"]["slices"] == 7 and card["training_data"]["patients"] == 6
    assert card["training"]["start"] == "random" and "provenance" in card
    text = json.dumps(card) + model.path.read_bytes()[:20_000].decode("latin-1")
    assert not any(patient.name in text or f'"{patient.patient_id}"' in text for patient in slices)
    assert load_model(model.path).about["card"] == card


def test_a_second_training_is_the_same_and_not_made_again(own, tiny):
    model, _, slices = own
    said = []
    again = train_own(
        slices, model.path.parent, tiny, start_from="random", folds=3, kind="phantom", say=said.append,
        on_model=lambda done, total: pytest.fail("trained again"),
    )  # fmt: skip
    assert "up to date" in said[-1]
    pd.testing.assert_frame_equal(again.scores, model.scores)


def test_outcome_does_not_depend_on_the_number_of_workers(own, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "WORTH_A_POOL_S", 0)
    model, _, slices = own
    other = train_own(slices, tmp_path, tiny, start_from="random", folds=3, kind="phantom", workers=2, say=quiet)
    assert other.path.read_bytes()[-1000:] == model.path.read_bytes()[-1000:]
    pd.testing.assert_frame_equal(other.scores, model.scores)


def test_starts(tiny, runs, finished, own, tmp_path):
    best = choose_start(tiny, "best", runs=runs, slices=4, say=quiet)
    assert best.source in ("random", "segmentation") and "best in the run" in best.words
    learned = choose_start(tiny, "segmentation", runs=tmp_path, slices=4, say=quiet)
    assert learned.words.startswith("procedural") and (tmp_path / tiny.name / "sources").is_dir()
    from_model = choose_start(tiny, str(own[0].path), runs=tmp_path, slices=4, say=quiet)
    assert from_model.profile.image == tiny.image and from_model.weights
    for wrong, words in (("segmentatoin", "nothing to start from"), ("jigsaw", "learned from a study's slices")):
        with pytest.raises(L3MuscleError, match=words):
            choose_start(tiny, wrong, runs=tmp_path, slices=4, say=quiet)


def test_curve_sizes_lie_below_the_largest():
    for largest in range(2, 200):
        sizes = curve_sizes(largest)
        assert sizes == sorted(set(sizes)) and sizes[0] > 0 and sizes[-1] < largest
    assert curve_sizes(8) == [4, 6]


def curve_scores(error, count: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    patient = rng.normal(0, 0.01, count)
    rows = [
        {"patient_id": str(k), "n_train": n, "dice": 1 - error(n) + patient[k] + rng.normal(0, 0.002)}
        for k in range(count)
        for n in (4, 6, 8)
    ]
    return pd.DataFrame(rows)


def test_a_power_law_is_forecast_and_a_flat_curve_promises_nothing():
    falling, flat = curve_scores(lambda n: 0.4 * n**-0.8), curve_scores(lambda n: 0.1)
    ahead = estimate.learning_curve(falling).iloc[-1]
    assert ahead.n_train == 16 and ahead.kind == "forecast"
    assert ahead.low < 1 - 0.4 * 16**-0.8 < ahead.high and ahead["mean"] == pytest.approx(0.956, abs=0.01)
    assert "more annotation would help" in estimate.would_more_help(falling)
    assert "no gain can be told from chance" in estimate.would_more_help(flat)


def test_intervals_count_patients_and_not_slices():
    scores = pd.DataFrame({"patient_id": ["a", "b", "c", "d"] * 5})
    for measure_name in estimate.MEASURES:
        scores[measure_name] = np.tile([0.7, 0.8, 0.9, 0.8], 5)
    row = estimate.error_table(scores).iloc[0]
    assert (row.patients, row.slices) == (4, 20)
    assert row.high - row["mean"] == pytest.approx(3.182 * np.std([0.7, 0.8, 0.9, 0.8], ddof=1) / 2, rel=1e-3)
    alone = estimate.error_table(scores[scores["patient_id"] == "a"]).iloc[0]
    assert alone.patients == 1 and np.isnan(alone.low)


def test_one_patient_gives_no_interval_and_nobody_reads_nan():
    scores = pd.DataFrame({"patient_id": ["a"] * 3, "member": True, "n_train": 3})
    for measure_name in estimate.MEASURES:
        scores[measure_name] = [0.7, 0.8, 0.9]
    card = {"training_data": {"slices": 3, "patients": 1}, "error_estimate": {"warning": ""}}
    alone = OwnModel(Path("model.safetensors"), card, scores)
    first, dice, *_ = alone.lines()
    assert first == "held out once each: 3 slices of 1 patient"
    assert dice == "Dice: 0.800 (no interval; worst 0.700)"
    assert "nan" not in " ".join(alone.lines()) and "nan" not in str(error_rows(alone))


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
    assert flags.Calibration.from_dict(json.loads(json.dumps(calibration.as_dict()))) == calibration

    def reasons(hu, mask, spacing, agreement=0.95):
        return " ".join(flags.reasons_to_look(hu, mask, spacing, agreement, calibration))

    new = [phantom_slice(seed, size=256) for seed in range(100, 130)]
    assert sum(bool(reasons(p.hu, p.mask, p.spacing)) for p in new) <= 3
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


def test_measures_with_and_without_the_range_and_the_height():
    hu = np.full((20, 20), 50, dtype=np.int16)
    hu[:, 10:] = -60
    mask = np.ones_like(hu, dtype=bool)
    found = measure(mask, hu, (1.0, 2.0), 2.0)
    assert found["sma_cm2"] == pytest.approx(8) and found["sma_range_cm2"] == pytest.approx(4)
    assert found["smd_hu"] == pytest.approx(-5) and found["smd_range_hu"] == pytest.approx(50)
    assert found["smi_cm2_m2"] == pytest.approx(2) and found["smi_range_cm2_m2"] == pytest.approx(1)
    assert np.isnan(measure(mask, hu, (1.0, 2.0), None)["smi_cm2_m2"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient_id,height_m\nA,172\n", "'172' is no height in metres"),
        ("patient_id,height_m\nA,1.7\nA,1.8\n", "'A' has two heights"),
        ("name,height_m\nA,1.7\n", "needs the columns"),
    ],
)
def test_heights_that_cannot_be_right_are_refused(tmp_path, text, words):
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(L3MuscleError, match=words):
        read_heights(tmp_path / "h.csv")


def test_segmenting_a_folder_of_everything(own, patients, tmp_path):
    source = tmp_path / "in"
    paths = [write(source, patient) for patient in patients[:3]]
    tall = pydicom.dcmread(paths[0])
    tall.PatientSize = "1.75"
    tall.save_as(paths[0])
    affine = np.diag([-patients[3].spacing[1], -patients[3].spacing[0], 5, 1])
    volume = np.stack([patients[3].hu.T, patients[4].hu.T], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volume, affine), source / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image((volume > 0).astype(np.uint8), affine), source / "two_mask.nii.gz")
    (source / "heights.csv").write_text("patient_id;height_m\nP1;1,60\n")
    mr = pydicom.dcmread(paths[2])
    mr.Modality = "MR"
    mr.save_as(paths[2])
    out = tmp_path / "out"
    outcome = segment_slices(
        [source], load_model(own[0].path), out, formats=["rtstruct", "seg"],
        heights=read_heights(source / "heights.csv"), overlays=False,
    )  # fmt: skip
    assert len(outcome.measures) == 4 and outcome.masks == 4
    assert len(outcome.refused) == 1 and "modality MR" in (out / "refused.txt").read_text()
    table = pd.read_csv(out / "measures.csv").set_index("slice")
    assert table.loc["001-P0-0", "height_m"] == 1.75 and table.loc["002-P1-0", "height_m"] == 1.6
    assert table["look_first"].is_monotonic_decreasing and (out / "sheet-01.png").is_file()
    assert len(list(out.glob("*two-00?.mask.nii.gz"))) == 2


def test_third_party_readers_find_the_same_mask(own, patients, tmp_path):
    path = write(tmp_path, patients[0], outlined=False)
    model, out = load_model(own[0].path), tmp_path / "out"
    segment_slices([path], model, out, formats=["seg", "rtstruct", "nifti"])
    ct = read_ct_slice(path)
    mask = model.predict(ct.hu, ct.spacing)
    assert mask.any()
    [name] = [p.name.removesuffix(".seg.dcm") for p in out.glob("*.seg.dcm")]
    seg = highdicom.seg.segread(out / f"{name}.seg.dcm")
    pixels = seg.get_pixels_by_source_instance([ct.sop_instance_uid], segment_numbers=[1])
    np.testing.assert_array_equal(pixels[0, ..., 0] > 0, mask)
    image = nibabel.load(out / f"{name}.mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T > 0, mask)
    corner = image.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner[:3], ct.position * [-1, -1, 1], atol=1e-4)
    from skimage.draw import polygon2mask

    rt = pydicom.dcmread(out / f"{name}.rtstruct.dcm")
    filled = np.zeros_like(mask)
    for contour in rt.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - ct.position
        filled ^= polygon2mask(mask.shape, np.stack([points[:, 1] / ct.spacing[0], points[:, 0] / ct.spacing[1]], 1))
    np.testing.assert_array_equal(filled, mask)


def test_corrected_outlines_come_back_as_training_slices(own, patients, tmp_path):
    path = write(tmp_path, patients[0], outlined=False)
    segment_slices([path], load_model(own[0].path), tmp_path / "out")
    for seg in (tmp_path / "out").glob("*.seg.dcm"):
        seg.rename(tmp_path / seg.name)
    report = check_slices(tmp_path)
    assert [patient.patient_id for patient in report.usable] == ["P0"] and not report.unlabelled


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(L3MuscleError, match="no model of one's own"):
        open_own(tmp_path)
