"""Figures on a dark page: the light figure's colours, and what each becomes.

Figures are drawn once, on a light ground (`l3muscle.figures`). A dark copy is the same drawing with its named colours
exchanged, so that the two cannot come to say different things. Pixels, such as those of a CT slice, stay as they are.
"""

import re
from dataclasses import dataclass

DARK_PAPER = "#1b1e24"
DARK_INK = "#e4e6ea"
# Colours that are not named here, the bright ones among them, serve on both grounds.
DARK = {
    "#fdfcf9": DARK_PAPER,
    "#23272e": DARK_INK,
    "#000000": DARK_INK,
    "#6b717b": "#9aa1ac",
    "#8a8f98": "#9aa1ac",
    "#e6e3dc": "#343840",
    "#efece4": "#2b2f36",
    "#5b6068": "#aab1bc",
    "#3a3f47": "#c9ced6",
    "#0072b2": "#4fa8e0",
}
HOVER = "hover:"
_COLOUR = re.compile("|".join(DARK), re.IGNORECASE)
_ROOT = re.compile(r"<svg\b[^>]*>")
_POINT = re.compile(rf'<g id="{HOVER}([^"]*)">(.*?)</g>', re.DOTALL)
_PLACE = re.compile(r'<use\b[^>]*?\bx="([-\d.]+)"\s+y="([-\d.]+)"')
_PATH = re.compile(r'\bd="[^"]*"')
_LONG = re.compile(r"(\.\d\d)\d+")
_VIEW = re.compile(r'viewBox="([-\d. ]+)"')


def slim_svg(svg: str) -> str:
    """The same drawing with the places along its lines to a hundredth of a point: outlines of masks halve in size."""
    return _PATH.sub(lambda path: _LONG.sub(r"\1", path.group()), svg)


def is_themed(svg: str) -> bool:
    """Whether an SVG was drawn in the book's light style, and so has a dark copy."""
    return "#fdfcf9" in svg


def dark_svg(svg: str) -> str:
    """The same drawing for a dark page.

    Parameters
    ----------
    svg : str
        As matplotlib writes it.

    Returns
    -------
    str
    """
    # Matplotlib leaves black unsaid where it is SVG's own default.
    root = _ROOT.search(svg)
    if root is not None and " fill=" not in root.group():
        svg = svg[: root.end() - 1] + f' fill="{DARK_INK}"' + svg[root.end() - 1 :]
    return _COLOUR.sub(lambda match: DARK[match.group().lower()], svg)


def jupyter_svg(svg: str) -> str:
    """The same drawing as HTML for Jupyter, in the colours of its theme and changing with it.

    Parameters
    ----------
    svg : str
        As matplotlib writes it.

    Returns
    -------
    str
        The SVG, with a name for each colour, and the style sheet that says what they are in either theme.
    """

    def name(colour: str) -> str:
        return f"--l3-{colour.lower().removeprefix('#')}"

    light = ";".join(f"{name(colour)}:{colour}" for colour in DARK)
    dark = ";".join(f"{name(colour)}:{other}" for colour, other in DARK.items())
    rules = (
        f".l3-figure{{{light};display:inline-block;vertical-align:top;padding:6px;background:var({name('#fdfcf9')})}}"
        f"[data-jp-theme-light=false] .l3-figure{{{dark}}}.l3-figure svg{{display:block;max-width:100%;height:auto}}"
    )
    root = _ROOT.search(svg)
    if root is not None:
        # What comes before is for files; black goes without saying.
        svg = f'{root.group()[:-1]} style="fill:var({name("#000000")})">{svg[root.end() :]}'
    svg = _COLOUR.sub(lambda match: f"var({name(match.group())})", svg)
    return f'<div class="l3-figure"><style>{rules}</style>{svg}</div>'


@dataclass(frozen=True)
class Point:
    """A point of a figure that tells its value.

    Attributes
    ----------
    x, y : float
        Place, in units of the SVG.
    series, step : str
        Which line it lies on, and where along it.
    text : str
        What it tells.
    """

    x: float
    y: float
    series: str
    step: str
    text: str


def hover_id(series: str, step: str, text: str) -> str:
    """The `gid` of a matplotlib artist, one marker, that tells its value in the book."""
    return HOVER + "|".join((series, step, text))


def hover_points(svg: str) -> tuple[str, list[Point]]:
    """Points of an SVG that tell their values.

    Returns
    -------
    (str, list of Point)
        The SVG's view box, and the points in the order in which they were drawn.
    """
    view = _VIEW.search(svg)
    points = []
    for name, content in _POINT.findall(svg):
        place = _PLACE.search(content)
        if place is not None:
            points.append(Point(float(place[1]), float(place[2]), *name.split("|", 2)))
    return (view[1] if view else ""), points
