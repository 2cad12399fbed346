"""Means and intervals of the figures, and the observers' band."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_rows import model, observer, stacked

from l3muscle.statistics import learning_curve_table, observer_band


def test_a_point_of_a_learning_curve_is_the_t_interval_of_its_predictions():
    scores = stacked(
        model([0.5, np.nan, 2.5], "rms_dta_cm", failure=["", "empty", ""]),
        model([1.0, 0.5, 2.0], "rms_dta_cm", fold=1, failure=["other", "", ""]),
        model([0.75], "rms_dta_cm", n=10),
    )
    table = learning_curve_table(scores, "rms_dta_cm")
    assert table.columns.tolist() == [
        *("source_task", "n_train", "n_models", "n", "failures", "empty", "gross"),
        *("mean", "low", "high", "sd"),
    ]
    first, second = table.to_dict("records")
    values = [0.5, 2.5, 1.0, 0.5, 2.0]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (first["source_task"], first["n_train"], first["n_models"], first["n"]) == ("random", 5, 2, 5)
    assert (first["failures"], first["empty"], first["gross"]) == (3, 1, 1)
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((1.3, low, high))
    assert first["sd"] == pytest.approx(np.std(values, ddof=1))
    # One value has a mean and no interval.
    assert (second["n"], second["mean"]) == (1, 0.75)
    assert np.isnan([second["low"], second["high"], second["sd"]]).all()


@pytest.mark.filterwarnings("error")
def test_two_values_have_an_interval_and_none_have_no_mean():
    row = learning_curve_table(model([0.5, 1.0])).iloc[0]
    assert row["sd"] == pytest.approx(0.5**0.5 / 2)
    assert [row["low"], row["high"]] == pytest.approx([0.75 - 0.25 * 12.7062, 0.75 + 0.25 * 12.7062], rel=1e-5)
    row = learning_curve_table(model([np.nan, np.nan], failure="empty")).iloc[0]
    assert row["n"] == 0 and row["empty"] == 2
    assert row[["mean", "low", "high", "sd"]].isna().all()


def test_a_learning_curve_refuses_what_the_tests_refuse():
    with pytest.raises(ValueError, match="rows twice"):
        learning_curve_table(stacked(model([0.5]), model([0.5])))


def test_observer_band_weighs_images_not_outlines():
    table = pd.DataFrame({"patient_id": ["a"] * 4 + ["b"] * 5, "dice": [0.8] * 4 + [0.9] * 5})
    band = observer_band(table, "dice")
    assert band.mean == pytest.approx(0.85) and band.standard_error == pytest.approx(0.05)


def test_an_observer_band_is_the_standard_error_over_known_images():
    table = stacked(observer([0.5, 0.75, np.nan, 0.9]), observer([0.7, np.nan, np.nan, 0.9], name="o2"))
    band = observer_band(table)
    # Means by image of 0.6, 0.75 and 0.9: their standard deviation is 0.15.
    assert band.mean == pytest.approx(0.75) and band.standard_error == pytest.approx(0.15 / 3**0.5)
    assert {type(band.mean), type(band.standard_error)} == {float}
    other = observer_band(table.rename(columns={"dice": "rms_dta_cm"}), "rms_dta_cm")
    assert other == band
    assert observer_band(table[:0]) is None
    with pytest.raises(ValueError, match="unknown metric"):
        observer_band(table[:0], "jaccard")
