"""What the book's extensions add to pages: drawings, terms, references, the launch menu, the API reference."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from docutils import nodes
from docutils.utils import new_document

from l3muscle.figures import contact_sheet, svg_text
from l3muscle.figures.style import BookFigure

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "book" / "_ext"))

import code_reference  # noqa: E402
from book_extension import inline_drawings  # noqa: E402
from page_notes import add_launch_menu, hold_numbers_together, leave_out_what_was_not_run  # noqa: E402


def test_a_drawing_goes_into_the_page_and_its_pictures_become_files(tmp_path):
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    sheet = contact_sheet([100.0 * mask] * 2, [{"expert": mask}] * 2, window=(400, 50))
    (tmp_path / "a.svg").write_text(svg_text(sheet, "fig-a", "Two slices"), encoding="utf-8")
    (tmp_path / "b.svg").write_text("<svg/>")
    env = SimpleNamespace(relfn2path=lambda uri, docname: (uri, str(tmp_path / uri)), docname="book/executed/page")
    document = new_document("page")
    document += [nodes.image(uri="a.svg"), nodes.image(uri="b.svg")]
    inline_drawings(SimpleNamespace(env=env, outdir=tmp_path / "out"), document)
    [drawn] = document.findall(nodes.raw)
    [other] = document.findall(nodes.image)
    assert 'aria-label="Two slices"' in drawn.astext() and "data:image" not in drawn.astext()
    pictures = [path.name for path in (tmp_path / "out" / "_images").iterdir()]
    assert pictures and all(f'"../../_images/{picture}" loading="lazy"' in drawn.astext() for picture in pictures)
    assert other["uri"] == "b.svg"


def test_a_figure_without_pictures_makes_no_file(tmp_path):
    (tmp_path / "a.svg").write_text(svg_text(BookFigure()), encoding="utf-8")
    env = SimpleNamespace(relfn2path=lambda uri, docname: (uri, str(tmp_path / uri)), docname="index")
    document = new_document("page")
    document += nodes.image(uri="a.svg")
    inline_drawings(SimpleNamespace(env=env, outdir=tmp_path / "out"), document)
    assert list(document.findall(nodes.raw)) and not list((tmp_path / "out" / "_images").iterdir())


def menu(repository: str, page: str) -> list[dict[str, str]]:
    context = {"header_buttons": [], "pathto": lambda name: f"../{name}.html"}
    app = SimpleNamespace(config=SimpleNamespace(l3_repository=repository))
    add_launch_menu(app, page, "page.html", context, None)
    return [link for group in context["header_buttons"] for link in group["buttons"]]


def test_a_chapter_offers_the_ways_to_run_it():
    [local] = menu("", "book/executed/viewer")
    assert local["url"] == "../book/rerun.html"
    binder, colab, local = menu("https://github.com/someone/l3/", "book/executed/viewer")
    assert binder["url"] == "https://mybinder.org/v2/gh/someone/l3/HEAD?urlpath=lab/tree/notebooks/viewer.ipynb"
    assert colab["url"] == "https://colab.research.google.com/github/someone/l3/blob/HEAD/notebooks/viewer.ipynb"
    assert menu("https://github.com/someone/l3", "book/method") == []


def test_a_reference_to_what_was_not_run_says_so_and_any_other_stays_a_fault():
    def resolved(kind: str, target: str):
        node = nodes.Element(reftype=kind, reftarget=target)
        return leave_out_what_was_not_run(SimpleNamespace(srcdir=TOP), None, node, nodes.Text(""))

    for name in ("fig-jigsaw-curve", "tab-pairs-125", "tab-dice"):
        assert resolved("numref", name).astext() == "(not in this run)"
    for name in ("tab-dise", "fig-jigsaw-curves", "other"):
        assert resolved("numref", name) is None
    assert resolved("doc", "fig-jigsaw-curve") is None


def test_a_line_does_not_break_between_a_number_and_its_unit():
    document = new_document("page")
    words = "95 % of 12\nmm at n = 10, n =\n125; 3 slices, 5 minutes, 10 s-curves"
    document += nodes.paragraph("", "", nodes.Text(words), nodes.literal("", "5 mm"))
    document += nodes.entry("", nodes.paragraph("", "6 mm"))
    hold_numbers_together(SimpleNamespace(), document)
    plain = "95~% of 12~mm at n~=~10, n~=~125; 3 slices, 5 minutes, 10 s-curves".replace("~", "\N{NO-BREAK SPACE}")
    assert document.astext() == f"{plain}5 mm\n\n6 mm"


def test_every_module_is_on_one_page_of_the_reference():
    texts = [page.read_text(encoding="utf-8") for page in (TOP / "book" / "api").glob("*.md")]
    lines = [line for text in texts for line in code_reference._LIST.findall(text)]
    elsewhere = [name.strip() for line in lines for name in line.split(",")]
    listed = [name for line in lines for name in code_reference.chosen(line, elsewhere)]
    assert sorted(listed) == sorted(code_reference.modules())


def test_backticks_are_code_and_bars_are_bars():
    text = ["`None` is 2 |A and B|, ``x``"]
    code_reference.read_markdown(None, "function", "name", None, None, text)
    assert text == [r"``None`` is 2 \|A and B\|, ``x``"]
