"""The browser that the tests of the pages and of the playground share."""

import os
import shutil
from collections.abc import Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator["sync_api.Browser"]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("there is no Chromium: install it, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox is not to be had in a container or as root.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The playground takes longest: begun first, it does not keep one worker waiting for the other."""
    items.sort(key=lambda item: item.path.stem != "test_playground")
