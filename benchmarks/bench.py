"""Every comparison of this project with what people would otherwise use, side by side in one run.

    python benchmarks/bench.py [--size full|quick|tiny] [--parts PART ...] [--out results/bench]

Five parts: `measures`, `reading`, `augmentation`, `training_step`, `task`; and `saturation`, which takes another half
hour and has to be asked for. Each module says what it compares and how it keeps the comparison fair. Each row of
`scores.csv` is one value of one side in one repeat; a library that is not installed, has nothing for a case or fails is
a row *n/a* with the reason. `provenance.json` says when, where and with which versions; `report.md` and `summary.md`
set the medians side by side. `--parts` measures some anew and keeps the rows of the others. The machine should have
nothing else to do: about half an hour of 2 cores at the size `full`.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PARTS = ("measures", "reading", "augmentation", "training_step", "task")
LONG_PARTS = ("saturation",)  # only where they are asked for
PEERS = (
    "monai",
    "surface-distance",
    "medpy",
    "simpleitk",
    "pydicom",
    "highdicom",
    "scikit-image",
    "torchio",
    "albumentations",
    "opencv-python-headless",
    "kornia",
    "torchvision",
    "batchgeneratorsv2",
    "nnunetv2",
)
CORES = os.cpu_count() or 1


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
    cores : int
    networks : tuple
        Training steps: backbone, width, output stride, shape, batch, steps in a block, threads.
    task_s, task_n, task_repeats, task_test : float, tuple of int, int, int
        CPU seconds of each training, slices, repeats (0 leaves the part out), test slices.
    """

    rounds: int = 5
    block_s: float = 0.25
    pairs: int = 12
    images: int = 4
    image_size: int = 512
    draws: int = 6
    cores: int = CORES
    networks: tuple = (
        ("resnet8", 8, 4, (104, 148), 2, 40, 1),
        ("resnet50", 64, 8, (256, 256), 4, 1, CORES),
    )
    task_s: float = 10.0
    task_n: tuple[int, ...] = (5, 10, 25)
    task_repeats: int = 2
    task_test: int = 12


SIZES = {
    "full": Size(),
    # The same rows in about a quarter of the time, too few repeats to be reported.
    "quick": Size(
        rounds=2,
        block_s=0.05,
        pairs=3,
        draws=2,
        networks=(Size.networks[0], ("resnet50", 64, 8, (128, 128), 2, 1, CORES)),
        task_s=6,
        task_repeats=1,
        task_test=6,
    ),
    # To see that every part runs.
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
    ),
}


def versions() -> dict[str, str | None]:
    """Version of every peer; None where it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(PEERS)
    for name in PEERS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *LONG_PARTS], default=PARTS)
    parser.add_argument("--out", type=Path, default=TOP / "results" / "bench")
    parser.add_argument("--task-seconds", type=float, help="CPU seconds of each training of the task")
    parser.add_argument("--task-repeats", type=int, help="repeats of the task; 0 leaves it out")
    options = parser.parse_args(arguments)
    changed = {"task_s": options.task_seconds, "task_repeats": options.task_repeats}
    size = replace(SIZES[options.size], **{name: value for name, value in changed.items() if value is not None})

    # Not above: the process of every side imports this file.
    import report
    from harness import Rows

    from l3muscle.runtime import provenance

    load, today, code = os.getloadavg()[0], datetime.now(UTC).date().isoformat(), provenance()
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): times will scatter, ratios less")
    options.out.mkdir(parents=True, exist_ok=True)
    kept, parts, before = [], {}, options.out / "provenance.json"
    if before.exists() and (known := json.loads(before.read_text(encoding="utf-8")))["size"] == options.size:
        parts = known["parts"]
        with (options.out / "scores.csv").open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.reader(file) if row[0] in set(parts) - set(options.parts)]
    broken: list[str] = []
    draft = options.out / ".scores.draft.csv"
    rows = Rows(draft, kept)
    for name in options.parts:
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                import_module(name).run(rows, size, Path(folder))
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            rows.missing(name, "all", "everything", {"ours": f"{type(error).__name__}: {error}"})
            broken.append(name)
        seconds = round(time.monotonic() - begun)
        parts[name] = {"measured": today, "seconds": seconds, "commit": code["commit"]}
        print(f"{name}: {seconds} s", flush=True)
    rows.close()
    about = {
        "measured": today,
        "size": options.size,
        "settings": asdict(size),
        "load_at_start": round(load, 2),
        "parts": parts,
        "peers": versions(),
        "provenance": code,
    }
    draft.replace(options.out / "scores.csv")
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    report.write(options.out)
    print(f"written to {options.out}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
