"""A cohort read from its folder once, and from one file while the folder is unchanged."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from l3muscle.cohort.cohort import Cohort, CohortError
from l3muscle.cohort.files import folder_signature


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
    saved = None
    if folder.is_dir():
        readers = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
        key = f"{folder_signature(folder)} {usable_only} {list(rois)} {hashlib.sha256(readers).hexdigest()}"
        saved = runs / "cohorts" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz"
        with suppress(CohortError):
            return Cohort.load(saved)
    from l3muscle.cohort.folder import load_cohort  # takes seconds, which a kernel with a saved cohort is spared

    cohort = load_cohort(folder, usable_only=usable_only, rois=rois)
    if saved is not None:
        # Without room for it, the folder is read again the next time.
        with suppress(CohortError):
            cohort.save(saved)
    return cohort
