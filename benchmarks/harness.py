"""Comparisons side by side: every side in a process of its own, timed in turn, its failure a row and no crash.

A side is one way of doing some work: ours, or a peer's. It lives in a process of its own, so that no library's threads,
allocator or crash reach another. The sides of a comparison are timed in turn, round after round (ours, theirs, ours,
theirs ...), so that a machine whose speed drifts slows all of them; a ratio is taken within a round.
"""

import csv
import importlib
import math
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("part", "case", "quantity", "unit", "better", "side", "repeat", "value", "note")
# What a row can hold: its unit, and which side of it is better.
QUANTITIES = {
    "time a pair": ("ms", "lower"),
    "time a file": ("ms", "lower"),
    "time a step": ("ms", "lower"),
    "images a second": ("1/s", "higher"),
    "contrast kept": ("", "higher"),
    "Dice": ("", "higher"),
    "steps": ("", "higher"),
    "CPU time of training": ("s", "lower"),
    "time with all around it": ("s", "lower"),
}


class NotOffered(Exception):
    """A library that has nothing for a case, in words."""


class SideFailed(Exception):
    """A side that cannot do its work, with the reason in one line."""


@dataclass
class Work:
    """What a side does in one case.

    Attributes
    ----------
    run : callable, optional
        What is timed; where it returns a float, so many seconds of it are taken off.
    units : int
        Pairs, images or steps in one call.
    outcome : callable, optional
        What comes of it, to be compared; not timed.
    """

    run: Callable[[], object] | None = None
    units: int = 1
    outcome: Callable[[], Any] | None = None


def limit_threads(count: int) -> None:
    """Let every library of this process use so many threads, those that it has not imported yet too."""
    from threadpoolctl import threadpool_limits

    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))
    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(count)
    if "SimpleITK" in sys.modules:
        sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(count)


# --- in the process of a side ---------------------------------------------------------------------------------

_work = Work()


def _prepare(module: str, name: str, case: Mapping[str, Any], threads: int) -> int:
    global _work
    _work = importlib.import_module(module).SIDES[name](**case)
    limit_threads(threads)
    return _work.units


def _time(count: int) -> float:
    started, off = time.perf_counter(), 0.0
    for _ in range(count):
        returned = _work.run()
        off += returned if isinstance(returned, float) else 0.0
    return time.perf_counter() - started - off


def _outcome() -> Any:
    return _work.outcome()


def _in_one_line(function: Callable, *arguments: Any) -> Any:
    """Call, and turn whatever goes wrong into a reason that any process can read."""
    try:
        return function(*arguments)
    except (ImportError, NotOffered) as error:
        raise SideFailed(str(error)) from None
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().partition("\n")[0]
        raise SideFailed(f"{type(error).__name__}: {first}"[:160].rstrip(": ")) from None


# --- in the process that compares -----------------------------------------------------------------------------


class Side:
    """One side's process.

    Parameters
    ----------
    module : str
        A module of this folder with a mapping `SIDES` from names to functions that take a case and return `Work`.
    name : str
    """

    def __init__(self, module: str, name: str) -> None:
        self._side = module, name
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.shutdown()

    def _ask(self, function: Callable, *arguments: Any) -> Any:
        try:
            return self._process.submit(_in_one_line, function, *arguments).result()
        except BrokenProcessPool:
            raise SideFailed("its process died") from None

    def prepare(self, case: Mapping[str, Any], threads: int) -> int:
        """Make the side ready for a case; returns the units of its work."""
        return self._ask(_prepare, *self._side, dict(case), threads)

    def time(self, count: int) -> float:
        """Seconds that the work takes so many times."""
        return self._ask(_time, count)

    def outcome(self) -> Any:
        """What comes of the work."""
        return self._ask(_outcome)


class Sides:
    """The sides of a comparison, for a `with` block.

    Attributes
    ----------
    failed : dict of str to str
        Why a side has nothing for the case that was asked for last.
    """

    def __init__(self, module: str, names: Iterable[str]) -> None:
        self._members = {name: Side(module, name) for name in names}
        self.failed: dict[str, str] = {}

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *exception: object) -> None:
        for side in self._members.values():
            side.__exit__()

    def _of_each(self, names: Iterable[str], ask: Callable[[str, Side], Any]) -> dict[str, Any]:
        """Answers of those sides that have one."""
        answers = {}
        for name in names:
            try:
                answers[name] = ask(name, self._members[name])
            except SideFailed as error:
                self.failed[name] = str(error)
        return answers

    def prepare(self, case: Mapping[str, Any], threads: int) -> dict[str, int]:
        """Make every side ready for a case: the units of each one's work."""
        self.failed = {}
        return self._of_each(self._members, lambda _, side: side.prepare(case, threads))

    def alternate(self, units: Mapping[str, int], *, rounds: int, block_s: float) -> dict[str, list[float]]:
        """Time prepared sides in turn.

        Parameters
        ----------
        units : mapping of str to int
            From `prepare`.
        rounds : int
        block_s : float
            A side repeats its work within a round for about so long, so that the clock's grain does not matter.

        Returns
        -------
        dict of str to list of float
            Seconds a unit, one a round, by side; none of a side that failed on the way.
        """

        def count(_: str, side: Side) -> int:
            side.time(1)  # warms up
            return max(1, math.ceil(block_s / max(side.time(1), 1e-7)))

        counts = self._of_each(units, count)
        seconds: dict[str, list[float]] = {name: [] for name in counts}
        for _ in range(rounds):
            taken = self._of_each(list(seconds), lambda name, side: side.time(counts[name]))
            seconds = {name: [*seconds[name], one / counts[name] / units[name]] for name, one in taken.items()}
        return seconds

    def outcomes(self, names: Iterable[str]) -> dict[str, Any]:
        """What comes of the work of prepared sides."""
        return self._of_each(names, lambda _, side: side.outcome())


class Rows:
    """The table of results, written row by row, so that what was measured survives whatever comes later."""

    def __init__(self, path: Path, kept: Iterable[list[str]] = ()) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerows([COLUMNS, *kept])

    def add(
        self, part: str, case: str, quantity: str, side: str, values: Iterable[float], *, unit: str = "", first: int = 0
    ) -> None:
        """Add repeats of one side, of which `first` is the number of the first.

        A quantity that is not in `QUANTITIES` has a unit, and is better low.
        """
        unit, better = QUANTITIES.get(quantity, (unit, "lower"))
        for repeat, value in enumerate(values, first):
            self._writer.writerow((part, case, quantity, unit, better, side, repeat, f"{value:.6g}", ""))
        self._file.flush()

    def add_times(
        self, part: str, case: str, quantity: str, seconds: Mapping[str, list[float]], failed: Mapping[str, str]
    ) -> None:
        """Add what `Sides.alternate` gave, in the unit of the quantity, and the sides that have nothing."""
        self.missing(part, case, quantity, failed)
        is_rate = QUANTITIES[quantity][0] == "1/s"
        for side, taken in seconds.items():
            self.add(part, case, quantity, side, (1 / value if is_rate else 1e3 * value for value in taken))

    def missing(self, part: str, case: str, quantity: str, failed: Mapping[str, str]) -> None:
        """Add the sides that have no value here, and why."""
        unit, better = QUANTITIES.get(quantity, ("", "lower"))
        for side, why in failed.items():
            self._writer.writerow((part, case, quantity, unit, better, side, "", "", f"n/a ({why})"))
            print(f"  {side}: n/a ({why})", flush=True)
        self._file.flush()

    def close(self) -> None:
        """End the table."""
        self._file.close()
