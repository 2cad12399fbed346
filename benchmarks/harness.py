"""Comparisons side by side: every side in a process of its own, timed in turn, its failure a row and no crash.

A side is one way of doing some work: ours, or a peer's. It lives in a process of its own, so that no library's threads,
allocator or crash reach another, and its peak memory is its own. The sides of a comparison are timed in turn, round
after round (ours, theirs, ours, theirs ...), so that a machine whose speed drifts slows all of them; a ratio is taken
within a round.
"""

import csv
import importlib
import math
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("part", "case", "quantity", "unit", "better", "side", "repeat", "value", "note")
START_S = 300  # for a process to start and import its library
CALL_S = 300  # for one call


class NotOffered(Exception):
    """A library that has nothing for a case, in words."""


class SideFailed(Exception):
    """A side that cannot do its work, with the reason in one line."""


@dataclass
class Work:
    """What a side does in one case.

    Attributes
    ----------
    run : callable
        What is timed; where it returns a float, so many seconds of it are taken off.
    units : int
        Pairs, images or steps in one call.
    outcome : callable, optional
        What comes of it, to be compared; not timed.
    """

    run: Callable[[], object]
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


def peak_memory() -> int:
    """Most memory that this process ever held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].rstrip(": ")


def _serve(connection, folder: str, module: str, name: str) -> None:
    """Answer the parent until it says stop."""
    sys.path.insert(0, folder)
    work = None
    while True:
        try:
            verb, *payload = connection.recv()
        except EOFError:  # the parent is gone
            return
        if verb == "stop":
            return
        try:
            if verb == "prepare":
                case, threads = payload
                work = importlib.import_module(module).SIDES[name](**case)
                limit_threads(threads)
                answer = work.units
            elif verb == "time":
                started, off = time.perf_counter(), 0.0
                for _ in range(payload[0]):
                    returned = work.run()
                    off += returned if isinstance(returned, float) else 0.0
                answer = time.perf_counter() - started - off
            elif verb == "outcome":
                answer = None if work.outcome is None else work.outcome()
            else:
                answer = peak_memory()
        except (ImportError, NotOffered) as error:
            connection.send(("failed", str(error)))
        except Exception as error:
            traceback.print_exc()
            connection.send(("failed", _reason(error)))
        else:
            connection.send(("done", answer))


class Side:
    """One side's process.

    Parameters
    ----------
    module : str
        A module of this folder with a mapping `SIDES` from names to functions that take a case and return `Work`.
    name : str
    """

    def __init__(self, module: str, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        folder = str(Path(__file__).resolve().parent)
        # Not a daemon: some sides start processes themselves.
        self._process = context.Process(target=_serve, args=(other, folder, module, name))
        self._process.start()
        other.close()

    def tell(self, verb: str, *payload: Any) -> None:
        """Ask, without waiting for the answer."""
        try:
            self._connection.send((verb, *payload))
        except OSError:
            raise SideFailed(f"its process ended with {self._process.exitcode}") from None

    def hear(self, seconds: float) -> Any:
        """Wait for the answer."""
        if not self._connection.poll(seconds):
            self._process.kill()
            raise SideFailed(f"took longer than {seconds:.0f} s")
        try:
            state, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise SideFailed(f"its process ended with {self._process.exitcode}") from None
        if state == "failed":
            raise SideFailed(answer)
        return answer

    def ask(self, verb: str, *payload: Any, seconds: float = CALL_S) -> Any:
        """Ask and wait."""
        self.tell(verb, *payload)
        return self.hear(seconds)

    def close(self) -> None:
        """End the process."""
        try:
            self._connection.send(("stop",))
            self._process.join(10)
        except OSError:
            pass
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Sides:
    """The sides of a comparison, for a `with` block."""

    def __init__(self, module: str, names: Iterable[str]) -> None:
        self._members = {name: Side(module, name) for name in names}

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *exception: object) -> None:
        for side in self._members.values():
            side.close()

    def __getitem__(self, name: str) -> Side:
        return self._members[name]

    def prepare(self, case: Mapping[str, Any], threads: int) -> tuple[dict[str, int], dict[str, str]]:
        """Make every side ready for a case: the units of each one's work, and why others cannot."""
        units, failed = {}, {}
        for name, side in self._members.items():
            try:
                side.tell("prepare", dict(case), threads)
            except SideFailed as error:
                failed[name] = str(error)
        for name, side in self._members.items():
            if name not in failed:
                try:
                    units[name] = side.hear(START_S)
                except SideFailed as error:
                    failed[name] = str(error)
        return units, failed

    def alternate(
        self, units: Mapping[str, int], *, rounds: int, block_s: float
    ) -> tuple[dict[str, list[float]], dict[str, str]]:
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
        (dict, dict)
            Seconds a unit, one a round, by side; and the reason of each side that failed on the way.
        """
        counts: dict[str, int] = {}
        failed: dict[str, str] = {}
        for name in units:
            try:
                self[name].ask("time", 1)  # warms up
                counts[name] = max(1, math.ceil(block_s / max(self[name].ask("time", 1), 1e-7)))
            except SideFailed as error:
                failed[name] = str(error)
        seconds: dict[str, list[float]] = {name: [] for name in counts}
        for _ in range(rounds):
            for name in list(seconds):
                try:
                    taken = self[name].ask("time", counts[name])
                    seconds[name].append(taken / counts[name] / units[name])
                except SideFailed as error:
                    failed[name] = str(error)
                    del seconds[name]
        return seconds, failed


class Rows:
    """The table of results, written row by row, so that what was measured survives whatever comes later."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(
        self,
        part: str,
        case: str,
        quantity: str,
        side: str,
        values: Iterable[float],
        *,
        unit: str = "",
        better: str = "lower",
        note: str = "",
    ) -> None:
        """Add the repeats of one side."""
        for repeat, value in enumerate(values):
            self._writer.writerow((part, case, quantity, unit, better, side, repeat, f"{value:.6g}", note))
        self._file.flush()

    def missing(
        self, part: str, case: str, quantity: str, side: str, why: str, *, unit: str = "", better: str = "lower"
    ) -> None:
        """Add a side that has no value here, and why."""
        self._writer.writerow((part, case, quantity, unit, better, side, "", "", f"n/a ({why})"))
        self._file.flush()
        print(f"  {side}: n/a ({why})", flush=True)

    def close(self) -> None:
        """End the table."""
        self._file.close()
