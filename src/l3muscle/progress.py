"""How far something is: for a terminal, for a log file, and for the page of an executed notebook."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

# Progress in a log file: a line now and then instead of a bar that redraws itself.
LOG_INTERVAL_S = 15.0
Model = TypeVar("Model")


class _Lines:
    """A log file as tqdm sees it: every update begins a line instead of overwriting the last one."""

    def write(self, text: str) -> None:
        sys.stderr.write(text.replace("\r", "\n"))

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, description: str, *, unit: str, initial: int = 0) -> tqdm:
    """A progress bar on a terminal, a line every quarter of a minute in a file."""
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else LOG_INTERVAL_S
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=terminal,
        smoothing=0.05,
        file=sys.stderr if terminal else _Lines(),
    )


def one_after_another(chosen: Iterable[Model], deadline: float | None = None) -> Iterator[Model]:
    """Go through the models to train, and say in one line of a notebook how far it is.

    Parameters
    ----------
    chosen : iterable
    deadline : float, optional
        As `time.time()` counts. No model is begun that, as the longest so far went, would not be done by then.
    """
    from IPython.display import display

    chosen = list(chosen)
    if not chosen:
        print("all models were trained before, with the same settings")
        return
    line = display({"text/plain": f"0 of {len(chosen)} models trained"}, raw=True, display_id=True)
    began, longest, done = time.perf_counter(), 0.0, 0

    def say(more: str) -> None:
        seconds = time.perf_counter() - began
        text = f"{done} of {len(chosen)} models trained in {seconds:.0f} s{more}"
        if line is not None:
            line.update({"text/plain": text}, raw=True)

    for experiment in chosen:
        if deadline is not None and time.time() + longest > deadline:
            say("; the time is up, and the same command goes on from here")
            return
        say(f"; now {experiment}")
        started = time.perf_counter()
        yield experiment
        longest, done = max(longest, time.perf_counter() - started), done + 1
    say("")
