"""What can be said of the book from its sources, before anything is built."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from pybtex.database import BibliographyData, parse_file

TOP = Path(__file__).resolve().parents[2]
BOOK, NOTEBOOKS = TOP / "book", TOP / "notebooks"
PAGES = sorted(BOOK.glob("*.md"))
TEMPLATES = sorted(NOTEBOOKS.glob("*.ipynb"))
# Pages about the run, and notebooks that are no pages, tell no result of the study.
CHAPTERS = [path for path in TEMPLATES if path.stem not in ("about_run", "experiment", "playground", "pretrain")]
CITATION = re.compile(r"\{cite(?::[a-z]+)?\}`([^`]+)`")

# First author and year of the paper's 34 references, in its order.
PAPER_REFERENCES = """
rosenberg1989 vanderwerf2018 ataseven2018 derstine2018 prado2008 prado2009 shachar2016 weaver2018 vanrijndekker2019
green2019 psutka2014 hamaguchi2016 hamaguchi2014 anandavadivelan2016 vanvledder2012 cho2018 cespedesfeliciano2020
park2020 lee2017 weston2019 edwards2020 ronneberger2015 shorten2019 tan2018 yosinski2014 krizhevsky2012 simonyan2015
deng2009 lin2014 noroozi2016 murphy2012 sorensen1948 kingma2014 he2019
"""


def pages_of_toc() -> list[str]:
    def files(node: Any) -> list[str]:
        if isinstance(node, dict):
            named = [node[key] for key in ("root", "file") if key in node]
            return named + [name for value in node.values() for name in files(value)]
        return [name for item in node for name in files(item)] if isinstance(node, list) else []

    return files(yaml.safe_load((TOP / "_toc.yml").read_text(encoding="utf-8")))


def text_of(path: Path) -> str:
    """Prose of a page or of a notebook's text cells."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.fixture(scope="module")
def bibliography() -> BibliographyData:
    return parse_file(str(BOOK / "references.bib"))


def test_the_toc_lists_every_page_once_and_no_other() -> None:
    pages = pages_of_toc()
    assert len(pages) == len(set(pages))
    for page in pages:
        if Path(page).parent == Path("book/executed"):
            assert (NOTEBOOKS / f"{Path(page).name}.ipynb").is_file(), f"{page} has no template in notebooks/"
        elif page != "book/executed/experiments/index":  # which the build writes
            assert (TOP / f"{page}.md").is_file(), f"{page}.md is not there"
    assert {f"book/{path.stem}" for path in PAGES} <= set(pages)


def test_bibliography_holds_the_papers_references(bibliography: BibliographyData) -> None:
    def label(entry: Any) -> str:
        author = entry.persons["author"][0]
        name = "".join(author.prelast_names + author.last_names).replace("{\\o}", "o").replace("ø", "o")
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        return re.sub("[^a-z]", "", plain) + entry.fields["year"]

    papers = PAPER_REFERENCES.split()
    assert len(papers) == 34
    assert set(papers) <= {label(entry) for entry in bibliography.entries.values()}


@pytest.mark.parametrize("path", PAGES + TEMPLATES, ids=lambda path: path.name)
def test_citations_exist(path: Path, bibliography: BibliographyData) -> None:
    for keys in CITATION.findall(text_of(path)):
        for key in keys.split(","):
            assert key.strip() in bibliography.entries, f"{path.name} cites {key.strip()}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_carry_no_outputs(path: Path) -> None:
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], f"cell {number} of {path.name} carries outputs"
            assert cell["execution_count"] is None, f"cell {number} of {path.name} carries a count"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_chapters_open_with_what_they_ask_and_close_with_what_was_found(path: Path) -> None:
    first, *_, last = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert re.match(r"# .+\n\n\*\*This chapter asks\*\*", "".join(first["source"]))
    assert last["cell_type"] == "code", "the closing of a chapter takes its numbers from the run"
    assert "**What was found" in "".join(last["source"])


@pytest.mark.parametrize("path", PAGES + TEMPLATES, ids=lambda path: path.name)
def test_pictures_have_alternative_text(path: Path) -> None:
    text = text_of(path)
    assert not re.search(r"!\[\s*\]\(", text), f"a picture without alternative text in {path.name}"
    for directive in re.findall(r"^[`:]{3,}\{(?:figure|image)\}.*?^[`:]{3,}$", text, re.M | re.S):
        assert re.search(r"^:alt: \S", directive, re.M), f"a figure without :alt: in {path.name}: {directive[:60]}"


@pytest.mark.parametrize("path", PAGES + TEMPLATES, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//", text_of(path))
