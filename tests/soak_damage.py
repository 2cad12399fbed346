"""The long damage campaign: every kind of file under `runs/` is damaged in every way.

    python tests/soak_damage.py [--rounds 2] [--seed 0] [--out results/soak/damage]

Of a small finished study (`small_study.py`) a copy is damaged in one place and read, as the notebooks read it; another
copy is damaged in the same way, and `l3muscle study run` goes over it. Reading gives what the sound run gives, or one
of the package's own sentences. The run says what was damaged, makes it again and ends with the same bits, and leaves
nothing half-made. After that the disk is full, and the folder read-only. The outcome has a row a kind of file and of
damage.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from small_study import NAME, content, difference, litter, write_profile

from l3muscle import cli
from l3muscle.checkpoint import CheckpointFile
from l3muscle.errors import L3MuscleError
from l3muscle.profile import load_profile
from l3muscle.runner import run_study
from l3muscle.runtime import provenance
from l3muscle.study import Study

TOP = Path(__file__).resolve().parents[1]
DAMAGES = ("truncate", "flip", "empty", "delete", "directory", "swap")
#: By their absence nothing is missed: a training begins anew, and nobody had failed.
UNMISSED = {("checkpoint", "delete"), ("failed.json", "delete")}
TOLD = ("damaged", "written anew", "made again", "missing", "begins anew")


def kinds_of(runs: Path) -> dict[str, list[Path]]:
    """Every file below a folder of runs, by its kind."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in runs.rglob("*") if path.is_file()):
        parts = path.relative_to(runs).parts
        if parts[0] == "cohorts":
            kind = f"cohort: {parts[-1]}"
        elif parts[1] == "checkpoints":
            kind = "checkpoint"
        else:
            kind = parts[1] if len(parts) == 2 else f"{parts[1]}: {parts[-1]}"
        found.setdefault(kind, []).append(path)
    return found


def damage(path: Path, how: str, others: list[Path], rng: random.Random) -> str:
    """Damage a file; returns what was done, in words."""
    data = path.read_bytes()
    if how == "truncate":
        cut = rng.randrange(len(data))
        path.write_bytes(data[:cut])
        return f"cut to {cut} of {len(data)} bytes"
    if how == "flip":
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :])
        return f"a bit flipped at {place} of {len(data)}"
    if how == "empty":
        path.write_bytes(b"")
    elif how == "delete":
        path.unlink()
    elif how == "directory":
        path.unlink()
        path.mkdir()
    else:
        other = rng.choice([o for o in others if o != path and o.read_bytes() != data])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"swapped with {other.parent.name}/{other.name}"
    return how


def command(*arguments: object) -> tuple[int, str]:
    """Run `l3muscle ...` in this process; returns exit status and all that it said."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["l3muscle", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as done:
        code = done.code or 0
    finally:
        sys.argv = before
    return code, said.getvalue()


class Campaign:
    """A sound run, and what becomes of damaged copies of it."""

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place, self.rng = place, rng
        self.profile = write_profile(place)
        self.sound, self.paused = place / "sound", place / "paused"
        code, said = self.run(self.sound)
        if code:
            raise SystemExit(f"the sound run failed: {said}")
        self.reference = content(self.sound)
        # The same with one training in the middle, so that there is a state to damage.
        shutil.copytree(self.sound, self.paused)
        study = Study(load_profile(str(self.profile)), runs=self.paused)
        shutil.rmtree(study.store.folder("experiments", study.jobs[0].key))
        always = CheckpointFile.out_of_time
        CheckpointFile.out_of_time = lambda state: True
        run_study(study, time_budget=3600, say=lambda line: None)
        CheckpointFile.out_of_time = always

    def run(self, runs: Path) -> tuple[int, str]:
        return command("study", "run", "--profile", self.profile, "--runs", runs, "--workers", 1)

    @contextmanager
    def copy(self, of: Path) -> Iterator[Path]:
        runs = self.place / "copy"
        shutil.copytree(of, runs)
        try:
            yield runs
        finally:
            shutil.rmtree(runs, ignore_errors=True)

    def judge(self, runs: Path, code: int, said: str, *, told: bool) -> str:
        """What is wrong after a run over damage; empty where nothing is."""
        if code:
            return f"exit status {code}: {said[-300:]}"
        if told and not any(word in said for word in TOLD):
            return f"not reported: {said[-300:]}"
        left = [path for path in litter(runs) if ".damaged" not in path]
        where = difference(self.reference, content(runs))
        return f"other results in {where}" if where else f"left over: {left}" if left else ""

    def one(self, kind: str, how: str, spoil: Callable[[Path], str]) -> tuple[str, list[str]]:
        """Damage two copies in the same way, read one and run over the other; how the reader took it, and faults."""
        source, faults = self.paused if kind == "checkpoint" else self.sound, []
        state = self.rng.getstate()
        with self.copy(source) as runs:
            done = spoil(runs)
            try:
                read = "same" if not difference(self.reference, content(runs)) else "changed"
            except L3MuscleError:
                read = "refused"
            except Exception as error:
                read = f"{type(error).__name__}: {error}"
            if read not in ("same", "refused") and kind != "checkpoint":
                faults.append(f"{kind}, {done}: read, {read}")
        self.rng.setstate(state)
        with self.copy(source) as runs:
            done = spoil(runs)
            try:
                wrong = self.judge(runs, *self.run(runs), told=(kind, how) not in UNMISSED)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                faults.append(f"{kind}, {done}: run, {wrong}")
            else:
                code, said = self.run(runs)
                if code or any(word in said for word in TOLD):
                    faults.append(f"{kind}, {done}: the run after that says {said[-300:]}")
        return read, faults

    def damages(self, rounds: int, only: str) -> Iterator[tuple[str, str, str, list[str]]]:
        """Every kind of file, in every way."""
        for kind in (kind for kind in kinds_of(self.paused) if only in kind):
            for how in DAMAGES:
                for _ in range(rounds if how in ("truncate", "flip", "swap") else 1):

                    def spoil(runs: Path, kind: str = kind, how: str = how) -> str:
                        files = kinds_of(runs)
                        others = files[kind] if len(files[kind]) > 1 else [p for one in files.values() for p in one]
                        return damage(self.rng.choice(files[kind]), how, others, self.rng)

                    yield (kind, how, *self.one(kind, how, spoil))
        for kind in ("experiments", "sources"):

            def exchange(runs: Path, kind: str = kind) -> str:
                one, other = self.rng.sample(sorted((runs / NAME / kind).iterdir()), 2)
                one.rename(one.with_name("between"))
                other.rename(one)
                one.with_name("between").rename(other)
                return f"{one.name} and {other.name} exchanged"

            yield (f"{kind}: a whole folder", "swap", *self.one(kind, "swap", exchange))

    def refused_then_finished(self, runs: Path, code: int, said: str) -> str:
        """What is wrong with a run that could not write, or with the one after it, which can."""
        if code != 2 or "Traceback" in said or not said.strip().splitlines()[-1].startswith("l3muscle: "):
            return f"exit status {code}: {said[-500:]}"
        return self.judge(runs, *self.run(runs), told=False)

    def full_disks(self, rounds: int) -> Iterator[tuple[str, str, str, list[str]]]:
        """No file may grow beyond a limit, at limits from a few bytes to more than any file needs."""
        for _ in range(rounds * 4):
            limit = int(2 ** self.rng.uniform(6, 17))
            runs = self.place / "full"
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                code, said = self.run(runs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            wrong = "" if code == 0 else self.refused_then_finished(runs, code, said)
            shutil.rmtree(runs, ignore_errors=True)
            yield "disk", "files may not grow", "refused" if code else "same", [f"at {limit}: {wrong}"] if wrong else []

    def small_disks(self, rounds: int) -> Iterator[tuple[str, str, str, list[str]]]:
        """A file system that is full, where this process may mount one."""
        need = sum(path.stat().st_size for path in self.sound.rglob("*"))
        for _ in range(rounds * 4):
            size = self.rng.randrange(1 << 14, need)
            runs = self.place / "small"
            runs.mkdir()
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", runs], capture_output=True)
            if mounted.returncode:
                print("NO FULL FILE SYSTEM TRIED: this process may not mount one")
                return
            code, said = self.run(runs)
            subprocess.run(["mount", "-o", f"remount,size={4 * need}", "none", runs], check=True)
            wrong = "" if code == 0 else self.refused_then_finished(runs, code, said)
            subprocess.run(["umount", runs], check=True)
            runs.rmdir()
            yield "disk", "full", "refused" if code else "same", [f"at {size}: {wrong}"] if wrong else []

    def read_only(self) -> Iterator[tuple[str, str, str, list[str]]]:
        """A folder that may not be written: a sound run in it can be read; one with something missing says why not."""
        for lost in (False, True):
            with self.copy(self.sound) as runs:
                if lost:
                    shutil.rmtree(min((runs / NAME / "experiments").iterdir()))
                before = content(runs)
                if not _lock(runs):
                    print("NO READ-ONLY FOLDER TRIED: permissions mean nothing to this user, and it may not mount")
                    return
                try:
                    same = not difference(before, content(runs))
                    code, said = self.run(runs)
                finally:
                    _unlock(runs)
                wrong = self.refused_then_finished(runs, code, said) if same else "reads otherwise"
                yield "disk", "read-only", "same", [wrong] if wrong else []


def _lock(folder: Path) -> bool:
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        return True
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode == 0
    return bound and subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True).returncode == 0


def _unlock(folder: Path) -> None:
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    else:
        subprocess.run(["umount", folder], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="of every damage that has a place of its own")
    parser.add_argument("--only", default="", help="of the kinds of files, those with this in their name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TOP / "results" / "soak" / "damage")
    options = parser.parse_args()
    started = time.monotonic()
    counts: dict[tuple[str, str], dict[str, int]] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(Path(place), random.Random(options.seed))
        cases = (campaign.damages(options.rounds, options.only), campaign.full_disks(options.rounds))
        cases += (campaign.small_disks(options.rounds), campaign.read_only())
        for kind, how, read, wrong in (case for part in cases for case in part):
            row = counts.setdefault((kind, how), {"cases": 0, "reading refused": 0, "reading same": 0, "faults": 0})
            row["cases"] += 1
            row["reading refused"] += read == "refused"
            row["reading same"] += read == "same"
            row["faults"] += len(wrong)
            faults += wrong
            for line in wrong:
                print(f"FAULT: {line}", flush=True)
    total = sum(row["cases"] for row in counts.values())
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
        "cases": total,
        "faults": len(faults),
        "seconds": round(time.monotonic() - started),
        "provenance": provenance(),
    }
    (options.out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    columns = ["cases", "reading refused", "reading same", "faults"]
    lines = [",".join((kind, how, *(str(row[column]) for column in columns))) for (kind, how), row in counts.items()]
    (options.out / "scores.csv").write_text("\n".join([",".join(("file", "damage", *columns)), *lines]) + "\n")
    print(f"{total} damages, {len(faults)} faults; {options.out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
