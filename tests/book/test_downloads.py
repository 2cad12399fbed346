"""The download holds the tables as they are shown and every score behind them."""

import csv
import zipfile
from dataclasses import asdict
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from l3muscle.book.downloads import experiments_table, run_tables, shown_tables, write_tables
from l3muscle.book.tables import numbered_table
from l3muscle.study import StudyResults


@pytest.fixture(scope="module")
def results(finished) -> StudyResults:
    return StudyResults(finished.store.root)


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    rows = [{"source task": "random", "p": "**<0.001**"}, {"source task": "jigsaw", "p": "<u>0.2</u> a\\|b"}]
    text = "Before.\n\n" + numbered_table(rows, caption="Of something.", name="tab-one")
    cell = nbformat.v4.new_code_cell(
        "", outputs=[nbformat.v4.new_output("display_data", {"text/markdown": text, "text/plain": "x"})]
    )
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_a_shown_table_is_read_without_its_markup(notebook: Path) -> None:
    assert list(shown_tables(notebook)) == [
        ("tab-one", [["source task", "p"], ["random", "<0.001"], ["jigsaw", "0.2 a\\|b"]])
    ]


@pytest.mark.parametrize("prose", [False, True])
def test_a_table_of_sentences_is_read_as_well(tmp_path: Path, prose: bool) -> None:
    text = numbered_table([{"mean": "0.5 <small>(0.4–0.6)</small>"}], caption="c", name="tab-one", prose=prose)
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", {"text/markdown": text})])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "chapter.ipynb")
    assert list(shown_tables(tmp_path / "chapter.ipynb")) == [("tab-one", [["mean"], ["0.5 (0.4–0.6)"]])]


def test_the_archive_is_the_same_for_the_same_tables_and_holds_nothing_old(notebook: Path) -> None:
    folder = notebook.parent
    (folder / "data" / "shown").mkdir(parents=True)
    (folder / "data" / "shown" / "tab-old.csv").write_text("left over\n")
    table = pd.DataFrame({"a": [1 / 3]})
    (folder / "values").mkdir()
    (folder / "values" / "fig-one.csv").write_text("x\n1\n")
    arguments = {"shown": {"tab-two": table}, "behind": {"numbers": table}, "about": "measured by a test"}
    first = write_tables(folder, **arguments).read_bytes()
    assert write_tables(folder, **arguments).read_bytes() == first
    with zipfile.ZipFile(folder / "tables.zip") as archive:
        assert archive.namelist() == [
            "README.txt",
            "numbers.csv",
            "shown/tab-one.csv",
            "shown/tab-two.csv",
            "values/fig-one.csv",
        ]
        assert archive.read("README.txt").decode().startswith("measured by a test\n")
        assert list(csv.reader(archive.read("shown/tab-one.csv").decode().splitlines()))[1] == ["random", "<0.001"]
        assert archive.read("numbers.csv").decode() == "a\n0.333333333\n"


def test_every_experiment_is_listed_with_its_files(results: StudyResults) -> None:
    table = experiments_table(results)
    assert len(table) == results.planned() and set(table["state"]) == {"done"}
    scores = results.scores()
    for row in table.to_dict("records"):
        folder = results.folder / row["files"]
        own = pd.read_parquet(folder / "scores.parquet")
        assert row["mean_dice"] == pytest.approx(own["dice"].mean())
    assert len(run_tables(results)["scores"]) == len(scores)


def test_what_was_not_run_is_listed_as_such(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, *kept = results.records
    partial = StudyResults(results.folder)
    monkeypatch.setattr(partial, "records", {one: results.records[one] for one in kept}, raising=False)
    table = experiments_table(partial)
    missing = table[table["state"] == "not run"]
    assert len(missing) == 1 and missing["files"].isna().all()
    assert missing.iloc[0][list(asdict(gone))].to_dict() == asdict(gone)
