"""Image and mask move together, once, and as the settings say."""

import pytest
import torch

from l3muscle.augment import augment, sampling_grid
from l3muscle.profile import AugmentationSettings

NOTHING = AugmentationSettings(flip_probability=0, rotation_probability=0, scale_probability=0, elastic_probability=0)
SHAPE = (60, 90)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(row: float, column: float, radius: float = 4.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(1.0 * SHAPE[0]), torch.arange(1.0 * SHAPE[1]), indexing="ij")
    return (torch.hypot(y - row, x - column) <= radius).float()[None, None]


def centre(image: torch.Tensor) -> tuple[float, float]:
    weight = image[0, 0] / image.sum()
    y, x = torch.meshgrid(torch.arange(1.0 * SHAPE[0]), torch.arange(1.0 * SHAPE[1]), indexing="ij")
    return float((weight * y).sum()), float((weight * x).sum())


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


@pytest.mark.parametrize("seed", range(20))
def test_landmarks_of_image_and_mask_stay_in_register(seed):
    landmark = disc(25, 40)
    image, mask = augment(landmark * 0.7, landmark, AugmentationSettings(), generator=generator(seed))
    assert mask.sum() > 10
    torch.testing.assert_close(image, mask * 0.7, atol=1e-5, rtol=0)


def test_rotation_is_rigid_in_pixels_and_within_its_limit():
    settings = NOTHING.model_copy(update={"rotation_probability": 1.0, "rotation_degrees": 20.0})
    middle_row, middle_column = (SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2
    angles = []
    for seed in range(40):
        moved, _ = augment(disc(middle_row, middle_column + 20), disc(0, 0), settings, generator=generator(seed))
        row, column = centre(moved)
        distance = ((row - middle_row) ** 2 + (column - middle_column) ** 2) ** 0.5
        assert distance == pytest.approx(20, abs=0.1)
        angles.append(torch.rad2deg(torch.atan2(torch.tensor(row - middle_row), torch.tensor(column - middle_column))))
    angles = torch.stack(angles)
    assert angles.abs().max() <= 20.1
    assert angles.min() < -10 and angles.max() > 10


def test_scaling_changes_the_area_by_the_square():
    settings = NOTHING.model_copy(update={"scale_probability": 1.0, "scale": 0.2})
    areas = torch.tensor(
        [float(augment(disc(30, 45, 10), disc(30, 45), settings, generator=generator(s))[0].sum()) for s in range(40)]
    )
    ratio = (areas / disc(30, 45, 10).sum()).sqrt()
    assert ratio.min() >= 0.79 and ratio.max() <= 1.21
    assert ratio.max() - ratio.min() > 0.25


def test_elastic_deformation_bends_without_folding():
    settings = AugmentationSettings(elastic_probability=1.0)
    grid = sampling_grid(8, SHAPE, settings, generator=generator())
    plain = sampling_grid(8, SHAPE, settings.model_copy(update={"elastic_probability": 0.0}), generator=generator())
    assert (grid - plain).abs().max() > 0.02
    step_y, step_x = grid[:, 1:, :-1] - grid[:, :-1, :-1], grid[:, :-1, 1:] - grid[:, :-1, :-1]
    area = step_x[..., 0] * step_y[..., 1] - step_x[..., 1] * step_y[..., 0]
    same_sign = (area > 0).flatten(1).float().mean(1)
    assert (torch.maximum(same_sign, 1 - same_sign) > 0.99).all()


def test_seed_decides_everything():
    image = torch.rand(2, 1, *SHAPE, generator=generator())
    first, again, other = (
        augment(image, image, AugmentationSettings(), generator=generator(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
