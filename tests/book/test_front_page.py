"""The front page says what the run's tables say."""

import json
import zipfile
from dataclasses import replace

import pandas as pd
import pytest

from l3muscle.book import front_page
from l3muscle.book.archive import open_archive, write_archive
from l3muscle.statistics import ObserverBand
from l3muscle.study import StudyResults


@pytest.fixture
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


def test_the_answer_stands_beside_the_papers():
    sizes = (5, 10, 25)
    tests = pd.DataFrame(
        {"source_task": ["random"] * 3 + ["jigsaw"] * 3, "n_train": sizes * 2, "verdict": ["worse", "", "better"] * 2}
    )
    tests.loc[5, "verdict"] = "worse"
    curve = tests[["source_task", "n_train"]].assign(mean=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    answer = front_page.answer_table(tests, curve, {"random": "random", "jigsaw": "jigsaw"}).set_index("source task")
    assert list(answer["this run"]) == ["n = 10", "at no size"]
    # Table 1 of the paper underlines random initialisation and jigsaw as worse at 5 (and 10) slices only.
    assert list(answer["paper"]) == ["n = 25", "n = 10"]
    assert answer.loc["random", "Dice, n = 25"] == "0.300"


def test_a_source_task_without_results_is_not_run():
    tests = pd.DataFrame({"source_task": ["random"] * 2, "n_train": [5, 10], "verdict": ["worse", ""]})
    curve = tests[["source_task", "n_train"]].assign(mean=[0.1, 0.2])
    answer = front_page.answer_table(tests, curve, {"random": "random", "jigsaw": "jigsaw"})
    assert list(answer.loc[1, ["this run", "Dice, n = 5"]]) == ["not run", "not run"]
    sentence = front_page.answer_sentence(answer)
    assert "from n = 10 on with random initialisation" in sentence and "Not run: jigsaw." in sentence


def test_a_part_of_a_study_gives_no_answer(results, tmp_path):
    models = pd.DataFrame({"source_task": ["random"] * 4 + ["jigsaw"] * 3})
    unfinished = front_page.unfinished_tasks(models, planned=8, tasks=("random", "jigsaw"))
    assert unfinished == {"jigsaw"}
    rows = [(task, n, "") for task in ("random", "jigsaw") for n in (5, 10)]
    tests = pd.DataFrame(rows, columns=["source_task", "n_train", "verdict"])
    names = {"random": "random", "jigsaw": "jigsaw"}
    answer = front_page.answer_table(tests, tests.assign(mean=0.5), names, unfinished=unfinished)
    assert list(answer["this run"]) == ["n = 5", "not finished"]
    assert front_page.answer_sentence(answer).endswith(
        "from n = 5 on with random initialisation. Not finished: jigsaw."
    )
    write_archive(results, tmp_path / "results")
    kept = open_archive(results.profile.name, tmp_path / "results")
    part = replace(kept, scores=kept.scores.query("source_task == 'random' or n_train == 2"))
    text = front_page.full_study(part, tmp_path)
    assert "Not finished: segmentation" in text and "best source task" not in text
    fewer = replace(kept, scores=kept.scores.query("fold == 0 or n_train == 2"))
    assert (
        "1 to 2 of a configuration" in (text := front_page.full_study(fewer, tmp_path)) and "Not finished" not in text
    )


def test_the_answer_in_words_groups_what_is_alike():
    answer = pd.DataFrame(
        {
            "source task": ["random", "classification", "segmentation", "jigsaw"],
            "this run": ["at no size", "n = 25", "n = 5", "n = 25"],
        }
    )
    assert front_page.answer_sentence(answer) == (
        "**In this run** mean Dice is not significantly below the observers' from n = 5 on with segmentation; "
        "from n = 25 on with classification and jigsaw; with random initialisation it still is at the largest size."
    )
    assert front_page.answer_sentence(answer.head(1)) == (
        "**In this run** with random initialisation mean Dice is still significantly below the observers' at the "
        "largest size."
    )


def test_the_rise_is_told_for_the_source_tasks_that_rise_least_and_most():
    rows = [("random", 5, 0.5), ("random", 10, 0.75), ("jigsaw", 5, 0.5), ("jigsaw", 10, 0.375), ("late", 10, 0.9)]
    curve = pd.DataFrame(rows, columns=["source_task", "n_train", "mean"])
    labels = {"random": "random", "jigsaw": "jigsaw", "late": "late"}
    said = front_page.rise_sentence(curve, labels)
    assert said == "From n = 5 to n = 10 mean Dice changes by −0.125 (jigsaw) to +0.250 (random)."
    assert front_page.rise_sentence(curve[curve.n_train == 10], labels) == ""


def test_the_gap_to_the_observers_is_told_whatever_the_tests_find():
    curve = pd.DataFrame({"mean": [0.85, 0.89, 0.91]})
    said = front_page.gap_sentence(curve, ObserverBand(0.9, 0.01))
    assert said.startswith("Of 3 means 2 lie below the observers' 0.900:")
    assert front_page.gap_sentence(curve, None) == ""


def test_the_answer_says_what_the_claims_do_of_trainings_that_ended_early():
    models = pd.DataFrame({"stopped": ["saturated", "max_steps", "max_steps", "max_steps"]})
    said = front_page.saturation_sentence(models)
    assert said.startswith("Of the trainings 25% went on until both losses had saturated; where fewer than 90%")
    assert front_page.saturation_sentence(models[:1]).endswith("100% went on until both losses had saturated.")


def test_the_front_page_and_its_tables_show_this_run(results, tmp_path):
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "tab-a.csv").write_text("n\n5\n")
    front_page.write_front_page(results, tmp_path)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    scores = results.scores()
    mean = scores[(scores.source_task == "random") & (scores.n_train == 4)].dice.mean()
    assert f"| {mean:.3f} |" in text and "l3-run-header" in text and "l3-not-run" not in text
    svg = (tmp_path / "summary.svg").read_text(encoding="utf-8")
    assert "executed/viewer.html#task=random&amp;n=4" in svg and f"n = 4: {mean:.3f}" in svg
    assert json.loads((tmp_path / "run.json").read_text())["phantom"] is True
    assert len(list((tmp_path / "steps").glob("*.png"))) == len(front_page.STEPS)
    with zipfile.ZipFile(tmp_path / "tables.zip") as archive:
        assert {"values/tab-a.csv", "models.csv", "training-curves.csv", "observer-scores.csv"} < set(
            archive.namelist()
        )
        assert len(pd.read_csv(archive.open("scores.csv"))) == len(scores)


def test_an_archived_full_study_stands_before_the_run(results, tmp_path):
    write_archive(results, tmp_path / "results")
    name = results.profile.name
    kept = open_archive(name, tmp_path / "results")
    text = " ".join(front_page.full_study(kept, tmp_path).split())
    mean = kept.scores[kept.scores.n_train == kept.scores.n_train.max()].groupby("source_task").dice.mean().max()
    assert f"of the profile `{name}`: {len(kept.models)} of {results.planned()} models, 2 of a configuration." in text
    assert f"reaches {mean:.3f}" in text and "**In the full study**" in text and "this run" not in text
    assert (tmp_path / "full.svg").read_text(encoding="utf-8").startswith("<svg")


def test_tables_of_patients_hold_no_name_of_theirs(results, tmp_path):
    results.plan["phantom"] = False
    front_page.write_tables(results, tmp_path)
    with zipfile.ZipFile(tmp_path / "tables.zip") as archive:
        text = "".join(archive.read(name).decode() for name in archive.namelist())
    assert "patient 0" in text and not [name for name in results.cohort().patient_ids if name in text]
