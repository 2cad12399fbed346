"""Files that are whole or absent whenever their writer dies, and their checksums."""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp"
ABANDONED_AFTER_S = 3600.0  # a temporary file that nobody has written to for so long belongs to a dead process


def here_or_above(path: str | Path) -> Path:
    """A folder of the working folder, or of the one above it: JupyterLab runs a notebook where it lies."""
    path = Path(path)
    above = ".." / path
    return above if not path.is_dir() and above.is_dir() else path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of a file or a folder, renamed to it when the block ends without an error.

    A folder takes the place of none: where another process was faster, its folder stays.

    Raises
    ------
    OSError
        If it cannot be renamed; whatever the block raises. What was written is gone then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}.{path.name}")
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not (temporary.is_dir() and path.is_dir()):
                raise
    finally:
        remove(temporary)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders below `folder` that killed processes left."""
    for path in folder.rglob(f".*{TEMPORARY}.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                remove(path)
