"""The API reference: which modules a page shows, with docstrings as the package writes them, in Markdown's backticks.

A page of the reference holds lines such as `<!-- modules: metrics, cohort.* -->`; each becomes one section a module.
What no page names comes where `<!-- modules: the rest -->` stands, so that no module can be forgotten.
"""

import re
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PACKAGE, REFERENCE, REST = "l3muscle", "book/api/", "the rest"
_LIST = re.compile(r"^<!-- modules: (.+?) -->$", re.MULTILINE)
_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")


def modules() -> list[str]:
    """Modules and packages of the package by name; packages come before their modules."""
    [top] = find_spec(PACKAGE).submodule_search_locations
    paths = (path.relative_to(top).with_suffix("") for path in sorted(Path(top).rglob("*.py")))
    return [name for path in paths if (name := ".".join(path.parts).removesuffix("__init__").rstrip("."))]


def chosen(names: str, elsewhere: list[str]) -> list[str]:
    """Modules that one line of a page asks for, in the order of its patterns.

    Parameters
    ----------
    names : str
        Patterns, separated by commas; `the rest` is every module that no pattern names.
    elsewhere : list of str
        Patterns of all pages.
    """
    known = modules()
    found = {REST: [name for name in known if not any(fnmatch(name, pattern) for pattern in elsewhere)]}
    patterns = [pattern.strip() for pattern in names.split(",")]
    return [name for p in patterns for name in found.get(p, [name for name in known if fnmatch(name, p)])]


def list_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a section for each module in place of the lines that ask for them."""
    if not docname.startswith(REFERENCE):
        return
    texts = (page.read_text(encoding="utf-8") for page in Path(app.srcdir, REFERENCE).glob("*.md"))
    elsewhere = [name.strip() for text in texts for line in _LIST.findall(text) for name in line.split(",")]

    # What a package only passes on is explained where it comes from.
    options = "   :members:\n   :ignore-module-all:\n"

    def section(name: str) -> str:
        return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {PACKAGE}.{name}\n{options}```\n"

    source[0] = _LIST.sub(lambda match: "\n".join(map(section, chosen(match[1], elsewhere))), source[0])


def read_markdown(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn Markdown's backticks into what Sphinx reads, and let a bar be a bar."""
    lines[:] = [_CODE.sub(r"``\1``", line.replace("|", r"\|")) for line in lines]


def skip_borrowed(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what pydantic adds to settings, named tuples say of fields, and matplotlib adds to its artists."""
    added = ("model_config", "model_post_init", "model_fields", "model_computed_fields")
    theirs = str(getattr(obj, "__module__", "")).startswith("matplotlib.")
    return True if name in added or theirs or str(obj.__doc__).startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", list_modules)
    # Before Napoleon takes the sections apart.
    app.connect("autodoc-process-docstring", read_markdown, priority=400)
    app.connect("autodoc-skip-member", skip_borrowed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
