"""How surprising the k most outlying of n residuals are, in logarithms, so that no cluster is too
extreme to be told apart from a smaller part of itself.
"""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc, betaincinv, gammaln, log_ndtr, ndtr, ndtri

from flatscale.stats.sample import Floats

_TINY = 1e-280
_LN10 = float(np.log(10))


def log_binomial_tails(descending: Floats) -> Floats:
    """-log10 P(Bin(n, p_(k)) >= k) for k = 2..n, shape (n - 1,).

    p_(k) is the upper normal tail probability of the k-th largest of the n standardised residuals
    `descending`. Below 1e-280 the sum of the binomial terms is taken in logarithms, so that values
    stay exact to rounding for residuals of thousands of standard deviations.
    """
    n = len(descending)
    k = np.arange(2, n + 1)
    z = descending[1:]
    tails = bdtrc(k - 1, n, ndtr(-z))
    far = tails < _TINY
    logs = -np.log10(np.where(far, 1.0, tails))
    for index in np.flatnonzero(far):
        logs[index] = -_log_tail_sum(int(k[index]), n, float(z[index])) / _LN10
    return logs


def _log_tail_sum(k: int, n: int, z: float) -> float:
    """Natural log of sum_{j=k}^n C(n, j) p^j (1-p)^(n-j), p the normal tail beyond z."""
    j = np.arange(k, n + 1)
    choose = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
    terms = choose + j * log_ndtr(-z) + (n - j) * log_ndtr(z)
    return float(np.logaddexp.reduce(terms))


def tail_thresholds(n: int, score: float) -> Floats:
    """z_k for k = 2..n at which the k-th largest of n residuals alone reaches `score`.

    Inverse of `log_binomial_tails` in each k: a family reaches the score exactly when one of its
    ordered residuals reaches its threshold, so that many families are compared without computing
    a tail for each.
    """
    k = np.arange(2, n + 1)
    if score <= -np.log10(_TINY):
        return -ndtri(betaincinv(k, n - k + 1, min(1.0, 10.0**-score)))
    low, high = np.zeros(n - 1), np.full(n - 1, 3 * np.sqrt(score * _LN10))
    for _ in range(60):
        middle = (low + high) / 2
        reached = np.array(
            [-_log_tail_sum(int(m), n, z) / _LN10 >= score for m, z in zip(k, middle, strict=True)]
        )
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high
