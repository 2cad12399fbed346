"""A study with every phase, small enough to be run a hundred times: what `soak_kills.py` and `soak_damage.py` run.

Run as a program it forks an `l3muscle` for every order that comes in, or several at once for a list of them, and
answers with their process numbers and then with their exit statuses: nine seconds of importing are spent once. Such an
`l3muscle` notes in the file `$STUDY_NOTES` what it is just doing, a line each, and keeps the state of a training at
every validation, as if there were minutes between two. Worker processes are started by importing this file again, so
they do the same.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pandas.api.types import is_numeric_dtype

from l3muscle import checkpoint, cli, runner, study
from l3muscle.phantom import patients
from l3muscle.segmenter.model_file import load_model
from l3muscle.store import Store
from l3muscle.study import Study, StudyResults

NAME = "small"
NOTES = "STUDY_NOTES"
PROFILE = {
    "extends": "smoke",
    "cohort": {"patients": 12, "test_patients": 4, "size": 96},
    "image": {"shape": [24, 32]},
    "training": {"max_steps": 20, "validate_every": 5},
    "sources": {
        "procedural_classification": {"classes": 5, "points": 1000, "validation_images": 5},
        "procedural_segmentation": {"batch_size": 2, "validation_scenes": 2},
    },
    "grid": {"sizes": [2, 4], "folds": 2, "subsets": 1, "repeats": 1},
    # Every model's, so that whatever is compared is compared down to the weights.
    "keep_weights": "all",
}


def write_profile(folder: Path, **changes: Any) -> Path:
    """Write the study's profile into a folder; `changes` take the place of top-level settings."""
    path = folder / f"{NAME}.yml"
    path.write_text(yaml.safe_dump({**PROFILE, **changes}), encoding="utf-8")
    return path


def content(runs: Path) -> dict[str, Any]:
    """All that a finished run says, without when and where it was made: equal only if every bit is."""
    results = StudyResults(runs / NAME)
    store = results.store
    read = {"parquet": store.table, "npz": store.arrays, "safetensors": store.weights}
    kinds = {"experiments": {key: str(e) for e, key in results.keys.items()}}
    kinds["sources"] = {key: task for task, key in results.plan["sources"].items()}
    found: dict[str, Any] = {"planned": results.planned(), "finished": len(results.keys), "failed": results.failures()}
    for kind, keys in kinds.items():
        for key, name in keys.items():
            record = results.source_record(name) if kind == "sources" else store.record(kind, key)
            if record is None:
                continue
            for file in sorted(record["sha256"]):
                stem, suffix = file.split(".")
                found[f"{name}: {file}"] = _bytes(read[suffix](kind, key, stem))
            found[f"{name}: steps"] = (record["steps"], record["best_step"], record["best_validation_loss"])
    found["observers"] = _bytes(results.observer_scores())
    found["cohort"] = results.cohort().fingerprint
    found["splits"] = results.splits()
    model = load_model(results.folder / study.MODEL)
    found["model"] = (_bytes(model.network.state_dict()), model.about, model.image)
    return found


def _bytes(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        value = {name: column if is_numeric_dtype(column) else list(column) for name, column in value.items()}
    return {name: part if isinstance(part, list) else np.asarray(part).tobytes() for name, part in value.items()}


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What first differs between the contents of two runs; empty where nothing does."""
    names = dict.fromkeys([*one, *other])
    return next((name for name in names if one.get(name, "absent") != other.get(name, "absent")), "")


def litter(runs: Path) -> list[str]:
    """What a finished run has no use for."""
    return sorted(
        path.relative_to(runs).as_posix()
        for path in runs.rglob("*")
        if path.name.startswith(".") or path.name.endswith((".draft", ".damaged")) or path.name == "checkpoints"
    )


def _note(*words: object) -> None:
    if NOTES in os.environ:
        line = json.dumps([time.time(), os.getpid(), *map(str, words)]) + "\n"
        handle = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, line.encode())
        os.close(handle)


def _noting(function: Callable, phase: str, of: Callable[..., object] = lambda *a, **k: "") -> Callable:
    """A function that notes when it begins and when it has ended."""

    @wraps(function)
    def noted(*arguments: Any, **named: Any) -> Any:
        subject = of(*arguments, **named)
        _note("begin", phase, subject)
        outcome = function(*arguments, **named)
        _note("end", phase, subject)
        return outcome

    return noted


def _watch() -> None:
    """Let the study say what it is doing. By name, so that worker processes find the same under the same names."""
    checkpoint.CheckpointFile.__init__.__kwdefaults__["every_s"] = 0.0
    experiment = _noting(study.run_experiment, "experiment", lambda job, *a, **k: job.key)
    source = _noting(study.train_source, "source", lambda *a, checkpoint, **k: checkpoint.stem)
    study.run_experiment = runner.run_experiment = experiment
    study.train_source = runner.train_source = source
    patients.write_phantom = _noting(patients.write_phantom, "phantom")
    Study.write_plan = _noting(Study.write_plan, "plan")
    Study.publish_model = _noting(Study.publish_model, "publication")
    Store.write = _noting(Store.write, "store", lambda self, kind, key, artefact: f"{kind}/{key}")
    save = checkpoint.CheckpointFile.save
    checkpoint.CheckpointFile.save = _noting(save, "state", lambda self, t, v: f"{self.path.stem} {v['step']}")


# Also where a worker process imports this file under another name, but not where a campaign does.
if NOTES in os.environ:
    _watch()


def _run(order: dict[str, Any]) -> None:
    """Be an `l3muscle` in a process group of its own; does not return."""
    code = 1
    try:
        os.setsid()
        said = os.open(order["said"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["environment"])
        tempfile.tempdir = None
        _note("begin", "start", "")
        sys.argv = ["l3muscle", *order["arguments"]]
        cli.main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    for line in sys.stdin:
        orders, children = json.loads(line), []
        for order in orders if isinstance(orders, list) else [orders]:
            child = os.fork()
            if not child:
                _run(order)
            children.append(child)
            print(child, flush=True)
        for child in children:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
