"""Every comparison of this project with what people would otherwise use, side by side in one run.

    python benchmarks/bench.py [--size full|quick|tiny] [--parts PART ...] [--update] [--out results/bench]

Five parts: `measures`, `augmentation`, `training_step`, `task`, `scaling`; each module says what it compares and how it
keeps the comparison fair. Each row of `scores.csv` is one value of one side in one repeat; a library that is not
installed, has nothing for a case or fails is a row *n/a* with the reason. `provenance.json` says when, where and with
which versions; `report.md` and `summary.md` set the medians side by side. The machine should have nothing else to do:
about 45 minutes of 2 cores at the size `full`, of which the task takes more than half. `--update` keeps the other parts
of a run of the same size on the same machine.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PARTS = ("measures", "augmentation", "training_step", "task", "scaling")
PEERS = (
    "monai",
    "surface-distance",
    "medpy",
    "simpleitk",
    "scikit-image",
    "torchio",
    "albumentations",
    "opencv-python-headless",
    "kornia",
    "torchvision",
    "batchgeneratorsv2",
    "nnunetv2",
)


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes
    ----------
    rounds : int
        Alternating repeats of every timing.
    block_s : float
        Seconds for which a side repeats its work within a round.
    pairs, images, image_size : int
        Pairs of masks; images of the augmentation; pixels a side of the phantoms.
    draws : int
        Random warps of the resolution phantom.
    networks : tuple
        Training steps: backbone, width, output stride, shape, batch, steps in a block, threads.
    task_s, task_n, task_repeats, task_test : float, tuple of int, int, int
        CPU seconds of each training, slices, repeats (0 leaves the part out), test slices.
    grow : dict
        What grows in `scaling`, and through which values.
    study_steps : int
        Steps of each training there.
    only : tuple of str, optional
        Sides that take part; all where it is empty.
    """

    rounds: int = 5
    block_s: float = 0.25
    pairs: int = 12
    images: int = 4
    image_size: int = 512
    draws: int = 6
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    networks: tuple = ()
    task_s: float = 10.0
    task_n: tuple[int, ...] = (5, 10, 25)
    task_repeats: int = 5
    task_test: int = 12
    grow: dict = field(default_factory=dict)
    study_steps: int = 160
    only: tuple[str, ...] = ()

    def sides_of(self, sides: Iterable[str]) -> list[str]:
        """Those of some sides that take part."""
        return [name for name in sides if not self.only or name in self.only]


def sizes() -> dict[str, Size]:
    """The sizes that can be asked for."""
    cores = os.cpu_count() or 1
    laptop = ("resnet8", 8, 4, (104, 148), 2, 40, 1)
    grow = {
        "n_train": (5, 10, 25),
        "shape": ((52, 74), (104, 148), (208, 296)),
        "models": (4, 8, 16),
        "workers": tuple(sorted({1, min(2, cores), cores})),
    }
    return {
        "full": Size(
            networks=(laptop, ("resnet50", 64, 8, (256, 256), 4, 1, cores)),
            grow=grow,
        ),
        # The same rows in about a quarter of the time, too few repeats to be reported.
        "quick": Size(
            rounds=2,
            block_s=0.05,
            pairs=3,
            draws=2,
            networks=(laptop, ("resnet50", 64, 8, (128, 128), 2, 1, cores)),
            task_s=6,
            task_repeats=1,
            task_test=6,
            grow={name: values[:2] for name, values in grow.items()},
            study_steps=40,
        ),
        # For the tests: every part, ours alone.
        "tiny": Size(
            rounds=2,
            block_s=0.0,
            pairs=1,
            images=1,
            image_size=128,
            draws=1,
            cores=1,
            networks=(("resnet8", 8, 4, (32, 40), 2, 2, 1),),
            task_s=0.2,
            task_n=(2,),
            task_repeats=1,
            task_test=1,
            grow={"models": (4,)},
            study_steps=2,
            only=("ours", "ours, in a chain", "bare network", "matrix product", "ours, random start"),
        ),
    }


def versions() -> dict[str, str | None]:
    """Version of every peer; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def earlier_run(out: Path, about: dict) -> dict:
    """What the run in a folder says of itself, where parts of another may stand beside its own.

    Raises
    ------
    ValueError
        If the two are not of the same size, of the same libraries and on the same kind of machine.
    """
    earlier = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    machine = ("processor", "cores", "gpu", "versions")
    if any(earlier["provenance"][name] != about["provenance"][name] for name in machine) or any(
        earlier[name] != about[name] for name in ("size", "peers")
    ):
        raise ValueError(f"the run in {out} is of another machine, size or set of libraries: measure all parts anew")
    return earlier


def merge(earlier: dict, about: dict, scores: Path, draft: Path) -> dict:
    """Put the parts of a run among those of an earlier one.

    Parameters
    ----------
    earlier, about : dict
        What the two say of themselves.
    scores, draft : Path
        Tables of the earlier and of the later run; the later one takes in what it does not have.

    Returns
    -------
    dict
        What the whole says of itself: the earlier run, with the parts that were measured again.
    """
    commit, parts = about["provenance"]["commit"], about["seconds_of_parts"]
    told = {"measured": about["measured"], "commit": commit, "load_at_start": about["load_at_start"]}
    header, *new = _rows_of(draft)
    kept = [row for row in _rows_of(scores)[1:] if row[0].replace(" ", "_") not in parts]
    rows = sorted(kept + new, key=lambda row: PARTS.index(row[0].replace(" ", "_")))
    with draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    again = {**earlier.get("measured_again", {}), **dict.fromkeys(parts, told)}
    return {**earlier, "seconds_of_parts": {**earlier["seconds_of_parts"], **parts}, "measured_again": again}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes(), default="full")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--update", action="store_true", help="keep the other parts of the run in --out")
    parser.add_argument("--out", type=Path, default=TOP / "results" / "bench")
    parser.add_argument("--task-seconds", type=float, help="CPU seconds of each training of the task")
    parser.add_argument("--task-repeats", type=int, help="repeats of the task; 0 leaves it out")
    options = parser.parse_args(arguments)
    size = sizes()[options.size]
    changed = {"task_s": options.task_seconds, "task_repeats": options.task_repeats}
    size = Size(**{**vars(size), **{name: value for name, value in changed.items() if value is not None}})

    import report
    from harness import Rows

    from l3muscle.runtime import provenance

    load, started = os.getloadavg()[0], time.monotonic()
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "size": options.size,
        "settings": {name: value for name, value in asdict(size).items() if name not in ("only", "networks", "grow")},
        "load_at_start": round(load, 2),
        "peers": versions(),
        "provenance": provenance(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = earlier_run(options.out, about) if options.update else None
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): times will scatter, ratios less")
    parts: dict[str, float] = {}
    broken: list[str] = []
    draft = options.out / ".scores.draft.csv"
    rows = Rows(draft)
    for name in options.parts:
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                import_module(name).run(rows, size, Path(folder))
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            rows.missing(name, "all", "everything", "ours", f"{type(error).__name__}: {error}")
            broken.append(name)
        parts[name] = round(time.monotonic() - begun, 1)
        print(f"{name}: {parts[name]:.0f} s", flush=True)
    rows.close()
    about |= {"seconds": round(time.monotonic() - started), "seconds_of_parts": parts}
    scores = options.out / "scores.csv"
    if earlier is not None:
        about = merge(earlier, about, scores, draft)
    draft.replace(scores)
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    report.write(options.out)
    print(f"written to {options.out}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
