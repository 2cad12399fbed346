"""Damaged, lost and exchanged files of a run are found, told and made again; full disks and locked folders are named.

One run goes over a copy in which a file of every kind is damaged in the same way. `make soak` damages them one by one.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l3muscle.checkpoint import CheckpointFile
from l3muscle.drafts import draft_of
from l3muscle.errors import L3MuscleError
from l3muscle.phantom.patients import PhantomError
from l3muscle.runner import run_study
from l3muscle.segmenter.model_file import load_model
from l3muscle.store import StoreError
from l3muscle.study import Study, StudyError, StudyResults


def all_of(folder: Path) -> dict:
    """What the readers of a run find in it."""
    results = StudyResults(folder)
    model = load_model(folder / "model.safetensors")
    found = {
        "scores": results.scores(),
        "curves": results.curves(),
        "observers": results.observer_scores(),
        "source curve": results.source_curve("segmentation"),
    }
    found = {name: table.to_json(double_precision=15) for name, table in found.items()}
    found |= {str(e): results.predictions(e).tobytes() for e in results.keys}
    found |= {"splits": results.splits(), "failures": results.failures(), "cohort": results.cohort().fingerprint}
    return found | {"model": [value.numpy().tobytes() for value in model.network.state_dict().values()]}


@pytest.fixture(scope="module")
def sound(finished) -> dict:
    return all_of(finished.folder)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of all runs, to be spoilt."""
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    return tmp_path / "runs"


def one_of_each(copied: Path) -> list[Path]:
    """One file of every kind of a run, each of another artefact where there are several."""
    run = copied / "smoke"
    experiments = sorted((run / "experiments").iterdir())
    kept = next(folder for folder in experiments if (folder / "weights.safetensors").is_file())
    experiments.remove(kept)
    names = ("record.json", "scores.parquet", "curve.parquet", "predictions.npz")
    [source], [observers] = (run / "sources").iterdir(), (run / "observers").iterdir()
    return [
        *(run / name for name in ("plan.json", "splits.json", "failed.json", "model.safetensors")),
        *(folder / name for folder, name in zip(experiments, names, strict=False)),
        kept / "weights.safetensors",
        source / "weights.safetensors",
        observers / "scores.parquet",
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b": ") + 3 if path.suffix == ".json" else len(data) // 2
    data[place] ^= 1
    path.write_bytes(bytes(data))


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "flip": flip,
    "truncate": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "delete": Path.unlink,
    "directory": into_a_folder,
}


@pytest.mark.parametrize("how", ["flip", "delete", "directory"])
def test_what_is_damaged_is_told_and_made_again_to_the_same_bits(copied, tiny, sound, how):
    spoilt = one_of_each(copied)
    for path in spoilt:
        DAMAGES[how](path)
    with pytest.raises(L3MuscleError, match="plan.json|no study has been started"):
        all_of(copied / "smoke")
    said: list[str] = []
    study = Study(tiny, runs=copied)
    study.make_phantom()
    assert run_study(study, say=said.append).complete
    told = "\n".join(said)
    for path in spoilt:
        name = path.parent.name if path.parent.parent.name in ("experiments", "sources", "observers") else path.name
        # Where experiments are run, both of these are written afterwards as a matter of course.
        expected = how == "delete" and path.name in ("failed.json", "model.safetensors")
        assert expected or name in told, f"{path} went unreported:\n{told}"
    assert all_of(study.folder) == sound
    said.clear()
    assert run_study(Study(tiny, runs=copied), say=said.append).finished == 0
    assert said == []


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "delete"])
@pytest.mark.parametrize("name", ["plan.json", "splits.json", "failed.json", "model.safetensors", "record.json"])
def test_no_reader_believes_a_damaged_file(copied, how, name):
    path = next(path for path in one_of_each(copied) if path.name == name)
    if (how, name) == ("delete", "failed.json"):
        pytest.skip("where nobody noted a failure there was none")
    DAMAGES[how](path)
    with pytest.raises(L3MuscleError) as caught:
        all_of(copied / "smoke")
    assert len(str(caught.value).splitlines()) == 1


def test_no_bit_of_a_document_counts_for_nothing(copied):
    """Wherever a plan is changed, it is refused or says the same."""
    path = copied / "smoke" / "plan.json"
    data, before = path.read_bytes(), StudyResults(path.parent).plan
    for place in range(0, len(data), max(len(data) // 200, 1)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = StudyResults(path.parent).plan
        except StudyError:
            continue
        assert found == before


def test_exchanged_artefacts_are_not_taken_for_each_other(copied, tiny, sound):
    one, other, third, fourth = sorted((copied / "smoke" / "experiments").iterdir())[:4]
    between = one.with_name("between")
    for source, target in ((one, between), (other, one), (between, other)):
        source.rename(target)
    shutil.copy(third / "scores.parquet", fourth / "scores.parquet")
    with pytest.raises(StudyError, match=r"damaged and set aside \(3\)"):
        StudyResults(copied / "smoke").scores()
    # Told once; from then on they are missing, and a partial run is read as one.
    assert len(StudyResults(copied / "smoke").records) == 5
    assert run_study(Study(tiny, runs=copied), say=lambda line: None).finished == 3
    assert all_of(copied / "smoke") == sound


def test_a_damaged_phantom_is_drawn_anew(copied, tiny, sound):
    study = Study(tiny, runs=copied)
    [slice_file, *_] = sorted(study.cohort_folder.rglob("ct.dcm"))
    flip(slice_file)
    with pytest.raises(StudyError, match=r"ct\.dcm is not as it was written"):
        all_of(study.folder)
    assert study.make_phantom()
    said: list[str] = []
    assert run_study(study, say=said.append).finished == 0
    assert any("ct.dcm" in line and "set aside" in line for line in said)
    assert all_of(study.folder) == sound
    assert not Study(tiny, runs=copied).make_phantom()


def test_a_cohort_of_ones_own_that_was_changed_is_not_read_as_the_runs(copied, finished, sound):
    results = StudyResults(copied / "smoke")
    assert results.cohort().fingerprint == sound["cohort"]
    results.plan |= {"phantom": False, "cohort": "0" * 64}
    with pytest.raises(StudyError, match="not those that the run used"):
        results.cohort()


def test_the_state_of_a_training_is_told_when_damaged_and_goes_when_it_is_over(copied, tiny, sound):
    study = Study(tiny, runs=copied)
    unfinished, done = study.jobs[0].key, study.jobs[1].key
    shutil.rmtree(study.store.folder("experiments", unfinished))
    study.checkpoint(done).parent.mkdir()
    for key in (unfinished, done):
        study.checkpoint(key).write_bytes(b"half a state")
    said: list[str] = []
    assert run_study(study, say=said.append).finished == 1
    assert [line for line in said if "begins anew" in line] == [
        f"the state of an unfinished training, {study.checkpoint(unfinished)}, is damaged; it begins anew"
    ]
    assert not study.checkpoint(done).parent.exists()
    assert all_of(study.folder) == sound


def test_every_bit_of_a_state_counts(tmp_path):
    import torch

    state = CheckpointFile(tmp_path / "key.safetensors")
    state.save({"w": torch.arange(4.0)}, {"step": 12, "curve": [0.25]})
    data = state.path.read_bytes()
    tensors, values = state.load()
    for place in range(len(data)):
        state.path.write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        found = state.load()
        assert found is None or (found[1] == values and torch.equal(found[0]["w"], tensors["w"])), place


def test_every_bit_of_a_models_header_counts(finished, tmp_path):
    data = (finished.folder / "model.safetensors").read_bytes()
    level = data.index(b"level_hu") + len(b'level_hu\\":')
    (tmp_path / "model.safetensors").write_bytes(data[:level] + bytes([data[level] ^ 1]) + data[level + 1 :])
    with pytest.raises(L3MuscleError, match="does not match its checksum"):
        load_model(tmp_path / "model.safetensors")


# --- what dead writers leave behind ----------------------------------------------------------------------------


def test_a_run_removes_what_killed_ones_left(copied, tiny):
    study = Study(tiny, runs=copied)
    places = [study.folder / "plan.json", study.folder / "model.safetensors", study.cohort_folder]
    places += [study.store.folder(kind, "abc") for kind in ("experiments", "sources", "observers")]
    # No process has so high a number.
    left = [path.with_name(draft_of(path).name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")) for path in places]
    for path in left:
        path.mkdir()
    assert not study.make_phantom()
    run_study(study, say=lambda line: None)
    assert not [path for path in left if path.exists()]


# --- disks that are full, folders that may not be written ----------------------------------------------------------


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_nothing_half_made(tiny, finished, sound, tmp_path, full_disk):
    study = Study(tiny, runs=tmp_path, cohort_folder=finished.cohort_folder)
    study.is_phantom = True
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full_disk()
    with pytest.raises(PhantomError, match=r"cannot write .*cohorts/phantom-\w+: .*File too large"):
        Study(tiny, runs=tmp_path / "new").make_phantom()
    with pytest.raises(StoreError, match=r"cannot write .*: .*File too large"):
        run_study(study, say=lambda line: None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob(".*"))
    assert run_study(study, say=lambda line: None).complete
    assert all_of(study.folder) == sound


@pytest.fixture
def locked(copied) -> Iterator[Path]:
    """Runs that may be read only."""
    if os.geteuid():
        folders = [copied, *(path for path in copied.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield copied
        for folder in folders:
            folder.chmod(0o755)
        return
    # Permissions mean nothing to root.
    for options in (["--bind", copied], ["-o", "remount,bind,ro"]):
        if subprocess.run(["mount", *options, copied], capture_output=True).returncode:
            pytest.skip("this process is root and may not mount: nothing can be locked against it")
    yield copied
    subprocess.run(["umount", copied], check=True)


def test_a_locked_run_is_read_and_says_why_it_cannot_go_on(locked, tiny, sound):
    assert all_of(locked / "smoke") == sound
    with pytest.raises(StoreError, match=r"cannot write .*: (Read-only file system|Permission denied)"):
        run_study(Study(tiny, runs=locked), say=lambda line: None)


def test_damage_in_a_locked_run_is_told(copied, tiny, request):
    [first, *_] = sorted((copied / "smoke" / "experiments").iterdir())
    flip(first / "scores.parquet")
    locked = request.getfixturevalue("locked")
    with pytest.raises(StudyError, match=rf"damaged and set aside \(1\): experiments/{first.name}"):
        StudyResults(locked / "smoke").scores()
    with pytest.raises(StoreError, match="cannot write"):
        run_study(Study(tiny, runs=locked), say=lambda line: None)


def test_a_lost_model_file_is_told_where_nothing_else_was_to_be_done(copied, tiny, sound):
    (copied / "smoke" / "model.safetensors").unlink()
    said: list[str] = []
    run_study(Study(tiny, runs=copied), say=said.append)
    assert [line.endswith("model.safetensors was missing; it is written anew") for line in said] == [True]
    assert all_of(copied / "smoke") == sound
