"""A student in a browser: opens the playground in JupyterLab, trains, changes something, trains again."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

TOP = Path(__file__).resolve().parents[2]
START_S, TRAIN_S = 90, 120  # of patience with a machine that does other things as well


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """Address of the playground in a JupyterLab of its own, with the smallest profile and no stored study."""
    notebook = nbformat.read(TOP / "notebooks" / "playground.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = re.sub(r'(?m)^profile: str = "\w+"', 'profile: str = "smoke"', cell.source)
    nbformat.write(notebook, tmp_path / "playground.ipynb")
    (tmp_path / "profiles").symlink_to(TOP / "profiles")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.root_dir": tmp_path,
               "IdentityProvider.token": "", "ServerApp.allow_root": True}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser"]
    command += [f"--{key}={value}" for key, value in options.items()]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            address, given_up = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < given_up, (tmp_path / "server.log").read_text()
                    time.sleep(0.2)
            yield f"{address}/lab/tree/playground.ipynb"
        finally:
            server.terminate()
            server.wait(30)


def test_a_student_trains_changes_something_and_stops(browser, lab, tmp_path) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(lab)
    # What the menu offers is complete when the kernel has answered.
    sync_api.expect(tab.get_by_text("| Idle")).to_be_visible(timeout=START_S * 1000)
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem").filter(has_text=re.compile("^Run All Cells")).click()
    train, stop = (tab.get_by_role("button", name=re.compile(f"{name}$")) for name in ("Train", "Stop"))
    status = tab.get_by_role("status").filter(has_text=re.compile("^On |Training|mean Dice|Not trained"))
    sync_api.expect(status).to_contain_text("phantoms drawn", timeout=(START_S + TRAIN_S) * 1000)
    tab.get_by_label("Source task").select_option("random")
    for label, value in (("Training slices n", "2"), ("Steps", "20")):
        tab.get_by_label(re.compile(f"^{label}")).fill(value)
        tab.get_by_label(re.compile(f"^{label}")).press("Enter")
    train.click()
    sync_api.expect(status).to_contain_text("Run 1: mean Dice", timeout=TRAIN_S * 1000)
    sync_api.expect(status).to_contain_text("after 20 steps")
    sync_api.expect(tab.get_by_role("img", name=re.compile("test slice: Dice"))).to_be_visible()

    # A long training ends when it is told to, and is kept as far as it came.
    tab.get_by_label(re.compile("^Steps")).fill("2000")
    tab.get_by_label(re.compile("^Steps")).press("Enter")
    train.click()
    stop.click()
    sync_api.expect(status).to_contain_text("Run 2: mean Dice", timeout=TRAIN_S * 1000)
    sync_api.expect(status).to_contain_text("after 200 steps (stopped by hand)")
    rows = tab.get_by_role("table", name=re.compile("^Runs of this session")).get_by_role("row")
    sync_api.expect(rows).to_have_count(3)

    found = axe.Axe().run(tab, ".jupyter-widgets", {"resultTypes": ["violations"]}).response["violations"]
    assert [fault for fault in found if fault["impact"] in ("serious", "critical")] == []
    assert faults == []
    assert not (tmp_path / "runs").exists(), "the playground wrote into the study"
    context.close()
