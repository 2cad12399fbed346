"""The loop: learns, stops when told, keeps the best weights, repeats bit for bit."""

import pytest
import torch
from torch import nn

from l3muscle.models import build_fcn
from l3muscle.profile import AugmentationSettings, ProceduralSettings, TrainingSettings
from l3muscle.source_tasks.procedural import ProceduralSegmentation, draw_scenes
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
    with pytest.raises(TrainingError, match="not finite between steps 1 and 10"):
        train(task, Loop(learning_rate=1e30, max_steps=30, validate_every=10, patience=9))


def test_divergence_later_keeps_the_last_good_weights():
    class Breaks(MuscleSegmentation):
        calls = 0

        def loss(self, output, target):
            self.calls += 1
            return super().loss(output, target) * (float("nan") if self.calls > 15 else 1.0)

    task = Breaks(*squares(5, 0), *squares(6, 1), TrainingSettings(), AugmentationSettings())
    _, outcome = train(task)
    assert outcome.stopped == "diverged between steps 11 and 20"
    assert outcome.best_step == 10
    assert all(torch.isfinite(value).all() for value in outcome.weights.values())


def test_every_training_image_is_seen_once_before_any_twice():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 8, 8) / 10
    still = AugmentationSettings(flip_probability=0, rotation_probability=0, scale_probability=0, elastic_probability=0)
    task = MuscleSegmentation(images, images, images, images, TrainingSettings(batch_size=2), still)
    generator = torch.Generator().manual_seed(0)
    seen = [round(float(v) * 10) for _ in range(5) for v in task.training_batch(generator)[1][:, 0, 4, 4]]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]


def test_scenes_are_deterministic_labelled_and_hard_to_threshold():
    images, labels = (
        draw_scenes(8, (48, 64), classes=6, shapes_per_scene=8, generator=torch.Generator().manual_seed(s))
        for s in (3,)
    ).__next__()
    again, _ = draw_scenes(8, (48, 64), classes=6, shapes_per_scene=8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(images, again)
    assert images.shape == (8, 1, 48, 64) and images.min() >= 0 and images.max() <= 1
    assert labels.unique().tolist() == list(range(7))
    inside, outside = images[:, 0][labels > 0], images[:, 0][labels == 0]
    best = max(
        ((inside > t).float().mean() - (outside > t).float().mean()).abs() for t in torch.linspace(0.05, 0.95, 19)
    )
    assert best < 0.5


def test_procedural_task_is_learnable():
    settings = ProceduralSettings(classes=3, batch_size=4, shapes_per_scene=4, validation_scenes=4)
    task = ProceduralSegmentation(settings, (32, 32), seed=0)
    torch.manual_seed(0)
    network = build_fcn("resnet10", width=8, output_stride=4, out_channels=task.out_channels)
    loop = Loop(learning_rate=3e-3, max_steps=60, validate_every=20, patience=99)
    outcome = fit(network, task, loop, generator=torch.Generator().manual_seed(0))
    assert outcome.curve[-1].validation_loss < outcome.curve[0].validation_loss
    assert isinstance(network.backbone, nn.Sequential)
