"""What a chapter shows: a figure or a table with its caption, its number and its values, from one call.

An executed notebook holds everything: the drawing and the values travel in the cell's output. `write_values` puts them
beside it, where the book's pages look for them. In Jupyter the same output is a plain picture or table.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import display

from l3muscle.figures import BookFigure, svg_text

THIS_RUN, PAPER, ILLUSTRATION = "from this run", "from the paper", "an illustration"
SHOWN = "l3muscle"  # key, in the metadata of an output, of the name, CSV and SVG of what it shows
FOLDER = "values"  # beside the executed notebooks
_BOLD, _MARKUP = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"\*\*|</?(?:u|small)>|`")


def show_figure(
    figure: BookFigure | None,
    name: str,
    *,
    caption: str,
    alt: str = "",
    data: pd.DataFrame | None = None,
    origin: str = THIS_RUN,
) -> None:
    """Show a figure with a caption and a number, which `{numref}` can refer to by `name`.

    Parameters
    ----------
    figure : BookFigure or None
        None shows a notice that this run does not have it.
    name : str
        Unique in the book.
    caption : str
        Markdown.
    alt : str
        What the figure shows, for those who cannot see it.
    data : DataFrame, optional
        The values that are drawn; the caption ends with a link to them as a CSV file.
    origin : str
        Where the values come from, as the caption says it.
    """
    if figure is None:
        show_notice(f"Not part of this run: {caption}")
        return
    svg = svg_text(figure, name, alt)
    text = figure_text(f"{FOLDER}/{name}.svg", name, alt, _with_links(caption, name, data, origin))
    html = f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
    _show(name, text, html, {"svg": svg} | _csv(data))


def show_table(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    *,
    caption: str,
    data: pd.DataFrame | None = None,
    prose: bool = False,
    origin: str = THIS_RUN,
) -> None:
    """Show a table with a caption and a number, which `{numref}` can refer to by `name`.

    Parameters
    ----------
    rows : sequence of mapping
        Text in Markdown, one mapping a row; none shows a notice that this run does not have the table.
    name, caption, origin : str
        As of `show_figure`.
    data : DataFrame, optional
        The values behind the text; without them the CSV file holds the text.
    prose : bool
        Whether entries are sentences, whose lines are broken to fit the page; those of numbers stay in one line.
    """
    if not rows:
        show_notice(f"Not part of this run: {caption}")
        return
    if data is None:
        data = pd.DataFrame(rows).map(lambda text: _MARKUP.sub("", str(text)))
    cells = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    lines = ["".join(f"<td>{text}</td>" for text in row.values()) for row in rows]
    body = _BOLD.sub(r"<b>\1</b>", "".join(f"<tr>{line}</tr>" for line in (cells, *lines)))
    html = f"<table><caption>{escape(caption)}</caption>{body}</table>"
    _show(name, table_text(rows, name, _with_links(caption, name, data, origin), prose=prose), html, _csv(data))


def show_notice(text: str) -> None:
    """Show one sentence that says what this run does not have."""
    display({"text/markdown": notice(text), "text/html": f"<p><em>{escape(text)}</em></p>"}, raw=True)


def notice(text: str) -> str:
    """A notice as Markdown."""
    return f"```{{admonition}} Not in this run\n:class: warning l3-not-run\n{text}\n```\n"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table from rows of text; the first row's keys are the header."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(row[name]) for name in rows[0]) + " |" for row in rows]
    return "\n".join(lines)


def figure_text(path: str, name: str, alt: str, caption: str) -> str:
    """A numbered figure, of the file that the page finds at `path`, as Markdown."""
    return f"```{{figure}} {path}\n:name: {name}\n:alt: {alt}\n\n{caption}\n```\n"


def table_text(rows: Sequence[Mapping[str, Any]], name: str, caption: str, *, prose: bool = False) -> str:
    """A numbered table as Markdown."""
    style = ":class: l3-prose\n" if prose else ""
    # Unlike one of backticks, a fence of tildes lets the caption hold some.
    return f"~~~{{table}} {caption}\n:name: {name}\n{style}\n{markdown_table(rows)}\n~~~\n"


def by_size(
    table: pd.DataFrame, labels: Mapping[str, str], sizes: Sequence[int], text: Callable[[Any], str]
) -> list[dict[str, str]]:
    """Rows of a table of configurations: one row a source task, one column a training-set size.

    Parameters
    ----------
    table : DataFrame
        One row a configuration: source_task, n_train, and what `text` reads.
    labels : mapping of str to str
        How each source task is called; the rows come in this order.
    sizes : sequence of int
        The columns.
    text : callable
        Makes the text of an entry from its row, a named tuple.

    Returns
    -------
    list of dict
        For `show_table`; what the table lacks is called not run.
    """
    texts = {(row.source_task, row.n_train): text(row) for row in table.itertuples()}
    return [
        {"source task": label, **{f"n = {n}": texts.get((task, n), "not run") for n in sizes}}
        for task, label in labels.items()
    ]


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number as the pages write it, with a real minus sign; n/a for one that does not exist."""
    return "n/a" if value != value else format(value, f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def interval_text(mean: float, low: float, high: float, digits: int = 3) -> str:
    """A mean and, in small letters below it, its interval."""
    between = " to " if low < 0 else "–"  # no dash beside a minus sign
    spread = "" if low != low else f" <small>({number(low, digits)}{between}{number(high, digits)})</small>"
    return number(mean, digits) + (spread if mean == mean else "")


def _with_links(caption: str, name: str, data: pd.DataFrame | None, origin: str) -> str:
    link = "" if data is None else f" {{download}}`CSV <{FOLDER}/{name}.csv>`"
    return f"{caption} [{origin}]{{.l3-origin}}{link}"


def _csv(data: pd.DataFrame | None) -> dict[str, str]:
    return {} if data is None else {"csv": data.to_csv(index=False, float_format="%.6g", lineterminator="\n")}


def _show(name: str, markdown: str, html: str, files: Mapping[str, str]) -> None:
    shown = {SHOWN: {"name": name, "files": dict(files)}}
    display({"text/markdown": markdown, "text/html": html}, metadata=shown, raw=True)


def write_values(folder: Path) -> None:
    """Write what the executed notebooks of a folder show into `values/` beside them.

    `<name>.svg` of figures, `<name>.csv` of values. What lay there before is removed.
    """
    values = folder / FOLDER
    shutil.rmtree(values, ignore_errors=True)
    values.mkdir()
    for path in folder.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                shown = output.get("metadata", {}).get(SHOWN, {"files": {}})
                for suffix, text in shown["files"].items():
                    (values / f"{shown['name']}.{suffix}").write_text(text, encoding="utf-8")
