"""Whether a column is too skewed for its scale: a few large values then decide a correlation."""

from __future__ import annotations

import numpy as np
from scipy import stats

from flatscale.stats.sample import Floats, is_constant

LIMIT = 1.0
"""Sample skewness from which a scale is doubted; a log-normal of log-sd 1/3 has it."""


def skewness(values: Floats) -> float | None:
    """Third standardised moment of (n,) values, 0 for a symmetric column; None for a constant."""
    if len(values) < 3 or is_constant(values):
        return None
    return float(stats.skew(values / np.max(np.abs(values))))


def skew_warning(values: Floats, name: str, *, logged: bool) -> str | None:
    """What to know of a skewed column, or None.

    On raw log-normal columns a few families carry Pearson's r, whose interval is then wide; that of
    their logarithms, or of Spearman's rho, is not.

    Args:
        values: on the scale analysed.
        name: of the column.
        logged: whether that scale is the logarithm.
    """
    found = skewness(values)
    if found is None or abs(found) <= LIMIT:
        return None
    scale = "in logarithms, the scale declared" if logged else "on the raw scale declared"
    says = f"{name} is skewed {scale} (skewness {found:.1f})"
    advice = "read Spearman's rho beside Pearson's r"
    if not logged and np.all(values > 0):
        other = skewness(np.log(values))
        if other is not None and abs(other) < abs(found) / 2:
            return f"{says}; in logarithms {other:.1f}: declare `log` for it, or {advice}"
    return f"{says}: {advice}"
