"""Two runs of one study at once, from the phantom on: neither loses, doubles or tears anything of the other's."""

import json
import os
import subprocess
import sys
from pathlib import Path

from small_study import NAME, NOTES, content, difference, litter, write_profile

SMALLER = {
    "cohort": {"patients": 6, "test_patients": 2, "size": 64},
    "training": {"max_steps": 10, "validate_every": 5},
    "grid": {"source_tasks": ["random", "segmentation"], "sizes": [2], "folds": 2, "subsets": 1, "repeats": 1},
}


def test_two_runs_at_once_end_as_one_alone(tmp_path):
    profile = write_profile(tmp_path, **SMALLER)

    def order(runs: str, number: int) -> dict:
        arguments = ["study", "run", "--profile", str(profile), "--runs", str(tmp_path / runs), "--workers", "1"]
        environment = {NOTES: str(tmp_path / f"notes-{runs}"), "OMP_NUM_THREADS": "1"}
        return {"arguments": arguments, "environment": environment, "said": str(tmp_path / f"said-{runs}-{number}")}

    orders = [[order("together", 0), order("together", 1)], order("alone", 0)]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("small_study.py"))],
        input="".join(json.dumps(each) + "\n" for each in orders),
        env={**os.environ, NOTES: os.devnull},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    first, second, *statuses = done.stdout.split()
    said = [path.read_text()[-500:] for path in tmp_path.glob("said-*")]
    assert first != second and statuses[:2] == ["0", "0"] and statuses[3:] == ["0"], said
    alone, together = content(tmp_path / "alone"), content(tmp_path / "together")
    assert together["finished"] == together["planned"] == 4
    assert difference(alone, together) == ""
    assert litter(tmp_path / "together") == []
    # They did meet: both trained, and what came second was dropped.
    notes = [json.loads(line) for line in (tmp_path / "notes-together").read_text().splitlines()]
    trained = {pid for _, pid, what, phase, _ in notes if (what, phase) == ("end", "experiment")}
    assert trained == {int(first), int(second)}
    assert len(list((tmp_path / "together" / NAME / "experiments").iterdir())) == 4
