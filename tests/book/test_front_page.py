"""The front page says what the run and the printed tables say, and what is missing."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from l3muscle.book import summary
from l3muscle.book.archive import ArchiveError, open_archive
from l3muscle.study import StudyResults


@pytest.fixture(scope="module")
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


def test_a_box_names_what_was_not_run(results: StudyResults) -> None:
    assert summary.not_run_box(results, "This chapter") == ""
    assert summary.not_run_box(results, "This chapter", tasks=["random"], sizes=[2, 4]) == ""
    box = summary.not_run_box(results, "This chapter", tasks=["random", "jigsaw"], sizes=[2, 125])
    assert "Not run in this profile" in box and "This chapter" in box
    assert "random n = 125, jigsaw n = 2, jigsaw n = 125." in box and "random n = 2," not in box
    assert "any source task n = 50" in summary.not_run_box(results, "This chapter", sizes=[50])


def test_the_answer_stands_beside_the_papers() -> None:
    sizes = (5, 10, 25)
    table = pd.DataFrame(
        {"source_task": ["random"] * 3 + ["jigsaw"] * 3, "n_train": sizes * 2, "verdict": ["worse", "", "better"] * 2}
    )
    table.loc[5, "verdict"] = "worse"
    curve = table[["source_task", "n_train"]].assign(mean=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    labels = {"random": "random", "jigsaw": "jigsaw"}
    answer = summary.answer_table(table, curve, labels).set_index("source task")
    assert list(answer["this run"]) == ["n = 10", "at no size"]
    # Table 1 of the paper underlines random initialisation and jigsaw as worse at 5 (and 10) slices only.
    assert list(answer["paper"]) == ["n = 25", "n = 10"]
    assert answer.loc["random", "Dice, n = 25"] == "0.300"


def test_a_source_task_without_results_is_not_run() -> None:
    table = pd.DataFrame({"source_task": ["random"] * 2, "n_train": [5, 10], "verdict": ["worse", ""]})
    curve = table[["source_task", "n_train"]].assign(mean=[0.1, 0.2])
    answer = summary.answer_table(table, curve, {"random": "random", "jigsaw": "jigsaw"}).set_index("source task")
    assert list(answer.loc["jigsaw", ["this run", "Dice, n = 5"]]) == ["not run", "not run"]
    sentence = summary.answer_sentence(answer.reset_index())
    assert "from n = 10 on after random" in sentence and "Not run: jigsaw." in sentence


def test_the_answer_in_words_groups_what_is_alike() -> None:
    answer = pd.DataFrame(
        {
            "source task": ["random", "classification", "segmentation", "jigsaw"],
            "this run": ["at no size", "n = 25", "n = 5", "n = 25"],
        }
    )
    assert summary.answer_sentence(answer) == (
        "**In this run** the outlines are not worse than the observers' from n = 5 on after segmentation; "
        "from n = 25 on after classification and jigsaw; after random they are still worse at the largest size."
    )
    assert summary.answer_sentence(answer.head(1)) == (
        "**In this run** after random the outlines are still worse than the observers' at the largest size."
    )


def test_the_rise_is_told_for_the_source_tasks_that_rise_least_and_most() -> None:
    rows = [("random", 5, 0.5), ("random", 10, 0.75), ("jigsaw", 5, 0.5), ("jigsaw", 10, 0.375), ("late", 10, 0.9)]
    curve = pd.DataFrame(rows, columns=["source_task", "n_train", "mean"])
    labels = {"random": "random", "jigsaw": "jigsaw", "late": "late"}
    said = summary.rise_sentence(curve, labels)
    assert said == "From n = 5 to n = 10 mean Dice changes by −0.125 (jigsaw) to +0.250 (random)."
    assert summary.rise_sentence(curve[curve.n_train == 10], labels) == ""


def test_summary_shows_this_run(results: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = summary.write_summary(results, Path("executed")).read_text(encoding="utf-8")
    assert "l3-strip" in text and "Not run" not in text
    scores = results.scores()
    mean = scores[(scores.source_task == "random") & (scores.n_train == 4)].dice.mean()
    assert f"{mean:.3f}" in text
    with zipfile.ZipFile(tmp_path / "executed" / "tables.zip") as archive:
        assert {"shown/tab-front.csv", "learning-curve-dice.csv", "scores.csv"} <= set(archive.namelist())
        assert len(pd.read_csv(archive.open("scores.csv"))) == len(scores)


def test_a_box_says_why_a_result_is_not_in_the_archive() -> None:
    with pytest.raises(ArchiveError) as caught:
        open_archive("nothing-like-it")
    box = summary.not_archived_box("The full grid", caught.value)
    assert box.startswith("```{admonition} Not run\n:class: warning l3-not-run\nThe full grid has not been measured: ")
    assert "no archived result 'nothing-like-it'" in box and box.endswith("Nothing is shown in its place.\n```\n")
