"""A dark copy says what the light figure says, and can be read; points of a figure keep their values."""

import io
import re

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from l3muscle import figures
from l3muscle.book.theme import DARK, DARK_PAPER, dark_svg, hover_points, is_themed, jupyter_svg, slim_svg


def contrast(first: str, second: str) -> float:
    """Contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        values = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def svg() -> str:
    rng = np.random.default_rng(0)
    rows = [
        ("random", n, fold, 0, 0, f"P{image}", 0.6 + 0.02 * rng.standard_normal(), "")
        for n in (5, 10)
        for fold in range(2)
        for image in range(5)
    ]
    names = ["source_task", "n_train", "fold", "subset", "repeat", "patient_id", "dice", "failure"]
    scores = pd.DataFrame(rows, columns=names)
    stream = io.StringIO()
    figures.learning_curve(scores, None, "dice", labels={"random": "random <start>"}).savefig(stream, format="svg")
    return stream.getvalue()


def test_text_and_lines_stand_out_on_both_grounds() -> None:
    for colour in (figures.INK, figures.FAINT):
        assert contrast(colour, figures.PAPER) >= 4.5
        assert contrast(DARK[colour], DARK_PAPER) >= 4.5
    for colour, _ in figures.TASK_STYLE.values():
        assert contrast(DARK.get(colour, colour), DARK_PAPER) >= 3


def test_dark_copy_differs_in_colours_only(svg: str) -> None:
    dark = dark_svg(svg)
    assert is_themed(svg) and not is_themed(dark)
    assert figures.INK in svg and figures.INK not in dark

    def drawing(text: str) -> str:
        return re.sub("#[0-9a-f]{6}", "#", re.sub(r' fill="#[0-9a-f]{6}">', ">", text, count=1))

    assert drawing(dark) == drawing(svg)


def test_a_slim_drawing_differs_in_digits_that_nobody_sees(svg: str) -> None:
    slim = slim_svg(svg)
    assert len(slim) < len(svg) and hover_points(slim) == hover_points(svg)
    number = re.compile(r"-?\d+(?:\.\d+)?")
    assert number.sub("", slim) == number.sub("", svg)
    pairs = zip(number.findall(slim), number.findall(svg), strict=True)
    assert max(abs(float(one) - float(other)) for one, other in pairs) <= 0.01
    assert slim_svg(slim) == slim


def test_black_that_goes_without_saying_is_turned_too() -> None:
    dark = dark_svg('<svg viewBox="0 0 1 1"><path d="M 0 0"/></svg>')
    assert f'fill="{DARK["#000000"]}"' in dark


def test_points_tell_the_values_of_their_cells(svg: str) -> None:
    view, points = hover_points(svg)
    width = float(view.split()[2])
    assert [(point.series, point.step) for point in points] == [("random", "5"), ("random", "10")]
    assert all("n = 5: 0." in point.text and "2 models" in point.text for point in points[:1])
    assert 0 < points[0].x < points[1].x < width


def test_a_drawing_for_jupyter_has_both_themes_and_no_colour_of_its_own(svg: str) -> None:
    page = jupyter_svg(svg)
    sheet, drawing = re.fullmatch(
        r'<div class="l3-figure"><style>(.*?)</style>(<svg.*)</div>', page, re.DOTALL
    ).groups()
    light, dark = sheet.split("[data-jp-theme-light=false]")
    used = set(re.findall(r"var\(--l3-([0-9a-f]{6})\)", drawing))
    assert figures.INK.removeprefix("#") in used and not used - {colour.removeprefix("#") for colour in DARK}
    for colour in used:
        assert f"--l3-{colour}:#{colour}" in light and f"--l3-{colour}:{DARK['#' + colour]}" in dark
    assert not any(colour in drawing for colour in DARK)
    assert re.sub(r"var\(--l3-(\w+)\)", r"#\1", drawing).count("#") == svg.count("#") + 1
