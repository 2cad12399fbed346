"""Tables as Markdown text, for the pages of the book, and their values as CSV files beside it."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

VALUES = Path("book/executed/values")
_LINK = re.compile(rf"\{{download\}}`[^`<]*<(/{VALUES.as_posix()}/[^>`]+)>`")


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table from rows of text; the first row's keys are the header."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def by_size(
    table: pd.DataFrame, labels: Mapping[str, str], sizes: Sequence[int], text: Callable[[Any], str]
) -> list[dict[str, str]]:
    """Rows of a table of cells: one row a source task, one column a training-set size.

    Parameters
    ----------
    table : DataFrame
        One row a cell: source_task, n_train, and what `text` reads.
    labels : mapping of str to str
        How each source task is called; the rows come in this order.
    sizes : sequence of int
        The columns.
    text : callable
        Makes the text of a cell from its row, a named tuple.

    Returns
    -------
    list of dict
        For `numbered_table`; a cell that the table lacks is called not run.
    """
    texts = {(row.source_task, row.n_train): text(row) for row in table.itertuples()}
    return [
        {"source task": label, **{f"n = {n}": texts.get((task, n), "not run") for n in sizes}}
        for task, label in labels.items()
    ]


def interval_text(mean: float, low: float, high: float, digits: int = 3) -> str:
    """A mean and, in small letters below it, its interval."""
    if mean != mean:
        return "n/a"
    spread = "" if low != low else f" <small>({low:.{digits}f}–{high:.{digits}f})</small>"
    return f"{mean:.{digits}f}{spread}".replace("-", "−")


def numbered_table(
    rows: Sequence[dict[str, Any]],
    *,
    caption: str,
    name: str,
    data: pd.DataFrame | None = None,
    prose: bool = False,
    in_print: bool = False,
) -> str:
    """A table with a caption and a number, which `{numref}` can refer to by `name`.

    Parameters
    ----------
    rows : sequence of dict
        Text, one dict a row.
    caption, name : str
    data : DataFrame, optional
        The values behind the text: written as a CSV file, with a link to it below the table (`data_link`).
    prose : bool
        Whether cells hold sentences, whose lines are broken to fit the page; those of numbers stay in one line.
    in_print : bool
        Whether all of it is the paper's, so that its label does not call it measured.

    Returns
    -------
    str
        Markdown.
    """
    classes = " ".join(one for one, wanted in (("l3-prose", prose), ("l3-in-print", in_print)) if wanted)
    style = f":class: {classes}\n" if classes else ""
    table = f"```{{table}} {caption}\n:name: {name}\n{style}\n{markdown_table(rows)}\n```\n"
    return table if data is None else f"{table}\n{data_link(data, name)}"


def data_link(data: pd.DataFrame, name: str) -> str:
    """Write the values behind a figure or table as CSV, and say where they can be had.

    Parameters
    ----------
    data : DataFrame
    name : str
        Of the figure or table; the file is `book/executed/values/<name>.csv`, in the working folder or, as a notebook
        may be run from where it lies, in the one above it.

    Returns
    -------
    str
        Markdown: a link that the book's pages turn into a download.
    """
    folder = (Path() if Path(VALUES.parts[0]).is_dir() else Path("..")) / VALUES
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    data.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    return f"```{{div}} l3-data\n{{download}}`CSV </{(VALUES / path.name).as_posix()}>`\n```\n"


def linked_values(text: str) -> set[str]:
    """Names of the CSV files that a page's text links to, as `data_link` writes them."""
    return {link.rpartition("/")[2] for link in _LINK.findall(text)}
