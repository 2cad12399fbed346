"""Launch menu, labels of origin and terms: each leads where it says, and says what is so."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

from docutils import nodes
from docutils.utils import new_document

from l3muscle.figures import not_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

from page_notes import (
    NOTHING,
    STRIP,
    _explained,
    hold_numbers_together,
    label_origins,
    launch_links,
)  # noqa: E402


def test_without_an_address_only_the_local_way_is_offered() -> None:
    [local] = launch_links("", "book/executed/viewer", "../rerun.html")
    assert local["url"] == "../rerun.html"


def test_with_an_address_the_chapter_itself_is_opened() -> None:
    binder, colab, local = launch_links("https://github.com/someone/l3/", "book/executed/viewer", "../rerun.html")
    assert binder["url"] == "https://mybinder.org/v2/gh/someone/l3/HEAD?urlpath=lab/tree/notebooks/viewer.ipynb"
    assert colab["url"] == "https://colab.research.google.com/github/someone/l3/blob/HEAD/notebooks/viewer.ipynb"
    assert local["text"] == "On your machine"


def test_a_page_without_a_notebook_opens_none() -> None:
    assert len(launch_links("https://github.com/someone/l3", "book/method", "rerun.html")) == 1


def test_a_figure_without_results_is_labelled_so(tmp_path: Path) -> None:
    document = new_document("page")
    app = SimpleNamespace(srcdir=tmp_path)
    strip = nodes.container("", nodes.paragraph("", "", nodes.emphasis("", "Measured in this run")), classes=[STRIP])
    document += strip
    for name, content in (("drawn", "<svg/>"), ("empty", "<svg><!-- jigsaw: not part of this run --></svg>")):
        (tmp_path / f"{name}.svg").write_text(content)
        document += nodes.figure("", nodes.image(uri=f"{name}.svg"), nodes.caption("", name))
    table = nodes.table("", nodes.title("", "numbers"))
    document += table
    document += nodes.table("", nodes.title("", "the paper's own"), classes=["l3-prose", "l3-in-print"])
    label_origins(app, document)
    labels = [node.astext() for node in document.findall(nodes.inline)]
    assert labels == ["measured in this run", "not run", "measured in this run", "from the paper"]


def test_a_picture_drawn_here_is_not_from_the_archive(tmp_path: Path) -> None:
    document = new_document("page")
    words = nodes.emphasis("", "From the archive: carry-over, 2026-01-31")
    document += nodes.container("", nodes.paragraph("", "", words), classes=[STRIP])
    document += nodes.figure("", nodes.image(uri="a.png", classes=["l3-drawn-here"]), nodes.caption("", "drawn"))
    document += nodes.figure("", nodes.image(uri="b.png"), nodes.caption("", "kept"))
    label_origins(SimpleNamespace(srcdir=tmp_path), document)
    labels = [node.astext() for node in document.findall(nodes.inline)]
    assert labels == ["measured in this run", "from the archive: carry-over, 2026-01-31"]


def test_the_panel_of_what_was_not_run_is_known_by_its_words() -> None:
    stream = io.StringIO()
    not_run("jigsaw").savefig(stream, format="svg")
    assert NOTHING in stream.getvalue()


def test_the_first_mention_of_a_term_is_explained_once() -> None:
    definitions = {"term-Dice": "Overlap.", "term-source-task": "Learned before.", "term-phantom": "Drawn."}
    linked = {"Drawn."}
    text = "Dice of source tasks on phantoms; a Dice again, and a phantom-like body."
    out = _explained(text, definitions, linked, "glossary.html")
    links = [node for node in out if isinstance(node, nodes.reference)]
    assert [(link.astext(), link["refuri"]) for link in links] == [
        ("Dice", "glossary.html#term-Dice"),
        ("source tasks", "glossary.html#term-source-task"),
    ]
    assert [link["reftitle"] for link in links] == ["Overlap.", "Learned before."]
    assert "".join(node.astext() for node in out) == text


def test_a_line_does_not_break_between_a_number_and_its_unit() -> None:
    document = new_document("page")
    words = "95 % of 12\nmm at n = 10, n =\n125; 3 slices, 5 minutes, 10 s-curves"
    document += nodes.paragraph("", "", nodes.Text(words), nodes.literal("", "5 mm"))
    document += nodes.entry("", nodes.paragraph("", "6 mm"))
    hold_numbers_together(SimpleNamespace(), document)
    plain = "95~% of 12~mm at n~=~10, n~=~125; 3 slices, 5 minutes, 10 s-curves".replace("~", "\N{NO-BREAK SPACE}")
    assert document.astext() == f"{plain}5 mm\n\n6 mm"
