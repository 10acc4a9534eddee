"""Correlation when rows come in families: jackknife, within, between, family by family."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.stats import rankdata

from flatscale.stats.estimators.correlation import (
    STATISTICS,
    estimate_correlation,
    fisher_interval,
    t_test_of_r,
)
from flatscale.stats.estimators.replication import (
    FAMILIES,
    ROWS,
    Units,
    choose_units,
    degrees_over,
    effective_degrees,
    jackknife,
    leave_one_out,
    left_out_products,
    pearson_of_products,
)
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, Sample, families_said, find_problem

NO_FAMILIES = "the table has no family column"
_ROUNDING = 1e-13


def leave_one_family_out(sample: Sample, method: str = "pearson") -> Floats:
    """The statistic without each family in turn, shape (F,); NaN where what remains is constant."""
    assert sample.family is not None
    units = Units(level=FAMILIES, codes=sample.family)
    return leave_one_out(units, method, sample.x, sample.y)


def family_jackknife(
    sample: Sample, method: str = "pearson", *, confidence: float = 0.95
) -> Estimate:
    """Pooled correlation with an interval over the independent units of the table.

    With z_(u) = atanh r without unit u of U, the squared standard error is (U-1)/U sum (z_(u) -
    mean z)^2 and the interval tanh(atanh r +- t se). The units are the families where there are
    at least 5, t with Bell and McCaffrey's degrees of freedom from the families' mean share of
    the two sums of squares about the mean (of ranks where the statistic is not Pearson's r): at
    most F-1, fewer where some families are large or far off. Else configurations, or rows without
    replicates, t on U-2. The interval of 2 to 4 families holds for these families alone, and has
    no p-value: the differences between so few families cannot be told from an effect. The standard
    error is on the scale of atanh r. Null without families and replicates, with fewer than 4
    units, and where r is undefined.
    """
    units = choose_units(sample.num_trials, sample.family, sample.configuration)
    problem = sample.problem()
    if not problem and sample.family is None and units.level == ROWS:
        problem = NO_FAMILIES
    if not problem and units.count < 4:
        problem = f"{units.said}, at least 4 needed"
    if problem:
        return null_estimate(
            problem, num_trials=sample.num_trials, num_families=sample.num_families
        )
    pooled = STATISTICS[method].function(sample.x, sample.y, confidence)
    if pooled.estimate is None:
        return pooled
    degrees = units.count - 2.0
    if units.level == FAMILIES:
        columns = (sample.x, sample.y)
        if method != "pearson":
            columns = (rankdata(sample.x), rankdata(sample.y))
        squares = (np.bincount(units.codes, (v - v.mean()) ** 2) for v in columns)
        degrees = float(effective_degrees(sum(part / part.sum() for part in squares)))
    found = jackknife(
        pooled.estimate,
        leave_one_out(units, method, sample.x, sample.y),
        units=units,
        degrees=degrees,
        num_trials=sample.num_trials,
        num_families=sample.num_families,
        confidence=confidence,
    )
    if units.num_strata > 1 and found.p_value is not None:
        note = f"holds for these {units.num_strata} families alone: no test over families"
        return replace(found, p_value=None, reason=note)
    return found


def within_family(sample: Sample, *, confidence: float = 0.95) -> Estimate:
    """Correlation within families, with an interval over the independent units.

    r of x and y less their family means, as `repeated_measures`, whose interval takes every row
    as independent. Here the interval is the jackknife's: over the families where at least 5 have
    different values of both columns, with Bell and McCaffrey's degrees of freedom from the
    families' shares of the sums of squares; else over the U configurations (without replicates,
    rows) inside the F families, with U - F - 1. Slopes may differ between families, and seeds of
    a configuration may be alike. Null when no family has two different values of both columns.
    """
    refused = _within_problem(sample)
    if refused:
        return null_estimate(
            refused, num_trials=sample.num_trials, num_families=sample.num_families
        )
    parts = within_parts(sample)
    if parts.degrees < 1:
        reason = f"{parts.units.said}: too few for an interval"
        return Estimate(
            estimate=parts.value,
            num_trials=sample.num_trials,
            num_families=sample.num_families,
            reason=reason,
        )
    return jackknife(
        parts.value,
        parts.left_out[parts.speaking],
        units=parts.units,
        degrees=parts.degrees,
        num_trials=sample.num_trials,
        num_families=sample.num_families,
        confidence=confidence,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class WithinParts:
    """r within families of all rows (`value`) and without each unit, and which units say anything.

    A family says nothing where x or y has one value in it.
    """

    value: float
    left_out: Floats
    units: Units
    speaking: NDArray[np.bool_]
    degrees: float


def within_parts(sample: Sample) -> WithinParts:
    """What `within_family` makes its interval of; the sample must vary inside families."""
    assert sample.family is not None
    x, y = (_unit_scale(demean(v, sample.family)) for v in (sample.x, sample.y))
    shares = np.sqrt(np.bincount(sample.family, x * x) * np.bincount(sample.family, y * y))
    speaking = shares > 0
    units = choose_units(
        sample.num_trials, sample.family, sample.configuration, num_families=int(speaking.sum())
    )
    if units.level == FAMILIES:
        base = np.zeros((len(x), 0))
        degrees = degrees_over(sample.family, x, y)
    else:
        # without a unit its family's means are others: the demeaning is fitted anew
        base = np.eye(units.num_strata)[units.strata_or_one()]
        degrees = units.count - units.num_strata - 1.0
        speaking = np.ones(units.count, dtype=bool)
    whole, parts = left_out_products(units, base, np.column_stack([x, y]))
    return WithinParts(
        value=float(pearson_of_products(whole, whole)),
        left_out=pearson_of_products(parts, whole),
        units=units,
        speaking=speaking,
        degrees=degrees,
    )


def repeated_measures(sample: Sample, *, confidence: float = 0.95) -> Estimate:
    """Repeated-measures correlation: r of x and y less their family means, rows independent there.

    df = N - F - 1; interval tanh(atanh r +- quantile/sqrt(df - 1)); t-test with df. Too sure of
    itself where slopes differ between families or rows are replicates: `within_family` has the
    interval that is not. Sources: Bland & Altman 1995; Bakdash & Marusich 2017. Null when no
    family has two different values of both columns.
    """
    refused = _within_problem(sample)
    if refused or sample.family is None:
        return null_estimate(
            str(refused), num_trials=sample.num_trials, num_families=sample.num_families
        )
    num_families = len(sample.family_names)
    degrees = sample.num_trials - num_families - 1
    x, y = demean(sample.x, sample.family), demean(sample.y, sample.family)
    r = float(STATISTICS["pearson"].resampled(np.ones((1, len(x))), x, y)[0])
    error = 1 / math.sqrt(degrees - 1) if degrees > 1 else None
    low, high = None, None
    if error is not None:
        low, high = fisher_interval(r, error * float(special.ndtri(0.5 + confidence / 2)))
    return Estimate(
        estimate=r,
        std_error=error,
        conf_low=low,
        conf_high=high,
        p_value=t_test_of_r(r, degrees),
        num_trials=sample.num_trials,
        num_families=num_families,
        units=ROWS,
        num_units=sample.num_trials,
        degrees=float(degrees),
        reason=None if error is not None else "1 degree of freedom is too few for an interval",
    )


def _within_problem(sample: Sample) -> str | None:
    """Why rows say nothing inside families, or None."""
    if sample.family is None:
        return NO_FAMILIES
    problem = sample.problem()
    num_families = len(sample.family_names)
    if not problem and sample.num_trials - num_families - 1 < 1:
        return f"{sample.num_trials} rows in {num_families} families leave no degrees of freedom"
    problem = problem or is_constant_within(sample.x, sample.family, sample.x_name)
    return problem or is_constant_within(sample.y, sample.family, sample.y_name)


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
    return replace(
        found,
        num_trials=sample.num_trials,
        num_families=num_families,
        units=FAMILIES,
        num_units=num_families,
        degrees=num_families - 2.0,
    )


def per_family(
    sample: Sample, method: str = "pearson", *, confidence: float = 0.95
) -> dict[str, Estimate]:
    """The correlation inside each family, or the reason it has none, in order of family name.

    Where a family holds replicates of at least 4 configurations, its interval is the jackknife's
    over the configurations; else rows count as independent.
    """
    if sample.family is None:
        return {}
    found = {}
    for code, name in sorted(enumerate(sample.family_names), key=lambda item: item[1]):
        rows = sample.family == code
        points = None if sample.configuration is None else sample.configuration[rows]
        found[name] = _one_family(sample.x[rows], sample.y[rows], points, method, confidence)
    return found


def _one_family(
    x: Floats, y: Floats, configuration: Ints | None, method: str, confidence: float
) -> Estimate:
    naive = estimate_correlation(x, y, method, confidence=confidence)
    if naive.estimate is None or configuration is None:
        return naive
    units = choose_units(len(x), None, configuration)
    if units.level == ROWS:
        return naive
    if units.count < 4:
        reason = f"{units.said}, at least 4 needed for an interval"
        return Estimate(estimate=naive.estimate, num_trials=len(x), reason=reason)
    return jackknife(
        naive.estimate,
        leave_one_out(units, method, x, y),
        units=units,
        degrees=units.count - 2,
        num_trials=len(x),
        confidence=confidence,
    )


def demean(values: Floats, family: Ints) -> Floats:
    """Values less the mean of their family."""
    return values - family_means(values, family)[family]


def family_means(values: Floats, family: Ints) -> Floats:
    """Mean of each family, shape (F,); means that differ by rounding alone are one value."""
    means = np.bincount(family, weights=values) / np.bincount(family)
    rounding = _ROUNDING * np.max(np.abs(values), initial=0.0)
    if np.max(np.abs(means / 2 - means[:1] / 2), initial=0.0) <= rounding:
        means[:] = means[:1]
    return means


def is_constant_within(values: Floats, family: Ints, name: str) -> str | None:
    """The reason `values` say nothing inside families (equal there, to rounding), or None."""
    if float(np.max(np.abs(demean(values, family)))) <= _ROUNDING * float(np.max(np.abs(values))):
        return f"{name} is constant inside every family"
    return None


def _unit_scale(values: Floats) -> Floats:
    """Values of largest size 1; what is rounding of nothing becomes nothing."""
    scaled = values / np.max(np.abs(values))
    return np.where(np.abs(scaled) > _ROUNDING, scaled, 0.0)


def _too_few(num_families: int) -> str | None:
    return f"{families_said(num_families)}, at least 3 needed" if num_families < 3 else None
