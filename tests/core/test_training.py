"""The loop: learns, stops when told, keeps the best weights, repeats bit for bit."""

import math
import shutil

import pytest
import torch
from torch import nn

from l3muscle.models import build_fcn
from l3muscle.profile import AugmentationSettings, TrainingSettings
from l3muscle.target_task import MuscleSegmentation
from l3muscle.training import Loop, TrainingError, fit

LOOP = Loop(learning_rate=3e-3, max_steps=30, validate_every=10, patience=100)


def squares(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, 32, 32)
    for mask in masks:
        top, left = torch.randint(4, 14, (2,), generator=generator).tolist()
        mask[:, top : top + 12, left : left + 12] = 1
    return (0.3 + 0.4 * masks + 0.05 * torch.randn(masks.shape, generator=generator)).clamp(0, 1), masks


@pytest.fixture
def task() -> MuscleSegmentation:
    return MuscleSegmentation(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())


def train(task, loop=LOOP, seed=0):
    torch.manual_seed(seed)
    network = build_fcn("resnet10", width=8, output_stride=4)
    return network, fit(network, task, loop, generator=torch.Generator().manual_seed(seed))


def test_learns(task):
    _, outcome = train(task, Loop(learning_rate=3e-3, max_steps=60, validate_every=20, patience=100))
    assert outcome.stopped == "max_steps"
    assert [point.step for point in outcome.curve] == [20, 40, 60]
    assert outcome.curve[-1].validation_loss < 0.8 * outcome.curve[0].validation_loss


def test_keeps_the_weights_of_the_lowest_validation_loss(task):
    network, outcome = train(task)
    best = min(outcome.curve, key=lambda point: point.validation_loss)
    assert outcome.best_step == best.step
    network.load_state_dict(outcome.weights)
    network.eval()
    with torch.inference_mode():
        loss = task.loss(network(task.validation_images), task.validation_masks).item()
    assert loss == pytest.approx(best.validation_loss, abs=1e-6)


def test_same_seed_same_bits_other_seed_other_bits(task):
    def weights(seed):
        fresh = MuscleSegmentation(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
        return train(fresh, seed=seed)[1].weights

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_saturates_only_when_both_losses_have(task):
    # No improvement can be this large, so both losses count as saturated from the second validation on.
    loop = Loop(learning_rate=3e-3, max_steps=1000, validate_every=5, patience=2, min_improvement=1e9)
    _, outcome = train(task, loop)
    assert outcome.stopped == "saturated"
    assert outcome.curve[-1].step == 15


def test_divergence_before_any_validation_is_an_error(task):
    with pytest.raises(TrainingError, match=r"not finite at step \d+ \(training images \d, \d, \d, \d\)"):
        train(task, Loop(learning_rate=1e30, max_steps=30, validate_every=10, patience=9))


def test_divergence_later_keeps_the_last_good_weights():
    class Breaks(MuscleSegmentation):
        batches = 0

        def training_batch(self, generator):
            self.batches += 1
            return super().training_batch(generator)

        def describe_batch(self):
            return f"batch {self.batches}"

        def loss(self, output, target):
            return super().loss(output, target) * (float("inf") if self.batches == 16 else 1.0)

    task = Breaks(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
    network, outcome = train(task)
    assert outcome.stopped == "diverged at step 16 (batch 16)"
    assert outcome.best_step == 10 and [point.step for point in outcome.curve] == [10]
    # On the CPU the step that would have spoilt the network was not taken.
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert all(torch.isfinite(value).all() for value in outcome.weights.values())


def test_every_training_image_is_seen_once_before_any_twice():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 8, 8) / 10
    still = AugmentationSettings(flip_probability=0, rotation_probability=0, scale_probability=0, elastic_probability=0)
    task = MuscleSegmentation(images, images, images, images, TrainingSettings(batch_size=2), still)
    generator = torch.Generator().manual_seed(0)
    seen = [round(float(v) * 10) for _ in range(5) for v in task.training_batch(generator)[1][:, 0, 4, 4]]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]


def test_every_parameter_gets_a_gradient_through_the_loss(task):
    torch.manual_seed(0)
    network = build_fcn("resnet10", width=8, output_stride=4)
    inputs, masks = task.training_batch(torch.Generator().manual_seed(0))
    task.loss(network(inputs), masks).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_validation_loss_that_is_not_finite_ends_the_training_too():
    class Breaks(MuscleSegmentation):
        rounds = 0

        def validation_batches(self):
            self.rounds += 1
            for images, masks in super().validation_batches():
                yield images * (float("nan") if self.rounds == 2 else 1.0), masks

    task = Breaks(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
    outcome = train(task)[1]
    assert outcome.stopped == "diverged at step 20 (validation)" and outcome.best_step == 10


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("MPS backend out of memory (MPS")]
)
def test_out_of_memory_says_which_setting_to_lower(task, error):
    def explode(output, target):
        raise error

    task.loss = explode
    with pytest.raises(TrainingError, match=r"training\.batch_size.*image\.shape"):
        train(task)


def test_other_errors_of_the_device_are_not_called_memory(task):
    def explode(output, target):
        raise RuntimeError("something else")

    task.loss = explode
    with pytest.raises(RuntimeError, match="something else"):
        train(task)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    # A bias before batch norm would have no gradient but rounding, which Adam blows up.
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))


def train_compiled(task, compiled=True):
    loop = Loop(learning_rate=3e-3, max_steps=6, validate_every=3, patience=9, compiled=compiled)
    return fit(small_network(), task, loop, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """The settings of torch's compiler, with nothing in store from before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    from torch._inductor import config

    return config.cpp


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_step_learns_the_same(task, compiler):
    plain = train_compiled(task, compiled=False)
    fresh = MuscleSegmentation(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
    compiled = train_compiled(fresh)
    again = MuscleSegmentation(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
    assert train_compiled(again).curve == compiled.curve
    # One graph serves another network of the same kind, and validations need none.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for one, other in zip(plain.curve, compiled.curve, strict=True):
        assert math.isclose(one.train_loss, other.train_loss, rel_tol=1e-4)
        assert math.isclose(one.validation_loss, other.validation_loss, rel_tol=1e-4)
    assert plain.weights.keys() == compiled.weights.keys()


def test_a_step_that_cannot_be_compiled_says_which_setting_to_change(task, compiler, monkeypatch):
    monkeypatch.setattr(compiler, "cxx", (None, "no-such-compiler"))
    with pytest.raises(TrainingError, match=r"could not be compiled; set training\.compiled to false"):
        train_compiled(task)
