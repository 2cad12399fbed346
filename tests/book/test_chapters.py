"""Chapters on runs that lack something, and on patients: each executes, and says what it does not have."""

from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from l3muscle.book.show import SHOWN
from l3muscle.cohort import Cohort
from l3muscle.experiment import score_observers
from l3muscle.store import Store
from l3muscle.study import StudyResults

TOP = Path(__file__).resolve().parents[2]


def without_observers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    cohort, store = StudyResults.cohort, Store(folder)
    store.write("observers", "none", {}, tables={"scores": score_observers(Cohort(*np.zeros((3, 0, 0, 0)), (), {}))})
    monkeypatch.setattr(StudyResults, "cohort", lambda self: replace(cohort(self), observers={}))
    monkeypatch.setattr(StudyResults, "observer_scores", lambda self: store.table("observers", "none", "scores"))


def with_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    records, keys = StudyResults.records.func, StudyResults.keys.func

    def first(results: StudyResults) -> dict:
        return {one: record for one, record in records(results).items() if one == min(records(results))}

    monkeypatch.setattr(StudyResults, "records", property(first))
    monkeypatch.setattr(StudyResults, "keys", property(lambda results: dict(list(keys(results).items())[:1])))


def of_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = StudyResults.__init__

    def as_own(results: StudyResults, folder: Path) -> None:
        opened(results, folder)
        results.plan["phantom"] = False

    monkeypatch.setattr(StudyResults, "__init__", as_own)


def shown_by(chapter: str, runs: Path) -> tuple[list[str], str]:
    """What a chapter's cells show as Markdown, and all that its notebook holds; fails where a cell does."""
    InteractiveShell.clear_instance()
    shell, shown, everything = InteractiveShell.instance(), [], ""
    try:
        for cell in nbformat.read(TOP / "notebooks" / f"{chapter}.ipynb", as_version=4).cells:
            source = cell.source
            if "parameters" in cell.metadata.get("tags", []):
                source += f"\nprofile, runs = 'smoke', {str(runs)!r}"
            if cell.cell_type == "code" and "check_parameters(" not in source:
                with capture_output() as captured:
                    outcome = shell.run_cell(source)
                outcome.raise_error()
                for output in captured.outputs:
                    shown.append(output.data.get("text/markdown", ""))
                    everything += str(output.data) + str((output.metadata or {}).get(SHOWN, ""))
                if outcome.result is not None:
                    shown.append(str(getattr(outcome.result, "data", outcome.result)))
                everything += captured.stdout + (shown[-1] if shown else "")
    finally:
        InteractiveShell.clear_instance()
    return shown, everything


@pytest.mark.parametrize("chapter", ["segmentation_accuracy", "errors", "observers", "measures"])
def test_without_observers_a_chapter_shows_what_needs_none(finished, runs, monkeypatch, tmp_path, chapter):
    without_observers(monkeypatch, tmp_path)
    shown, _ = shown_by(chapter, runs)
    assert "**What was found" in shown[-1]
    lacking = [text for text in shown if "l3-not-run" in text]
    assert len(lacking) == {"segmentation_accuracy": 2, "errors": 0, "observers": 5, "measures": 0}[chapter]


@pytest.mark.parametrize("chapter", ["segmentation_accuracy", "between_source_tasks", "errors", "training"])
def test_of_one_model_a_chapter_shows_what_there_is(finished, runs, monkeypatch, chapter):
    with_one_model(monkeypatch)
    shown, _ = shown_by(chapter, runs)
    assert "has no models of:" in shown[0] and "segmentation n = 2" in shown[0] and "**What was found" in shown[-1]


@pytest.mark.parametrize(
    "chapter", ["cohort", "observers", "measures", "segmentation_accuracy", "muscle_measures", "errors", "viewer"]
)
def test_no_chapter_names_a_patient(finished, runs, monkeypatch, chapter):
    of_patients(monkeypatch)
    ids = StudyResults(finished.store.root).cohort().patient_ids
    _, everything = shown_by(chapter, runs)
    assert [name for name in ids if name in everything] == []
