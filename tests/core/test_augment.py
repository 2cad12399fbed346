"""Image and mask move together, once, and as the settings say."""

import pytest
import torch

from l3muscle.augment import augment, augment_images, sampling_grid
from l3muscle.profile import load_profile
from l3muscle.settings import AugmentationSettings
from l3muscle.training import Shuffled

PAPER = load_profile("paper").augmentation
NOTHING = PAPER.model_copy(
    update=dict.fromkeys(["flip_probability", "rotation_probability", "scale_probability", "elastic_probability"], 0.0)
)
SHAPE = (60, 90)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(row: float, column: float, radius: float = 4.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(1.0 * SHAPE[0]), torch.arange(1.0 * SHAPE[1]), indexing="ij")
    return (torch.hypot(y - row, x - column) <= radius).float()[None, None]


def test_nothing_asked_changes_nothing():
    image = torch.rand(3, 1, *SHAPE, generator=generator())
    out, mask = augment(image, image.round(), NOTHING, generator=generator())
    torch.testing.assert_close(out, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(mask, image.round(), atol=1e-4, rtol=0)


def test_flip_mirrors_left_and_right():
    image = torch.rand(2, 1, *SHAPE, generator=generator())
    settings = NOTHING.model_copy(update={"flip_probability": 1.0})
    out, _ = augment(image, image, settings, generator=generator())
    torch.testing.assert_close(out, image.flip(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_of_image_and_mask_stay_in_register(seed):
    landmark = disc(25, 40)
    image, mask = augment(landmark * 0.7, landmark, PAPER, generator=generator(seed))
    assert mask.sum() > 10
    torch.testing.assert_close(image, mask * 0.7, atol=1e-5, rtol=0)


def test_elastic_deformation_bends_without_folding():
    settings = PAPER.model_copy(update={"elastic_probability": 1.0})
    grid = sampling_grid(8, SHAPE, settings, generator=generator())
    plain = sampling_grid(8, SHAPE, settings.model_copy(update={"elastic_probability": 0.0}), generator=generator())
    assert (grid - plain).abs().max() > 0.02
    step_y, step_x = grid[:, 1:, :-1] - grid[:, :-1, :-1], grid[:, :-1, 1:] - grid[:, :-1, :-1]
    area = step_x[..., 0] * step_y[..., 1] - step_x[..., 1] * step_y[..., 0]
    same_sign = (area > 0).flatten(1).float().mean(1)
    assert (torch.maximum(same_sign, 1 - same_sign) > 0.99).all()


def test_seed_decides_everything():
    image = torch.rand(2, 1, *SHAPE, generator=generator())
    first, again, other = (augment(image, image, PAPER, generator=generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- the distribution of what is drawn ---------------------------------------------------------------------------

MANY = 4000


def linear_parts(settings: AugmentationSettings, shape=(8, 12)) -> torch.Tensor:
    """Where (row, column) steps of one output pixel lead in the input, in pixels: one 2 x 2 matrix an image."""
    grid = sampling_grid(MANY, shape, settings, generator=generator())
    pixels = grid.flip(-1) * torch.tensor(shape) / 2
    return torch.stack([pixels[:, 1, 0] - pixels[:, 0, 0], pixels[:, 0, 1] - pixels[:, 0, 0]], dim=-1)


def about(share: float) -> object:
    """Within five standard deviations of a share of `MANY`."""
    return pytest.approx(share, abs=5 * (share * (1 - share) / MANY) ** 0.5)


def test_rotation_scaling_and_flip_make_a_similarity_that_leaves_the_middle_where_it_is():
    settings = PAPER.model_copy(update={"elastic_probability": 0.0})
    matrices = linear_parts(settings)
    flipped = torch.linalg.det(matrices) < 0
    # A flip mirrors the columns of the input, before anything else.
    unflipped = torch.where(flipped[:, None, None], torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 1.0) * matrices
    torch.testing.assert_close(unflipped[:, 0, 0], unflipped[:, 1, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(unflipped[:, 0, 1], -unflipped[:, 1, 0], atol=1e-4, rtol=0)
    grid = sampling_grid(MANY, (8, 12), settings, generator=generator())
    torch.testing.assert_close(grid.mean((1, 2)), torch.zeros(MANY, 2), atol=1e-5, rtol=0)


def test_each_happens_as_often_as_it_should_and_apart_from_the_others():
    settings = NOTHING.model_copy(
        update={"flip_probability": 0.2, "rotation_probability": 0.4, "scale_probability": 0.7}
    )
    matrices = linear_parts(settings)
    size = torch.linalg.det(matrices)
    flipped, scaled = size < 0, (size.abs() - 1).abs() > 1e-4
    rotated = matrices[:, 0, 1].abs() > 1e-4
    for happened, share in (
        (flipped, 0.2),
        (rotated, 0.4),
        (scaled, 0.7),
        (flipped & rotated, 0.2 * 0.4),
        (flipped & scaled, 0.2 * 0.7),
        (rotated & scaled, 0.4 * 0.7),
    ):
        assert float(happened.float().mean()) == about(share)
    bent = sampling_grid(
        MANY, (4, 4), NOTHING.model_copy(update={"elastic_probability": 0.3}), generator=generator()
    ) - sampling_grid(1, (4, 4), NOTHING, generator=generator())
    assert float((bent.abs().amax((1, 2, 3)) > 1e-4).float().mean()) == about(0.3)


def test_angles_and_magnifications_are_uniform_between_their_limits():
    matrices = linear_parts(NOTHING.model_copy(update={"rotation_probability": 1.0, "rotation_degrees": 20.0}))
    angles = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    magnified = linear_parts(NOTHING.model_copy(update={"scale_probability": 1.0, "scale": 0.25}))
    # A larger image is sampled in smaller steps.
    magnifications = 1 / magnified[:, 0, 0]
    for values, low, high in ((angles, -20.0, 20.0), (magnifications, 0.75, 1.25)):
        assert low - 1e-3 <= float(values.min()) and float(values.max()) <= high + 1e-3
        for share in (0.01, 0.25, 0.5, 0.75, 0.99):
            assert float((values < low + share * (high - low)).float().mean()) == about(share)


def test_elastic_nodes_shift_evenly_up_to_their_limit_and_bicubically_in_between():
    nodes, rows, columns = 4, 10, 13  # every third row and fourth column holds a node
    settings = NOTHING.model_copy(update={"elastic_probability": 1.0, "elastic_nodes": nodes, "elastic_shift": 0.3})
    bent = sampling_grid(300, (rows, columns), settings, generator=generator())
    shifts = bent - sampling_grid(1, (rows, columns), NOTHING, generator=generator())
    at_nodes = shifts[:, ::3, ::4]
    reach = 0.3 * 2 / 3  # three tenths of the distance of two nodes in [-1, 1]
    assert 0.99 * reach < at_nodes.max() <= reach + 1e-5
    assert -0.99 * reach > at_nodes.min() >= -reach - 1e-5
    assert float((at_nodes.abs() < reach / 2).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert abs(float(torch.corrcoef(at_nodes.reshape(-1, 2).T)[0, 1])) < 0.06
    expected = torch.nn.functional.interpolate(
        at_nodes.permute(0, 3, 1, 2), size=(rows, columns), mode="bicubic", align_corners=True
    )
    torch.testing.assert_close(shifts, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=0)


def test_what_comes_in_from_outside_fades_to_nothing_in_every_channel():
    settings = NOTHING.model_copy(update={"scale_probability": 1.0, "scale": 0.5})
    for seed in range(20):
        out = augment_images(torch.ones(1, 3, 6, 8), settings, generator=generator(seed))
        grid = sampling_grid(1, (6, 8), settings, generator=generator(seed))
        step = float(grid[0, 0, 1, 0] - grid[0, 0, 0, 0]) * 8 / 2
        # The outermost sample lies 3.5 steps from the middle; the last pixel's centre lies at 3.5, nothing at 4.5.
        assert float(out[0, 0, 2, 0]) == pytest.approx(min(1.0, max(0.0, 4.5 - 3.5 * step)), abs=1e-4)
        assert float(out[0, 0, 2, 4]) == pytest.approx(1)
        assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])


# --- the order of the slices -------------------------------------------------------------------------------------


def test_each_image_comes_once_before_any_comes_again():
    shuffled, source = Shuffled(5), generator()
    taken = [index for _ in range(10) for index in shuffled.take(3, source)]
    rounds = [taken[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_more_images_than_there_are_take_several_rounds():
    shuffled, source = Shuffled(3), generator()
    assert shuffled.taken == shuffled.take(0, source) == []
    taken = shuffled.take(7, source)
    assert shuffled.taken == taken and len(taken) == 7
    assert sorted(taken[:3]) == sorted(taken[3:6]) == [0, 1, 2] and {taken[6], *shuffled.queue} == {0, 1, 2}
    # Exactly what is left needs no shuffling: the generator stands still.
    before, left = source.get_state(), list(shuffled.queue)
    assert shuffled.take(2, source) == left
    assert torch.equal(source.get_state(), before) and shuffled.queue == []
