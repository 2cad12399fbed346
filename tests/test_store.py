"""Artefacts are complete or absent, and damage is found."""

import numpy as np
import pandas as pd
import pytest
import torch

from l3muscle.store import Artefact, Store, StoreError

ARTEFACT = Artefact(
    record={"made": "here"},
    tables={"scores": pd.DataFrame({"dice": [0.5, np.nan], "patient_id": ["a", "b"]})},
    arrays={"predictions": {"packed": np.arange(5, dtype=np.uint8)}},
    weights={"weights": {"w": torch.arange(4.0)}},
)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "run")
    store.write("experiments", "abc", ARTEFACT)
    return store


def test_everything_comes_back(store):
    assert store.record("experiments", "abc")["made"] == "here"
    pd.testing.assert_frame_equal(store.table("experiments", "abc", "scores"), ARTEFACT.tables["scores"])
    assert np.array_equal(store.arrays("experiments", "abc", "predictions")["packed"], np.arange(5))
    assert torch.equal(store.weights("experiments", "abc")["w"], torch.arange(4.0))


def test_what_is_not_there_is_none(store):
    assert store.record("experiments", "other") is None
    assert store.set_aside == []


@pytest.mark.parametrize("name", ["scores.parquet", "predictions.npz", "weights.safetensors", "record.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_found_and_set_aside(store, name, damage):
    path = store.folder("experiments", "abc") / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        # In the record a flipped bit must hit a checksum: elsewhere it would still be a record.
        place = content.index(b'"sha256"') + 1 if name == "record.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    assert store.record("experiments", "abc") is None
    assert store.set_aside == ["experiments/abc"]
    store.write("experiments", "abc", ARTEFACT)
    assert store.record("experiments", "abc") is not None


def test_the_first_writer_wins_and_no_draft_stays(store):
    store.write("experiments", "abc", Artefact(record={"made": "elsewhere"}))
    assert store.record("experiments", "abc")["made"] == "here"
    assert [path.name for path in (store.root / "experiments").iterdir()] == ["abc"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot write"):
        Store(tmp_path / "run").write("experiments", "abc", ARTEFACT)


def test_a_write_that_fails_half_way_leaves_nothing(store):
    class Breaks(dict):
        def items(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        store.write("experiments", "xyz", Artefact(record={}, arrays=Breaks(a={})))
    assert [path.name for path in (store.root / "experiments").iterdir()] == ["abc"]


def test_drafts_lie_hidden_beside_the_place_and_the_finished_folder_is_for_everyone(store, monkeypatch):
    import os

    seen = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (seen.append(source), rename(source, target)))
    store.write("experiments", "xyz", ARTEFACT)
    # On one file system, so that renaming is one step; hidden, so that no reader takes it for an artefact.
    assert [path.parent for path in seen] == [store.root / "experiments"]
    assert seen[0].name.startswith(".xyz.") and seen[0].name.endswith(".draft")
    assert store.folder("experiments", "xyz").stat().st_mode & 0o777 == 0o755


def test_tables_come_without_the_index_they_had(store):
    table = pd.DataFrame({"dice": [0.5, 0.25]}, index=["x", "y"])
    store.write("experiments", "xyz", Artefact(record={}, tables={"scores": table}))
    assert store.table("experiments", "xyz", "scores").index.tolist() == [0, 1]


def test_a_second_damage_replaces_the_first(store):
    for made in ("once", "twice"):
        (store.folder("experiments", "abc") / "record.json").write_text(made)
        assert store.record("experiments", "abc") is None
        aside = store.root / "experiments" / "abc.damaged" / "record.json"
        assert aside.read_text() == made
        store.write("experiments", "abc", ARTEFACT)
    assert store.set_aside == ["experiments/abc"] * 2


def test_a_write_over_damage_says_so_or_mends_it(store):
    # Another process left it between this one's look and its writing.
    (store.folder("experiments", "abc") / "scores.parquet").write_bytes(b"")
    try:
        store.write("experiments", "abc", ARTEFACT)
    except StoreError:
        return
    assert store.record("experiments", "abc") is not None


@pytest.mark.parametrize("record", ["[]", "3", "null", '{"sha256": 3}', '{"sha256": {"x": 1}}', "[" * 100_000])
def test_a_record_of_another_form_is_damage(store, record):
    (store.folder("experiments", "abc") / "record.json").write_text(record)
    assert store.record("experiments", "abc") is None


def test_a_pickled_array_is_refused_even_with_its_checksum(store):
    path = store.folder("experiments", "abc") / "predictions.npz"
    np.savez(path, packed=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoreError, match="predictions.npz cannot be read"):
        store.arrays("experiments", "abc", "predictions")


@pytest.mark.parametrize(("name", "read"), [("scores", "table"), ("predictions", "arrays"), ("weights", "weights")])
def test_what_is_not_there_or_damaged_is_one_sentence(store, name, read):
    for path in store.folder("experiments", "abc").glob(f"{name}.*"):
        path.write_bytes(b"?")
    for key in ("abc", "other"):
        with pytest.raises(StoreError, match="cannot be read") as caught:
            getattr(store, read)("experiments", key, name)
        assert "\n" not in str(caught.value)


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    store = Store(tmp_path / "deep" / "run")
    store.write_text("plan.json", "Größe 1")
    store.write_text("plan.json", "Größe 2")
    assert (store.root / "plan.json").read_bytes() == "Größe 2".encode()
    assert [path.name for path in store.root.iterdir()] == ["plan.json"]
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StoreError, match=r"^cannot write .*plan\.json: No space left on device$"):
            store.write_text("plan.json", "Größe 3")
    assert (store.root / "plan.json").read_bytes() == "Größe 2".encode()
    assert [path.name for path in store.root.iterdir()] == ["plan.json"]
