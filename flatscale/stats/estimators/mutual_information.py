"""Conditional mutual information of the orders that a metric and an outcome give to pairs of
trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import xlogy

from flatscale.stats.estimators.granulated import grid_codes, grid_problem
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, find_problem, numeric_column, require_columns

_MAX_SET = 2
_MAX_CELLS = 1000


@dataclass(frozen=True, kw_only=True)
class ConditionalInformation:
    """Normalised information given each conditioning set, its minimum K, the number of pairs."""

    by_set: dict[tuple[str, ...], Estimate]
    minimum: Estimate
    num_pairs: int


def conditional_information(
    df: pl.DataFrame, metric: str, outcome: str, hyperparameters: Sequence[str]
) -> ConditionalInformation:
    """K = min over sets S of at most 2 hyperparameters of I(V_m; V_o | U_S) / H(V_o | U_S), from
    0 to 1.

    V is the sign of the difference of a pair of trials in the metric or outcome (a tie is a third
    sign) and U_S the pair's two settings of the hyperparameters in S; all ordered pairs of
    different trials count alike. K near 0 says that some pair of hyperparameters explains all the
    association. Plug-in estimates. Regular grids only, else null with the reason. Source: Jiang
    et al. 2020, section 3.
    """
    require_columns(df, [metric, outcome, *hyperparameters])
    x, y = numeric_column(df, metric), numeric_column(df, outcome)
    codes, sizes = grid_codes(df, hyperparameters)
    reason = grid_problem(codes, sizes, hyperparameters)
    if reason is None and not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        reason = "the grid has trials without a finite value"
    reason = reason or find_problem(x, y, metric, outcome)
    n = df.height
    if reason is not None:
        null = null_estimate(reason, num_trials=n)
        return ConditionalInformation(by_set={}, minimum=null, num_pairs=0)
    by_set = {}
    for size in range(min(_MAX_SET, len(hyperparameters)) + 1):
        for chosen in itertools.combinations(range(len(hyperparameters)), size):
            cell = np.zeros(n, dtype=np.int64)
            for axis in chosen:
                cell = cell * sizes[axis] + codes[axis]
            names = tuple(hyperparameters[axis] for axis in chosen)
            if len(np.unique(cell)) > _MAX_CELLS:
                reason = f"more than {_MAX_CELLS} settings: too few pairs in each"
                by_set[names] = null_estimate(reason, num_trials=n)
                continue
            by_set[names] = _normalised(pair_counts(x, y, cell), n)
    known = [found.estimate for found in by_set.values() if found.estimate is not None]
    if known:
        minimum = Estimate(estimate=min(known), num_trials=n)
    else:
        minimum = null_estimate("the outcome orders no pair within any setting", num_trials=n)
    return ConditionalInformation(by_set=by_set, minimum=minimum, num_pairs=n * (n - 1))


def pair_counts(x: Floats, y: Floats, cell: Ints) -> Floats:
    """Number of ordered pairs of different trials by cell pair and sign pair, shape (C * C, 3, 3).

    Sign 0 is less, 1 a tie, 2 more. Two strict dominance counts give (less, less) and (less,
    more); reversing a pair swaps its cells and its signs, and one-dimensional counts give the
    rest. O(n log n) times cells.
    """
    _, cell = np.unique(cell, return_inverse=True)
    cells = int(cell.max()) + 1
    rank_x, rank_y = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    less_less = _dominance(rank_x, rank_y, cell, cells)
    less_more = _dominance(rank_x, rank_y.max() - rank_y, cell, cells)
    less_x, less_y = _less(rank_x, cell, cells), _less(rank_y, cell, cells)
    counts = np.zeros((cells, cells, 3, 3))
    counts[..., 0, 0], counts[..., 2, 2] = less_less, less_less.T
    counts[..., 0, 2], counts[..., 2, 0] = less_more, less_more.T
    counts[..., 0, 1] = less_x - less_less - less_more
    counts[..., 2, 1] = less_x.T - less_less.T - less_more.T
    counts[..., 1, 0] = less_y - less_less - less_more.T
    counts[..., 1, 2] = less_y.T - less_more - less_less.T
    sizes = np.bincount(cell)
    counts[..., 1, 1] = np.outer(sizes, sizes) - np.diag(sizes) - counts.sum(axis=(2, 3))
    return counts.reshape(cells * cells, 3, 3)


def _dominance(rank_x: Ints, rank_y: Ints, cell: Ints, cells: int) -> Floats:
    """Pairs (i, j) with x_i < x_j and y_i < y_j by (cell of i, cell of j).

    x_i < x_j when their ranks agree above some bit where i has 0 and j has 1: one sweep in order
    of y a bit.
    """
    result = np.zeros((cells, cells))
    for bit in range(int(rank_x.max()).bit_length()):
        group = rank_x >> (bit + 1)
        order = np.lexsort((rank_y, group))
        upper = ((rank_x[order] >> bit) & 1).astype(bool)
        seen = np.zeros((len(order) + 1, cells), dtype=np.int32)
        lower = np.flatnonzero(~upper)
        seen[lower + 1, cell[order][lower]] = 1
        np.cumsum(seen, axis=0, out=seen)
        starts, ties = _run_starts(group[order]), _run_starts(group[order], rank_y[order])
        below = seen[ties[upper]] - seen[starts[upper]]
        result += _sum_by(below, cell[order][upper], cells).T
    return result


def _less(rank: Ints, cell: Ints, cells: int) -> Floats:
    """Pairs (i, j) with value_i < value_j by (cell of i, cell of j)."""
    order = np.argsort(rank, kind="stable")
    seen = np.zeros((len(order) + 1, cells), dtype=np.int32)
    seen[np.arange(len(order)) + 1, cell[order]] = 1
    np.cumsum(seen, axis=0, out=seen)
    return _sum_by(seen[_run_starts(rank[order])], cell[order], cells).T


def _run_starts(*keys: Ints) -> Ints:
    """For each position of sorted keys, where its run of equal keys begins."""
    new = np.zeros(len(keys[0]), dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))


def _sum_by(rows: NDArray[np.int32], cell: Ints, cells: int) -> Floats:
    """Sum of the rows of each cell, shape (cells, columns)."""
    order = np.argsort(cell, kind="stable")
    present, starts = np.unique(cell[order], return_index=True)
    result = np.zeros((cells, rows.shape[1]))
    if len(present):
        result[present] = np.add.reduceat(rows[order], starts, axis=0, dtype=np.int64)
    return result


def _normalised(counts: Floats, num_trials: int) -> Estimate:
    joint = counts / counts.sum()
    setting = joint.sum(axis=(1, 2))
    by_metric, by_outcome = joint.sum(axis=2), joint.sum(axis=1)
    entropy = float(xlogy(setting, setting).sum() - xlogy(by_outcome, by_outcome).sum())
    if entropy <= 1e-12:
        return null_estimate("the outcome does not vary given the settings", num_trials=num_trials)
    information = float(
        xlogy(joint, joint).sum()
        + xlogy(setting, setting).sum()
        - xlogy(by_metric, by_metric).sum()
        - xlogy(by_outcome, by_outcome).sum()
    )
    return Estimate(estimate=min(1.0, max(0.0, information / entropy)), num_trials=num_trials)
