"""Tables as Markdown text, for the pages of the book."""

from collections.abc import Sequence
from typing import Any


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table from rows of text; the first row's keys are the header."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def numbered_table(rows: Sequence[dict[str, Any]], *, caption: str, name: str) -> str:
    """A table with a caption and a number, which `{numref}` can refer to by `name`."""
    return f"```{{table}} {caption}\n:name: {name}\n\n{markdown_table(rows)}\n```\n"
