"""The scale the family scan works on: logs where families differ by factors, not by amounts."""

from __future__ import annotations

import numpy as np

from flatscale.stats.estimators.standard_residuals import bisquare_line
from flatscale.stats.sample import Floats, Ints

_SKEWED = 0.3


def working_scale(x: Floats, y: Floats, family: Ints) -> tuple[Floats, Floats, tuple[bool, bool]]:
    """x and y as scanned, and whether each was replaced by its log10.

    y where it is positive and its residuals from the robust line are skewed (above 0.3, whichever
    family is left out) and the logarithm at least halves that; x then too where it is positive
    and that raises the correlation. On the raw scale of such data a family twice as large as
    another is no outlier, yet lies far from any normal distribution of families.
    """
    if y.min() <= 0 or _skewness(x, y, family) <= _SKEWED:
        return x, y, (False, False)
    log_y = np.log10(y)
    candidates = [x, np.log10(x)] if x.min() > 0 else [x]
    best = max(candidates, key=lambda values: abs(np.corrcoef(values, log_y)[0, 1]))
    if abs(_skewness(best, log_y, family)) > _skewness(x, y, family) / 2:
        return x, y, (False, False)
    return best, log_y, (best is not x, True)


def _skewness(x: Floats, y: Floats, family: Ints) -> float:
    """Octile skewness of the residuals about the robust line, -1 to 1, nearest to 0 over leaving
    one family out. Source: Hinkley 1975; 0.125 and 0.875 quantiles against the median.
    """
    slope, intercept = bisquare_line(x, y)
    left = y - intercept - slope * x
    values = []
    for code in range(int(family.max()) + 1):
        low, middle, high = np.quantile(left[family != code], [0.125, 0.5, 0.875])
        values.append((high + low - 2 * middle) / (high - low) if high > low else 0.0)
    return float(min(values, key=abs))
