"""The bar that somebody waits in front of: a widget in a notebook, lines in a log file."""

import nbformat
from nbclient import NotebookClient

from l3muscle.runner import progress_bar

CELL = """
from l3muscle.runner import progress_bar
with progress_bar(3, "experiments", unit="model") as bar:
    bar.update(2)
"""


def test_a_notebook_gets_a_widget():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    shown = [output.get("data", {}) for output in notebook.cells[0].outputs]
    widgets = [data for data in shown if "application/vnd.jupyter.widget-view+json" in data]
    assert "experiments:" in widgets[0]["text/plain"]


def test_a_log_file_gets_whole_lines_with_rate_and_count(capsys):
    with progress_bar(3, "experiments", unit="model") as bar:
        bar.update(3)
    written = capsys.readouterr().err
    assert "\r" not in written
    assert "3/3" in written.splitlines()[-1] and "model" in written.splitlines()[-1]
