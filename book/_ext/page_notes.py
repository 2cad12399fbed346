"""What pages get by themselves: where a table or figure comes from, what a term means, where a chapter runs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# How `l3muscle.book.summary.run_strip` and `l3muscle.book.archive.Archived.strip` begin: where results come from.
STRIP = "l3-strip"
NOTHING = "not part of this run"
DRAWN_HERE = "l3-drawn-here"
IN_PRINT = "l3-in-print"
CHAPTERS = "book/executed/"
GLOSSARY = "book/glossary"
# Not prose.
WITHOUT_TERMS = ("book/api/", "book/references", "book/licence")
# Terms that mean nothing else wherever they stand; the others are linked by hand.
UNMISTAKABLE = re.compile(
    r"\b(?:Dice|DSC|RMS-DTA|[Dd]istance-to-agreement|Dunnett's tests?|FCN-ResNet101|HU|L3|[Pp]hantoms?|"
    r"[Pp]rocedural|[Ss]arcopenia|[Ss]ource tasks?|[Tt]arget task|[Tt]ransfer learning|SMA|SMD|"
    r"[Mm]uscle area|[Mm]uscle density)\b(?!-)"
)
# Where a line must not break: between a number and its unit, and within "n = 10".
HELD_TOGETHER = re.compile(
    r"(?<=\d)[ \n](?=(?:%|°|mm|cm|HU|s|min|h|px|pixels|MB|GB|MiB|GiB)(?![\w-]))"
    r"|(?<=\bn)[ \n](?==[ \n]\d)|(?<=\bn[ \n]=)[ \n](?=\d)"
)
AS_WRITTEN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)


def _origin(strip: nodes.Element) -> str:
    words = next((words.astext() for words in strip.findall(nodes.emphasis)), "")
    return words[:1].lower() + words[1:]


def _is_empty(app: Sphinx, figure: nodes.figure) -> bool:
    """Whether a figure is the panel that `l3muscle.figures.not_run` draws where this run has nothing to show."""
    for image in figure.findall(nodes.image):
        source = Path(app.srcdir, image["uri"].lstrip("/"))
        if source.suffix == ".svg" and source.is_file():
            # Matplotlib notes in a comment what it draws as outlines of letters.
            return NOTHING in source.read_text(encoding="utf-8")
    return False


def _is_drawn_here(figure: nodes.Node) -> bool:
    return any(DRAWN_HERE in image["classes"] for image in figure.findall(nodes.image))


def label_origins(app: Sphinx, doctree: nodes.document) -> None:
    """Write behind each caption what the nearest strip above it says: measured in this run, or from the archive.

    Where a figure says that this run has none, so does its label. Below the strip of an archived result, a picture of
    the class `l3-drawn-here` is of this run all the same; a table of the class `l3-in-print` is the paper's.
    """
    origin = ""
    for node in doctree.findall():
        if isinstance(node, nodes.container) and STRIP in node["classes"]:
            origin = _origin(node)
        elif (
            origin
            and isinstance(node, nodes.caption | nodes.title)
            and isinstance(node.parent, nodes.figure | nodes.table)
        ):
            label = origin
            if isinstance(node.parent, nodes.figure) and _is_empty(app, node.parent):
                label = "not run"
            elif _is_drawn_here(node.parent):
                label = "measured in this run"
            elif IN_PRINT in node.parent["classes"]:
                label = "from the paper"
            node += nodes.Text(" ")
            node += nodes.inline("", label, classes=["l3-origin"])


def hold_numbers_together(app: Sphinx, doctree: nodes.document) -> None:
    """Let no line break between a number and its unit.

    What is code or mathematics stays as it is written, and the cells of tables may break, or they would need more room.
    """
    for text in list(doctree.findall(nodes.Text)):
        held = HELD_TOGETHER.sub("\N{NO-BREAK SPACE}", text)
        if held != text and not isinstance(text.parent, AS_WRITTEN) and not _has_parent(text, nodes.entry):
            text.parent.replace(text, nodes.Text(held))


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give a link into the glossary the definition, which `l3muscle.js` shows under the pointer and the focus.

    Where a page uses a term that means nothing else and does not link it, its first mention becomes such a link.
    """
    definitions = _definitions(app)
    linked = set()
    for link in doctree.findall(nodes.reference):
        anchor = link.get("refid") or link.get("refuri", "").partition("#")[2]
        if anchor in definitions and isinstance(link.parent, nodes.TextElement):
            link["reftitle"] = definitions[anchor]
            link["classes"].append("l3-term")
            linked.add(definitions[anchor])
    if docname == GLOSSARY or docname.startswith(WITHOUT_TERMS):
        return
    page = app.builder.get_relative_uri(docname, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        if isinstance(text.parent, nodes.paragraph) and not _has_parent(text, nodes.table):
            text.parent.replace(text, _explained(text.astext(), definitions, linked, page))


def _has_parent(node: nodes.Node, kind: type[nodes.Node]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kind):
            return True
    return False


def _explained(text: str, definitions: dict[str, str], linked: set[str], page: str) -> list[nodes.Node]:
    """The text with the first mention of each term as a link; `linked` holds the definitions that the page has."""
    out: list[nodes.Node] = []
    end = 0
    for match in UNMISTAKABLE.finditer(text):
        anchor = next((name for name in _anchors(match[0]) if name in definitions), None)
        if anchor is None or definitions[anchor] in linked:
            continue
        linked.add(definitions[anchor])
        link = nodes.reference(
            "", "", nodes.inline("", match[0]), internal=True, refuri=f"{page}#{anchor}", classes=["l3-term"]
        )
        link["reftitle"] = definitions[anchor]
        out += [nodes.Text(text[end : match.start()]), link]
        end = match.end()
    return [*out, nodes.Text(text[end:])]


def _anchors(mention: str) -> Iterator[str]:
    """Anchors in the glossary that a mention may have: as it stands, in small letters, in the singular."""
    for name in (mention, mention.lower()):
        for form in (name, name.removesuffix("s")):
            yield f"term-{nodes.make_id(form)}"
            yield f"term-{form.replace(' ', '-')}"


def _definitions(app: Sphinx) -> dict[str, str]:
    if not hasattr(app.env, "l3_definitions"):
        glossary = app.env.get_doctree(GLOSSARY)
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
    app.connect("doctree-read", hold_numbers_together)
    app.connect("doctree-resolved", explain_terms)
    app.connect("html-page-context", add_launch_menu, priority=950)
    app.connect("html-page-context", unlist_references)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
