"""One tiny study, run once for all tests that read a finished one."""

from pathlib import Path

import pytest
import torch

from l3muscle.profile import Profile, load_profile
from l3muscle.runner import run_study
from l3muscle.study import Study

# Networks as small as these gain nothing from a second thread, and lose much to it on a busy machine.
torch.set_num_threads(1)

TINY = {
    "cohort": {"patients": 14, "test_patients": 4, "size": 128},
    "image": {"shape": [32, 40]},
    "training": {"max_steps": 6, "validate_every": 3},
    "sources": {"procedural_segmentation": {"steps": 4, "validate_every": 2, "batch_size": 2, "validation_scenes": 2}},
    "grid": {"source_tasks": ["random", "segmentation"], "sizes": [2, 4], "folds": 2, "subsets": 1, "repeats": 1},
}


@pytest.fixture(scope="session")
def tiny() -> Profile:
    return load_profile("smoke", **TINY)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def finished(tiny: Profile, runs: Path) -> Study:
    study = Study(tiny, runs=runs)
    study.make_phantom()
    progress = run_study(study, say=lambda line: None)
    assert progress.complete
    return study
