"""Metamorphic relations of every measure: what turning, flipping, moving, magnifying and swapping must do to it.

No test here knows a right value. Each draws masks, sees what a change of the input does to a measure, and holds that
against what the measure's definition says it does.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l3muscle.metrics import Reference, boundary, dice, muscle_area, muscle_density, remove_bone, rms_dta

DEFINITIONS = ("surface", "symmetric", "equation4")
#: What is done to an array, and to a spacing.
TURNS = {
    "flipped up": (np.flipud, lambda s: s),
    "mirrored": (np.fliplr, lambda s: s),
    "turned by 90 degrees": (np.rot90, lambda s: s[::-1]),
    "turned by 180 degrees": (lambda a: np.rot90(a, 2), lambda s: s),
    "transposed": (np.transpose, lambda s: s[::-1]),
}

lengths = st.floats(0.3, 5.0)
spacings = st.tuples(lengths, lengths)
factors = st.sampled_from((0.25, 0.5, 2.0, 4.0))  # exact in binary, so that ties stay ties
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
turns = st.sampled_from(sorted(TURNS))
quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def pairs(draw, *, filled: bool = False):
    """Two masks of one size; `filled` asks that neither is empty."""
    shape = draw(shapes)
    masks = arrays(bool, shape, elements=st.booleans())
    first, second = draw(masks), draw(masks)
    assume(not filled or (first.any() and second.any()))
    return first, second


@st.composite
def slices(draw, *, filled: bool = False):
    """A mask and Hounsfield units of one size, some of them bone."""
    shape = draw(shapes)
    mask = draw(arrays(bool, shape, elements=st.booleans()))
    assume(not filled or mask.any())
    return mask, draw(arrays(np.int16, shape, elements=st.integers(-1024, 1500)))


def pad(array: np.ndarray, widths=((2, 1), (1, 3)), value=0) -> np.ndarray:
    return np.pad(array, widths, constant_values=value)


def magnify(array: np.ndarray) -> np.ndarray:
    """Every pixel as two by two."""
    return array.repeat(2, axis=0).repeat(2, axis=1)


# --- Dice ------------------------------------------------------------------------------------------------------


@quick
@given(pairs())
def test_dice_is_one_for_the_same_mask_only_and_falls_with_every_wrong_pixel(pair):
    first, second = pair
    assert dice(first, first) == 1
    assert (dice(first, second) == 1) == np.array_equal(first, second)
    wrong = np.argwhere(~first & ~second)
    if len(wrong) and first.any() and dice(first, second):
        more = second.copy()
        more[tuple(wrong[0])] = True
        assert dice(first, more) < dice(first, second)


# --- distances -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@quick
@given(pairs(filled=True), spacings, turns, factors)
def test_distances_do_not_see_turns_and_moves_and_scale_with_the_spacing(definition, pair, spacing, turn, factor):
    pred, ref = pair
    expected = rms_dta(pred, ref, spacing, definition)
    turned, turned_spacing = TURNS[turn]
    close = {"rel": 1e-6, "abs": 1e-9}
    assert rms_dta(turned(pred), turned(ref), turned_spacing(spacing), definition) == pytest.approx(expected, **close)
    assert rms_dta(pad(pred), pad(ref), spacing, definition) == pytest.approx(expected, **close)
    larger = tuple(factor * length for length in spacing)
    assert rms_dta(pred, ref, larger, definition) == pytest.approx(factor * expected, **close)


@quick
@given(pairs(filled=True), spacings)
def test_the_symmetric_distance_pools_both_ways_and_only_it_can_be_swapped(pair, spacing):
    pred, ref = pair
    there, back = rms_dta(pred, ref, spacing), rms_dta(ref, pred, spacing)
    count_pred, count_ref = boundary(pred).sum(), boundary(ref).sum()
    pooled = np.sqrt((count_pred * there**2 + count_ref * back**2) / (count_pred + count_ref))
    symmetric = rms_dta(pred, ref, spacing, "symmetric")
    assert symmetric == pytest.approx(pooled, abs=1e-9)
    assert rms_dta(ref, pred, spacing, "symmetric") == pytest.approx(symmetric, abs=1e-9)
    assert (symmetric == 0) == np.array_equal(boundary(pred), boundary(ref))


@quick
@given(pairs(filled=True), spacings)
def test_no_distance_exceeds_the_image_and_that_of_a_mask_to_itself_is_zero(pair, spacing):
    pred, ref = pair
    diagonal = np.hypot(*(np.array(pred.shape) - 1) * spacing) / 10
    for definition, bound in zip(DEFINITIONS, (diagonal, diagonal, 2 * diagonal), strict=True):
        assert 0 <= rms_dta(pred, ref, spacing, definition) <= bound + 1e-9
        assert rms_dta(pred, pred, spacing, definition) == 0


# --- bone ------------------------------------------------------------------------------------------------------


@quick
@given(slices(), spacings, st.floats(0, 6), turns, factors)
def test_bone_is_removed_wherever_the_slice_is_turned_or_moved(scene, spacing, margin, turn, factor):
    mask, hu = scene
    kept = remove_bone(mask, hu, spacing, margin_mm=margin)
    turned, turned_spacing = TURNS[turn]
    assert np.array_equal(
        remove_bone(turned(mask), turned(hu), turned_spacing(spacing), margin_mm=margin), turned(kept)
    )
    assert np.array_equal(remove_bone(pad(mask), pad(hu), spacing, margin_mm=margin), pad(kept))
    larger = tuple(factor * length for length in spacing)
    assert np.array_equal(remove_bone(mask, hu, larger, margin_mm=factor * margin), kept)


@quick
@given(slices(), spacings, st.floats(0, 3), st.floats(0, 3), st.integers(0, 400))
def test_more_margin_or_a_lower_threshold_never_keep_more(scene, spacing, margin, more, lower):
    mask, hu = scene
    kept = remove_bone(mask, hu, spacing, margin_mm=margin)
    assert not (kept & ~mask).any()
    assert not (kept & (hu > 175)).any()
    assert np.array_equal(remove_bone(kept, hu, spacing, margin_mm=margin), kept)
    assert not (remove_bone(mask, hu, spacing, margin_mm=margin + more) & ~kept).any()
    assert not (remove_bone(mask, hu, spacing, threshold_hu=175 - lower, margin_mm=margin) & ~kept).any()
    # Only what lies above the threshold counts, not by how much.
    assert np.array_equal(remove_bone(mask, hu + 9, spacing, threshold_hu=184, margin_mm=margin), kept)


# --- area and density ------------------------------------------------------------------------------------------


@quick
@given(pairs(), spacings, turns, factors)
def test_area_adds_up_and_grows_with_the_square_of_the_spacing(pair, spacing, turn, factor):
    first, second = pair
    area = muscle_area(first, spacing)
    turned, turned_spacing = TURNS[turn]
    assert muscle_area(turned(first), turned_spacing(spacing)) == pytest.approx(area)
    assert muscle_area(pad(first), spacing) == area
    assert muscle_area(first, tuple(factor * length for length in spacing)) == pytest.approx(factor**2 * area)
    assert muscle_area(magnify(first), tuple(length / 2 for length in spacing)) == pytest.approx(area)
    union, shared = muscle_area(first | second, spacing), muscle_area(first & second, spacing)
    assert union + shared == pytest.approx(area + muscle_area(second, spacing))
    assert (area == 0) == (not first.any())


@quick
@given(slices(filled=True), turns, st.integers(-500, 500), factors)
def test_density_follows_the_units_and_not_the_place(scene, turn, shift, factor):
    mask, hu = scene
    density = muscle_density(mask, hu)
    turned, _ = TURNS[turn]
    for change in (turned, pad, magnify):
        assert muscle_density(change(mask), change(hu)) == pytest.approx(density)
    assert muscle_density(mask, factor * hu.astype(float) + shift) == pytest.approx(factor * density + shift)
    assert muscle_density(mask, np.where(mask, hu, 3000)) == density
    assert hu[mask].min() <= density <= hu[mask].max()
    upper = mask.copy()
    upper[len(mask) // 2 :] = False
    parts = [part for part in (upper, mask & ~upper) if part.any()]
    weighted = sum(muscle_density(part, hu) * part.sum() for part in parts) / mask.sum()
    assert weighted == pytest.approx(density)


# --- all at once -----------------------------------------------------------------------------------------------


@quick
@given(pairs(filled=True), spacings, turns, st.data())
def test_a_score_does_not_see_turns_and_its_differences_change_sign_when_swapped(pair, spacing, turn, data):
    pred, ref = pair
    hu = data.draw(arrays(np.int16, pred.shape, elements=st.integers(-200, 260)))
    score = Reference(ref, hu, spacing).score(pred)
    turned, turned_spacing = TURNS[turn]
    again = Reference(turned(ref), turned(hu), turned_spacing(spacing)).score(turned(pred))
    moved = Reference(pad(ref), pad(hu), spacing).score(pad(pred))
    for other in (again, moved):
        assert other.failure == score.failure
        assert other[:-1] == pytest.approx(score[:-1], rel=1e-6, abs=1e-9, nan_ok=True)
    swapped = Reference(pred, hu, spacing).score(ref)
    assert swapped.dice == score.dice
    assert swapped.sma_difference_cm2 == pytest.approx(-score.sma_difference_cm2, abs=1e-12)
    assert swapped.smd_difference_hu == pytest.approx(-score.smd_difference_hu, abs=1e-9, nan_ok=True)
