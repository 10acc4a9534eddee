"""Standardised residuals about a robust line, the input of the family scan.

Unlike the reported MM line this one is quick enough to be refitted anywhere, and its residuals
are divided by a robust local scale, so that a spread that grows along the line is not mistaken
for outliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from flatscale.stats.sample import Floats

MAD_TO_SD = 1.482602218505602
_BISQUARE = 4.685
_OUTLYING = 3.5
_MAX_PAIRS = 500_000


@dataclass(frozen=True, kw_only=True, eq=False)
class StandardResiduals:
    """Robust line y = intercept + slope x and the residuals about it, each array of shape (n,).

    z is the residual over its local scale `spread`, with median 0 and MAD scale 1. `trend` is the
    slope of log|residual| along x, 0 where the spread is constant.
    """

    slope: float
    intercept: float
    residual: Floats
    z: Floats
    spread: Floats
    trend: float


def standard_residuals(x: Floats, y: Floats) -> StandardResiduals | None:
    """Residuals of y about a Theil-Sen line refined by bisquare weights, over their local spread.

    None when more than half of the rows lie on the line, so that no scale exists.
    """
    slope, intercept = bisquare_line(x, y)
    residual = y - intercept - slope * x
    scale = mad_scale(residual)
    if scale <= 1e-12 * float(np.max(np.abs(y))):
        return None
    trend, spread = _spread_trend(x, residual, scale)
    local = residual / spread
    unit = mad_scale(local)
    z = local / unit
    return StandardResiduals(
        slope=slope,
        intercept=intercept,
        residual=residual,
        z=z - np.median(z),
        spread=spread * unit,
        trend=trend,
    )


def _spread_trend(x: Floats, residual: Floats, scale: float) -> tuple[float, Floats]:
    """Slope of log|residual| along x and the spread exp(slope x) it implies, up to a factor.

    Outlying rows (more than 3.5 scales off) neither set the trend nor extend its range: it is
    flat beyond the rows that set it. Without a monotone relation (Kendall's test at 5%) the
    spread is constant.
    """
    trend, spread = 0.0, np.ones_like(x)
    size = np.maximum(np.abs(residual), 0.01 * scale)
    for _ in range(2):
        regular = size <= _OUTLYING * spread * mad_scale(residual / spread)
        if np.ptp(x[regular]) == 0 or stats.kendalltau(x[regular], size[regular]).pvalue > 0.05:
            return 0.0, np.ones_like(x)
        trend = theil_sen_slope(x[regular], np.log(size[regular]))
        inside = np.clip(x, x[regular].min(), x[regular].max())
        spread = np.exp(trend * (inside - np.median(x)))
    return trend, spread


def bisquare_line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and intercept: Theil-Sen start, then Tukey's bisquare weights at the start's MAD
    scale.
    """
    slope = theil_sen_slope(x, y)
    intercept = float(np.median(y - slope * x))
    scale = mad_scale(y - intercept - slope * x)
    if scale == 0:
        return slope, intercept
    return bisquare_steps(x, y, slope, intercept, scale)


def bisquare_steps(
    x: Floats, y: Floats, slope: float, intercept: float, scale: float, *, max_steps: int = 200
) -> tuple[float, float]:
    """Slope and intercept by reweighted least squares with bisquare weights at a fixed residual
    scale.
    """
    for _ in range(max_steps):
        u = (y - intercept - slope * x) / (_BISQUARE * scale)
        weights = np.where(np.abs(u) < 1, (1 - u**2) ** 2, 0.0)
        if not weights.any():
            break
        mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
        square = float(weights @ (x - mean_x) ** 2)
        if square == 0:
            break
        fitted = float(weights @ ((x - mean_x) * (y - mean_y))) / square
        step = abs(fitted - slope) * float(np.std(x))
        slope, intercept = fitted, float(mean_y - fitted * mean_x)
        if step < 1e-9 * scale:
            break
    return slope, intercept


def theil_sen_slope(x: Floats, y: Floats) -> float:
    """Median of the slopes of all pairs of rows with different x (of 500,000 spread pairs when
    there are more).
    """
    n = len(x)
    if n * (n - 1) // 2 <= _MAX_PAIRS:
        first, second = np.triu_indices(n, k=1)
    else:
        # a fixed draw: the line is a property of the data, not of a seed
        rng = np.random.default_rng(0)
        first, second = rng.integers(0, n, size=(2, _MAX_PAIRS))
    run = x[second] - x[first]
    apart = run != 0
    return float(np.median((y[second] - y[first])[apart] / run[apart]))


def mad_scale(values: Floats) -> float:
    """Median absolute deviation from the median, scaled to the standard deviation of a normal."""
    return float(np.median(np.abs(values - np.median(values)))) * MAD_TO_SD
