"""The harness of `make bench`, without any of the libraries that it compares with."""

import csv
import json
import re
import sys
from pathlib import Path

import pandas as pd
from packaging.requirements import Requirement

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "benchmarks"))

import bench  # noqa: E402
import harness  # noqa: E402
import report  # noqa: E402
from harness import Rows, Sides  # noqa: E402

PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;]+)(?: ; .+)?$")
FAKE = """
import os, time
from harness import NotOffered, Work

def sleeper(seconds):
    return lambda case: Work(lambda: time.sleep(seconds), 2, lambda: case)

def breaks(case):
    count = iter(range(3))
    return Work(lambda: next(count))

def lacks(case):
    raise NotOffered("has no " + case)

def absent(case):
    import a_library_that_is_not_there

def dies(case):
    return Work(lambda: os._exit(3))

SIDES = {"ours": sleeper(0.002), "slower": sleeper(0.006), "breaks": breaks, "lacks": lacks, "absent": absent,
         "dies": dies}
"""


def test_sides_take_turns_and_those_that_fail_say_why(tmp_path, monkeypatch):
    (tmp_path / "fake_sides.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    with Sides("fake_sides", ["ours", "slower", "breaks", "lacks", "absent", "dies"]) as sides:
        units = sides.prepare({"case": "such work"}, threads=1)
        assert set(units) == {"ours", "slower", "breaks", "dies"}
        assert sides.failed["lacks"] == "has no such work"
        assert "a_library_that_is_not_there" in sides.failed["absent"]
        seconds = sides.alternate(units, rounds=5, block_s=0.01)
        assert {name: len(values) for name, values in seconds.items()} == {"ours": 5, "slower": 5}
        assert min(seconds["ours"]) >= 0.001 and min(seconds["slower"]) >= 0.003, "seconds are those of one unit"
        assert sides.failed["breaks"].startswith("StopIteration") and sides.failed["dies"] == "its process died"
        assert sides.outcomes(seconds) == {"ours": "such work", "slower": "such work"}


def test_rows_are_there_as_soon_as_they_are_added(tmp_path, capsys):
    rows = Rows(tmp_path / "scores.csv")
    rows.add("part", "case", "Dice", "ours", [0.5, 0.25])
    rows.add("part", "case", "Dice", "ours", [0.75], first=2)
    rows.missing("part", "case", "Dice", {"theirs": "not installed"})
    with (tmp_path / "scores.csv").open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(harness.COLUMNS)
    assert [row["value"] for row in found] == ["0.5", "0.25", "0.75", ""]
    assert [row["repeat"] for row in found] == ["0", "1", "2", ""]
    assert {row["better"] for row in found} == {"higher"}
    assert found[-1]["note"] == "n/a (not installed)"
    rows.close()


def test_the_measures_run_without_a_peer(tmp_path, capsys):
    assert bench.main(["--size", "tiny", "--parts", "measures", "--out", str(tmp_path)]) == 0
    with (tmp_path / "scores.csv").open() as file:
        found = list(csv.DictReader(file))
    import measures

    assert {row["case"] for row in found} == set(measures.CASES)
    assert all(float(row["value"]) >= 0 for row in found if row["side"] == "ours")
    # scikit-image is installed with this project, and names the same farthest pixels.
    assert "| Hausdorff distance | time a pair | scikit-image |" in (tmp_path / "report.md").read_text()
    distances = [row for row in found if row["case"] == "Hausdorff distance" and "largest" in row["quantity"]]
    assert [float(row["value"]) for row in distances if row["side"] == "scikit-image"] == [0.0]
    # A part that is measured later leaves these rows as they are.
    assert bench.main(["--size", "tiny", "--parts", "reading", "--out", str(tmp_path)]) == 0
    with (tmp_path / "scores.csv").open() as file:
        later = list(csv.DictReader(file))
    assert later[: len(found)] == found and {row["part"] for row in later[len(found) :]} == {"reading"}
    assert {row["value"] for row in later if row["quantity"] == "largest difference"} == {"0"}
    assert json.loads((tmp_path / "provenance.json").read_text())["parts"].keys() == {"measures", "reading"}
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert set(about["peers"]) == set(bench.PEERS) and about["provenance"]["cores"]


def test_a_part_that_breaks_leaves_the_others(tmp_path, capsys, monkeypatch):
    import measures
    import task

    monkeypatch.setattr(measures, "run", lambda rows, size, folder: 1 / 0)
    monkeypatch.setattr(task, "run", lambda rows, size, folder: rows.add("task", "n = 5", "Dice", "ours", [1]))
    assert bench.main(["--size", "tiny", "--parts", "measures", "task", "--out", str(tmp_path)]) == 1
    with (tmp_path / "scores.csv").open() as file:
        assert [row["note"] for row in csv.DictReader(file)] == ["n/a (ZeroDivisionError: division by zero)", ""]


def test_a_report_sets_medians_of_ratios_side_by_side():
    rows = [
        ("measures", "Dice", "time a pair", "ms", "lower", side, repeat, value, "")
        for side, values in (("ours", (1.0, 2.0, 4.0)), ("theirs", (2.0, 2.0, 16.0)))
        for repeat, value in enumerate(values)
    ]
    rows += [(*row[:2], "images a second", "1/s", "higher", *row[5:]) for row in rows]
    rows += [("measures", "Dice", "time a pair", "ms", "lower", "absent", None, None, "n/a (not installed)")]
    rows += [(*row[:2], "Dice", "", "higher", *row[5:]) for row in rows[:6]]
    slower, faster, share = report.compare(pd.DataFrame(rows, columns=harness.COLUMNS)).itertuples()
    # Ratios within a repeat are 2, 1 and 4.
    assert (slower.peer, slower.ours, slower.theirs) == ("theirs", 2, 2)
    assert (slower.gain, slower.low, slower.high) == (2, 1, 4)
    assert (faster.gain, faster.low, faster.high) == (0.5, 0.25, 1)
    # Of shares the differences: -1, 0 and -12.
    assert (share.gain, share.low, share.high) == (-1, -12, 0)


def test_its_lock_agrees_with_ours_and_holds_every_peer():
    def pins(path: Path) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in path.read_text().splitlines():
            if match := PIN.match(line):
                found.setdefault(match["name"], set()).add(match["version"])
            else:
                assert line.lstrip().startswith("#"), f"not an exact pin: {line}"
        return found

    import tomllib

    own, theirs = pins(TOP / "requirements.lock"), pins(TOP / "benchmarks" / "requirements.lock")
    assert {name: theirs[name] for name in own.keys() & theirs.keys() if theirs[name] - own[name]} == {}
    for line in tomllib.loads((TOP / "pyproject.toml").read_text())["dependency-groups"]["bench"]:
        peer = Requirement(line)
        assert all(peer.specifier.contains(version) for version in theirs[peer.name]), line
        assert {specifier.operator for specifier in peer.specifier} == {">=", "<"}
