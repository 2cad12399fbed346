"""The long kill campaign, part of `make soak`: `kill -9` at random moments of a study, in every phase of it.

    python tests/soak_kills.py [--kills 50] [--seed 0] [--out results/soak/kills]

A small study with all phases (`small_study.py`) is run by `l3muscle study run`: for three of four kills in one process,
for the others with two workers. Each kill takes the whole process group, at a random moment of a phase chosen
beforehand; then the same command is given again. After each kill everything that was reported as stored is still there
and sound, and of what was begun no more is lost than was in progress. At the end all is compared, bit for bit, with a
run that nobody disturbed, and nothing half-made may be left over. Then the same study is run by two processes at once,
from the phantom on, and compared in the same way. The outcome has a row a phase and number of workers.
"""

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
from small_study import NAME, NOTES, content, difference, litter, write_profile

from l3muscle.runtime import provenance
from l3muscle.store import RECORD, Store, file_sha256

TOP = Path(__file__).resolve().parents[1]
PHASES = ("start", "phantom", "plan", "source", "experiment", "state", "store", "publication")
# Kills of a phase while one study lasts: it has only so much of each.
A_LIFE = {"start": 1, "phantom": 3, "plan": 2, "source": 4, "experiment": 6, "state": 4, "store": 3, "publication": 2}
ALL_ALONG = ("start", "plan", "experiment", "state", "store")
MOST_LIVES = 12
POLL_S = 0.002
LONGEST_S = 900


class Fault(Exception):
    """Something that a killed study must not do."""


class Life:
    """One study from an empty folder to its end, killed on the way."""

    def __init__(
        self, folder: Path, workers: int, durations: dict[str, float], rng: random.Random, zygote: subprocess.Popen
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.workers, self.durations, self.rng, self.zygote = folder, workers, durations, rng, zygote
        self.profile = write_profile(folder)
        self.runs, self.notes = folder / "runs", folder / "notes"
        self.seen = 0  # bytes of the notes
        self.stored: set[str] = set()
        self.begun: set[str] = set()  # of the process group that runs now
        self.states: dict[str, int] = {}
        self.resumable: dict[str, int] = {}  # trainings that were killed with a state kept, and its step
        self.lost: list[int] = []

    def order(self) -> dict:
        """What the study is, for the process that forks it."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        arguments = ["study", "run", "--profile", self.profile, "--runs", self.runs, "--workers", self.workers]
        return {
            "arguments": list(map(str, arguments)),
            "environment": {NOTES: str(self.notes), "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
            "said": str(self.folder / "said"),
        }

    def start(self) -> int:
        """Begin the study, or go on with it; returns the process group."""
        self.begun.clear()
        self.zygote.stdin.write(json.dumps(self.order()) + "\n")
        self.zygote.stdin.flush()
        return int(self.zygote.stdout.readline())

    def run_twice_at_once(self) -> None:
        """Let two processes run the study from its beginning to its end."""
        self.zygote.stdin.write(json.dumps([self.order()] * 2) + "\n")
        self.zygote.stdin.flush()
        _, _, *codes = (int(self.zygote.stdout.readline()) for _ in range(4))
        if any(codes):
            raise Fault(f"two runs at once ended with statuses {codes}: {self.last_words()}")

    def status(self, wait_s: float) -> int | None:
        """Exit status of the run; None while it lasts."""
        ready, _, _ = select.select([self.zygote.stdout], [], [], wait_s)
        return int(self.zygote.stdout.readline()) if ready else None

    def read(self) -> list[tuple[float, str, str, str]]:
        """Notes since the last call: when, begin or end, phase, of what."""
        if not self.notes.exists() or self.notes.stat().st_size == self.seen:
            return []
        with self.notes.open("rb") as notes:
            notes.seek(self.seen)
            new = notes.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.seen += len(whole)
        fresh, found = [json.loads(line) for line in whole.splitlines()], []
        for when, _, what, phase, subject in fresh:
            found.append((when, what, phase, subject))
            name = f"{phase}s/{subject}"
            if phase in ("experiment", "source") and what == "begin":
                if name in self.stored:
                    raise Fault(f"{name} was made again though it was stored")
                self.begun.add(name)
            if phase == "store" and what == "end":
                self.stored.add(subject)
            if phase == "state" and what == "end":
                key, step = subject.split()
                self.states[key] = int(step)
        return found

    def kill_in(self, phase: str) -> bool:
        """Start the study and kill it in a phase; False where it came to its end before."""
        group = self.start()
        skip = self.rng.randrange(3) if phase in ("experiment", "state", "store") else 0
        share, began = self.rng.random(), time.monotonic()
        while time.monotonic() - began < LONGEST_S:
            for _, what, noted, _ in self.read():
                if what == "begin" and noted == phase:
                    skip -= 1
                    if skip < 0:
                        time.sleep(share * self.durations[phase])
                        self.end(group)
                        return True
            code = self.status(POLL_S)
            if code is not None:
                self.read()
                if code:
                    raise Fault(f"the run ended with status {code}: {self.last_words()}")
                return False
        self.end(group)
        raise Fault(f"no end within {LONGEST_S} s")

    def end(self, group: int) -> None:
        """Kill the group, and look at what is left."""
        members = [process for process in psutil.process_iter() if _group_of(process) == group]
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.status(LONGEST_S)
        psutil.wait_procs(members, timeout=30)
        self.read()
        store = Store(self.runs / NAME)
        for name in self.stored:
            kind, key = name.split("/")
            if not _is_sound(store, kind, key):
                raise Fault(f"{name} was stored and is not there any more, or is damaged")
        unfinished = {name for name in self.begun if not store.folder(*name.split("/")).is_dir()}
        self.lost.append(len(unfinished))
        # Of one process the training in progress; of workers that, and what each has just handed over.
        if len(unfinished) > (1 if self.workers == 1 else 2 * self.workers):
            raise Fault(f"{len(unfinished)} trainings were lost by one kill")
        self.resumable |= {name: self.states[key] for name in unfinished if (key := name.split("/")[1]) in self.states}

    def finish(self) -> list[tuple[float, str, str, str]]:
        """Let the study come to its end; returns the notes of that."""
        self.start()
        code = self.status(LONGEST_S)
        notes = self.read()
        if code != 0:
            raise Fault(f"the last run ended with status {code}: {self.last_words()}")
        return notes

    def last_words(self) -> str:
        return (self.folder / "said").read_text(errors="replace")[-2000:]

    def judge(self, undisturbed: dict) -> dict[str, int]:
        """What the finished study is, compared with one that nobody disturbed."""
        mine = content(self.runs)
        if mine["finished"] != mine["planned"]:
            raise Fault(f"{mine['finished']} of {mine['planned']} experiments are finished")
        where = difference(undisturbed, mine)
        if where:
            raise Fault(f"differs from an undisturbed run in {where}")
        left = litter(self.runs)
        left += [path.name for path in (self.folder / "scratch").rglob("worker-*") if path.is_dir()]
        if left:
            raise Fault(f"left over: {', '.join(left[:5])}")
        made = len(list((self.runs / NAME / "experiments").iterdir()))
        if made != mine["planned"]:
            raise Fault(f"{made} artefacts of {mine['planned']} experiments")
        resumed = 0
        for name, step in self.resumable.items():
            went_on = json.loads((self.runs / NAME / name / RECORD).read_text())["resumed_at"]
            if went_on < step:
                raise Fault(f"{name} was killed with a state of step {step} and went on from {went_on}")
            resumed += 1
        return {"resumed": resumed, "most lost": max(self.lost, default=0)}


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _is_sound(store: Store, kind: str, key: str) -> bool:
    """As `Store.record` finds it, but without setting anything aside."""
    folder = store.folder(kind, key)
    try:
        files = json.loads((folder / RECORD).read_text())["sha256"]
        return all(file_sha256(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False


def undisturbed(folder: Path, zygote: subprocess.Popen) -> tuple[dict, dict[str, float]]:
    """Content of a run that nobody disturbs, and how long each phase takes."""
    life = Life(folder, 1, {}, random.Random(0), zygote)
    notes = life.finish()
    spans, since = defaultdict(list), {}
    for when, what, phase, subject in notes:
        if what == "begin":
            since[phase, subject] = when
        else:
            spans[phase].append(when - since[phase, subject])
    # What comes before the first phase that notes its end.
    spans["start"] = [notes[1][0] - notes[0][0]]
    return content(life.runs), {phase: median(spans[phase]) for phase in PHASES}


def campaign(
    workers: int, kills: int, seed: int, place: Path, reference: dict, durations: dict, zygote: subprocess.Popen
) -> tuple[list[dict], dict]:
    """Kill studies until enough kills were done, and let each come to its end."""
    rng = random.Random(f"{seed} {workers}")
    a_life = [phase for phase in PHASES for _ in range(A_LIFE[phase])]
    to_do = Counter(a_life * (kills // len(a_life)) + rng.sample(a_life, kills % len(a_life)))
    done: Counter[str] = Counter()
    lives, resumed, most_lost = 0, 0, 0
    while done != to_do:
        if lives == MOST_LIVES:
            raise Fault(f"only {done.total()} kills found their phase in {lives} studies")
        life = Life(place / f"life-{workers}-{lives}", workers, durations, rng, zygote)
        here = {phase: min(to_do[phase] - done[phase], A_LIFE[phase]) for phase in PHASES}
        # In the order in which a study comes to them; some it meets all along.
        along = [phase for phase in ALL_ALONG for _ in range(here[phase])]
        rng.shuffle(along)
        order = ["phantom"] * here["phantom"] + ["source"] * here["source"]
        for phase in (*order, *along, *["publication"] * here["publication"]):
            if life.kill_in(phase):
                done[phase] += 1
                print(f"workers: {workers}, kill {done.total()}: {phase}, {life.lost[-1]} lost", flush=True)
        life.finish()
        verdict = life.judge(reference)
        lives, resumed, most_lost = lives + 1, resumed + verdict["resumed"], max(most_lost, verdict["most lost"])
    rows = [{"workers": workers, "phase": phase, "kills": done[phase]} for phase in PHASES]
    about = {"workers": workers, "kills": done.total(), "studies": lives, "resumed": resumed, "most_lost": most_lost}
    return rows, about


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="a quarter of them with two workers")
    parser.add_argument("--together", type=int, default=3, help="studies that two processes run at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TOP / "results" / "soak" / "kills")
    options = parser.parse_args()
    started, rows, abouts = time.monotonic(), [], []
    command = [sys.executable, str(TOP / "tests" / "small_study.py")]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place,
        subprocess.Popen(
            command,
            env={**os.environ, NOTES: os.devnull},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as zygote,
    ):
        try:
            reference, durations = undisturbed(Path(place) / "undisturbed", zygote)
            for workers, kills in ((1, options.kills - options.kills // 4), (2, options.kills // 4)):
                more, about = campaign(workers, kills, options.seed, Path(place), reference, durations, zygote)
                rows += more
                abouts.append(about)
            for number in range(options.together):
                life = Life(Path(place) / f"together-{number}", 1, {}, random.Random(0), zygote)
                life.run_twice_at_once()
                life.judge(reference)
                print(f"two at once, {number + 1}: as one alone", flush=True)
        except Fault as error:
            print(f"FAULT: {error}")
            return 1
        finally:
            zygote.stdin.close()
    print(*abouts, sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
        "kills": sum(about["kills"] for about in abouts),
        "two at once": options.together,
        "faults": 0,
        "seconds": round(time.monotonic() - started),
        "runs": abouts,
        "provenance": provenance(),
    }
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (options.out / "scores.csv").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
