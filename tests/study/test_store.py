"""Artefacts are complete or absent, and damage is found."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from l3muscle.store import (
    CHECKSUMS,
    Artefact,
    Store,
    StoreError,
    checked_folder,
    damaged_file,
    file_sha256,
    sealed,
    unsealed,
    write_checksums,
)

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


def test_a_write_over_damage_mends_it(store):
    # Another process left it between this one's look and its writing.
    (store.folder("experiments", "abc") / "scores.parquet").write_bytes(b"")
    store.write("experiments", "abc", Artefact(record={"made": "anew"}))
    assert store.set_aside == ["experiments/abc"]
    assert store.record("experiments", "abc")["made"] == "anew"
    assert {path.name for path in (store.root / "experiments").iterdir()} == {"abc", "abc.damaged"}


def test_a_record_holds_what_was_said_and_the_checksum_of_every_other_file(store):
    place = store.folder("experiments", "abc")
    assert place == store.root / "experiments" / "abc"
    record = store.record("experiments", "abc")
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
    assert files.pop("record.json")
    assert set(files) == {"scores.parquet", "predictions.npz", "weights.safetensors"}
    assert record == {"made": "here", "sha256": files}
    document = json.loads((place / "record.json").read_text(encoding="utf-8"))
    assert document == sealed("experiments/abc", record)


@pytest.mark.parametrize(("kind", "key"), [("experiments", "xyz"), ("sources", "abc")])
def test_an_artefact_under_another_name_is_damage(store, kind, key):
    place = store.folder(kind, key)
    place.parent.mkdir(exist_ok=True)
    store.folder("experiments", "abc").rename(place)
    with pytest.raises(StoreError, match=r"scores\.parquet cannot be read: it does not match its checksum$"):
        store.table(kind, key, "scores")
    assert store.record(kind, key) is None and store.set_aside == [f"{kind}/{key}"]
    assert not place.exists() and place.with_name(f"{key}.damaged").is_dir()


def test_a_link_to_nothing_in_the_place_of_an_artefact_is_damage(store):
    store.folder("experiments", "xyz").symlink_to(store.root / "nothing")
    assert store.record("experiments", "xyz") is None and store.set_aside == ["experiments/xyz"]
    assert not os.path.lexists(store.folder("experiments", "xyz"))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"weights": {"nowhere/weights": {"w": torch.zeros(1)}}}, ""),
        ({"tables": {"nowhere/scores": pd.DataFrame({"dice": [0.5]})}}, ""),
        ({"arrays": {"nowhere/predictions": {"packed": np.zeros(1)}}}, "No such file or directory"),
    ],
)
def test_whatever_cannot_be_written_is_one_sentence(store, made, reason):
    with pytest.raises(StoreError) as caught:
        store.write("experiments", "xyz", Artefact(record={}, **made))
    text = str(caught.value)
    assert text.startswith(f"cannot write {store.folder('experiments', 'xyz')}: ") and "\n" not in text
    assert text.endswith(reason) and caught.value.__suppress_context__
    assert [path.name for path in (store.root / "experiments").iterdir()] == ["abc"]


def test_a_file_that_the_record_does_not_know_is_not_read(store):
    place = store.folder("experiments", "abc")
    ARTEFACT.tables["scores"].to_parquet(place / "added.parquet")
    with pytest.raises(StoreError) as caught:
        store.table("experiments", "abc", "added")
    assert str(caught.value) == f"{place / 'added.parquet'} cannot be read: it does not match its checksum"


def test_all_arrays_and_weights_come_back_by_name(store):
    arrays = {"one": np.arange(3), "two": np.ones((2, 2), bool)}
    weights = {"first": torch.zeros(2), "second": torch.ones(1, dtype=torch.int64)}
    store.write("sources", "s", Artefact(record={}, arrays={"many": arrays}, weights={"encoder": weights}))
    found = store.arrays("sources", "s", "many")
    assert list(found) == ["one", "two"] and all(np.array_equal(found[name], arrays[name]) for name in arrays)
    found = store.weights("sources", "s", "encoder")
    assert set(found) == set(weights) and all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("record", ["[]", "3", "null", '{"sha256": 3}', '{"sha256": {"x": 1}}', "[" * 100_000])
def test_a_record_of_another_form_is_damage(store, record):
    (store.folder("experiments", "abc") / "record.json").write_text(record)
    assert store.record("experiments", "abc") is None


def test_a_pickled_array_is_refused_even_with_its_checksum(store):
    place = store.folder("experiments", "abc")
    np.savez(place / "predictions.npz", packed=np.array([{"a": 1}], dtype=object))
    record = json.loads((place / "record.json").read_text(encoding="utf-8"))
    record["sha256"]["predictions.npz"] = file_sha256(place / "predictions.npz")
    (place / "record.json").write_text(json.dumps(sealed("experiments/abc", record)), encoding="utf-8")
    assert store.record("experiments", "abc") is not None
    with pytest.raises(StoreError, match=r"predictions\.npz cannot be read: Object arrays cannot be loaded"):
        store.arrays("experiments", "abc", "predictions")


def test_what_a_person_may_want_to_read_has_a_line_an_entry(store):
    store.write_document("plan.json", {"a": 1, "b": [2]})
    folder = fill(store.root / "phantom", "a.txt")
    write_checksums(folder)
    for path in (
        store.root / "plan.json",
        store.folder("experiments", "abc") / "record.json",
        folder / "checksums.json",
    ):
        text = path.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=1) and "\n" in text


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


def test_the_reason_why_a_text_cannot_be_written_names_it(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "run").write_text("plan.json", "")
    assert str(caught.value) == f"cannot write {tmp_path / 'run' / 'plan.json'}: File exists"


def test_a_document_comes_back_under_its_name_only(tmp_path):
    store = Store(tmp_path / "run")
    assert store.document("plan.json") is None
    store.write_document("plan.json", {"größe": (1, 2.5), "none": None})
    assert store.document("plan.json") == {"größe": [1, 2.5], "none": None}
    (store.root / "other.json").write_bytes((store.root / "plan.json").read_bytes())
    with pytest.raises(StoreError) as caught:
        store.document("other.json")
    assert str(caught.value) == f"{store.root / 'other.json'} cannot be read: it does not match its checksum"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_document_is_one_sentence(tmp_path, damage):
    store = Store(tmp_path)
    store.write_document("plan.json", {"a": 1})
    (tmp_path / "plan.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"^.*plan\.json cannot be read: [^\n]+$") as caught:
        store.document("plan.json")
    assert caught.value.__suppress_context__


def test_a_link_to_nothing_in_the_place_of_a_document_is_damage(tmp_path):
    (tmp_path / "plan.json").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"plan\.json cannot be read: No such file or directory$"):
        Store(tmp_path).document("plan.json")


def test_the_checksum_of_a_file_is_its_sha_256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # From FIPS 180-4.
    assert file_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_seal_is_of_the_content_and_its_name_and_not_of_its_order_or_an_older_seal():
    one = sealed("a", {"x": (1, 2), "y": None})
    assert one == {"x": [1, 2], "y": None, "seal": hashlib.sha256(b'["a", {"x": [1, 2], "y": null}]').hexdigest()}
    assert sealed("a", {"y": None, "x": [1, 2]}) == sealed("a", one) == sealed("a", {**one, "seal": "?"}) == one
    assert len({sealed(name, {"x": x})["seal"] for name in ("a", "b") for x in (1, 2)}) == 4


def test_a_seal_is_broken_by_any_change():
    document = sealed("a", {"x": 1})
    assert unsealed("a", document) == {"x": 1} and "seal" in document
    without = {"x": 1}
    for name, changed in (
        ("b", document),
        ("a", {**document, "x": 2}),
        ("a", {**document, "y": 1}),
        ("a", without),
        ("a", {**without, "seal": None}),
        ("a", [document]),
        ("a", None),
    ):
        with pytest.raises(ValueError, match=r"^it does not match its checksum$"):
            unsealed(name, changed)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_the_checksums_of_a_folder_are_of_every_file_below_it(tmp_path):
    folder = fill(tmp_path / "phantom", "b.txt", "deep/er/c.txt", "a.txt")
    write_checksums(folder)
    files = unsealed(CHECKSUMS, json.loads((folder / "checksums.json").read_text(encoding="utf-8")))["files"]
    assert list(files.items()) == [
        (name, hashlib.sha256(name.encode()).hexdigest()) for name in ("a.txt", "b.txt", "deep/er/c.txt")
    ]
    assert damaged_file(folder) is None


@pytest.mark.parametrize("name", ["a.txt", "deep/er/c.txt"])
@pytest.mark.parametrize("damage", ["change", "delete", "folder"])
def test_the_damaged_file_of_a_folder_is_named(tmp_path, name, damage):
    folder = fill(tmp_path / "phantom", "a.txt", "b.txt", "deep/er/c.txt")
    write_checksums(folder)
    if damage == "change":
        (folder / name).write_text("changed")
    else:
        (folder / name).unlink()
    if damage == "folder":
        (folder / name).mkdir()
    assert damaged_file(folder) == name


def test_the_first_damaged_file_is_named_and_one_more_is_no_damage(tmp_path):
    folder = fill(tmp_path / "phantom", "a.txt", "b.txt", "c.txt")
    write_checksums(folder)
    fill(folder, "d.txt")
    assert damaged_file(folder) is None
    for name in ("c.txt", "b.txt"):
        (folder / name).write_text("changed")
        assert damaged_file(folder) == name


@pytest.mark.parametrize("text", [None, b"", b"[]", b'{"files": {}}', b"\xff", b"[" * 100_000])
def test_checksums_that_are_damaged_themselves_are_named(tmp_path, text):
    folder = fill(tmp_path / "phantom", "a.txt")
    if text is not None:
        (folder / CHECKSUMS).write_bytes(text)
    assert damaged_file(folder) == "checksums.json" == damaged_file(tmp_path / "nowhere" / "at all")


def test_a_checked_folder_takes_its_place_at_the_end(tmp_path):
    place = tmp_path / "phantom"
    with checked_folder(place) as draft:
        fill(draft, "a.txt")
        assert draft.parent == tmp_path and draft.name.startswith(".phantom.") and not place.exists()
    assert damaged_file(place) is None and (place / "a.txt").read_text() == "a.txt"
    assert list(tmp_path.iterdir()) == [place]


def test_a_checked_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), checked_folder(tmp_path / "phantom") as draft:
        fill(draft, "a.txt")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_checked_folder_leaves_a_sound_one_in_its_place_and_cannot_replace_another(tmp_path):
    place = fill(tmp_path / "phantom", "other.txt")
    write_checksums(place)
    with checked_folder(place) as draft:
        fill(draft, "a.txt")
    assert {path.name for path in place.iterdir()} == {"other.txt", CHECKSUMS}
    (place / "other.txt").write_text("changed")
    with pytest.raises(OSError), checked_folder(place) as draft:
        fill(draft, "a.txt")
    assert {path.name for path in place.iterdir()} == {"other.txt", CHECKSUMS}
    assert list(tmp_path.iterdir()) == [place]
