"""The loop: learns, stops when told, keeps the best weights, repeats bit for bit, goes on where it was interrupted."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from l3muscle.experiment import SegmentationTask
from l3muscle.models import build_fcn
from l3muscle.profile import load_profile
from l3muscle.training import Checkpoint, Loop, TrainingError, TrainingPaused, fit

LOOP = Loop(learning_rate=3e-3, max_steps=30, validate_every=10, patience=100, min_improvement=1e-3)
SHORT = replace(LOOP, max_steps=12, validate_every=3, schedule="cosine")


def squares(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, 32, 32)
    for mask in masks:
        top, left = torch.randint(4, 14, (2,), generator=generator).tolist()
        mask[:, top : top + 12, left : left + 12] = 1
    return (0.3 + 0.4 * masks + 0.05 * torch.randn(masks.shape, generator=generator)).clamp(0, 1), masks


def squares_task(kind=SegmentationTask, **settings) -> SegmentationTask:
    return kind(*squares(5, 0), *squares(6, 1), load_profile("paper", **settings))


def train(task=None, loop=LOOP, seed=0, **more):
    torch.manual_seed(seed)
    network = build_fcn("resnet10", width=8, output_stride=4)
    generator = torch.Generator().manual_seed(seed)
    return network, fit(network, task or squares_task(), loop, generator=generator, **more)


def test_learns():
    _, outcome = train(loop=replace(LOOP, max_steps=60, validate_every=20))
    assert outcome.stopped == "max_steps" and [point.step for point in outcome.curve] == [20, 40, 60]
    assert outcome.curve[-1].validation_loss < 0.8 * outcome.curve[0].validation_loss


def test_keeps_the_weights_of_the_lowest_validation_loss():
    task = squares_task()
    network, outcome = train(task)
    best = min(outcome.curve, key=lambda point: point.validation_loss)
    assert outcome.best_step == best.step
    network.load_state_dict(outcome.weights)
    network.eval()
    with torch.inference_mode():
        [(inputs, masks)] = task.validation_batches()
        assert task.loss(network(inputs), masks).item() == pytest.approx(best.validation_loss, abs=1e-6)


def test_same_seed_same_bits_other_seed_other_bits():
    first, again, other = (train(seed=seed)[1].weights for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_saturates_only_when_both_losses_have():
    # No improvement can be this large, so both losses count as saturated from the second validation on.
    _, outcome = train(loop=replace(LOOP, max_steps=1000, validate_every=5, patience=2, min_improvement=1e9))
    assert outcome.stopped == "saturated" and outcome.curve[-1].step == 15


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_divergence_before_any_validation_is_an_error_that_names_the_images():
    with pytest.raises(TrainingError, match=r"not finite at step \d+ \(images \d, \d, \d, \d\), with a learning rate"):
        train(loop=replace(LOOP, learning_rate=1e30))


def test_divergence_later_keeps_the_last_good_weights():
    class Breaks(SegmentationTask):
        batches = 0

        def training_batch(self, generator):
            self.batches += 1
            inputs, masks = super().training_batch(generator)
            return inputs, masks * (math.inf if self.batches == 16 else 1.0)

    network, outcome = train(squares_task(Breaks))
    assert outcome.stopped.startswith("diverged at step 16 (images ")
    assert outcome.best_step == 10 and [point.step for point in outcome.curve] == [10]
    # On the CPU the step that would have spoilt the network was not taken.
    for weights in (network.state_dict(), outcome.weights):
        assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_validation_loss_that_is_not_finite_ends_the_training_too():
    class Breaks(SegmentationTask):
        rounds = 0

        def validation_batches(self):
            self.rounds += 1
            for images, masks in super().validation_batches():
                yield images * (math.nan if self.rounds == 2 else 1.0), masks

    outcome = train(squares_task(Breaks))[1]
    assert outcome.stopped == "diverged at step 20 (validation)" and outcome.best_step == 10


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), TrainingError, r"training\.batch_size.*image\.shape"),
        (RuntimeError("MPS backend out of memory (MPS"), TrainingError, "the memory is exhausted"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), TrainingError, "the memory is exhausted"),
        (RuntimeError("something else"), RuntimeError, "^something else$"),
    ],
)
def test_out_of_memory_says_which_setting_to_lower(error, raised, message):
    def explode(output, target):
        raise error

    task = squares_task()
    task.loss = explode
    with pytest.raises(raised, match=message):
        train(task)


# --- going on where it was interrupted -----------------------------------------------------------------------------


class KilledError(Exception):
    """Stands in for the end of a process."""


def killed_at(step: int):
    def die(point):
        if point.step == step:
            raise KilledError

    return die


def assert_same(one, other):
    assert one.curve == other.curve and one.best_step == other.best_step
    assert all(torch.equal(one.weights[name], value) for name, value in other.weights.items())


@pytest.mark.parametrize("step", [3, 6, 12])
def test_an_interrupted_training_ends_with_the_bits_of_an_undisturbed_one(tmp_path, step):
    checkpoint = Checkpoint(tmp_path / "states" / "key.pt", every_s=0)
    with pytest.raises(KilledError):
        train(loop=SHORT, checkpoint=checkpoint, on_validation=killed_at(step))
    assert checkpoint.path.exists() == (step > 3)
    # Dropout and augmentation have to go on where they were, wherever the new process stands.
    torch.rand(17)
    _, resumed = train(loop=SHORT, checkpoint=checkpoint)
    assert resumed.resumed_at == step - 3
    assert_same(resumed, train(loop=SHORT)[1])
    # A state of another loop is left alone.
    assert train(loop=replace(SHORT, max_steps=15), checkpoint=checkpoint)[1].resumed_at == 0
    checkpoint.remove()
    assert not checkpoint.path.parent.exists()


def test_a_training_whose_time_is_up_leaves_its_state_and_says_so(tmp_path):
    checkpoint = Checkpoint(tmp_path / "key.pt", deadline=0.0)
    with pytest.raises(TrainingPaused, match="the time was up at step 3; the same command goes on from there"):
        train(loop=SHORT, checkpoint=checkpoint)
    resumed = train(loop=SHORT, checkpoint=Checkpoint(checkpoint.path))[1]
    assert resumed.resumed_at == 3
    assert_same(resumed, train(loop=SHORT)[1])


def test_a_damaged_state_is_not_believed_and_one_that_cannot_be_written_costs_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path / "key.pt", every_s=0)
    with pytest.raises(KilledError):
        train(loop=SHORT, checkpoint=checkpoint, on_validation=killed_at(9))
    sound = checkpoint.path.read_bytes()
    for index in (0, 40, len(sound) // 2, len(sound) - 1):
        checkpoint.path.write_bytes(sound[:index] + bytes([sound[index] ^ 1]) + sound[index + 1 :])
        assert checkpoint.load() is None, f"a bit flipped at {index} went unnoticed"
    checkpoint.path.write_bytes(sound[:-100])
    assert checkpoint.load() is None
    (tmp_path / "states").write_text("a file where a folder should be")
    assert train(loop=SHORT, checkpoint=Checkpoint(tmp_path / "states" / "k.pt", every_s=0))[1].stopped == "max_steps"


# --- compiled steps ------------------------------------------------------------------------------------------------


def train_compiled(compiled=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))
    loop = replace(LOOP, max_steps=6, validate_every=3, compiled=compiled)
    return fit(network, squares_task(), loop, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """The settings of torch's compiler, with nothing in store from before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    from torch._inductor import config

    # One small kernel is not worth compiling headers ahead, nor a trial of the vector instructions.
    with config.patch({"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": False}):
        yield config.cpp


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_step_learns_the_same(compiler):
    plain, compiled = train_compiled(compiled=False), train_compiled()
    for one, other in zip(plain.curve, compiled.curve, strict=True):
        assert math.isclose(one.train_loss, other.train_loss, rel_tol=1e-4)
        assert math.isclose(one.validation_loss, other.validation_loss, rel_tol=1e-4)
    assert plain.weights.keys() == compiled.weights.keys()


def test_a_step_that_cannot_be_compiled_says_which_setting_to_change(compiler, monkeypatch):
    monkeypatch.setattr(compiler, "cxx", (None, "no-such-compiler"))
    with pytest.raises(TrainingError, match=r"could not be compiled; set training\.compiled to false"):
        train_compiled()
