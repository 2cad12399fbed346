"""Notebooks: refused before anything runs, or executed from their parameters alone."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from l3muscle.book.notebooks import NotebookError, chapters, check_notebooks, check_parameters, execute_notebooks
from l3muscle.book.tables import VALUES

from l3muscle.book import notebooks
from l3muscle.study import open_results

TOP = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((TOP / "notebooks").glob("*.ipynb"))
TOOLS = {"experiment", "playground"}  # to be run, not to be read: no chapters


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with a one-chapter book, as the working folder."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: book/executed/one\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell('profile = "laptop"\nruns = "runs"', metadata={"tags": ["parameters"]})
    notebook.cells = [parameters, nbformat.v4.new_code_cell("print(profile)")]
    nbformat.write(notebook, tmp_path / "notebooks" / "one.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def offered(project) -> Path:
    """The same, where the chapter offers a table of values."""
    change(
        project,
        code="from l3muscle.book.tables import *\nfrom IPython.display import Markdown\n"
        "Markdown(data_link(pd.DataFrame({'a': [1]}), 'tab-one'))",
    )
    return project / VALUES


def change(project: Path, **changes) -> None:
    path = project / "notebooks" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    if "kernel" in changes:
        notebook.metadata.kernelspec.name = changes["kernel"]
    if "code" in changes:
        notebook.cells[1].source = changes["code"]
    nbformat.write(notebook, path)


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_notebook_takes_the_parameters_that_it_is_given(path):
    known = papermill.inspect_notebook(str(path))
    assert {"profile", "runs"} <= set(known)
    assert all(parameter["help"] for parameter in known.values()), "a parameter without a word of help"
    with pytest.raises(NotebookError, match="no parameter 'profil'"):
        check_parameters(path, {"profil": "smoke"})


def test_chapters_come_in_reading_order(monkeypatch):
    monkeypatch.chdir(TOP)
    assert set(chapters()) == {path.stem for path in TEMPLATES} - TOOLS
    assert chapters()[0] == "cohort"


def test_executed_once_and_again_only_when_something_changed(project, finished, runs):
    results = open_results("smoke", runs)
    said = []
    for _ in range(2):
        [path] = execute_notebooks(results, profile="smoke", runs=runs, say=said.append)
    assert said == ["one: executing", "one: up to date"]
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].text == "smoke\n"
    change(project, code="print(profile * 2)")
    [path] = execute_notebooks(results, profile="smoke", runs=runs, say=quiet)
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].text == "smokesmoke\n"


def test_a_chapter_that_is_no_more_leaves_nothing(project, finished, runs):
    notebooks.EXECUTED.mkdir(parents=True)
    left_over = notebooks.EXECUTED / "gone.ipynb"
    left_over.write_text("{}")
    [path] = execute_notebooks(open_results("smoke", runs), profile="smoke", runs=runs, say=quiet)
    assert path.is_file() and not left_over.exists()


def test_parameters_that_do_not_count_are_not_shown(project, finished, runs):
    [path] = execute_notebooks(open_results("smoke", runs), profile="smoke", runs=runs, say=quiet)
    given, injected, _ = (cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells)
    assert "remove-cell" in given and "remove-cell" not in injected


def test_values_are_written_again_when_lost_and_removed_when_no_chapter_shows_them(offered, finished, runs):
    results, said = open_results("smoke", runs), []
    execute_notebooks(results, profile="smoke", runs=runs, say=said.append)
    (offered / "tab-old.csv").write_text("a\n1\n")
    execute_notebooks(results, profile="smoke", runs=runs, say=said.append)
    assert said == ["one: executing", "one: up to date"]
    assert [path.name for path in offered.iterdir()] == ["tab-one.csv"]
    (offered / "tab-one.csv").unlink()
    execute_notebooks(results, profile="smoke", runs=runs, say=said.append)
    assert said[-1] == "one: executing" and (offered / "tab-one.csv").is_file()


def test_an_archived_result_that_changes_is_shown(project, finished, runs):
    said = []
    for content in ("a", "b"):
        path = project / "results" / "one" / "scores.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        execute_notebooks(open_results("smoke", runs), profile="smoke", runs=runs, say=said.append)
    assert said == ["one: executing", "one: executing"]


def test_chapters_at_the_same_time_and_last_what_reads_the_others(project, finished, runs):
    chapter = nbformat.read(project / "notebooks" / "one.ipynb", as_version=4)
    # Either would wait for the other for ever if they came one after the other.
    meet = (
        "import time\nfrom pathlib import Path\nPath('{own}.here').touch()\n"
        "while not Path('{other}.here').exists():\n    time.sleep(0.05)"
    )
    for own, other in (("two", "three"), ("three", "two")):
        chapter.cells[1].source = meet.format(own=own, other=other)
        nbformat.write(chapter, project / "notebooks" / f"{own}.ipynb")
    change(
        project,
        code="from l3muscle.book.notebooks import shown_labels\nfrom pathlib import Path\n"
        "print(sorted(path.name for path in Path('book/executed').glob('[!.]*.ipynb')))",
    )
    reader = nbformat.read(project / "notebooks" / "one.ipynb", as_version=4)
    reader.metadata["l3muscle"] = {"reads_chapters": True}
    nbformat.write(reader, project / "notebooks" / "one.ipynb")
    entries = "".join(f"- file: book/executed/{name}\n" for name in ("one", "two", "three"))
    (project / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters:\n{entries}")
    paths = execute_notebooks(open_results("smoke", runs), profile="smoke", runs=runs, workers=2, say=quiet)
    assert [path.stem for path in paths] == ["one", "two", "three"]
    seen = nbformat.read(paths[0], as_version=4).cells[-1].outputs[0].text
    assert seen == "['three.ipynb', 'two.ipynb']\n"


def test_what_reads_the_other_chapters_says_so():
    readers = {path.stem for path in TEMPLATES if "shown_labels" in path.read_text(encoding="utf-8")}
    assert readers and readers == {path.stem for path in TEMPLATES if notebooks._reads_chapters(path)}


FIGURE = """
from l3muscle import figures
import pandas as pd
figures.accuracy_curve(pd.DataFrame({"step": [1, 2], "validation_accuracy": [0.1, 0.4]}), chance=0.02)
"""


def test_a_figure_leaves_a_drawing_for_narrow_screens_and_says_what_it_shows(project, finished, runs):
    path = project / "notebooks" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    look = {"figure": {"caption": "Solved.", "name": "fig-one"}, "image": {"alt": "A curve."}}
    notebook.cells[1] = nbformat.v4.new_code_cell(FIGURE, metadata={"mystnb": look})
    nbformat.write(notebook, path)
    results = open_results("smoke", runs)
    [executed] = execute_notebooks(results, profile="smoke", runs=runs, say=quiet)
    cell = nbformat.read(executed, as_version=4).cells[-1]
    assert cell.metadata.mystnb.image.alt == "A curve. It ends at 40.0%; chance is 2.0%."
    assert set(cell.outputs[0].data) <= {"image/svg+xml", "image/png", "text/plain"}
    drawing = project / notebooks.NARROW / "fig-one.svg"
    assert drawing.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    drawing.unlink()
    execute_notebooks(results, profile="smoke", runs=runs, say=quiet)
    assert drawing.is_file()
    (drawing.parent / "fig-gone.svg").write_text("")
    change(project, code="from l3muscle import figures\nfigures.not_run('jigsaw')")
    execute_notebooks(results, profile="smoke", runs=runs, say=quiet)
    assert list(drawing.parent.iterdir()) == []


@pytest.mark.parametrize("path", [path for path in TEMPLATES if path.stem not in TOOLS], ids=lambda path: path.stem)
def test_every_figure_has_a_caption_a_name_and_alternative_text(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if "figures." in cell.source.replace("from l3muscle import figures", "") and cell.cell_type == "code":
            figure = cell.metadata["mystnb"]["figure"]
            assert figure["caption"] and figure["name"].startswith("fig-") and cell.metadata["mystnb"]["image"]["alt"]


# Drawn from a seed or shown as they are: there is no number behind them.
PICTURES = {
    "fig-augmentation",
    "fig-bench-stars",
    "fig-fractals",
    "fig-scenes",
    "fig-randomised",
    "fig-reconstruction",
    "fig-puzzles",
}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_figure_offers_the_values_behind_it(path):
    cells = nbformat.read(path, as_version=4).cells
    shown = {cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in cells} - {None}
    offered = {name for cell in cells for name in re.findall(r'data_link\(.+?, "(fig-[\w-]+)"\)', cell.source)}
    assert shown - offered <= PICTURES and offered <= shown


def test_a_cell_that_fails_is_named_and_nothing_is_left(project, finished, runs):
    change(project, code="1 / 0")
    with pytest.raises(NotebookError, match="one failed in cell 3: ZeroDivisionError"):
        execute_notebooks(open_results("smoke", runs), profile="smoke", runs=runs, say=quiet)
    assert list((project / notebooks.EXECUTED).iterdir()) == []


def test_a_missing_kernel_is_one_sentence(project):
    change(project, kernel="julia-9")
    with pytest.raises(NotebookError, match="needs the Jupyter kernel 'julia-9', which is not installed"):
        check_notebooks()


def test_a_missing_template_and_a_missing_toc_are_one_sentence(project):
    (project / "notebooks" / "one.ipynb").unlink()
    with pytest.raises(NotebookError, match="there is no notebooks/one.ipynb"):
        check_notebooks()
    (project / "_toc.yml").unlink()
    with pytest.raises(NotebookError, match="run this in the project's top folder"):
        check_notebooks()


def test_only_pictures_that_no_page_shows_are_removed(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "book").mkdir()
    for name in ("shown.svg", "shown.dark.svg", "old.svg"):
        (tmp_path / "_images" / name).write_text("<svg/>")
    page = '<img src="../_images/shown.svg"><img src="../_images/shown.dark.svg">'
    (tmp_path / "book" / "page.html").write_text(page, encoding="utf-8")
    notebooks.remove_unshown_pictures(tmp_path)
    assert {path.name for path in (tmp_path / "_images").iterdir()} == {"shown.svg", "shown.dark.svg"}
