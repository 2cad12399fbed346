"""Masks that are stored on fewer or more pixels than the slice's, against one pixel after the other."""

from itertools import product

import numpy as np
import pytest

from l3muscle.cohort.geometry import GRID_TOLERANCE_MM, Grid
from l3muscle.errors import L3MuscleError

SPACING = (0.8, 1.25)
UPRIGHT = np.eye(3)[:2]
CT = Grid(shape=(7, 10), spacing=SPACING, position=np.array([-60.0, 40.0, 5.0]), orientation=UPRIGHT)


def beside(shape: tuple[int, int], top: int, left: int, by_mm: float = 0.0) -> Grid:
    """A grid of the same pixels that begins so many rows and columns after the slice, and lies so far off them."""
    corner = CT.points(np.array([[top, left]]))[0] + [by_mm, 0, 0]
    return Grid(shape=shape, spacing=SPACING, position=corner, orientation=UPRIGHT)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (9, 6), (4, 13), (11, 14), (7, 6)])
def test_what_lies_on_the_slice_is_found_there(shape):
    for top, left in product(range(-6, 9), range(-7, 12)):
        other, expected = beside(shape, top, left), np.zeros(CT.shape, np.uint16)
        values, beyond = (
            np.zeros(shape, np.uint16),
            np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint16).reshape(shape),
        )
        for row, column in np.ndindex(shape):
            if 0 <= top + row < CT.shape[0] and 0 <= left + column < CT.shape[1]:
                expected[top + row, left + column] = values[row, column] = beyond[row, column]
        if top in (0, CT.shape[0] - shape[0]) and left in (0, CT.shape[1] - shape[1]):
            with pytest.raises(L3MuscleError, match=f"has {shape[0]} x {shape[1]} pixels where the slice has 7 x 10"):
                CT.align(values, other)
            continue
        aligned = CT.align(values, other)
        assert aligned.dtype == values.dtype
        np.testing.assert_array_equal(aligned, expected)
        if not np.array_equal(values, beyond):
            with pytest.raises(L3MuscleError, match="^reaches beyond the slice's pixels$"):
                CT.align(beyond, other)


@pytest.mark.parametrize(("shape", "says"), [((7, 10), "lies up to 0.2 mm off"), ((4, 5), "has 4 x 5 pixels where")])
def test_pixels_between_the_slices_own_are_refused(shape, says):
    values = np.ones(shape, bool)
    top, left = (0, 0) if shape == CT.shape else (1, 2)
    assert CT.align(values, beside(shape, top, left, 0.9 * GRID_TOLERANCE_MM)).any()
    with pytest.raises(L3MuscleError, match=says):
        CT.align(values, beside(shape, 0, 0, 0.2))
    with pytest.raises(L3MuscleError, match="pixels"):
        CT.align(values, beside(shape, 0, 0, float("nan")))
