"""A finished or half-finished run as a Workflow Run RO-Crate: what was made, from what, by which code, where and when.

The crate follows Workflow Run Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5), which includes Process Run Crate 0.5,
on RO-Crate 1.1. It holds the workflow, the settings, plan and splits, the scores of every experiment, and a record of
each training (`CreateAction`). It names no person, machine or folder; patients and observers of a cohort of one's own
are numbered anew.
"""

import hashlib
import json
import platform
import random
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.model.softwareapplication import SoftwareApplication
from rocrate.rocrate import ROCrate

from l3muscle import __version__
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.store import RECORD, file_sha256
from l3muscle.study import Experiment, StudyError, StudyResults

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
# Terms beyond schema.org, as the workflow-run vocabulary has them: written out, so that no reader has to fetch it.
TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
WORKFLOW = "runner.py"
PYTHON = "https://www.python.org/"
LICENCES = {"code": "https://spdx.org/licenses/MIT", "data": "https://creativecommons.org/licenses/by/4.0/"}
PAPER = "https://doi.org/10.1002/mp.15533"
BIOSCHEMAS = "https://bioschemas.org/profiles/{}/1.0-RELEASE"
ENCODINGS = {
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".json": "application/json",
    ".yml": "application/yaml",
    ".py": "text/x-python",
    ".ipynb": "application/x-ipynb+json",
}

README = """# A run of L3 Muscle

{about}

| | |
| --- | --- |
| `workflow/`, `notebooks/` | the code that ran and the notebooks that show what came out |
| `profile.yml`, `plan.json`, `splits.json` | settings, experiments, and who was trained on, validated on and held out |
| `scores.csv`, `scores/` | one row a model and test image: all, and by experiment |
| `curves.csv`, `source_tasks/` | training curves of the experiments and of the source tasks |
| `observers.csv` | the observers' scores |
| `provenance.json` | commit, versions, hardware, seeds, inputs' hashes and duration of every training |

Images, outlines and weights are not part of it. In `ro-crate-metadata.json` a training ends when its result was written
and starts as many seconds earlier as it took.
"""


class CrateError(L3MuscleError):
    """A crate that cannot be written."""


def pseudonyms(names: Sequence[str], prefix: str, *, salt: str) -> dict[str, str]:
    """Number names in an order that tells nothing of them.

    Parameters
    ----------
    names : sequence of str
    prefix : str
    salt : str
        The same salt gives the same numbers.

    Returns
    -------
    dict of str to str
    """
    order = sorted(set(names))
    random.Random(hashlib.sha256(f"{prefix} {salt}".encode()).hexdigest()).shuffle(order)
    return {name: f"{prefix}-{place:04d}" for place, name in enumerate(order, 1)}


class _Names:
    """Names of patients and observers as the crate gives them: a phantom's own, numbers for people."""

    def __init__(self, results: StudyResults) -> None:
        self.own = not results.plan["phantom"]
        # Drawn anew for each crate: whoever has a list of the names cannot number them in the same way.
        splits, salt = results.splits(), secrets.token_hex(16)
        patients = [*splits.test_ids, *(patient for fold in splits.folds for patient in fold)]
        self._patients = pseudonyms(patients, "patient", salt=salt) if self.own else {}
        self._observers: dict[str, str] = {}
        observers = results.observer_scores()
        if self.own and "observer" in observers:
            self._observers = pseudonyms(list(observers["observer"]), "observer", salt=salt)

    def table(self, table: pd.DataFrame) -> pd.DataFrame:
        named = {"patient_id": self._patients, "observer": self._observers}
        if not self.own:
            return table
        return table.assign(**{column: table[column].map(new) for column, new in named.items() if column in table})

    def patients(self, nested: Any) -> Any:
        if isinstance(nested, str):
            return self._patients[nested] if self.own else nested
        return [self.patients(part) for part in nested]


class _Files:
    """Files of the crate, written to a folder first."""

    def __init__(self, crate: ROCrate, folder: Path) -> None:
        self.crate, self.folder = crate, folder

    def text(self, place: str, text: str, **properties: Any) -> Any:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        about = {
            "encodingFormat": ENCODINGS[path.suffix],
            "contentSize": str(path.stat().st_size),
            "sha256": file_sha256(path),
            **properties,
        }
        return self.crate.add_file(path, dest_path=place, properties=about)

    def json(self, place: str, content: Any, **properties: Any) -> Any:
        return self.text(place, json.dumps(content, indent=1), **properties)

    def table(self, place: str, table: pd.DataFrame, **properties: Any) -> Any:
        return self.text(place, table.to_csv(index=False), **properties)


def _span(results: StudyResults, kind: str, key: str, seconds: float) -> tuple[str, str]:
    """When a training began and ended: its artefact is written at once when it ends."""
    ended = datetime.fromtimestamp((results.store.folder(kind, key) / RECORD).stat().st_mtime, UTC)
    started = ended - timedelta(seconds=seconds)
    return started.isoformat(timespec="milliseconds"), ended.isoformat(timespec="milliseconds")


def _settings(results: StudyResults) -> dict[str, Any]:
    settings = results.profile.model_dump(mode="json")
    settings["sources"]["weights_folder"] = None  # a place on somebody's machine
    return settings


def _plan(results: StudyResults) -> dict[str, Any]:
    return {k: v for k, v in results.plan.items() if k not in ("cohort_folder", "profile")}


def _place(experiment: Experiment) -> str:
    return f"scores/{'_'.join(str(value) for value in asdict(experiment).values())}.csv"


def build_crate(results: StudyResults, folder: Path, *, notebooks: Path = Path("notebooks")) -> ROCrate:
    """Describe a run; files that the description needs are written to a folder.

    Parameters
    ----------
    results : StudyResults
        With at least one finished experiment.
    folder : Path
        Existing and empty; read when the crate is written.
    notebooks : Path
        Templates of the notebooks, which become part of the crate where they are.

    Returns
    -------
    rocrate.rocrate.ROCrate

    Raises
    ------
    StudyError
        If no experiment is finished.
    """
    if not results.records:
        raise StudyError(f"no experiment in {results.folder} is finished yet: there is nothing to describe")
    names = _Names(results)
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)
    files = _Files(crate, folder)
    entity = _adder(crate)

    what = "a phantom" if results.plan["phantom"] else "a cohort of one's own"
    done, planned = len(results.records), results.planned()
    root = crate.root_dataset
    crate.name = f"L3 Muscle: run of the profile {results.profile.name}"
    crate.description = (
        f"{done} of {planned} experiments of transfer learning for skeletal-muscle segmentation on CT at L3, on "
        f"{what} of {results.plan['patients']} patients, after McSweeney et al. 2022."
    )
    for licence, name in ((LICENCES["code"], "MIT License"), (LICENCES["data"], "CC BY 4.0")):
        entity(licence, "CreativeWork", name=name)
    crate.license = crate.get(LICENCES["data"])
    root["conformsTo"] = [
        entity(uri, "CreativeWork", name=name, version=version) for uri, (name, version) in PROFILES.items()
    ]
    root["citation"] = entity(
        PAPER,
        "ScholarlyArticle",
        name="Transfer learning for data-efficient abdominal muscle segmentation with convolutional neural networks",
    )
    crate.metadata["conformsTo"] = [{"@id": uri} for uri in ("https://w3id.org/ro/crate/1.1", list(PROFILES)[-1])]
    files.text("README.md", README.format(about=crate.description), about={"@id": "./"}, name="what the crate holds")
    agent = entity("#agent", "Person", name="anonymous")
    root["author"] = agent
    root["publisher"] = entity("#developers", "Organization", name="the L3 Muscle developers")

    workflow, modules = _workflow(crate, files)
    package = crate.add(
        SoftwareApplication(
            crate,
            "#l3-muscle",
            properties={"name": "l3-muscle", "softwareVersion": __version__, "license": {"@id": LICENCES["code"]}},
        )
    )
    workflow["softwareRequirements"] = package
    settings = files.text(
        "profile.yml", yaml.safe_dump(_settings(results), sort_keys=False), name="settings of the run"
    )
    plan = files.json("plan.json", _plan(results), name="experiments of the grid and the keys of their results")
    splits = results.splits()
    split = files.json(
        "splits.json",
        {name: names.patients(value) for name, value in asdict(splits).items()},
        name="who is trained on, who validates, who is held out",
    )
    cohort = entity(
        "#cohort",
        "Dataset",
        name=f"cohort of {results.plan['patients']} patients ({'phantom' if results.plan['phantom'] else 'own'})",
        description="Not part of the crate; the identifier is the SHA-256 of its images and outlines.",
        identifier=results.plan["cohort"],
    )
    _formal_parameters(crate, workflow, settings=settings, cohort=cohort)

    inputs = [settings, plan, split, cohort]
    actions, sources = [], {}
    for task, key in results.plan["sources"].items():
        record = results.source_record(task)
        if record is None:
            continue
        made = [entity(
            f"#weights-{task}",
            "CreativeWork",
            name=f"weights of the source task {task}",
            description="Not part of the crate.",
            sha256=record["sha256"]["weights.safetensors"],
        )]  # fmt: skip
        curve = results.source_curve(task)
        if curve is not None:
            made.append(
                files.table(f"source_tasks/{task}.csv", curve, name=f"training curve of the source task {task}")
            )
        sources[task] = made[0]
        actions.append(
            _action(
                crate,
                f"#source-{task}",
                f"source task {task}",
                modules["study.py"],
                agent,
                _span(results, "sources", key, record["seconds"]),
                used=inputs,
                made=made,
            )
        )
    for experiment, key in sorted(results.keys.items()):
        record = results.records[experiment]
        table = names.table(results.store.table("experiments", key, "scores"))
        scores = files.table(_place(experiment), table, name=f"scores of {experiment}")
        source = [sources[experiment.source_task]] if experiment.source_task in sources else []
        actions.append(
            _action(
                crate,
                f"#experiment-{key}",
                str(experiment),
                modules["study.py"],
                agent,
                _span(results, "experiments", key, record["seconds"]),
                used=[*inputs, *source],
                made=[scores],
                identifier=key,
            )
        )
    made = [
        files.table("scores.csv", names.table(results.scores()), name="scores, one row a model and test image"),
        files.table("curves.csv", results.curves(), name="training curves, one row a model and validation"),
        files.table("observers.csv", names.table(results.observer_scores()), name="scores of the observers"),
        files.json(
            "provenance.json",
            _provenance(results, names),
            name="commit, versions, hardware, seeds, inputs' hashes and duration of every training",
        ),
    ]
    made[0]["exampleOfWork"] = {"@id": "#output-scores"}
    whole = (min(a["startTime"] for a in actions), max(a["endTime"] for a in actions))
    name = f"study of the profile {results.profile.name}: {done} of {planned} experiments finished"
    run = _action(crate, "#run", name, workflow, agent, whole, used=inputs, made=made)
    root["mentions"] = [run, *actions]
    for path in sorted(notebooks.glob("*.ipynb")):
        files.text(
            f"notebooks/{path.name}",
            path.read_text(encoding="utf-8"),
            name=f"notebook {path.stem}: template without outputs",
            license={"@id": LICENCES["code"]},
        )
    return crate


def _adder(crate: ROCrate) -> Callable[..., ContextEntity]:
    def add(place: str, kind: str | list[str], /, **properties: Any) -> ContextEntity:
        return crate.add(ContextEntity(crate, place, properties={"@type": kind, **properties}))

    return add


def _workflow(crate: ROCrate, files: _Files) -> tuple[Any, dict[str, Any]]:
    """The code that ran: the loop over the grid as the workflow, and the module whose functions it calls."""
    language = _adder(crate)(
        PYTHON, ["ComputerLanguage", "SoftwareApplication"], name="Python", version=platform.python_version()
    )
    package = Path(str(resources.files("l3muscle")))
    words = {"study.py": "one experiment, or one source task", WORKFLOW: "the study: every experiment of a grid"}
    kinds = {"study.py": "SoftwareApplication", WORKFLOW: "ComputationalWorkflow"}
    modules = {
        name: files.text(
            f"workflow/{name}",
            (package / name).read_text(encoding="utf-8"),
            **{"@type": ["File", "SoftwareSourceCode", kinds[name]]},
            name=words[name],
            description=words[name],
            programmingLanguage=language,
            version=__version__,
            license={"@id": LICENCES["code"]},
        )
        for name in kinds
    }
    workflow = modules[WORKFLOW]
    workflow["conformsTo"] = {"@id": BIOSCHEMAS.format("ComputationalWorkflow")}
    workflow["hasPart"] = modules["study.py"]
    crate.mainEntity = workflow
    return workflow, modules


def _formal_parameters(crate: ROCrate, workflow: Any, **given: Any) -> None:
    """What the workflow takes and gives, and which entities stand for it in this run."""
    conforms = {"@id": BIOSCHEMAS.format("FormalParameter")}
    entity = _adder(crate)
    for name in ("ComputationalWorkflow", "FormalParameter"):
        entity(BIOSCHEMAS.format(name), "CreativeWork", name=name, version="1.0-RELEASE")
    kinds = {"settings": "File", "cohort": "Dataset"}
    workflow["input"] = [
        entity(
            f"#input-{name}", "FormalParameter", name=name, additionalType=kind, valueRequired=True, conformsTo=conforms
        )
        for name, kind in kinds.items()
    ]
    workflow["output"] = entity(
        "#output-scores", "FormalParameter", name="scores", additionalType="File", conformsTo=conforms
    )
    for name, value in given.items():
        value["exampleOfWork"] = {"@id": f"#input-{name}"}


def _action(
    crate: ROCrate,
    place: str,
    name: str,
    instrument: Any,
    agent: Any,
    span: tuple[str, str],
    *,
    used: Sequence[Any],
    made: Sequence[Any],
    **more: Any,
) -> Any:
    properties: Mapping[str, Any] = {
        "@type": "CreateAction",
        "name": name,
        "description": f"Made {name}.",
        "startTime": span[0],
        "endTime": span[1],
        "actionStatus": "http://schema.org/CompletedActionStatus",
        **more,
    }
    action = crate.add(ContextEntity(crate, place, properties=dict(properties)))
    action["instrument"], action["agent"] = instrument, agent
    action["object"] = list(used)
    action["result"] = list(made) if len(made) > 1 else made[0]
    return action


def _provenance(results: StudyResults, names: _Names) -> dict[str, Any]:
    def told(record: Mapping[str, Any]) -> dict[str, Any]:
        ids = {name: names.patients(record[name]) for name in ("training_ids", "validation_ids") if name in record}
        return {**record, **ids}

    sources = {task: results.source_record(task) for task in results.plan["sources"]}
    return {
        "inputs": {
            "cohort": results.plan["cohort"],
            "method's code": results.plan.get("code"),
            "settings": hashlib.sha256(json.dumps(_settings(results), sort_keys=True).encode()).hexdigest(),
        },
        "source tasks": {task: told(record) for task, record in sources.items() if record is not None},
        "experiments": [
            {**told(results.records[experiment]), "key": key} for experiment, key in sorted(results.keys.items())
        ],
    }


def write_crate(results: StudyResults, out: Path, *, notebooks: Path = Path("notebooks")) -> Path:
    """Write a run as a Workflow Run RO-Crate.

    Parameters
    ----------
    results : StudyResults
    out : Path
        A folder, or a file that ends in `.zip`; must not exist.
    notebooks : Path

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CrateError
        If `out` exists or cannot be written.
    StudyError
        If no experiment is finished.
    """
    if out.exists():
        raise CrateError(f"{out} exists already; name a new folder or .zip file")
    with tempfile.TemporaryDirectory(prefix="l3muscle-") as folder:
        crate = build_crate(results, Path(folder), notebooks=notebooks)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            (crate.write_zip if out.suffix == ".zip" else crate.write)(out)
        except OSError as error:
            raise CrateError(f"cannot write {out}: {reason_of(error)}") from None
    return out
