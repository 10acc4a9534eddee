"""Correlations of many resamples at once.

A correlation of a resample depends only on how often each row is in it. A bootstrap, a jackknife
and a leave-one-family-out table are therefore one computation: row counts W (B x n, one resample
a line) in, B correlations out, by matrix products. An undefined correlation (constant resample)
is NaN here and is turned into a reason by the caller.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau, rankdata

from flatscale.stats.sample import Floats

_MAX_MATRIX = 3000


def pearson_counts(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Pearson r of every resample; shape (B,)."""
    x, y = _standardised(x), _standardised(y)
    sums = counts @ np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    total, sx, sy, sxx, syy, sxy = sums.T
    return _ratio(sxy - sx * sy / total, sxx - sx * sx / total, syy - sy * sy / total, total)


def spearman_counts(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Spearman rho of every resample, ranks (midranks for ties) taken anew in each; shape (B,)."""
    total = counts.sum(axis=1)
    rank_x = midranks(counts, x)
    rank_y = rank_x if y is x else midranks(counts, y)
    return spearman_from_ranks(counts, total, rank_x, rank_y)


def spearman_from_ranks(counts: Floats, total: Floats, rank_x: Floats, rank_y: Floats) -> Floats:
    """Spearman rho of every resample from its centred midranks; shape (B,)."""
    weighted = counts * rank_x
    sxy = np.einsum("bn,bn->b", weighted, rank_y)
    sxx = np.einsum("bn,bn->b", weighted, rank_x)
    syy = np.einsum("bn,bn,bn->b", counts, rank_y, rank_y)
    return _ratio(sxy, sxx, syy, total**3)


def midranks(counts: Floats, values: Floats) -> Floats:
    """Midranks of every row in every resample, less their mean; shape (B, n)."""
    groups = rankdata(values, method="dense") - 1
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = counts[:, order]
    if len(starts) < len(values):
        sizes = np.add.reduceat(sizes, starts, axis=1)
    middle = np.cumsum(sizes, axis=1)
    middle -= sizes / 2
    middle -= counts.sum(axis=1, keepdims=True) / 2
    return middle[:, groups]


def kendall_counts(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Kendall tau-b of every resample; shape (B,).

    Up to 3,000 rows by a matrix of the signs of all pairs, beyond one resample at a time.
    """
    if len(x) > _MAX_MATRIX:
        repeated = (np.repeat(np.arange(len(x)), line) for line in counts.astype(np.int64))
        values = [_kendall(x[rows], y[rows]) for rows in repeated]
        return np.array(values)
    sign_x = np.sign(x[:, None] - x[None, :]).astype(np.float32)
    sign_y = np.sign(y[:, None] - y[None, :]).astype(np.float32)
    concordance = _pair_sum(counts, sign_x * sign_y)
    untied_x = _pair_sum(counts, np.abs(sign_x))
    untied_y = _pair_sum(counts, np.abs(sign_y))
    return _ratio(concordance, untied_x, untied_y, counts.sum(axis=1) ** 2)


def _kendall(x: Floats, y: Floats) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(kendalltau(x, y).statistic)


def _pair_sum(counts: Floats, matrix: np.ndarray) -> Floats:
    """Sum over ordered pairs (i, j) of w_i w_j m_ij, for every resample."""
    products = counts.astype(np.float32) @ matrix
    return np.einsum("bn,bn->b", counts, products.astype(np.float64))


def _standardised(values: Floats) -> Floats:
    centred = values / np.max(np.abs(values), initial=1e-300)
    centred = centred - centred.mean()
    spread = centred.std()
    return centred / spread if spread > 0 else centred


def _ratio(cross: Floats, square_x: Floats, square_y: Floats, size: Floats) -> Floats:
    """cross / sqrt(square_x square_y), NaN where a square vanishes to rounding of `size`."""
    tiny = 1e-12 * size
    defined = (square_x > tiny) & (square_y > tiny)
    product = np.sqrt(np.where(defined, square_x, 1.0)) * np.sqrt(np.where(defined, square_y, 1.0))
    return np.where(defined, np.clip(cross / product, -1.0, 1.0), np.nan)
