"""Parameters of notebooks: documented in one cell, refused in the next whatever started the notebook."""

from pathlib import Path

import nbformat
import papermill
import pytest

from l3muscle import parameters
from l3muscle.parameters import ParameterError, check_parameters, documented
from l3muscle.settings import Positive

TOP = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((TOP / "notebooks").glob("*.ipynb"))
CELL = """# Parameters of this notebook
profile: str = "laptop"  # whose
n_train: int = 10  # how many
rate: float = 0.1  # how fast
names: list[str] = []  # who"""


@pytest.fixture
def check(monkeypatch):
    """Run the parameters cell, then papermill's own with some values, then `check_parameters(n_train=Positive)`."""

    def run(**given) -> None:
        injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in given.items())
        names: dict = {"In": ["", CELL, injected]}
        values = {"nan": float("nan")}
        for source in names["In"]:
            exec(source, values, names)
        shell = type("Shell", (), {"user_ns": names})
        monkeypatch.setattr(parameters, "get_ipython", lambda: shell)
        check_parameters(n_train=Positive)

    return run


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_notebook_documents_its_parameters_and_checks_them_first(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata.tags, "the parameters are not the first code of the notebook"
    assert code[0].source.startswith(parameters.DOCUMENTED)
    lines = code[1].source.splitlines()
    assert lines[-1].startswith("check_parameters("), "the second code cell has to end with check_parameters(...)"
    known = papermill.inspect_notebook(str(path))
    assert list(known) == list(documented(code[0].source)), "papermill reads the cell in another way"
    for name, parameter in known.items():
        assert parameter["inferred_type_name"] in parameters.TYPES, f"{name} has no type"
        assert parameter["help"], f"{name} has no word of help"


def test_the_names_and_types_of_a_cell_are_known():
    assert documented(CELL) == {"profile": "str", "n_train": "int", "rate": "float", "names": "list[str]"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_trian": 10}, "there is no parameter 'n_trian'; there are profile, n_train, rate, names"),
        ({"n_train": "ten"}, "n_train = 'ten': should be a valid integer"),
        ({"n_train": 10.0}, "n_train = 10.0: should be a valid integer"),
        ({"n_train": True}, "n_train = True: should be a valid integer"),
        ({"n_train": 0}, "n_train = 0: should be greater than 0"),
        ({"rate": float("nan")}, "rate = nan: should be a finite number"),
        ({"rate": "fast"}, "rate = 'fast': should be a valid number"),
        ({"names": ["a", 2]}, "should be a valid string"),
        ({"profile": 10}, "profile = 10: should be a valid string"),
    ],
)
def test_what_is_wrong_is_named(check, given, message):
    with pytest.raises(ParameterError) as caught:
        check(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_fits_passes(check):
    check()
    check(rate=1, n_train=3, profile="smoke", names=["a"])


def test_a_notebook_whose_parameters_were_not_run_says_so(monkeypatch):
    monkeypatch.setattr(parameters, "get_ipython", lambda: type("Shell", (), {"user_ns": {"In": ["1 + 1"]}}))
    with pytest.raises(ParameterError, match="run the cell with the parameters first"):
        check_parameters()
