"""First losses of every task, as the first edition computed them: moving code must not change what is learned.

They may change only together with `l3muscle.experiment.METHOD_VERSION`, which makes every model anew.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from l3muscle.experiment import METHOD_VERSION, SegmentationTask, build_network
from l3muscle.pretext import SOURCE_TASKS
from l3muscle.profile import load_profile
from l3muscle.training import Loop, fit

FIRST_LOSSES = json.loads((Path(__file__).parent / "data" / "first_losses.json").read_text())
TOLERANCE = 1e-3  # between processors


@pytest.fixture(scope="module")
def profile():
    return load_profile("smoke", image={"shape": [32, 40]})


@pytest.fixture(scope="module")
def slices() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = F.interpolate(torch.rand(20, 1, 6, 7, generator=generator), size=(32, 40), mode="bilinear")
    return images, (images > 0.6).float()


@pytest.mark.parametrize("name", FIRST_LOSSES)
def test_the_first_losses_of_a_task_stay_as_they_were(name, profile, slices):
    images, masks = slices
    torch.manual_seed(1)
    if name == "muscle":
        network = build_network(profile)
        task = SegmentationTask(images[:10], masks[:10], images[10:], masks[10:], profile)
    else:
        network, task = SOURCE_TASKS[name].build(profile, images, seed=2, device="cpu")
    loop = Loop(learning_rate=1e-3, max_steps=3, validate_every=1, patience=20, min_improvement=1e-3)
    curve = fit(network, task, loop, generator=torch.Generator().manual_seed(3)).curve
    found = [[point.train_loss, point.validation_loss] for point in curve]
    assert found == [pytest.approx(pair, abs=TOLERANCE) for pair in FIRST_LOSSES[name]]
    assert METHOD_VERSION == 2
