"""Which of two metrics is more strongly correlated with the same outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.estimators.families import demean
from flatscale.stats.estimators.replication import (
    FAMILIES,
    Units,
    choose_units,
    effective_degrees,
    jackknife,
    leave_one_out,
    left_out_products,
    pearson_of_products,
)
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, Sample, find_problem


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Correlations of two metrics with one outcome and the interval of their difference.

    `units` names the level of replication behind the interval, `num_units` how many there are.
    """

    r_a: float | None = None
    r_b: float | None = None
    difference: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    abs_difference: float | None = None
    abs_conf_low: float | None = None
    abs_conf_high: float | None = None
    p_value: float | None = None
    units: str | None = None
    num_units: int | None = None
    num_trials: int = 0
    reason: str | None = None


def compare_samples(first: Sample, second: Sample, *, confidence: float = 0.95) -> Comparison:
    """`compare_metrics` of the metrics x of two samples with one outcome y, on the rows of both."""
    _, at_first, at_second = np.intersect1d(first.rows, second.rows, return_indices=True)
    return compare_metrics(
        first.x[at_first],
        second.x[at_second],
        first.y[at_first],
        family=None if first.family is None else first.family[at_first],
        configuration=None if first.configuration is None else first.configuration[at_first],
        confidence=confidence,
    )


def compare_metrics(
    a: Floats,
    b: Floats,
    outcome: Floats,
    *,
    family: Ints | None = None,
    configuration: Ints | None = None,
    method: str = "pearson",
    confidence: float = 0.95,
) -> Comparison:
    """r(a, outcome) - r(b, outcome), and the difference of their sizes, with jackknife intervals.

    Arrays of shape (n,), finite. The standard error is that of atanh r_a - atanh r_b, from its
    values without each unit in turn; the interval is brought to the scale of r by the factor
    (r_a - r_b) / (atanh r_a - atanh r_b), so that it excludes 0 where p is below 1 - confidence,
    and ends where the difference does: at -2 and 2, that of the sizes at -1 and 1.
    The units are families where there are at least 5 (t with Bell and McCaffrey's degrees of
    freedom from the families' sizes), else configurations, or rows without replicates (t on
    U-F-1); families fewer than 5 are held fixed, the correlations then being those within families.
    """
    n = len(outcome)
    units = choose_units(n, family, configuration)
    fixed = units.num_strata > 1
    if fixed:
        a, b, outcome = (demean(values, units.strata_or_one()) for values in (a, b, outcome))
    reason = find_problem(a, outcome, "first metric", "outcome")
    reason = reason or find_problem(b, outcome, "second metric", "outcome")
    degrees = units.count - 1.0 - units.num_strata
    if units.level == FAMILIES:
        degrees = float(effective_degrees(np.bincount(units.codes).astype(np.float64)))
    if not reason and (degrees < 1 or units.count < 4):
        reason = f"{units.count} {units.level} are too few to compare two correlations"
    if reason:
        return Comparison(num_trials=n, reason=reason)
    (r_a, without_a), (r_b, without_b) = (
        _with_each_unit_left_out(units, method, metric, outcome) for metric in (a, b)
    )
    shared = {"units": units, "degrees": degrees, "num_trials": n, "confidence": confidence}
    signed = _difference(r_a, r_b, without_a, without_b, 2.0, **shared)
    sizes = _difference(abs(r_a), abs(r_b), np.abs(without_a), np.abs(without_b), 1.0, **shared)
    # two copies of one metric never differ, whatever is left out
    same = bool(np.all(without_a == without_b)) and r_a == r_b
    note = f"within the {units.num_strata} families, held fixed" if fixed else None
    return Comparison(
        r_a=r_a,
        r_b=r_b,
        difference=r_a - r_b,
        conf_low=signed.conf_low,
        conf_high=signed.conf_high,
        abs_difference=abs(r_a) - abs(r_b),
        abs_conf_low=sizes.conf_low,
        abs_conf_high=sizes.conf_high,
        p_value=1.0 if same else signed.p_value,
        units=units.level,
        num_units=units.count,
        num_trials=n,
        reason="; ".join(filter(None, [signed.reason, note])) or None,
    )


def _with_each_unit_left_out(
    units: Units, method: str, metric: Floats, outcome: Floats
) -> tuple[float, Floats]:
    """The correlation of all rows and those without each unit.

    Where families are held fixed, Pearson's r takes the family means anew without each unit; other
    statistics keep those of all rows.
    """
    if units.num_strata > 1 and method == "pearson":
        base = np.eye(units.num_strata)[units.strata_or_one()]
        scaled = [values / np.linalg.norm(values) for values in (metric, outcome)]
        whole, parts = left_out_products(units, base, np.column_stack(scaled))
        return float(pearson_of_products(whole, whole)), pearson_of_products(parts, whole)
    every = np.ones((1, len(outcome)))
    value = float(STATISTICS[method].resampled(every, metric, outcome)[0])
    return value, leave_one_out(units, method, metric, outcome)


def _difference(
    r_a: float, r_b: float, without_a: Floats, without_b: Floats, largest: float, **shared: Any
) -> Estimate:
    """r_a - r_b, with the jackknife on Fisher's scale; no end is beyond `largest`."""
    if max(abs(r_a), abs(r_b), np.abs(without_a).max(), np.abs(without_b).max()) >= 1:
        return null_estimate("a perfect correlation has no jackknife interval")
    z_a, z_b = math.atanh(r_a), math.atanh(r_b)
    found = jackknife(
        z_a - z_b, np.arctanh(without_a) - np.arctanh(without_b), fisher=False, **shared
    )
    scale = (r_a - r_b) / (z_a - z_b) if z_a != z_b else 1 - r_a**2
    low, high = (
        None if at is None else min(max(at * scale, -largest), largest)
        for at in (found.conf_low, found.conf_high)
    )
    return replace(found, estimate=r_a - r_b, conf_low=low, conf_high=high)
