"""Files and folders on their way to completeness, so that a reader meets a whole one or none, whenever a writer dies.

A draft lies beside its place, hidden, and is renamed into it. Its name says which process writes it: what a dead one
left behind can be told from what another one is writing just now.
"""

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

START_TOLERANCE_S = 10.0  # between two readings of when a process began: the clock may have been set meanwhile
FOREIGN_AGE_S = 86_400.0  # of a draft whose writer runs, or ran, on another machine
DAMAGED = ".damaged"

_OWNER = re.compile(r"\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<began>\d+)-[0-9a-f]{8}\.draft")


@cache
def _machine() -> str:
    """Eight digits that tell machines apart, and containers, whose process numbers mean nothing to each other."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def draft_of(path: Path) -> Path:
    """A name beside `path` that no other draft has."""
    began = int(psutil.Process().create_time())
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{began}-{secrets.token_hex(4)}.draft")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_abandoned(draft: Path) -> bool:
    owner = _OWNER.search(draft.name)
    if owner is None:
        return False
    if owner["machine"] != _machine():
        with suppress(OSError):
            return time.time() - draft.stat().st_mtime > FOREIGN_AGE_S
        return False
    try:
        writer = psutil.Process(int(owner["process"]))
        same = abs(writer.create_time() - int(owner["began"])) < START_TOLERANCE_S
        return not same or writer.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove the drafts in a folder whose writers are dead.

    Parameters
    ----------
    folder : Path
        Need not exist.
    name : str
        Pattern of what the drafts are of; by default of anything.
    """
    for draft in folder.glob(f".{name}.*.draft"):
        if _is_abandoned(draft):
            remove(draft)


def set_aside(path: Path) -> None:
    """Rename something damaged to `<name>.damaged`, in place of what was called so before.

    Where that cannot be done, because another process was faster or the folder cannot be written, it stays.
    """
    aside = path.with_name(f"{path.name}{DAMAGED}")
    with suppress(OSError):
        remove(aside)
        path.rename(aside)


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` when the block ends without an error.

    A folder in that place is nothing that was ever written there; it is set aside.

    Raises
    ------
    OSError
        If the file cannot take its place; whatever the block raises. The draft is gone then.
    """
    draft = draft_of(path)
    try:
        yield draft
        if path.is_dir():
            set_aside(path)
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
