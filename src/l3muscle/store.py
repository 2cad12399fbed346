"""What a run keeps: one folder for each thing made, complete or absent, each file with its SHA-256.

```
runs/<profile>/<kind>/<key>/record.json + tables (CSV), arrays (npz), weights (safetensors)
```
The key is the hash of all that decides the content. A file that does not match its checksum is never shown or trained
from: `Store.sound` removes such an artefact, so that it is made again. A JSON file holds its own checksum.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor

from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.files import file_sha256, remove, replaced

RECORD = "record.json"
CHECKSUM = "checksum"
TEXT_COLUMNS = ("patient_id", "observer", "failure")


class StoreError(L3MuscleError):
    """A store that cannot be written, or an artefact in it that cannot be read."""


def key_of(content: Mapping[str, Any]) -> str:
    """Identity of an artefact: a hash of all that decides it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({**content, CHECKSUM: key_of(content)}, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    checksum = content.pop(CHECKSUM, None)  # other versions write none
    if checksum is not None and checksum != key_of(content):
        raise ValueError("it does not match its checksum")
    return content


class Store:
    """Artefacts under one folder, by kind (`"models"`, `"sources"` ...) and key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the artefact is, or would be."""
        return self.root / kind / key

    def write(
        self,
        kind: str,
        key: str,
        record: Mapping[str, Any],
        *,
        tables: Mapping[str, pd.DataFrame] | None = None,
        arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write an artefact whole: its record, tables, sets of arrays and a state dict.

        If another process was faster, its artefact stays and this one is dropped.

        Raises
        ------
        StoreError
            If the folder cannot be written (permissions, space); nothing half-written is left behind.
        """
        try:
            with replaced(self.folder(kind, key)) as folder:
                folder.mkdir()
                for name, table in (tables or {}).items():
                    table.to_csv(folder / f"{name}.csv", index=False, na_rep="NaN")
                for name, values in (arrays or {}).items():
                    np.savez_compressed(folder / f"{name}.npz", **values)
                if weights:
                    save_file({n: w.clone().contiguous() for n, w in weights.items()}, folder / "weights.safetensors")
                checksums = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
                _write_json(folder / RECORD, {**record, "sha256": checksums})
        except OSError as error:
            raise StoreError(f"cannot write {self.folder(kind, key)}: {reason_of(error)}") from None

    def has(self, kind: str, key: str) -> bool:
        """Whether there is such an artefact."""
        return (self.folder(kind, key) / RECORD).is_file()

    def sound(self, kind: str, key: str) -> bool:
        """Whether there is such an artefact and its files are unchanged; a damaged one is removed."""
        if not self.folder(kind, key).exists():
            return False
        try:
            checksums = self.record(kind, key)["sha256"]
            if all(file_sha256(self.folder(kind, key) / name) == digest for name, digest in checksums.items()):
                return True
        except (OSError, StoreError, AttributeError):
            pass
        remove(self.folder(kind, key))
        return False

    @contextmanager
    def _as_store_error(self, path: Path) -> Iterator[None]:
        """Turn whatever a damaged file makes its parser raise into a sentence that names the file."""
        try:
            yield
        except Exception as error:  # each parser raises its own kinds
            raise StoreError(
                f"{path} cannot be read ({reason_of(error)}); `l3muscle study run --profile {self.root.name}` "
                "makes it again"
            ) from None

    def record(self, kind: str, key: str) -> dict[str, Any]:
        """The record of an artefact."""
        path = self.folder(kind, key) / RECORD
        with self._as_store_error(path):
            record = _read_json(path)
            record["sha256"].items()
            return record

    @contextmanager
    def _checked(self, kind: str, key: str, name: str) -> Iterator[Path]:
        """One file of an artefact, once it is sure that it is the one that was written."""
        path = self.folder(kind, key) / name
        with self._as_store_error(path):
            if file_sha256(path) != self.record(kind, key)["sha256"][name]:
                raise ValueError("it does not match its checksum")
            yield path

    def table(self, kind: str, key: str, name: str) -> pd.DataFrame:
        """One table of an artefact, to the last bit; a `StoreError` where there is none, or not the one written.

        Text stays text, whatever a patient's ID looks like.
        """
        text = dict.fromkeys(TEXT_COLUMNS, str)
        with self._checked(kind, key, f"{name}.csv") as path:
            return pd.read_csv(path, keep_default_na=False, na_values=["NaN"], dtype=text)

    def arrays(self, kind: str, key: str, name: str) -> dict[str, np.ndarray]:
        """One set of arrays of an artefact; errors as `table`."""
        with self._checked(kind, key, f"{name}.npz") as path, np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def weights(self, kind: str, key: str) -> dict[str, Tensor]:
        """The state dict of an artefact; errors as `table`."""
        with self._checked(kind, key, "weights.safetensors") as path:
            return load_file(path)

    def write_document(self, name: str, content: Mapping[str, Any]) -> None:
        """Write what JSON can hold as a file of the run's folder, whole or not at all.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        try:
            with replaced(self.root / name) as temporary:
                _write_json(temporary, content)
        except OSError as error:
            raise StoreError(f"cannot write {self.root / name}: {reason_of(error)}") from None

    def remove_damaged(self, folder: str) -> None:
        """Remove the documents in a folder that cannot be read: they are notes that another run makes again."""
        for path in (self.root / folder).glob("*.json"):
            try:
                self.document(f"{folder}/{path.name}")
            except StoreError:
                remove(path)

    def document(self, name: str) -> Any:
        """What `write_document` wrote; None where there is none, a `StoreError` where it is damaged."""
        path = self.root / name
        if not path.exists():
            return None
        with self._as_store_error(path):
            return _read_json(path)
