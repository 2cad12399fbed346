"""One tiny study, trained once in this process for all tests that read a finished one, and the command line."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_study import TINY, train_all

from l3muscle import cli
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
    publish_model(study)
    return study


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `l3muscle ...` in this process; returns exit status, output and error output."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["l3muscle", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return call
