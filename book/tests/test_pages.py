"""A real browser visits every page of the built book: nothing broken, nothing unlabelled, nothing wider than a screen.

Runs on the pages in `book/_build/html`, which `make book` leaves; skips aloud without them or without a Chromium.
"""

import csv
import io
import json
import math
import os
import random
import re
import statistics
import time
import zipfile
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
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
VIEWER = "book/executed/viewer.html"
FRONT = "book/index.html"
EXECUTED = HTML.parents[1] / "executed"
ORIGIN = re.compile(r"measured in this run|from the archive: .+, \d{4}-\d\d-\d\d|from the paper|not run")
# The theme reports its own unset default mode as an error; nothing of ours.
KNOWN = "Got invalid theme mode"
if not PAGES:
    pytest.skip("there is no built book: run `make book` first", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


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
        tab.on(
            "console",
            lambda line: (
                tab.faults.append(f"console: {line.text}") if line.type == "error" and KNOWN not in line.text else None
            ),
        )
        tab.on(
            "request",
            lambda request: (
                tab.faults.append(f"from elsewhere: {request.url}")
                if urlsplit(request.url).scheme in ("http", "https")
                else None
            ),
        )
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


LOOKS = [(1440, "light"), (1440, "dark"), (390, "dark"), (390, "light")]
# Captions of figures and of numbered tables, each with the text of its label.
CAPTIONS = """() => [...document.querySelectorAll("article figcaption, article table > caption")]
  .filter((caption) => caption.querySelector(".caption-number"))
  .map((caption) => [caption.textContent.trim(), caption.querySelector(".l3-origin")?.textContent ?? ""])"""

# Numbered tables that are wider than the text, so that their last columns are out of sight.
CUT_OFF = """() => [...document.querySelectorAll('article table[id^="tab-"]')]
  .filter((table) => table.getBoundingClientRect().right > table.closest("article").getBoundingClientRect().right + 1)
  .map((table) => table.id)"""


def axe_faults(tab) -> list[str]:
    """What axe finds serious, with the place."""
    # It would fetch the style sheets once more, which a page from a folder may not.
    options = {"preload": False, "resultTypes": ["violations"]}
    found = axe.Axe().run(tab, "article.bd-article", options).response["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found if fault["impact"] in SERIOUS]


@pytest.mark.parametrize("page", PAGES)
def test_page_is_sound(visit, page: str) -> None:
    """On a desk and on a phone, light and dark: nothing broken, nothing too wide, nothing that axe minds."""
    # The reference is one kind of page many times over, and long.
    looks = LOOKS[::2] if page.startswith("book/api/") else LOOKS
    for width in dict.fromkeys(width for width, _ in looks):
        tab = visit(page, width=width)
        for theme in (theme for other, theme in looks if other == width):
            tab.emulate_media(color_scheme=theme)
            tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'", timeout=5_000)
            assert tab.evaluate(BROKEN_IMAGES) == [], (width, theme)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
            assert axe_faults(tab) == [], (width, theme)
        assert tab.faults == []
        # On a phone wide tables scroll by themselves.
        assert width < 1000 or tab.evaluate(CUT_OFF) == []
    unlabelled = [caption for caption, label in tab.evaluate(CAPTIONS) if not ORIGIN.fullmatch(label)]
    assert unlabelled == [], "captions that do not say where their numbers come from"


def test_pages_are_light() -> None:
    total = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
    assert total <= 60e6, f"the site has {total / 1e6:.0f} MB"
    heavy = {page: size for page in PAGES if (size := (HTML / page).stat().st_size) > 2e6}
    assert heavy == {}


class Links(HTMLParser):
    """Targets that a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])


def test_internal_links_lead_somewhere() -> None:
    pages = {page: Links((HTML / page).read_text(encoding="utf-8")) for page in [*PAGES, "index.html"]}
    dead = []
    for page, content in pages.items():
        for link in content.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
            anchors = pages.get(os.path.relpath(target, HTML))
            if "=" in parts.fragment and target == HTML / VIEWER:
                continue  # a view of the viewer, which shows another where it has none
            lost = parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors.anchors
            if not target.exists() or lost:
                dead.append(f"{page}: {link}")
    assert dead == []


STRIP = re.compile(r"results ([0-9a-f]{10})")


def test_every_chapter_shows_the_same_results() -> None:
    """A page that was executed on another run, or left over from one, shows other digits."""
    about = json.loads((EXECUTED / "run.json").read_text(encoding="utf-8"))
    shown = {page: STRIP.findall((HTML / page).read_text(encoding="utf-8")) for page in PAGES}
    chapters = {page: digits for page, digits in shown.items() if digits}
    assert FRONT in chapters and VIEWER in chapters
    assert {digits for found in chapters.values() for digits in found} == {about["results"]}


def downloaded(name: str) -> list[dict[str, str]]:
    """A table out of the archive that the front page offers."""
    front = Links((HTML / FRONT).read_text(encoding="utf-8"))
    [link] = {link for link in front.links if link.endswith("tables.zip")}
    with zipfile.ZipFile((HTML / FRONT).parent / unquote(link)) as archive:
        return list(csv.DictReader(io.StringIO(archive.read(name).decode())))


def test_points_of_the_front_page_are_means_of_the_scores() -> None:
    dice = defaultdict(list)
    for row in downloaded("scores.csv"):
        dice[row["source_task"], row["n_train"]].append(float(row["dice"]))
    page = (HTML / FRONT).read_text(encoding="utf-8")
    shown = re.findall(r'data-series="(\w+)" data-step="(\d+)" aria-label="[^"]*?: (\d\.\d{3}) \(', page)
    assert {(task, n) for task, n, _ in shown} == set(dice)
    for task, n, value in shown:
        assert value == f"{statistics.fmean(dice[task, n]):.3f}"


class Tables(HTMLParser):
    """Numbered tables of a page by name: for each row the text under each head."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, str]]] = {}
        self._name, self._heads, self._row, self._cell = "", [], [], None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._name, self._heads = dict(attrs).get("id") or "", []
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self._row.append(" ".join(self._cell.split()))
            self._cell = None
        elif tag == "tr" and self._name:
            if self._heads:
                row = dict(zip(self._heads, self._row, strict=True))
                self.tables.setdefault(self._name, []).append(row)
            else:
                self._heads = self._row
        elif tag == "table":
            self._name = ""


def _with_interval(values: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.3f} ({values.mean() - half:.3f}–{values.mean() + half:.3f})"


def cells_from_scores(run: Path) -> dict[tuple[str, str, str], str]:
    """What cells of tables must say, worked out from the stored files alone: (table, row, column) and text."""
    scores = pd.concat(map(pd.read_parquet, sorted(run.glob("experiments/*/scores.parquet"))))
    curves = pd.concat(
        pd.read_parquet(path).assign(**json.loads((path.parent / "record.json").read_text("utf-8"))["experiment"])
        for path in sorted(run.glob("experiments/*/curve.parquet"))
    )
    observers = pd.concat(map(pd.read_parquet, run.glob("observers/*/scores.parquet")))
    cells = {}
    for (task, n), cell in scores.groupby(["source_task", "n_train"]):
        cells["tab-dice", task, f"n = {n}"] = _with_interval(cell["dice"])
        cells["tab-dta", task, f"n = {n}"] = _with_interval(cell["rms_dta_cm"].dropna())
        differences = cell.groupby("patient_id")[["sma_difference_cm2", "smd_difference_hu"]].mean().mean()
        cells["tab-agreement-sma", task, f"n = {n}"] = f"{differences['sma_difference_cm2']:+z.1f} "
        cells["tab-agreement-smd", task, f"n = {n}"] = f"{differences['smd_difference_hu']:+z.1f} "
        if n in (scores["n_train"].min(), scores["n_train"].max()):
            cells["tab-front", task, f"Dice, n = {n}"] = f"{cell['dice'].mean():.3f}"
    lowest = curves.groupby(["source_task", "n_train", "fold", "subset", "repeat"])["validation_loss"].min()
    for (task, n), value in lowest.groupby(["source_task", "n_train"]).mean().items():
        cells["tab-validation-loss", task, f"n = {n}"] = f"{value:.3f}"
    for observer, own in observers.groupby("observer"):
        cells["tab-observer-each", observer, "Dice"] = f"{own['dice'].mean():.3f}"
        cells["tab-observer-each", observer, "RMS-DTA, cm"] = f"{own['rms_dta_cm'].mean():.3f}"
    for row, column in (("Dice", "dice"), ("RMS-DTA, cm", "rms_dta_cm")):
        of_images = observers.groupby("patient_id")[column].mean()
        cells["tab-observers", row, "this run"] = f"{of_images.mean():.3f}"
    return cells


def test_ten_cells_at_random_are_what_the_scores_say() -> None:
    """From the page back to the stored scores, with nothing of the package in between."""
    about = json.loads((EXECUTED / "run.json").read_text(encoding="utf-8"))
    run = HTML.parents[2] / "runs" / about["profile"]
    if not run.is_dir():
        pytest.skip(f"the run behind these pages is not in {run}")
    tables = {}
    for page in PAGES:
        tables |= Tables((HTML / page).read_text(encoding="utf-8")).tables
    cells = cells_from_scores(run)
    by_table = defaultdict(list)
    for place in cells:
        by_table[place[0]].append(place)
    # Another run is asked other cells; the same run the same.
    chance = random.Random(about["results"])
    chosen = [chance.choice(by_table[chance.choice(sorted(by_table))]) for _ in range(10)]
    for name, row, column in chosen:
        [line] = [line for line in tables[name] if next(iter(line.values())).split(" (")[0] == row]
        expected, shown = cells[name, row, column], line[column].replace("−", "-")
        assert shown.startswith(expected), f"{name}, {row}, {column}: {shown} on the page, {expected} in the files"


def test_tables_of_the_chapters_are_in_the_download() -> None:
    front = Links((HTML / FRONT).read_text(encoding="utf-8"))
    [link] = {link for link in front.links if link.endswith("tables.zip")}
    with zipfile.ZipFile((HTML / FRONT).parent / unquote(link)) as archive:
        names = {Path(name).stem for name in archive.namelist() if name.startswith("shown/")}
    on_pages = {
        anchor
        for page in PAGES
        if page == FRONT or page.startswith("book/executed/")
        for anchor in Links((HTML / page).read_text(encoding="utf-8")).anchors
        if anchor.startswith("tab-")
        and re.search(f'<table class="[^"]*" id="{anchor}"', (HTML / page).read_text(encoding="utf-8"))
    }
    assert on_pages <= names


READY = "document.getElementById('l3-viewer').dataset.ready"


def picture(tab) -> str:
    return tab.evaluate("document.getElementById('l3-canvas').toDataURL()")


def wait_ready(tab, change: str = "true") -> None:
    tab.wait_for_function(f"{READY} && {change}", timeout=10_000)


def test_viewer_shows_what_is_chosen(visit) -> None:
    tab = visit(VIEWER)
    wait_ready(tab)
    first, view = picture(tab), tab.evaluate(READY)
    assert tab.inner_text("#l3-dice") and tab.inner_text("#l3-sma-expert")
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
    for name in models[-1:]:
        tab.select_option("#l3-model", name)
        wait_ready(tab, f"document.getElementById('l3-model').value === '{name}'")
        files = tab.inner_text("#l3-source").rpartition("/")[2]
        assert files in {Path(row["files"]).name for row in downloaded("experiments.csv") if row["state"] == "done"}
    scores = {
        (row["source_task"], row["n_train"], row["fold"], row["subset"], row["repeat"], row["patient_id"]): row["dice"]
        for row in downloaded("scores.csv")
    }
    choice = [tab.input_value(f"#l3-{name}") for name in ("task", "n", "model")]
    patient = tab.evaluate("document.getElementById('l3-image').selectedOptions[0].text")
    dice = float(scores[(*choice[:2], *choice[2].split("."), patient)])
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


def test_points_of_the_learning_curve_tell_their_values(visit) -> None:
    tab = visit("book/index.html")
    # Of a source task that has a next size to go to, which in an unfinished run not every one has.
    tasks = [point.get_attribute("data-series") for point in tab.locator(".l3-wide .l3-points circle").all()]
    task = next(task for task in tasks if tasks.count(task) > 1)
    first = tab.locator(f".l3-wide .l3-points circle[data-series={task}]").first
    first.focus()
    text = tab.inner_text("#l3-tip")
    assert "n = " in text and "95 % interval" in text
    tab.keyboard.press("ArrowRight")
    other = tab.inner_text("#l3-tip")
    assert other != text and other.split(",")[0] == text.split(",")[0]
    tab.keyboard.press("Escape")
    assert tab.locator("#l3-tip").is_hidden()


def test_a_point_of_the_learning_curve_leads_to_its_outlines(visit) -> None:
    tab = visit(FRONT)
    first = tab.locator(".l3-points circle").first
    task, n = first.get_attribute("data-series"), first.get_attribute("data-step")
    first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/viewer.html*")
    wait_ready(tab)
    assert (tab.input_value("#l3-task"), tab.input_value("#l3-n")) == (task, n)
    assert tab.faults == []


def test_a_term_shows_its_definition(visit) -> None:
    tab = visit("book/method.html")
    term = tab.locator("a.l3-term").first
    term.focus()
    definition = tab.inner_text("#l3-tip")
    assert len(definition) > 20 and tab.locator("#l3-tip").is_visible()
    tab.keyboard.press("Escape")
    assert tab.locator("#l3-tip").is_hidden()
