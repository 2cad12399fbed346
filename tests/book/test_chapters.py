"""Chapters of results on runs that lack something: each executes, and says what it does not have."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from l3muscle.study import StudyResults

TOP = Path(__file__).resolve().parents[2]
BOX = "l3-not-run"
KEPT = {
    "no experiment": lambda entry: False,
    "one model": lambda entry: entry["source_task"] == "random" and entry["n_train"] == 2 and entry["fold"] == 0,
}


@pytest.fixture
def altered(finished, tmp_path, monkeypatch):
    """Makes a run that has only some of the experiments, or whose cohort has no observers, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").mkdir()

    def make(kind: str) -> Path:
        runs = tmp_path / "runs"
        copy = runs / finished.folder.name
        (copy / "experiments").mkdir(parents=True)
        (runs / "cohorts").symlink_to(finished.cohort_folder.parent)
        for path in finished.folder.iterdir():
            if path.name != "experiments":
                (copy / path.name).symlink_to(path)
        for entry in json.loads((finished.folder / "plan.json").read_text())["experiments"]:
            if KEPT.get(kind, lambda entry: True)(entry):
                own = finished.folder / "experiments" / entry["key"]
                (copy / "experiments" / entry["key"]).symlink_to(own)
        if kind == "no observers":
            cohort = StudyResults.cohort
            monkeypatch.setattr(StudyResults, "cohort", lambda self: replace(cohort(self), observers={}))
            monkeypatch.setattr(StudyResults, "observer_scores", lambda self: pd.DataFrame([]))
        return runs

    return make


def shown_by(chapter: str, runs: Path) -> list[str]:
    """What a chapter's cells show, as text; fails where a cell does."""
    InteractiveShell.clear_instance()
    shell, shown = InteractiveShell.instance(), []
    try:
        for cell in nbformat.read(TOP / "notebooks" / f"{chapter}.ipynb", as_version=4).cells:
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            if "parameters" in cell.metadata.get("tags", []):
                source += f"\nprofile, runs = 'smoke', {str(runs)!r}"
            if cell.cell_type == "code" and "check_parameters(" not in source:
                outcome = shell.run_cell(source)
                outcome.raise_error()
                if outcome.result is not None:
                    shown.append(str(getattr(outcome.result, "data", outcome.result)))
    finally:
        InteractiveShell.clear_instance()
    return shown


@pytest.mark.parametrize("chapter", ["segmentation_accuracy", "between_source_tasks", "errors"])
def test_without_experiments_a_chapter_says_so_and_shows_nothing_else(altered, chapter):
    [only] = shown_by(chapter, altered("no experiment"))
    assert BOX in only and "nothing run yet" in only


@pytest.mark.parametrize("chapter", ["segmentation_accuracy", "errors"])
def test_without_observers_a_chapter_shows_what_needs_none(altered, chapter):
    shown = shown_by(chapter, altered("no observers"))
    assert sum("this cohort has none" in text for text in shown) >= 1
    assert "there are no observers to compare with" in shown[-1].lower()


@pytest.mark.parametrize("chapter", ["segmentation_accuracy", "between_source_tasks", "errors"])
def test_of_one_model_a_chapter_shows_what_there_is(altered, chapter):
    shown = shown_by(chapter, altered("one model"))
    assert BOX in shown[0] and "segmentation n = 2" in shown[0] and "**What was found" in shown[-1]


def test_a_chapter_about_observers_needs_some(altered):
    [only] = shown_by("observers", altered("no observers"))
    assert "This chapter needs the outlines of observers" in only
