"""Figures in both themes and both widths: an SVG gets a dark copy beside it, and its points tell their values."""

import os
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from l3muscle.book.theme import Point, dark_svg, hover_points, is_themed, slim_svg
from l3muscle.figures import TASK_STYLE

VIEWER = "book/executed/viewer"
NARROW = Path("book", "executed", "narrow")  # `l3muscle.book.notebooks` puts the drawings for narrow screens here


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _overlay(view: str, points: list[Point], viewer: str) -> nodes.raw:
    """The points as one group that a keyboard reaches; `l3muscle.js` adds the arrow keys and the tooltip.

    Where every point is a cell of source task and size, each also leads to its outlines in the `viewer`.
    """
    keys, leads, role = "Values of the points; the arrow keys go from one to the next", "", "img"
    if viewer and all(point.series in TASK_STYLE and point.step.isdigit() for point in points):
        keys, leads, role = f"{keys}, Enter shows the outlines", f' data-viewer="{viewer}"', "link"
    circles = "".join(
        f'<circle cx="{point.x:g}" cy="{point.y:g}" r="9" role="{role}" tabindex="{0 if first else -1}" '
        f'data-series="{escape(point.series)}" data-step="{escape(point.step)}" aria-label="{escape(point.text)}">'
        f"<title>{escape(point.text)}</title></circle>"
        for point, first in zip(points, [True] + [False] * len(points), strict=False)
    )
    html = f'<svg class="l3-points" viewBox="{view}" role="group" aria-label="{keys}"{leads}>{circles}</svg>'
    return nodes.raw("", html, format="html")


def _pair(app: Sphinx, image: nodes.image, source: Path, svg: str) -> nodes.container:
    """The drawing and its dark copy, one of which is shown, under its points."""
    dark = source.with_suffix(".dark.svg")
    _write(source, slim_svg(svg))
    _write(dark, dark_svg(slim_svg(svg)))
    light_copy, dark_copy = image.copy(), image.copy()
    for copy, path, shown in ((light_copy, source, "only-light"), (dark_copy, dark, "only-dark")):
        copy["uri"] = "/" + os.path.relpath(path, app.srcdir).replace(os.sep, "/")
        copy["ids"], copy["names"] = [], []
        copy["classes"] = [*image["classes"], shown]
        # Only the one that is shown is fetched.
        copy["loading"] = "lazy"
    # Apart from the caption: the theme hides what follows a hidden picture.
    pair = nodes.container(classes=["l3-pair"])
    pair += [light_copy, dark_copy]
    view, points = hover_points(svg)
    if points:
        here = VIEWER in app.env.found_docs
        pair += _overlay(view, points, app.builder.get_relative_uri(app.env.docname, VIEWER) if here else "")
    return pair


def _narrow_drawing(app: Sphinx, image: nodes.image, source: Path) -> Path | None:
    """The drawing that takes a picture's place on narrow screens, if it has one.

    It is `<file>.narrow.svg` beside the picture, or, of a notebook's figure, `<name of the figure>.svg` in `NARROW`.
    """
    around = image.parent
    # What a notebook's cell shows lies in a bundle, of which the right kind is chosen later.
    while around is not None and not isinstance(around, nodes.figure):
        around = around.parent
    names = around["names"] if around is not None else []
    places = [source.with_suffix(".narrow.svg"), *(Path(app.srcdir, NARROW, f"{name}.svg") for name in names)]
    return next((place for place in places if place.is_file()), None)


def pair_themes(app: Sphinx, doctree: nodes.document) -> None:
    """Put a dark copy beside every figure that was drawn in the book's style; leave other pictures as they are.

    Where there is a drawing for narrow screens, both stand on the page and the screen's width decides.
    """
    for image in list(doctree.findall(nodes.image)):
        uri = image["uri"]
        if "://" in uri or uri.startswith("data:"):
            continue
        source = Path(app.env.relfn2path(uri, app.env.docname)[1])
        svg = source.read_text(encoding="utf-8") if source.suffix == ".svg" and source.is_file() else ""
        if not is_themed(svg):
            # Without the class the theme lays white under a picture on a dark page, and dims it.
            image["classes"].append("dark-light")
            continue
        pairs = [_pair(app, image, source, svg)]
        narrow = _narrow_drawing(app, image, source)
        if narrow is not None:
            pairs[0]["classes"].append("l3-wide")
            pairs.append(_pair(app, image, narrow, narrow.read_text(encoding="utf-8")))
            pairs[1]["classes"].append("l3-narrow")
        image.parent.replace(image, pairs)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    # Before Sphinx collects the pictures that it has to copy.
    app.connect("doctree-read", pair_themes, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
