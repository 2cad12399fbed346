"""A cohort in memory and in a file: fingerprints, sizes, and what changed in a folder."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from building import SHAPE, SPACING, add_outlined, add_slice, blob, body

from l3muscle.cohort import Cohort, CohortError, load_cohort
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.files import folder_signature
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.metrics import muscle_area


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "cohort"
    add_outlined(folder / "x" / "A.ct", "A", 1)
    ct = add_slice(folder / "x" / "deep" / "B.ct", "B", 2)
    write_rtstruct(folder / "B.rt", {"expert": blob(2), "observer 01": blob(3)}, ct)
    ct = add_slice(folder / "y" / "C.ct", "C", 4)
    write_rtstruct(folder / "y" / "C.rt", {"Muscle L3": blob(4)}, ct)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_nested_folders_load_in_the_order_of_patients(folder):
    cohort = load_cohort(folder)
    assert cohort.patient_ids == ("A", "B", "C") and len(cohort) == 3 and cohort.index("C") == 2
    assert (cohort.images.dtype, cohort.masks.dtype, cohort.images.shape) == (np.int16, bool, (3, *SHAPE))
    assert cohort.spacing.tolist() == [list(SPACING)] * 3
    for index, seed in enumerate((1, 2, 4)):
        assert np.array_equal(cohort.masks[index], blob(seed)) and np.array_equal(cohort.images[index], body(seed))
    assert list(cohort.observers) == ["B"] and np.array_equal(cohort.observers["B"]["observer 01"], blob(3))


def test_fingerprint_follows_contents_and_not_names(folder):
    before = load_cohort(folder).fingerprint
    shutil.move(folder / "x", folder / "z")
    (folder / "z" / "A.ct").rename(folder / "z" / "renamed.dcm")
    assert load_cohort(folder).fingerprint == before


def test_fingerprint_sees_every_part(folder):
    cohort = load_cohort(folder)
    images, masks, spacing = cohort.images.copy(), cohort.masks.copy(), cohort.spacing.copy()
    images[0, 0, 0] += 1
    masks[2, 0, 0] ^= True
    spacing[1, 1] += 1e-6
    outline = cohort.observers["B"]["observer 01"].copy()
    outline[0, 0] ^= True
    changed = [
        replace(cohort, images=images),
        replace(cohort, masks=masks),
        replace(cohort, spacing=spacing),
        replace(cohort, patient_ids=("A", "B", "D")),
        replace(cohort, shapes=((30, 40), SHAPE, SHAPE)),
        replace(cohort, observers={"B": {"observer 01": outline}}),
        replace(cohort, observers={"B": {"observer 02": cohort.observers["B"]["observer 01"]}}),
        replace(cohort, observers={}),
    ]
    assert len({cohort.fingerprint, *(c.fingerprint for c in changed)}) == 1 + len(changed)
    slices = [c.slices_fingerprint for c in changed]
    assert len({cohort.slices_fingerprint, *slices}) == 6
    assert set(slices[5:]) == {cohort.slices_fingerprint}, "what observers drew is nothing that a model sees"


def test_slices_of_other_sizes_are_filled_up_with_air(folder):
    shape = (60, 30)
    write_ct_slice(folder / "D.ct", body(0, shape), (0.9, 0.7), patient_id="D")
    drawn = {"expert": blob(1, shape), "observer 01": blob(2, shape)}
    write_rtstruct(folder / "D.rt", drawn, read_ct_slice(folder / "D.ct"))
    cohort = load_cohort(folder)
    assert cohort.patient_ids == ("A", "B", "C", "D") and cohort.images.shape == (4, 60, 47)
    assert cohort.shapes == (SHAPE, SHAPE, SHAPE, shape)
    last = cohort.index("D")
    assert np.array_equal(cohort.images[last][:, :30], body(0, shape))
    assert np.array_equal(cohort.observers["D"]["observer 01"][:, :30], blob(2, shape))
    assert (cohort.images[last][:, 30:] == -1024).all() and not cohort.masks[last][:, 30:].any()
    assert muscle_area(cohort.masks[last], cohort.spacing[last]) == pytest.approx(
        blob(1, shape).sum() * 0.9 * 0.7 / 100
    )


def test_a_saved_cohort_comes_back(folder, tmp_path):
    for _ in range(2):
        cohort = load_cohort(folder)
        cohort.save(tmp_path / "cohort.npz")
        read = Cohort.load(tmp_path / "cohort.npz")
        assert read.fingerprint == cohort.fingerprint == replace(read).fingerprint
        assert read.slices_fingerprint == cohort.slices_fingerprint
        assert (read.patient_ids, read.shapes) == (cohort.patient_ids, cohort.shapes)
        assert np.array_equal(read.masks, cohort.masks) and read.masks.dtype == bool
        rows, columns = SHAPE
        assert np.array_equal(read.observers["B"]["observer 01"][:rows, :columns], blob(3))
        write_ct_slice(folder / "D.ct", body(0, (20, 60)), (1, 1), patient_id="D")
        write_rtstruct(folder / "D.rt", {"expert": blob(1, (20, 60))}, read_ct_slice(folder / "D.ct"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["cohort.npz"]


def test_a_damaged_saved_cohort_is_refused(folder, tmp_path):
    path = tmp_path / "cohort.npz"
    load_cohort(folder).save(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(120):
        data = bytearray(content)
        if trial % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            assert Cohort.load(path).images.shape == (3, *SHAPE)
        except CohortError as error:
            assert str(path) in str(error)
    with pytest.raises(CohortError, match="there is no such file"):
        Cohort.load(tmp_path / "nowhere.npz")
    np.savez(path, images=np.zeros(3))
    with pytest.raises(CohortError, match="not a saved cohort"):
        Cohort.load(path)


def test_a_signature_tells_that_a_folder_has_changed(folder, tmp_path):
    first = folder_signature(folder)
    assert folder_signature(folder) == first
    other = tmp_path / "other"
    other.mkdir()
    (folder / "link").symlink_to(other)
    (other / "back").symlink_to(folder)
    signatures = {first}
    for change in (
        lambda: (other / "new.dcm").write_bytes(b"1"),
        lambda: (other / "new.dcm").write_bytes(b"12"),
        lambda: os.utime(other / "new.dcm", ns=(0, time.time_ns() - 10**9)),
        lambda: (other / "new.dcm").rename(other / "renamed.dcm"),
        lambda: (folder / "cohort.csv").write_text("patient_id,file\n"),
        lambda: (folder / "x" / "A.ct").unlink(),
    ):
        change()
        signatures.add(folder_signature(folder))
    assert len(signatures) == 7
