"""Kendall's tau along each hyperparameter of a regular grid (Jiang et al. 2020, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, find_problem, numeric_column, require_columns


@dataclass(frozen=True, kw_only=True)
class GranulatedKendall:
    """psi_i by hyperparameter, Psi = their mean, and how many groups each psi_i averages."""

    psi: dict[str, Estimate]
    mean: Estimate
    num_groups: dict[str, int]


def granulated_kendall(
    df: pl.DataFrame, metric: str, outcome: str, hyperparameters: Sequence[str]
) -> GranulatedKendall:
    """Granulated Kendall coefficients of a metric with an outcome over a regular grid of
    hyperparameters.

    psi_i is the mean, over all settings of the other hyperparameters, of
    tau = sum_{a != b} sign(metric_a - metric_b) sign(outcome_a - outcome_b) / (m (m-1)) along
    axis i; Psi is the mean of psi_i over axes with at least two values. Every combination of
    values must occur exactly once (a seed is an axis like the others), else the results are null
    with the reason.
    """
    require_columns(df, [metric, outcome, *hyperparameters])
    x, y = numeric_column(df, metric), numeric_column(df, outcome)
    codes, sizes = grid_codes(df, hyperparameters)
    reason = grid_problem(codes, sizes, hyperparameters)
    if reason is None and not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        reason = "the grid has trials without a finite value"
    reason = reason or find_problem(x, y, metric, outcome)
    if reason is not None:
        null = null_estimate(reason, num_trials=df.height)
        return GranulatedKendall(psi=dict.fromkeys(hyperparameters, null), mean=null, num_groups={})
    order = np.lexsort(codes[::-1])
    grid_x, grid_y = x[order].reshape(*sizes, -1), y[order].reshape(*sizes, -1)
    psi, groups = {}, {}
    for axis, name in enumerate(hyperparameters):
        if sizes[axis] < 2:
            psi[name] = null_estimate("one value only", num_trials=df.height)
            continue
        tau = _tau_along(grid_x, grid_y, axis)
        psi[name] = Estimate(estimate=float(tau.mean()), num_trials=df.height)
        groups[name] = tau.size
    known = [found.estimate for found in psi.values() if found.estimate is not None]
    mean = Estimate(estimate=float(np.mean(known)), num_trials=df.height)
    return GranulatedKendall(psi=psi, mean=mean, num_groups=groups)


def grid_codes(
    df: pl.DataFrame, hyperparameters: Sequence[str]
) -> tuple[list[Ints], tuple[int, ...]]:
    """Each hyperparameter's values as codes 0..m-1, and the number of values of each."""
    codes, sizes = [], []
    for name in hyperparameters:
        code = (df[name].rank("dense") - 1).fill_null(-1).cast(pl.Int64).to_numpy()
        codes.append(np.asarray(code, dtype=np.int64))
        sizes.append(int(code.max()) + 1 if len(code) else 0)
    return codes, tuple(sizes)


def grid_problem(
    codes: Sequence[Ints], sizes: tuple[int, ...], hyperparameters: Sequence[str]
) -> str | None:
    """Why the design is not a regular grid, or None where it is one."""
    if not hyperparameters:
        return "no hyperparameters are declared"
    for name, code in zip(hyperparameters, codes, strict=True):
        if len(code) == 0 or code.min() < 0:
            return f"hyperparameter {name} is missing in some trials"
    if max(sizes) < 2:
        return "no hyperparameter has two values"
    trials = len(codes[0])
    cells = int(np.prod([float(size) for size in sizes]))
    counts = np.unique(np.stack(codes, axis=1), axis=0, return_counts=True)[1]
    distinct = len(counts)
    if distinct == cells and counts.min() != counts.max():
        return (
            f"the design is not a regular grid: combinations of {', '.join(hyperparameters)} occur "
            f"{counts.min()} to {counts.max()} times"
        )
    if distinct != cells:
        return (
            f"the design is not a regular grid: {trials} trials fill {distinct} of {cells} "
            f"combinations of {', '.join(hyperparameters)}"
        )
    return None


def _tau_along(x: Floats, y: Floats, axis: int) -> Floats:
    """tau along one axis at every setting of the others; the last axis holds repeated trials of a
    cell.
    """
    x, y = np.moveaxis(x, axis, -2), np.moveaxis(y, axis, -2)
    levels, repeats = x.shape[-2:]
    total = np.zeros(x.shape[:-2])
    for gap in range(1, levels):
        later_x, earlier_x = x[..., gap:, :, None], x[..., :-gap, None, :]
        later_y, earlier_y = y[..., gap:, :, None], y[..., :-gap, None, :]
        signs = np.sign(later_x - earlier_x) * np.sign(later_y - earlier_y)
        total += signs.sum(axis=(-3, -2, -1))
    return total / (levels * (levels - 1) / 2 * repeats**2)
