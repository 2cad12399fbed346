"""Dunnett's tests of the configurations of a table: families, verdicts, controls, and what cannot be tested."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special, stats
from score_rows import model, observer, stacked

from l3muscle.statistics import control_sample, dunnett, dunnett_table, plateau_table
from l3muscle.statistics.score_table import configurations

NAN = np.nan
CONTROL = np.array([0.80, 0.85, 0.90, 0.95, 0.85, 0.90])


def adjusted_p(statistic: float, loading: np.ndarray, degrees: int) -> float:
    """Dunnett's integral by the plain trapezoidal rule on a fine grid."""
    spread = stats.chi(degrees, scale=degrees**-0.5)
    s, z = np.linspace(*spread.ppf([1e-12, 1 - 1e-12]), 301), np.linspace(-8.5, 8.5, 301)
    edges = np.multiply.outer(s, np.ones((z.size, loading.size))) * statistic
    shift, rest = z[:, None] * loading, np.sqrt(1 - loading**2)
    inside = special.ndtr((edges + shift) / rest) - special.ndtr((shift - edges) / rest)
    over_z = integrate.trapezoid(inside.prod(axis=2) * stats.norm.pdf(z), z, axis=1)
    return 1 - integrate.trapezoid(over_z * spread.pdf(s), s)


def test_samples_of_unequal_sizes_are_adjusted_by_dunnetts_integral():
    samples, control = ([0.1, 0.9, 0.5], [1.5, 2.5, 2.0, 1.0, 3.0, 2.0]), [0.0, 1.0, -1.0, 0.0]
    found = dunnett(samples, control)
    # Sums of squares about the means: 0.32, 2.5 and 2 with 3 + 6 + 4 - 3 degrees of freedom.
    assert found.difference == pytest.approx([0.5, 2.0])
    assert found.statistic == pytest.approx([0.5, 2.0] / np.sqrt(0.482 * np.array([1 / 3 + 1 / 4, 1 / 6 + 1 / 4])))
    # Two comparisons correlate by the product of these, sqrt(n / (n + n of the control)).
    loading = np.sqrt([3 / 7, 6 / 10])
    assert found.p_value == pytest.approx([adjusted_p(t, loading, 10) for t in found.statistic], abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_dunnett_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    samples = [rng.normal(0.3 * k, 1, rng.integers(5, 60)) for k in range(rng.integers(1, 7))]
    control = rng.normal(0, 1, rng.integers(5, 60))
    ours = dunnett(samples, control)
    theirs = stats.dunnett(*samples, control=control, rng=np.random.default_rng(0))
    np.testing.assert_allclose(ours.statistic, theirs.statistic, rtol=1e-10)
    np.testing.assert_allclose(ours.p_value, theirs.pvalue, atol=3e-4)


def test_one_sample_is_the_t_test_far_into_the_tail():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 1.0, 3.0):
        a, b = rng.normal(shift, 1, 40), rng.normal(0, 1, 30)
        expected = stats.ttest_ind(a, b).pvalue
        assert dunnett([a], b).p_value[0] == pytest.approx(expected, rel=1e-6)


def test_published_critical_values():
    # Dunnett 1964, two-sided, joint confidence 95 %: three treatments, 12 degrees of freedom: 2.68; five, 60: 2.58.
    for treatments, per_group, critical in ((3, 4, 2.68), (5, 11, 2.58)):
        base = np.array([-1.0, 1.0] * 50)[:per_group]
        base = (base - base.mean()) / base.std(ddof=1)
        shift = critical * np.sqrt(2 / per_group)
        p = dunnett([base + shift] * treatments, base).p_value
        assert p[0] == pytest.approx(0.05, abs=0.0015)


def test_small_p_values_resolve_and_repeat():
    rng = np.random.default_rng(2)
    samples = [rng.normal(m, 1, 500) for m in (1.0, 1.5, 2.0)]
    control = rng.normal(0, 1, 180)
    p = dunnett(samples, control).p_value
    assert (p > 0).all() and p[0] > p[1] > p[2] and p[1] < 1e-60
    assert np.array_equal(p, dunnett(samples, control).p_value)


def test_a_sample_like_the_control_has_a_p_value_of_one():
    with np.errstate(all="raise"):
        found = dunnett([[1.0, 3.0], [0.0, 4.0]], [1.0, 2.0, 3.0])
    assert found.statistic.tolist() == [0, 0] and found.p_value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "control", "message"),
    [
        ([], [1.0, 2.0], "there is no sample to compare with the control"),
        ([[1.0, 2.0], [1.0]], [1.0, 2.0], "sample 1 has fewer than two values"),
        ([[1.0]], [1.0], "the control has fewer than two values"),
        ([[1.0, 2.0]], [], "the control has fewer than two values"),
        ([[1.0, 2.0], [1.0, np.inf]], [1.0, 2.0], "sample 1 holds values that are not finite"),
        ([[1.0, 2.0]], [1.0, NAN], "the control holds values that are not finite"),
        # Means of 0.1 are not exactly 0.1.
        ([[0.1] * 7, [0.3] * 3], [0.2] * 3, "nothing varies within the groups: no test is possible"),
        ([[0.0] * 2], [0.0] * 2, "nothing varies within the groups: no test is possible"),
        ([[1e9, 1e9 + 1e-4]], [1e9] * 2, "nothing varies within the groups: no test is possible"),
    ],
)
def test_what_cannot_be_tested_is_said(samples, control, message):
    with pytest.raises(ValueError) as caught:
        dunnett(samples, control)
    assert str(caught.value) == message


def outlines() -> pd.DataFrame:
    columns = {
        "smd_hu": [31.0, 42.0, NAN],
        "smd_difference_hu": [1.0, 2.0, NAN],
        "sma_cm2": [150.0, 160.0, 170.0],
        "sma_difference_cm2": [50.0, 40.0, 50.0],
    }
    return stacked(observer([0.3, 0.4, NAN], name="o2"), observer([0.1, 0.2, 0.9], name="o1", **columns))[::-1]


def test_a_control_is_every_outline_or_every_image():
    # By image, and within it by observer.
    assert control_sample("outlines", "dice", observers=outlines()).tolist() == [0.1, 0.3, 0.2, 0.4, 0.9]
    assert control_sample("image_means", "dice", observers=outlines()) == pytest.approx([0.2, 0.3, 0.9])


def test_a_control_is_the_experts_zeros_or_values():
    scores = model([0.9] * 2, smd_hu=[30.0, 50.0], smd_difference_hu=[5.0, 1.0])
    assert control_sample("zeros", "smd_difference_hu", scores=outlines()).tolist() == [0, 0, 0]
    assert control_sample("zeros", "sma_difference_cm2", scores=scores, observers=outlines()).tolist() == [0, 0]
    assert control_sample("expert", "smd_hu", scores=outlines()).tolist() == [30, 40]
    assert control_sample("expert", "sma_cm2", scores=outlines()).tolist() == [100, 120, 120]
    assert control_sample("expert", "smd_hu", scores=scores, observers=outlines()).tolist() == [25, 49]


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("experts", "dice", "unknown control 'experts'; choose one of outlines, image_means, zeros, expert"),
        ("outlines", "jaccard", "unknown metric 'jaccard'"),
        ("zeros", "dice", "zeros are a control for differences from the expert, not for dice"),
        ("zeros", "rms_dta_cm", "zeros are a control for differences from the expert, not for rms_dta_cm"),
        ("zeros", "smd_hu", "zeros are a control for differences from the expert, not for smd_hu"),
        ("expert", "dice", "unknown measure 'dice'; choose one of smd_hu, sma_cm2"),
        ("expert", "smd_difference_hu", "unknown measure 'smd_difference_hu'"),
        ("outlines", "smd_hu", "twice"),
    ],
)
def test_a_control_goes_with_its_metric(kind, metric, message):
    observers = outlines()
    if message == "twice":
        observers = stacked(observers, observers)
    with pytest.raises(ValueError, match=message):
        control_sample(kind, metric, observers=observers, scores=observers)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("outlines", "dice"), ("image_means", "dice"), ("zeros", "smd_difference_hu"), ("expert", "smd_hu")],
)
def test_a_control_needs_its_table(kind, metric):
    with pytest.raises(ValueError, match=f"^the control '{kind}' needs "):
        control_sample(kind, metric)


def test_all_columns_of_a_row_are_those_of_its_configuration():
    scores = stacked(
        model([0.5, NAN, 2.5], "rms_dta_cm", failure=["", "empty", ""]),
        model([0.25, 0.75, NAN], "rms_dta_cm", fold=1, failure=["other", "", "empty"]),
        model([0.5, 1.0, 0.75], "rms_dta_cm", n=10),
    )
    first, second = dunnett_table(scores, np.array([0.25, NAN, 0.5]), "rms_dta_cm").to_dict("records")
    assert list(first) == [
        *("source_task", "n_train", "n_models", "n", "failures", "empty", "gross", "mean", "control_n"),
        *("control_mean", "difference", "statistic", "p_value", "verdict", "note"),
    ]
    assert (first["source_task"], first["n_train"], first["n_models"], first["n"]) == ("random", 5, 2, 4)
    assert (first["failures"], first["empty"], first["gross"]) == (4, 2, 1)
    assert (first["mean"], first["control_n"], first["control_mean"], first["difference"]) == (1.0, 2, 0.375, 0.625)
    assert first["note"] == "2 failed predictions left out" and second["note"] == ""
    assert (second["n_models"], second["n"], second["failures"], second["mean"]) == (1, 3, 0, 0.75)


def test_a_table_of_observers_is_a_control_of_outlines():
    scores = stacked(model([0.7, 0.8, 0.6]), model([0.9, 0.7, 0.8], n=10))
    control = stacked(observer([0.8, 0.9, NAN]), observer([0.7, 0.85], name="o2"))
    table = dunnett_table(scores, control)
    assert set(table["control_n"]) == {4} and table["control_mean"][0] == pytest.approx(3.25 / 4)
    pd.testing.assert_frame_equal(table, dunnett_table(scores, np.array([[0.8, 0.7], [0.9, 0.85]])))


def shifted(p_value: float, direction: int) -> np.ndarray:
    """Values whose t-test against CONTROL, of the same spread and number, has this p-value."""
    statistic = stats.t.isf(p_value / 2, 2 * CONTROL.size - 2)
    return CONTROL + direction * statistic * np.sqrt(2 * CONTROL.var(ddof=1) / CONTROL.size)


@pytest.mark.parametrize(
    ("metric", "up", "down"),
    [
        ("dice", "better", "worse"),
        ("rms_dta_cm", "worse", "better"),
        ("smd_difference_hu", "worse", "worse"),
        ("sma_cm2", "worse", "worse"),
    ],
)
def test_a_verdict_goes_by_the_side_and_the_papers_level(metric, up, down):
    for direction, verdict in ((1, up), (-1, down)):
        for p_value, expected in ((0.00099, verdict), (0.00101, "")):
            row = dunnett_table(model(shifted(p_value, direction), metric), CONTROL, metric).iloc[0]
            assert row["p_value"] == pytest.approx(p_value, rel=1e-6) and row["verdict"] == expected


@pytest.mark.filterwarnings("error")
def test_a_configuration_without_a_test_leaves_the_others_theirs():
    few = model([0.9, *[NAN] * 5], failure=["", *["empty"] * 5], task="jigsaw", n=5)
    none = model([NAN] * 6, failure="empty", task="jigsaw", n=10)
    scores = stacked(few, none, model(shifted(0.0005, 1), n=5))
    table = dunnett_table(scores, CONTROL)
    assert table["note"].tolist() == ["n/a: fewer than two values"] * 2 + [""]
    assert table["verdict"].tolist() == ["", "", "better"]
    assert table["n"].tolist() == [1, 0, 6] and table["failures"].tolist() == [5, 6, 0]
    assert table["mean"][0] == 0.9 and np.isnan(table["mean"][1])
    assert table.loc[:1, ["difference", "statistic", "p_value"]].isna().all(axis=None)
    # A family of one: that of a t-test.
    assert table["p_value"][2] == pytest.approx(0.0005)


def test_a_family_in_which_nothing_varies_leaves_the_others_theirs():
    scores = stacked(model([0.8] * 3), model([0.7] * 3, task="jigsaw"), model([0.8, 0.9, 0.7], n=10))
    table = dunnett_table(scores, np.array([0.75, 0.75]), family="n_train")
    assert table["note"].tolist() == [
        "n/a: nothing varies within the groups: no test is possible",
        "",
        "n/a: nothing varies within the groups: no test is possible",
    ]
    assert table["p_value"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "jaccard"}, "unknown metric"),
        ({"unit": "fold"}, "unknown unit"),
        ({}, "rows twice"),
    ],
)
def test_unknown_settings_and_doubled_rows_are_refused(settings, message):
    scores = stacked(model([0.7, 0.8]), model([0.7, 0.9], n=10))
    scores = scores if settings else stacked(scores, scores)
    with pytest.raises(ValueError, match=message):
        dunnett_table(scores, CONTROL, **settings)
    with pytest.raises(ValueError, match=message):
        plateau_table(scores, **settings)
    with pytest.raises(ValueError, match=r"^unknown family 'some'; choose one of all, n_train, source_task$"):
        dunnett_table(model([0.7, 0.8]), CONTROL, family="some")


def test_every_size_is_compared_with_the_largest_of_its_source_task():
    rng = np.random.default_rng(1)
    sizes = {"random": (25, 5, 10), "jigsaw": (10, 5)}
    scores = stacked(*(model(rng.normal(0.8 + n / 500, 0.05, 8), task=t, n=n) for t in sizes for n in sizes[t]))
    table = plateau_table(scores)
    assert table.columns.tolist() == [
        *("source_task", "n_train", "versus", "n", "versus_n", "failures", "difference", "p_value", "plateau", "note")
    ]
    assert table[["source_task", "n_train", "versus"]].to_numpy().tolist() == [
        ["random", 5, 25],
        ["random", 10, 25],
        ["jigsaw", 5, 10],
    ]
    values = {one.key: one.values() for one in configurations(scores, "dice")}
    expected = dunnett([values["random", 5], values["random", 10]], values["random", 25])
    np.testing.assert_array_equal(table["difference"][:2], expected.difference)
    np.testing.assert_array_equal(table["p_value"][:2], expected.p_value)
    one = stats.ttest_ind(values["jigsaw", 5], values["jigsaw", 10])
    assert table["p_value"][2] == pytest.approx(one.pvalue)
    assert (table["n"] == 8).all() and (table["versus_n"] == 8).all() and (table["note"] == "").all()


def test_a_plateau_begins_where_the_papers_test_finds_no_difference():
    for p_value, plateau in ((0.00099, False), (0.00101, True)):
        scores = stacked(model(shifted(p_value, 1)), model(CONTROL, n=10))
        assert plateau_table(scores)["plateau"].tolist() == [plateau]
    p = plateau_table(scores)["p_value"][0]
    assert plateau_table(scores, alpha=p)["plateau"].tolist() == [True]
    assert plateau_table(scores, alpha=np.nextafter(p, 1))["plateau"].tolist() == [False]


@pytest.mark.parametrize(
    ("large", "plateau", "notes"),
    [
        ([0.8, 0.9, 0.7], [None, True], ["n/a: fewer than two values", ""]),
        ([0.9, 0.8, NAN], [None, True], ["n/a: fewer than two values", ""]),
        ([0.9, NAN, NAN], [None, None], ["n/a: fewer than two values"] * 2),
    ],
)
def test_a_size_that_cannot_be_compared_is_neither(large, plateau, notes):
    scores = stacked(model([NAN, 0.9, NAN]), model([0.9, 0.8, NAN], n=10).dropna(), model(large, n=25))
    table = plateau_table(scores)
    assert [None if flag is pd.NA else flag for flag in table["plateau"]] == plateau
    assert table["note"].tolist() == notes
    assert table["p_value"].isna().tolist() == table["difference"].isna().tolist() == [p is None for p in plateau]


def test_one_size_has_nothing_to_be_compared_with():
    table = plateau_table(model([0.8, 0.9]))
    assert table.empty and table["plateau"].dtype == "boolean"
    assert table.columns.tolist()[:3] == ["source_task", "n_train", "versus"]
