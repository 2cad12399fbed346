"""SAROS in its published layout: the right slice, upright, and a reason for every case that is refused."""

import re
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from l3muscle.cohort import CohortError, CohortReport, check_folder, load_cohort

SHAPE = (28, 24, 26)  # columns, rows, planes
SPACING = (0.9, 0.8, 5.0)
ANNOTATED = (2, 7, 12, 17, 22)
L3 = slice(10, 15)
LPS = np.array([[-0.9, 0, 0, 12], [0, -0.8, 0, 9], [0, 0, 5, -300], [0, 0, 0, 1.0]])  # to the left, back and head
IMAGE, REGIONS, VERTEBRA = "image.nii.gz", "body-regions.nii.gz", "vertebrae_L3.nii.gz"


def scan() -> np.ndarray:
    """HU in which every voxel tells where it is: a body in air."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    body = ((x - 13.5) / 11) ** 2 + ((y - 11.5) / 8) ** 2 < 1
    return np.where(body, -120 + 9 * x + 5 * y + z, -1000).astype(np.int16)


def labels() -> np.ndarray:
    """Regions as in the data set: fat, a lopsided muscle and the cavity, on every fifth plane."""
    body = scan() > -500
    x, y, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    regions = np.where(body, 1, 0)
    regions[body & (y > 12) & (x < 18)] = 2
    regions[body & (y < 8)] = 3
    regions[:, :, [z for z in range(SHAPE[2]) if z not in ANNOTATED]] = 255
    return regions.astype(np.uint8)


def vertebra() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[10:16, 11:16, L3] = 1
    return found


def save(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def add_case(root: Path, case: str = "case_000", affine: np.ndarray = LPS, **changed: np.ndarray | None) -> Path:
    files = {"image": scan(), "regions": labels(), "vertebra": vertebra()} | changed
    for name, key in ((IMAGE, "image"), (REGIONS, "regions"), (VERTEBRA, "vertebra")):
        if files[key] is not None:
            save(root / case / name, files[key], affine)
    return root / case


def write(root: Path, name: str, *lines: str) -> None:
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def refusal(root: Path) -> str:
    report = check_folder(root)
    assert (report.usable, len(report.refused)) == ([], 1), report.refused
    assert "\n" not in report.refused[0]
    return report.refused[0]


def marked(array: np.ndarray, place: tuple, value: float) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


def chosen(report: CohortReport) -> list[int]:
    """Planes that the slices came from; their HU tell."""
    return [int(np.flatnonzero((scan() == patient.hu.T[..., None]).all(axis=(0, 1)))[0]) for patient in report.usable]


def test_a_folder_in_the_published_layout_is_a_cohort(tmp_path):
    for case in ("case_010", "case_002"):
        add_case(tmp_path, case)
        save(tmp_path / case / "body-parts.nii.gz", vertebra())
    cohort = load_cohort(tmp_path)
    assert cohort.patient_ids == ("case_002", "case_010")
    assert np.array_equal(cohort.images[0], scan()[:, :, 12].T)
    assert np.array_equal(cohort.masks[0], labels()[:, :, 12].T == 2)
    np.testing.assert_allclose(cohort.spacing, [[0.8, 0.9]] * 2, rtol=1e-6)


def test_files_of_one_case_may_differ_in_their_order_of_axes(tmp_path):
    case = add_case(tmp_path)
    image = nibabel.load(case / IMAGE)
    turn = ornt_transform(io_orientation(LPS), axcodes2ornt(("I", "A", "R")))
    nibabel.save(image.as_reoriented(turn), case / IMAGE)
    assert chosen(check_folder(tmp_path)) == [12]


@pytest.mark.parametrize(("start", "stop", "plane"), [(8, 13, 12), (6, 11, 7), (11, 18, 12), (8, 12, 7), (4, 16, 7)])
def test_the_annotated_slice_nearest_the_middle_of_l3_is_taken(tmp_path, start, stop, plane):
    found = np.zeros(SHAPE, np.uint8)
    found[10:16, 11:16, start:stop] = 1
    add_case(tmp_path, vertebra=found)
    assert chosen(check_folder(tmp_path)) == [plane]


def test_a_long_spinous_process_does_not_pull_the_level_down(tmp_path):
    found = vertebra()
    found[12, 18, 6:10] = 1
    add_case(tmp_path, vertebra=found)
    assert chosen(check_folder(tmp_path)) == [12]


@pytest.mark.parametrize("codes", ["LPS", "LPI", "SRA"])
@pytest.mark.parametrize("column", ["slice", "z_mm"])
def test_levels_say_where_l3_is(tmp_path, codes, column):
    case = add_case(tmp_path)  # its map, of plane 12, then counts for nothing
    turn = ornt_transform(io_orientation(LPS), axcodes2ornt(codes))
    for name in (IMAGE, REGIONS, VERTEBRA):
        nibabel.save(nibabel.load(case / name).as_reoriented(turn), case / name)
    place = SHAPE[2] - 1 - 16 if "I" in codes else 16
    write(tmp_path, "levels.csv", f"case,{column}", f"case_000,{place if column == 'slice' else -300 + 5 * 16.4}")
    assert chosen(check_folder(tmp_path)) == [17]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("case_000,,", "line 2: needs either slice or z_mm"),
        ("case_000,3,-250", "line 2: needs either slice or z_mm"),
        ("case_000,2.5,", r"line 2: slice is '2\.5', not a whole number"),
        ("case_000,,low", "line 2: z_mm is 'low', not a number"),
        ("case_000,26,", "asks for slice 26 of 26, from 0"),
        ("case_000,-1,", "asks for slice -1 of 26"),
        ("case_000,,400", "puts L3 at 400 mm, outside the scan"),
        ("case_000,,nan", "line 2: z_mm is 'nan', not a finite number"),
        ('case_000,"3', "line 2: unexpected end of data"),
        ("case_000,3,\ncase_000,3,", "line 3: a second row for case_000"),
    ],
)
def test_mistakes_in_the_levels_are_named(tmp_path, row, reason):
    add_case(tmp_path)
    write(tmp_path, "levels.csv", "case,slice,z_mm", row)
    with pytest.raises(CohortError, match=reason):
        load_cohort(tmp_path)
    refusal(tmp_path)


def test_levels_of_cases_that_are_not_there(tmp_path):
    add_case(tmp_path)
    write(tmp_path, "levels.csv", "case;slice", "case_007;3")
    report = check_folder(tmp_path)
    assert report.refused == ["levels.csv line 2: there is no case 'case_007'"]
    assert chosen(report) == [12]
    (tmp_path / "levels.csv").write_text("slice\n3\n")
    assert refusal(tmp_path) == "levels.csv line 1: needs a column 'case', and each column once"
    (tmp_path / "levels.csv").write_bytes(b"case,slice\n\xff\xfe,3\n")
    assert refusal(tmp_path) == "levels.csv: not a text in UTF-8"


ONLY_FAT = np.where(labels() == 2, 1, labels()).astype(np.uint8)
SHIFTED, WIDER, OBLIQUE, FLIPPED = LPS.copy(), LPS.copy(), LPS.copy(), LPS.copy()
SHIFTED[0, 3] += 0.9
WIDER[0, 0] *= 1.01
OBLIQUE[:3, :3] = [[-0.9, 0.1, 0], [-0.1, -0.8, 0], [0, 0, 5]]
FLIPPED[2] = [0, 0, -5, -300]  # as one case of the data set was found to be


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image": None}, f"^case_000/{IMAGE}: there is no such file$"),
        ({"vertebra": None}, f"^case_000: neither levels.csv nor a {VERTEBRA} says where L3 is$"),
        ({"regions": np.full(SHAPE, 255, np.uint8)}, "no slice is annotated"),
        ({"regions": marked(labels(), (..., slice(11, 16)), 255)}, "nearest L3 lies 25 mm from its middle"),
        ({"regions": marked(labels(), (13, 11, 12), 255)}, "slice 12 is annotated only in part"),
        ({"regions": ONLY_FAT}, r"slice 12 holds no muscle \(label 2\)"),
        ({"regions": marked(labels(), (13, 11, 12), 14)}, "slice 12 holds the label 14"),
        ({"regions": marked(labels().astype(np.float32), (13, 11, 12), 1.5)}, r"holds the label 1\.5"),
        ({"regions": marked(labels().astype(np.int16), (13, 11, 12), -1)}, "holds the label -1"),
        ({"regions": marked(labels().astype(np.float32), (13, 11, 12), np.nan)}, "not finite numbers"),
        ({"regions": labels()[:, :, :-1]}, "has 25 slices where the image has 26"),
        ({"regions": labels()[:-1]}, "has 24 x 27 pixels where the slice has 24 x 28"),
        ({"vertebra": vertebra()[:, :, 1:]}, f"{VERTEBRA}: has 25 slices"),
        ({"vertebra": np.zeros(SHAPE, np.uint8)}, "there is no L3 in it"),
        ({"vertebra": vertebra() * 29}, "not a map of one vertebra"),
        ({"vertebra": vertebra() * 0.5}, "not a map of one vertebra"),
        ({"vertebra": marked(vertebra(), (13, 13, 0), 1)}, "touches the end of the scan"),
        ({"vertebra": marked(vertebra(), (13, 13, 25), 1)}, "touches the end of the scan"),
        ({"vertebra": marked(vertebra(), (..., slice(11, 26)), 0)}, "is 5 mm tall"),
        ({"vertebra": marked(vertebra(), (13, 13, slice(2, 24)), 1)}, "is 110 mm tall"),
        ({"image": scan()[..., None].repeat(2, axis=3)}, "28 x 24 x 26 x 2 voxels"),
        ({"image": scan()[:, :, 12]}, "has 26 slices where the image has 1$"),
        ({"image": marked(scan().astype(np.float32), (13, 11, 12), np.nan)}, "not finite numbers"),
        ({"image": np.clip(scan(), -20, 255).astype(np.uint8)}, "not Hounsfield units"),
        ({"image": scan().astype(np.complex64)}, "instead of one number a voxel"),
        ({"affine": OBLIQUE}, "not an axial slice"),
    ],
)
def test_cases_that_would_need_a_guess_are_refused(tmp_path, changed, reason):
    add_case(tmp_path, **changed)
    words = refusal(tmp_path)
    assert words.startswith("case_000")
    assert re.search(reason, words), words
    with pytest.raises(CohortError, match="nothing in .* can be used"):
        load_cohort(tmp_path, usable_only=True)


@pytest.mark.parametrize("name", [REGIONS, VERTEBRA])
@pytest.mark.parametrize("affine", [SHIFTED, WIDER, FLIPPED])
def test_files_on_other_voxels_are_refused(tmp_path, name, affine):
    data = labels() if name == REGIONS else vertebra()
    save(add_case(tmp_path) / name, data, affine)
    assert re.match(f"case_000/{name}: (lies up to|reaches beyond)", refusal(tmp_path))


def test_a_plane_that_is_not_annotated_is_not_taken_though_nearer(tmp_path):
    """The annotated planes do not lie at every fifth place from 0: what counts is what is annotated."""
    regions = labels()
    regions[..., 12] = 255
    regions[..., 14] = labels()[..., 12]
    add_case(tmp_path, regions=regions)
    assert chosen(check_folder(tmp_path)) == [14]


def test_unannotated_air_is_no_matter(tmp_path):
    add_case(tmp_path, regions=marked(labels(), (0, slice(None), 12), 255))
    assert chosen(check_folder(tmp_path)) == [12]


@pytest.mark.parametrize("name", ["Segmentation-Info_09-29-2023.csv", "Segmentation Info.csv", "Segmentation_Info.csv"])
def test_one_patient_counts_once(tmp_path, name):
    add_case(tmp_path, "case_001", vertebra=None)
    for case in ("case_002", "case_003", "case_004", "case_005"):
        add_case(tmp_path, case)
    write(
        tmp_path,
        name,
        "id,tcia_collection,tcia_case_id,split",
        "case_001,A,P1,test",
        "case_002,A,P1,fold-1",
        "case_003,B,P1,fold-1",
        "case_004,A,P1,fold-2",
    )
    report = check_folder(tmp_path)
    # The first of the three cannot be used, so the second stands for the patient; P1 of collection B is someone else.
    assert [patient.patient_id for patient in report.usable] == ["case_002", "case_003"]
    assert [reason.split(":")[0] for reason in report.refused] == ["case_001", "case_004", "case_005"]
    assert "another scan of the patient of case_002" in report.refused[1]
    assert "does not list it" in report.refused[2]
    assert "P1" not in "".join(report.lines())


def test_tables_of_patients_that_cannot_be_used(tmp_path):
    add_case(tmp_path)
    write(tmp_path, "Segmentation-Info.csv", "id,split", "case_000,test")
    assert refusal(tmp_path) == "Segmentation-Info.csv line 1: needs a column 'tcia_collection', and each column once"
    write(tmp_path, "Segmentation-Info.csv", "id,tcia_collection,tcia_case_id", "case_000,A")
    assert "line 2: tcia_case_id is empty" in refusal(tmp_path)
    write(tmp_path, "Segmentation-Info.csv", "id,tcia_collection,tcia_case_id", "case_000,A,P1", "case_000,A,P2")
    assert "line 3: a second patient for case_000" in refusal(tmp_path)
    write(tmp_path, "segmentation info.csv", "id,tcia_collection,tcia_case_id", "case_000,A,P1")
    assert "a second table" in refusal(tmp_path)


def test_a_cohort_csv_asks_for_other_rules(tmp_path):
    add_case(tmp_path)
    write(tmp_path, "cohort.csv", "patient_id,file,slice,mask", f"P,case_000/{IMAGE},12,case_000/{VERTEBRA}")
    (patient,) = check_folder(tmp_path).usable
    assert patient.patient_id == "P"
    assert np.array_equal(patient.expert, vertebra()[:, :, 12].T == 1)


RECIPE = Path(__file__).resolve().parents[2] / "book" / "data.md"


def test_the_recipe_parses_and_downloads_nothing_unasked():
    text = RECIPE.read_text(encoding="utf-8")
    shell = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    scripts = dict(re.findall(r"^```\{code-block\} python\n:caption: (\S+)\n(.*?)^```", text, re.M | re.S))
    assert len(shell) == 4 and set(scripts) == {"fetch.py", "convert.py"}
    for block in shell:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for name, script in scripts.items():
        compile(script, name, "exec")
    assert "FETCH, COMMERCIAL = False, False" in scripts["fetch.py"]
