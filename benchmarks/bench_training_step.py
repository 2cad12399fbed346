"""One training step of this package beside a bare forward, loss, backward and step of the same network.

For ResNet-101 the bare network is torchvision's own FCN. The difference is what the loop costs: drawing a batch,
augmenting it, and the bookkeeping. Both sides are timed in turn, so that a machine whose speed drifts slows both.
"""

import copy
import statistics
import time

import pytest
import torch
from torch import Tensor, nn

from l3muscle.losses import BCEDiceLoss
from l3muscle.models import build_fcn
from l3muscle.profile import AugmentationSettings, TrainingSettings
from l3muscle.runtime import keep_freed_memory
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import Loop, fit

ROUNDS = 5


def _torchvision() -> nn.Module:
    """torchvision's FCN-ResNet101, which returns a dictionary."""
    from torchvision.models.segmentation import fcn_resnet101

    class OneOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fcn = fcn_resnet101(weights=None, weights_backbone=None, num_classes=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fcn(x)["out"]

    return OneOutput()


@pytest.mark.parametrize(
    ("name", "width", "stride", "shape", "batch", "steps"),
    [
        ("resnet10", 8, 4, (96, 136), 2, 30),
        ("resnet18", 64, 8, (128, 128), 4, 4),
        ("resnet101", 64, 8, (256, 256), 2, 1),
    ],
)
def test_loop_beside_the_bare_network(name, width, stride, shape, batch, steps):
    keep_freed_memory()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, *shape, generator=generator)
    masks = (images > 0.5).float()
    settings = TrainingSettings(batch_size=batch)
    task = MuscleSegmentation(images, masks, images[:1], masks[:1], settings, AugmentationSettings())
    loop = Loop(learning_rate=1e-3, max_steps=steps, validate_every=steps, patience=9)
    network = build_fcn(name, width=width, output_stride=stride).to(memory_format=torch.channels_last)
    peer = _torchvision() if name == "resnet101" else copy.deepcopy(network)
    peer.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(peer.parameters(), lr=1e-3, fused=True)
    criterion = BCEDiceLoss()
    inputs = torch.rand(batch, 3, *shape).contiguous(memory_format=torch.channels_last)
    target = (torch.rand(batch, 1, *shape) > 0.5).float()

    def bare() -> None:
        for _ in range(steps):
            loss = criterion(peer(inputs), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def ours() -> None:
        fit(network, task, loop, generator=generator)

    ratios = []
    for round_ in range(ROUNDS + 1):
        times = []
        for side in (bare, ours):
            started = time.perf_counter()
            side()
            times.append((time.perf_counter() - started) / steps)
        if round_:  # the first round warms up
            ratios.append(times[0] / times[1])
            print(f"{name} {shape}: bare {times[0] * 1e3:.1f} ms a step, loop {times[1] * 1e3:.1f} ms")
    middle = statistics.median(ratios)
    print(f"{name} {shape}: loop at {middle:.2f} of the bare speed ({min(ratios):.2f}-{max(ratios):.2f})")
    assert middle > 0.5
