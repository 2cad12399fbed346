"""Executing the notebooks with papermill, and building the book from them."""

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

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from papermill.exceptions import PapermillExecutionError

from l3muscle.book.archive import ARCHIVE
from l3muscle.book.tables import VALUES, linked_values
from l3muscle.errors import L3MuscleError
from l3muscle.figures.look import NARROW_DRAWING, SAID
from l3muscle.parameters import ParameterError, documented, refuse
from l3muscle.study import StudyResults

TEMPLATES = Path("notebooks")
EXECUTED = Path("book/executed")
SITE = Path("book/_build/html")
NARROW = EXECUTED / "narrow"  # drawings for narrow screens, by the names of the figures that they stand for
CELL_TIMEOUT_S = 600
_PICTURE = re.compile(r"""_images/([^"'?#]+)""")
_LABEL = re.compile(r"^:name: (\S+)$", re.MULTILINE)


class NotebookError(L3MuscleError):
    """A notebook that cannot be executed, or a book that cannot be built."""


def chapters(toc: Path = Path("_toc.yml")) -> list[str]:
    """Names of the notebooks that are chapters of the book, in reading order."""
    try:
        content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    except OSError:
        raise NotebookError(f"there is no {toc} here; run this in the project's top folder") from None

    def files(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["file"]] if "file" in node else []
            return own + [name for key, value in node.items() if key != "file" for name in files(value)]
        return [name for value in node for name in files(value)] if isinstance(node, list) else []

    return [Path(name).stem for name in files(content) if Path(name).parent == EXECUTED]


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse a parameter that the notebook does not have, or that is of another type; papermill itself only warns.

    Raises
    ------
    NotebookError
    """
    cells = nbformat.read(notebook, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    try:
        refuse(documented(source) or {}, parameters)
    except ParameterError as error:
        raise NotebookError(f"{notebook.name}: {error}") from None


def shown_labels(folder: Path = EXECUTED) -> set[str]:
    """Names of the figures and tables that the executed chapters show: what a later chapter can refer to.

    Parameters
    ----------
    folder : Path
        A relative one is looked for in the working folder and, as a notebook may be run from where it lies, above it.
    """
    found: set[str] = set()
    for path in (folder if folder.is_dir() else Path("..") / folder).glob("[!.]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            outputs = cell.get("outputs", [])
            if name and outputs:
                found.add(name)
            for output in outputs:
                found |= set(_LABEL.findall(output.get("data", {}).get("text/markdown", "")))
    return found


def _check_kernel(notebook: Path) -> None:
    name = nbformat.read(notebook, as_version=4).metadata.get("kernelspec", {}).get("name", "python3")
    try:
        KernelSpecManager().get_kernel_spec(name)
    except NoSuchKernel:
        raise NotebookError(
            f"{notebook.name} needs the Jupyter kernel {name!r}, which is not installed; "
            "`python -m ipykernel install --sys-prefix` installs it"
        ) from None


def check_notebooks() -> list[Path]:
    """Templates of the book's chapters, in reading order, once it is sure that they can be executed.

    Raises
    ------
    NotebookError
        If a template or its Jupyter kernel is missing.
    """
    templates = [TEMPLATES / f"{name}.ipynb" for name in chapters()]
    for template in templates:
        if not template.is_file():
            raise NotebookError(f"the book lists the chapter {template.stem}, but there is no {template}")
        _check_kernel(template)
    return templates


def _inputs(parameters: dict[str, Any], results: StudyResults) -> bytes:
    """Hash of what all executed notebooks show beside their own cells: parameters, package, results and archive."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    package = Path(__file__).parent
    for path in sorted(p for p in package.rglob("*") if p.suffix in (".py", ".csv")):
        digest.update(path.read_bytes())
    for path in sorted(p for p in ARCHIVE.rglob("*") if p.is_file()):
        digest.update(path.relative_to(ARCHIVE).as_posix().encode() + path.read_bytes())
    digest.update(json.dumps(results.plan, sort_keys=True).encode())
    digest.update(json.dumps(sorted(results.keys.values())).encode())
    return digest.digest()


def _is_current(executed: Path, fingerprint: str) -> bool:
    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):
        return False
    known = notebook.metadata.get("l3muscle", {})
    beside = [VALUES / name for name in _values_of(notebook)]
    beside += [NARROW / f"{name}.svg" for name in known.get("drawings", [])]
    return known.get("inputs") == fingerprint and all(path.is_file() for path in beside)


def _values_of(notebook: nbformat.NotebookNode) -> set[str]:
    """Names of the CSV files that an executed notebook links to."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return set().union(*(linked_values(output.get("data", {}).get("text/markdown", "")) for output in outputs))


def _remove_unlinked_values(paths: list[Path]) -> None:
    """Remove the values of figures and tables that no chapter shows any more."""
    linked = set().union(*(_values_of(nbformat.read(path, as_version=4)) for path in paths))
    for path in VALUES.glob("*.csv"):
        if path.name not in linked:
            path.unlink()


def _execute(template: Path, parameters: dict[str, Any], fingerprint: str) -> None:
    """Execute one notebook into `book/executed/`."""
    name, executed = template.stem, EXECUTED / template.name
    draft = EXECUTED / f".{name}.draft.ipynb"
    try:
        notebook = papermill.execute_notebook(
            str(template),
            str(draft),
            parameters=parameters,
            progress_bar=False,
            execution_timeout=CELL_TIMEOUT_S,
            # The kernel listens on loopback only, with signed messages, and is interrupted when it is done: neither is
            # worth a line for every chapter. What a cell raises comes back by itself.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        raise NotebookError(f"{name} failed in cell {error.cell_index + 1}: {error.ename}: {error.evalue}") from None
    finally:
        draft.unlink(missing_ok=True)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            tags.append("hide-input")
        elif "parameters" in tags:
            tags.append("remove-cell")  # what it holds does not count any more
    drawings = _take_out_drawings(notebook)
    notebook.metadata["l3muscle"] = {"inputs": fingerprint, "drawings": drawings}
    # Papermill notes where and when it ran: neither belongs on a page.
    notebook.metadata.pop("papermill", None)
    nbformat.write(notebook, draft)
    draft.replace(executed)


def _reads_chapters(template: Path) -> bool:
    """Whether a notebook looks at the other executed chapters (`shown_labels`), so that it has to come after them."""
    return nbformat.read(template, as_version=4).metadata.get("l3muscle", {}).get("reads_chapters", False)


def _remove_unshown_drawings(paths: list[Path]) -> None:
    """Remove the narrow drawings of figures that no chapter has any more."""
    shown = {_figure(cell) for path in paths for cell in nbformat.read(path, as_version=4).cells}
    for path in NARROW.glob("*.svg"):
        # The build puts dark copies beside them.
        if path.name.removesuffix(".svg").removesuffix(".dark") not in shown:
            path.unlink()


def _figure(cell: nbformat.NotebookNode) -> str | None:
    """Name of the figure that a cell shows."""
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("name")


def _take_out_drawings(notebook: nbformat.NotebookNode) -> list[str]:
    """Put narrow drawings of a notebook's figures into files, and what the figures say into their alternative text.

    Returns the names of the figures that have one.
    """
    NARROW.mkdir(exist_ok=True)
    drawn = []
    for cell in notebook.cells:
        name = _figure(cell)
        if name is None:
            continue
        place = NARROW / f"{name}.svg"
        place.unlink(missing_ok=True)  # a figure may have lost its drawing, as where a source task is not run
        for output in cell.get("outputs", []):
            drawing, said = (output.get("data", {}).pop(kind, "") for kind in (NARROW_DRAWING, SAID))
            if drawing:
                place.write_text("".join(drawing), encoding="utf-8")
                drawn.append(name)
            if said:
                cell.metadata["mystnb"]["image"]["alt"] += f" {''.join(said)}"
    return drawn


def execute_notebooks(
    results: StudyResults, *, profile: str, runs: Path, workers: int = 1, say: Callable[[str], None] = print
) -> list[Path]:
    """Execute every chapter's notebook whose inputs have changed since it was last executed.

    Parameters
    ----------
    results : StudyResults
    profile : str
        Passed to the notebooks, with `runs`, as papermill parameters.
    runs : Path
    workers : int
        Notebooks that are executed at the same time, each in a kernel of its own.
    say : callable
        Takes one line of text.

    Returns
    -------
    list of Path
        The executed notebooks, under `book/executed/`, in reading order.

    Raises
    ------
    NotebookError
        Naming the notebook and the error of the cell that failed.
    """
    EXECUTED.mkdir(parents=True, exist_ok=True)
    templates = check_notebooks()
    for path in EXECUTED.glob("*.ipynb"):
        if path.name not in {template.name for template in templates}:
            path.unlink()  # of a chapter that is no more: nothing may be taken from it
    parameters = {"profile": profile, "runs": str(runs)}
    for template in templates:
        check_parameters(template, parameters)

    inputs = _inputs(parameters, results)
    speaking = Lock()

    def say_of(template: Path, what: str) -> None:
        with speaking:
            say(f"{template.stem}: {what}")

    def bring_up_to_date(template: Path) -> None:
        fingerprint = hashlib.sha256(inputs + template.read_bytes()).hexdigest()
        if _is_current(EXECUTED / template.name, fingerprint):
            say_of(template, "up to date")
            return
        say_of(template, "executing")
        _execute(template, parameters, fingerprint)

    last = [template for template in templates if _reads_chapters(template)]
    for group in ([template for template in templates if template not in last], last):
        # The threads only wait for their kernels.
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(bring_up_to_date, template) for template in group]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    paths = [EXECUTED / template.name for template in templates]
    _remove_unlinked_values(paths)
    _remove_unshown_drawings(paths)
    return paths


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
    NotebookError
        With jupyter-book's last lines.
    """
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", ".", "--path-output", "book", "-W", "-n", "--keep-going"]
    say("building the pages")
    outcome = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    )
    if outcome.returncode:
        tail = "\n".join((outcome.stdout + outcome.stderr).strip().splitlines()[-40:])
        raise NotebookError(f"jupyter-book found faults:\n{tail}")
    remove_unshown_pictures(SITE)
    return SITE / "index.html"
