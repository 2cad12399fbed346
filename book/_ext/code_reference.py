"""The API reference: which modules a page shows, and docstrings as the package writes them, with Markdown's backticks.

A page of the reference holds lines such as `<!-- modules: metrics, cohort.* -->`; each becomes one section a module.
What no page names comes where `<!-- modules: the rest -->` stands, so that no module can be forgotten.
"""

import re
import sys
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

PACKAGE = "l3muscle"
REFERENCE = "book/api/"
REST = "the rest"
_LIST = re.compile(r"^<!-- modules: (.+?) -->$", re.MULTILINE)
_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
# A role's name stays before its text; a bar would begin a substitution.
_TICKS = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)|(?P<bar>\|)")


def modules() -> dict[str, Path]:
    """Modules of the package by name, without the package's own; packages come before their modules."""
    [top] = find_spec(PACKAGE).submodule_search_locations
    found = {}
    for path in sorted(Path(top).rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found


def _patterns(text: str) -> list[str]:
    return [name.strip() for line in _LIST.findall(text) for name in line.split(",")]


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
    rest = [name for name in known if not any(fnmatch(name, pattern) for pattern in elsewhere)]
    patterns = [pattern.strip() for pattern in names.split(",")]
    return [
        name
        for pattern in patterns
        for name in (rest if pattern == REST else [name for name in known if fnmatch(name, pattern)])
    ]


def list_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a section for each module in place of the lines that ask for them."""
    if not docname.startswith(REFERENCE):
        return
    pages = Path(app.srcdir, REFERENCE).glob("*.md")
    elsewhere = [name for page in pages for name in _patterns(page.read_text(encoding="utf-8")) if name != REST]

    def section(name: str) -> str:
        # What a package only passes on is explained where it comes from.
        members = "" if modules()[name].name == "__init__.py" else "   :members:\n"
        return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {PACKAGE}.{name}\n{members}```\n"

    def sections(match: re.Match[str]) -> str:
        return "\n".join(section(name) for name in chosen(match[1], elsewhere))

    source[0] = _LIST.sub(sections, source[0])


def _link(match: re.Match[str]) -> str:
    if match["bar"]:
        return r"\|"
    name = match[1]
    return f":py:obj:`{name}`" if re.fullmatch(rf"{PACKAGE}(\.\w+)+", name) else f"``{name}``"


def read_markdown(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn what docstrings take from Markdown, backticks and fences, into what Sphinx reads."""
    out: list[str] = []
    inside = None
    for line in lines:
        fence = _FENCE.match(line)
        if fence and inside is None:
            inside = fence[1]
            out += ["", f"{inside}.. code-block:: {fence[2] or 'text'}", ""]
        elif fence:
            inside = None
            out.append("")
        elif inside is not None:
            out.append(f"   {line}")
        else:
            out.append(_TICKS.sub(_link, line))
    lines[:] = out


def skip_borrowed(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what pydantic adds to settings, named tuples say of fields, and matplotlib adds to its artists."""
    added = ("model_config", "model_post_init", "model_fields", "model_computed_fields")
    theirs = str(getattr(obj, "__module__", "")).startswith("matplotlib.")
    return True if name in added or theirs or str(obj.__doc__).startswith("Alias for field number") else None


def look_up_exactly(app: Sphinx, doctree: nodes.document) -> None:
    """Keep Sphinx from guessing which of several classes of one name is meant; `follow_name` knows it."""
    for reference in doctree.findall(addnodes.pending_xref):
        reference.attributes.pop("refspecific", None)


def _attribute(found: Any, names: list[str]) -> Any:
    for name in names:
        found = getattr(found, name, None)
    return found


def _import(target: str) -> Any:
    """What a full name leads to, however many modules pass it on."""
    module, _, name = target.rpartition(".")
    try:
        return _attribute(import_module(module), [name])
    except ImportError:
        return None


def follow_name(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """Follow a name as the module does in which it stands; leave a name of somebody else's package as it is.

    A name of ours in full that leads nowhere stays unresolved, and so is a fault.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    own = target.startswith(f"{PACKAGE}.")
    found = _import(target) if own else _attribute(sys.modules.get(node.get("py:module")), target.split("."))
    name = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    entry = env.get_domain("py").objects.get(name)
    if entry is None:
        return None if own else content
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", list_modules)
    # Before Napoleon takes the sections apart.
    app.connect("autodoc-process-docstring", read_markdown, priority=400)
    app.connect("autodoc-skip-member", skip_borrowed)
    app.connect("doctree-read", look_up_exactly)
    app.connect("missing-reference", follow_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
