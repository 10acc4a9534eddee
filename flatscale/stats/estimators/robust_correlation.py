"""Correlations that a few outlying rows cannot make or break."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from flatscale.stats.estimators.correlation import fisher_estimate, statistic, t_test_of_r
from flatscale.stats.estimators.counts import pearson_counts
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats

_BEND = 0.2
_TRIM = 0.2
_MAX_DIRECTIONS = 1000


@statistic("percentage_bend")
def percentage_bend(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Percentage bend correlation, beta = 0.2; t-test with n-2 degrees of freedom (Wilcox 1994)."""
    bent_x, bent_y = _bend(x), _bend(y)
    if bent_x is None or bent_y is None:
        return null_estimate(
            "more than half of the values of a column are equal", num_trials=len(x)
        )
    r = float(bent_x @ bent_y / math.sqrt((bent_x @ bent_x) * (bent_y @ bent_y)))
    return fisher_estimate(
        max(-1.0, min(1.0, r)),
        len(x),
        confidence,
        variance=1 / (len(x) - 3) if len(x) > 3 else None,
    )


def _bend(values: Floats) -> Floats | None:
    """Values less their percentage bend centre over their scale, clipped to [-1, 1].

    The scale is the floor((1 - beta) n)-th smallest distance from the median.
    """
    n = len(values)
    deviation = np.sort(np.abs(values - np.median(values)))
    scale = deviation[math.floor((1 - _BEND) * n + 1e-9) - 1]
    if scale <= 1e-15 * deviation[-1]:
        return None
    standard = (values - np.median(values)) / scale
    low, high = int(np.sum(standard < -1)), int(np.sum(standard > 1))
    middle = values[(standard >= -1) & (standard <= 1)]
    centre = (scale * (high - low) + middle.sum()) / (n - low - high)
    bent = np.clip((values - centre) / scale, -1, 1)
    return bent if np.any(bent != bent[0]) else None


@statistic("winsorized")
def winsorized(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Winsorized correlation, 20% in each tail; t-test with n-2g-2 degrees of freedom (Wilcox)."""
    n = len(x)
    g = math.floor(_TRIM * n)
    clipped = [np.clip(v, *np.sort(v)[[g, n - g - 1]]) for v in (x, y)]
    if any(np.ptp(v) == 0 for v in clipped):
        return null_estimate("the middle 60% of a column are equal", num_trials=n)
    r = float(pearson_counts(np.ones((1, n)), *clipped)[0])
    kept = n - 2 * g
    return fisher_estimate(
        r,
        n,
        confidence,
        variance=1 / (kept - 3) if kept > 3 else None,
        p_value=t_test_of_r(r, kept - 2),
    )


@statistic("skipped")
def skipped(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Skipped correlation: Pearson r after projection outliers are removed (Wilcox 2003).

    A row is an outlier when, projected on a line through the marginal medians and some row, its
    distance from the median exceeds the median plus sqrt(chi2_{2, .975}) times the normal-
    consistent interquartile range (ideal fourths). Removal is data-dependent, so the row-wise
    test does not apply and is left out.
    """
    keep = ~projection_outliers(np.column_stack([x, y]))
    kept_x, kept_y = x[keep], y[keep]
    if keep.sum() < 3 or np.ptp(kept_x) == 0 or np.ptp(kept_y) == 0:
        return null_estimate("constant once outlying rows are removed", num_trials=len(x))
    r = float(pearson_counts(np.ones((1, len(kept_x))), kept_x, kept_y)[0])
    removed = int(np.sum(~keep))
    return Estimate(
        estimate=r,
        num_trials=int(keep.sum()),
        reason=f"{removed} outlying rows removed; no row-wise test or interval after removal",
    )


def projection_outliers(data: Floats) -> np.ndarray:
    """Which rows of data (n x 2) are outliers in some projection through the marginal medians.

    The projections point at the rows, at 1,000 spread over the table when there are more.
    """
    scaled = data / np.maximum(np.max(np.abs(data), axis=0), 1e-300)
    centred = scaled - np.median(scaled, axis=0)
    norms = np.linalg.norm(centred, axis=1)
    directions = centred[norms > 0] / norms[norms > 0, None]
    if len(directions) > _MAX_DIRECTIONS:
        spread = np.linspace(0, len(directions) - 1, _MAX_DIRECTIONS).astype(int)
        directions = directions[spread]
    distance = np.abs(directions @ centred.T)
    low, high = _ideal_fourths(np.sort(distance, axis=1))
    gauge = math.sqrt(stats.chi2.ppf(0.975, 2))
    limit = np.median(distance, axis=1) + gauge * (high - low)
    return np.any(distance > limit[:, None], axis=0)


def _ideal_fourths(ordered: Floats) -> tuple[Floats, Floats]:
    n = ordered.shape[1]
    j = math.floor(n / 4 + 5 / 12)
    share = n / 4 + 5 / 12 - j
    j = max(1, j)
    upper = n - j
    low = (1 - share) * ordered[:, j - 1] + share * ordered[:, min(j, n - 1)]
    high = (1 - share) * ordered[:, upper] + share * ordered[:, max(upper - 1, 0)]
    return low, high
