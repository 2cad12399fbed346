"""The command line: what it writes, and one sentence with exit status 2 for every mistake."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from l3muscle.cohort import load_cohort
from l3muscle.cohort.ct import read_ct_slice
from l3muscle.segmenter.model_file import load_model

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "real-ct" / "dicom"


@pytest.fixture
def model(finished) -> Path:
    return finished.folder / "model.safetensors"


def test_version_and_help(run):
    assert run("--version")[1].strip() == "0.2.0"
    code, out, _ = run("--help")
    assert code == 0 and all(word in out for word in ("cohort", "study", "notebooks", "book", "segment"))


def test_phantom_is_written_checked_and_loaded(run, tmp_path):
    out = tmp_path / "cohort"
    code, text, _ = run("cohort", "phantom", out, "--patients", 3, "--test-patients", 1, "--size", 128, "--workers", 1)
    assert code == 0 and "3 patients written" in text
    assert len(load_cohort(out)) == 3
    code, text, _ = run("cohort", "check", out)
    assert code == 0 and "3 patients usable, 1 of them with observers; 0 refusals" in text


def test_check_lists_what_is_wrong_and_never_a_traceback(run, tmp_path, finished):
    folder = tmp_path / "cohort"
    shutil.copytree(finished.cohort_folder, folder)
    slices = sorted(folder.rglob("ct.dcm"))
    slices[0].write_bytes(slices[0].read_bytes()[:700])
    (folder / "holiday.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    code, text, err = run("cohort", "check", folder)
    assert code == 0 and "Traceback" not in text + err
    refused = [line for line in text.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 3  # the slice, the outline that has lost it, and the picture
    assert "13 patients usable" in text


def test_status_counts_the_models(run, finished, runs):
    code, text, _ = run("study", "status", "--profile", "smoke", "--runs", runs)
    assert code == 0 and "8 of 8 models done, 0 missing" in text
    assert re.search(r"│ random +│ +2 │ +2 │", text) and re.search(r"│ segmentation +│ +2 │ +2 │", text)


def test_segment_writes_outlines_pictures_and_measures(run, finished, model, tmp_path):
    slices = sorted(finished.cohort_folder.rglob("ct.dcm"))[:2]
    out = tmp_path / "out"
    code, text, _ = run("segment", *slices, "--model", model, "--out", out, "--format", "rtstruct", "--format", "nifti")
    assert code == 0 and "only phantoms" in text
    measures = pd.read_csv(out / "measures.csv").sort_values("slice")
    segmenter = load_model(model)
    for row, path in zip(measures.itertuples(), slices, strict=True):
        ct = read_ct_slice(path)
        mask = segmenter.predict(ct.hu, ct.spacing)
        assert row.sma_cm2 == pytest.approx(mask.sum() * np.prod(ct.spacing) / 100, abs=1e-3)
        assert {f"{row.slice}.{end}" for end in ("png", "rtstruct.dcm", "mask.nii.gz")} <= set(os.listdir(out))


def mistakes(tmp_path: Path, model: Path) -> dict[str, tuple[list[object], str]]:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "empty").mkdir()
    spoilt = tmp_path / "spoilt.yml"
    spoilt.write_text("extends: smoke\ntraining:\n  max_stepps: 3\n")
    return {
        "unknown profile": (["study", "run", "--profile", "labtop"], "choose one of"),
        "misspelt option": (["study", "run", "--profil", "smoke"], "No such option"),
        "no number": (["study", "run", "--workers", "0"], "greater than or equal to 1"),
        "misspelt setting": (["study", "run", "--profile", spoilt], "training.max_stepps: no such setting"),
        "runs is a file": (["study", "run", "--profile", "smoke", "--runs", tmp_path / "file"], "cannot write"),
        "phantom over a folder": (["cohort", "phantom", tmp_path / "empty"], "exists already"),
        "phantom below a file": (["cohort", "phantom", tmp_path / "file" / "x"], "cannot write"),
        "check of nothing": (["cohort", "check", tmp_path / "nowhere"], "there is no folder"),
        "check of an empty folder": (["cohort", "check", tmp_path / "empty"], "no files in"),
        "status before a run": (["study", "status", "--runs", tmp_path], "no study has been started"),
        "no such model": (
            ["segment", tmp_path, "--model", tmp_path / "none", "--out", tmp_path / "o"],
            "no model file",
        ),
        "no such slice": (
            ["segment", tmp_path / "none", "--model", model, "--out", tmp_path / "o"],
            "no file or folder",
        ),
        "not a slice": (["segment", spoilt, "--model", model, "--out", tmp_path / "o"], "not a DICOM file"),
        "output below a file": (["segment", REAL_CT, "--model", model, "--out", tmp_path / "file" / "o"], "cannot"),
    }


@pytest.mark.parametrize("number", range(14))
def test_a_mistake_is_one_sentence_and_status_2(run, tmp_path, model, number):
    arguments, message = list(mistakes(tmp_path, model).values())[number]
    if not REAL_CT.is_dir() and REAL_CT in arguments:
        pytest.skip("no real CT beside the checkout")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err and "Traceback" not in err
    if "Usage:" not in err:  # where Typer draws a box
        assert "\n" not in err.strip().split("l3muscle: ")[-1]
    assert sorted(tmp_path.rglob("*")) == before, "something half-written was left behind"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_sentence(run, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run("study", "run", "--profile", "smoke", "--runs", tmp_path / "runs")
    assert code == 2 and "cannot write" in err


def test_the_installed_command_starts():
    command = Path(sys.executable).with_name("l3muscle")
    answer = subprocess.run([command, "study", "run", "--profile", "nope"], capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr.startswith("l3muscle: there is no profile 'nope'")
