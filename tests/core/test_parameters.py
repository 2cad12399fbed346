"""Parameters of notebooks: documented in one cell, refused in the next whatever started the notebook."""

from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from l3muscle.parameters import Parameter, ParameterError, documented, refuse
from l3muscle.profile import Positive, SourceTask

TOP = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((TOP / "notebooks").glob("*.ipynb"))
CELL = """profile: str = "laptop"  # whose
n_train: int = 10  # how many
rate: float = 0.1  # how fast
names: list[str] = []  # who"""
KNOWN = documented(CELL)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_notebook_documents_its_parameters_and_checks_them_first(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.tags, "the parameters are not the first code of the notebook"
    lines = code[1].source.splitlines()
    assert lines[-1].startswith("check_parameters("), "the second code cell has to end with check_parameters(...)"
    assert all(line.startswith("from l3muscle.") or not line for line in lines[:-1])
    known = papermill.inspect_notebook(str(path))
    assert list(known) == list(documented(code[0].source)), "papermill reads the cell in another way"
    for name, parameter in known.items():
        assert parameter["inferred_type_name"] in ("str", "int", "float", "bool"), f"{name} has no type"
        assert parameter["help"], f"{name} has no word of help"


def test_a_parameters_cell_is_read_as_papermill_reads_it():
    assert KNOWN["n_train"] == Parameter("int", 10) and KNOWN["names"] == Parameter("list[str]", [])
    assert documented("fold = 3  # untyped") == {"fold": Parameter("int", 3)}
    assert documented('rate = float("nan")')["rate"].type == "float"


@pytest.mark.parametrize("source", ["", "x = open('file')", "x.y = 1", "import os", "x = = 1", "%matplotlib inline"])
def test_other_cells_are_no_parameters(source):
    assert documented(source) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_trian": 10}, "there is no parameter 'n_trian'; did you mean 'n_train'"),
        ({"colour": "red"}, "there is no parameter 'colour'; there are profile, n_train, rate, names"),
        ({"n_train": "ten"}, "n_train = 'ten': should be a valid integer"),
        ({"n_train": 10.0}, "n_train = 10.0: should be a valid integer"),
        ({"n_train": True}, "n_train = True: should be a valid integer"),
        ({"n_train": 0}, "n_train = 0: should be greater than 0"),
        ({"rate": float("nan")}, "rate = nan: should be a finite number"),
        ({"rate": "fast"}, "rate = 'fast': should be a valid number"),
        ({"names": ["a", 2]}, "should be a valid string"),
        ({"profile": 10}, "profile = 10: should be a valid string"),
        ({"profile": "labtop"}, "there is no profile 'labtop'; did you mean 'laptop'"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ParameterError) as caught:
        refuse(KNOWN, given, n_train=Positive)
    assert message in str(caught.value)


def test_a_choice_is_one_of_a_list():
    known = documented('source_task = "random"')
    refuse(known, {"source_task": "jigsaw"}, source_task=SourceTask)
    with pytest.raises(ParameterError, match="source_task = 'jigsav': should be 'random', 'classification'"):
        refuse(known, {"source_task": "jigsav"}, source_task=SourceTask)


def test_an_integer_is_a_number():
    refuse(KNOWN, {"rate": 1, "n_train": 3, "profile": "smoke"})


@pytest.mark.parametrize(
    ("given", "message"), [({"n_trian": 5}, "did you mean 'n_train'"), ({"n_train": "5"}, "valid integer"), ({}, None)]
)
def test_plain_papermill_is_refused_before_anything_runs(tmp_path, given, message):
    witness = tmp_path / "ran"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    cell = nbformat.v4.new_code_cell
    notebook.cells = [
        cell("n_train: int = 10  # how many", metadata={"tags": ["parameters"]}),
        cell("from l3muscle.parameters import check_parameters\n\ncheck_parameters()"),
        cell(f"open({str(witness)!r}, 'w').close()"),
    ]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    arguments = (str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), given)
    if message is None:
        papermill.execute_notebook(*arguments, progress_bar=False)
        assert witness.exists()
        return
    with pytest.raises(PapermillExecutionError, match=message) as caught:
        papermill.execute_notebook(*arguments, progress_bar=False)
    assert "Traceback" not in str(caught.value)
    assert not witness.exists()
