"""Parameters of a notebook, checked inside it: whatever started it, a wrong one is refused before anything runs.

Papermill writes the values that it is given into a cell of its own, after the cell that documents the parameters, and
only warns of a name that is not there. The kernel remembers the text of both cells, which is all that is needed.
"""

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from IPython import get_ipython
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from l3muscle.errors import L3MuscleError

# The first line of the cell in which papermill puts what it was given.
INJECTED = "# Parameters"
Level = Annotated[float, Field(gt=0, lt=1)]  # of a test
TYPES = {kind.__name__: kind for kind in (bool, dict, float, int, list, str)}


class ParameterError(L3MuscleError):
    """A parameter that a notebook does not have, or a value that it cannot take."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the sentence alone, as where it was raised helps nobody."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Parameter:
    """One parameter as its cell documents it.

    Attributes
    ----------
    type : str
        As written: `"int"`, `"list[str]"`; where nothing is written, that of the default.
    default : object
    """

    type: str
    default: Any


def documented(source: str) -> dict[str, Parameter] | None:
    """Read a parameters cell: lines such as `n_train: int = 10  # annotated slices`.

    Parameters
    ----------
    source : str
        Text of the cell.

    Returns
    -------
    dict of str to Parameter, or None
        None where the text is anything but assignments of literals to names.
    """
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return None
    found = {}
    for line in lines:
        if isinstance(line, ast.AnnAssign) and line.value is not None:
            target, kind = line.target, ast.unparse(line.annotation).strip("'\"")
        elif isinstance(line, ast.Assign) and len(line.targets) == 1:
            target, kind = line.targets[0], None
        else:
            return None
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            # Papermill writes what has no literal as a call: float('nan').
            default = float("nan") if ast.unparse(line.value).startswith("float(") else None
            if default is None:
                return None
        if not isinstance(target, ast.Name):
            return None
        found[target.id] = Parameter(kind or type(default).__name__, default)
    return found or None


def refuse(known: Mapping[str, Parameter], given: Mapping[str, Any], **narrower: Any) -> None:
    """Refuse names that are not known, and values of the wrong type or outside what is possible.

    Parameters
    ----------
    known : dict of str to Parameter
    given : dict of str to object
    **narrower
        For a parameter that cannot take every value of its type, the type of those that it can, as pydantic reads it:
        `source_task=SourceTask`, `n_train=Positive`.

    Raises
    ------
    ParameterError
        Of the first that is wrong.
    """
    for name, value in given.items():
        if name not in known:
            raise ParameterError(f"there is no parameter {name!r}{_meant(name, known)}")
        written = known[name].type
        kind = narrower.get(name) or _type_of(ast.parse(written, mode="eval").body)
        try:
            TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
            raise ParameterError(f"{name} = {value!r}: {reason}") from None
        if name == "profile":
            from l3muscle.profile import ProfileError, load_profile

            try:
                load_profile(value)
            except ProfileError as error:
                raise ParameterError(str(error)) from None


def _type_of(annotation: ast.expr) -> Any:
    """The type that an annotation such as `list[str]` names, of the plain ones that papermill can pass on."""
    if isinstance(annotation, ast.Name) and annotation.id in TYPES:
        return TYPES[annotation.id]
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return _type_of(annotation.value)[tuple(_type_of(part) for part in inner)]
    raise ParameterError(f"{ast.unparse(annotation)!r} is no type of a parameter; there are {', '.join(TYPES)}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def check_parameters(**narrower: Any) -> None:
    """Check the parameters of the notebook that calls this, in the cell after those that set them.

    Parameters
    ----------
    **narrower
        As in `refuse`.

    Raises
    ------
    ParameterError
        If papermill was given a name that the notebook does not document, or any value is of the wrong type or
        impossible; also if the cell with the parameters has not been run.
    """
    shell = get_ipython()
    injected: dict[str, Any] = {}
    if shell is not None:
        for source in reversed(shell.user_ns["In"][:-1]):
            cell = documented(source)
            if cell is None:
                continue
            if source.startswith(INJECTED):
                injected = {name: parameter.default for name, parameter in cell.items()} | injected
                continue
            values = {name: shell.user_ns.get(name, parameter.default) for name, parameter in cell.items()}
            refuse(cell, values | injected, **narrower)
            return
    raise ParameterError("run the cell with the parameters first")
