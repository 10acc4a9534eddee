"""Correlation when rows come in families: jackknife, within, between, family by family."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import stats

from flatscale.stats.estimators.correlation import (
    STATISTICS,
    estimate_correlation,
    fisher_interval,
    t_test_of_r,
)
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, Sample, find_problem

NO_FAMILIES = "the table has no family column"


def leave_one_family_out(sample: Sample, method: str = "pearson") -> Floats:
    """The statistic without each family in turn, shape (F,); NaN where what remains is constant."""
    assert sample.family is not None
    counts = (sample.family[None, :] != np.arange(len(sample.family_names))[:, None]).astype(
        np.float64
    )
    chosen = STATISTICS[method]
    enough = counts.sum(axis=1) >= 3
    values = np.full(len(counts), np.nan)
    values[enough] = chosen.resampled(counts[enough], sample.x, sample.y)
    return values


def family_jackknife(
    sample: Sample, method: str = "pearson", *, confidence: float = 0.95
) -> Estimate:
    """Pooled correlation with an interval that takes families as the independent units.

    With z_(f) = atanh r without family f, the squared standard error is (F-1)/F sum (z_(f) - mean
    z)^2 and the interval tanh(atanh r +- t se) with t on F-1 degrees of freedom. The standard
    error is on the scale of atanh r. Null without families, with fewer than 3 of them, and where
    r is +-1 or undefined.
    """
    if sample.family is None:
        return null_estimate(NO_FAMILIES, num_trials=sample.num_trials)
    num_families = len(sample.family_names)
    refused = sample.problem() or _too_few(num_families)
    if refused:
        return null_estimate(refused, num_trials=sample.num_trials, num_families=num_families)
    pooled = STATISTICS[method].function(sample.x, sample.y, confidence)
    if pooled.estimate is None:
        return pooled
    return jackknife_estimate(
        pooled.estimate,
        leave_one_family_out(sample, method),
        confidence=confidence,
        num_trials=sample.num_trials,
    )


def jackknife_estimate(
    r: float, left_out: Floats, *, confidence: float, num_trials: int
) -> Estimate:
    """The jackknife interval of r from its values with each family left out."""
    num_families = len(left_out)

    def partial(reason: str) -> Estimate:
        return Estimate(estimate=r, num_trials=num_trials, num_families=num_families, reason=reason)

    if np.any(np.isnan(left_out)):
        return partial("without one of the families the rows are constant or too few: no jackknife")
    if abs(r) >= 1 or np.any(np.abs(left_out) >= 1):
        return partial("a perfect correlation has no jackknife interval")
    z = np.arctanh(left_out)
    error = math.sqrt((num_families - 1) / num_families * float(np.sum((z - z.mean()) ** 2)))
    half = error * float(stats.t.ppf(0.5 + confidence / 2, num_families - 1))
    low, high = fisher_interval(r, half)
    p_value = (
        float(2 * stats.t.sf(abs(math.atanh(r)) / error, num_families - 1)) if error > 0 else None
    )
    return Estimate(
        estimate=r,
        std_error=error,
        conf_low=low,
        conf_high=high,
        p_value=p_value,
        num_trials=num_trials,
        num_families=num_families,
        reason=None if error > 0 else "leaving out any family changes nothing: no test",
    )


def within_family(sample: Sample, *, confidence: float = 0.95) -> Estimate:
    """Correlation within families: x and y less their family means (ANCOVA; repeated-measures
    correlation).

    df = N - F - 1; interval tanh(atanh r +- quantile/sqrt(df - 1)); t-test with df. Sources:
    Bland & Altman 1995; Bakdash & Marusich 2017. Null when no family has two different values of
    both columns.
    """
    if sample.family is None:
        return null_estimate(NO_FAMILIES, num_trials=sample.num_trials)
    num_families = len(sample.family_names)
    degrees = sample.num_trials - num_families - 1
    x, y = demean(sample.x, sample.family), demean(sample.y, sample.family)
    refused = sample.problem()
    if not refused and degrees < 1:
        refused = f"{sample.num_trials} rows in {num_families} families leave no degrees of freedom"
    if not refused:
        refused = is_constant_within(sample.x, sample.family, sample.x_name)
        refused = refused or is_constant_within(sample.y, sample.family, sample.y_name)
    if refused:
        return null_estimate(refused, num_trials=sample.num_trials, num_families=num_families)
    r = float(STATISTICS["pearson"].resampled(np.ones((1, len(x))), x, y)[0])
    error = 1 / math.sqrt(degrees - 1) if degrees > 1 else None
    low, high = None, None
    if error is not None:
        low, high = fisher_interval(r, error * float(stats.norm.ppf(0.5 + confidence / 2)))
    return Estimate(
        estimate=r,
        std_error=error,
        conf_low=low,
        conf_high=high,
        p_value=t_test_of_r(r, degrees),
        num_trials=sample.num_trials,
        num_families=num_families,
        reason=None if error is not None else "1 degree of freedom is too few for an interval",
    )


def between_family(
    sample: Sample, method: str = "pearson", *, confidence: float = 0.95
) -> Estimate:
    """Correlation of the family means, each family counting once."""
    if sample.family is None:
        return null_estimate(NO_FAMILIES, num_trials=sample.num_trials)
    num_families = len(sample.family_names)
    mean_x, mean_y = family_means(sample.x, sample.family), family_means(sample.y, sample.family)
    refused = sample.problem() or _too_few(num_families)
    refused = refused or find_problem(
        mean_x, mean_y, f"family mean of {sample.x_name}", f"family mean of {sample.y_name}"
    )
    if refused:
        return null_estimate(refused, num_trials=sample.num_trials, num_families=num_families)
    found = STATISTICS[method].function(mean_x, mean_y, confidence)
    return replace(found, num_trials=sample.num_trials, num_families=num_families)


def per_family(
    sample: Sample, method: str = "pearson", *, confidence: float = 0.95
) -> dict[str, Estimate]:
    """The correlation inside each family, or the reason it has none, in order of family name."""
    if sample.family is None:
        return {}
    found = {}
    for code, name in sorted(enumerate(sample.family_names), key=lambda item: item[1]):
        rows = sample.family == code
        found[name] = estimate_correlation(
            sample.x[rows], sample.y[rows], method, confidence=confidence
        )
    return found


def demean(values: Floats, family: Ints) -> Floats:
    """Values less the mean of their family."""
    return values - family_means(values, family)[family]


def family_means(values: Floats, family: Ints) -> Floats:
    """Mean of each family, shape (F,)."""
    return np.bincount(family, weights=values) / np.bincount(family)


def is_constant_within(values: Floats, family: Ints, name: str) -> str | None:
    """The reason `values` say nothing inside families (equal there, to rounding), or None."""
    if float(np.max(np.abs(demean(values, family)))) <= 1e-13 * float(np.max(np.abs(values))):
        return f"{name} is constant inside every family"
    return None


def _too_few(num_families: int) -> str | None:
    return f"{num_families} families, at least 3 needed" if num_families < 3 else None
