"""The table that says how far a study is."""

import re
import threading
from dataclasses import asdict

import pytest
from rich.console import Console

from l3muscle import status
from l3muscle.status import show_status, status_table
from l3muscle.store import Store
from l3muscle.study import FAILURES, PLAN, StudyResults


def rendered(results: StudyResults) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(status_table(results))
    return capture.get()


def with_failures(results: StudyResults, monkeypatch, tmp_path, *experiments) -> StudyResults:
    """The same results, in which some experiments are missing and noted as failed."""
    kept = {e: r for e, r in results.records.items() if e not in experiments}
    folder = tmp_path / "smoke"
    folder.mkdir()
    Store(folder).write_document(PLAN, results.plan)
    entries = [{"experiment": asdict(e), "reason": "the loss is not finite"} for e in results.records]
    Store(folder).write_document(FAILURES, {"failed": entries})
    copy = StudyResults(folder)
    monkeypatch.setattr(StudyResults, "records", kept)
    return copy


@pytest.fixture
def results(finished) -> StudyResults:
    return StudyResults(finished.folder)


def test_a_finished_study_has_nothing_missing(results):
    text = rendered(results)
    planned = results.planned()
    assert f"{planned} of {planned} experiments done, 0 missing, 0 failed" in " ".join(text.split())
    for task in results.profile.grid.source_tasks:
        assert re.search(rf"│ {task} +│ +2 │ +2 │", text)


def test_failures_are_told_with_their_reason_until_they_are_made_good(results, monkeypatch, tmp_path):
    lost = next(iter(results.records))
    copy = with_failures(results, monkeypatch, tmp_path, lost)
    assert list(copy.failures()) == [lost]
    text = " ".join(rendered(copy).split())
    assert "1 missing, 1 failed" in text
    assert f"{lost}: the loss is not finite" in text
    assert "(1 failed)" in text


def test_watching_ends_when_the_study_is_complete(results, monkeypatch):
    monkeypatch.setattr(status, "REFRESH_S", 0.01)
    watcher = threading.Thread(target=show_status, args=(results,), kwargs={"watch": True}, daemon=True)
    watcher.start()
    watcher.join(20)
    assert not watcher.is_alive()
