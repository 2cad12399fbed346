"""One tiny study, trained once in this process for all tests that read a finished one."""

from pathlib import Path

import pytest
import torch
from tiny_study import TINY, train_all

from l3muscle.profile import Profile, load_profile
from l3muscle.segmenter.model_file import publish_model
from l3muscle.study import Study

# Networks as small as these gain nothing from a second thread, and lose much to it on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Profile:
    return load_profile("smoke", **TINY)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def finished(tiny: Profile, runs: Path) -> Study:
    study = Study(tiny, runs=runs)
    train_all(study)
    publish_model(study.results())
    return study
