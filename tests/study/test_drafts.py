"""Drafts: whole or absent, and told apart by who writes them."""

import hashlib
import os
import re
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
    began = int(psutil.Process().create_time())
    assert re.fullmatch(rf"\.scores\.csv\.{drafts._machine()}-{os.getpid()}-{began}-[0-9a-f]{{8}}\.draft", one.name)


def test_a_machine_is_told_by_its_name_and_by_its_process_numbers(monkeypatch):
    def digits(node: str, space: str | None) -> str:
        def readlink(path: str) -> str:
            assert path == "/proc/self/ns/pid"
            if space is None:
                raise OSError
            return space

        monkeypatch.setattr("platform.node", lambda: node)
        monkeypatch.setattr("os.readlink", readlink)
        return drafts._machine.__wrapped__()

    assert digits("one", "pid:[1]") == hashlib.sha256(b"one pid:[1]").hexdigest()[:8]
    # Where the system does not say, the name has to do.
    assert digits("one", None) == hashlib.sha256(b"one ").hexdigest()[:8]
    assert len({digits(node, space) for node in ("one", "two") for space in ("pid:[1]", "pid:[2]", None)}) == 6


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


class Writer:
    """A process that began at 1000.5 s, as psutil shows one."""

    def __init__(self, number: int) -> None:
        assert number == 77

    def create_time(self) -> float:
        return 1000.5

    def status(self) -> str:
        return psutil.STATUS_SLEEPING


@pytest.mark.parametrize(("began", "kept"), [(990, False), (991, True), (1000, True), (1010, True), (1011, False)])
def test_a_process_that_began_ten_seconds_off_is_another_one(tmp_path, monkeypatch, began, kept):
    draft = of_process(tmp_path / "a", 77, began)
    draft.write_text("x")
    monkeypatch.setattr("psutil.Process", Writer)
    remove_abandoned(tmp_path)
    assert draft.exists() is kept


def test_a_difference_of_just_ten_seconds_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.Process", Writer)
    monkeypatch.setattr(Writer, "create_time", lambda self: 1000.0)
    for began in (990, 1010):
        draft = of_process(tmp_path / "a", 77, began)
        draft.write_text("x")
        remove_abandoned(tmp_path)
        assert not draft.exists()


def test_a_process_that_has_ended_and_is_not_yet_waited_for_writes_no_more(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process = psutil.Process(ended.pid)
        draft = of_process(tmp_path / "a", ended.pid, process.create_time())
        draft.write_text("x")
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        remove_abandoned(tmp_path)
        assert not draft.exists()


def test_a_day_of_another_machine_has_24_hours(tmp_path, monkeypatch):
    draft = of_process(tmp_path / "a", 1, 0, machine="00000000")
    draft.write_text("x")
    os.utime(draft, (5.0, 5.0))
    for now, kept in ((5.0 + 24 * 60 * 60, True), (6.0 + 24 * 60 * 60, False)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        remove_abandoned(tmp_path)
        assert draft.exists() is kept


def test_a_draft_that_another_process_removes_meanwhile_is_left_to_it(tmp_path):
    # A link to nothing: what has an entry in the folder and cannot be looked at.
    draft = of_process(tmp_path / "a", 1, 0, machine="00000000")
    draft.symlink_to(tmp_path / "nothing")
    remove_abandoned(tmp_path)
    assert draft.is_symlink()


@pytest.mark.parametrize(
    "name",
    [
        ".a.{machine}-{process}-0-0123abcd.other",
        ".a.{machine}-{process}-0-0123abc.draft",
        ".a.{machine}-{process}-0123abcd.draft",
        ".a.{machine}-x-0-0123abcd.draft",
        ".a.{machine}-{process}-0-0123ABCD.draft",
        "a.{machine}-{process}-0-0123abcd.draft",
    ],
)
def test_what_is_named_otherwise_is_no_draft(tmp_path, name):
    path = tmp_path / name.format(machine=drafts._machine(), process=2**22 + 1)
    path.write_text("x")
    remove_abandoned(tmp_path)
    assert path.exists()


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


def test_a_draft_that_was_never_written_takes_no_place(tmp_path):
    place = tmp_path / "plan.json"
    place.write_text("old")
    with pytest.raises(FileNotFoundError), drafted(place):
        pass
    assert place.read_text() == "old" and names(tmp_path) == ["plan.json"]


def test_the_error_is_that_of_the_block_even_where_its_draft_cannot_be_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), drafted(tmp_path / "plan.json") as draft:
        draft.mkdir()
        _ = 1 / 0


def test_a_file_or_a_folder_is_set_aside_under_its_own_name(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "a.b").write_text(content)
        set_aside(tmp_path / "a.b")
        assert names(tmp_path) == ["a.b.damaged"] and (tmp_path / "a.b.damaged").read_text() == content
    (tmp_path / "a.b").mkdir()
    set_aside(tmp_path / "a.b")
    assert names(tmp_path) == ["a.b.damaged"] and (tmp_path / "a.b.damaged").is_dir()


def test_what_cannot_be_set_aside_stays(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(OSError(13, "Permission denied")))
    set_aside(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_as_much_of_a_folder_is_removed_as_can_be(tmp_path, monkeypatch):
    for name in ("held", "other"):
        (tmp_path / "folder" / name).mkdir(parents=True)
    rmdir = os.rmdir

    def refuse(path, **settings):
        if str(path).endswith("held"):
            raise OSError(16, "Device or resource busy")
        rmdir(path, **settings)

    monkeypatch.setattr("os.rmdir", refuse)
    remove(tmp_path / "folder")
    assert names(tmp_path / "folder") == ["held"]


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
