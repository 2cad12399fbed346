"""Kill a study and damage what it left, again and again: in the end it has the scores of an undisturbed one.

    python tests/faults.py [--kills 50] [--seed 0] [--out results/soak/faults]

Studies of the profile `smoke` run with one and two workers in turn. At a random moment the run itself, one of its
workers or a kernel is killed by SIGKILL; after a run that was killed, or is complete, one of its files may lose its
end or get another bit. The run is then started again, beside what may be left of the one before. `scores.csv` has a row
for each fault, `provenance.json` says where it was measured.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psutil

from l3muscle.errors import L3MuscleError
from l3muscle.runtime import provenance
from l3muscle.study import StudyResults

TOP = Path(__file__).resolve().parents[1]
PROFILE = "smoke"
VICTIMS = {"run": "", "worker": "dask", "kernel": "ipykernel_launcher"}  # and a part of their command line
LATEST_S = 40  # after the start of a run
LONGEST_S = 1200  # of a run
KILLS_A_STUDY, MOST_STARTS = 10, 40


def begin(runs: Path, workers: int) -> subprocess.Popen:
    command = [Path(sys.executable).with_name("l3muscle"), "study", "run", "--profile", PROFILE, "--runs", str(runs)]
    with (runs / "log.txt").open("ab") as log:
        return subprocess.Popen([*command, f"--workers={workers}"], cwd=TOP, stdout=log, stderr=log)


def kill(process: subprocess.Popen, victim: str, rng: random.Random) -> bool:
    """Kill the run, or one of its workers or kernels; False where there is none at this moment."""
    try:
        run = psutil.Process(process.pid)
        below = [child for child in run.children(recursive=True) if VICTIMS[victim] in " ".join(child.cmdline())]
        chosen = run if victim == "run" else rng.choice(below)
        chosen.send_signal(signal.SIGKILL)
    except (psutil.Error, IndexError):
        return False
    return True


def damage(runs: Path, rng: random.Random) -> tuple[str, str]:
    """Cut a file of the run or flip one of its bits; returns what was done and to which kind of file."""
    run = runs / PROFILE
    files = [p for p in run.rglob("*") if p.is_file() and p.relative_to(run).parts[0] not in ("logs", "notebooks")]
    path = rng.choice(sorted(files))
    content = bytearray(path.read_bytes())
    what = rng.choice(["cut", "bit"]) if content else "cut"
    if what == "cut":
        content = content[: rng.randrange(len(content) or 1)]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return what, f"{path.relative_to(run).parts[0]}: {path.name}"


def done(runs: Path) -> int:
    return len(list((runs / PROFILE / "models").glob("*/record.json")))


def digest(runs: Path) -> str:
    """Hash of all scores; empty while the study is incomplete or damaged."""
    try:
        results = StudyResults(runs / PROFILE)
        scores = results.scores()
        if len(results.records) < results.planned():
            return ""
    except L3MuscleError:
        return ""
    return hashlib.sha256(scores.to_csv(index=False).encode()).hexdigest()


def finish(process: subprocess.Popen) -> int:
    try:
        return process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def study(runs: Path, workers: int, kills: int, expected: str, rng: random.Random) -> list[dict]:
    """Disturb one study until it is complete; a row a fault, the last of which says whether the scores are the same."""
    rows: list[dict] = []

    def note(fault: str, of: str, seconds: float | str = "") -> None:
        rows.append({"workers": workers, "fault": fault, "of": of, "seconds": seconds, "models": done(runs)})
        print(rows[-1], flush=True)

    for _ in range(MOST_STARTS):
        process, started = begin(runs, workers), time.monotonic()
        while process.poll() is None and sum(row["fault"] == "kill" for row in rows) < kills:
            time.sleep(rng.uniform(1, LATEST_S))
            victim = rng.choice(list(VICTIMS))
            if process.poll() is None and kill(process, victim, rng):
                note("kill", victim, round(time.monotonic() - started, 1))
        status, found = finish(process), digest(runs)
        if found == expected and rng.random() < 0.5:
            note("none", "scores are the same")
            return rows
        if status == 0 and found != expected:
            break
        if (runs / PROFILE).is_dir() and rng.random() < 0.5:
            note(*damage(runs, rng))
    note("WRONG", "scores differ" if found else "it was never completed")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TOP / "results" / "soak" / "faults")
    options = parser.parse_args()
    rng, started, rows, studies = random.Random(options.seed), time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder)
        finish(begin(undisturbed, 1))
        expected = digest(undisturbed)
        if not expected:
            print((undisturbed / "log.txt").read_text())
            return 2
        while (kills := sum(row["fault"] == "kill" for row in rows)) < options.kills:
            runs = undisturbed / str(studies)
            runs.mkdir()
            here = min(KILLS_A_STUDY, options.kills - kills)
            rows += [{"study": studies, **row} for row in study(runs, 1 + studies % 2, here, expected, rng)]
            studies += 1
    wrong = sum(row["fault"] == "WRONG" for row in rows)
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "scores.csv", index=False)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
        "kills": kills,
        "damaged": sum(row["fault"] in ("cut", "bit") for row in rows),
        "studies": studies,
        "studies with other scores": wrong,
        "seconds": round(time.monotonic() - started),
        "provenance": provenance(),
    }
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    print(about)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
