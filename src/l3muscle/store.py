"""The artefact store of a run: one folder for each thing made, complete or absent, each file with its checksum.

```
runs/<profile>/<kind>/<key>/record.json + tables (parquet), arrays (npz), weights (safetensors)
```
A folder is written beside its place and renamed into it, so that a reader never meets half of one. `record.json` holds
the SHA-256 of every other file, and a seal: the SHA-256 of what it says itself and of which artefact it is. An artefact
that does not match is set aside and made again. Documents at the top of the run are sealed in the same way.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from l3muscle.drafts import draft_of, drafted, remove, set_aside
from l3muscle.errors import L3MuscleError, reason_of

RECORD = "record.json"
SEAL = "seal"
CHECKSUMS = "checksums.json"  # of a folder that is no artefact of a store


class StoreError(L3MuscleError):
    """A store that cannot be written, or an artefact in it that cannot be read."""


@dataclass(frozen=True)
class Artefact:
    """What is written in one go: named tables, arrays and weights, and a record of how they came about."""

    record: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    arrays: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sealed(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A document as JSON holds it, with the SHA-256 of its content and of the name it goes by."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != SEAL}))
    text = json.dumps([name, plain], sort_keys=True)
    return {**plain, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def unsealed(name: str, document: Any) -> dict[str, Any]:
    """What a document holds, without its seal.

    Raises
    ------
    ValueError
        If it is not what was sealed under this name.
    """
    if not isinstance(document, dict) or document.get(SEAL) != sealed(name, document)[SEAL]:
        raise ValueError("it does not match its checksum")
    return {key: value for key, value in document.items() if key != SEAL}


def write_checksums(folder: Path) -> None:
    """Note the SHA-256 of every file below a folder, in a file of that folder."""
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
    document = sealed(CHECKSUMS, {"files": dict(sorted(files.items()))})
    (folder / CHECKSUMS).write_text(json.dumps(document, indent=1), encoding="utf-8")


@contextmanager
def checked_folder(place: Path) -> Iterator[Path]:
    """A name to write a folder under, which takes its place, with its checksums, when the block ends without an error.

    Where another process was faster, its folder stays: what is written so is always the same.

    Raises
    ------
    OSError
        If it cannot take its place; whatever the block raises. The draft is gone then.
    """
    draft = draft_of(place)
    try:
        yield draft
        write_checksums(draft)
        try:
            draft.rename(place)
        except OSError:
            if damaged_file(place) is not None:
                raise
    finally:
        remove(draft)


def damaged_file(folder: Path) -> str | None:
    """The first file below a folder that is not as `write_checksums` noted it; None where all are."""
    try:
        files = unsealed(CHECKSUMS, json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))["files"]
    except (OSError, ValueError, RecursionError):
        return CHECKSUMS
    for name, digest in files.items():
        try:
            sound = file_sha256(folder / name) == digest
        except OSError:
            sound = False
        if not sound:
            return name
    return None


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its parser raise into a sentence that names the file."""
    try:
        yield
    except Exception as error:  # each parser raises its own kinds
        raise StoreError(f"{path} cannot be read: {reason_of(error)}") from None


class Store:
    """Artefacts under one folder, addressed by kind (`"experiments"`, `"sources"`) and key (a hash)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.set_aside: list[str] = []

    def folder(self, kind: str, key: str) -> Path:
        """Where the artefact is, or would be."""
        return self.root / kind / key

    def write(self, kind: str, key: str, artefact: Artefact) -> None:
        """Write an artefact whole. If another process was faster, its artefact stays and this one is dropped.

        Raises
        ------
        StoreError
            If the folder cannot be written (permissions, space); nothing half-written is left behind.
        """
        place = self.folder(kind, key)
        draft = draft_of(place)
        try:
            draft.mkdir(parents=True)
            for name, table in artefact.tables.items():
                table.to_parquet(draft / f"{name}.parquet", index=False)
            for name, arrays in artefact.arrays.items():
                np.savez_compressed(draft / f"{name}.npz", **arrays)
            for name, weights in artefact.weights.items():
                save_file(dict(weights), draft / f"{name}.safetensors")
            checksums = {path.name: file_sha256(path) for path in sorted(draft.iterdir())}
            record = sealed(f"{kind}/{key}", {**artefact.record, "sha256": checksums})
            (draft / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            draft.chmod(0o755)
            try:
                os.rename(draft, place)
            except OSError:
                if self.record(kind, key) is not None:
                    return
                # What lay there was damaged, and has been set aside by that look at it.
                os.rename(draft, place)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"cannot write {place}: {reason_of(error)}") from None
        finally:
            remove(draft)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file at the top of the store, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with drafted(self.root / name) as draft:
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {self.root / name}: {reason_of(error)}") from None

    def write_document(self, name: str, content: Mapping[str, Any]) -> None:
        """Write what JSON can hold as a sealed text file at the top of the store, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        self.write_text(name, json.dumps(sealed(name, content), indent=1))

    def document(self, name: str) -> dict[str, Any] | None:
        """What `write_document` wrote; None where there is none, a `StoreError` where it is damaged."""
        path = self.root / name
        if not os.path.lexists(path):
            return None
        with _naming_damage(path):
            return unsealed(name, json.loads(path.read_text(encoding="utf-8")))

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record of an artefact whose files are all there and unchanged, else None.

        A damaged artefact is renamed to `<key>.damaged` and listed in `set_aside`, so that it will be made again.
        """
        place = self.folder(kind, key)
        if not os.path.lexists(place):
            return None
        try:
            record = self._record(kind, key)
            sound = all(file_sha256(place / name) == digest for name, digest in record["sha256"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if sound:
            return record
        set_aside(place)
        self.set_aside.append(f"{kind}/{key}")
        return None

    def _record(self, kind: str, key: str) -> dict[str, Any]:
        text = (self.folder(kind, key) / RECORD).read_text(encoding="utf-8")
        return unsealed(f"{kind}/{key}", json.loads(text))

    @contextmanager
    def _sound(self, kind: str, key: str, name: str) -> Iterator[Path]:
        """One file of an artefact, once it is sure that it is the one that was written."""
        path = self.folder(kind, key) / name
        with _naming_damage(path):
            if file_sha256(path) != self._record(kind, key)["sha256"].get(name):
                raise ValueError("it does not match its checksum")
            yield path

    def table(self, kind: str, key: str, name: str) -> pd.DataFrame:
        """One table of an artefact; a `StoreError` where it is none, or not the one that was written."""
        with self._sound(kind, key, f"{name}.parquet") as path:
            return pd.read_parquet(path)

    def arrays(self, kind: str, key: str, name: str) -> dict[str, np.ndarray]:
        """One set of arrays of an artefact; errors as `table`."""
        with self._sound(kind, key, f"{name}.npz") as path, np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def weights(self, kind: str, key: str, name: str = "weights") -> dict[str, Tensor]:
        """One state dict of an artefact; errors as `table`."""
        with self._sound(kind, key, f"{name}.safetensors") as path:
            return load_file(path)
