"""One call shows a figure or a table in Jupyter and in the book; its values leave with the notebook."""

import io
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from l3muscle.book import show
from l3muscle.figures import new_figure, style

VALUES = pd.DataFrame({"n": [5, 10], "dice": [0.123456789, 0.5]})


@pytest.fixture
def shown(monkeypatch):
    """The one output of a call, as a notebook keeps it."""

    def output_of(call, *arguments, **options) -> nbformat.NotebookNode:
        outputs = []
        monkeypatch.setattr(show, "display", lambda data, metadata=None, raw=False: outputs.append((data, metadata)))
        call(*arguments, **options)
        [(data, metadata)] = outputs
        return nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})

    return output_of


@pytest.fixture
def figure_output(shown):
    """The output of a figure of a given name."""

    def output_of(name: str = "fig-a", data: pd.DataFrame | None = VALUES) -> nbformat.NotebookNode:
        with style():
            figure, _ = new_figure(2.0)
        return shown(show.show_figure, figure, name, caption="A caption.", alt="What it shows.", data=data)

    return output_of


def test_a_figure_is_a_numbered_figure_of_the_book_and_a_picture_in_jupyter(figure_output):
    output = figure_output()
    markdown, html = output.data["text/markdown"], output.data["text/html"]
    assert markdown.startswith("```{figure} values/fig-a.svg\n:name: fig-a\n:alt: What it shows.\n")
    assert "A caption. [from this run]{.l3-origin} {download}`CSV <values/fig-a.csv>`" in markdown
    assert html.startswith("<figure><svg") and "A caption." in html
    assert "{download}" not in figure_output(data=None).data["text/markdown"]


def test_a_table_keeps_its_text_and_its_values_apart(shown):
    rows = [{"n": 5, "Dice": "**0.123** <small>(0.1–0.2)</small>"}]
    output = shown(show.show_table, rows, "tab-a", caption="A table.", data=VALUES, origin="from the paper")
    assert "| 5 | **0.123** <small>(0.1–0.2)</small> |" in output.data["text/markdown"]
    assert "[from the paper]{.l3-origin}" in output.data["text/markdown"]
    assert "<b>0.123</b>" in output.data["text/html"]
    alone = shown(show.show_table, rows, "tab-a", caption="A table.")
    assert alone.metadata["l3muscle"]["files"]["csv"] == "n,Dice\n5,0.123 (0.1–0.2)\n"


@pytest.mark.parametrize(("call", "nothing"), [(show.show_figure, None), (show.show_table, [])])
def test_what_a_run_does_not_have_is_one_sentence(shown, call, nothing):
    output = shown(call, nothing, "its-name", caption="The jigsaw's loss.")
    assert "Not part of this run: The jigsaw's loss." in output.data["text/markdown"]
    assert "its-name" not in str(output)


def write_notebook(path: Path, *outputs: dict) -> None:
    cells = [nbformat.v4.new_code_cell("show()", outputs=[output]) for output in outputs]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_values_are_written_beside_the_notebooks_and_old_ones_go(tmp_path, figure_output):
    write_notebook(tmp_path / "a.ipynb", figure_output(), figure_output("fig-b", None))
    write_notebook(tmp_path / "b.ipynb", nbformat.v4.new_output("stream", text="nothing to write"))
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "fig-of-yesterday.csv").touch()
    show.write_values(tmp_path)
    assert {path.name for path in (tmp_path / "values").iterdir()} == {"fig-a.csv", "fig-a.svg", "fig-b.svg"}
    text = (tmp_path / "values" / "fig-a.csv").read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), VALUES, atol=1e-6)
    assert 'class="l3-drawing"' in (tmp_path / "values" / "fig-a.svg").read_text(encoding="utf-8")


def test_a_table_of_configurations_says_what_was_not_run():
    table = pd.DataFrame({"source_task": ["random"], "n_train": [5], "mean": [0.5]})
    rows = show.by_size(table, {"random": "random", "jigsaw": "jigsaw"}, [5, 10], lambda row: f"{row.mean:.1f}")
    assert rows == [
        {"source task": "random", "n = 5": "0.5", "n = 10": "not run"},
        {"source task": "jigsaw", "n = 5": "not run", "n = 10": "not run"},
    ]


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [(-0.1234, {}, "−0.123"), (float("nan"), {}, "n/a"), (5.04, {"digits": 1, "sign": True}, "+5.0")],
)
def test_numbers_have_a_minus_sign_and_no_more_digits_than_asked(value, options, text):
    assert show.number(value, **options) == text


def test_an_interval_stands_behind_its_mean():
    nan = float("nan")
    assert show.interval_text(0.5, -0.25, 0.75, 2) == "0.50 <small>(−0.25 to 0.75)</small>"
    assert show.interval_text(0.5, nan, nan) == "0.500" and show.interval_text(nan, nan, nan) == "n/a"
