"""Tests that know that predictions share images and models, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from l3muscle.statistics import (
    ablation_table,
    dunnett_table,
    hierarchical_bootstrap_table,
    mixed_model_table,
    readings_table,
    slices_needed_table,
    surviving_stars,
)

IMAGES = 20


def measured(dice: np.ndarray, **keys) -> pd.DataFrame:
    """Scores of one rater, all measures going with its Dice."""
    patients = [f"p{i}" for i in range(IMAGES)]
    same = dict.fromkeys(("dice", "smd_difference_hu", "sma_difference_cm2"), dice)
    others = {"rms_dta_cm": 1.2 - dice, "smd_hu": 30 + dice, "sma_cm2": 150 + dice, "failure": ""}
    return pd.DataFrame({**keys, "patient_id": patients, **same, **others})


def table(rng: np.random.Generator, means: dict[int, float], *, image: np.ndarray, model_sd: float) -> pd.DataFrame:
    """Scores of one source task with 8 models a size: mean + image + model + noise."""
    rows = []
    for n_train, mean in means.items():
        for fold in range(4):
            for repeat in range(2):
                dice = mean + image + rng.normal(0, model_sd) + rng.normal(0, 0.005, IMAGES)
                keys = {"source_task": "random", "n_train": n_train, "fold": fold, "subset": 0, "repeat": repeat}
                rows.append(measured(dice, **keys))
    return pd.concat(rows, ignore_index=True)


def observers(rng: np.random.Generator, *, image: np.ndarray) -> pd.DataFrame:
    rows = [measured(0.9 + image + rng.normal(0, 0.005, IMAGES), observer=f"o{observer}") for observer in range(4)]
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.02, IMAGES)
    scores = table(rng, {5: 0.80, 10: 0.86, 25: 0.94}, image=image, model_sd=0.002)
    return scores, observers(rng, image=image)


@pytest.mark.parametrize("test", [mixed_model_table, hierarchical_bootstrap_table])
def test_a_clear_difference_is_found_with_its_size(known, test):
    scores, control = known
    found = test(scores, control, "dice").set_index("n_train")
    assert list(found["verdict"]) == ["worse", "worse", "better"]
    for n_train, mean in ((5, 0.80), (10, 0.86), (25, 0.94)):
        assert found.loc[n_train, "low"] < mean - 0.9 < found.loc[n_train, "high"]


def test_models_that_scatter_as_wholes_are_no_evidence_where_the_naive_test_sees_some():
    naive, mixed = 0, 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 0.001, IMAGES)
        scores = table(rng, {5: 0.9, 10: 0.9}, image=image, model_sd=0.02)
        control = observers(rng, image=image)
        naive += (dunnett_table(scores, control, "dice", alpha=0.05)["verdict"] != "").any()
        mixed += (mixed_model_table(scores, control, "dice", alpha=0.05)["verdict"] != "").any()
    assert naive >= 3 and mixed <= 1


def test_the_order_of_the_rows_does_not_matter(known):
    scores, control = known
    shuffled = scores.sample(frac=1, random_state=3)
    first, second = (
        mixed_model_table(s, control, "dice").sort_values("n_train").reset_index(drop=True) for s in (scores, shuffled)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-6)


def test_the_bootstrap_repeats(known):
    first, second = (hierarchical_bootstrap_table(*known, "dice") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_stars_of_clear_differences_survive(known):
    table_ = surviving_stars(*known, "dice").set_index("n_train")
    assert table_.loc[25, "survives_mixed"] and table_.loc[25, "survives_bootstrap"]


def test_the_slices_needed_lie_where_the_curve_crosses_the_observers(known):
    row = slices_needed_table(*known, "dice").iloc[0]
    # Half-way between 10 and 25 on the logarithmic axis, as 0.90 lies half-way between 0.86 and 0.94.
    assert row["low"] < np.sqrt(10 * 25) < row["high"]
    assert row["needed"] == pytest.approx(np.sqrt(10 * 25), rel=0.1)


def test_an_ablation_gives_back_the_shift(known):
    scores, _ = known
    rng = np.random.default_rng(1)
    without = scores.assign(dice=scores["dice"] - 0.03 + rng.normal(0, 0.001, len(scores)))
    found = ablation_table(scores, without, "dice")
    assert found["difference"].to_numpy() == pytest.approx(0.03, abs=0.002)
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()


def test_readings_come_closest_first(known):
    distances = readings_table(*known)["distance"].dropna()
    assert len(distances) > 4 and distances.is_monotonic_increasing


def test_an_unknown_measure_is_refused(known):
    with pytest.raises(ValueError, match="metric"):
        mixed_model_table(*known, "hausdorff")
