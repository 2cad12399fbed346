"""How a study's time and memory grow with n, image size, models and workers; as `l3muscle.forecast` says, and measured.

One thing is changed at a time, from four models of the profile `laptop` on a small cohort. Each run is forecast first
and then made, in a process of its own, from an empty folder; its memory is that of all its processes together, looked
at every tenth of a second.
"""

import contextlib
import io
import threading
import time
from pathlib import Path
from typing import Any

from harness import Rows, Side, SideFailed, Work

PART = "scaling"
RUN_S = 900
PATIENTS, TEST_PATIENTS, PIXELS = 60, 8, 256
MODELS = {4: (2, 1), 8: (2, 2), 16: (2, 4)}  # number: subsets and repeats of two folds
BASE = {"n_train": 10, "shape": (104, 148), "models": 4, "workers": 1}


class _Memory(threading.Thread):
    """Watches the memory of this process and all that it starts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._over = threading.Event()

    def run(self) -> None:
        import psutil

        own = psutil.Process()
        while not self._over.wait(0.1):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.peak


def study_run(folder: str, n_train: int, shape: tuple[int, int], models: int, workers: int, steps: int) -> Work:
    """Forecast and run one study."""

    def outcome() -> dict[str, Any]:
        import tempfile

        from l3muscle.forecast import forecast
        from l3muscle.profile import load_profile
        from l3muscle.runner import run_study
        from l3muscle.study import Study

        subsets, repeats = MODELS[models]
        profile = load_profile(
            "laptop",
            cohort={"patients": PATIENTS, "test_patients": TEST_PATIENTS, "size": PIXELS},
            image={"shape": shape},
            training={"max_steps": steps, "validate_every": max(1, steps // 2)},
            grid={
                "source_tasks": ["random"], "sizes": [n_train], "folds": 2, "subsets": subsets, "repeats": repeats
            },
        )  # fmt: skip

        def study() -> Study:
            return Study(profile, runs=Path(tempfile.mkdtemp(dir=folder)), cohort_folder=Path(folder) / "phantom")

        def silent(line: str) -> None:
            pass

        with contextlib.redirect_stdout(io.StringIO()):
            predicted = forecast(study(), workers=workers, say=silent)
            memory, run = _Memory(), study()
            memory.start()
            started = time.perf_counter()
            progress = run_study(run, workers=workers, say=silent)
            seconds = time.perf_counter() - started
            peak = memory.stop()
        if not progress.complete:
            raise RuntimeError("the study did not come to its end")
        return {
            "seconds": (predicted.seconds, seconds),
            "memory": (predicted.memory / 2**20, peak / 2**20),
        }

    return Work(lambda: None, 1, outcome)


SIDES = {"study": study_run}


def _cases(size) -> list[tuple[str, dict]]:
    cases = []
    for name, values in size.grow.items():
        for value in values:
            shown = f"{value[0]} x {value[1]}" if name == "shape" else str(value)
            words = {"n_train": "n", "shape": "image", "models": "models", "workers": "workers"}
            cases.append((f"{words[name]} = {shown}", {**BASE, name: value}))
    return cases


def run(rows: Rows, size, folder: Path) -> None:
    """Forecast, run, compare."""
    import torch

    from l3muscle.phantom.patients import write_phantom

    write_phantom(
        folder / "phantom", patients=PATIENTS, size=PIXELS, test_patients=TEST_PATIENTS, workers=min(2, size.cores)
    )
    known: dict[tuple, dict] = {}
    for case, given in _cases(size):
        key = tuple(given.values())
        if key not in known:
            side = Side(__name__, "study")
            try:
                side.ask("prepare", {"folder": str(folder), "steps": size.study_steps, **given}, 1)
                known[key] = side.ask("outcome", seconds=RUN_S)
            except SideFailed as error:
                rows.missing(PART, case, "time", "measured", str(error), unit="s")
                continue
            finally:
                side.close()
        for quantity, unit in (("time", "s"), ("memory", "MiB")):
            name = "seconds" if unit == "s" else "memory"
            for who, value in zip(("predicted", "measured"), known[key][name], strict=True):
                rows.add(PART, case, quantity, who, [value], unit=unit)
    if not torch.cuda.is_available():
        rows.missing(PART, "profile paper, one GPU", "time", "measured", "no GPU", unit="s")
