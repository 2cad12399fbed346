"""Pictures of the augmentation: each part alone, and what one interpolation saves."""

import numpy as np
import pytest

from l3muscle.book.augmentation_pictures import PARTS, augmentation_parts, interpolation_table, only
from l3muscle.profile import load_profile

SETTINGS = load_profile("paper").augmentation


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(64, 80)).astype(np.float32)


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_certain_and_the_others_are_never_drawn(part: str) -> None:
    alone = only(SETTINGS, part)
    chances = {name: getattr(alone, f"{name}_probability") for name in PARTS}
    assert chances.pop(part) == 1 and set(chances.values()) == {0}
    assert alone.rotation_degrees == SETTINGS.rotation_degrees


def test_the_picture_has_a_panel_for_every_part_above_its_lattice(image: np.ndarray) -> None:
    figure = augmentation_parts(image, image > 0.5, SETTINGS)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["as it is", *PARTS, "all four"] and len(figure.axes) == 12
    as_it_is, flipped = (np.asarray(figure.axes[k].images[0].get_array()) for k in (0, 1))
    assert np.allclose(flipped, as_it_is[:, ::-1], atol=1e-4)


def test_four_interpolations_blur_more_than_one(image: np.ndarray) -> None:
    kept = interpolation_table(image, SETTINGS, draws=8).set_index("interpolations")["mean"]
    assert 0 < kept[4] < kept[1] < 1


def test_a_flip_alone_keeps_every_detail(image: np.ndarray) -> None:
    nothing = SETTINGS.model_copy(update={"rotation_degrees": 0, "scale": 0, "elastic_shift": 0})
    kept = interpolation_table(image, nothing, draws=2)
    assert kept["mean"].to_numpy() == pytest.approx([1, 1], abs=1e-3)
