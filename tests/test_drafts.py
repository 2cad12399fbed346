"""Drafts: whole or absent, and told apart by who writes them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from l3muscle import drafts
from l3muscle.drafts import draft_of, drafted, remove, remove_abandoned, set_aside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def of_process(path: Path, process: int, began: float, machine: str | None = None) -> Path:
    """The draft that another process would have made."""
    return path.with_name(f".{path.name}.{machine or drafts._machine()}-{process}-{int(began)}-0123abcd.draft")


def test_a_draft_lies_hidden_beside_its_place_and_no_two_are_the_same(tmp_path):
    place = tmp_path / "scores.csv"
    one, other = draft_of(place), draft_of(place)
    assert one != other and one.parent == tmp_path
    assert one.name.startswith(".scores.csv.") and one.name.endswith(".draft")
    assert f"-{os.getpid()}-" in one.name


def test_only_drafts_of_the_dead_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, began = draft_of(tmp_path / "a"), psutil.Process().create_time()
    left = {
        mine,
        # Another one's clock may be set by some seconds.
        of_process(tmp_path / "b", os.getpid(), began + drafts.START_TOLERANCE_S - 2),
        of_process(tmp_path / "c", os.getpid(), began, machine="00000000"),
        tmp_path / ".hidden",
        tmp_path / ".odd.draft",
        tmp_path / "kept",
    }
    gone = {
        of_process(tmp_path / "d", dead.pid, time.time()),
        # The number of a process comes back; when it began does not.
        of_process(tmp_path / "e", os.getpid(), began - drafts.START_TOLERANCE_S - 2),
    }
    folder = of_process(tmp_path / "f", dead.pid, time.time())
    folder.mkdir()
    for path in (*left, *gone, folder / "inside"):
        path.write_text("x")
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == left


def test_drafts_of_other_machines_are_given_a_day(tmp_path):
    young, old = (of_process(tmp_path / name, 1, 0, machine="00000000") for name in "ab")
    for path, age in ((young, drafts.FOREIGN_AGE_S - 60), (old, drafts.FOREIGN_AGE_S + 60)):
        path.write_text("x")
        os.utime(path, (time.time() - age,) * 2)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_drafts_of_one_name_may_be_meant(tmp_path):
    one, other = (of_process(tmp_path / name, 2**22 + 1, 0) for name in ("a", "b"))
    for path in (one, other):
        path.write_text("x")
    remove_abandoned(tmp_path, "a")
    assert list(tmp_path.iterdir()) == [other]
    remove_abandoned(tmp_path / "nowhere")


def test_what_is_written_takes_its_place_at_the_end_and_at_once(tmp_path):
    place = tmp_path / "plan.json"
    place.write_text("old")
    with drafted(place) as draft:
        draft.write_text("new")
        assert place.read_text() == "old"
    assert place.read_text() == "new" and names(tmp_path) == ["plan.json"]


def test_what_fails_leaves_the_old_and_no_draft(tmp_path):
    place = tmp_path / "plan.json"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError), drafted(place) as draft:
        draft.write_text("half")
        _ = 1 / 0
    assert place.read_text() == "old" and names(tmp_path) == ["plan.json"]


def test_a_folder_in_the_way_is_set_aside_and_so_is_only_the_last(tmp_path):
    place = tmp_path / "plan.json"
    for content in ("first", "second"):
        place.unlink(missing_ok=True)
        place.mkdir()
        (place / content).write_text("")
        with drafted(place) as draft:
            draft.write_text("new")
    assert place.read_text() == "new"
    assert names(tmp_path) == ["plan.json", "plan.json.damaged"]
    assert names(tmp_path / "plan.json.damaged") == ["second"]


def test_nothing_to_set_aside_or_remove_is_no_error(tmp_path):
    set_aside(tmp_path / "nothing")
    remove(tmp_path / "nothing")
    assert names(tmp_path) == []


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["file"]
    remove(tmp_path / "folder")
    assert names(tmp_path) == []
