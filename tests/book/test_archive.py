"""Archived results say where they come from, or are refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from l3muscle.book.archive import ArchiveError, open_archive, write_archive
from l3muscle.metrics import MEASURES
from l3muscle.runtime import provenance
from l3muscle.statistics import dunnett_table
from l3muscle.statistics.claims import claims_table
from l3muscle.study import open_results

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "scores.csv").write_text("setting,dice\na,0.5\nb,0.75\n")
    about = {"measured": "2026-01-02", "provenance": {**provenance(), "commit": "a" * 40, "uncommitted_changes": True}}
    (folder / "provenance.json").write_text(json.dumps(about))
    return tmp_path


def test_the_header_names_date_commit_and_machine(archive):
    trial = open_archive("trial", archive)
    assert trial.scores.dice.tolist() == [0.5, 0.75]
    assert trial.origin == "from the archive: trial, 2026-01-02"
    assert "*From the archive: trial, 2026-01-02*" in trial.header
    assert "aaaaaaaaaa with uncommitted changes" in trial.header


def test_from_a_notebooks_folder_the_archive_is_one_above(archive, monkeypatch):
    (archive / "results").mkdir()
    (archive / "trial").rename(archive / "results" / "trial")
    (archive / "notebooks").mkdir()
    monkeypatch.chdir(archive / "notebooks")
    assert open_archive("trial").scores.shape == (2, 2)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("provenance.json", "{", "cannot be read"),
        ("provenance.json", '{"measured": "today"}', "cannot be read: 'provenance'"),
        ("scores.csv", "", "cannot be read"),
        ("scores.csv", None, "is missing"),
    ],
)
def test_damage_is_one_sentence(archive, file, content, reason):
    if content is None:
        (archive / "trial" / file).unlink()
    else:
        (archive / "trial" / file).write_text(content)
    with pytest.raises(ArchiveError, match=reason):
        open_archive("trial", archive)


@pytest.mark.parametrize("folder", sorted((TOP / "results").glob("*/")), ids=lambda folder: folder.name)
def test_everything_committed_can_be_opened(folder):
    found = open_archive(folder.name, TOP / "results")
    assert len(found.scores)
    assert found.about["provenance"]["uncommitted_changes"] is False


def test_a_run_is_kept_with_what_its_tests_compare(finished, runs, tmp_path):
    results = open_results("smoke", runs)
    for _ in range(2):
        folder = write_archive(results, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"] and folder == tmp_path / "smoke"
    kept, scores = open_archive("smoke", tmp_path), results.scores()
    assert kept.about["experiments"] == len(results.records) == kept.about["planned"]
    assert kept.about["sources"]["random"] == "random"
    keys = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id"]
    both = scores.merge(kept.scores, on=keys, suffixes=("", "_kept"), validate="one_to_one")
    assert len(both) == len(scores) == len(kept.scores)
    for measure in MEASURES:
        np.testing.assert_allclose(both[f"{measure}_kept"], both[measure], rtol=1e-5)
    ours, theirs = (
        dunnett_table(*tables, "dice")["p_value"]
        for tables in ((scores, results.observer_scores()), (kept.scores, kept.observers))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-6)
    claims = claims_table(kept.scores, kept.observers, models=kept.models, tuned_observers=True)
    assert len(claims) == len(claims_table(scores, results.observer_scores()))


def test_patients_who_are_no_phantoms_are_numbered(finished, runs, tmp_path):
    results = open_results("smoke", runs)
    names = set(results.scores()["patient_id"])
    results.plan["phantom"] = False
    folder = write_archive(results, tmp_path)
    kept = open_archive("smoke", tmp_path)
    assert kept.scores["patient_id"].nunique() == len(names)
    assert kept.scores["patient_id"].str.fullmatch(r"patient \d{3}").all()
    assert set(kept.observers["patient_id"]) <= set(kept.scores["patient_id"])
    written = "".join(path.read_text() for path in folder.iterdir())
    assert not any(name in written for name in names)


def test_an_archive_that_cannot_be_written_is_one_sentence(finished, runs, tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ArchiveError, match="cannot write"):
        write_archive(open_results("smoke", runs), tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_study_that_is_run_in_parts_is_kept_whole(finished, runs, tmp_path):
    """Models of an earlier archive stay where settings and cohort agree, and go where they do not."""
    results = open_results("smoke", runs)
    whole = read(write_archive(results, tmp_path))
    part = open_results("smoke", runs)
    part.records = {one: record for one, record in results.records.items() if one.fold == 0}
    assert 0 < len(part.records) < len(results.records)
    together = read(write_archive(part, tmp_path))
    assert together.keys() == whole.keys()
    for name, table in whole.items():
        order = list(table.columns[:6])
        pd.testing.assert_frame_equal(
            table.sort_values(order, ignore_index=True), together[name].sort_values(order, ignore_index=True)
        )
    about = json.loads((tmp_path / "smoke" / "provenance.json").read_text())
    assert about["experiments"] == len(results.records)

    about["identity"]["cohort"] = "another"
    (tmp_path / "smoke" / "provenance.json").write_text(json.dumps(about))
    assert set(read(write_archive(part, tmp_path))["models.csv"]["fold"]) == {0}


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.name: pd.read_csv(path, dtype={"failure": str}) for path in folder.glob("*.csv")}
