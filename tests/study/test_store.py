"""Artefacts are complete or absent, come back to the last bit, and damage is found."""

import hashlib
import json
import math
import os
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch

from l3muscle.files import ABANDONED_AFTER_S, remove_abandoned, replaced
from l3muscle.store import Store, StoreError

TABLE = pd.DataFrame({"patient_id": ["007", "NA"], "dice": [0.1 + 0.2, np.nan], "n": [1, 2]})
MADE = {
    "tables": {"scores": TABLE},
    "arrays": {"predictions": {"packed": np.arange(5, dtype=np.uint8), "width": np.array(8)}},
    "weights": {"w": torch.arange(4.0)},
}


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "run")
    store.write("models", "abc", {"made": "here", "loss": 0.1}, **MADE)
    return store


def test_everything_comes_back(store):
    record = store.record("models", "abc")
    files = {path.name: path.read_bytes() for path in store.folder("models", "abc").iterdir()}
    assert set(files) == {"record.json", "scores.csv", "predictions.npz", "weights.safetensors"}
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "record.json"}
    assert record == {"made": "here", "loss": 0.1, "sha256": checksums}
    pd.testing.assert_frame_equal(store.table("models", "abc", "scores"), TABLE, check_exact=True)
    arrays = store.arrays("models", "abc", "predictions")
    assert list(arrays) == ["packed", "width"] and np.array_equal(arrays["packed"], np.arange(5))
    assert torch.equal(store.weights("models", "abc")["w"], torch.arange(4.0))
    assert store.has("models", "abc") and store.sound("models", "abc")
    assert not store.has("models", "other") and not store.sound("models", "other")


def test_tables_keep_every_bit_of_a_number(store):
    bits = np.random.default_rng(0).integers(0, 2**63, 2000, dtype=np.int64)
    values = bits.view(np.float64)
    table = pd.DataFrame({"x": np.append(values[np.isfinite(values)], [math.pi, 5e-324, 1.7976931348623157e308])})
    store.write("models", "bits", {}, tables={"t": table})
    assert (store.table("models", "bits", "t")["x"].to_numpy() == table["x"].to_numpy()).all()


@pytest.mark.parametrize(("name", "read"), [("scores", "table"), ("predictions", "arrays"), ("weights", "weights")])
def test_what_is_not_there_or_damaged_is_one_sentence_and_goes_when_it_is_looked_at(store, name, read):
    for path in store.folder("models", "abc").glob(f"{name}.*"):
        path.write_bytes(b"?")
    for key in ("abc", "other"):
        with pytest.raises(
            StoreError, match=r"cannot be read \(.*\); `l3muscle study run --profile run` makes"
        ) as caught:
            getattr(store, read)("models", key, *([] if name == "weights" else [name]))
        assert "\n" not in str(caught.value)
    assert not store.sound("models", "abc") and not store.folder("models", "abc").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"sha256": 3}', '{"sha256": {"x": 1}}', "[" * 100_000])
def test_a_record_of_another_form_is_damage(store, text):
    (store.folder("models", "abc") / "record.json").write_text(text)
    assert not store.sound("models", "abc")


def test_every_bit_of_a_record_counts(store):
    path, before = store.folder("models", "abc") / "record.json", store.record("models", "abc")
    data = path.read_bytes()
    for index in range(0, len(data), 3):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        try:
            found = store.record("models", "abc")
        except StoreError:
            continue
        assert {name: found[name] for name in before} == before


def test_a_file_that_the_record_does_not_know_is_not_read(store):
    TABLE.to_csv(store.folder("models", "abc") / "added.csv")
    with pytest.raises(StoreError, match=r"added\.csv cannot be read"):
        store.table("models", "abc", "added")


def test_a_pickled_array_is_refused_even_with_its_checksum(tmp_path):
    store = Store(tmp_path)
    store.write("models", "abc", {}, arrays={"predictions": {"packed": np.array([{"a": 1}], dtype=object)}})
    with pytest.raises(StoreError, match=r"predictions\.npz cannot be read \(Object arrays cannot be loaded"):
        store.arrays("models", "abc", "predictions")


def test_the_first_writer_wins_and_nothing_temporary_stays(store):
    store.write("models", "abc", {"made": "elsewhere"})
    assert store.record("models", "abc")["made"] == "here"
    assert [path.name for path in (store.root / "models").iterdir()] == ["abc"]


def test_a_write_that_fails_half_way_is_one_sentence_and_leaves_nothing(store):
    class Full(pd.DataFrame):
        def to_csv(self, *_, **__):
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"^cannot write .*models/xyz: No space left on device$"):
        store.write("models", "xyz", {}, tables={"scores": TABLE, "curve": Full({"x": [1]})})
    assert [path.name for path in (store.root / "models").iterdir()] == ["abc"]
    (store.root / "file").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"^cannot write .*file/abc: "):
        store.write("file", "abc", {})


def test_a_document_comes_back_and_damage_of_it_is_one_sentence(tmp_path):
    store = Store(tmp_path)
    assert store.document("plan.json") is None
    content = {"größe": (1, 2.5), "none": None}
    store.write_document("plan.json", content)
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert store.document("plan.json") == json.loads(json.dumps(content)) and text.count("\n") > 2
    for damage in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, text.replace("2.5", "2.6").encode()):
        (tmp_path / "plan.json").write_bytes(damage)
        with pytest.raises(StoreError, match=r"^.*plan\.json cannot be read \([^\n]+$"):
            store.document("plan.json")
    store.write_document("notes/a.json", {"a": 1})
    (tmp_path / "notes" / "b.json").write_bytes(b"{")
    store.remove_damaged("notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.json"]


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    for text in ("one", "two"):
        with replaced(path) as temporary:
            assert temporary.parent == path.parent and temporary.name.startswith(".")
            temporary.write_text(text)
        assert path.read_text() == text
    with pytest.raises(ZeroDivisionError), replaced(path) as temporary:
        temporary.write_text("three")
        _ = 1 / 0
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]


def test_only_what_nobody_writes_to_any_more_is_removed(tmp_path):
    left = []
    for name in ("old", "young"):
        with suppress(FileNotFoundError), replaced(tmp_path / "models" / name) as temporary:
            temporary.mkdir(parents=True)
            left.append(temporary.rename(tmp_path / "kept"))
        left[-1] = left[-1].rename(temporary)  # as if its writer had been killed
    old, young = left
    other = tmp_path / "models" / "abc"
    other.mkdir()
    long_ago = time.time() - ABANDONED_AFTER_S - 1
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert sorted((tmp_path / "models").iterdir()) == sorted([young, other])
