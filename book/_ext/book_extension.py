"""What Jupyter Book leaves open: MathJax without a CDN, no script without a use, numbers that come from a profile."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

from l3muscle.profile import load_profile

RUN_FILE = Path("book", "executed", "run.json")  # `l3muscle.book.summary.write_summary` writes it
PROFILES = ("laptop", "paper")  # whose settings pages may name, as in {{ paper.training.batch_size }}
# The package ships every ready-made bundle and speech in a dozen languages, 24 MB; the pages ask for this much.
BUNDLE = "tex-chtml.js"
LANGUAGES = ("base.json", "en.json")


class PaperOrder(Style):
    """Bibliography style: the paper's references by their number in the paper, then the others as they come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The base class sets its own order here, on the instance.
        self.sort = self._by_paper_number

    @staticmethod
    def _by_paper_number(entries: Any) -> list[Any]:
        entries = list(entries)
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


def copy_viewer(app: Sphinx, exception: Exception | None) -> None:
    """Put the slice viewer's data beside its script."""
    source = Path(app.srcdir, "book", "executed", "viewer")
    if exception is not None or app.builder.format != "html" or not source.is_dir():
        return
    place = Path(app.outdir, "_static", "viewer")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)


def offer_templates(app: Sphinx, exception: Exception | None) -> None:
    """Offer a chapter's notebook for download as it is written: what it shows is on the page, and weighs megabytes."""
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir, "_sources", "book", "executed").glob("*.ipynb"):
        template = Path(app.srcdir, "notebooks", path.name)
        if template.is_file():
            shutil.copyfile(template, path)


def offer_settings(app: Sphinx, config: Config) -> None:
    """Let prose name the settings of the profiles, so that no page can tell others than those that are run."""
    substitutions = {name: load_profile(name).model_dump(mode="json") for name in PROFILES}
    config.myst_substitutions = {**config.myst_substitutions, **substitutions}


def say_whose_images(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Say at the foot of every page whose images the numbers come from."""
    try:
        phantom = json.loads(Path(app.srcdir, RUN_FILE).read_text(encoding="utf-8"))["phantom"]
    except (OSError, ValueError, KeyError):
        phantom = True
    whose = "The images are of a phantom, not of patients." if phantom else "The images are a cohort of its owner's."
    context["theme_extra_footer"] = f'<p class="l3-footer">{whose} Not a medical device.</p>'


def trim_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Leave out of a page the scripts that it has no use for.

    Thebe, which runs cells on a public server, is not offered here, and its set-up, given twice, is an error in the
    browser. Sphinx gives MathJax, a megabyte, to every page above one that has mathematics.
    """
    has_math = doctree is not None and any(
        True for kind in (nodes.math, nodes.math_block) for _ in doctree.findall(kind)
    )

    has_viewer = doctree is not None and any('id="l3-viewer"' in raw.astext() for raw in doctree.findall(nodes.raw))

    def useful(script: Any) -> bool:
        text = f"{script.filename or ''} {script.attributes.get('body', '')}".lower()
        wanted = (has_math or "mathjax" not in text) and (has_viewer or "viewer.js" not in text)
        return "thebe" not in text and wanted

    context["script_files"] = [script for script in context["script_files"] if useful(script)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    register_plugin("pybtex.style.formatting", "paper_order", PaperOrder)
    app.connect("config-inited", offer_settings)
    app.connect("html-page-context", say_whose_images)
    app.connect("html-page-context", trim_scripts, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", copy_viewer)
    app.connect("build-finished", offer_templates)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
