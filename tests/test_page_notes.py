"""The launch menu leads to this chapter's notebook, and nowhere as long as the project has no address."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))

from page_notes import launch_links  # noqa: E402


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
