"""Correlation coefficients of independent rows, and the register of statistics.

The intervals and p-values here treat every row as independent. For rows that come in families
they are too sure of themselves (`flatscale.stats.estimators.families` has the ones that are not).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from flatscale.errors import StatsError
from flatscale.stats.estimators.counts import kendall_counts, pearson_counts, spearman_counts
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, find_problem
from flatscale.study.registry import Registered, Registry

Estimator = Callable[[Floats, Floats, float], Estimate]
Batched = Callable[[Floats, Floats, Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Statistic(Registered):
    """A registered correlation coefficient.

    Attributes:
        function: `function(x, y, confidence)` gives the value with the uncertainty it has when
            rows are independent.
        batched: `batched(counts, x, y)` gives the value for many resamples (see `counts`); None
            when the statistic must be computed one resample at a time.
    """

    batched: Batched | None = None

    def resampled(self, counts: Floats, x: Floats, y: Floats) -> Floats:
        """The statistic of every line of `counts` (B x n, whole numbers); NaN where undefined."""
        if self.batched is not None:
            return self.batched(counts, x, y)
        return np.array(
            [self._one(np.repeat(np.arange(len(x)), line.astype(int)), x, y) for line in counts]
        )

    def _one(self, rows: np.ndarray, x: Floats, y: Floats) -> float:
        if find_problem(x[rows], y[rows], "x", "y"):
            return math.nan
        value = self.function(x[rows], y[rows], 0.95).estimate
        return math.nan if value is None else value


STATISTICS: Registry[Statistic] = Registry("statistic", StatsError)
"""Every registered statistic by name."""


def statistic(name: str, *, batched: Batched | None = None) -> Callable[[Estimator], Estimator]:
    """Register `function(x, y, confidence) -> Estimate` as a correlation coefficient.

    x and y arrive finite, not constant, with at least 3 rows. Every pair analysed in depth gets
    the statistic, over all rows and with the jackknife over families.

    Args:
        name: what the findings call it.
        batched: the statistic of many resamples at once; see `Statistic`.

    Raises:
        StatsError: the name is taken.
    """

    def register(function: Estimator) -> Estimator:
        STATISTICS.add(Statistic(name=name, function=function, batched=batched))
        return function

    return register


def estimate_correlation(
    x: Floats, y: Floats, method: str = "pearson", *, confidence: float = 0.95
) -> Estimate:
    """A registered correlation of two arrays, or a null estimate with the reason it does not
    exist.
    """
    problem = find_problem(x, y, "x", "y")
    if problem:
        return null_estimate(problem, num_trials=len(x))
    return STATISTICS[method].function(x, y, confidence)


@statistic("pearson", batched=pearson_counts)
def pearson(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Pearson's product-moment r; Fisher-z interval, t-test with n-2 degrees of freedom."""
    r = float(pearson_counts(np.ones((1, len(x))), x, y)[0])
    if math.isnan(r):
        return null_estimate("a column is constant to rounding", num_trials=len(x))
    return fisher_estimate(r, len(x), confidence, variance=1 / (len(x) - 3) if len(x) > 3 else None)


@statistic("spearman", batched=spearman_counts)
def spearman(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Spearman's rank rho; Fisher-z interval with Bonett and Wright's variance (1 +
    rho^2/2)/(n-3).
    """
    rho = float(spearman_counts(np.ones((1, len(x))), x, y)[0])
    variance = (1 + rho**2 / 2) / (len(x) - 3) if len(x) > 3 else None
    return fisher_estimate(rho, len(x), confidence, variance=variance)


@statistic("kendall", batched=kendall_counts)
def kendall(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Kendall's tau-b; Fisher-z interval with Fieller's variance 0.437/(n-4), exact test for small
    untied n.
    """
    result = stats.kendalltau(x, y)
    tau = float(result.statistic)
    variance = 0.437 / (len(x) - 4) if len(x) > 4 else None
    return fisher_estimate(tau, len(x), confidence, variance=variance, p_value=float(result.pvalue))


def fisher_estimate(
    r: float,
    num_trials: int,
    confidence: float,
    *,
    variance: float | None,
    p_value: float | None = None,
) -> Estimate:
    """An estimate with the interval tanh(atanh r +- quantile sqrt(variance)).

    Without a `p_value` the t-test of r with n-2 degrees of freedom is used. `variance` is that of
    atanh r; None (too few rows) leaves the interval out and says so.
    """
    if p_value is None:
        p_value = t_test_of_r(r, num_trials - 2)
    if variance is None:
        reason = f"{num_trials} rows are too few for a confidence interval"
        return Estimate(estimate=r, p_value=p_value, num_trials=num_trials, reason=reason)
    error = math.sqrt(variance)
    low, high = fisher_interval(r, error * float(special.ndtri(0.5 + confidence / 2)))
    return Estimate(
        estimate=r,
        std_error=error,
        conf_low=low,
        conf_high=high,
        p_value=p_value,
        num_trials=num_trials,
    )


def fisher_interval(r: float, half_width: float) -> tuple[float, float]:
    """tanh(atanh r -+ half_width); a perfect correlation is its own interval."""
    if abs(r) >= 1:
        return r, r
    return math.tanh(math.atanh(r) - half_width), math.tanh(math.atanh(r) + half_width)


def t_test_of_r(r: float, degrees: float) -> float:
    """Two-sided p-value of r = 0 from t = r sqrt(df/(1-r^2)); the uniform distribution's where df
    is 0.
    """
    if abs(r) >= 1 or degrees <= 0:
        return 0.0 if degrees > 0 else 1.0
    return float(2 * special.stdtr(degrees, -abs(r) * math.sqrt(degrees / ((1 - r) * (1 + r)))))
