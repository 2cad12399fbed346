"""A cohort read from its folder once, and from one file while the folder is unchanged."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from l3muscle.cohort.cohort import Cohort, CohortError
from l3muscle.cohort.files import folder_signature
from l3muscle.cohort.folder import load_cohort


def cached_cohort(folder: Path, runs: Path, *, usable_only: bool = False, rois: Sequence[str] = ()) -> Cohort:
    """Read a cohort, from `runs / "cohorts"` where it was read before.

    Parameters
    ----------
    folder : Path
        Of the cohort.
    runs : Path
        Folder of all runs.
    usable_only, rois
        As in `l3muscle.cohort.load_cohort`, whose errors these are too.
    """
    if not folder.is_dir():
        return load_cohort(folder)  # which says what is wrong
    key = hashlib.sha256(f"{folder_signature(folder)} {usable_only} {list(rois)}".encode()).hexdigest()[:20]
    saved = runs / "cohorts" / f"{key}.npz"
    with suppress(CohortError):
        return Cohort.load(saved)
    cohort = load_cohort(folder, usable_only=usable_only, rois=rois)
    # Without room for it, the folder is read again the next time.
    with suppress(CohortError, OSError):
        saved.parent.mkdir(parents=True, exist_ok=True)
        cohort.save(saved)
    return cohort
