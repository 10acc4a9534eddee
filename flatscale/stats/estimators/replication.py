"""Levels of replication: which rows are independent of each other, and the jackknife over them.

Rows come in levels (seed in configuration in family), and rows of one unit share what makes them
alike. The units are the families where there are five or more; else the configurations, with the
families held fixed, so that a study of one or two architectures has an answer about its own
architectures; else, without replicates, the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.findings import Estimate
from flatscale.stats.sample import Floats, Ints

MIN_FAMILIES = 5
FAMILIES, CONFIGURATIONS, ROWS = "families", "configurations", "rows"
_BLOCK = 4_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """The independent units of a table: their level, and the unit of each row.

    level: `families`, `configurations` or `rows`.
    codes: (n,) codes 0..count-1.
    strata: (n,) codes of the fewer than five families that are held fixed, else None.
    """

    level: str
    codes: Ints
    strata: Ints | None = None

    @property
    def count(self) -> int:
        """Number of units."""
        return int(self.codes.max()) + 1 if len(self.codes) else 0

    @property
    def said(self) -> str:
        """`1 configuration`, `3 families`."""
        one = {"families": "family"}.get(self.level, self.level.removesuffix("s"))
        return f"{self.count} {one if self.count == 1 else self.level}"

    @property
    def num_strata(self) -> int:
        """Number of families held fixed, at least 1 (the whole table)."""
        return 1 if self.strata is None else int(self.strata.max()) + 1

    def strata_or_one(self) -> Ints:
        """Codes of the families held fixed; zeros where there are none."""
        return np.zeros(len(self.codes), dtype=np.int64) if self.strata is None else self.strata


def choose_units(
    num_rows: int,
    family: Ints | None = None,
    configuration: Ints | None = None,
    *,
    num_families: int | None = None,
) -> Units:
    """Families where there are at least 5, else configurations inside them, else rows.

    `num_families` counts the families that have something to say (by default all of them). A
    configuration is a value of `configuration` inside one family; where each has one row, there
    are no replicates and the level is `rows`.
    """
    families = 0 if family is None else len(np.unique(family))
    if family is not None and (families if num_families is None else num_families) >= MIN_FAMILIES:
        return Units(level=FAMILIES, codes=recode(family))
    strata = recode(family) if family is not None and families > 1 else None
    if configuration is None:
        return Units(level=ROWS, codes=np.arange(num_rows, dtype=np.int64), strata=strata)
    keys = [configuration] if strata is None else [strata, configuration]
    codes = recode(np.stack(keys, axis=1))
    replicated = len(codes) > 0 and int(codes.max()) + 1 < num_rows
    return Units(level=CONFIGURATIONS if replicated else ROWS, codes=codes, strata=strata)


def recode(values: np.ndarray) -> Ints:
    """Codes 0..k-1 of the distinct values (of the distinct lines, of a matrix)."""
    axis = 0 if values.ndim > 1 else None
    return np.unique(values, axis=axis, return_inverse=True)[1].ravel().astype(np.int64)


def leave_one_out(units: Units, method: str, x: Floats, y: Floats) -> Floats:
    """A registered statistic without each unit in turn, shape (units,); NaN where undefined."""
    chosen = STATISTICS[method]
    block = max(1, _BLOCK // len(x))
    parts = []
    for start in range(0, units.count, block):
        left = np.arange(start, min(start + block, units.count))
        counts = (units.codes[None, :] != left[:, None]).astype(np.float64)
        enough = counts.sum(axis=1) >= 3
        values = np.full(len(left), np.nan)
        if enough.any():
            values[enough] = chosen.resampled(counts[enough], x, y)
        parts.append(values)
    return np.concatenate(parts)


def left_out_products(units: Units, base: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Cross products of `values` (n x m) with `base` (n x k) regressed out, whole and in parts.

    Returns the matrix of all rows (m x m) and those without each unit (units x m x m). Each is
    V'V - V'B (B'B)^+ B'V over its rows, so the regression is fitted anew without the unit.
    Columns should be centred and of unit scale.
    """
    joined = np.column_stack([base, values])
    k, size = base.shape[1], joined.shape[1]
    # the cross products of every unit at once: one sum over the rows of each
    order = np.argsort(units.codes, kind="stable")
    starts = np.searchsorted(units.codes[order], np.arange(units.count))
    outer = np.einsum("ni,nj->nij", joined[order], joined[order]).reshape(len(order), -1)
    parts = np.add.reduceat(outer, starts, axis=0).reshape(-1, size, size)
    total = parts.sum(axis=0)
    every = np.concatenate([total[None], total[None] - parts])
    rest = every[:, k:, k:]
    if k:
        inverse = np.linalg.pinv(every[:, :k, :k], rcond=1e-10, hermitian=True)
        across = every[:, :k, k:]
        rest = rest - np.einsum("uki,ukl,ulj->uij", across, inverse, across)
    return rest[0], rest[1:]


def pearson_of_products(products: Floats, whole: Floats) -> Floats:
    """Pearson r of columns 0 and 1 from (..., m, m) cross products; NaN where one is constant."""
    xx, yy, xy = products[..., 0, 0], products[..., 1, 1], products[..., 0, 1]
    usable = (xx > _ROUNDING * whole[0, 0]) & (yy > _ROUNDING * whole[1, 1])
    scale = np.sqrt(np.where(usable, xx * yy, np.nan))
    r = xy / scale
    return np.where(np.abs(r) > 1 - _ROUNDING, np.sign(r), r)


def effective_degrees(shares: Floats) -> Any:
    """Degrees of freedom of a cluster-robust variance from the units' shares (..., F), as (...).

    With the score of unit u of variance h_u and the sum of scores zero, (tr G)^2 / tr G^2 for
    G = D (diag h - h h') D, D_u = (1 - h_u)^-1/2: F - 1 for F equal units, near 1 where one unit
    dominates. Source: Bell & McCaffrey 2002; Imbens & Kolesar 2016.
    """
    h = shares / shares.sum(axis=-1, keepdims=True)
    weights = 1 / np.maximum(1 - h, 1e-9)
    trace = np.sum(weights * h * (1 - h), axis=-1)
    # tr G^2 = sum_ij w_i w_j (h_i delta_ij - h_i h_j)^2
    squares = np.sum((weights * h) ** 2 * ((1 - h) ** 2 - h**2), axis=-1)
    squares = squares + np.sum(weights * h**2, axis=-1) ** 2
    found = np.divide(trace**2, squares, out=np.ones_like(trace), where=squares > 0)
    return np.maximum(1.0, found)


def degrees_over(codes: Ints, x: Floats, y: Floats) -> float:
    """`effective_degrees` of units whose rows carry sqrt(sum x^2 sum y^2) of the information on r.

    x and y (n,) are what r is the cosine of: values less their mean, or residuals. A unit in which
    one of them vanishes says nothing and counts for nothing.
    """
    shares = np.sqrt(np.bincount(codes, x * x) * np.bincount(codes, y * y))
    return float(effective_degrees(shares))


def jackknife(
    value: float,
    left_out: Floats,
    *,
    units: Units,
    degrees: float,
    num_trials: int,
    num_families: int | None = None,
    confidence: float = 0.95,
    fisher: bool = True,
) -> Estimate:
    """The interval of an estimate from its values with each unit left out.

    se^2 = (U-1)/U sum (z_(u) - mean z)^2 over the U units and value -+ t se with `degrees` degrees
    of freedom; z = atanh of a correlation, or the value itself where `fisher` is false. The
    standard error is on the scale of z.
    """
    described = {
        "num_trials": num_trials,
        "num_families": num_families,
        "units": units.level,
        "num_units": len(left_out),
        "degrees": degrees,
    }

    def without_interval(reason: str) -> Estimate:
        return Estimate(estimate=value, reason=reason, **described)  # type: ignore[arg-type]

    one = {FAMILIES: "family", CONFIGURATIONS: "configuration", ROWS: "row"}[units.level]
    if np.any(np.isnan(left_out)):
        return without_interval(
            f"without one {one} the rows are constant or too few: no jackknife over {units.level}"
        )
    if fisher and (abs(value) >= 1 or np.any(np.abs(left_out) >= 1)):
        return without_interval("a perfect correlation has no jackknife interval")
    z = np.arctanh(left_out) if fisher else left_out
    centre = math.atanh(value) if fisher else value
    count = len(left_out)
    error = math.sqrt((count - 1) / count * float(np.sum((z - z.mean()) ** 2)))
    if error == 0:
        return without_interval(f"leaving out any {one} changes nothing: no test")
    half = error * float(special.stdtrit(degrees, 0.5 + confidence / 2))
    low, high = centre - half, centre + half
    return Estimate(
        estimate=value,
        std_error=error,
        conf_low=math.tanh(low) if fisher else low,
        conf_high=math.tanh(high) if fisher else high,
        p_value=float(2 * special.stdtr(degrees, -abs(centre) / error)),
        **described,  # type: ignore[arg-type]
    )
