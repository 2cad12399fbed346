"""A run as a Workflow Run RO-Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5): what was made, from what, by what.

Its workflows are the two notebooks that train. It holds all notebooks, settings, splits, scores and curves, and of each
training a record (`CreateAction`). It names no person, machine or folder: people of an own cohort have the pseudonyms
of the book's pages.
"""

import hashlib
import json
import mimetypes
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from l3muscle import __version__
from l3muscle.book.pseudonyms import renamed
from l3muscle.book.run_header import names_of
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.runner import notebook_folder
from l3muscle.study import StudyError, StudyResults

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

PROFILES = ("https://w3id.org/ro/wfrun/process/0.5", "https://w3id.org/ro/wfrun/workflow/0.5")
CODE_LICENCE, DATA_LICENCE = "https://spdx.org/licenses/MIT", "https://creativecommons.org/licenses/by/4.0/"
PAPER = "https://doi.org/10.1002/mp.15533"
DONE = "http://schema.org/CompletedActionStatus"
WORKFLOWS = {"sources": "pretrain", "models": "experiment"}  # notebooks, by the kind of what they make


class CrateError(L3MuscleError):
    """A crate that cannot be written."""


def _renamed(content: Any, names: Mapping[str, str]) -> Any:
    """Names in lists within lists, as the crate gives them."""
    return names[content] if isinstance(content, str) else [_renamed(part, names) for part in content]


def _record(record: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    ids = {field: _renamed(record[field], names) for field in ("training_ids", "validation_ids") if field in record}
    return {**record, **ids}


def _add(crate: "ROCrate", path: str, content: str | pd.DataFrame | dict[str, Any], name: str) -> Any:
    if isinstance(content, pd.DataFrame):
        content = content.to_csv(index=False)
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    about = {"name": name, "encodingFormat": mimetypes.guess_type(path)[0] or "text/plain"}
    about["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return crate.add_file(StringIO(text), dest_path=path, properties=about, record_size=True)


def _add_notebooks(crate: "ROCrate") -> dict[str, Any]:
    """Add every notebook, and return the two that train, by the kind of what they make."""
    from rocrate.model import ComputerLanguage

    python = {"name": "Python", "version": platform.python_version()}
    language = crate.add(ComputerLanguage(crate, "https://www.python.org/", python))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(notebook_folder().glob("*.ipynb"))}
    workflows = {}
    for kind, name in WORKFLOWS.items():
        text = texts.pop(name)
        about = {"name": f"notebook {name}", "version": __version__, "license": CODE_LICENCE}
        about["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        options = {"properties": about, "main": kind == "models", "lang": language, "record_size": True}
        workflows[kind] = crate.add_workflow(StringIO(text), f"notebooks/{name}.ipynb", **options)
    for name, text in texts.items():
        _add(crate, f"notebooks/{name}.ipynb", text, f"notebook {name}, not executed")
    inputs = [
        crate.add_formal_parameter("settings", "File", "#input-settings", valueRequired=True),
        crate.add_formal_parameter("cohort", "Dataset", "#input-cohort", valueRequired=True),
    ]
    workflows["sources"]["input"] = workflows["models"]["input"] = inputs
    workflows["sources"]["output"] = crate.add_formal_parameter("weights", "File", "#output-weights")
    workflows["models"]["output"] = crate.add_formal_parameter("scores", "File", "#output-scores")
    return workflows


def _span(results: StudyResults, kind: str, key: str, seconds: float) -> dict[str, str]:
    """When a training began and ended: its record is written when it ends."""
    ended = datetime.fromtimestamp((results.store.folder(kind, key) / "record.json").stat().st_mtime, UTC)
    started = ended - timedelta(seconds=seconds)
    return {"startTime": started.isoformat(timespec="seconds"), "endTime": ended.isoformat(timespec="seconds")}


def _add_trainings(
    crate: "ROCrate", results: StudyResults, workflows: dict[str, Any], inputs: list[Any], made: list[Any]
) -> list[Any]:
    """An action for each source task, which makes weights, and for each experiment, which makes `made`."""

    def action(kind: str, key: str, name: str, seconds: float, used: list[Any], result: list[Any]) -> Any:
        about = {"name": name, "agent": {"@id": "#agent"}, "actionStatus": DONE, **_span(results, kind, key, seconds)}
        return crate.add_action(workflows[kind], f"#{kind}-{key}", used, result, about)

    actions, weights = [], {}
    for task, key in results.plan["sources"].items():
        if (record := results.source_record(task)) is not None:
            about = {"@id": f"#weights-{task}", "@type": "CreativeWork", "name": f"weights of the source task {task}"}
            weights[task] = crate.add_jsonld(about)
            seconds = record.get("seconds", 0.0)  # none of published weights
            actions.append(action("sources", key, f"source task {task}", seconds, inputs, [weights[task]]))
    for experiment, key in sorted(results.keys.items()):
        source = [weights[experiment.source_task]] if experiment.source_task in weights else []
        seconds = results.records[experiment]["seconds"]
        actions.append(action("models", key, str(experiment), seconds, [*inputs, *source], made))
    return actions


def build_crate(results: StudyResults) -> "ROCrate":
    """Describe a run; errors as for `write_crate`."""
    if not results.records:
        raise StudyError(f"no experiment in {results.folder} is finished yet: there is nothing to describe")
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise CrateError("a crate needs the package rocrate: pip install -e '.[crate]' in the checkout") from None
    plan, names, crate = results.plan, names_of(results), ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = "https://w3id.org/ro/terms/workflow-run#sha256"
    crate.name, crate.license = f"L3 Muscle: run of the profile {results.profile.name}", DATA_LICENCE
    crate.description = (
        f"{len(results.records)} of {results.planned()} experiments of transfer learning for skeletal-muscle "
        f"segmentation on CT at L3, on {'a phantom' if plan['phantom'] else 'an own cohort'} of {plan['patients']} "
        "patients, after McSweeney et al. 2022. Images, outlines and weights are not part of it."
    )
    crate.root_dataset["conformsTo"] = [crate.add_jsonld({"@id": uri, "@type": "CreativeWork"}) for uri in PROFILES]
    crate.root_dataset["citation"] = crate.add_jsonld({"@id": PAPER, "@type": "ScholarlyArticle"})
    crate.add_jsonld({"@id": "#agent", "@type": "Person", "name": "anonymous"})
    workflows = _add_notebooks(crate)
    settings = results.profile.model_dump(mode="json")
    settings["sources"]["weights_folder"] = None  # a folder of somebody's machine
    splits = {part: _renamed(patients, names) for part, patients in asdict(results.splits()).items()}
    cohort = {"@id": "#cohort", "@type": "Dataset", "name": f"cohort of {plan['patients']} patients"}
    inputs = [
        _add(crate, "profile.json", settings, "settings of the run"),
        crate.add_jsonld({**cohort, "identifier": plan["cohort"]}),
        _add(crate, "splits.json", splits, "who is trained on, who validates, who is held out"),
    ]
    sources = {task: record for task in plan["sources"] if (record := results.source_record(task)) is not None}
    provenance = {
        "source tasks": {task: _record(record, names) for task, record in sources.items()},
        "experiments": [_record(record, names) for _, record in sorted(results.records.items())],
    }
    outcomes = [
        _add(crate, "scores.csv", renamed(results.scores(), names), "scores, one row a model and test image"),
        _add(crate, "curves.csv", results.curves(), "training curves of the experiments"),
        _add(crate, "observers.csv", renamed(results.observer_scores(), names), "scores of the observers"),
        _add(crate, "provenance.json", provenance, "commit, versions, hardware and duration of every training"),
    ]
    parameters = [*workflows["models"]["input"], workflows["models"]["output"]]
    for entity, parameter in zip([*inputs[:2], outcomes[0]], parameters, strict=True):
        entity["exampleOfWork"] = parameter
    actions = _add_trainings(crate, results, workflows, inputs, outcomes[:2])
    about = {"name": crate.name, "agent": {"@id": "#agent"}, "actionStatus": DONE}
    about |= {"startTime": min(a["startTime"] for a in actions), "endTime": max(a["endTime"] for a in actions)}
    run = crate.add_action(crate.mainEntity, "#run", inputs, outcomes, about)
    crate.root_dataset["mentions"] = [run, *actions]
    return crate


def write_crate(results: StudyResults, out: Path) -> Path:
    """Write a run as a crate; returns `out`, a folder or a `.zip` file that must not exist.

    Raises
    ------
    CrateError
        If `out` exists or cannot be written, or rocrate is not installed.
    StudyError
        If no experiment is finished.
    """
    if out.exists():
        raise CrateError(f"{out} exists already; name a new folder or .zip file")
    crate = build_crate(results)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (crate.write_zip if out.suffix == ".zip" else crate.write)(out)
    except OSError as error:
        raise CrateError(f"cannot write {out}: {reason_of(error)}") from None
    return out
