"""Parameters of a notebook, checked inside it: whatever started it, a wrong one is refused before anything runs.

Papermill writes the values that it is given into a cell of its own, after the cell that documents the parameters, and
only warns of a name that is not there. The kernel remembers the text of both cells, which is all that is needed.
"""

import ast
from typing import Annotated, Any

from IPython import get_ipython
from pydantic import ConfigDict, Field, ValidationError, create_model

from l3muscle.errors import L3MuscleError

DOCUMENTED = "# Parameters of this notebook"  # first line of the cell that lists them, with their types
INJECTED = "# Parameters\n"  # first line of papermill's own cell
Level = Annotated[float, Field(gt=0, lt=1)]  # of a test
TYPES = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[int]": list[int],
    "list[str]": list[str],
}


class ParameterError(L3MuscleError):
    """A parameter that a notebook does not have, or a value that it cannot take."""


def documented(source: str) -> dict[str, str]:
    """Names and types of the parameters that a cell lists, in lines such as `n_train: int = 10  # annotated slices`."""
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
    return {line.target.id: ast.unparse(line.annotation) for line in lines}


def check_parameters(**narrower: Any) -> None:
    """Check the parameters of the notebook that calls this, in the cell after those that set them.

    Parameters
    ----------
    **narrower
        For a parameter that cannot take every value of its type, the type of those that it can, as pydantic reads it:
        `n_train=Positive`.

    Raises
    ------
    ParameterError
        If papermill was given a name that the notebook does not document, or any value is of the wrong type or
        impossible; also if the cell with the parameters has not been run.
    """
    names = get_ipython().user_ns
    ran = list(reversed(names["In"]))
    source = next((text for text in ran if text.startswith(DOCUMENTED)), None)
    if source is None:
        raise ParameterError("run the cell with the parameters first")
    types = documented(source)
    given = next((text for text in ran if text.startswith(INJECTED)), "")
    for line in ast.parse(given).body:
        if line.targets[0].id not in types:
            raise ParameterError(f"there is no parameter {line.targets[0].id!r}; there are {', '.join(types)}")
    kinds = {name: (narrower.get(name, TYPES[kind]), ...) for name, kind in types.items()}
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        create_model("Parameters", __config__=strict, **kinds)(**{name: names[name] for name in types})
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise ParameterError(f"{name} = {names[name]!r}: {first['msg'].replace('Input should', 'should')}") from None
