"""A folder of results that knows its own files, so that results of two runs never lie under one name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l3muscle.errors import L3MuscleError
from l3muscle.files import file_sha256, replaced

LISTING = "SHA256SUMS.txt"  # as `sha256sum --check` reads it
MEASURES = "measures.csv"


class OutputError(L3MuscleError):
    """An output folder with files that must not be overwritten."""


class OutputFolder:
    """Writes files into a folder and lists each, with its checksum, before it appears there.

    What an earlier run listed is removed by `clear`, and nothing else.

    Parameters
    ----------
    folder : Path
        Need not exist.

    Raises
    ------
    OutputError
        If files of an earlier run have been changed since, as by a person who corrects an outline; or if the results of
        a run lie there that listed no files.
    OSError
        If the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.listed = folder, {}
        if (folder / LISTING).is_file():
            lines = (folder / LISTING).read_text(encoding="utf-8").splitlines()
            named = ((name, digest) for digest, _, name in (line.partition("  ") for line in lines))
            self.listed = {name: digest for name, digest in named if name and Path(name).name == name}
        elif (folder / MEASURES).exists():
            raise OutputError(f"{folder} holds results of another run; name a new folder")
        kept = {name: digest for name, digest in self.listed.items() if (folder / name).is_file()}
        if changed := [name for name, digest in kept.items() if file_sha256(folder / name) != digest]:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise OutputError(
                f"{folder} holds results of another run, of which {changed[0]}{more} were changed since; "
                "move them away to keep them, or name a new folder"
            )

    def clear(self) -> None:
        """Make the folder, and remove what an earlier run wrote."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (*self.listed, LISTING):
            (self.folder / name).unlink(missing_ok=True)
        self.listed = {}

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """A temporary file of the same ending, which becomes `name` once the block has ended without an error.

        Raises
        ------
        OutputError
            If the folder holds a file of that name that is not this run's.
        """
        path = self.folder / name
        if path.exists() and name not in self.listed:
            raise OutputError(f"{path} is there already, and no run has listed it; name a new folder")
        with replaced(path) as draft:
            yield draft
            self.listed[name] = file_sha256(draft)
            with (self.folder / LISTING).open("a", encoding="utf-8") as listing:
                listing.write(f"{self.listed[name]}  {name}\n")
