"""Notes that pages get by themselves: where a table or figure comes from, what a term means, where a chapter runs."""

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

STRIP = (
    "l3-strip"  # `l3muscle.summary.run_strip` and `l3muscle.archive.Archived.strip` open with where results come from
)
CHAPTERS = "book/executed/"


def _origin(strip: nodes.Element) -> str:
    return next((words.astext().lower() for words in strip.findall(nodes.emphasis)), "")


def label_origins(app: Sphinx, doctree: nodes.document) -> None:
    """Write behind each caption what the nearest strip above it says: measured in this run, or from the archive."""
    origin = ""
    for node in doctree.findall():
        if isinstance(node, nodes.container) and STRIP in node["classes"]:
            origin = _origin(node)
        elif (
            origin
            and isinstance(node, nodes.caption | nodes.title)
            and isinstance(node.parent, nodes.figure | nodes.table)
        ):
            node += nodes.Text(" ")
            node += nodes.inline("", origin, classes=["l3-origin"])


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give a link into the glossary the definition, which `l3muscle.js` shows under the pointer and the focus."""
    definitions = _definitions(app)
    for link in doctree.findall(nodes.reference):
        anchor = link.get("refid") or link.get("refuri", "").partition("#")[2]
        if anchor in definitions and isinstance(link.parent, nodes.TextElement):
            link["reftitle"] = definitions[anchor]
            link["classes"].append("l3-term")


def _definitions(app: Sphinx) -> dict[str, str]:
    if not hasattr(app.env, "l3_definitions"):
        glossary = app.env.get_doctree("book/glossary")
        app.env.l3_definitions = {
            anchor: " ".join(item.next_node(nodes.definition).astext().split())
            for listing in glossary.findall(addnodes.glossary)
            for item in listing.findall(nodes.definition_list_item)
            for term in item.findall(nodes.term)
            for anchor in term["ids"]
        }
    return app.env.l3_definitions


def launch_links(repository: str, page: str, root: str) -> list[dict[str, str]]:
    """Entries of the launch menu of a page.

    Parameters
    ----------
    repository : str
        Address of the project on GitHub; empty as long as it has none, which leaves the local way only.
    page : str
        Name of the page, without suffix.
    root : str
        Address of the page that explains the local way.
    """
    links = [{"type": "link", "text": "On your machine", "icon": "fas fa-laptop", "url": root, "tooltip": "Re-run it"}]
    notebook = page.removeprefix(CHAPTERS) + ".ipynb"
    name = repository.removeprefix("https://github.com/").strip("/")
    if name and page.startswith(CHAPTERS):
        binder = f"https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/notebooks/{notebook}"
        colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/notebooks/{notebook}"
        links.insert(0, {"type": "link", "text": "Colab", "icon": "fas fa-cloud", "url": colab, "tooltip": "Colab"})
        links.insert(0, {"type": "link", "text": "Binder", "icon": "fas fa-cube", "url": binder, "tooltip": "Binder"})
    return links


def add_launch_menu(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Offer on a chapter the ways to run it."""
    buttons = context.get("header_buttons")
    if buttons is None or not page.startswith(CHAPTERS):
        return
    links = launch_links(app.config.l3_repository, page, context["pathto"]("book/rerun"))
    buttons.insert(
        0,
        {
            "type": "group",
            "buttons": links,
            "icon": "fas fa-rocket",
            "tooltip": "Run this chapter",
            "label": "launch-buttons",
        },
    )


def unlist_references(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Docutils calls the references a list, of items that by their own role are none: it would be read as empty."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("l3_repository", "", "html")
    app.connect("doctree-read", label_origins)
    app.connect("doctree-resolved", explain_terms)
    app.connect("html-page-context", add_launch_menu, priority=950)
    app.connect("html-page-context", unlist_references)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
