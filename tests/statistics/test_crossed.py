"""Mixed models with crossed effects against sums of squares, likelihoods of whole covariance matrices, statsmodels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import linalg, optimize, stats

from l3muscle.statistics.crossed import CrossedFit, TooFew, _Design, _Restricted, fit_difference, fit_mean

RATERS, IMAGES = 5, 9


def table(image=1.0, rater=1.0, rest=1.0, *, mean=2.0, shape=(RATERS, IMAGES), seed=0) -> np.ndarray:
    """A complete (raters, images) table with exactly these mean squares."""
    raw = np.random.default_rng(seed).normal(size=shape)
    of_image = raw.mean(0, keepdims=True) - raw.mean()
    of_rater = raw.mean(1, keepdims=True) - raw.mean()
    parts = [of_image + 0 * raw, of_rater + 0 * raw, raw - raw.mean() - of_image - of_rater]
    degrees = degrees_of(shape)
    return mean + sum(
        np.sqrt(square * n / (part**2).sum()) * part
        for square, n, part in zip((image, rater, rest), degrees, parts, strict=True)
    )


def degrees_of(shape) -> tuple[int, int, int]:
    raters, images = shape
    return images - 1, raters - 1, (images - 1) * (raters - 1)


def with_gaps(values: np.ndarray, share: float = 0.15, seed: int = 0) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(values.shape) < share, np.nan, values)


class Whole:
    """A mixed model through the covariance matrix of all its values: `kernels` says what each variance multiplies."""

    def __init__(self, *tables: np.ndarray, names: tuple[str, ...] = ("models", "observers"), ratio: float = 1.0):
        known = [np.nonzero(~np.isnan(values)) for values in tables]
        self.y = np.concatenate([values[where] for values, where in zip(tables, known, strict=True)])
        group = np.repeat(np.arange(len(tables)), [where[0].size for where in known])
        rater, image = np.concatenate([np.column_stack(where) for where in known]).T
        together = group[:, None] == group
        self.x = (group[:, None] == np.arange(len(tables))).astype(float)
        self.contrast = np.array([1.0, -1.0])[: len(tables)]
        same_image, same_rater = image[:, None] == image, together & (rater[:, None] == rater)
        self.kernels = {"image": same_image.astype(float)}
        if len(tables) == 1:
            self.kernels["rater"] = same_rater.astype(float)
        for place, name in enumerate(names[: len(tables)] if len(tables) == 2 else ()):
            own = np.outer(group == place, group == place)
            self.kernels |= {f"image in {name}": 1.0 * (same_image & own), name: 1.0 * (same_rater & own)}
        self.kernels["residual"] = np.diag(np.where(group == 1, ratio, 1.0))

    def of_effects(self, variances):
        v = sum(variances[name] * kernel for name, kernel in self.kernels.items())
        covariance = np.linalg.inv(self.x.T @ np.linalg.solve(v, self.x))
        return v, covariance

    def estimate(self, variances) -> float:
        v, covariance = self.of_effects(variances)
        return self.contrast @ covariance @ self.x.T @ np.linalg.solve(v, self.y)

    def variance(self, variances) -> float:
        return self.contrast @ self.of_effects(variances)[1] @ self.contrast

    def log_likelihood(self, variances) -> float:
        """Of the contrasts that the fixed effects do not touch."""
        free = linalg.null_space(self.x.T)
        v, _ = self.of_effects(variances)
        found = stats.multivariate_normal.logpdf(free.T @ self.y, cov=free.T @ v @ free)
        return found - np.linalg.slogdet(self.x.T @ self.x)[1] / 2

    def degrees(self, variances) -> float:
        """Satterthwaite's, with the expected information of the variances that are not zero."""
        v, covariance = self.of_effects(variances)
        inverse = np.linalg.inv(v)
        p = inverse - inverse @ self.x @ covariance @ self.x.T @ inverse
        names = [name for name in self.kernels if variances[name] > 1e-6 * variances["residual"]]
        products = [p @ self.kernels[name] for name in names]
        information = np.array([[np.trace(a @ b) / 2 for b in products] for a in products])
        at = np.array([variances[name] for name in names])
        slope = optimize.approx_fprime(
            at, lambda some: self.variance(variances | dict(zip(names, some, strict=True))), 1e-6 * at
        )
        return 2 * self.variance(variances) ** 2 / (slope @ np.linalg.solve(information, slope))


def assert_most_likely(fit: CrossedFit, whole: Whole, variances: dict[str, float]) -> None:
    """The fit is what the whole covariance matrix says, and no other variances are more likely."""
    assert fit.estimate == pytest.approx(whole.estimate(variances))
    assert fit.standard_error**2 == pytest.approx(whole.variance(variances))
    assert fit.degrees == pytest.approx(whole.degrees(variances), rel=1e-3)
    assert fit.log_likelihood == pytest.approx(whole.log_likelihood(variances))
    for name, value in variances.items():
        for other in (value * 0.9, value * 1.1 + 0.02 * variances["residual"]):
            assert whole.log_likelihood(variances | {name: other}) < fit.log_likelihood + 1e-9


@pytest.mark.parametrize(
    ("image", "rater", "rest", "shape"), [(7.0, 3.0, 0.5, (5, 9)), (3.0, 2.6, 2.0, (4, 5)), (2.0, 2.0, 1.5, (2, 4))]
)
def test_a_complete_table_is_analysed_as_its_mean_squares_say(image, rater, rest, shape):
    raters, images = shape
    fit = fit_mean(table(image, rater, rest, mean=2.0, shape=shape))
    assert fit.estimate == pytest.approx(2.0)
    assert fit.variances == pytest.approx(
        {"image": (image - rest) / raters, "rater": (rater - rest) / images, "residual": rest}, rel=1e-4
    )
    assert list(fit.variances) == ["image", "rater", "residual"]
    assert fit.standard_error**2 == pytest.approx((image + rater - rest) / (raters * images), rel=1e-4)
    shares = np.array([image, rater, rest]) ** 2 / degrees_of(shape)
    assert fit.degrees == pytest.approx((image + rater - rest) ** 2 / shares.sum(), rel=1e-3)


def test_raters_who_differ_less_than_chance_have_it_are_taken_as_alike():
    image, rater, rest = 7.0, 0.1, 0.5
    fit = fit_mean(table(image, rater, rest))
    _, raters, others = degrees_of((RATERS, IMAGES))
    pooled = (rater * raters + rest * others) / (raters + others)
    assert fit.variances == pytest.approx(
        {"image": (image - pooled) / RATERS, "rater": 0, "residual": pooled}, rel=1e-4, abs=1e-6
    )
    # Images alone make the mean uncertain: it is the t-test of their means.
    assert fit.standard_error**2 == pytest.approx(image / (RATERS * IMAGES), rel=1e-4)
    assert fit.degrees == pytest.approx(IMAGES - 1, rel=1e-3)


def test_without_effects_of_image_and_rater_it_is_the_t_test_of_all_values():
    values = table(0.3, 0.2, 1.0, mean=0.4)
    fit, expected = fit_mean(values), stats.ttest_1samp(values.ravel(), 0)
    assert fit.estimate == pytest.approx(0.4)
    assert fit.standard_error == pytest.approx(stats.sem(values.ravel()), rel=1e-5)
    assert fit.degrees == pytest.approx(values.size - 1, rel=1e-5)
    assert fit.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert fit.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-3)


def test_there_is_never_less_than_one_degree_of_freedom():
    # Satterthwaite's formula gives 1.2² / (1.1² / 2 + 1.1² / 1 + 1 / 2) = 0.62.
    assert fit_mean(table(1.1, 1.1, 1.0, shape=(2, 3))).degrees == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_table_with_gaps_is_fitted_by_restricted_maximum_likelihood(seed):
    values = with_gaps(table(6.0, 4.0, 1.0, seed=seed), seed=seed)
    fit = fit_mean(values)
    assert_most_likely(fit, Whole(values), fit.variances)


def test_statsmodels_finds_the_same():
    values = with_gaps(table(6.0, 4.0, 1.0))
    rater, image = np.nonzero(~np.isnan(values))
    rows = pd.DataFrame({"value": values[rater, image], "rater": rater, "image": image})
    parts = {"image": "0 + C(image)", "rater": "0 + C(rater)"}
    theirs = sm.MixedLM.from_formula("value ~ 1", rows, groups=np.ones(len(rows)), vc_formula=parts).fit(reml=True)
    ours = fit_mean(values)
    assert ours.estimate == pytest.approx(theirs.params["Intercept"], rel=1e-4)
    assert ours.standard_error == pytest.approx(theirs.bse["Intercept"], rel=1e-3)
    assert [*ours.variances.values()] == pytest.approx([*theirs.vcomp, theirs.scale], rel=1e-2)
    assert ours.log_likelihood == pytest.approx(theirs.llf, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("equal", [True, False])
def test_two_groups_are_fitted_by_restricted_maximum_likelihood(seed, equal):
    image = np.random.default_rng(seed).normal(0, 1, IMAGES)
    first = with_gaps(image + table(3.0, 2.0, 0.4, seed=seed), seed=seed)
    second = with_gaps(image + table(4.0, 6.0, 1.2, shape=(4, IMAGES), seed=seed + 10), seed=seed + 10)
    fit = fit_difference(first, second, ("a", "b"), equal_residuals=equal)
    variances = dict(fit.variances)
    ratio = 1.0 if equal else variances.pop("residual of the second") / variances["residual"]
    assert list(variances) == ["image", "image in a", "image in b", "a", "b", "residual"]
    assert_most_likely(fit, Whole(first, second, names=("a", "b"), ratio=ratio), variances)
    for other in (ratio * 0.9, ratio * 1.1):
        whole = Whole(first, second, names=("a", "b"), ratio=other)
        assert equal or whole.log_likelihood(variances) < fit.log_likelihood


def test_exchanging_the_groups_turns_the_sign():
    first, second = table(3.0, 2.0, 0.4, mean=2.0), with_gaps(table(4.0, 6.0, 1.2, mean=1.5, seed=1))
    one, other = fit_difference(first, second), fit_difference(second, first)
    assert one.estimate == pytest.approx(-other.estimate, rel=1e-5) and one.estimate > 0
    assert one.standard_error == pytest.approx(other.standard_error, rel=1e-4)
    assert one.log_likelihood == pytest.approx(other.log_likelihood)
    assert one.variances["models"] == pytest.approx(other.variances["observers"], rel=1e-2)
    assert one.variances["residual"] == pytest.approx(other.variances["residual of the second"], rel=1e-2)


def test_a_group_does_not_differ_from_itself():
    fit = fit_difference(table(), table())
    assert fit.estimate == pytest.approx(0, abs=1e-12) and fit.p_value == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-6, 1e3])
@pytest.mark.parametrize("fitted", [fit_mean, lambda values: fit_difference(values, table(2.0, seed=1) * values[0, 0])])
def test_the_unit_does_not_matter(scale, fitted):
    values = with_gaps(table(6.0, 4.0, 1.0))
    values /= values[0, 0]
    plain, scaled = fitted(values), fitted(values * scale)
    assert scaled.estimate == pytest.approx(plain.estimate * scale)
    assert scaled.standard_error == pytest.approx(plain.standard_error * scale)
    assert scaled.degrees == pytest.approx(plain.degrees)
    assert scaled.variances == pytest.approx({name: v * scale**2 for name, v in plain.variances.items()})


def test_raters_and_images_without_a_value_do_not_count():
    values = with_gaps(table(6.0, 4.0, 1.0), share=0.1)
    padded = np.pad(values, 1, constant_values=np.nan)
    assert fit_mean(padded) == fit_mean(values)
    with pytest.raises(TooFew, match="models: fewer than 2 raters"):
        fit_mean(np.vstack([values[0], np.full(IMAGES, np.nan)]))
    with pytest.raises(TooFew, match="models: fewer than 3 images"):
        fit_mean(np.where(np.arange(IMAGES) < 2, values, np.nan))


def test_two_raters_and_three_images_are_enough_and_fewer_are_not():
    whole = table(6.0, 4.0, 1.0)
    assert np.isfinite(fit_mean(whole[:2, :3]).p_value)
    assert np.isfinite(fit_difference(whole[:2, :3], whole[2:4, :3]).p_value)
    for few, reason in ((whole[:1, :3], "2 raters"), (whole[:2, :2], "3 images")):
        enough = whole[:2, : few.shape[1]]
        with pytest.raises(TooFew, match=f"^crowd: fewer than {reason}"):
            fit_mean(few, "crowd")
        with pytest.raises(TooFew, match=f"^models: fewer than {reason}"):
            fit_difference(few, enough)
    with pytest.raises(TooFew, match="^observers: fewer than 2 raters"):
        fit_difference(whole[:2, :3], whole[:1, :3])


def test_tables_of_other_images_are_not_compared():
    with pytest.raises(ValueError, match="different images"):
        fit_difference(table()[:, :4], table()[:, :5])


@pytest.mark.parametrize("value", [0.0, 0.9, -1e6])
def test_values_that_do_not_vary_are_not_tested(value):
    same = np.full((RATERS, IMAGES), value)
    with pytest.raises(TooFew, match="nothing varies"):
        fit_mean(same)
    with pytest.raises(TooFew, match="nothing varies"):
        fit_difference(same, same + 1)
    almost = same.copy()
    almost[0, 0] += 1e-9 * max(abs(value), 1)
    assert np.isfinite(fit_mean(almost).standard_error)


def test_p_value_and_interval_are_those_of_student():
    fit = CrossedFit(-1.5, 0.5, 7.5, {}, 0.0)
    assert fit.p_value == pytest.approx(2 * stats.t.cdf(-3, 7.5))
    assert fit.interval() == pytest.approx(stats.t.interval(0.95, 7.5, -1.5, 0.5))
    assert fit.interval(0.5) == pytest.approx(stats.t.interval(0.5, 7.5, -1.5, 0.5))
    assert replace(fit, estimate=1.5).p_value == fit.p_value


def design(*, strata: bool) -> _Design:
    rng = np.random.default_rng(0)
    raters, images = np.indices((6, 7)).reshape(2, -1)
    second = (raters >= 4).astype(int) * strata
    fixed = np.column_stack([second == 0, second == 1])[:, : 1 + strata].astype(float)
    levels = {"image": images, "rater": np.where(second == 1, -1, raters)}
    return _Design(rng.normal(size=42) + images / 3, fixed, levels, second, np.ones(1 + strata))


@pytest.mark.parametrize(
    ("strata", "equal", "parameters"),
    [
        (False, True, [0.7, 0.3]),
        (False, False, [0.0, 1.4]),
        (True, True, [0.7, 0.3]),
        (True, False, [0.7, 0.3, -0.5]),
        (True, False, [1.9, 0.0, 0.8]),
    ],
)
def test_the_slope_of_the_likelihood_is_its_slope(strata, equal, parameters):
    likelihood = _Restricted(design(strata=strata), equal_residuals=equal)
    found = likelihood.deviance(np.array(parameters))[1]
    numeric = optimize.approx_fprime(np.array(parameters), lambda p: likelihood.deviance(p)[0], 1e-7)
    np.testing.assert_allclose(found, numeric, rtol=1e-4, atol=1e-4)


def test_values_that_the_fixed_effects_explain_wholly_end_no_search():
    flat = replace(design(strata=False), values=np.ones(42))
    value, slope = _Restricted(flat, equal_residuals=True).deviance(np.zeros(2))
    assert value == 1e30 and (slope == 0).all()
