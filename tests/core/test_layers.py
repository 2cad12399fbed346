"""A room of the package imports from the rooms above it only."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("l3muscle").origin).parent
ROOMS = ("core", "cohort", "phantom", "study", "statistics", "figures", "playground", "book", "segmenter", "cli")
# Modules outside a folder that do not belong to the core.
STUDY = ("experiment", "forecast", "results", "runner", "status", "store", "study")
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    first = module.split("/")[0]
    if first in ROOMS:
        return first
    return "study" if first in STUDY else "core"


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST):
    """All nodes, but for what only a type checker imports."""
    for child in ast.iter_child_nodes(tree):
        if not is_for_types_only(child):
            yield child
            yield from nodes(child)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that one imports, anywhere in it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "l3muscle":
            continue
        path = "/".join(parts[1:])
        parent = "/".join(parts[1:-1])
        candidates = (path, f"{path}/__init__" if path else "__init__", parent, f"{parent}/__init__".lstrip("/"))
        found.add(next(candidate for candidate in candidates if candidate in MODULES))
    return frozenset(found - {module})


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    allowed = ROOMS[: ROOMS.index(room(module)) + 1]
    wrong = [other for other in imports(module) if room(other) not in allowed]
    assert wrong == [], f"{module} is of {room(module)}"
    if room(module) == "statistics":
        assert imports(module) <= {other for other in MODULES if room(other) == "statistics"} | {
            "__init__",
            "errors",
            "metrics",
        }


def test_there_are_no_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(imports(module)):
                # A folder's own __init__ gathers its modules, which may name it.
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
