"""What a reader may change in the chapters of the tests: the change shows, and a wrong one is refused first."""

from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def execute(name: str, out: Path, runs: Path, **settings) -> str:
    given = {"profile": "smoke", "runs": str(runs), **settings}
    notebook = papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"), str(out / "out.ipynb"), given, progress_bar=False, cwd=str(out)
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("segmentation_accuracy", {"control": "image_means", "family": "source_task", "unit": "image_mean"}),
        ("between_source_tasks", {"correction": "holm", "family": "all", "unit": "image_mean"}),
    ],
)
def test_a_changed_setting_is_what_the_chapter_shows(finished, runs, tmp_path, name, settings):
    text = execute(name, tmp_path, runs, alpha=0.25, **settings)
    assert "p < 0.25" in text and "What was found" in text


def test_an_impossible_setting_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(PapermillExecutionError, match="family = 'sizes': should be 'all', 'n_train' or 'source_task'"):
        execute("segmentation_accuracy", tmp_path, tmp_path / "no runs", family="sizes")
