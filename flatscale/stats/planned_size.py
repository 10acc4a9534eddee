"""How many independent units an interval needs, told before anything is run.

Where trials are done, their variances say more: `estimators.required_number`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special

from flatscale.stats.estimators.correlation import fisher_interval
from flatscale.stats.estimators.required_number import smallest_number

_MOST = 1_000_000


def number_for_correlation(half_width: float, *, r: float, confidence: float = 0.95) -> int:
    """Smallest n whose Fisher interval tanh(atanh r -+ quantile/sqrt(n-3)) has the half width.

    Args:
        half_width: half the length of the interval, in (0, 1).
        r: Pearson's r that is expected, in (-1, 1).
        confidence: of the interval.

    Raises:
        ValueError: a number outside its range, or more than a million units needed.
    """
    _check(half_width, confidence)
    if not -1 < r < 1:
        raise ValueError(f"a correlation to plan for is between -1 and 1, found {r}")
    quantile = float(special.ndtri(0.5 + confidence / 2))

    def enough(n: int) -> bool:
        low, high = fisher_interval(r, quantile / math.sqrt(n - 3))
        return (high - low) / 2 <= half_width

    return _smallest(enough, 4)


def number_for_mean(half_width: float, *, confidence: float = 0.95) -> int:
    """Smallest n whose interval of a mean, t_(n-1)/sqrt(n), has the half width.

    Args:
        half_width: in standard deviations of one unit, positive.
        confidence: of the interval.

    Raises:
        ValueError: a number outside its range, or more than a million units needed.
    """
    _check(confidence)
    if not half_width > 0:
        raise ValueError(f"a half width is positive, found {half_width}")
    level = 0.5 + confidence / 2
    return _smallest(lambda n: float(special.stdtrit(n - 1, level)) / math.sqrt(n) <= half_width, 2)


def number_for_share(above: float, *, confidence: float = 0.95) -> int:
    """Smallest n whose exact interval of a share that holds of all n, ((1-c)/2)^(1/n), is above.

    Args:
        above: end that the interval has to lie above, in (0, 1).
        confidence: of Clopper and Pearson's interval.

    Raises:
        ValueError: a number outside its range, or more than a million units needed.
    """
    _check(above, confidence)
    return _smallest(lambda n: ((1 - confidence) / 2) ** (1 / n) >= above, 1)


def _check(*values: float) -> None:
    for value in values:
        if not 0 < value < 1:
            raise ValueError(f"must be between 0 and 1, found {value}")


def _smallest(enough: Callable[[int], bool], start: int) -> int:
    found = smallest_number(enough, start, _MOST)
    if found is None:
        raise ValueError(f"more than {_MOST} units needed")
    return found
