"""Linear mixed models with crossed random effects of image and rater, by restricted maximum likelihood.

A score belongs to an image and to a rater (a model or an observer), and raters share images. statsmodels' MixedLM can
say so, but works with matrices of all scores at once and takes minutes for what is needed here 35 times. The sums of
products over the few levels of the random effects are enough (Bates et al. 2015), which takes a fraction of a second;
the tests hold the two against each other.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, stats
from threadpoolctl import threadpool_limits

LEAST_IMAGES = 3
LEAST_RATERS = 2
_EMPTY = 1e-6  # share of the residual variance under which a component counts as absent


class TooFew(ValueError):
    """There are too few images, raters or values to tell their variances apart."""


@dataclass(frozen=True)
class CrossedFit:
    """Outcome of `fit_difference` and `fit_mean`.

    Attributes
    ----------
    estimate : float
        The difference of two means, or the mean.
    standard_error : float
        Over new images and new raters.
    degrees : float
        Satterthwaite's.
    variances : dict of str to float
        Of each random effect, and of the residual.
    log_likelihood : float
        Restricted, at the optimum.
    """

    estimate: float
    standard_error: float
    degrees: float
    variances: dict[str, float]
    log_likelihood: float

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        return float(2 * stats.t.sf(abs(self.estimate) / self.standard_error, self.degrees))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the estimate."""
        half = stats.t.ppf((1 + level) / 2, self.degrees) * self.standard_error
        return self.estimate - half, self.estimate + half


@dataclass(frozen=True)
class _Design:
    """Values with their fixed effects, and for each random effect the level of every value."""

    values: np.ndarray
    fixed: np.ndarray
    levels: dict[str, np.ndarray]
    stratum: np.ndarray  # 0 or 1: the residual variance may differ between the two
    contrast: np.ndarray


class _Restricted:
    """The restricted likelihood of a design, through its sums of products."""

    def __init__(self, design: _Design, *, equal_residuals: bool) -> None:
        self.design = design
        self.names = list(design.levels)
        blocks, owners = [], []
        for place, name in enumerate(self.names):
            # A level of -1 is a value that this effect does not touch.
            used, level = np.unique(design.levels[name], return_inverse=True)
            block = np.zeros((design.values.size, used.size))
            block[np.arange(design.values.size), level] = 1.0
            block = block[:, used >= 0]
            blocks.append(block)
            owners += [place] * block.shape[1]
        self.owner = np.array(owners)
        z = np.hstack(blocks)
        right = np.column_stack([design.fixed, design.values])
        self.strata = sorted(set(design.stratum))
        self.counts = [int((design.stratum == s).sum()) for s in self.strata]
        self.zz = [z[design.stratum == s].T @ z[design.stratum == s] for s in self.strata]
        self.zr = [z[design.stratum == s].T @ right[design.stratum == s] for s in self.strata]
        self.rr = [right[design.stratum == s].T @ right[design.stratum == s] for s in self.strata]
        self.free_ratio = int(len(self.strata) == 2 and not equal_residuals)
        self.p = design.fixed.shape[1]
        self.n = design.values.size

    def _weights(self, parameters: np.ndarray) -> list[float]:
        ratio = np.exp(-parameters[len(self.names)]) if self.free_ratio else 1.0
        return [1.0, ratio][: len(self.strata)]

    def _solve(self, parameters: np.ndarray):
        weights = self._weights(parameters)
        theta = np.abs(parameters[: len(self.names)])[self.owner]
        zz = sum(w * m for w, m in zip(weights, self.zz, strict=True))
        zr = theta[:, None] * sum(w * m for w, m in zip(weights, self.zr, strict=True))
        rr = sum(w * m for w, m in zip(weights, self.rr, strict=True))
        inner = theta[:, None] * zz * theta
        inner[np.diag_indices_from(inner)] += 1.0
        # LAPACK itself: its wrappers cost as much as its work on matrices of a hundred rows. Symmetric, so that the
        # transpose is the same in the order of columns that it wants.
        factor, _ = linalg.lapack.dpotrf(inner.T, lower=1, overwrite_a=1)
        half, _ = linalg.lapack.dtrtrs(factor, zr, lower=1)
        return weights, theta, zz, factor, rr - half.T @ half

    def deviance(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """-2 log restricted likelihood with the residual variance profiled out, and its slope."""
        weights, theta, zz, factor, schur = self._solve(parameters)
        p, degrees = self.p, self.n - self.p
        xx, xy, yy = schur[:p, :p], schur[:p, p], schur[p, p]
        sign, log_xx = np.linalg.slogdet(xx)
        beta = np.linalg.solve(xx, xy)
        rest = yy - xy @ beta
        if sign <= 0 or rest <= 0:
            return 1e30, np.zeros_like(parameters)
        log_weights = sum(count * np.log(w) for count, w in zip(self.counts, weights, strict=True))
        value = 2 * np.log(np.diag(factor)).sum() + log_xx - log_weights
        value += degrees * (1 + np.log(2 * np.pi * rest / degrees))

        # The slope in a variance is the trace of P V_k less the share of y'P V_k P y in the sum of squares.
        inverse_xx, of_y = np.linalg.inv(xx), np.append(-beta, 1.0)
        right = sum(w * m for w, m in zip(weights, self.zr, strict=True))
        solved, _ = linalg.lapack.dpotrs(factor, theta[:, None] * right, lower=1)
        solved *= theta[:, None]
        z_v_right = right - zz @ solved
        inverse, _ = linalg.lapack.dpotri(factor, lower=1)  # its lower half
        # theta² diag(Z'V^-1Z) = diag(I - M^-1), where M is what the factor is of: no further product is needed.
        traces = np.bincount(self.owner, 1 - inverse.diagonal(), len(self.names))
        per_level = ((z_v_right[:, :p] @ inverse_xx) * z_v_right[:, :p]).sum(1)
        per_level += degrees / rest * (z_v_right @ of_y) ** 2
        shares = np.abs(parameters[: len(self.names)])
        slope = 2 * np.divide(traces, shares, out=np.zeros_like(traces), where=shares > 0)
        slope -= 2 * shares * np.bincount(self.owner, per_level, len(self.names))
        if self.free_ratio:
            w, zz2, zr2, rr2 = weights[1], self.zz[1], self.zr[1], self.rr[1]
            scaled = inverse * (theta[:, None] * zz2 * theta)
            trace = self.counts[1] - w * (2 * scaled.sum() - scaled.trace())
            crossing = solved.T @ zr2
            products = w * (rr2 - crossing - crossing.T + solved.T @ zz2 @ solved)
            trace -= (inverse_xx * products[:p, :p]).sum()
            slope = np.append(slope, trace - degrees / rest * (of_y @ products @ of_y))
        return float(value), slope

    def fit(self) -> CrossedFit:
        """Maximise, and find the contrast's standard error and Satterthwaite's degrees of freedom."""
        count = len(self.names)
        # At zero itself every slope is zero: a search that steps on it would end there, wherever the maximum lies.
        least = np.sqrt(_EMPTY)
        bounds = [(least, 1e4)] * count + [(-12.0, 12.0)] * self.free_ratio
        best = None
        # More threads only wait for one another over matrices of a hundred rows, and change the last digits.
        with threadpool_limits(limits=1, user_api="blas"):
            for start in (0.5, 2.0):
                first = np.concatenate([np.full(count, start), np.zeros(self.free_ratio)])
                found = optimize.minimize(
                    self.deviance,
                    first,
                    jac=True,
                    method="L-BFGS-B",
                    bounds=bounds,
                    options={"ftol": 1e-12, "gtol": 1e-6, "maxiter": 500},
                )
                if best is None or found.fun < best.fun:
                    best = found
            absent = np.append(best.x[:count] <= least, [False] * self.free_ratio)
            parameters = np.where(absent, 0.0, best.x)
            return self._outcome(parameters, self.deviance(parameters)[0])

    def _outcome(self, parameters: np.ndarray, deviance: float) -> CrossedFit:
        count, p = len(self.names), self.p
        weights, theta, zz, factor, schur = self._solve(parameters)
        xx, xy, yy = schur[:p, :p], schur[:p, p], schur[p, p]
        beta = np.linalg.solve(xx, xy)
        residual = float((yy - xy @ beta) / (self.n - p))
        covariance = residual * np.linalg.inv(xx)
        contrast = self.design.contrast
        variance = float(contrast @ covariance @ contrast)
        shares = np.abs(parameters[:count]) ** 2
        components = residual * shares

        # V is the covariance of the values over the residual's, W the residual's inverse weights, both scaled:
        # Z'V^-1Z etc. follow from Woodbury's identity.
        right = sum(w * m for w, m in zip(weights, self.zr, strict=True))
        inner = theta[:, None] * linalg.cho_solve((factor, True), np.diag(theta))
        z_v_z = zz - zz @ inner @ zz
        z_v_x = right[:, :p] - zz @ inner @ right[:, :p]
        p_zz = (z_v_z - z_v_x @ np.linalg.solve(xx, z_v_x.T)) / residual
        x_vi_z = z_v_x.T / residual

        active = [k for k in range(count) if shares[k] > _EMPTY]
        members = {k: self.owner == k for k in active}
        spread = np.where(np.isin(self.owner, active), components[self.owner], 0.0)
        # P V P = P gives the products that involve the residual's own share of V.
        p2_zz = (p_zz - p_zz * spread @ p_zz) / residual
        information = np.zeros((len(active) + 1, len(active) + 1))
        slope = np.zeros(len(active) + 1)
        for a, k in enumerate(active):
            for b, m in enumerate(active):
                information[a, b] = (p_zz[np.ix_(members[k], members[m])] ** 2).sum() / 2
            information[a, -1] = information[-1, a] = np.trace(p2_zz[np.ix_(members[k], members[k])]) / 2
            slope[a] = ((contrast @ covariance @ x_vi_z[:, members[k]]) ** 2).sum()
        trace = self.n - p - sum(components[k] * np.trace(p_zz[np.ix_(members[k], members[k])]) for k in active)
        trace /= residual
        information[-1, -1] = (
            (trace - sum(components[k] * 2 * information[a, -1] for a, k in enumerate(active))) / residual / 2
        )
        slope[-1] = (variance - sum(components[k] * slope[a] for a, k in enumerate(active))) / residual
        uncertainty = slope @ np.linalg.pinv(information, hermitian=True) @ slope
        degrees = float(2 * variance**2 / uncertainty) if uncertainty > 0 else float(self.n - p)
        variances = {name: float(components[k]) for k, name in enumerate(self.names)} | {"residual": residual}
        if self.free_ratio:
            variances["residual of the second"] = residual / weights[1]
        return CrossedFit(float(contrast @ beta), float(np.sqrt(variance)), max(degrees, 1.0), variances, -deviance / 2)


def _known(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    raters, images = np.nonzero(~np.isnan(matrix))
    return raters, images, matrix[raters, images]


def _check(matrix: np.ndarray, name: str) -> None:
    known = ~np.isnan(matrix)
    if known.any(1).sum() < LEAST_RATERS:
        raise TooFew(f"{name}: fewer than {LEAST_RATERS} raters, whose differences cannot be told from the images'")
    if known.any(0).sum() < LEAST_IMAGES:
        raise TooFew(f"{name}: fewer than {LEAST_IMAGES} images")


def _scatter(*groups: np.ndarray) -> tuple[np.ndarray, float]:
    """The values less their group's mean, in units of their standard deviation, and this.

    Products of what is far from zero would leave few digits for how it varies.
    """
    centred = np.concatenate([values - values.mean() for values in groups])
    if np.ptp(centred) <= 1e-12 * max(np.abs(values).max() for values in groups):
        raise TooFew("nothing varies")
    scale = centred.std()
    return centred / scale, scale


def fit_mean(matrix: np.ndarray, name: str = "models") -> CrossedFit:
    """Mean over images and raters of a (raters, images) table; NaN where there is no value.

    value = mean + image + rater + residual.

    Raises
    ------
    TooFew
        A ValueError: if there are fewer than `LEAST_RATERS` raters or `LEAST_IMAGES` images, or nothing varies.
    """
    _check(matrix, name)
    raters, images, values = _known(matrix)
    scatter, scale = _scatter(values)
    design = _Design(
        scatter,
        np.ones((values.size, 1)),
        {"image": images, "rater": raters},
        np.zeros(values.size, int),
        np.ones(1),
    )
    return _rescaled(_Restricted(design, equal_residuals=True).fit(), values.mean(), scale, values.size - 1)


def fit_difference(
    first: np.ndarray,
    second: np.ndarray,
    names: tuple[str, str] = ("models", "observers"),
    *,
    equal_residuals: bool = False,
) -> CrossedFit:
    """Mean of `first` minus mean of `second`, two (raters, images) tables whose columns are the same images.

    value = mean of its group + image + image in its group + rater + residual; the last three have a variance for each
    group, since models and observers need not scatter alike.

    Parameters
    ----------
    first, second : ndarray
        NaN where there is no value.
    names : (str, str)
        How the groups are called in messages and variances.
    equal_residuals : bool
        Whether both groups share one residual variance.

    Raises
    ------
    TooFew
        As `fit_mean`, for either group.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError("the two tables have different images")
    _check(first, names[0])
    _check(second, names[1])
    r1, i1, v1 = _known(first)
    r2, i2, v2 = _known(second)
    scatter, scale = _scatter(v1, v2)
    none1, none2 = np.full(v1.size, -1), np.full(v2.size, -1)
    stratum = np.repeat([0, 1], [v1.size, v2.size])
    design = _Design(
        scatter,
        np.column_stack([stratum == 0, stratum == 1]).astype(float),
        {
            "image": np.concatenate([i1, i2]),
            f"image in {names[0]}": np.concatenate([i1, none2]),
            f"image in {names[1]}": np.concatenate([none1, i2]),
            names[0]: np.concatenate([r1, none2]),
            names[1]: np.concatenate([none1, r2]),
        },
        stratum,
        np.array([1.0, -1.0]),
    )
    fit = _Restricted(design, equal_residuals=equal_residuals).fit()
    return _rescaled(fit, v1.mean() - v2.mean(), scale, scatter.size - 2)


def _rescaled(fit: CrossedFit, centre: float, scale: float, degrees: int) -> CrossedFit:
    return CrossedFit(
        float(centre + fit.estimate * scale),
        fit.standard_error * scale,
        fit.degrees,
        {name: value * scale**2 for name, value in fit.variances.items()},
        fit.log_likelihood - degrees * float(np.log(scale)),
    )
