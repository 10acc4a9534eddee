"""Partial correlation: x and y with the linear effect of covariates taken out of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatscale.stats.estimators.correlation import fisher_estimate, t_test_of_r
from flatscale.stats.estimators.counts import pearson_counts
from flatscale.stats.estimators.replication import (
    FAMILIES,
    Units,
    choose_units,
    degrees_over,
    jackknife,
    left_out_products,
    pearson_of_products,
)
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Sample, is_constant, numeric_column


def partial_correlation(
    x: Floats,
    y: Floats,
    covariates: Floats,
    *,
    units: Units | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Partial Pearson r of x and y given the columns of `covariates` (n x k).

    Equal to -P_xy / sqrt(P_xx P_yy) with P the inverse of the correlation matrix, computed from
    least-squares residuals so that collinear covariates count once. With `units` the interval and
    the test are the jackknife's over them, families with fewer than five of them held fixed as
    further covariates; without, rows count as independent: t-test with n - 2 - k degrees of
    freedom, Fisher interval with variance 1/(n - k - 3), k the rank of the covariates.
    """
    n = len(x)
    strata = np.zeros(n, dtype=np.int64) if units is None else units.strata_or_one()
    basis = _basis(np.column_stack([np.eye(int(strata.max()) + 1)[strata], covariates]))
    rank = basis.shape[1]
    degrees = n - 1.0 - rank
    if units is not None and units.level != FAMILIES:
        degrees = units.count - 1.0 - rank
    if degrees < 1:
        counted = f"{n} rows" if units is None else f"{units.count} {units.level}"
        return null_estimate(
            f"{counted} and {rank - 1} covariates leave no degrees of freedom", num_trials=n
        )
    rest = []
    for name, values in (("x", x), ("y", y)):
        if is_constant(values):
            return null_estimate(f"{name} is constant", num_trials=n)
        standard = (values - values.mean()) / values.std()
        residual = standard - basis @ (basis.T @ standard)
        if residual.std() < 1e-9:
            return null_estimate(f"the covariates determine {name} exactly", num_trials=n)
        rest.append(residual)
    if units is not None:
        whole, parts = left_out_products(units, basis, np.column_stack(rest))
        if units.level == FAMILIES:
            degrees = degrees_over(units.codes, *rest)
        return jackknife(
            float(pearson_of_products(whole, whole)),
            pearson_of_products(parts, whole),
            units=units,
            degrees=degrees,
            num_trials=n,
            confidence=confidence,
        )
    r = float(pearson_counts(np.ones((1, n)), rest[0], rest[1])[0])
    return fisher_estimate(
        r,
        n,
        confidence,
        variance=1 / (degrees - 1) if degrees > 1 else None,
        p_value=t_test_of_r(r, degrees),
    )


def _basis(columns: Floats) -> Floats:
    """Orthonormal basis (n x rank) of the columns, constant ones and copies counting once."""
    spread = np.max(np.abs(columns), axis=0)
    scaled = columns[:, spread > 0] / spread[spread > 0]
    centred = scaled - scaled.mean(axis=0)
    deviation = centred.std(axis=0)
    varying = deviation > 1e-13
    base = np.column_stack([np.ones(len(columns)), centred[:, varying] / deviation[varying]])
    left, singular, _ = np.linalg.svd(base, full_matrices=False)
    return np.asarray(left[:, singular > singular[0] * 1e-10])


def partial_estimate(
    sample: Sample, table: pl.DataFrame, covariates: Sequence[str], *, confidence: float = 0.95
) -> Estimate:
    """The partial correlation of a sample given columns of its table; rows without them left out.

    The interval is over families where there are five or more, else over configurations (rows)
    with the families held fixed.
    """
    columns = [design_columns(table, name)[sample.rows] for name in covariates]
    matrix = np.column_stack(columns)
    usable = np.all(np.isfinite(matrix), axis=1)
    dropped = int(np.sum(~usable))
    if usable.sum() < 4:
        return null_estimate(
            f"{int(usable.sum())} rows with all covariates, at least 4 needed",
            num_trials=int(usable.sum()),
        )
    kept = sample.keep(usable)
    units = choose_units(kept.num_trials, kept.family, kept.configuration)
    found = partial_correlation(kept.x, kept.y, matrix[usable], units=units, confidence=confidence)
    if found.estimate is None:
        return found
    notes = [found.reason]
    if units.num_strata > 1:
        notes.append(f"the {units.num_strata} families are held fixed too")
    if dropped:
        notes.append(f"{dropped} rows without covariates left out")
    return replace(
        found, num_families=kept.num_families, reason="; ".join(filter(None, notes)) or None
    )


def design_columns(table: pl.DataFrame, name: str) -> Floats:
    """A covariate as numbers (n x 1); text as indicators of all but its first value."""
    series = table[name]
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String)
        levels = sorted(text.drop_nulls().unique())
        indicators = [(text == level).cast(pl.Float64).to_numpy() for level in levels[1:]]
        if not indicators:
            return np.zeros((table.height, 1))
        return np.column_stack([np.asarray(v, dtype=np.float64) for v in indicators])
    return numeric_column(table, name)[:, None]
