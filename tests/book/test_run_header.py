"""What a page says of its run, and a number followed back to its masks."""

from pathlib import Path

import numpy as np
import pytest

from l3muscle.book import about_run
from l3muscle.book.summary import cohort_notice, results_id, run_strip
from l3muscle.study import StudyResults


@pytest.fixture
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


LABELS = {"random": "random", "segmentation": "segmentation (procedural)"}


def test_results_have_one_name_and_others_another(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    name = results_id(results)
    assert name in run_strip(results) and results_id(StudyResults(results.folder)) == name
    fewer = StudyResults(results.folder)
    monkeypatch.setattr(fewer, "records", dict(list(results.records.items())[:-1]), raising=False)
    assert results_id(fewer) != name


def test_the_strip_of_a_run_without_results_says_so(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "records", {}, raising=False)
    assert "0 of 8 experiments" in run_strip(results) and "nothing run yet" in run_strip(results)


def test_the_notice_knows_a_phantom_from_a_cohort_of_ones_own(results: StudyResults) -> None:
    assert "**phantom**" in cohort_notice(results)
    results.plan["phantom"] = False
    notice = cohort_notice(results)
    assert "owner" in notice and "drawn by a program" not in notice


def test_rows_tell_what_was_run(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {row["what"]: row["value"] for row in about_run.run_rows(results)}
    assert values["experiments"] == "8 of 8 finished, 0 failed"
    assert results.plan["cohort"] in values["cohort's SHA-256"]
    machines = {row["what"]: row["machine 1"] for row in about_run.machine_rows(results)}
    assert machines["experiments"] == "8" and machines["torch"]
    [cell, _] = about_run.cell_rows(results, LABELS)
    assert cell == {"source task": "random", "n = 2": "2 of 2", "n = 4": "2 of 2"}
    kept = {one: record for one, record in results.records.items() if one.source_task != "random"}
    monkeypatch.setattr(results, "records", kept, raising=False)
    assert about_run.cell_rows(results, LABELS)[0]["n = 2"] == "not run"


def test_masks_measure_what_the_scores_say(results: StudyResults) -> None:
    again = about_run.retrace(results)
    assert len(again) == 4 and again["predictions"].sum() == len(results.scores())
    assert np.allclose(again["shown_dice"], again["measured_dice"], atol=1e-12)
    assert again["largest_difference"].max() < 1e-12
    assert len(about_run.retrace(results, cells=1)) == 1


def test_masks_that_are_not_those_of_the_scores_are_found(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = results.predictions
    monkeypatch.setattr(results, "predictions", lambda experiment: np.roll(true(experiment), 5, axis=2))
    again = about_run.retrace(results)
    assert again["largest_difference"].max() > 0.01


def test_the_listing_names_the_folder_of_every_experiment(results: StudyResults) -> None:
    text = about_run.experiment_listing(results, LABELS)
    assert text.count("{dropdown}") == 2 and "segmentation (procedural): 4 of 4 finished" in text
    for key in results.keys.values():
        assert f"`experiments/{key}`" in text and Path(results.folder, "experiments", key).is_dir()
