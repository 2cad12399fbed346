"""Results that were measured elsewhere, or take too long for every build, kept in `results/` with their provenance."""

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from l3muscle.book.pseudonyms import renamed
from l3muscle.book.run_header import as_header, names_of
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.experiment import AXES
from l3muscle.files import here_or_above, remove, replaced
from l3muscle.metrics import MEASURES
from l3muscle.runtime import origin
from l3muscle.statistics.score_table import fewest_to_most, models_each
from l3muscle.study import StudyResults

ARCHIVE = Path("results")
OBSERVERS, MODELS = "observers.csv", "models.csv"


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
    observers : DataFrame or None
        The table `observers.csv` of a study; None where there is none.
    models : DataFrame or None
        The table `models.csv` of a study: how each training ended.
    """

    name: str
    scores: pd.DataFrame
    about: dict[str, Any]
    observers: pd.DataFrame | None = None
    models: pd.DataFrame | None = None

    @property
    def origin(self) -> str:
        """Where the numbers come from, as captions say it."""
        return f"from the archive: {self.name}, {self.about['measured']}"

    @property
    def configurations(self) -> pd.Series:
        """How many models there are of each configuration that has any, by source task and training-set size."""
        return models_each(self.scores)

    @property
    def coverage(self) -> str:
        """How much of a study there is, in words."""
        counts = self.configurations
        return f"{counts.sum()} of {self.about['planned']} models, {fewest_to_most(counts)} of a configuration"

    @property
    def header(self) -> str:
        """The same with commit and machine, as the header of a page."""
        return as_header(f"*F{self.origin[1:]}* — {origin(self.about['provenance'])}")


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
    folder = here_or_above(archive) / name
    try:
        about = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        observers, models = (
            pd.read_csv(folder / name) if (folder / name).exists() else None for name in (OBSERVERS, MODELS)
        )
        # Where nothing failed the column is empty, and would be read as numbers.
        scores = pd.read_csv(folder / "scores.csv", dtype={"failure": str})
        archived = Archived(name, scores, about, observers, models)
        _ = archived.header
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no archived result {name!r} ({error.filename} is missing)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"the archived result {name!r} cannot be read: {error}") from None
    return archived


def write_archive(results: StudyResults, archive: Path = ARCHIVE) -> Path:
    """Keep the scores of a run, under the name of its profile, with where they come from.

    Nine digits of all measures, which keep the expert's values the same in all rows: of a model on a test image in
    `scores.csv`, of an observer in `observers.csv`; how each model's training went in `curves.csv`, and how it ended in
    `models.csv`. Patients and observers of a cohort that is no phantom are numbered: what they are called stays with
    the run. Models of an earlier archive stay where they are of the same settings and cohort, so that a long study can
    be run in parts and on several machines; any other archive of that name gives way.

    Parameters
    ----------
    results : StudyResults
    archive : Path

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StudyError
        If no experiment is finished.
    ArchiveError
        If it cannot be written.
    """
    scores, observers = results.scores(), results.observer_scores()
    records = results.records
    sources = [record for task in results.plan["sources"] if (record := results.source_record(task)) is not None]
    names = names_of(results)
    tables = {
        "scores.csv": renamed(scores[[*AXES, "patient_id", *MEASURES, "failure"]], names),
        MODELS: results.trainings(),
        "curves.csv": results.curves()[[*AXES, "step", "train_loss", "validation_loss"]],
    }
    about = {
        "measured": date.today().isoformat(),
        "profile": results.profile.model_dump(mode="json"),
        "sources": {task: results.source_kind(task) for task in results.profile.grid.source_tasks},
        "phantom": results.plan["phantom"],
        "patients": results.plan["patients"],
        "identity": {name: results.plan[name] for name in ("cohort", "method")},
        "planned": results.planned(),
        "source_seconds_of_one_worker": round(sum(record.get("seconds", 0.0) for record in sources), 1),
        "machines": [record["provenance"] for record in records.values()],
    }
    folder = archive / results.profile.name
    with suppress(ArchiveError):
        _add_earlier(folder, about, tables)
    about["experiments"] = len(tables[MODELS])
    about["seconds_of_one_worker"] = round(float(tables[MODELS]["seconds"].sum()), 1)
    machines = [json.loads(text) for text in dict.fromkeys(json.dumps(one) for one in about.pop("machines"))]
    about |= {"provenance": machines[0], "other_machines": machines[1:]}
    if not observers.empty:
        tables[OBSERVERS] = renamed(observers[["observer", "patient_id", *MEASURES]], names)
    try:
        with replaced(folder) as draft:
            draft.mkdir()
            for name, table in tables.items():
                table.to_csv(draft / name, index=False, float_format="%.9g")
            (draft / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            remove(folder)
    except OSError as error:
        raise ArchiveError(f"cannot write {folder}: {reason_of(error)}") from None
    return folder


def _add_earlier(folder: Path, about: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """Add models of an earlier archive that this run has not, where settings, method and cohort are the same."""
    earlier = open_archive(folder.name, folder.parent).about
    if any(earlier.get(name) != about[name] for name in ("profile", "identity")):
        return
    axes = list(AXES)
    own = set(tables[MODELS][axes].itertuples(index=False, name=None))
    for name, table in tables.items():
        before = pd.read_csv(folder / name, dtype={"failure": str})
        lacking = [key not in own for key in before[axes].itertuples(index=False, name=None)]
        tables[name] = pd.concat([table, before[lacking]]).sort_values(axes, kind="stable")
    about["machines"] += [earlier["provenance"], *earlier["other_machines"]]
