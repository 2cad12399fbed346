"""The long fuzzing run: `make soak` feeds every reader damaged files, guided by the code that they reach.

    python tests/soak.py [--inputs 10000] [--seconds 20] [--seed 0] [--out results/soak]

Each reader runs in a process of its own, under Atheris (libFuzzer for Python), which keeps inputs that reach new code
and damages those further. Where Atheris is not installed (it has wheels for some platforms only) the damage is blind,
and the outcome says so. A finding is an error other than the package's own, a file accepted with another geometry, an
input that takes longer than 20 s, or a process that grows beyond 3 GiB; its input is kept under `runs/soak`. The
outcome goes to `results/soak`: `scores.csv` has a row for each reader, `provenance.json` says where it was measured.
Budget: 20 s and ten thousand inputs a reader, whichever comes first; about eight minutes of two cores in all.
"""

import argparse
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
#: Libraries whose code guides beside our own; instrumenting one takes ten seconds at the start of a process.
PARSERS = {"ct": ["pydicom"], "rtstruct": ["pydicom"], "seg": ["pydicom"], "nifti": ["nibabel"], "profile": ["yaml"]}
NOTE_EVERY = 100  # inputs


class Session:
    """Inputs of one reader, counted; what was found is noted in a file as it goes."""

    def __init__(self, name: str, folder: Path, note: Path) -> None:
        from fuzzed_readers import readers

        self.name, self.folder, self.note = name, folder, note
        self.reader = readers(folder)[name]
        self.sound = []
        for seed in self.reader.seeds:
            (folder / self.reader.file).write_bytes(seed)
            self.sound.append(self.reader.read(folder))
        self.outcome = {"inputs": 0, "refused": 0, "accepted": 0, "slowest_s": 0.0, "findings": {}}

    def feed(self, data: bytes) -> None:
        """Give one input to the reader."""
        from l3muscle.errors import L3MuscleError

        (self.folder / self.reader.file).write_bytes(data)
        started = time.monotonic()
        try:
            found = self.reader.read(self.folder)
        except L3MuscleError:
            self.outcome["refused"] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._keep(data, f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}")
        else:
            self.outcome["accepted"] += 1
            if not any(self.reader.same(sound, found) for sound in self.sound):
                self._keep(data, "accepted with another geometry")
        seconds = time.monotonic() - started
        self.outcome["slowest_s"] = max(self.outcome["slowest_s"], round(seconds, 3))
        if seconds > LONGEST_S:
            self._keep(data, "too slow")
        self.outcome["inputs"] += 1
        if self.outcome["inputs"] % NOTE_EVERY == 0:
            self.write()

    def _keep(self, data: bytes, what: str) -> None:
        findings = self.outcome["findings"]
        if what not in findings:
            CRASHES.mkdir(parents=True, exist_ok=True)
            (CRASHES / f"{self.name}-{len(findings)}").write_bytes(data)
        findings[what] = findings.get(what, 0) + 1
        self.write()

    def write(self) -> None:
        """Note how far it is."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.note.write_text(json.dumps({**self.outcome, "peak_mib": peak}))


def at_random(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four random damages."""
    from test_fuzz import TOKENS, damaged

    how = {"flip": lambda: rng.randrange(8), "byte": lambda: rng.randrange(256), "cut": lambda: 0}
    how |= dict.fromkeys(("token", "insert"), lambda: rng.choice(TOKENS))
    how |= dict.fromkeys(("delete", "repeat"), lambda: rng.randrange(1, 300))
    kinds = rng.choices(list(how), k=rng.choice((1, 1, 1, 2, 3, 4)))
    return damaged(content, [(kind, rng.random(), how[kind]()) for kind in kinds])


def fuzz(name: str, inputs: int, seconds: int, seed: int, note: Path, *, guided: bool) -> None:
    """Feed one reader; ends the process."""
    sys.path.insert(0, str(Path(__file__).parent))
    if guided:
        import atheris

        with atheris.instrument_imports(include=["l3muscle", *PARSERS.get(name, [])]):
            import fuzzed_readers  # noqa: F401 (imported to be instrumented)
    with tempfile.TemporaryDirectory() as place:
        folder, corpus = Path(place) / "files", Path(place) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        session = Session(name, folder, note)
        session.write()
        for index, content in enumerate(session.reader.seeds):
            (corpus / str(index)).write_bytes(content)
        if guided:
            # Inputs of full length from the start: libFuzzer's own habit of beginning with a few bytes never gets past
            # a header in so short a run.
            arguments = [
                "-len_control=0",
                f"-runs={inputs}",
                f"-max_total_time={seconds}",
                f"-seed={seed + 1}",
                f"-timeout={LONGEST_S}",
                f"-rss_limit_mb={MAX_MIB}",
                f"-artifact_prefix={place}/",
                "-verbosity=0",
                "-print_final_stats=0",
            ]

            def mutate(data: bytes, max_size: int, seed: int) -> bytes:
                rng = random.Random(seed)
                if rng.random() < 0.5:
                    return atheris.Mutate(data, max_size)
                return at_random(rng.choice((data, *session.reader.seeds)), rng)[:max_size]

            atheris.Setup([sys.argv[0], *arguments, str(corpus)], session.feed, custom_mutator=mutate)
            atheris.Fuzz()
            return
        rng, until = random.Random(seed), time.monotonic() + seconds
        while session.outcome["inputs"] < inputs and time.monotonic() < until:
            session.feed(at_random(rng.choice(session.reader.seeds), rng))
        session.write()


def one(name: str, options: argparse.Namespace, folder: Path, guided: bool) -> dict:
    """Run a reader's process and read what it noted."""
    note = folder / f"{name}.json"
    command = [sys.executable, __file__, "--one", name, "--note", str(note), *(["--guided"] if guided else [])]
    command += [f"--inputs={options.inputs}", f"--seconds={options.seconds}", f"--seed={options.seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    outcome = json.loads(note.read_text()) if note.is_file() else {"inputs": 0, "findings": {}}
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), f"exit status {done.returncode}")
        outcome["findings"][f"the process ended: {reason}"] = 1
    print(f"{name:<20} {outcome['inputs']:>7} inputs  {len(outcome['findings'])} findings", flush=True)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="of each reader, at most")
    parser.add_argument("--seconds", type=int, default=20, help="for each reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--out", type=Path, default=TOP / "results" / "soak")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.inputs, options.seconds, options.seed, options.note, guided=options.guided)
        return 0
    sys.path.insert(0, str(Path(__file__).parent))
    from test_fuzz import NAMES

    from l3muscle.runtime import provenance

    guided = subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True).returncode == 0
    if not guided:
        print("Atheris is not installed here: the damage is blind, not guided by coverage")
    names, started = options.only or NAMES, time.monotonic()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(options.workers) as pool:
        outcomes = list(pool.map(lambda name: one(name, options, Path(place), guided), names))
    total = sum(outcome["inputs"] for outcome in outcomes)
    findings = sum(len(outcome["findings"]) for outcome in outcomes)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "measured": datetime.now(UTC).date().isoformat(),
        "method": "coverage-guided (Atheris)" if guided else "blind",
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
