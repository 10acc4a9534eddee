"""Measurement error of the metrics: reliability, and correlations corrected for it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from flatscale.stats.estimators.counts import pearson_counts
from flatscale.stats.estimators.replication import Units, choose_units
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Sample

_MIN_DEFINED = 0.95


def reliability(values: Floats, std_errors: Floats) -> tuple[float | None, str | None]:
    """Share of a metric's variance over rows that is not sampling error, 1 -
    mean(std_error^2)/variance.

    Returns the value, or None with the reason: no errors recorded, constant values, or sampling
    error that accounts for all the variance. Rows without a standard error are left out of the
    mean.
    """
    known = std_errors[np.isfinite(std_errors)]
    if not len(known):
        return None, "no standard errors are recorded"
    if len(values) < 3 or np.ptp(values) == 0:
        return None, "constant values, or fewer than 3"
    share = 1 - float(np.mean(known**2)) / float(np.var(values, ddof=1))
    if share <= 0:
        return None, "sampling error accounts for all the variance (reliability is not positive)"
    return share, None


def disattenuated(
    sample: Sample,
    *,
    shared_source: str | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Pearson r corrected for measurement error, r / sqrt(rel_x rel_y), with a percentile
    bootstrap interval.

    A column without standard errors counts as exact. The independent units are resampled:
    families where there are at least 5, else configurations, else rows. The value may exceed 1 in
    absolute size; it is reported as it is. Null when a reliability is not positive, when neither
    column has standard errors, and when both metrics share their sampling error (named by
    `shared_source`), because the formula assumes independent errors.
    """
    n = sample.num_trials
    refused = sample.problem()
    if not refused and shared_source is not None:
        refused = (
            f"both metrics share their sampling error ({shared_source}): "
            "the correction assumes independent errors"
        )
    if not refused and sample.x_error is None and sample.y_error is None:
        refused = "no standard errors are recorded for either metric"
    squares = [_squared_errors(sample.x_error, n), _squared_errors(sample.y_error, n)]
    if not refused:
        point = _corrected(np.ones((1, n)), sample.x, sample.y, *squares)[0]
        if math.isnan(point):
            refused = "reliability is not positive: sampling error accounts for all the variance"
    if refused:
        return null_estimate(refused, num_trials=n, num_families=sample.num_families)
    units = choose_units(n, sample.family, sample.configuration)
    blocks = [
        _corrected(c, sample.x, sample.y, *squares) for c in unit_counts(units, num_resamples, seed)
    ]
    values = np.concatenate(blocks)
    values = values[~np.isnan(values)]
    if len(values) < _MIN_DEFINED * num_resamples:
        return Estimate(
            estimate=float(point),
            num_trials=n,
            num_families=sample.num_families,
            reason=f"reliability not positive in {num_resamples - len(values)} of "
            f"{num_resamples} resamples",
        )
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(
        estimate=float(point),
        std_error=float(values.std(ddof=1)),
        conf_low=float(low),
        conf_high=float(high),
        num_trials=n,
        num_families=sample.num_families,
        units=units.level,
        num_units=units.count,
    )


def unit_counts(units: Units, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Row counts of bootstrap resamples of the units, in blocks."""
    rng = np.random.default_rng(seed)
    count = units.count
    block = max(1, 4_000_000 // len(units.codes))
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield counts[:, units.codes].astype(np.float64)


def _squared_errors(errors: Floats | None, n: int) -> Floats:
    """Squared standard errors; rows without one get the mean of the others, as their best guess."""
    if errors is None:
        return np.zeros(n)
    known = np.isfinite(errors)
    return np.where(known, errors, math.sqrt(float(np.mean(errors[known] ** 2)))) ** 2


def _corrected(counts: Floats, x: Floats, y: Floats, error_x: Floats, error_y: Floats) -> Floats:
    """Corrected r of every resample; NaN where r is undefined or a reliability is not positive."""
    result = pearson_counts(counts, x, y)
    total = counts.sum(axis=1)
    for values, squares in ((x, error_x), (y, error_y)):
        centred = values - values.mean()
        mean = counts @ centred / total
        variance = (counts @ centred**2 / total - mean**2) * total / np.maximum(total - 1, 1)
        share = 1 - (counts @ squares / total) / np.where(variance > 0, variance, np.nan)
        result = result / np.sqrt(np.where(share > 0, share, np.nan))
    return result
