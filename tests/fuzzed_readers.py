"""Every reader of foreign files with files to begin from: what `test_fuzz.py` and `make soak` damage.

A reader takes the folder that its file lies in. It may return whatever it likes, or raise an `L3MuscleError`; anything
else is a finding. `same` says of a file that was accepted whether what decides a measurement is as it was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import torch
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from l3muscle.book.archive import open_archive
from l3muscle.checkpoint import CheckpointFile
from l3muscle.cohort import check_folder, dicom
from l3muscle.cohort.grid import Grid
from l3muscle.cohort.manifest import read_choices
from l3muscle.cohort.masks import nifti_mask, png_mask, read_masks
from l3muscle.cohort.nifti import Volume
from l3muscle.cohort.splits import Splits
from l3muscle.models import build_fcn
from l3muscle.phantom.patients import people_of
from l3muscle.profile import ImageSettings, NetworkSettings, load_profile
from l3muscle.runtime import provenance
from l3muscle.segmenter.model_file import load_model, save_model, tensor_digest
from l3muscle.store import Artefact, Store, file_sha256, sealed
from l3muscle.study import PLAN_FORMAT, StudyResults

SHAPE = (32, 40)
LPS = np.array([[-0.9, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 3, -5], [0, 0, 0, 1.0]])
SIDE = np.hypot(*np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j])
BODY = np.where(SIDE < 0.9, 60, -1000) + np.random.default_rng(0).integers(-20, 20, SHAPE)
MASK = SIDE < 0.5


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes
    ----------
    file : str
        Path, within the folder, of the file that is damaged.
    read : callable
        Takes the folder.
    seeds : tuple of bytes
        Sound contents of the file.
    same : callable
        Takes what the reader returned of the sound file and of the damaged one.
    """

    file: str
    read: Callable[[Path], object]
    seeds: tuple[bytes, ...]
    same: Callable[[object, object], bool] = field(default=lambda sound, found: True)


def _slices(folder: Path) -> tuple[bytes, ...]:
    """A scanner's own slice, as far as the whitelist can tell, in every encoding that the decoders know."""
    dicom.write_ct_slice(folder / "ct.dcm", BODY, (0.9, 0.9), patient_id="P1", position_mm=12.5)
    found = []
    for syntax in (None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless):
        dataset = pydicom.dcmread(folder / "ct.dcm")
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ReconstructionDiameter = 0.9 * 512
        left, top, height = dataset.ImagePositionPatient
        dataset.ReconstructionTargetCenterPatient = [left + 0.9 * 19.5, top + 0.9 * 15.5, height]
        if syntax in (RLELossless, JPEG2000Lossless):
            dataset.compress(syntax, generate_instance_uid=False)
        elif syntax:
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(folder / "packed.dcm", enforce_file_format=True)
        found.append((folder / "packed.dcm").read_bytes())
    return tuple(found)


def _same_slice(sound: dicom.CTSlice, found: dicom.CTSlice) -> bool:
    """Whether lengths and densities are what they were, but for what no image tells apart (see `dicom`)."""
    spacing = np.allclose(sound.spacing, found.spacing, rtol=dicom.FIELD_TOLERANCE, atol=0)
    place = np.abs(sound.position - found.position).max() <= 2 * dicom.CENTRE_TOLERANCE_MM
    return bool(spacing and place and np.array_equal(sound.orientation, found.orientation))


def _write_run(folder: Path) -> None:
    """A finished run of one experiment, as far as its readers look."""
    store = Store(folder / "run")
    table = pd.DataFrame({"patient_id": ["a", "b"], "dice": [0.5, np.nan]})
    store.write(
        "experiments",
        "abc",
        Artefact(
            record={"best_validation_loss": 0.5},
            tables={"scores": table},
            arrays={"predictions": {"packed": np.arange(6, dtype=np.uint8), "width": np.array(8)}},
            weights={"weights": {"w": torch.arange(4.0)}},
        ),
    )
    experiment = {"source_task": "random", "n_train": 2, "fold": 0, "subset": 0, "repeat": 0}
    plan = {
        "format": PLAN_FORMAT,
        "profile": load_profile("smoke").model_dump(mode="json"),
        "cohort_folder": "../cohort",
        "usable_only": False,
        "code": "c",
        "cohort": "f",
        "patients": 3,
        "phantom": True,
        "observers": "0",
        "sources": {},
        "experiments": [{**experiment, "key": "abc"}],
    }
    store.write_document("plan.json", plan)
    splits = Splits(("a",), (("b",), ("c",)), ((("c",),), (("b",),)))
    store.write_document("splits.json", json.loads(splits.to_json()))
    store.write_document("failed.json", {"failed": [{"experiment": experiment, "reason": "out of memory"}]})


def _results(folder: Path) -> object:
    """Read a run whose documents were forged to go with their seals, where they are documents at all."""
    for name in ("plan.json", "splits.json", "failed.json"):
        with suppress(ValueError, RecursionError):
            document = json.loads((folder / "run" / name).read_text(encoding="utf-8"))
            if isinstance(document, dict):
                Store(folder / "run").write_document(name, document)
    results = StudyResults(folder / "run")
    return results.planned(), results.keys, results.failures(), results.splits(), results.source_kind("jigsaw")


def _resealed(name: str, read: Callable[[Store], object]) -> Callable[[Path], object]:
    """Read a file of an artefact whose record was forged to go with it."""

    def reader(folder: Path) -> object:
        store = Store(folder / "run")
        place = store.folder("experiments", "abc")
        sound = (place / "record.json").read_text(encoding="utf-8")
        record = json.loads(sound)
        record["sha256"][name] = file_sha256(place / name)
        (place / "record.json").write_text(json.dumps(sealed("experiments/abc", record)), encoding="utf-8")
        try:
            return read(store)
        finally:
            (place / "record.json").write_text(sound, encoding="utf-8")

    return reader


def _record(folder: Path) -> object:
    store = Store(folder / "run")
    path = store.folder("experiments", "abc") / "record.json"
    with suppress(ValueError, RecursionError):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            path.write_text(json.dumps(sealed("experiments/abc", record)), encoding="utf-8")
    found = store.record("experiments", "abc")
    if found is None:
        # Set aside; put back for the next one.
        damaged = folder / "run" / "experiments" / "abc.damaged"
        if damaged.is_dir():
            damaged.rename(folder / "run" / "experiments" / "abc")
    return found


def _reseal_tensors(path: Path) -> Path:
    """Forge a file of tensors whose checksum goes with what was made of it, where it is one at all."""
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as archive:
        header = archive.metadata() or {}
        tensors = {name: archive.get_tensor(name).clone() for name in archive.keys()}  # noqa: SIM118 (not a dict)
        save_file(tensors, path, metadata={**header, "sha256": tensor_digest(tensors, header)})
    return path


def _volume(folder: Path, name: str) -> object:
    volume = Volume(folder / name, name)
    return volume.grid(0), volume.hu(0), volume.annotated, volume.counts(0, 255)


def _published(folder: Path) -> object:
    """Weights whose name carries their own checksum, as torchvision's do, so that the content itself is read."""
    from torchvision.models import ResNet50_Weights

    from l3muscle.pretext.pretrained import load_natural

    content = (folder / "weights.pth").read_bytes()
    name = f"resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    shelf = folder / "shelf"
    shelf.mkdir(exist_ok=True)
    (shelf / name).write_bytes(content)
    entry = ResNet50_Weights.IMAGENET1K_V1.value
    url = entry.url
    object.__setattr__(entry, "url", f"https://weights.invalid/{name}")
    try:
        profile = load_profile("paper", network={"backbone": "resnet50"}, sources={"weights_folder": str(shelf)})
        return load_natural(profile, "classification")
    finally:
        object.__setattr__(entry, "url", url)
        (shelf / name).unlink()


def readers(folder: Path) -> dict[str, Reader]:
    """Fill a folder with sound files and return the readers of it, by name."""
    slices = _slices(folder)
    (folder / "ct.dcm").write_bytes(slices[0])
    ct = dicom.read_ct_slice(folder / "ct.dcm")
    dicom.write_rtstruct(folder / "rt.dcm", {"expert": MASK}, ct)
    dicom.write_seg(folder / "seg.dcm", MASK, ct)
    volume = np.stack([BODY, BODY + 1], axis=-1).transpose(1, 0, 2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, LPS), folder / "image.nii")
    nibabel.save(nibabel.Nifti1Image(volume, LPS), folder / "image.nii.gz")
    grid = Volume(folder / "image.nii", "image.nii").grid(1)
    drawn = np.stack([MASK * 0, MASK], axis=-1).transpose(1, 0, 2).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(drawn, LPS), folder / "mask.nii.gz")
    nibabel.save(nibabel.Nifti2Image(volume, LPS), folder / "image2.nii.gz")
    Image.fromarray(np.uint8(MASK) * 255).save(folder / "mask.png")
    pixels = Grid(shape=SHAPE, spacing=(1, 1), position=np.zeros(3), orientation=np.eye(3)[:2])

    chosen = folder / "chosen"
    shutil.copytree(folder, chosen, ignore=shutil.ignore_patterns("chosen"))
    table = "patient_id,file,mask,slice,observer\nP1,ct.dcm,rt.dcm,,\nP2,image.nii,mask.nii.gz,1,\nP1,,seg.dcm,,01\n"
    (chosen / "cohort.csv").write_text(table)

    saros = folder / "saros"
    (saros / "case_000").mkdir(parents=True)
    shutil.copy(folder / "image.nii.gz", saros / "case_000" / "image.nii.gz")
    regions = np.where(drawn, 2, 1).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(regions, LPS), saros / "case_000" / "body-regions.nii.gz")
    levels, info = "case,slice,z_mm\ncase_000,1,\n", "id,tcia_collection,tcia_case_id\ncase_000,A,1\n"
    (saros / "levels.csv").write_text(levels)
    (saros / "Segmentation-Info.csv").write_text(info)

    (folder / "profile.yml").write_text("extends: smoke\ntraining:\n  max_steps: 7\ngrid: {sizes: [2, 4], folds: 3}\n")
    torch.manual_seed(0)
    network, images = NetworkSettings(backbone="resnet10", width=8, output_stride=4), ImageSettings(shape=(32, 32))
    weights = build_fcn("resnet10", width=8, output_stride=4).state_dict()
    save_model(folder / "model.safetensors", weights, network, images, {"cohort": "phantom"})
    state = CheckpointFile(folder / "state.safetensors")
    state.save({"w": torch.arange(6.0)}, {"step": 3, "curve": [1.5]})
    _write_run(folder)
    (folder / "archive").mkdir()
    (folder / "archive" / "scores.csv").write_text("setting,dice\na,0.5\n")
    about = {"measured": "2026-01-02", "provenance": {**provenance(), "commit": "a" * 40}}
    (folder / "archive" / "provenance.json").write_text(json.dumps(about))
    (folder / "phantom.json").write_text('{"people": [{"patient_id": "P1", "sex": "F"}]}')
    torch.save({"conv1.weight": torch.ones(2, 3)}, folder / "weights.pth")

    def of(*names: str) -> tuple[bytes, ...]:
        return tuple((folder / name).read_bytes() for name in names)

    def same_masks(sound: dict, found: dict) -> bool:
        return all(mask.shape == SHAPE and mask.dtype == bool for mask in found.values())

    in_run = "run/experiments/abc/"
    return {
        "ct": Reader("ct.dcm", lambda at: dicom.read_ct_slice(at / "ct.dcm"), slices, _same_slice),
        "rtstruct": Reader("rt.dcm", lambda at: read_masks(at / "rt.dcm", ct, "rt.dcm"), of("rt.dcm"), same_masks),
        "seg": Reader("seg.dcm", lambda at: read_masks(at / "seg.dcm", ct, "seg.dcm"), of("seg.dcm"), same_masks),
        "nifti": Reader("image.nii", lambda at: _volume(at, "image.nii"), of("image.nii")),
        "nifti-gz": Reader("image.nii.gz", lambda at: _volume(at, "image.nii.gz"), of("image.nii.gz", "image2.nii.gz")),
        "nifti-mask": Reader(
            "mask.nii", lambda at: nifti_mask(at / "mask.nii", grid, "mask.nii"), (_unpacked(folder / "mask.nii.gz"),)
        ),
        "png": Reader("mask.png", lambda at: png_mask(at / "mask.png", pixels, "mask.png"), of("mask.png")),
        "cohort-csv": Reader("chosen/cohort.csv", lambda at: read_choices(at / "chosen"), (table.encode(),)),
        "cohort-folder": Reader("chosen/cohort.csv", lambda at: check_folder(at / "chosen").refused, (table.encode(),)),
        "saros-levels": Reader("saros/levels.csv", lambda at: check_folder(at / "saros"), (levels.encode(),)),
        "saros-info": Reader("saros/Segmentation-Info.csv", lambda at: check_folder(at / "saros"), (info.encode(),)),
        "saros-regions": Reader(
            "saros/case_000/body-regions.nii.gz",
            lambda at: check_folder(at / "saros"),
            of("saros/case_000/body-regions.nii.gz"),
        ),
        "profile": Reader("profile.yml", lambda at: load_profile(str(at / "profile.yml")), of("profile.yml")),
        "model": Reader(
            "model.safetensors",
            lambda at: load_model(_reseal_tensors(at / "model.safetensors")),
            of("model.safetensors"),
        ),
        "checkpoint": Reader(
            "state.safetensors",
            lambda at: CheckpointFile(_reseal_tensors(at / "state.safetensors")).load(),
            of("state.safetensors"),
        ),
        "store-record": Reader(in_run + "record.json", _record, of(in_run + "record.json")),
        "store-table": Reader(
            in_run + "scores.parquet",
            _resealed("scores.parquet", lambda store: store.table("experiments", "abc", "scores")),
            of(in_run + "scores.parquet"),
        ),
        "store-arrays": Reader(
            in_run + "predictions.npz",
            _resealed("predictions.npz", lambda store: store.arrays("experiments", "abc", "predictions")),
            of(in_run + "predictions.npz"),
        ),
        "store-weights": Reader(
            in_run + "weights.safetensors",
            _resealed("weights.safetensors", lambda store: store.weights("experiments", "abc")),
            of(in_run + "weights.safetensors"),
        ),
        "plan": Reader("run/plan.json", _results, of("run/plan.json")),
        "splits": Reader("run/splits.json", _results, of("run/splits.json")),
        "failures": Reader("run/failed.json", _results, of("run/failed.json")),
        "archive-provenance": Reader(
            "archive/provenance.json", lambda at: open_archive("archive", at), of("archive/provenance.json")
        ),
        "archive-scores": Reader(
            "archive/scores.csv", lambda at: open_archive("archive", at), of("archive/scores.csv")
        ),
        "phantom-people": Reader("phantom.json", people_of, of("phantom.json")),
        "published-weights": Reader("weights.pth", _published, of("weights.pth")),
    }


def _unpacked(path: Path) -> bytes:
    import gzip

    return gzip.decompress(path.read_bytes())
