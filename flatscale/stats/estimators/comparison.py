"""Which of two metrics is more strongly correlated with the same outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.estimators.measurement_error import unit_counts
from flatscale.stats.sample import Floats, Ints, find_problem


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Correlations of two metrics with one outcome and the paired bootstrap of their difference."""

    r_a: float | None = None
    r_b: float | None = None
    difference: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    abs_difference: float | None = None
    abs_conf_low: float | None = None
    abs_conf_high: float | None = None
    p_value: float | None = None
    resampling_unit: str | None = None
    num_trials: int = 0
    reason: str | None = None


def compare_metrics(
    a: Floats,
    b: Floats,
    outcome: Floats,
    *,
    family: Ints | None = None,
    method: str = "pearson",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap of r(a, outcome) - r(b, outcome): both from the same resampled rows.

    Arrays of shape (n,), finite. Families are resampled whole where `family` has at least 5, else
    rows. Percentile intervals; two-sided p = 2 min(share of differences <= 0, share >= 0), each
    counting one more.
    """
    n = len(outcome)
    reason = find_problem(a, outcome, "first metric", "outcome")
    reason = reason or find_problem(b, outcome, "second metric", "outcome")
    if reason:
        return Comparison(num_trials=n, reason=reason)
    statistic = STATISTICS[method]
    ones = np.ones((1, n))
    r_a = float(statistic.resampled(ones, a, outcome)[0])
    r_b = float(statistic.resampled(ones, b, outcome)[0])
    resampled = [
        np.stack([statistic.resampled(counts, metric, outcome) for metric in (a, b)], axis=1)
        for counts in unit_counts(n, family, num_resamples, seed)
    ]
    pairs = np.concatenate(resampled)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    found = Comparison(
        r_a=r_a,
        r_b=r_b,
        difference=r_a - r_b,
        abs_difference=abs(r_a) - abs(r_b),
        resampling_unit="row" if family is None or family.max() < 4 else "family",
        num_trials=n,
    )
    if len(pairs) < 0.95 * num_resamples:
        reason = f"{num_resamples - len(pairs)} of {num_resamples} resamples are constant"
        return replace(found, reason=reason)
    return _with_interval(found, pairs, confidence)


def _with_interval(found: Comparison, pairs: Floats, confidence: float) -> Comparison:
    """Percentile intervals and the p-value from resampled correlations (B x 2)."""
    difference = pairs[:, 0] - pairs[:, 1]
    sizes = np.abs(pairs[:, 0]) - np.abs(pairs[:, 1])
    levels = [0.5 - confidence / 2, 0.5 + confidence / 2]
    low, high = (float(v) for v in np.quantile(difference, levels))
    abs_low, abs_high = (float(v) for v in np.quantile(sizes, levels))
    tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
    return replace(
        found,
        conf_low=low,
        conf_high=high,
        abs_conf_low=abs_low,
        abs_conf_high=abs_high,
        p_value=min(1.0, float(2 * (1 + tail) / (len(difference) + 1))),
    )
