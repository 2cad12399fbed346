"""Tables carry their values to a file that a page can offer."""

from pathlib import Path

import pandas as pd
import pytest

from l3muscle.book.tables import VALUES, by_size, data_link, interval_text, linked_values, numbered_table

VALUES_BEHIND = pd.DataFrame({"n_train": [5, 10], "mean": [0.123456789, 1e-12]})


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", [".", "notebooks"])
def test_values_lie_where_the_link_says(top: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(top / place)
    text = data_link(VALUES_BEHIND, "fig-one")
    assert linked_values(text) == {"fig-one.csv"}
    assert f"</{VALUES.as_posix()}/fig-one.csv>" in text
    written = pd.read_csv(top / VALUES / "fig-one.csv")
    pd.testing.assert_frame_equal(written, VALUES_BEHIND, rtol=1e-5)


def test_a_table_offers_its_values_only_where_it_has_them(top: Path) -> None:
    rows = [{"n": "5", "mean": "0.123"}]
    plain = numbered_table(rows, caption="A caption.", name="tab-one")
    assert linked_values(plain) == set() and not (top / VALUES).exists()
    full = numbered_table(rows, caption="A caption.", name="tab-one", data=VALUES_BEHIND)
    assert full.startswith(plain) and linked_values(full) == {"tab-one.csv"}


def test_cells_stand_by_source_task_and_size() -> None:
    cells = pd.DataFrame({"source_task": ["jigsaw", "random"], "n_train": [5, 10], "mean": [0.5, 0.25]})
    labels = {"random": "random", "jigsaw": "jigsaw"}
    assert by_size(cells, labels, [5, 10], lambda cell: f"{cell.mean:.2f}") == [
        {"source task": "random", "n = 5": "not run", "n = 10": "0.25"},
        {"source task": "jigsaw", "n = 5": "0.50", "n = 10": "not run"},
    ]


def test_an_interval_stands_beside_its_mean_as_far_as_there_is_one() -> None:
    assert interval_text(-0.5, -0.75, 0.125, digits=2) == "−0.50 <small>(−0.75–0.12)</small>"
    assert interval_text(0.5, float("nan"), float("nan")) == "0.500"
    assert interval_text(float("nan"), float("nan"), float("nan")) == "n/a"


def test_only_a_table_of_sentences_breaks_its_lines():
    rows = [{"statement": "a long one"}]
    assert ":class: l3-prose\n" in numbered_table(rows, caption="c", name="tab-one", prose=True)
    assert "l3-prose" not in numbered_table(rows, caption="c", name="tab-one")
    printed = numbered_table(rows, caption="c", name="tab-one", prose=True, in_print=True)
    assert ":class: l3-prose l3-in-print\n" in printed
