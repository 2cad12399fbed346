"""The table that says how far a study is, and what a run will cost."""

import re
import threading
from dataclasses import asdict

from rich.console import Console

from l3muscle import status
from l3muscle.forecast import forecast
from l3muscle.results import StudyResults
from l3muscle.status import show_status, status_table
from l3muscle.store import Store
from l3muscle.study import Study


def test_failures_are_told_with_their_reason_until_they_are_made_good(finished, tmp_path):
    store = Store(tmp_path / "smoke")
    store.write_document("plan.json", finished.results().plan)
    model, key = next(iter(finished.keys.items()))
    store.write_document(f"failed/{key}.json", {"experiment": asdict(model), "reason": "the loss is not finite"})
    store.write_document("failed/notebooks.json", {"experiment-random-n002": "cell 3: OSError: no disk"})
    console = Console(width=200)
    with console.capture() as shown:
        console.print(status_table(StudyResults(store.root)))
    text = " ".join(shown.get().split())
    assert "0 of 8 models done, 8 missing, 1 failed" in text and "0 (1 failed)" in text
    assert f"{model}: the loss is not finite" in text
    assert "notebook experiment-random-n002: cell 3: OSError: no disk" in text
    failure = Store(finished.folder)
    failure.write_document(f"failed/{key}.json", {"experiment": asdict(model), "reason": "once"})
    assert finished.results().failures() == {}  # it was trained after all
    (finished.folder / "failed" / f"{key}.json").unlink()


def test_watching_ends_when_the_study_is_complete(finished, monkeypatch):
    monkeypatch.setattr(status, "REFRESH_S", 0.01)
    watcher = threading.Thread(target=show_status, args=(finished.results(),), kwargs={"watch": True}, daemon=True)
    watcher.start()
    watcher.join(60)
    assert not watcher.is_alive()


def test_a_forecast_counts_what_is_asked_for_and_touches_nothing(tiny, tmp_path):
    study = Study(tiny, runs=tmp_path)
    lines = list(forecast(study, workers=2, only={}))
    assert lines[0] == "8 models in 4 notebooks, 1 source tasks to learn; timing a few steps"
    assert lines[1].startswith("one model: ") and lines[2].startswith("source task segmentation: ")
    assert re.fullmatch(r"in all \d+ (s|min|h) with 2 workers, and 0\.0 GB on the disk", lines[-1])
    [first, *_] = forecast(study, workers=1, only={"source_task": ["random"], "n_train": [2]})
    assert first.startswith("2 models in 1 notebooks, 0 source tasks")
    assert list(tmp_path.iterdir()) == []
