"""What a page says of its run, and a number followed back to its masks."""

import numpy as np
import pytest

from l3muscle.book import run_header
from l3muscle.study import StudyResults

LABELS = {"random": "random", "segmentation": "segmentation (procedural)"}


@pytest.fixture
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


@pytest.fixture
def without(results, monkeypatch):
    """The run without the models of some source tasks."""

    def leave_out(*tasks: str) -> StudyResults:
        kept = {one: record for one, record in results.records.items() if one.source_task not in tasks}
        monkeypatch.setattr(results, "records", kept, raising=False)
        monkeypatch.setattr(results, "keys", {one: results.keys[one] for one in kept}, raising=False)
        return results

    return leave_out


def test_results_have_one_name_and_others_another(results, without):
    name = run_header.results_id(results)
    assert name in run_header.header_text(results)
    assert run_header.results_id(StudyResults(results.folder)) == name
    assert run_header.results_id(without("random")) != name


def test_the_header_of_a_run_without_results_says_so(without):
    text = run_header.header_text(without("random", "segmentation"))
    assert "0 of 8 models" in text and "nothing run yet" in text


def test_missing_configurations_are_named(results, without):
    assert run_header.source_labels(results) == LABELS
    assert run_header.missing_notice(results) == ""
    notice = run_header.missing_notice(without("random"))
    assert "no models of: random n = 2, random n = 4." in notice and "segmentation" not in notice


def test_the_notice_knows_a_phantom_from_a_cohort_of_ones_own(results):
    assert "**phantom**" in run_header.cohort_notice(results)
    results.plan["phantom"] = False
    notice = run_header.cohort_notice(results)
    assert "owner" in notice and "drawn by a program" not in notice


def test_names_on_pages_are_those_of_a_phantom_or_pseudonyms(results):
    ids = set(results.cohort().patient_ids)
    assert all(name == shown for name, shown in run_header.names_of(results).items())
    results.plan["phantom"] = False
    names = run_header.names_of(results)
    assert ids <= set(names) and not ids & set(names.values())


def test_rows_tell_what_was_run(results, without):
    values = {row["what"]: row["value"] for row in run_header.run_rows(results)}
    assert values["models"] == "8 of 8 finished, 0 failed"
    machines = {row["what"]: row["machine 1"] for row in run_header.machine_rows(results)}
    assert machines["models"] == "8" and machines["torch"]
    [random, _] = run_header.configuration_rows(results, LABELS)
    assert random == {"source task": "random", "n = 2": "2 of 2", "n = 4": "2 of 2"}
    assert run_header.configuration_rows(without("random"), LABELS)[0]["n = 2"] == "not run"


def test_masks_measure_what_the_scores_say(results):
    again = run_header.measure_again(results)
    assert len(again) == 4 and again["predictions"].sum() == len(results.scores())
    np.testing.assert_allclose(again["shown_dice"], again["measured_dice"], atol=1e-12)
    assert again["largest_difference"].max() < 1e-12
    assert len(run_header.measure_again(results, configurations=1)) == 1


def test_masks_that_are_not_those_of_the_scores_are_found(results, monkeypatch):
    true = results.predictions
    monkeypatch.setattr(results, "predictions", lambda experiment: np.roll(true(experiment), 5, axis=2))
    assert run_header.measure_again(results)["largest_difference"].max() > 0.01


def test_every_model_is_listed_with_its_mean(results):
    table = run_header.models_table(results).set_index("key")
    for experiment, key in results.keys.items():
        mean = results.scores_of(experiment)["dice"].mean()
        assert table.loc[key, "mean_dice"] == pytest.approx(mean) and table.loc[key, "state"] == "done"
    text = run_header.model_listing(results, LABELS)
    assert text.count("{dropdown}") == 2 and all(f"`{key}`" in text for key in table.index)
