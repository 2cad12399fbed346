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
