"""Partial correlation: x and y with the linear effect of covariates taken out of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from flatscale.stats.estimators.correlation import fisher_estimate, t_test_of_r
from flatscale.stats.estimators.counts import pearson_counts
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Sample, is_constant, numeric_column


def partial_correlation(
    x: Floats, y: Floats, covariates: Floats, *, confidence: float = 0.95
) -> Estimate:
    """Partial Pearson r of x and y given the columns of `covariates` (n x k).

    Equal to -P_xy / sqrt(P_xx P_yy) with P the inverse of the correlation matrix, computed from
    least-squares residuals so that collinear covariates count once. t-test with n - 2 - k degrees
    of freedom, Fisher interval with variance 1/(n - k - 3), k the rank of the covariates.
    """
    n = len(x)
    base = np.ones((n, 1))
    if covariates.shape[1]:
        centred = covariates - covariates.mean(axis=0)
        spread = centred.std(axis=0)
        varying = spread > 1e-13 * np.abs(covariates).max(axis=0)
        base = np.column_stack([base, centred[:, varying] / spread[varying]])
    left, singular, _ = np.linalg.svd(base, full_matrices=False)
    rank = int(np.sum(singular > singular[0] * 1e-10))
    degrees = n - 2 - (rank - 1)
    if degrees < 1:
        return null_estimate(
            f"{n} rows and {rank - 1} covariates leave no degrees of freedom", num_trials=n
        )
    basis = left[:, :rank]
    rest = []
    for name, values in (("x", x), ("y", y)):
        if is_constant(values):
            return null_estimate(f"{name} is constant", num_trials=n)
        standard = (values - values.mean()) / values.std()
        residual = standard - basis @ (basis.T @ standard)
        if residual.std() < 1e-9:
            return null_estimate(f"the covariates determine {name} exactly", num_trials=n)
        rest.append(residual)
    r = float(pearson_counts(np.ones((1, n)), rest[0], rest[1])[0])
    return fisher_estimate(
        r,
        n,
        confidence,
        variance=1 / (degrees - 1) if degrees > 1 else None,
        p_value=t_test_of_r(r, degrees),
    )


def partial_estimate(
    sample: Sample, table: pl.DataFrame, covariates: Sequence[str], *, confidence: float = 0.95
) -> Estimate:
    """The partial correlation of a sample given columns of its table; rows without them are left
    out.
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
    found = partial_correlation(
        sample.x[usable], sample.y[usable], matrix[usable], confidence=confidence
    )
    if dropped and found.estimate is not None:
        note = f"{dropped} rows without covariates left out"
        return replace(found, reason="; ".join(filter(None, [found.reason, note])))
    return found


def design_columns(table: pl.DataFrame, name: str) -> Floats:
    """A covariate as numbers (n x 1), or as indicators of all but its first value (n x levels-1)
    when it is text.
    """
    series = table[name]
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String)
        levels = sorted(text.drop_nulls().unique())
        indicators = [(text == level).cast(pl.Float64).to_numpy() for level in levels[1:]]
        if not indicators:
            return np.zeros((table.height, 1))
        return np.column_stack([np.asarray(v, dtype=np.float64) for v in indicators])
    return numeric_column(table, name)[:, None]
