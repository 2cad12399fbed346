"""Nothing is unpickled, nothing leads out of its folder or off https, and nobody's name comes out again."""

import io
import pickle
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from fuzzed_readers import readers
from tiny_study import train_all
from torchvision.models import ResNet50_Weights

from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.files import NOT_DATA
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.errors import L3MuscleError
from l3muscle.pretext import pretrained
from l3muscle.profile import load_profile
from l3muscle.segmenter.model_file import publish_model
from l3muscle.study import Study


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_reader_unpickles(tmp_path):
    """Pickles as they are, as torch saves them, and as an object array, in the place of every file that is read."""
    mark = tmp_path / "executed"
    folder = tmp_path / "readers"
    folder.mkdir()
    plain, saved, array, zipped = pickle.dumps(Trap(mark)), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": Trap(mark)}, saved)
    np.savez(array, packed=np.array([Trap(mark)], dtype=object), width=np.array(8))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("packed.npy", plain)
    for name, reader in readers(folder).items():
        for content in (plain, saved.getvalue(), array.getvalue(), zipped.getvalue()):
            (folder / reader.file).write_bytes(content)
            with suppress(L3MuscleError):
                reader.read(folder)
            assert not mark.exists(), name
        (folder / reader.file).write_bytes(reader.seeds[0])
    pickle.loads(plain)
    assert mark.exists(), "the trap does not work"


def test_weights_come_over_https_only(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet50_Weights.IMAGENET1K_V1.value, "url", "http://weights.invalid/resnet50-01234567.pth")
    with pytest.raises(pretrained.WeightsError, match="is not https"):
        pretrained.load_published(load_profile("paper", network={"backbone": "resnet50"}), "classification")


@pytest.mark.parametrize("address", ["http://elsewhere.invalid/x", "ftp://elsewhere.invalid/x", "file:///etc/passwd"])
def test_a_server_that_leads_off_https_is_not_followed(address):
    from urllib.request import Request

    handler = pretrained._HttpsOnly()
    with pytest.raises(OSError, match="not https"):
        handler.redirect_request(Request("https://weights.invalid/x"), None, 302, "", {}, address)
    followed = handler.redirect_request(Request("https://a.invalid/x"), None, 302, "", {}, "https://b.invalid/x")
    assert followed.full_url == "https://b.invalid/x"


def test_torchvisions_addresses_are_https():
    profile = load_profile("paper")
    for task in ("classification", "segmentation"):
        assert pretrained.published_entry(profile, task).url.startswith("https://")


# --- nobody's name comes out again -----------------------------------------------------------------------------

#: What a slice says of a person and of those who looked after them; none of it may leave.
CANARIES = {
    "PatientName": "Canaryfamily^Canarygiven", "PatientBirthDate": "19310203", "OtherPatientIDs": "CANARY-OTHER-ID",
    "PatientAddress": "Canarystreet 5", "PatientTelephoneNumbers": "0815-CANARY", "PatientComments": "canarycomment",
    "ReferringPhysicianName": "Canarydoctor^A", "OperatorsName": "Canaryoperator^B",
    "PerformingPhysicianName": "Canaryphysician^C", "InstitutionName": "Canaryhospital",
    "InstitutionAddress": "Canarysquare 7", "StationName": "CANARYSTATION", "PatientMotherBirthName": "Canarymother",
    "MilitaryRank": "Canaryrank", "EthnicGroup": "canaryethnic", "RequestingPhysician": "Canaryrequest^D",
}  # fmt: skip
TRACES = re.compile(rb"canary|19310203|1931-02-03", re.IGNORECASE)


def traces(*roots: Path) -> list[str]:
    """Files that repeat a canary, by name or content, packed or not."""
    import gzip

    found = []
    for path in (path for root in roots for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content += gzip.decompress(content)
        if TRACES.search(content) or TRACES.search(path.name.encode()):
            found.append(path.name)
    return found


@pytest.fixture
def named_slice(tmp_path) -> Path:
    rows, columns = np.ogrid[:64, :64]
    body = np.where(np.hypot(rows - 32, columns - 32) < 24, 50, -1000)
    folder = tmp_path / "in"
    folder.mkdir()
    write_ct_slice(folder / "slice.dcm", body, (3, 3), patient_id="P1")
    dataset = pydicom.dcmread(folder / "slice.dcm")
    for keyword, value in CANARIES.items():
        setattr(dataset, keyword, value)
    private = dataset.private_block(0x0029, "CANARY MAKER", create=True)
    private.add_new(0x01, "LO", "canaryprivate")
    dataset.save_as(folder / "slice.dcm")
    assert traces(folder) == ["slice.dcm"]
    return folder / "slice.dcm"


def test_segmenting_repeats_no_identity(named_slice, tmp_path, finished, run):
    out = tmp_path / "out"
    formats = [part for name in ("seg", "rtstruct", "nifti") for part in ("--format", name)]
    model = finished.folder / "model.safetensors"
    code, text, err = run("segment", named_slice, "--model", model, "--out", out, *formats)
    assert code == 0 and (out / "measures.csv").exists()
    assert not TRACES.search((text + err).encode())
    assert traces(out) == []


def test_checking_and_showing_a_cohort_repeat_no_identity(named_slice, tmp_path, run):
    ct = read_ct_slice(named_slice)
    write_rtstruct(named_slice.with_name("rt.dcm"), {"expert": ct.hu > 0}, ct)
    broken = pydicom.dcmread(named_slice)
    broken.PatientID, broken.SOPInstanceUID, broken.RescaleSlope = "P2", f"{ct.sop_instance_uid}.1", "0"
    broken.save_as(named_slice.with_name("Canaryfamily 19310203.dcm"))
    out = tmp_path / "out"
    for arguments in (("check", named_slice.parent), ("show", named_slice.parent, "--out", out)):
        _, text, err = run("cohort", *arguments)
        assert "refus" in text + err and not TRACES.search((text + err).encode()), text + err
    assert traces(out) == []


@pytest.mark.parametrize("keyword", ["RescaleType", "PhotometricInterpretation", "Modality", "PixelSpacing"])
def test_no_refusal_repeats_who_the_patient_is(named_slice, run, tmp_path, finished, keyword):
    dataset = pydicom.dcmread(named_slice)
    delattr(dataset, keyword)
    dataset.save_as(named_slice)
    model = finished.folder / "model.safetensors"
    code, text, err = run("segment", named_slice, "--model", model, "--out", tmp_path / "out")
    assert code in (0, 2) and not TRACES.search((text + err).encode())


def test_a_study_of_named_slices_repeats_no_identity(tmp_path, tiny, finished):
    """Records, plans, scores, weights and the model file of a run whose every slice carries names."""
    shutil.copytree(finished.cohort_folder, tmp_path / "cohort")
    for path in (tmp_path / "cohort").rglob("*"):
        if path.is_file() and not path.name.lower().endswith(NOT_DATA):
            dataset = pydicom.dcmread(path)
            for keyword, value in CANARIES.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path)
    assert traces(tmp_path / "cohort")
    grid = {"source_tasks": ("random",), "sizes": (2,), "folds": 2, "subsets": 1, "repeats": 1}
    profile = tiny.model_copy(update={"grid": tiny.grid.model_copy(update=grid)})
    study = Study(profile, runs=tmp_path / "runs", cohort_folder=tmp_path / "cohort")
    train_all(study)
    assert publish_model(study).is_file()
    assert traces(study.folder) == []
