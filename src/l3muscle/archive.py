"""Results that were measured elsewhere, or take too long for every build, kept in `results/` with their provenance."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l3muscle.errors import L3MuscleError
from l3muscle.runtime import origin

ARCHIVE = Path("results")


class ArchiveError(L3MuscleError):
    """An archived result that is not there or does not say where it comes from."""


@dataclass(frozen=True)
class Archived:
    """One archived result.

    Attributes
    ----------
    name : str
    scores : DataFrame
        The table `scores.csv`.
    about : dict
        The file `provenance.json`: `measured` (a date), `provenance` as `l3muscle.runtime.provenance` writes it, and
        whatever else belongs to the result.
    """

    name: str
    scores: pd.DataFrame
    about: dict[str, Any]

    @property
    def strip(self) -> str:
        """Where the numbers come from, as a strip for the top of a page."""
        where = origin(self.about["provenance"])
        line = f"*From the archive: {self.name}, {self.about['measured']}* — {where}"
        return f"```{{div}} l3-strip\n{line}\n```\n"


def open_archive(name: str, archive: Path = ARCHIVE) -> Archived:
    """Open an archived result.

    Parameters
    ----------
    name : str
        Its folder under `results/`.
    archive : Path
        A relative folder is looked for in the working folder and in the one above it.

    Raises
    ------
    ArchiveError
        If it is absent, or its table or its provenance cannot be read.
    """
    above = Path("..") / archive
    folder = (above if not archive.is_dir() and above.is_dir() else archive) / name
    try:
        about = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        archived = Archived(name, pd.read_csv(folder / "scores.csv"), about)
        _ = archived.strip
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no archived result {name!r} ({error.filename} is missing)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"the archived result {name!r} cannot be read: {error}") from None
    return archived
