"""The task with six to sixty times the budget, meant to let every side saturate.

The sides of `task` are given so many times its budget (`LONGER`), one repeat of each. Whether they have saturated, the
rows *half as long* say, of the largest training set.
"""

from pathlib import Path

import task
from harness import Rows

PART = "saturation"
LONGER = {"ours": 6, "ours, random start": 6, "MONAI U-Net": 32, "nnU-Net": 60}


def run(rows: Rows, size, folder: Path) -> None:
    """Compare after as much time as helps."""
    jobs = {
        (f"n = {n_train}, {until}", name, 0): {"n_train": n_train, "repeat": 0, "budget_s": share * times * size.task_s}
        for until, share, sizes in (("to saturation", 1, size.task_n), ("half as long", 0.5, size.task_n[-1:]))
        for n_train in sizes
        for name, times in LONGER.items()
    }
    task.compare(rows, PART, jobs, size, folder)
