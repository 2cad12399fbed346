"""The resolution phantom reads off what is known of linear interpolation."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from l3muscle.book.resolution import FREQUENCIES, contrast_kept, line_pairs, siemens_star, warp_once_and_in_chain
from l3muscle.profile import AugmentationSettings

IDEAL = np.sinc(FREQUENCIES) ** 2  # of a linear interpolation at every place between pixels alike


@pytest.fixture(scope="module")
def phantom() -> torch.Tensor:
    return torch.from_numpy(line_pairs(192))[None]


def test_untouched_and_mirrored_it_keeps_all(phantom):
    for image in (phantom, phantom.flip(-1), phantom.flip(-2), phantom.rot90(1, (-2, -1))):
        np.testing.assert_allclose(contrast_kept(image[0].numpy()), 1, atol=1e-5)


def test_half_a_pixel_keeps_the_cosine(phantom):
    # Linear interpolation half-way between two pixels is their mean; along the other axis nothing happens.
    halfway = (phantom[..., 1:] + phantom[..., :-1]) / 2
    kept = contrast_kept(F.pad(halfway, (0, 1))[0].numpy())
    np.testing.assert_allclose(kept, (1 + np.cos(np.pi * np.array(FREQUENCIES))) / 2, atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_one_interpolation_keeps_what_is_possible_and_a_chain_less(phantom, seed):
    once, chain = (contrast_kept(image[0].numpy()) for image in warp_once_and_in_chain(
        phantom, AugmentationSettings(), seed=seed))  # fmt: skip
    np.testing.assert_allclose(once, IDEAL, atol=0.02)
    assert (chain < once).all()
    np.testing.assert_allclose(chain, IDEAL**3, atol=0.05)


def test_what_is_not_the_phantom_is_refused(phantom):
    with pytest.raises(ValueError, match="18 channels"):
        contrast_kept(np.zeros((3, 64, 64)))
    with pytest.raises(ValueError, match="nothing of the phantom"):
        contrast_kept(np.zeros((18, 64, 64)))


def test_a_star_has_as_many_spokes_as_asked():
    star = siemens_star(200, spokes=9)
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    ring = star[np.rint(99.5 + 80 * np.sin(angles)).astype(int), np.rint(99.5 + 80 * np.cos(angles)).astype(int)] > 0.5
    assert np.count_nonzero(ring != np.roll(ring, 1)) == 18
    assert star.shape == (200, 200) and star.min() == 0 and star.max() == 1
