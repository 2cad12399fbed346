"""What contours mean: areas against `matplotlib.path`, one contour at a time, combined by hand."""

import numpy as np
import pydicom
import pytest
from building import SHAPE, SPACING, add_slice, blob, edit, outlines, write_contours
from matplotlib.path import Path as Polygon

from l3muscle.cohort import check_folder, load_cohort
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.files import FileError
from l3muscle.cohort.rtstruct import fill_contours, mask_contours, write_rtstruct
from l3muscle.errors import L3MuscleError


def inside(contour: np.ndarray, shape=SHAPE) -> np.ndarray:
    """Pixels whose centres lie in one simple polygon, by matplotlib."""
    centres = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).reshape(-1, 2)
    return Polygon(contour).contains_points(centres).reshape(shape)


def circle(row: float, column: float, radius: float, count: int = 60) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([row + radius * np.sin(angle), column + radius * np.cos(angle)], axis=1) + 0.013


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


OUTER, HOLE, ISLAND = circle(15, 20, 12), circle(15, 20, 7), circle(15, 20, 3)
RING = inside(OUTER) & ~inside(HOLE)
TOUCH_UP = circle(15, 33, 5)


def keyhole(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    return np.concatenate([outer, outer[:1], inner, inner[:1], outer[:1]])


@pytest.mark.parametrize(
    ("contours", "expected"),
    [
        ([OUTER], inside(OUTER)),
        ([HOLE, OUTER], RING),
        ([OUTER, HOLE, ISLAND], RING | inside(ISLAND)),
        ([OUTER, OUTER], inside(OUTER)),
        ([OUTER, np.roll(OUTER, 7, axis=0)[::-1]], inside(OUTER)),
        ([OUTER, HOLE, HOLE, OUTER, HOLE], RING),
        ([OUTER, np.round(OUTER, 1)], inside(OUTER)),
        ([np.concatenate([OUTER, OUTER])], inside(OUTER)),
        ([OUTER, TOUCH_UP], inside(OUTER) | inside(TOUCH_UP)),
        ([OUTER, HOLE, TOUCH_UP], RING | inside(TOUCH_UP)),
        ([OUTER, TOUCH_UP, circle(15, 35, 1.5)], (inside(OUTER) | inside(TOUCH_UP)) & ~inside(circle(15, 35, 1.5))),
        ([OUTER, HOLE, circle(15, 24, 7)], RING & ~inside(circle(15, 24, 7))),
        ([OUTER, circle(5, 40, 3)], inside(OUTER) | inside(circle(5, 40, 3))),
        ([keyhole(OUTER, HOLE[::-1])], RING),
        ([keyhole(OUTER, HOLE)], RING),
        ([keyhole(OUTER, HOLE), ISLAND], RING | inside(ISLAND)),
        ([np.concatenate([OUTER, OUTER[:1]]), HOLE], RING),
        ([OUTER, circle(50, 60, 3)], inside(OUTER)),
    ],
    ids=[
        "one", "hole", "island", "twice", "twice, turned round", "all repeated", "repeated with rounding",
        "traced twice", "touch-up", "hole and touch-up", "hole in a touch-up", "two overlapping holes",
        "apart", "keyhole", "keyhole, one turn",
        "island in a keyhole", "closed by its first point", "one outside the image",
    ],
)  # fmt: skip
def test_contours_mean_what_people_draw(contours, expected):
    filled = fill_contours(contours, SHAPE)
    # Rounding corners to a tenth of a pixel may move a pixel on the line.
    assert np.count_nonzero(filled ^ expected) <= (3 if contours[-1] is not contours[0] and len(contours) == 2 else 0)


@pytest.mark.parametrize(
    "contours",
    [
        [OUTER, circle(15, 26, 6.5)],  # a hole that crosses the edge a little, or a touch-up with little to add
        [OUTER, circle(15, 14, 5), circle(15, 2, 9)],  # overlaps the muscle and the hole in it
        [np.concatenate([circle(12, 16, 8), circle(14, 22, 8)])],
    ],
)
def test_what_could_mean_two_things_is_refused(contours):
    with pytest.raises(L3MuscleError, match="cannot be told"):
        fill_contours(contours, SHAPE)


@pytest.mark.parametrize("seed", range(6))
def test_masks_survive_contours_exactly(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 50)) < (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)[seed]
    assert np.array_equal(fill_contours(mask_contours(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(8))
def test_filling_agrees_with_point_in_polygon(seed):
    rng = np.random.default_rng(seed)
    radius = rng.uniform(3, 25, 40)
    star = np.array([20, 25]) + radius[:, None] * (circle(0, 0, 1, 40) - 0.013)
    assert np.array_equal(fill_contours([star], (40, 50)), inside(star, (40, 50)))


def test_corners_are_all_that_is_written():
    mask = np.zeros((20, 20), bool)
    mask[4:15, 4:15] = True
    assert [len(contour) for contour in mask_contours(mask)] == [8]


# Files


@pytest.fixture
def ct(tmp_path):
    return add_slice(tmp_path / "ct.dcm", position=12.5)


def unnamed(dataset) -> None:
    for item in dataset.ROIContourSequence:
        for contour in item.get("ContourSequence", []):
            del contour.ContourImageSequence


def names(*slices):
    """Let every contour name these slices."""

    def change(dataset) -> None:
        for item in dataset.ROIContourSequence:
            for contour in item.ContourSequence:
                images = []
                for ct in slices:
                    image = pydicom.Dataset()
                    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", ct.key
                    images.append(image)
                contour.ContourImageSequence = images

    return change


def test_an_rtstruct_holds_what_matplotlib_fills(ct, tmp_path):
    path = write_contours(tmp_path / "rt", ct, {"expert": [OUTER, HOLE, TOUCH_UP, OUTER]})
    assert np.array_equal(outlines(path, ct)["expert"], RING | inside(TOUCH_UP))


def test_contours_may_end_in_a_null_byte(ct, tmp_path):
    """With which some programs fill up a text of odd length."""
    path = write_contours(tmp_path / "rt", ct, {"expert": [OUTER]})
    before, end, after = path.read_bytes().rpartition(b"\\12.5000")
    path.write_bytes(before + end[:-1] + b"\0" + after)
    assert np.array_equal(outlines(path, ct)["expert"], inside(OUTER))


def test_exclusive_contours_toggle(ct, tmp_path):
    def exclusive(dataset) -> None:
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "CLOSEDPLANAR_XOR"

    path = write_contours(tmp_path / "rt", ct, {"expert": [OUTER, TOUCH_UP, ISLAND]}, exclusive)
    expected = inside(OUTER) ^ inside(TOUCH_UP) ^ inside(ISLAND)
    assert np.array_equal(outlines(path, ct)["expert"], expected)


def test_contours_beyond_64_kilobytes_survive(tmp_path):
    comb = np.zeros((200, 300), bool)
    comb[2:198:2, 2:298] = True
    comb[:, 10] = True
    write_ct_slice(tmp_path / "b.dcm", np.full((200, 300), -50), (0.7, 0.7), patient_id="P")
    ct = read_ct_slice(tmp_path / "b.dcm")
    write_rtstruct(tmp_path / "rt", {"expert": comb}, ct)
    assert np.array_equal(outlines(tmp_path / "rt", ct)["expert"], comb)


def test_pydicom_finds_our_contours_where_the_pixels_are(ct, tmp_path):
    write_rtstruct(tmp_path / "rt", {"expert": blob(2)}, ct)
    (contour,) = pydicom.dcmread(tmp_path / "rt").ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    left, top, height = pydicom.dcmread(ct.path).ImagePositionPatient
    indices = np.stack([(points[:, 1] - top) / SPACING[0], (points[:, 0] - left) / SPACING[1]], axis=1)
    assert np.array_equal(inside(indices), blob(2)) and np.allclose(points[:, 2], height)


@pytest.mark.parametrize("gap", [0.4, 0.75, 1.0, 3.0])
def test_an_unnamed_contour_counts_once_however_thin_the_slices(tmp_path, gap):
    for number in range(5):
        add_slice(tmp_path / f"{number}.dcm", seed=number, position=gap * number)
    write_contours(tmp_path / "rt", read_ct_slice(tmp_path / "2.dcm"), {"muscle": [OUTER]}, unnamed)
    for report in (check_folder(tmp_path, several=True), check_folder(tmp_path)):
        assert [patient.name for patient in report.usable] == ["2.dcm"] and report.refused == []
        assert np.array_equal(report.usable[0].expert, inside(OUTER))


def test_a_contour_halfway_between_two_slices_is_refused(tmp_path):
    ct = add_slice(tmp_path / "0.dcm", position=0.0)
    add_slice(tmp_path / "1.dcm", seed=1, position=0.8)

    def move(dataset) -> None:
        unnamed(dataset)
        data = dataset.ROIContourSequence[0].ContourSequence[0].ContourData
        dataset.ROIContourSequence[0].ContourSequence[0].ContourData = [
            0.4 if i % 3 == 2 else v for i, v in enumerate(data)
        ]

    write_contours(tmp_path / "rt", ct, {"muscle": [OUTER]}, move)
    assert any("as near to 0.dcm as to 1.dcm" in line for line in check_folder(tmp_path, several=True).refused)


@pytest.mark.parametrize("degrees", [0.2, 1.0])
def test_a_tilted_slice_keeps_its_contours(tmp_path, degrees):
    angle = np.deg2rad(degrees)
    tilt = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    ct = add_slice(tmp_path / "ct.dcm", position=100.0, ImageOrientationPatient=[f"{v:.8f}" for v in tilt])
    indices = OUTER
    points = (
        ct.position + indices[:, 1:] * SPACING[1] * ct.orientation[0] + indices[:, :1] * SPACING[0] * ct.orientation[1]
    )

    def tilted(dataset) -> None:
        unnamed(dataset)
        dataset.ROIContourSequence[0].ContourSequence[0].ContourData = [f"{v:.4f}" for v in points.ravel()]

    write_contours(tmp_path / "rt", ct, {"muscle": [OUTER]}, tilted)
    assert np.array_equal(load_cohort(tmp_path).masks[0], inside(OUTER))


def test_contours_that_list_the_whole_series_lie_on_their_plane(tmp_path):
    slices = [add_slice(tmp_path / f"{n}.dcm", seed=n, position=3.0 * n) for n in range(4)]
    write_contours(tmp_path / "rt", slices[1], {"muscle": [OUTER]}, names(*slices))
    (patient,) = check_folder(tmp_path).usable
    assert patient.name == "1.dcm" and np.array_equal(patient.expert, inside(OUTER))


def test_of_two_reconstructions_the_one_that_the_structure_set_names_is_meant(tmp_path):
    soft = add_slice(tmp_path / "soft.dcm")
    add_slice(tmp_path / "sharp.dcm", seed=1, SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
    write_contours(tmp_path / "rt", soft, {"muscle": [OUTER]}, unnamed)
    report = check_folder(tmp_path)
    assert [patient.name for patient in report.usable] == ["soft.dcm"] and report.refused == []

    def nameless(dataset) -> None:
        unnamed(dataset)
        del dataset.ReferencedFrameOfReferenceSequence

    write_contours(tmp_path / "rt", soft, {"muscle": [OUTER]}, nameless)
    assert any("as near to" in line for line in check_folder(tmp_path).refused)


def spoil_second(**changes):
    def change(dataset) -> None:
        contour = dataset.ROIContourSequence[1].ContourSequence[0]
        for keyword, value in changes.items():
            setattr(contour, keyword, value)

    return change


def other_frame(dataset) -> None:
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"


@pytest.mark.parametrize(
    "change",
    [
        spoil_second(ContourGeometricType="OPEN_PLANAR"),
        spoil_second(ContourGeometricType="VENDOR_LINE"),
        spoil_second(ContourGeometricType="POINT"),
        spoil_second(ContourData=None),
        spoil_second(ContourData=[1.0, 2.0]),
        other_frame,
        lambda dataset: dataset.RTROIObservationsSequence[1].pop("ReferencedROINumber"),
    ],
)
def test_only_the_muscle_s_contours_matter(ct, tmp_path, change):
    path = write_contours(tmp_path / "rt", ct, {"muscle": [OUTER], "marks": [TOUCH_UP]}, change)
    assert np.array_equal(outlines(path, ct)["expert"], inside(OUTER))


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "VENDOR_LINE"])
def test_an_open_line_is_no_outline_of_muscle(ct, tmp_path, kind):
    rois = {"marks": [TOUCH_UP], "muscle": [OUTER]}
    path = write_contours(tmp_path / "rt", ct, rois, spoil_second(ContourGeometricType=kind))
    with pytest.raises(FileError, match=f"of the muscle is of type {kind}"):
        outlines(path, ct)


@pytest.mark.parametrize(
    ("rois", "reason"),
    [
        ({"BODY": [OUTER]}, "outlines 'BODY'; which is the muscle"),
        ({"BODY": [OUTER], "liver": [HOLE]}, "outlines 'BODY', 'liver'"),
        ({"outline 1": [OUTER], "outline 2": [HOLE]}, "which is the muscle"),
        ({"L_kidney": [OUTER]}, "outlines 'L_kidney'"),
        ({"Niere_links": [OUTER]}, "outlines 'Niere_links'"),
        ({"psoas muscle": [ISLAND], "rectus muscle": [TOUCH_UP]}, "which is the muscle"),
        ({"intramuscular fat": [ISLAND], "bone": [TOUCH_UP]}, "which is the muscle"),
        ({"Muskelfett": [OUTER]}, "outlines 'Muskelfett'"),
        ({"肌间脂肪": [OUTER], "VAT": [ISLAND]}, "which is the muscle"),
    ],
)
def test_an_roi_is_muscle_by_its_name_alone(ct, tmp_path, rois, reason):
    path = write_contours(tmp_path / "rt", ct, rois)
    with pytest.raises(FileError, match=reason):
        outlines(path, ct)
    name = list(rois)[0]
    assert np.array_equal(outlines(path, ct, [name.upper()])["expert"], inside(rois[name][0]))


def test_a_lone_roi_of_another_type_is_no_muscle(ct, tmp_path):
    def external(dataset) -> None:
        dataset.RTROIObservationsSequence[0].RTROIInterpretedType = "EXTERNAL"

    path = write_contours(tmp_path / "rt", ct, {"outline": [OUTER]}, external)
    with pytest.raises(FileError, match="outlines 'outline'; which is the muscle"):
        outlines(path, ct)
    assert np.array_equal(outlines(path, ct, ["Outline"])["expert"], inside(OUTER))


def test_several_rois_that_the_user_names_are_one_muscle(ct, tmp_path):
    path = write_contours(tmp_path / "rt", ct, {"psoas": [ISLAND], "rectus": [TOUCH_UP], "fat": [HOLE]})
    both = outlines(path, ct, ["psoas", "rectus"])["expert"]
    assert np.array_equal(both, inside(ISLAND) | inside(TOUCH_UP))
    # One inside the other is no hole in it.
    assert np.array_equal(outlines(path, ct, ["psoas", "fat"])["expert"], inside(HOLE))


def test_what_is_alone_on_a_slice_is_no_muscle_for_that(tmp_path):
    """Muscle is drawn on one slice; on the other there is a kidney only."""
    here, there = (add_slice(tmp_path / f"{z}.dcm", seed=z, position=5.0 * z) for z in (0, 1))

    def move(dataset) -> None:
        contour = dataset.ROIContourSequence[1].ContourSequence[0]
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = there.key
        contour.ContourData = [5.0 if i % 3 == 2 else v for i, v in enumerate(contour.ContourData)]

    write_contours(tmp_path / "rt", here, {"muscle": [OUTER], "thing": [TOUCH_UP]}, move)
    report = check_folder(tmp_path, several=True)
    assert [patient.name for patient in report.usable] == ["0.dcm"] and report.unlabelled == ["1.dcm"]
    assert np.array_equal(report.usable[0].expert, inside(OUTER))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: setattr(d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2"), "another frame"),
        (lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", [1, 2, 3, 4]), "triples"),
        (lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1e9"] * 9), "triples"),
    ],
)
def test_structure_sets_off_the_slice_are_refused(ct, tmp_path, change, reason):
    path = write_contours(tmp_path / "rt.dcm", ct, {"expert": [OUTER]}, change)
    with pytest.raises(FileError, match=reason) as caught:
        outlines(path, ct)
    assert str(caught.value).startswith("rt.dcm: ")


def test_a_named_slice_elsewhere_is_a_contradiction(tmp_path):
    here, there = (add_slice(tmp_path / f"{z}.dcm", seed=z, position=5.0 * z) for z in (0, 1))
    path = write_contours(tmp_path / "rt", here, {"expert": [OUTER]}, names(there))
    with pytest.raises(FileError, match=r"does not lie in the plane of 1\.dcm"):
        outlines(path, there)


def test_a_structure_set_cut_anywhere_loses_no_outline_in_silence(ct, tmp_path):
    whole = {"expert": blob(1), "observer 01": blob(2), "observer 02": blob(3)}
    write_rtstruct(tmp_path / "rt.dcm", whole, ct)
    content = (tmp_path / "rt.dcm").read_bytes()
    refused = 0
    for length in range(140, len(content), 37):
        (tmp_path / "cut.dcm").write_bytes(content[:length])
        try:
            read = outlines(tmp_path / "cut.dcm", ct)
        except FileError:
            refused += 1
            continue
        assert not read or all(np.array_equal(read[name], mask) for name, mask in whole.items())
    assert refused > 20


def test_names_and_birth_dates_are_not_written(ct, tmp_path):
    edit(ct.path, PatientName="Quixote^Dulcinea", PatientBirthDate="19430217")
    write_rtstruct(tmp_path / "rt", {"expert": blob(1)}, read_ct_slice(ct.path))
    assert not any(word in (tmp_path / "rt").read_bytes() for word in (b"Quixote", b"19430217"))
