"""Whether a correlation is smaller than a bound: two one-sided tests, not a large p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from flatscale.stats.findings import Estimate


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The test of |r| >= `bound`; `p_value` is null where there is no interval, with the reason.

    A small p-value says that the correlation is smaller than the bound; a large one says nothing.
    """

    bound: float
    p_value: float | None
    reason: str | None = None


def equivalence(found: Estimate, *, bound: float = 0.2) -> Equivalence:
    """Two one-sided tests that a correlation lies inside (-bound, bound).

    p is the larger of P(T > (z + atanh bound)/se) and P(T > (atanh bound - z)/se), T with the
    estimate's degrees of freedom (normal without), so p <= alpha exactly where the interval of
    confidence 1 - 2 alpha lies inside the bounds. Source: Schuirmann 1987.

    Args:
        found: a correlation with its standard error on the scale of z = atanh r.
        bound: between 0 and 1.

    Raises:
        ValueError: the bound is not between 0 and 1.
    """
    if not 0 < bound < 1:
        raise ValueError(f"the bound of an equivalence test is between 0 and 1, found {bound}")
    if found.estimate is None or found.std_error is None or abs(found.estimate) >= 1:
        return Equivalence(bound=bound, p_value=None, reason=found.reason or "no standard error")
    if found.p_value is None:
        return Equivalence(bound=bound, p_value=None, reason=found.reason or "no test")
    z, edge = math.atanh(found.estimate), math.atanh(bound)
    law = stats.norm() if found.degrees is None else stats.t(found.degrees)
    p_value = max(law.sf((z + edge) / found.std_error), law.sf((edge - z) / found.std_error))
    return Equivalence(bound=bound, p_value=float(p_value))
