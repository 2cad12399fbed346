"""Cohorts from folders: what is used, what is refused and why."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from l3muscle.cohort import Cohort, CohortError, check_folder, dicom, load_cohort

SHAPE = (32, 40)


def blob(seed: int) -> np.ndarray:
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(rows - 12 - seed % 5, columns - 18) < 6 + seed % 3


def add_patient(folder: Path, patient: str, seed: int, *, position: float = 0.0, rois: dict | None = None) -> Path:
    """One slice and its structure set; returns the slice's path."""
    folder.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(seed).integers(-200, 300, SHAPE)
    path = folder / f"{patient}-{position:g}.ct"
    dicom.write_ct_slice(path, hu, (0.9, 1.1), patient_id=patient, position_mm=position)
    if rois is None:
        rois = {"expert": blob(seed)}
    if rois:
        dicom.write_rtstruct(folder / f"{patient}-{position:g}.rt", rois, dicom.read_ct_slice(path))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    add_patient(tmp_path / "x", "A", 1)
    add_patient(tmp_path / "x" / "deep" / "er", "B", 2, rois={"expert": blob(2), "observer 01": blob(3)})
    add_patient(tmp_path / "y", "C", 4, rois={"Muscle L3": blob(4)})
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def edit(path: Path, **changes) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_nested_folders_load_in_the_order_of_patients(folder):
    cohort = load_cohort(folder)
    assert cohort.patient_ids == ("A", "B", "C")
    assert len(cohort) == 3
    assert cohort.index("C") == 2
    assert cohort.images.shape == (3, *SHAPE)
    assert cohort.images.dtype == np.int16
    assert cohort.masks.dtype == bool
    assert cohort.spacing.tolist() == [[0.9, 1.1]] * 3
    assert all(np.array_equal(cohort.masks[i], blob(seed)) for i, seed in enumerate((1, 2, 4)))
    assert list(cohort.observers) == ["B"]
    assert np.array_equal(cohort.observers["B"]["observer 01"], blob(3))


def test_fingerprint_follows_contents_and_not_names(folder, tmp_path):
    before = load_cohort(folder).fingerprint
    moved = tmp_path / "z"
    shutil.move(folder / "x", moved)
    (moved / "A-0.ct").rename(moved / "renamed.dcm")
    assert load_cohort(folder).fingerprint == before


def test_fingerprint_sees_every_part(folder):
    cohort = load_cohort(folder)
    images, masks, spacing = cohort.images.copy(), cohort.masks.copy(), cohort.spacing.copy()
    images[0, 0, 0] += 1
    masks[2, 0, 0] ^= True
    spacing[1, 1] += 1e-6
    outline = cohort.observers["B"]["observer 01"].copy()
    outline[0, 0] ^= True
    changed: list[Cohort] = [
        replace(cohort, images=images),
        replace(cohort, masks=masks),
        replace(cohort, spacing=spacing),
        replace(cohort, patient_ids=("A", "B", "D")),
        replace(cohort, observers={"B": {"observer 01": outline}}),
        replace(cohort, observers={"B": {"observer 02": cohort.observers["B"]["observer 01"]}}),
        replace(cohort, observers={}),
    ]
    prints = {cohort.fingerprint, *(c.fingerprint for c in changed)}
    assert len(prints) == 1 + len(changed)
    slices = [c.slices_fingerprint for c in changed]
    assert len({cohort.slices_fingerprint, *slices}) == 5
    assert set(slices[4:]) == {cohort.slices_fingerprint}, "what observers drew is nothing that a model sees"
    assert load_cohort(folder).fingerprint == cohort.fingerprint


def test_slices_without_outline_may_lie_beside_the_outlined_one(folder):
    add_patient(folder / "x", "A", 7, position=3, rois={})
    assert check_folder(folder).refused == []
    assert np.array_equal(load_cohort(folder).masks[0], blob(1))


def break_modality(folder: Path) -> None:
    edit(folder / "x" / "A-0.ct", Modality="MR")


def break_spacing(folder: Path) -> None:
    edit(folder / "x" / "A-0.ct", PixelSpacing=None)


def drop_outline(folder: Path) -> None:
    (folder / "x" / "A-0.rt").unlink()


def drop_image(folder: Path) -> None:
    (folder / "x" / "A-0.ct").unlink()


def empty_outline(folder: Path) -> None:
    ct = dicom.read_ct_slice(folder / "x" / "A-0.ct")
    dicom.write_rtstruct(folder / "x" / "A-0.rt", {"expert": np.zeros(SHAPE, bool)}, ct)


def outline_outside(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "x" / "A-0.rt")
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [float(v) + (500 if i % 3 == 0 else 0) for i, v in enumerate(contour.ContourData)]
    dataset.save_as(folder / "x" / "A-0.rt")


def two_nameless(folder: Path) -> None:
    ct = dicom.read_ct_slice(folder / "x" / "A-0.ct")
    dicom.write_rtstruct(folder / "x" / "A-0.rt", {"psoas": blob(1), "rectus": blob(2)}, ct)


def same_image_twice(folder: Path) -> None:
    shutil.copy(folder / "x" / "A-0.ct", folder / "copy.ct")


def two_slices(folder: Path) -> None:
    add_patient(folder / "x", "A", 5, position=3)


def nameless_patient(folder: Path) -> None:
    edit(folder / "x" / "A-0.ct", PatientID="")


def truncated(folder: Path) -> None:
    path = folder / "x" / "A-0.ct"
    path.write_bytes(path.read_bytes()[:900])


def foreign(folder: Path) -> None:
    (folder / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")


def other_size(folder: Path) -> None:
    (folder / "x" / "A-0.rt").unlink()
    ct = folder / "x" / "A-0.ct"
    dicom.write_ct_slice(ct, np.zeros((16, 16)), (1, 1), patient_id="A")
    dicom.write_rtstruct(folder / "x" / "A-0.rt", {"expert": np.eye(16, dtype=bool)}, dicom.read_ct_slice(ct))


def other_frame(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "x" / "A-0.rt")
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    dataset.save_as(folder / "x" / "A-0.rt")


def lost_reference(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "x" / "A-0.rt")
    del dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID
    dataset.save_as(folder / "x" / "A-0.rt")


@pytest.mark.parametrize(
    ("harm", "reason", "left"),
    [
        (break_modality, "A-0.ct: not a CT image", "BC"),
        (break_spacing, "A-0.ct: PixelSpacing is missing", "BC"),
        (drop_outline, "A-0.ct: no outline refers to it", "BC"),
        (drop_image, "A-0.rt: its contours lie on no slice", "BC"),
        (empty_outline, "A-0.rt: its contours lie on no slice", "BC"),
        (outline_outside, "A-0.ct: the outline holds no pixel", "BC"),
        (two_nameless, "needs one outline, or one named 'expert'; there are: psoas, rectus", "BC"),
        (same_image_twice, "the same SOPInstanceUID as", "ABC"),
        (two_slices, "patient 'A' has 2 outlined slices where one is expected", "BC"),
        (nameless_patient, "A-0.ct: PatientID is missing", "BC"),
        (truncated, "A-0.ct: ", "BC"),
        (foreign, "picture.jpg: not a DICOM file", "ABC"),
        (other_size, "A-0.ct: 16 x 16 pixels where most slices have 32 x 40", "BC"),
        (other_frame, "A-0.rt: drawn in another frame of reference", "BC"),
        (lost_reference, "A-0.rt: damaged DICOM file", "BC"),
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


def test_no_damage_makes_the_check_raise(tmp_path):
    source = tmp_path / "source"
    add_patient(source, "A", 1)
    rng = np.random.default_rng(0)
    for trial in range(120):
        for path in source.iterdir():
            data = bytearray(path.read_bytes())
            start = int(rng.integers(132, len(data)))
            if trial % 3 == 0:
                del data[start:]
            elif trial % 3 == 1:
                del data[start : start + int(rng.integers(1, 20))]
            else:
                for place in rng.integers(132, 1500, 4):
                    data[place] = int(rng.integers(256))
            bad = tmp_path / "bad"
            bad.mkdir(exist_ok=True)
            shutil.copytree(source, bad, dirs_exist_ok=True)
            (bad / path.name).write_bytes(data)
            report = check_folder(bad)
            assert report.usable or report.refused


def test_folders_without_anything(tmp_path):
    with pytest.raises(CohortError, match="there is no folder"):
        load_cohort(tmp_path / "nowhere")
    with pytest.raises(CohortError, match="no files"):
        load_cohort(tmp_path)
    add_patient(tmp_path, "A", 1, rois={})
    with pytest.raises(CohortError, match="can be used"):
        load_cohort(tmp_path, usable_only=True)
