"""A run as a Workflow Run RO-Crate: complete by the profile, read back by the library, and silent about people."""

import getpass
import hashlib
import json
import platform
import shutil
import zipfile
from datetime import datetime
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rocrate.rocrate import ROCrate

from l3muscle.book.crate import CrateError, write_crate
from l3muscle.book.run_header import names_of
from l3muscle.store import Store
from l3muscle.study import StudyError, StudyResults, open_results


@pytest.fixture(scope="module")
def folder(finished, runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("crate") / "crate"
    return write_crate(open_results("smoke", runs), out)


@pytest.fixture(scope="module")
def crate(folder) -> ROCrate:
    return ROCrate(folder)


def ids(value) -> set[str]:
    return {entity.id for entity in (value if isinstance(value, list) else [value])}


def test_the_root_names_the_profiles_that_it_follows(crate):
    named = ids(crate.root_dataset["conformsTo"])
    assert {"https://w3id.org/ro/wfrun/process/0.5", "https://w3id.org/ro/wfrun/workflow/0.5"} <= named
    for field in ("name", "description", "license", "datePublished"):
        assert crate.root_dataset[field]


def test_the_workflows_are_the_notebooks_that_train_with_language_inputs_and_outputs(crate):
    workflows = crate.get_by_type("ComputationalWorkflow")
    assert ids(workflows) == {"notebooks/pretrain.ipynb", "notebooks/experiment.ipynb"}
    assert crate.mainEntity.id == "notebooks/experiment.ipynb"
    for workflow in workflows:
        assert set(workflow.type) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
        assert workflow["programmingLanguage"]["name"] == "Python"
        parameters = [*workflow["input"], workflow["output"]]
        assert all(parameter.type == "FormalParameter" and parameter["additionalType"] for parameter in parameters)
    parameters = [*crate.mainEntity["input"], crate.mainEntity["output"]]
    for identifier in ("profile.json", "#cohort", "scores.csv"):
        assert ids(crate.dereference(identifier)["exampleOfWork"]) <= ids(parameters)


def test_every_training_is_an_action_of_known_code_with_times_inputs_and_results(crate):
    actions = crate.get_by_type("CreateAction")
    assert len(actions) == 8 + 1 + 1  # experiments, the source task, the run
    assert ids(crate.root_dataset["mentions"]) == ids(actions)
    for action in actions:
        start, end = (datetime.fromisoformat(action[name]) for name in ("startTime", "endTime"))
        assert start <= end and start.tzinfo is not None
        assert action["agent"]["name"] == "anonymous"
        assert "SoftwareSourceCode" in action["instrument"].type
        assert {"profile.json", "splits.json", "#cohort"} <= ids(action["object"])
        assert action["result"]
    run = crate.dereference("#run")
    assert run["instrument"].id == crate.mainEntity.id
    assert "scores.csv" in ids(run["result"]) and "provenance.json" in ids(run["result"])
    fine_tuned = next(action for action in actions if action["name"].startswith("segmentation n=2"))
    assert "#weights-segmentation" in ids(fine_tuned["object"])
    learned = next(action for action in actions if action["name"] == "source task segmentation")
    assert learned["instrument"].id == "notebooks/pretrain.ipynb" and fine_tuned["instrument"].id == crate.mainEntity.id


def test_every_file_is_there_with_its_hash(crate, folder):
    files = [entity for entity in crate.data_entities if "File" in entity.type]
    assert len(files) > 8
    for file in files:
        content = (folder / file.id).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"] and str(len(content)) == file["contentSize"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {file.id for file in files} | {"ro-crate-metadata.json"}


def test_scores_and_provenance_are_those_of_the_run(finished, runs, folder):
    results = open_results("smoke", runs)
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "scores.csv", keep_default_na=False, na_values={"rms_dta_cm": [""]}),
        results.scores().astype({"source_task": object, "patient_id": object, "failure": object}),
        check_dtype=False,
    )
    told = json.loads((folder / "provenance.json").read_text())
    assert len(told["experiments"]) == 8 and set(told["source tasks"]) == {"segmentation"}
    for record in told["experiments"]:
        assert {"commit", "uncommitted_changes", "versions", "processor"} <= set(record["provenance"])
        assert record["seconds"] > 0 and record["sha256"]


def test_no_machine_user_or_folder_is_named(folder, runs):
    texts = "\n".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".yml"))
    assert platform.node() not in texts and str(runs) not in texts and str(Path.home()) + "/" not in texts
    assert f"/{getpass.getuser()}" not in texts and "cohort_folder" not in texts


@pytest.fixture
def own(finished, runs, tmp_path) -> StudyResults:
    """The same run, as if its cohort were somebody's own."""
    shutil.copytree(runs / "smoke", tmp_path / "smoke")
    plan = StudyResults(tmp_path / "smoke").plan
    (tmp_path / "Mrs Example").symlink_to(finished.cohort_folder)
    plan |= {"phantom": False, "cohort_folder": "../Mrs Example"}
    plan["profile"]["sources"]["weights_folder"] = str(Path("/home", "someone", "weights"))
    Store(tmp_path / "smoke").write_document("plan.json", plan)
    return StudyResults(tmp_path / "smoke")


def test_people_have_the_pseudonyms_of_the_pages(own, tmp_path):
    out = write_crate(own, tmp_path / "crate.zip")
    with zipfile.ZipFile(out) as archive:
        content = {name: archive.read(name).decode() for name in archive.namelist() if "notebooks" not in name}
    told = pd.read_csv(StringIO(content["observers.csv"]))["observer"]
    assert not set(told) & set(own.observer_scores()["observer"])
    for word in ("PHANTOM-", "Mrs Example", "someone"):
        assert not [name for name, text in content.items() if word in text], word
    splits = json.loads(content["splits.json"])
    names = names_of(own)
    assert splits["test_ids"] == [names[patient] for patient in own.splits().test_ids]
    assert all(patient.startswith("patient ") for patient in splits["test_ids"])
    assert content["scores.csv"].count(splits["test_ids"][0]) == 8  # the same number in every file
    told = json.loads(content["provenance.json"])["experiments"]
    assert {patient for fold in splits["folds"] for patient in fold} >= set(told[0]["training_ids"])
    assert ROCrate(out).mainEntity is not None


def test_what_is_there_is_not_overwritten_and_nothing_is_not_described(finished, runs, tmp_path):
    results = open_results("smoke", runs)
    with pytest.raises(CrateError, match="exists already"):
        write_crate(results, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CrateError, match="cannot write"):
        write_crate(results, tmp_path / "file" / "crate")
    shutil.copytree(runs / "smoke", tmp_path / "smoke", ignore=lambda _, names: {"models"} & set(names))
    with pytest.raises(StudyError, match="nothing to describe"):
        write_crate(StudyResults(tmp_path / "smoke"), tmp_path / "crate")
