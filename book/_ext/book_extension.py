"""Two things that Jupyter Book leaves open: MathJax without a CDN, and the paper's references under its numbers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

# The package ships every ready-made bundle and speech in a dozen languages, 24 MB; the pages ask for this much.
BUNDLE = "tex-chtml.js"
LANGUAGES = ("base.json", "en.json")


class PaperOrder(Style):
    """The paper's references by their number in the paper, then the others as they come."""

    def sort(self, entries: list[Any]) -> list[Any]:
        """Sort by the field `papernumber`; entries without one keep their order, after the others."""
        return sorted(entries, key=lambda entry: int(entry.fields.get("papernumber", len(entries) + 1)))


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Put MathJax beside the pages."""
    if exception is not None or app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    source = Path(spec.submodule_search_locations[0], "static", "mathjax")

    def unwanted(path: str) -> bool:
        parts = Path(path).parts
        if len(parts) == 1 and parts[0].endswith(".js"):
            return parts[0] != BUNDLE
        return parts[-2:-1] == ("mathmaps",) and parts[-1] not in LANGUAGES

    copy_asset(source, Path(app.outdir, "_static", "mathjax"), excluded=unwanted)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    register_plugin("pybtex.style.formatting", "paper_order", PaperOrder)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
