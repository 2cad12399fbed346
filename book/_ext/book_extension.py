"""What Jupyter Book leaves open: drawings that follow the theme, MathJax without a CDN, settings in prose, footers."""

import base64
import hashlib
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

from l3muscle.figures.style import EMBEDDED_PICTURE
from l3muscle.profile import load_profile

EXECUTED = Path("book", "executed")
PROFILES = ("full", "laptop", "paper")  # whose settings pages may name, as in {{ paper.training.batch_size }}
# The package ships every ready-made bundle and speech in a dozen languages, 24 MB; the pages ask for this much.
BUNDLE, LANGUAGES = "tex-chtml.js", ("base.json", "en.json")


class PaperOrder(Style):
    """Bibliography style: the paper's references by their number in the paper, then the others as they come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The base class sets its own order here, on the instance.
        self.sort = lambda entries: sorted(entries, key=lambda entry: int(entry.fields.get("papernumber", 10_000)))


def inline_drawings(app: Sphinx, doctree: nodes.document) -> None:
    """Put the text of a drawing (`l3muscle.figures.svg_text`) into the page, where it follows the theme's colours.

    The pictures inside it become files, which are fetched when they are looked at.
    """
    for image in list(doctree.findall(nodes.image)):
        source = Path(app.env.relfn2path(image["uri"], app.env.docname)[1]) if "://" not in image["uri"] else Path()
        svg = source.read_text(encoding="utf-8") if source.suffix == ".svg" else ""
        if 'class="l3-drawing"' not in svg:
            # Without the class the theme lays white under a picture on a dark page, and dims it.
            image["classes"].append("dark-light")
            continue
        folder = Path(app.outdir, "_images")
        folder.mkdir(parents=True, exist_ok=True)
        up = "../" * app.env.docname.count("/")

        def as_file(match: re.Match[str], folder: Path = folder, up: str = up) -> str:
            content = base64.b64decode(match[1])
            name = f"{hashlib.sha256(content).hexdigest()[:16]}.png"
            (folder / name).write_bytes(content)
            return f'"{up}_images/{name}" loading="lazy"'

        # A phone scrolls it sideways, and so must a keyboard.
        raw = nodes.raw(
            "", f'<div class="l3-figure" tabindex="0">{EMBEDDED_PICTURE.sub(as_file, svg)}</div>', format="html"
        )
        image.parent.replace(image, raw)


def copy_files(app: Sphinx, exception: Exception | None) -> None:
    """Put MathJax and the viewer's data beside the pages, and offer chapters' notebooks as they are written."""
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
    if Path(app.srcdir, EXECUTED, "viewer").is_dir():
        shutil.copytree(Path(app.srcdir, EXECUTED, "viewer"), Path(app.outdir, "_static", "viewer"), dirs_exist_ok=True)
    for path in Path(app.outdir, "_sources", EXECUTED).rglob("*.ipynb"):
        # What an executed notebook shows is on the page, and weighs megabytes. An experiment keeps its parameters.
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    for path in Path(app.outdir, "_static").rglob("*.map"):
        path.unlink()  # for those who debug the theme


def offer_settings(app: Sphinx, config: Config) -> None:
    """Let prose name the settings of the profiles, so that no page can tell others than those that are run."""
    substitutions = {name: load_profile(name).model_dump(mode="json") for name in PROFILES}
    config.myst_substitutions = {**config.myst_substitutions, **substitutions}


def finish_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say at the foot whose images the numbers come from, and leave out the scripts that a page has no use for.

    Thebe, which runs cells on a public server, is not offered here. Sphinx gives MathJax, a megabyte, to every page
    above one that has mathematics.
    """
    about = Path(app.srcdir, EXECUTED, "run.json")  # `l3muscle.book.front_page.write_front_page` writes it
    phantom = json.loads(about.read_text(encoding="utf-8"))["phantom"] if about.is_file() else True
    whose = "The images are of a phantom, not of patients." if phantom else "The images are a cohort of its owner's."
    context["theme_extra_footer"] = f'<p class="l3-footer">{whose} Not a medical device.</p>'
    found = list(doctree.findall(nodes.Node)) if doctree is not None else []
    unused = ["thebe"]
    if not any(isinstance(node, nodes.math | nodes.math_block) for node in found):
        unused.append("mathjax")
    raw = "".join(node.astext() for node in found if isinstance(node, nodes.raw))
    unused += [f"{name}.js" for name in ("viewer", "explorer") if f'id="l3-{name}"' not in raw]
    context["script_files"] = [
        script
        for script in context["script_files"]
        if not any(name in f"{script.filename or ''} {script.attributes.get('body', '')}".lower() for name in unused)
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    register_plugin("pybtex.style.formatting", "paper_order", PaperOrder)
    app.connect("config-inited", offer_settings)
    # Before Sphinx collects the pictures that it has to copy.
    app.connect("doctree-read", inline_drawings, priority=100)
    app.connect("html-page-context", finish_page, priority=900)
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
