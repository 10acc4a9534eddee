"""Whole families against the others: their level in y given x, in x given y, and their slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import polygamma

from flatscale.stats.estimators.families import family_means
from flatscale.stats.estimators.variance_components import (
    between_families,
    leave_out_spreads,
    weighted_median,
)
from flatscale.stats.sample import Floats, Ints, is_constant

_HUBER = 2.0
_MIN_FAMILIES = 6
_MIN_SLOPE_ROWS = 4
_EFFICIENCY = 0.8
_MAX_PRIOR = 20.0
_SINGULAR = 1e12


@dataclass(frozen=True, kw_only=True, eq=False)
class Deviations:
    """How far each family lies from what the others predict, in standard errors of prediction,
    with its t distribution's degrees of freedom; NaN where there is no test. Shape (F,).
    """

    t: Floats
    degrees: Floats

    def above(self) -> Floats:
        """One-sided p-values of lying above the others."""
        return stats.t.sf(self.t, self.degrees)

    def below(self) -> Floats:
        """One-sided p-values of lying below the others."""
        return stats.t.cdf(self.t, self.degrees)


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyMoments:
    """Means, within-family slopes and moderated variances of each family, shape (F,)."""

    sizes: Ints
    mean_x: Floats
    mean_y: Floats
    slope: Floats
    square_x: Floats
    var_x: Floats
    var_y: Floats
    degrees: Floats


def family_moments(x: Floats, y: Floats, family: Ints) -> FamilyMoments:
    """Moments of each family; variances are moderated across families.

    var_y is the variance about the family's own line (about its mean below 4 rows).
    """
    sizes = np.bincount(family)
    mean_x, mean_y = family_means(x, family), family_means(y, family)
    dx, dy = x - mean_x[family], y - mean_y[family]
    sxx, sxy, syy = (np.bincount(family, v).astype(np.float64) for v in (dx * dx, dx * dy, dy * dy))
    sloped = (sizes >= _MIN_SLOPE_ROWS) & (sxx > 1e-12 * np.sum(dx * dx))
    slope = np.divide(sxy, sxx, out=np.full(len(sizes), np.nan), where=sloped)
    free = (sizes - 1 - sloped).astype(np.float64)
    left = np.maximum(syy - np.where(sloped, slope * sxy, 0.0), 0.0)
    var_y, prior = moderated(left, free)
    return FamilyMoments(
        sizes=sizes,
        mean_x=mean_x,
        mean_y=mean_y,
        slope=slope,
        square_x=sxx,
        var_x=moderated(sxx, (sizes - 1).astype(np.float64))[0],
        var_y=var_y,
        degrees=free + min(prior, _MAX_PRIOR),
    )


def moderated(squares: Floats, free: Floats) -> tuple[Floats, float]:
    """Variances squares/free, shrunken toward a common one, and the prior's degrees of freedom.

    (d0 s0^2 + squares)/(d0 + free) with s0 and d0 fitted to the log variances. Source: Smyth 2004.
    """
    used = (free >= 1) & (squares > 0)
    if not used.any():
        return np.zeros(len(free)), 0.0
    pooled = float(squares[used].sum() / free[used].sum())
    if used.sum() < 3:
        return np.full(len(free), pooled), float(free[used].sum())
    half = free[used] / 2
    log_variance = np.log(squares[used] / free[used]) - polygamma(0, half) + np.log(half)
    weights = 1 / (polygamma(1, half) + 0.05)
    middle = float(np.average(log_variance, weights=weights))
    excess = float(
        np.average((log_variance - middle) ** 2 - polygamma(1, half), weights=weights)
        * used.sum() / (used.sum() - 1)
    )  # fmt: skip
    if excess <= 0.01:
        return np.full(len(free), pooled), float(free[used].sum())
    prior = 2 * _inverse_trigamma(excess)
    center = float(np.exp(middle + polygamma(0, prior / 2) - np.log(prior / 2)))
    return (prior * center + squares) / (prior + np.maximum(free, 0)), prior


def _inverse_trigamma(value: float) -> float:
    guess = 0.5 + 1 / value
    for _ in range(50):
        step = polygamma(1, guess) * (1 - polygamma(1, guess) / value) / polygamma(2, guess)
        guess += step
        if abs(step) < 1e-8 * guess:
            break
    return float(guess)


def level_deviations(x: Floats, y: Floats, variance: Floats, sizes: Ints) -> Deviations:
    """Family means y against the line through the other families' means.

    t_f = (y_f - a_(f) - b_(f) x_f) / sqrt(tau_(f)^2 + v_f + variance of the line at x_f): what a
    random-effects meta-regression without the family predicts, with robust weights and tau. Where
    all families have one mean x (a balanced design), b is 0: their common level. NaN for a family
    without which the others have one.
    """
    return _deviations(_line(x), y, variance, sizes)


def slope_deviations(moments: FamilyMoments) -> Deviations:
    """Within-family slopes against those of the other families.

    The others' slopes are fitted by a line in the family's mean x, so that a curve, along which
    slopes change steadily, is not mistaken for a family with a slope of its own.
    """
    count = len(moments.sizes)
    t, degrees = np.full(count, np.nan), np.full(count, np.nan)
    known = np.isfinite(moments.slope) & (moments.var_y > 0)
    if known.sum() >= _MIN_FAMILIES:
        variance = moments.var_y[known] / moments.square_x[known]
        found = _deviations(
            _line(moments.mean_x[known]), moments.slope[known], variance, moments.sizes[known],
            sampling_degrees=moments.degrees[known],
        )  # fmt: skip
        t[known], degrees[known] = found.t, found.degrees
    return Deviations(t=t, degrees=degrees)


def level_slopes(x: Floats, z: Floats, family: Ints) -> tuple[Floats, Floats]:
    """Residuals z (n,) less what is left of each family's slope, shrunken toward the others', and
    the variance (F,) that differing slopes add to the level of families far from the middle of x.

    The shrinkage is that of a random slope, 0 where families' slopes differ by no more than
    chance: families of ordinary different slopes are not mistaken for subsets off the line.
    """
    moments = family_moments(x, z, family)
    known = np.isfinite(moments.slope)
    if known.sum() < _MIN_FAMILIES:
        return z, np.zeros(len(known))
    variance = moments.var_y[known] / moments.square_x[known]
    found = between_families(
        moments.slope[known], variance, moments.sizes[known] / (moments.sizes[known] + 4.0)
    )
    slope = np.zeros(len(known))
    slope[known] = found.share * (found.values - found.center)
    far = (moments.mean_x - np.median(moments.mean_x)) ** 2
    extra = found.spread**2 * np.maximum(far - far.mean(), 0.0)
    return z - slope[family] * (x - moments.mean_x[family]), extra


def _line(x: Floats) -> Floats:
    """Design of a line in x (F,), standardised; of a constant where x is one value."""
    one = np.ones(len(x))
    if is_constant(x):
        return one[:, None]
    return np.column_stack([one, (x - x.mean()) / x.std()])


def _deviations(
    design: Floats,
    y: Floats,
    variance: Floats,
    sizes: Ints,
    sampling_degrees: Floats | None = None,
) -> Deviations:
    count, columns = design.shape
    none = np.full(count, np.nan)
    if count < _MIN_FAMILIES + columns - 1:
        return Deviations(t=none, degrees=none)
    weights = sizes / (sizes + 4.0)
    beta = _robust_start(design, y, weights)
    for _ in range(4):
        left = y - design @ beta
        tau = between_families(left, variance, weights).spread
        scale = np.sqrt(tau**2 + variance)
        size = np.abs(left) / np.where(scale > 0, scale, 1.0)
        w = np.minimum(1.0, _HUBER / np.maximum(size, 1e-9)) / np.maximum(scale, 1e-150) ** 2
        normal = np.einsum("f,fi,fj->ij", w, design, design)
        moment = design.T @ (w * y)
        if np.linalg.cond(normal) > _SINGULAR:
            return Deviations(t=none, degrees=none)
        beta = np.linalg.solve(normal, moment)
    downdated = normal - np.einsum("f,fi,fj->fij", w, design, design)
    inverse = np.linalg.pinv(downdated, hermitian=True)
    betas = np.einsum("fij,fj->fi", inverse, moment - w[:, None] * y[:, None] * design)
    squares = (y[None, :] - betas @ design.T) ** 2
    tau_out = leave_out_spreads(squares, variance, weights, columns)
    line = np.einsum("fi,fij,fj->f", design, inverse, design)
    deviation = np.einsum("fi,fi->f", design, betas)
    own = tau_out**2 + variance
    t = (y - deviation) / np.sqrt(own + line)
    t[np.linalg.cond(downdated) > _SINGULAR] = np.nan
    # robust weights and a capped spread know less than as many normal values would
    free = np.full(count, _EFFICIENCY * (count - 1.0 - columns))
    if sampling_degrees is not None:
        # Satterthwaite: the spread between families and the family's own variance, both estimated
        free = own**2 / (tau_out**4 / free + variance**2 / sampling_degrees)
    return Deviations(t=t, degrees=free)


def _robust_start(design: Floats, y: Floats, weights: Floats) -> Floats:
    if design.shape[1] == 1:
        return np.array([weighted_median(y, weights)])
    x = design[:, 1]
    first, second = np.triu_indices(len(x), k=1)
    run = x[second] - x[first]
    apart = run != 0
    slopes = (y[second] - y[first])[apart] / run[apart]
    heavy = (weights[first] * weights[second])[apart] * np.abs(run[apart])
    slope = weighted_median(slopes, heavy)
    return np.array([weighted_median(y - slope * x, weights), slope])
