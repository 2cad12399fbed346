"""Chapters: executed from their parameters alone, and again only when something has changed; experiments as pages."""

from pathlib import Path

import nbformat
import pytest

from l3muscle.book import build, experiment_pages
from l3muscle.book.build import BookError, chapters, execute_chapters
from l3muscle.execution import execute_notebook
from l3muscle.study import open_results

TOP = Path(__file__).resolve().parents[2]
NO_CHAPTERS = {"pretrain", "experiment", "playground"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with a one-chapter book, as the working folder; its front page and viewer are left out."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: book/executed/one\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell('profile = "laptop"\nruns = "runs"', metadata={"tags": ["parameters"]})
    notebook.cells = [parameters, nbformat.v4.new_code_cell("print(profile)")]
    nbformat.write(notebook, tmp_path / "notebooks" / "one.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "write_front_page", lambda *arguments: None)
    monkeypatch.setattr(build, "write_viewer", lambda *arguments: None)
    return tmp_path


def change(project: Path, code: str) -> None:
    path = project / "notebooks" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = code
    nbformat.write(notebook, path)


def test_chapters_come_in_reading_order_and_every_notebook_is_one_but_those_that_train(monkeypatch):
    monkeypatch.chdir(TOP)
    names = [path.stem for path in chapters()]
    assert set(names) == {path.stem for path in Path("notebooks").glob("*.ipynb")} - NO_CHAPTERS
    assert names[:2] == ["one_model", "cohort"]


def test_a_chapter_that_is_not_there_is_named_before_anything_runs(project):
    (project / "notebooks" / "one.ipynb").unlink()
    with pytest.raises(BookError, match=r"lists the chapter one, but there is no notebooks/one\.ipynb"):
        chapters()
    (project / "_toc.yml").unlink()
    with pytest.raises(BookError, match="run this in the project's top folder"):
        chapters()


def test_a_chapter_is_executed_once_and_again_only_when_something_changed(project, finished, runs):
    results, said = open_results("smoke", runs), []
    for code in ("print(profile)", "print(profile)", "print(runs)"):
        change(project, code)
        execute_chapters(results, profile="smoke", runs=runs, say=said.append)
    assert said == ["one: executing", "one: up to date", "one: executing"]
    cells = nbformat.read(project / "book" / "executed" / "one.ipynb", as_version=4).cells
    assert cells[-1].outputs[0].text == f"{runs}\n"
    assert [cell.metadata.tags for cell in cells[:2]] == [
        ["parameters", "remove-cell"],
        ["injected-parameters", "remove-cell"],
    ]


def test_a_failing_chapter_is_named_with_its_error_and_stays_as_far_as_it_came(project, finished, runs):
    change(project, "1 / 0")
    with pytest.raises(BookError, match=r"one failed in cell 3: ZeroDivisionError: division by zero; .*one\.ipynb"):
        execute_chapters(open_results("smoke", runs), profile="smoke", runs=runs, say=lambda line: None)
    assert (project / "book/executed/one.ipynb").is_file()


def test_executed_experiments_become_pages_with_their_command_and_an_index(project, finished, runs):
    results = open_results("smoke", runs)
    parameters = {"profile": "smoke", "runs": "runs", "source_task": "segmentation", "n_train": 4, "folds": [0]}
    template = project / "notebooks" / "one.ipynb"
    notebook = nbformat.read(template, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# One configuration\n\nWhat it is."))
    nbformat.write(notebook, template)
    out = results.folder / "notebooks" / "experiment-segmentation-n004.ipynb"
    try:
        assert execute_notebook(template, out, parameters, inputs="x").state == "done"
        (out.parent / "experiment-random-n002.ipynb").write_text(nbformat.writes(notebook))  # not finished
        folder = project / "pages"
        experiment_pages.write_experiment_pages(results, folder)
    finally:
        for path in out.parent.glob("*.ipynb"):
            path.unlink()
    assert sorted(path.name for path in folder.iterdir()) == [out.name, "index.md"]
    first = nbformat.read(folder / out.name, as_version=4).cells[0].source
    assert first.startswith("# Segmentation, n = 4\n") and first.endswith("What it is.")
    assert "papermill notebooks/experiment.ipynb OUT.ipynb" in first and "-y '{\"folds\": [0]}'" in first
    index = (folder / "index.md").read_text()
    assert f"]({out.name})" in index and "experiment-random-n002" not in index
