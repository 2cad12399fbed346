"""Permutations by an independent count, tiles in their places, shortcuts closed, puzzles that can be learned."""

import itertools

import numpy as np
import pytest
import torch

from l3muscle.models import build_encoder, build_fcn, transfer_weights
from l3muscle.pretext.jigsaw import Jigsaw, JigsawNetwork, cut_tiles, level_tiles, permutation_set, tile_size
from l3muscle.profile import load_profile
from l3muscle.training import Loop, fit

PAPER = load_profile("paper")
STILL = PAPER.augmentation.model_copy(
    update={f"{kind}_probability": 0.0 for kind in ("flip", "rotation", "scale", "elastic")}
)
SETTINGS = PAPER.sources.jigsaw.model_copy(
    update={"permutations": 8, "embedding": 16, "hidden": 32, "batch_size": 6, "validation_share": 0.25}
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distances(permutations: np.ndarray) -> list[int]:
    return [sum(a != b for a, b in zip(p, q, strict=True)) for p, q in itertools.combinations(permutations.tolist(), 2)]


@pytest.mark.parametrize("seed", [0, 7])
def test_fifty_permutations_differ_as_much_as_fifty_can(seed):
    permutations = permutation_set(9, 50, seed=seed)
    assert permutations.shape == (50, 9) and permutations.dtype == np.int64
    assert (np.sort(permutations, axis=1) == np.arange(9)).all()
    found = distances(permutations)
    assert min(found) == 8
    # In each place fifty entries share nine values: five values six times and four of them five times at the least.
    agreements = 9 * (5 * 15 + 4 * 10)
    assert sum(found) == 9 * len(found) - agreements
    assert np.mean(found) == pytest.approx(8.1551, abs=1e-4)


@pytest.mark.parametrize("size", [1, 9, 10, 72])
def test_every_size_up_to_72_keeps_eight_places_apart(size):
    permutations = permutation_set(size=size)
    assert len(permutations) == size and min(distances(permutations), default=9) >= (9 if size <= 9 else 8)


@pytest.mark.parametrize(("n_tiles", "size", "least"), [(9, 80, 6), (4, 12, 2), (4, 24, 2), (2, 2, 2)])
def test_greedy_sets_are_distinct_and_apart(n_tiles, size, least):
    permutations = permutation_set(n_tiles, size)
    assert len({tuple(p) for p in permutations.tolist()}) == size
    assert min(distances(permutations)) >= least


def test_tiles_come_from_their_cells_with_random_gaps():
    shape, size = (60, 90), (14, 22)
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(90.0), indexing="ij")
    images = torch.stack([y, x])[:, None].repeat(20, 1, 1, 1)
    tiles = cut_tiles(images, size, generator=generator())
    assert tiles.shape == (40, 9, *size)
    rows, columns = tiles[0::2], tiles[1::2]
    for cell in range(9):
        top, left = divmod(cell, 3)
        corner = rows[:, cell, 0, 0] - 20 * top
        assert corner.min() == 0 and corner.max() == 20 - size[0]
        assert columns[:, cell].min() >= 30 * left and columns[:, cell].max() < 30 * (left + 1)
    assert (rows[:, :, 1:] - rows[:, :, :-1] == 1).all() and (columns[..., 1:] - columns[..., :-1] == 1).all()
    assert tile_size(shape, 0.85) == (17, 25)


def test_tiles_lose_their_mean_and_deviation():
    tiles = torch.rand(3, 9, 12, 15, generator=generator()) * torch.linspace(0.1, 1, 9).view(1, 9, 1, 1) + 0.2
    level = level_tiles(tiles)
    means, deviations = level.mean((-2, -1)), level.std((-2, -1))
    torch.testing.assert_close(means, torch.full_like(means, means[0, 0]))
    torch.testing.assert_close(deviations, torch.full_like(deviations, deviations[0, 0]))
    air = level_tiles(torch.zeros(1, 9, 4, 4))
    assert torch.isfinite(air).all() and (air == air[0, 0, 0, 0]).all()


def test_shuffled_tiles_lie_where_the_permutation_says():
    # The grey of an image's cell is its number, so a tile tells where it came from.
    cells = torch.arange(9.0).view(3, 3).repeat_interleave(10, 0).repeat_interleave(12, 1) / 10
    task = Jigsaw(cells.expand(8, 1, 30, 36).contiguous(), SETTINGS, STILL, seed=0)
    tiles, drawn = task.puzzles(task.training_images, generator())
    origin = (tiles.mean((-2, -1)) * 10).round().long()
    assert torch.equal(origin, task.permutations[drawn])


def test_slices_for_validation_are_never_trained_on():
    images = torch.arange(1, 13.0).view(12, 1, 1, 1).expand(12, 1, 24, 24) / 20
    task = Jigsaw(images.contiguous(), SETTINGS, STILL, seed=0)
    values = [set(part[:, 0, 0, 0].tolist()) for part in (task.training_images, task.validation_images)]
    assert len(values[0]) == 9 and len(values[1]) == 3 and not values[0] & values[1]
    batches = list(task.validation_batches())
    assert sum(len(drawn) for _, drawn in batches) == 3 * SETTINGS.validation_puzzles
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, task.validation_batches(), strict=True))


def test_puzzles_are_learned_and_the_encoder_moves_to_the_target():
    # Each cell has a pattern of its own, so that a tile can be recognised whatever its brightness.
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    angle = torch.arange(9.0).view(3, 3).repeat_interleave(16, 0).repeat_interleave(16, 1) * (torch.pi / 9)
    image = 0.5 + 0.4 * torch.sin(1.2 * (torch.cos(angle) * x + torch.sin(angle) * y))
    images = (image + 0.05 * torch.randn(12, 1, 48, 48, generator=generator())).clamp(0, 1)
    task = Jigsaw(images, SETTINGS, STILL, seed=0)
    torch.manual_seed(0)
    network = JigsawNetwork(
        build_encoder("resnet10", width=8, output_stride=4), permutations=8, embedding=16, hidden=32
    )
    loop = Loop(learning_rate=3e-3, max_steps=60, validate_every=30, patience=99, min_improvement=0.0)
    outcome = fit(network, task, loop, generator=generator())
    network.load_state_dict(outcome.weights)
    assert outcome.curve[-1].validation_accuracy > 4 / 8
    examples = task.examples(network, "cpu", 2)
    assert examples["tiles"].shape[:2] == examples["guess"].shape == examples["permutation"].shape == (2, 9)

    target = build_fcn("resnet10", width=8, output_stride=4)
    report = transfer_weights(outcome.weights, target)
    moved = target.state_dict()
    for name, value in outcome.weights.items():
        if name.startswith("backbone."):
            assert torch.equal(moved[name], value), name
    assert {"backbone.bn1.running_mean", "backbone.bn1.running_var"} <= set(report.moved)
    assert all(name.startswith(("tile.", "puzzle.")) for name in report.not_moved)
    assert all(name.startswith("classifier.") for name in report.left_random)
