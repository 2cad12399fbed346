"""The loss against an independent computation, and its gradient."""

import numpy as np
import pytest
import torch

from l3muscle.losses import LOSSES, BCEDiceLoss, soft_dice_loss
from l3muscle.profile import ProfileError, load_profile


def loss_by_hand(logits: np.ndarray, target: np.ndarray) -> float:
    per_image = []
    for x, y in zip(logits.astype(np.float64), target.astype(np.float64), strict=True):
        p = 1 / (1 + np.exp(-x))
        bce = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        dice = 1 - 2 * np.sum(p * y) / (np.sum(p) + np.sum(y))
        per_image.append(bce + dice)
    return float(np.mean(per_image))


@pytest.mark.parametrize("seed", range(5))
def test_equals_equations_1_to_3(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (3, 1, 17, 23)).astype(np.float32)
    target = (rng.random((3, 1, 17, 23)) < 0.3).astype(np.float32)
    loss = BCEDiceLoss()(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss.item() == pytest.approx(loss_by_hand(logits, target), rel=1e-5)


def test_dice_is_a_mean_over_images_not_over_pooled_pixels():
    target = torch.zeros(2, 1, 8, 8)
    target[0, :, :, :] = 1
    target[1, :, :1, :1] = 1
    logits = torch.where(target > 0, 20.0, -20.0)
    logits[1] = -20.0
    assert soft_dice_loss(logits, target).mean().item() == pytest.approx(0.5, abs=1e-3)


def test_gradient_matches_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 1, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(1, 1, 4, 5, generator=generator) < 0.5).double()
    assert torch.autograd.gradcheck(lambda x: soft_dice_loss(x, target), logits)


def test_gradient_flows_where_a_rounded_prediction_would_have_none():
    logits = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    soft_dice_loss(logits, target).sum().backward()
    assert (logits.grad[..., :2] < 0).all() and (logits.grad[..., 2:] > 0).all()


def test_extreme_logits_and_empty_target_stay_finite():
    for value in (-1e4, 1e4):
        logits = torch.full((1, 1, 4, 4), value, requires_grad=True)
        loss = BCEDiceLoss()(logits, torch.zeros(1, 1, 4, 4))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_half_precision_logits_give_the_single_precision_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 64, 64, generator=generator).bfloat16()
    target = (torch.rand(2, 1, 64, 64, generator=generator) < 0.5).float()
    assert BCEDiceLoss()(logits, target) == BCEDiceLoss()(logits.float(), target)


@pytest.mark.parametrize("shapes", [((1, 1, 4, 4), (1, 4, 4)), ((2, 1, 4, 4), (1, 1, 4, 4)), ((1, 2, 4, 4),) * 2])
def test_refuses_shapes_that_would_broadcast(shapes):
    with pytest.raises(ValueError, match="must both be"):
        BCEDiceLoss()(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_a_profile_names_its_loss():
    assert LOSSES[load_profile("paper").training.loss] is BCEDiceLoss
    with pytest.raises(ProfileError, match="training.loss: Input should be 'bce_dice' .got 'focal'"):
        load_profile("paper", **{"training.loss": "focal"})
