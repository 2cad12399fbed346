"""Every executed experiment as a page of the book, and the page that leads to them."""

import ast
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from l3muscle.book.show import markdown_table
from l3muscle.book.viewer import view_address
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.results import notebook_name
from l3muscle.study import StudyResults

INTRODUCTION = """# Experiments

Every model of this run was trained in one of these notebooks: first the source tasks, then a notebook for each
configuration of source task and training-set size. Each page shows the method as it was executed, and says at its top
how to make it again. The numbers are mean Dice coefficients over models and test slices.
"""


def page_address(results: StudyResults, source_task: str, n_train: int) -> str:
    """Address of the page of a configuration, from a chapter; of the viewer where its notebook is not finished."""
    path = results.folder / "notebooks" / f"{notebook_name(source_task, n_train)}.ipynb"
    finished = path.is_file() and "l3muscle" in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    return f"experiments/{path.stem}.html" if finished else view_address(source_task, n_train)


def write_experiment_pages(results: StudyResults, folder: Path) -> None:
    """Write the executed notebooks of a run as pages, and an index of them.

    Parameters
    ----------
    results : StudyResults
    folder : Path
        Replaced if it exists; gets `index.md` and the notebooks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = set()
    for path in sorted((results.folder / "notebooks").glob("*-*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if "l3muscle" not in notebook["metadata"]:
            continue  # failed, or not finished
        _add_title_and_command(notebook)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8")
        pages.add(path.stem)
    (folder / "index.md").write_text(INTRODUCTION + _table(results, pages), encoding="utf-8")


def _add_title_and_command(notebook: dict[str, Any]) -> None:
    """Give a page its own title, and the command that makes it again."""
    given = {}
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            lines = ast.parse("".join(cell["source"])).body
            given |= {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    kind = "experiment" if "n_train" in given else "pretrain"
    given.pop("time_budget_s", None)
    label = SOURCE_TASKS[given["source_task"]].label
    title = f"{label}, n = {given['n_train']}" if kind == "experiment" else f"Source task: {label}"
    options = " \\\n    ".join(
        f"-y {shlex.quote(json.dumps({name: value}))}"
        if isinstance(value, list)
        else f"-p {name} {shlex.quote(str(value))}"
        for name, value in given.items()
    )
    first = notebook["cells"][0]
    command = f"```console\npapermill notebooks/{kind}.ipynb OUT.ipynb \\\n    {options}\n```"
    rest = "".join(first["source"]).partition("\n")[2].strip()
    first["source"] = f"# {title[0].upper()}{title[1:]}\n\n{command}\n\n{rest}"


def _table(results: StudyResults, pages: set[str]) -> str:
    means, rows = {}, []
    if results.records:
        means = results.scores().groupby(["source_task", "n_train"])["dice"].mean().to_dict()
    for task in results.profile.grid.source_tasks:
        source = notebook_name(task)
        learned = f"[how]({source}.ipynb)" if source in pages else "–"
        row = {"source task": SOURCE_TASKS[task].label, "learned": learned}
        for size in results.profile.grid.sizes:
            name = notebook_name(task, size)
            text = f"{means[task, size]:.3f}" if (task, size) in means else "not run"
            row[f"n = {size}"] = f"[{text}]({name}.ipynb)" if name in pages else text
        rows.append(row)
    return f"\n{markdown_table(rows)}\n"
