"""Generated images: deterministic, not to be solved by a threshold, and learnable."""

import pytest
import torch

from l3muscle.models import build_encoder, build_fcn, transfer_weights
from l3muscle.pretext.fractals import ProceduralClassification, ResNetClassifier, draw_fractals, draw_systems
from l3muscle.pretext.scenes import FIRST_BLOB_LABEL, WALL_LABEL, ProceduralSegmentation, draw_scenes
from l3muscle.profile import load_profile
from l3muscle.training import Loop, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(seed: int, count: int = 24):
    return draw_scenes(count, (48, 64), classes=3, shapes_per_scene=9, generator=generator(seed))


def test_scenes_are_deterministic_and_hold_every_class():
    images, labels = scenes(3)
    again, labels_again = scenes(3)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(images, scenes(4)[0])
    assert images.shape == (24, 1, 48, 64) and images.min() >= 0 and images.max() <= 1
    assert labels.unique().tolist() == list(range(FIRST_BLOB_LABEL + 3))


def test_soft_structures_are_not_told_apart_by_brightness():
    images, labels = scenes(5, 60)
    wall, blob = images[:, 0][labels == WALL_LABEL], images[:, 0][labels >= FIRST_BLOB_LABEL]
    best = max(((wall > t).float().mean() - (blob > t).float().mean()).abs() for t in torch.linspace(0.05, 0.95, 19))
    assert best < 0.3


def test_scenes_can_be_learned_and_move_whole_but_for_their_classes():
    settings = load_profile("paper").sources.segmentation.model_copy(
        update={"classes": 3, "batch_size": 4, "shapes_per_scene": 6, "validation_scenes": 8}
    )
    task = ProceduralSegmentation(settings, (32, 32), seed=0)
    torch.manual_seed(0)
    network = build_fcn("resnet10", width=8, output_stride=4, out_channels=task.out_channels)
    loop = Loop(learning_rate=1e-2, max_steps=60, validate_every=20, patience=99, min_improvement=0.0)
    outcome = fit(network, task, loop, generator=generator())
    labels = torch.cat([labels for _, labels in task.validation_batches()])
    share = labels.flatten().bincount() / labels.numel()
    # Better than knowing how common each class is, and nothing else.
    assert outcome.curve[-1].validation_loss < -0.9 * (share * share.log()).sum()
    report = transfer_weights(outcome.weights, build_fcn("resnet10", width=8, output_stride=4))
    assert set(report.not_moved) == set(report.left_random) == {"classifier.4.weight", "classifier.4.bias"}


def test_systems_contract_and_have_the_published_sum_of_singular_values():
    maps, chances = draw_systems(300, generator=generator())
    linear = maps[..., :2]
    values = torch.linalg.svdvals(linear)
    present = linear.abs().amax((-2, -1)) > 0
    size = present.sum(-1)
    assert set(size.tolist()) == {2, 3, 4}
    assert values.max() < 1
    total = (values[..., 0] + 2 * values[..., 1]).sum(-1)
    assert (total >= (5 + size) / 2 - 1e-4).all() and (total <= (6 + size) / 2 + 1e-4).all()
    torch.testing.assert_close(chances.sum(-1), torch.ones(300))
    assert ((chances > 0) == present).all()


def test_a_fractal_is_the_union_of_its_maps_images():
    """The Sierpinski triangle: none of its points falls into the middle triangle."""
    maps = torch.zeros(1, 4, 2, 3)
    for k, corner in enumerate([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]):
        maps[0, k, :, :2] = torch.eye(2) / 2
        maps[0, k, :, 2] = torch.tensor(corner)
    chances = torch.tensor([[1.0, 1.0, 1.0, 0.0]]) / 3
    filled = [draw_fractals(maps, chances, (64, 64), points=60_000, generator=generator(s))[0, 0] for s in range(6)]
    for image in filled:
        ground = image.median()
        drawn = ((image - ground).abs() > 0.2).float().mean()
        # The whole square or a line would be far off; the triangle is thin, but not empty.
        assert 0.005 < drawn < 0.35
    assert torch.equal(filled[0], draw_fractals(maps, chances, (64, 64), points=60_000, generator=generator())[0, 0])


@pytest.fixture(scope="module")
def learned():
    settings = load_profile("paper").sources.classification.model_copy(
        update={"classes": 4, "batch_size": 16, "points": 4_000, "validation_images": 64}
    )
    task = ProceduralClassification(settings, (32, 32), seed=0)
    torch.manual_seed(0)
    network = ResNetClassifier(build_encoder("resnet10", width=8, output_stride=4), 4)
    loop = Loop(learning_rate=1e-2, max_steps=60, validate_every=20, patience=99, min_improvement=0.0)
    return fit(network, task, loop, generator=generator())


def test_fractals_can_be_told_apart(learned):
    assert learned.curve[-1].validation_accuracy > 0.5


def test_the_classifier_moves_all_but_its_last_layer(learned):
    target = build_fcn("resnet10", width=8, output_stride=4)
    report = transfer_weights(learned.weights, target)
    assert "backbone.conv1.weight" in report.moved and set(report.not_moved) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(target.state_dict()[name], learned.weights[name]) for name in report.moved)
