"""The long fuzzing run: `make soak` feeds every reader of foreign files damaged ones.

    python tests/soak.py [--inputs 10000] [--seconds 60] [--seed 0] [--out results/soak]

Each reader runs in a process of its own. A finding is an error other than the package's own, a file accepted with
another area than an independent library sees in it, an input that takes longer than 20 s, or the end of the process;
its input is kept under `runs/soak`. The outcome goes to `results/soak`: `scores.csv` has a row for each reader,
`provenance.json` says where it was measured.
"""

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
CRASHES = TOP / "runs" / "soak"
LONGEST_S = 20
MAX_MIB = 3072


def feed(name: str, inputs: int, seconds: float, seed: int, note: Path) -> None:
    """Give one reader damaged files, and note what came of it in a file as it goes."""
    from fuzzed_readers import damaged, readers

    from l3muscle.errors import L3MuscleError

    outcome = {"inputs": 0, "refused": 0, "accepted": 0, "slowest_s": 0.0, "findings": {}}
    rng = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reader = readers(folder)[name]
        until = time.monotonic() + seconds
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MIB << 20, MAX_MIB << 20))
        while outcome["inputs"] < inputs and time.monotonic() < until:
            data, found, what = damaged(rng.choice(reader.seeds), rng), None, ""
            (folder / reader.file).write_bytes(data)
            (CRASHES / f"{name}-last").write_bytes(data)
            started = time.monotonic()
            try:
                found = reader.read(folder)
                outcome["accepted"] += 1
            except L3MuscleError:
                outcome["refused"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            taken = time.monotonic() - started
            if found is not None:
                try:
                    what = "" if reader.agrees(folder / reader.file, found) else "accepted with another area"
                except Exception:  # the other library does not read it
                    outcome["unchecked"] = outcome.get("unchecked", 0) + 1
            what = what or ("too slow" if taken > LONGEST_S else "")
            if what:
                outcome["findings"][what] = outcome["findings"].get(what, 0) + 1
                (CRASHES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            outcome["inputs"] += 1
            outcome["slowest_s"] = max(outcome["slowest_s"], round(taken, 3))
            outcome["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            if outcome["inputs"] % 100 == 0:
                note.write_text(json.dumps(outcome))
    note.write_text(json.dumps(outcome))
    (CRASHES / f"{name}-last").unlink(missing_ok=True)


def one(name: str, options: argparse.Namespace, folder: Path) -> dict:
    """Run a reader's process and read what it noted."""
    note = folder / f"{name}.json"
    command = [sys.executable, __file__, "--one", name, "--note", str(note)]
    command += [f"--inputs={options.inputs}", f"--seconds={options.seconds}", f"--seed={options.seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    outcome = json.loads(note.read_text()) if note.is_file() else {"inputs": 0, "findings": {}}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [""])[-1]
        outcome["findings"][f"the process ended with status {done.returncode}: {reason}"] = 1
    print(f"{name:<20} {outcome['inputs']:>7} inputs  {outcome['findings'] or 'no finding'}", flush=True)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="of each reader, at most")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--out", type=Path, default=TOP / "results" / "soak")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    CRASHES.mkdir(parents=True, exist_ok=True)
    if options.one:
        feed(options.one, options.inputs, options.seconds, options.seed, options.note)
        return 0
    from fuzzed_readers import readers

    from l3muscle.runtime import provenance

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as notes, ThreadPoolExecutor(options.workers) as pool:
        names = options.only or list(readers(Path(notes)))
        outcomes = list(pool.map(lambda name: one(name, options, Path(notes)), names))
    total, findings = sum(o["inputs"] for o in outcomes), sum(len(o["findings"]) for o in outcomes)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "method": "blind",
        "seed": options.seed,
        "inputs": total,
        "findings": findings,
        "seconds": round(time.monotonic() - started),
        "readers": dict(zip(names, outcomes, strict=True)),
        "provenance": provenance(),
    }
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    columns = ("inputs", "refused", "accepted", "slowest_s", "peak_mib")
    rows = [",".join(map(str, (n, *(o.get(c, "") for c in columns)))) for n, o in zip(names, outcomes, strict=True)]
    (options.out / "scores.csv").write_text("\n".join([",".join(("reader", *columns)), *rows]) + "\n")
    print(f"{total} inputs, {findings} findings; {options.out}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
