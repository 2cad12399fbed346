"""A real browser visits every page of the built book: nothing broken, nothing unlabelled, nothing wider than a screen.

Runs on the pages in `book/_build/html`, which `make book` leaves; skips aloud without them or without a Chromium.
"""

import json
import math
import os
import random
import re
import time
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
# The theme's own pages have no content of ours.
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if path.name not in ("genindex.html", "search.html", "py-modindex.html")
    and not path.relative_to(HTML).parts[0].startswith("_")
    and path != HTML / "index.html"
)
# Pages made from one notebook with other parameters, or from docstrings, are alike: one of each kind is looked at.
KINDS = [re.compile(kind) for kind in ("/experiments/experiment-", "/experiments/pretrain-", r"/api/(?!index)")]
ALIKE = [[page for page in PAGES if kind.search(page)] for kind in KINDS]
SHORTEST = {min(pages, key=lambda page: (HTML / page).stat().st_size) for pages in ALIKE if pages}
VISITED = [page for page in PAGES if page in SHORTEST or not any(page in pages for pages in ALIKE)]
VIEWER = "book/executed/viewer.html"
FRONT = "book/index.html"
EXECUTED = HTML.parents[1] / "executed"
FULL = HTML.parents[2] / "results" / "full" / "scores.csv"
ARCHIVED = r"from the archive: .+, \d{4}-\d\d-\d\d(, and from this run)?"
ORIGIN = re.compile(rf"from this run|{ARCHIVED}|from the paper|an illustration|not run")
# The theme reports its own unset default mode as an error; nothing of ours.
SETTLED_MS = 500  # after a change of width, when the theme has seen which blocks scroll
KNOWN = "Got invalid theme mode"
if not PAGES:
    pytest.skip("there is no built book: run `make book` first", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


def complaints(line) -> list[str]:
    return [f"console: {line.text}"] if line.type == "error" and KNOWN not in line.text else []


def from_elsewhere(url: str) -> list[str]:
    return [f"from elsewhere: {url}"] if urlsplit(url).scheme in ("http", "https") else []


@pytest.fixture
def visit(browser):
    """Open a page of the book; what the browser complains of is gathered in `faults`."""
    contexts = []

    def open_page(page: str, *, width: int = 1440, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        tab = context.new_page()
        tab.faults = []
        tab.on("pageerror", lambda error: tab.faults.append(f"error: {error}"))
        tab.on("requestfailed", lambda request: tab.faults.append(f"not loaded: {request.url}"))
        tab.on("console", lambda line: tab.faults.extend(complaints(line)))
        tab.on("request", lambda request: tab.faults.extend(from_elsewhere(request.url)))
        path, _, anchor = page.partition("#")
        tab.goto((HTML / path).as_uri() + (f"#{anchor}" if anchor else ""), wait_until="load")
        return tab

    yield open_page
    for context in contexts:
        context.close()


BROKEN_IMAGES = """async () => {
  const shown = [...document.images].filter((image) => image.offsetParent !== null);
  for (const image of shown) image.loading = "eager";
  await Promise.all(shown.map((image) => image.decode().catch(() => null)));
  return shown.filter((image) => !image.naturalWidth || !image.alt.trim()).map((image) => image.src);
}"""
SERIOUS = ("serious", "critical")


LOOKS = [(1440, "light"), (390, "dark")]
# Captions of figures and of numbered tables, each with the text of its label.
CAPTIONS = """() => [...document.querySelectorAll("article figcaption, article table > caption")]
  .filter((caption) => caption.querySelector(".caption-number"))
  .map((caption) => [caption.textContent.trim(), caption.querySelector(".l3-origin")?.textContent ?? ""])"""

# Numbered tables that are wider than the text, so that their last columns are out of sight.
CUT_OFF = """() => [...document.querySelectorAll('article table[id^="tab-"]')]
  .filter((table) => table.getBoundingClientRect().right > table.closest("article").getBoundingClientRect().right + 1)
  .map((table) => table.id)"""


def axe_faults(tab) -> list[str]:
    """What axe finds serious, with the element."""
    # It would fetch the style sheets once more, which a page from a folder may not.
    options = {"preload": False, "resultTypes": ["violations"]}
    found = axe.Axe().run(tab, "article.bd-article", options).response["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found if fault["impact"] in SERIOUS]


@pytest.mark.parametrize("page", VISITED)
def test_page_is_sound(visit, page: str) -> None:
    """On a desk in the light and on a phone in the dark: nothing broken, nothing too wide, nothing that axe minds."""
    tab = visit(page)
    for width, theme in LOOKS:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(SETTLED_MS)
        tab.emulate_media(color_scheme=theme)
        tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'", timeout=5_000)
        assert tab.evaluate(BROKEN_IMAGES) == [], (width, theme)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        assert axe_faults(tab) == [], (width, theme)
        # On a phone wide tables scroll by themselves.
        assert width < 1000 or tab.evaluate(CUT_OFF) == []
    assert tab.faults == []
    unlabelled = [caption for caption, label in tab.evaluate(CAPTIONS) if not ORIGIN.fullmatch(label)]
    assert unlabelled == [], "captions that do not say where their numbers come from"


def test_pages_are_light() -> None:
    total = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
    assert total <= 60e6, f"the site has {total / 1e6:.0f} MB"
    heavy = {page: size for page in PAGES if (size := (HTML / page).stat().st_size) > 2e6}
    assert heavy == {}


@cache
def links_of(page: str) -> tuple[list[str], set[str]]:
    """Targets that a page links to, and the anchors that it has."""
    soup = BeautifulSoup((HTML / page).read_bytes(), "html.parser")
    anchors = {tag[name] for name in ("id", "name") for tag in soup.find_all(attrs={name: True})}
    return [link["href"] for link in soup.select("a[href]")], anchors


def test_internal_links_lead_somewhere() -> None:
    pages = {page: links_of(page) for page in [*PAGES, "index.html"]}
    dead = []
    for page, (links, _) in pages.items():
        for link in links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
            _, anchors = pages.get(os.path.relpath(target, HTML), ([], None))
            if "=" in parts.fragment and target == HTML / VIEWER:
                continue  # a view of the viewer, which shows another where it has none
            lost = parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors
            if not target.exists() or lost:
                dead.append(f"{page}: {link}")
    assert dead == []


RESULTS = re.compile(r"results ([0-9a-f]{10})")


def test_every_chapter_shows_the_same_results() -> None:
    """A page that was executed on another run, or left over from one, shows other digits."""
    about = json.loads((EXECUTED / "run.json").read_text(encoding="utf-8"))
    shown = {page: RESULTS.findall((HTML / page).read_text(encoding="utf-8")) for page in PAGES}
    chapters = {page: digits for page, digits in shown.items() if digits}
    assert FRONT in chapters and VIEWER in chapters
    assert {digits for found in chapters.values() for digits in found} == {about["results"]}


def downloaded() -> zipfile.ZipFile:
    """The archive that the front page offers."""
    [link] = {link for link in links_of(FRONT)[0] if link.endswith("tables.zip")}
    return zipfile.ZipFile((HTML / FRONT).parent / unquote(link))


def table(name: str) -> pd.DataFrame:
    """A table out of it."""
    with downloaded() as archive, archive.open(name) as stream:
        return pd.read_csv(stream, dtype={"patient_id": str})


def test_points_of_the_front_page_are_means_of_the_scores() -> None:
    """Of the archived full study, which comes first, and of this run."""
    full, run = (HTML / FRONT).read_text(encoding="utf-8").split('id="fig-front"')
    for page, scores in ((full, pd.read_csv(FULL)), (run, table("scores.csv"))):
        dice = scores.astype({"n_train": str}).groupby(["source_task", "n_train"])["dice"].mean()
        titles = re.findall(r"<title>(\w+)[^<,]*, n = (\d+): (\d\.\d{3}) \(95", page)
        assert {(task, n) for task, n, _ in titles} == set(dice.index)
        for task, n, value in titles:
            assert value == f"{dice[task, n]:.3f}"


def numbered_tables(page: str) -> dict[str, list[dict[str, str]]]:
    """Numbered tables of a page by name: for each row the text under each head."""
    soup = BeautifulSoup((HTML / page).read_bytes(), "html.parser")
    tables = {}
    for drawn in soup.select("table[id]"):
        heads, *rows = ([" ".join(c.get_text().split()) for c in row.select("th, td")] for row in drawn.select("tr"))
        tables[drawn["id"]] = [dict(zip(heads, row, strict=True)) for row in rows]
    return tables


def _with_interval(values: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.3f} ({values.mean() - half:.3f}–{values.mean() + half:.3f})"


def entries_from_scores() -> dict[tuple[str, str, str], str]:
    """What entries of tables must say, worked out from the scores alone: (table, row, column) and text."""
    scores, curves, observers = map(table, ("scores.csv", "training-curves.csv", "observer-scores.csv"))
    entries = {}
    for (task, n), own in scores.groupby(["source_task", "n_train"]):
        entries["tab-dice", task, f"n = {n}"] = _with_interval(own["dice"])
        entries["tab-dta", task, f"n = {n}"] = _with_interval(own["rms_dta_cm"].dropna())
        if n in (scores["n_train"].min(), scores["n_train"].max()):
            entries["tab-front", task, f"Dice, n = {n}"] = f"{own['dice'].mean():.3f}"
    lowest = curves.groupby(["source_task", "n_train", "fold", "subset", "repeat"])["validation_loss"].min()
    for (task, n), value in lowest.groupby(["source_task", "n_train"]).mean().items():
        entries["tab-validation-loss", task, f"n = {n}"] = f"{value:.3f}"
    for observer, own in observers.groupby("observer"):
        entries["tab-observer-each", observer, "DSC"] = f"{own['dice'].mean():.3f}"
    for row, column in (("DSC", "dice"), ("RMS-DTA, cm", "rms_dta_cm")):
        of_images = observers.groupby("patient_id")[column].mean()
        entries["tab-observers", row, "this run"] = f"{of_images.mean():.3f}"
    return entries


def test_ten_entries_at_random_are_what_the_scores_say() -> None:
    """From the page back to the scores, with nothing of the package in between."""
    about = json.loads((EXECUTED / "run.json").read_text(encoding="utf-8"))
    tables = {}
    for page in PAGES:
        tables |= numbered_tables(page)
    entries = entries_from_scores()
    # Another run is asked other entries; the same run the same.
    for name, row, column in random.Random(about["results"]).sample(sorted(entries), 10):
        [line] = [line for line in tables[name] if next(iter(line.values())).split(" (")[0] == row]
        expected, shown = entries[name, row, column], line[column].replace("−", "-")
        assert shown.startswith(expected), f"{name}, {row}, {column}: {shown} on the page, {expected} in the scores"


def test_values_of_every_figure_and_table_are_in_the_download() -> None:
    with downloaded() as archive:
        kept = {Path(name).name for name in archive.namelist()}
    chapters = [page for page in PAGES if re.fullmatch(r"book/executed/[a-z_]+\.html", page)]
    links = {link for page in chapters for link in links_of(page)[0]}
    linked = {Path(link).name for link in links if link.endswith(".csv")}
    assert linked and linked <= kept


READY = "document.getElementById('l3-viewer').dataset.ready"


def picture(tab) -> str:
    return tab.evaluate("document.getElementById('l3-canvas').toDataURL()")


def wait_ready(tab, change: str = "true") -> None:
    tab.wait_for_function(f"{READY} && {change}", timeout=10_000)


def test_viewer_shows_what_is_chosen(visit) -> None:
    tab = visit(VIEWER)
    wait_ready(tab)
    first, view = picture(tab), tab.evaluate(READY)
    assert tab.inner_text("#l3-dice") and tab.inner_text("#l3-expert-sma_cm2")
    tab.click("#l3-next")
    wait_ready(tab, f"{READY} !== '{view}'")
    second = picture(tab)
    assert second != first
    tab.uncheck("#l3-show-expert")
    assert picture(tab) != second
    tab.check("#l3-show-expert")
    assert picture(tab) == second
    tab.focus("#l3-window")
    tab.keyboard.press("ArrowLeft")
    assert picture(tab) != second
    tab.click("#l3-reset")
    assert picture(tab) == second
    tab.focus("#l3-canvas")
    tab.keyboard.press("ArrowLeft")
    wait_ready(tab, f"{READY} === '{view}'")
    assert picture(tab) == first
    assert tab.faults == []


def test_viewer_goes_to_the_extremes_and_back_to_a_link(visit) -> None:
    tab = visit(VIEWER)
    wait_ready(tab)
    dice = {}
    for rank in ("best", "median", "worst"):
        tab.click(f"#l3-{rank}")
        tab.wait_for_function(f"document.getElementById('l3-{rank}').getAttribute('aria-pressed') === 'true'")
        dice[rank] = float(tab.inner_text("#l3-dice"))
    assert dice["best"] >= dice["median"] >= dice["worst"]
    link, about = tab.get_attribute("#l3-link", "href"), tab.inner_text("#l3-about")
    again = visit(VIEWER + link)
    wait_ready(again)
    assert again.inner_text("#l3-about") == about
    assert float(again.inner_text("#l3-dice")) == dice["worst"]


def test_viewer_works_by_keyboard_alone(visit) -> None:
    tab = visit(VIEWER, width=390)
    wait_ready(tab)
    before, view = picture(tab), tab.evaluate(READY)
    tab.focus("#l3-image")
    tab.keyboard.press("ArrowDown")
    wait_ready(tab, f"{READY} !== '{view}'")
    assert picture(tab) != before
    reached = ["l3-image"]
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id"))
    controls = tab.evaluate(
        "[...document.querySelectorAll('#l3-viewer :is(select, button, input, a, canvas)')]"
        ".filter((each) => !each.disabled).map((each) => each.id)"
    )
    assert set(controls) <= set(reached), "a control that Tab does not reach"
    tab.focus("#l3-canvas")
    now, size = tab.evaluate(READY), tab.input_value("#l3-n")
    tab.keyboard.press("ArrowUp")
    wait_ready(tab, f"{READY} !== '{now}'")
    assert tab.input_value("#l3-n") != size
    tab.focus("#l3-show-expert")
    outlined = picture(tab)
    tab.keyboard.press("Space")
    assert picture(tab) != outlined


def test_viewer_shows_any_model(visit) -> None:
    tab = visit(VIEWER)
    wait_ready(tab)
    models = tab.evaluate("[...document.getElementById('l3-model').options].map((option) => option.value)")
    tab.select_option("#l3-model", models[-1])
    wait_ready(tab, f"document.getElementById('l3-model').value === '{models[-1]}'")
    scores = table("scores.csv").set_index(["source_task", "n_train", "fold", "subset", "repeat", "patient_id"])["dice"]
    task, n, model = (tab.input_value(f"#l3-{name}") for name in ("task", "n", "model"))
    patient = tab.evaluate("document.getElementById('l3-image').selectedOptions[0].text")
    dice = scores[(task, int(n), *map(int, model.split(".")), patient)]
    assert tab.inner_text("#l3-dice") == f"{dice:.3f}"


def test_viewer_is_light_and_quick(visit) -> None:
    files = HTML / "_static" / "viewer"
    first = [files / "index.js", *sorted(files.glob("slice-0*.js"))]
    assert sum(path.stat().st_size for path in first) <= 2e6
    started = time.monotonic()
    wait_ready(visit(VIEWER))
    # Two seconds are what a reader should wait; a busy machine that tests is given more.
    assert time.monotonic() - started <= 6


def test_viewer_has_a_view_for_a_link_that_leads_nowhere(visit) -> None:
    tab = visit(VIEWER + "#image=NOBODY&task=none&n=-1")
    wait_ready(tab)
    assert tab.inner_text("#l3-dice")
    assert tab.faults == []


def test_the_learning_curves_answer_to_what_is_asked(visit) -> None:
    """Other models, fewer source tasks, another size: figure and table follow."""
    tab = visit("book/executed/explore.html")
    states = json.loads(tab.locator("#l3-explorer-states").text_content())
    rows, markers = tab.locator("#l3-at-size tbody tr"), tab.locator(".l3-marker")
    assert rows.count() == len(states["tasks"]) and markers.count() > rows.count()
    before = tab.inner_text("#l3-at-size")
    tab.locator("#l3-count").fill("0")
    tab.get_by_role("button", name="Draw other models (1 of").click()
    assert tab.inner_text("#l3-at-size") != before
    first = tab.locator("#l3-tasks input").first
    first.uncheck()
    assert rows.count() == len(states["tasks"]) - 1
    tab.locator("#l3-size").fill("0")
    assert f"n = {states['sizes'][0]}" in tab.locator("#l3-at-size caption").inner_text()
    assert tab.faults == []


def test_a_point_of_the_learning_curve_says_its_value_and_leads_somewhere(visit) -> None:
    tab = visit(FRONT)
    link = tab.locator(".l3-drawing a").first
    assert "95 % interval" in link.locator("title").text_content()
    assert (HTML / FRONT).parent.joinpath(urlsplit(link.get_attribute("href")).path).is_file()
    link.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/executed/**")
    assert tab.faults == []


def test_a_drawing_follows_the_theme(visit) -> None:
    tab = visit(FRONT)
    ground = "getComputedStyle(document.querySelector('.l3-drawing path')).fill"
    light = tab.evaluate(ground)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("document.documentElement.dataset.theme === 'dark'", timeout=5_000)
    assert tab.evaluate(ground) != light


def test_a_term_shows_its_definition(visit) -> None:
    term = visit("book/method.html").locator("a.l3-term").first
    assert len(term.get_attribute("title")) > 20
