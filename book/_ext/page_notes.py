"""What pages get by themselves: what a term means, where a chapter runs, what a run does not have."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

CHAPTERS = "book/executed/"
GLOSSARY = "book/glossary"
# Where a line must not break: between a number and its unit, and within "n = 10".
HELD_TOGETHER = re.compile(
    r"(?<=\d)[ \n](?=(?:%|°|mm|cm|HU|s|min|h|px|pixels|MB|GB|MiB|GiB)(?![\w-]))"
    r"|(?<=\bn)[ \n](?==[ \n]\d)|(?<=\bn[ \n]=)[ \n](?=\d)"
)


def hold_numbers_together(app: Sphinx, doctree: nodes.document) -> None:
    """Let no line of a paragraph break between a number and its unit."""
    for paragraph in doctree.findall(nodes.paragraph):
        # The entries of tables may break, or they would need more room.
        if isinstance(paragraph.parent, nodes.entry):
            continue
        for text in list(paragraph.findall(nodes.Text)):
            if not isinstance(text.parent, nodes.literal | nodes.math):
                text.parent.replace(text, nodes.Text(HELD_TOGETHER.sub("\N{NO-BREAK SPACE}", text)))


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give a link into the glossary the definition as its title, which shows under the pointer."""
    if not hasattr(app.env, "l3_definitions"):
        app.env.l3_definitions = {
            anchor: " ".join(item.next_node(nodes.definition).astext().split())
            for glossary in app.env.get_doctree(GLOSSARY).findall(addnodes.glossary)
            for item in glossary.findall(nodes.definition_list_item)
            for term in item.findall(nodes.term)
            for anchor in term["ids"]
        }
    for link in doctree.findall(nodes.reference):
        anchor = link.get("refid") or link.get("refuri", "").partition("#")[2]
        if anchor in app.env.l3_definitions and isinstance(link.parent, nodes.TextElement):
            link["reftitle"] = app.env.l3_definitions[anchor]
            link["classes"].append("l3-term")


@cache
def shown_by_chapters(source: str) -> re.Pattern[str]:
    """Names of the figures and tables that the notebooks of a project can show, whatever the run."""
    texts = [path.read_text(encoding="utf-8") for path in Path(source, "notebooks").glob("*.ipynb")]
    names = {name for text in texts for name in re.findall(r'\\"((?:fig|tab)-[\w{}-]+)\\"', text)}
    # The name of one of several stands there as a pattern, such as `fig-{task}-curve`.
    return re.compile("|".join(re.sub(r"{\w+}", r"\\w+", name) for name in sorted(names)))


def leave_out_what_was_not_run(
    app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element
) -> nodes.Element | None:
    """Name a figure or table that chapters show in other runs but not in this one, where prose refers to it."""
    missing = node.get("reftype") == "numref" and shown_by_chapters(str(app.srcdir)).fullmatch(node["reftarget"])
    return nodes.inline("", "(not in this run)") if missing else None


def add_launch_menu(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Offer on a chapter the ways to run it: here, and once the project has an address, on Binder and Colab."""
    if "header_buttons" not in context or not page.startswith(CHAPTERS):
        return
    notebook = page.removeprefix(CHAPTERS) + ".ipynb"
    name = app.config.l3_repository.removeprefix("https://github.com/").strip("/")
    ways = [("On your machine", "fas fa-laptop", context["pathto"]("book/rerun"))]
    if name:
        binder = f"https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/notebooks/{notebook}"
        colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/notebooks/{notebook}"
        ways = [("Binder", "fas fa-cube", binder), ("Colab", "fas fa-cloud", colab), *ways]
    links = [{"type": "link", "text": text, "icon": icon, "url": url, "tooltip": text} for text, icon, url in ways]
    menu = {"type": "group", "buttons": links, "icon": "fas fa-rocket", "label": "launch-buttons"}
    context["header_buttons"].insert(0, menu | {"tooltip": "Run this chapter"})


def unlist_references(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Docutils calls the references a list, of items that by their own role are none: it would be read as empty."""
    if "body" in context:
        context["body"] = context["body"].replace('<div role="list" class="citation-list">', "<div>")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("l3_repository", "", "html")
    app.connect("doctree-read", hold_numbers_together)
    app.connect("doctree-resolved", explain_terms)
    app.connect("missing-reference", leave_out_what_was_not_run)
    app.connect("html-page-context", add_launch_menu, priority=950)
    app.connect("html-page-context", unlist_references)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
