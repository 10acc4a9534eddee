"""Which of two metrics is more strongly correlated with the same outcome."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.estimators.families import demean
from flatscale.stats.estimators.replication import (
    FAMILIES,
    choose_units,
    effective_degrees,
    jackknife,
    leave_one_out,
)
from flatscale.stats.sample import Floats, Ints, find_problem


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

    Arrays of shape (n,), finite. The difference without each unit in turn gives its standard
    error. The units are families where there are at least 5 (t with Bell and McCaffrey's degrees of
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
        degrees = effective_degrees(np.bincount(units.codes).astype(np.float64))
    if not reason and (degrees < 1 or units.count < 4):
        reason = f"{units.count} {units.level} are too few to compare two correlations"
    if reason:
        return Comparison(num_trials=n, reason=reason)
    r_a, r_b = (
        float(STATISTICS[method].resampled(np.ones((1, n)), metric, outcome)[0])
        for metric in (a, b)
    )
    without_a, without_b = (leave_one_out(units, method, metric, outcome) for metric in (a, b))
    shared = {"units": units, "degrees": degrees, "num_trials": n, "confidence": confidence}
    signed = jackknife(r_a - r_b, without_a - without_b, fisher=False, **shared)  # type: ignore[arg-type]
    sizes = jackknife(
        abs(r_a) - abs(r_b),
        np.abs(without_a) - np.abs(without_b),
        fisher=False,
        **shared,  # type: ignore[arg-type]
    )
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
