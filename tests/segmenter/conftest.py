"""Phantom patients, the files that hold them, and one small ensemble trained on them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l3muscle.cohort import Patient
from l3muscle.cohort.ct import read_ct_slice, write_ct_slice
from l3muscle.cohort.rtstruct import write_rtstruct
from l3muscle.phantom.patients import phantom_slice
from l3muscle.segmenter.train import TrainedSegmenter, train_segmenter

Writer = Callable[..., Path]


@pytest.fixture(scope="session")
def patients() -> list[Patient]:
    drawn = [phantom_slice(seed, size=128) for seed in range(6)]
    return [Patient(f"P{k}", f"P{k}.dcm", one.hu, one.spacing, one.mask) for k, one in enumerate(drawn)]


@pytest.fixture(scope="session")
def write() -> Writer:
    def written(folder: Path, patient: Patient, *, position_mm: float = 0.0, outlined: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{patient.patient_id}-{position_mm:g}.dcm"
        write_ct_slice(path, patient.hu, patient.spacing, patient_id=patient.patient_id, position_mm=position_mm)
        if outlined:
            write_rtstruct(path.with_suffix(".rt.dcm"), {"expert": patient.expert}, read_ct_slice(path))
        return path

    return written


@pytest.fixture(scope="session")
def seven(patients) -> list[Patient]:
    """Six patients, one of whom has two slices."""
    return [*patients, replace(patients[0], name="P0 again.dcm", hu=np.roll(patients[0].hu, 1, axis=0))]


@pytest.fixture(scope="session")
def trained(tiny, seven, tmp_path_factory) -> TrainedSegmenter:
    out = tmp_path_factory.mktemp("trained")
    return train_segmenter(
        seven, out / "model", tiny, start_from="random", runs=out, folds=3, kind="phantom", say=lambda line: None
    )
