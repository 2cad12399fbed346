"""From executed notebooks to the pages of the book: chapters, experiments, and the build by jupyter-book."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any

from ruamel.yaml import YAML

from l3muscle.book.archive import ARCHIVE
from l3muscle.book.experiment_pages import write_experiment_pages
from l3muscle.book.front_page import write_front_page
from l3muscle.book.show import write_values
from l3muscle.book.viewer import write_viewer
from l3muscle.errors import L3MuscleError
from l3muscle.execution import execute_notebook, is_current
from l3muscle.study import StudyResults

TEMPLATES = Path("notebooks")
EXECUTED = Path("book/executed")
SITE = Path("book/_build/html")
_PICTURE = re.compile(r"""_images/([^"'?#]+)""")


class BookError(L3MuscleError):
    """A chapter that cannot be executed, or a book that cannot be built."""


def chapters(toc: Path = Path("_toc.yml")) -> list[Path]:
    """Notebooks that are chapters of the book, in reading order.

    Raises
    ------
    BookError
        If there is no table of contents, or it lists a chapter that is not there.
    """
    try:
        content = YAML(typ="safe", pure=True).load(toc.read_text(encoding="utf-8"))
    except OSError:
        raise BookError(f"there is no {toc} here; run this in the project's top folder") from None

    def files(node: Any) -> list[str]:
        if isinstance(node, dict):
            page = [node["file"]] if "file" in node else []
            return page + [name for key, value in node.items() if key != "file" for name in files(value)]
        return [name for value in node for name in files(value)] if isinstance(node, list) else []

    templates = [TEMPLATES / f"{Path(name).name}.ipynb" for name in files(content) if Path(name).parent == EXECUTED]
    for template in templates:
        if not template.is_file():
            raise BookError(f"the book lists the chapter {template.stem}, but there is no {template}")
    return templates


def _inputs(template: Path, parameters: dict[str, Any], results: StudyResults) -> str:
    """Hash of all that a chapter shows: its text, the package, the run, and the archived results that it names."""
    text = template.read_text(encoding="utf-8")
    digest = hashlib.sha256(json.dumps([text, parameters, results.plan]).encode())
    digest.update(json.dumps(sorted(results.keys.values())).encode())
    package = Path(__file__).parents[1]
    for path in sorted(p for p in package.rglob("*") if p.suffix in (".py", ".csv")):
        digest.update(path.read_bytes())
    for path in sorted(p for p in ARCHIVE.rglob("*") if p.is_file() and p.relative_to(ARCHIVE).parts[0] in text):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def execute_chapters(
    results: StudyResults, *, profile: str, runs: Path, workers: int = 1, say: Callable[[str], None] = print
) -> None:
    """Execute every chapter whose inputs have changed since it was last executed, into `book/executed/`.

    Parameters
    ----------
    results : StudyResults
    profile : str
        Passed to the chapters, with `runs`, as papermill parameters.
    runs : Path
    workers : int
        Chapters that are executed at the same time, each in a kernel of its own.
    say : callable
        Takes one line of text.

    Raises
    ------
    BookError
        Naming the chapter and the error of the cell that failed.
    """
    EXECUTED.mkdir(parents=True, exist_ok=True)
    templates = chapters()
    executed = [EXECUTED / template.name for template in templates]
    for path in set(EXECUTED.glob("*.ipynb")) - set(executed):
        path.unlink()  # of a chapter that is no more
    parameters = {"profile": profile, "runs": str(runs)}
    speaking = Lock()

    def bring_up_to_date(template: Path, out: Path) -> None:
        inputs = _inputs(template, parameters, results)
        current = is_current(out, inputs)
        with speaking:
            say(f"{template.stem}: {'up to date' if current else 'executing'}")
        if current:
            return
        log = results.folder / "logs" / f"{template.stem}.txt"
        outcome = execute_notebook(template, out, parameters, log=log, inputs=inputs)
        if outcome.state != "done":
            raise BookError(f"{template.stem} {outcome.state} in {outcome.reason}; what it did is in {out}")

    # The threads only wait for their kernels. The last chapters train, so they are begun first.
    pairs = reversed(list(zip(templates, executed, strict=True)))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(bring_up_to_date, *pair) for pair in pairs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_values(EXECUTED)
    write_front_page(results, EXECUTED)
    write_viewer(results, EXECUTED / "viewer")
    write_experiment_pages(results, EXECUTED / "experiments")


def remove_unshown_pictures(html: Path) -> None:
    """Remove the pictures of earlier builds: Sphinx adds what a page that it writes shows, and removes nothing.

    Parameters
    ----------
    html : Path
        Folder of the built pages.
    """
    shown = {name for page in html.rglob("*.html") for name in _PICTURE.findall(page.read_text(encoding="utf-8"))}
    for path in html.glob("_images/*"):
        if path.name not in shown:
            path.unlink()


def build_book(*, say: Callable[[str], None] = print) -> Path:
    """Build the HTML book from the executed notebooks; warnings are errors.

    Returns
    -------
    Path
        Its front page.

    Raises
    ------
    BookError
        With jupyter-book's last lines.
    """
    main = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", main, "build", ".", "--path-output", "book", "-W", "-n", "--keep-going"]
    say("building the pages")
    outcome = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    )
    if outcome.returncode:
        tail = "\n".join((outcome.stdout + outcome.stderr).strip().splitlines()[-40:])
        raise BookError(f"jupyter-book found faults:\n{tail}")
    remove_unshown_pictures(SITE)
    return SITE / "index.html"
