"""The artefact store of a run: one folder for each thing made, complete or absent, each file with its checksum.

```
runs/<profile>/<kind>/<key>/record.json + tables (parquet), arrays (npz), weights (safetensors)
```
A folder is written beside its place and renamed into it, so that a reader never meets half of one. `record.json` holds
the SHA-256 of every other file; an artefact whose files do not match is set aside and made again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of

RECORD = "record.json"


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
        draft = None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
            for name, table in artefact.tables.items():
                table.to_parquet(draft / f"{name}.parquet", index=False)
            for name, arrays in artefact.arrays.items():
                np.savez_compressed(draft / f"{name}.npz", **arrays)
            for name, weights in artefact.weights.items():
                save_file(dict(weights), draft / f"{name}.safetensors")
            checksums = {path.name: file_sha256(path) for path in sorted(draft.iterdir())}
            record = {**artefact.record, "sha256": checksums}
            (draft / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            draft.chmod(0o755)
            os.rename(draft, place)
        except (OSError, SafetensorError) as error:
            if place.is_dir() and self.record(kind, key) is not None:
                return
            raise StoreError(f"cannot write {place}: {reason_of(error)}") from None
        finally:
            if draft is not None and draft.exists():
                shutil.rmtree(draft, ignore_errors=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file at the top of the store, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        draft = self.root / f".{name}.draft"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(self.root / name)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise StoreError(f"cannot write {self.root / name}: {reason_of(error)}") from None

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record of an artefact whose files are all there and unchanged, else None.

        A damaged artefact is renamed to `<key>.damaged` and listed in `set_aside`, so that it will be made again.
        """
        place = self.folder(kind, key)
        if not place.is_dir():
            return None
        try:
            record = json.loads((place / RECORD).read_text(encoding="utf-8"))
            sound = all(file_sha256(place / name) == digest for name, digest in record["sha256"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if sound:
            return record
        aside = place.with_name(f"{key}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        self.set_aside.append(f"{kind}/{key}")
        return None

    def table(self, kind: str, key: str, name: str) -> pd.DataFrame:
        """One table of an artefact; a `StoreError` where it is none."""
        path = self.folder(kind, key) / f"{name}.parquet"
        with _naming_damage(path):
            return pd.read_parquet(path)

    def arrays(self, kind: str, key: str, name: str) -> dict[str, np.ndarray]:
        """One set of arrays of an artefact; a `StoreError` where it is none."""
        path = self.folder(kind, key) / f"{name}.npz"
        with _naming_damage(path), np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def weights(self, kind: str, key: str, name: str = "weights") -> dict[str, Tensor]:
        """One state dict of an artefact; a `StoreError` where it is none."""
        path = self.folder(kind, key) / f"{name}.safetensors"
        with _naming_damage(path):
            return load_file(path)
