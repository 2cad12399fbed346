"""The measures against slow, independent computations, and under what must not change them."""

import json
import math
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from frozen_shapes import HU, MASKS, REFERENCE
from frozen_shapes import SPACING as FROZEN_SPACING
from scipy import ndimage

from l3muscle import metrics
from l3muscle.metrics import (
    MEASURES,
    Measure,
    Reference,
    boundary,
    dice,
    muscle_area,
    muscle_density,
    remove_bone,
    rms_dta,
)

SPACING = (0.8, 1.3)


def blob(seed: int, shape=(36, 44)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 4)
    return field > np.quantile(field, 0.7)


def hu_of(seed: int, shape=(36, 44)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(60 + 120 * ndimage.gaussian_filter(rng.standard_normal(shape), 2) * 5).astype(np.int16)


def boundary_points(mask: np.ndarray) -> list[tuple[int, int]]:
    points = []
    for row, column in np.argwhere(mask):
        for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            r, c = row + dr, column + dc
            if not (0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]) or not mask[r, c]:
                points.append((row, column))
                break
    return points


def nearest(points, others, spacing):
    scale = np.array(spacing)
    pairs = np.linalg.norm((np.array(points)[:, None] - np.array(others)[None]) * scale, axis=-1)
    return pairs.min(1), pairs.argmin(1)


@pytest.mark.parametrize("name", MASKS)
def test_every_measure_is_what_it_was_when_it_was_frozen(name):
    """A change of a measure is meant to fail here: it goes with a new `METRICS_VERSION` and new frozen values."""
    frozen, mask = json.loads(Path(__file__).with_name("frozen_measures.json").read_text())[name], MASKS[name]
    found = Reference(REFERENCE, HU, FROZEN_SPACING).score(mask)._asdict()
    found |= {d: rms_dta(mask, REFERENCE, FROZEN_SPACING, d) for d in ("surface", "symmetric", "equation4")}
    found |= {"function_dice": dice(mask, REFERENCE), "boundary": boundary(mask).sum()}
    found["kept"] = remove_bone(mask, HU, FROZEN_SPACING).sum()
    assert found.pop("failure") == frozen.pop("failure")
    assert found == pytest.approx(frozen, rel=1e-12, abs=1e-12, nan_ok=True)


def test_the_table_says_what_an_empty_mask_scores():
    score = Reference(REFERENCE, HU, FROZEN_SPACING).score(np.zeros_like(REFERENCE))._asdict()
    for column, measure in MEASURES.items():
        if measure.empty is not None:
            assert score[column] == pytest.approx(measure.empty, nan_ok=True), column


def test_a_measure_that_is_added_to_the_table_is_scored(monkeypatch):
    """One row and one function: nothing else has to know of it."""
    row = Measure("pixels", "pixels", "N", "", 0, "", 0.0, lambda pred, reference: np.count_nonzero(pred))
    monkeypatch.setitem(MEASURES, "pixels", row)
    monkeypatch.setattr(metrics, "Score", namedtuple("Score", [*MEASURES, "failure"]))
    assert Reference(REFERENCE, HU, FROZEN_SPACING).score(MASKS["half"]).pixels == MASKS["half"].sum()


@pytest.mark.parametrize("seed", range(6))
def test_the_boundary_is_what_an_erosion_takes(seed):
    mask = blob(seed)
    assert np.array_equal(boundary(mask), mask & ~ndimage.binary_erosion(mask))


@pytest.mark.parametrize("seed", range(8))
def test_dice_counts_pixels(seed):
    a, b = blob(seed), blob(seed + 50)
    both = sum(x and y for x, y in zip(a.ravel(), b.ravel(), strict=True))
    assert dice(a, b) == pytest.approx(2 * both / (a.sum() + b.sum()))


def test_dice_of_empty_masks():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == dice(full, empty) == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_surface_and_symmetric_distance_by_brute_force(seed):
    a, b = blob(seed), blob(seed + 50)
    pa, pb = boundary_points(a), boundary_points(b)
    there, _ = nearest(pa, pb, SPACING)
    back, _ = nearest(pb, pa, SPACING)
    assert rms_dta(a, b, SPACING) == pytest.approx(np.sqrt((there**2).mean()) / 10)
    pooled = np.concatenate([there, back])
    assert rms_dta(a, b, SPACING, "symmetric") == pytest.approx(np.sqrt((pooled**2).mean()) / 10)


@pytest.mark.parametrize("seed", range(4))
def test_equation_4_by_brute_force(seed):
    a, b = blob(seed), blob(seed + 50)
    pa, pb = boundary_points(a), boundary_points(b)
    there, _ = nearest(pa, pb, SPACING)
    back, _ = nearest(pb, pa, SPACING)
    signed_back = [distance * (-1 if a[point] else 1) for distance, point in zip(back, pb, strict=True)]
    total = 0.0
    for distance, point in zip(there, pa, strict=True):
        apart = [np.hypot(*((np.array(point) - other) * SPACING)) for other in pb]
        tied = [value for value, d in zip(signed_back, apart, strict=True) if d < distance + 1e-9]
        second = min(tied, key=lambda value: (round(abs(value), 9), -value))
        total += (distance * (-1 if b[point] else 1) - second) ** 2
    assert rms_dta(a, b, SPACING, "equation4") == pytest.approx(np.sqrt(total / len(pa)) / 10)


@pytest.mark.parametrize("definition", ["surface", "symmetric", "equation4"])
def test_distance_of_an_empty_mask_does_not_exist(definition):
    empty = np.zeros((8, 8), bool)
    full = ~empty
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert np.isnan(rms_dta(*pair, (1, 1), definition))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (2.5, 0.7), (0.9766, 0.9766)])
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0, 3.3])
def test_bone_goes_with_its_margin_in_mm(spacing, margin):
    rng = np.random.default_rng(0)
    hu = np.where(rng.random((30, 34)) < 0.02, 300, 50)
    mask = rng.random((30, 34)) < 0.8
    distance = ndimage.distance_transform_edt(hu <= 175, sampling=spacing)
    expected = mask & (distance > margin + 1e-6) & (hu <= 175)
    assert np.array_equal(remove_bone(mask, hu, spacing, margin_mm=margin), expected)


def test_bone_threshold_is_exclusive():
    mask = np.ones((1, 3), bool)
    assert remove_bone(mask, np.array([[175, 176, 0]]), (9, 9)).tolist() == [[True, False, True]]


def test_area_and_density():
    mask = np.array([[True, False], [True, True]])
    assert muscle_area(mask, (2.0, 5.0)) == pytest.approx(0.3)
    assert muscle_density(mask, np.array([[10, 99], [20, 60]], dtype=np.int16)) == pytest.approx(30)
    assert np.isnan(muscle_density(np.zeros((2, 2), bool), np.zeros((2, 2))))


@pytest.mark.parametrize("seed", range(6))
def test_reference_scores_as_the_plain_functions_do(seed):
    expert, pred, hu = blob(seed), blob(seed + 50), hu_of(seed)
    score = Reference(expert, hu, SPACING).score(pred)
    assert score.dice == dice(pred, expert)
    assert score.rms_dta_cm == pytest.approx(rms_dta(pred, expert, SPACING), rel=1e-9)
    assert score.sma_cm2 == muscle_area(pred, SPACING)
    soft, soft_expert = (remove_bone(m, hu, SPACING) for m in (pred, expert))
    assert score.smd_hu == muscle_density(soft, hu)
    assert score.smd_difference_hu == pytest.approx(muscle_density(soft, hu) - muscle_density(soft_expert, hu))
    assert score.sma_difference_cm2 == pytest.approx(muscle_area(pred, SPACING) - muscle_area(expert, SPACING))
    assert score.failure == ""


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: dice(m.astype(int), m), TypeError, "^pred must be boolean"),
        (lambda m: dice(m, m.astype(int)), TypeError, "^ref must be boolean"),
        (lambda m: boundary(m.astype(int)), TypeError, "^mask must be boolean"),
        (lambda m: remove_bone(m.astype(int), m, (1, 1)), TypeError, "^mask must be boolean"),
        (lambda m: muscle_area(m.astype(int), (1, 1)), TypeError, "^mask must be boolean"),
        (lambda m: muscle_density(m.astype(int), m), TypeError, "^mask must be boolean"),
        (lambda m: Reference(m.astype(int), m, (1, 1)), TypeError, "^mask must be boolean"),
        (lambda m: dice(m, m[:-1]), ValueError, "differ in shape"),
        (lambda m: dice(m[None], m[None]), ValueError, r"\(H, W\)"),
        (lambda m: rms_dta(m, m, (1, 0)), ValueError, "positive"),
        (lambda m: rms_dta(m, m, (1, np.nan)), ValueError, "positive"),
        (lambda m: rms_dta(m, m, (1, 1), "hausdorff"), ValueError, "unknown definition"),
        (lambda m: muscle_area(m, (1, 1, 1)), ValueError, "two positive"),
        (
            lambda m: muscle_density(m, np.zeros((35, 44))),
            ValueError,
            r"^hu and mask differ in shape: \(35, 44\) and \(36, 44\)$",
        ),
        (lambda m: muscle_density(m, np.full(m.shape, np.nan)), ValueError, "^hu holds NaN$"),
        (lambda m: remove_bone(m, np.zeros(m.shape), (1, 1), margin_mm=-1), ValueError, "negative"),
        (lambda m: Reference(np.zeros_like(m), np.zeros(m.shape), (1, 1)), ValueError, "^the reference mask is empty$"),
    ],
)
def test_refusals_name_the_argument_and_the_reason(call, error, message):
    with pytest.raises(error, match=message):
        call(blob(0))


@pytest.mark.parametrize("spacing", [(0.5, 2.0), (2.0, 0.5), (0.2, 0.2), (1.0, 1.0)])
def test_bone_outside_the_mask_reaches_in_by_the_whole_margin(spacing):
    """Bone on each of the four sides, at exactly the margin from the mask's edge and one pixel farther."""
    centre, size = np.array([30, 30]), (61, 61)
    mask = np.zeros(size, bool)
    mask[tuple(centre)] = True
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        for pixels, kept in ((round(2 / spacing[axis]), False), (round(2 / spacing[axis]) + 1, True)):
            hu = np.full(size, 50)
            bone = centre.copy()
            bone[axis] += sign * pixels
            hu[tuple(bone)] = 300
            assert remove_bone(mask, hu, spacing).any() == kept, (axis, sign, pixels)


def test_nothing_warns_where_a_measure_does_not_exist():
    empty = np.zeros((36, 44), bool)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(muscle_density(empty, hu_of(0)))
        assert np.isnan(Reference(blob(0), hu_of(0), SPACING).score(empty).rms_dta_cm)


def test_the_mean_of_unlike_single_precision_numbers_is_taken_in_double_precision():
    hu = np.linspace(-190, 90, 40_001, dtype=np.float32).reshape(1, -1)
    expected = math.fsum(hu.ravel().tolist()) / hu.size
    assert muscle_density(np.ones(hu.shape, bool), hu) == pytest.approx(expected, rel=1e-12)
