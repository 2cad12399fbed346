"""A figure stands on its page in both themes and, where it has a drawing for them, for narrow screens."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

from l3muscle.book.theme import DARK_PAPER
from l3muscle.figures import not_run, svg_text

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

from themed_figures import NARROW, pair_themes  # noqa: E402


@pytest.fixture
def page(tmp_path: Path) -> tuple[SimpleNamespace, nodes.document]:
    """A Sphinx with just what is asked of it, and a page with one figure."""
    svg = svg_text(not_run("jigsaw"))
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "one.svg").write_text(svg, encoding="utf-8")
    (tmp_path / NARROW).mkdir(parents=True)
    env = SimpleNamespace(
        docname="book/page", found_docs=set(), relfn2path=lambda uri, name: (uri, str(tmp_path / uri.lstrip("/")))
    )
    document = new_document("page")
    bundle = nodes.container("", nodes.image(uri="/drawn/one.svg", alt="An empty panel."))
    document += nodes.figure("", bundle, names=["fig-one"])
    return SimpleNamespace(srcdir=tmp_path, env=env), document


def shown(document: nodes.document) -> list[tuple[list[str], str]]:
    return [(image.parent["classes"], image["uri"]) for image in document.findall(nodes.image)]


def test_a_figure_gets_a_dark_copy(page) -> None:
    app, document = page
    pair_themes(app, document)
    assert shown(document) == [(["l3-pair"], "/drawn/one.svg"), (["l3-pair"], "/drawn/one.dark.svg")]
    assert DARK_PAPER in (app.srcdir / "drawn" / "one.dark.svg").read_text(encoding="utf-8")
    assert all(image["alt"] == "An empty panel." for image in document.findall(nodes.image))


@pytest.mark.parametrize("place", ["drawn/one.narrow.svg", NARROW / "fig-one.svg"], ids=["beside it", "by its name"])
def test_a_figure_gets_the_drawing_that_is_made_for_narrow_screens(page, place) -> None:
    app, document = page
    (app.srcdir / place).write_text(svg_text(not_run("jigsaw")), encoding="utf-8")
    pair_themes(app, document)
    wide, narrow = ["l3-pair", "l3-wide"], ["l3-pair", "l3-narrow"]
    assert [classes for classes, _ in shown(document)] == [wide, wide, narrow, narrow]
    light, dark = (uri for _, uri in shown(document)[2:])
    assert light == f"/{Path(place).as_posix()}" and dark == light.removesuffix(".svg") + ".dark.svg"
    assert (app.srcdir / dark.lstrip("/")).is_file()


def test_the_drawing_of_another_figure_is_not_taken(page) -> None:
    app, document = page
    (app.srcdir / NARROW / "fig-two.svg").write_text(svg_text(not_run("jigsaw")), encoding="utf-8")
    pair_themes(app, document)
    assert len(shown(document)) == 2
