"""The API reference forgets no module and reads docstrings as they are written."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))

import code_reference  # noqa: E402

PAGES = sorted((Path(__file__).resolve().parents[2] / "book" / "api").glob("*.md"))


def read(*lines: str) -> list[str]:
    text = list(lines)
    code_reference.read_markdown(None, "function", "name", None, None, text)
    return text


def test_every_module_is_on_one_page() -> None:
    patterns = [code_reference._patterns(page.read_text(encoding="utf-8")) for page in PAGES]
    elsewhere = [name for own in patterns for name in own if name != code_reference.REST]
    listed = [name for own in patterns for name in code_reference.chosen(",".join(own), elsewhere) if own]
    assert sorted(listed) == sorted(code_reference.modules())


def test_what_no_page_names_is_the_rest() -> None:
    rest = code_reference.chosen(code_reference.REST, ["cohort*", "source_tasks*"])
    assert "metrics" in rest and not [name for name in rest if name.startswith("cohort")]
    assert code_reference.chosen("cli, losses", []) == ["cli", "losses"]


def test_backticks_are_code_and_names_of_ours_are_links() -> None:
    assert read("`None` or `l3muscle.metrics.dice`") == ["``None`` or :py:obj:`l3muscle.metrics.dice`"]
    assert read(":py:obj:`x` and ``y``") == [":py:obj:`x` and ``y``"]
    assert read("2 |A and B|") == [r"2 \|A and B\|"]


def test_a_fence_becomes_a_block() -> None:
    assert read("As:", "```python", "a | b", "```", "End.") == [
        "As:", "", ".. code-block:: python", "", "   a | b", "", "End.",
    ]  # fmt: skip
