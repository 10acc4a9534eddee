"""A finding: one statistical result, and the tidy table that findings make."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import polars as pl

from flatscale.stats.tables.declaration import COUNT, REAL, TEXT, UNITS, Column, interval

FINDING_COLUMNS = (
    Column("x", TEXT, "column on the horizontal axis", "metric"),
    Column("y", TEXT, "column on the vertical axis", "outcome"),
    Column("scope", TEXT, "pooled, within, between, synthesis or family:<name>", "level"),
    Column(
        "method",
        TEXT,
        "name of the statistic; `_jackknife`: with an interval over the independent units",
        "statistic",
        "method",
    ),
    Column("estimate", REAL, "value of the statistic", "estimate", "correlation"),
    Column("std_error", REAL, "standard error, on the scale of atanh r for correlations"),
    *interval(),
    Column("p_value", REAL, "two-sided p-value", "p", "probability"),
    Column(
        "q_value",
        REAL,
        "Benjamini-Hochberg adjusted p-value over the pairs with the same scope and method; "
        "null for the pair declared primary",
        "q",
        "probability",
    ),
    Column("num_trials", COUNT, "rows used", "n"),
    Column("num_families", COUNT, "families used; null where families play no part", "families"),
    *UNITS,
    Column("reason", TEXT, "why a number is null", "reason"),
)

FINDINGS_SCHEMA = pl.Schema({column.name: column.dtype for column in FINDING_COLUMNS})
"""Columns of every findings table.

`scope` is one of `pooled` (all rows), `within` (rows demeaned by family), `between` (family means),
`synthesis` (random-effects mean of the per-family values) or `family:<name>` (one family's rows).
`method` names the statistic; a pooled method ending in `_jackknife` has the same estimate as the
method without the ending and an interval over the independent units, which `units` names: families
where there are at least 5, else configurations, else rows. `reason` says why a number is null. A
null estimate always has one.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A statistic with its uncertainty, before it is tied to a pair of columns.

    `std_error` is on Fisher's z scale for correlations (atanh r), on the estimate's own scale for
    slopes and differences; every method's documentation says which. `units` names the level of
    replication behind the interval (`families`, `configurations` or `rows`), `num_units` how many
    there are, `degrees` the degrees of freedom; None where the method has none.

    Raises:
        ValueError: a number is not finite, or the estimate is null without a reason.
    """

    estimate: float | None
    std_error: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    p_value: float | None = None
    num_trials: int = 0
    num_families: int | None = None
    units: str | None = None
    num_units: int | None = None
    degrees: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        for name in ("estimate", "std_error", "conf_low", "conf_high", "p_value"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(
                    f"{name} is {value}; a result that is not finite must be null, with a reason"
                )
        if self.estimate is None and not self.reason:
            raise ValueError("a null estimate needs a reason")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding(Estimate):
    """One row of a findings table; see `FINDINGS_SCHEMA` for the meaning of its fields."""

    x: str
    y: str
    scope: str
    method: str
    q_value: float | None = None


def finding(x: str, y: str, scope: str, method: str, estimate: Estimate) -> Finding:
    """Tie an estimate to its pair of columns, its scope and its method."""
    values = {item.name: getattr(estimate, item.name) for item in fields(Estimate)}
    return Finding(x=x, y=y, scope=scope, method=method, **values)


def null_estimate(reason: str, *, num_trials: int = 0, num_families: int | None = None) -> Estimate:
    """The result of a statistic that cannot be computed: all numbers null, with the reason."""
    return Estimate(estimate=None, num_trials=num_trials, num_families=num_families, reason=reason)


def findings_frame(findings: Iterable[Finding]) -> pl.DataFrame:
    """Findings as a polars DataFrame with `FINDINGS_SCHEMA`, in the order given."""
    return pl.DataFrame([asdict(row) for row in findings], schema=FINDINGS_SCHEMA, orient="row")
