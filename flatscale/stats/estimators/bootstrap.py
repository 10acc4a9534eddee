"""BCa bootstrap intervals for many correlations at once.

One set of resamples serves every pair (common random numbers), and a resample enters only through
how often each row is in it (see `counts`), so a hundred Pearson intervals cost a few matrix
products.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from flatscale.stats.estimators.correlation import STATISTICS, Statistic
from flatscale.stats.estimators.counts import midranks, pearson_counts, spearman_from_ranks
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, find_problem

_BLOCK = 4_000_000


def bca_interval(
    x: Floats,
    y: Floats,
    method: str = "pearson",
    *,
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """A correlation of independent rows with its bias-corrected and accelerated interval.

    See `bca_intervals`. `std_error` is the bootstrap standard deviation of the correlation itself.
    """
    data = np.column_stack([x, y])
    return bca_intervals(
        data, [(0, 1)], method, confidence=confidence, num_resamples=num_resamples, seed=seed
    )[0]


def bca_intervals(
    data: Floats,
    pairs: Sequence[tuple[int, int]],
    method: str = "pearson",
    *,
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
) -> list[Estimate]:
    """BCa intervals of the correlations of column pairs of `data` (n x M, finite), rows resampled
    together.

    Bias correction z0 from the share of resamples below the estimate (half of the ties),
    acceleration from the delete-one jackknife. Undefined resamples (a constant column) are left
    out; more than 5% of them, or a constant jackknife, give a null interval with the reason.
    Source: Efron 1987.
    """
    n = len(data)
    statistic = STATISTICS[method]
    found: list[Estimate | None] = []
    for i, j in pairs:
        problem = find_problem(data[:, i], data[:, j], f"column {i}", f"column {j}")
        found.append(null_estimate(problem, num_trials=n) if problem else None)
    live = [pair for pair, estimate in zip(pairs, found, strict=True) if estimate is None]
    if not live:
        return [estimate for estimate in found if estimate is not None]
    point = _correlations(np.ones((1, n)), data, live, statistic)[0]
    blocks = [_correlations(c, data, live, statistic) for c in draw_counts(n, num_resamples, seed)]
    resampled = np.concatenate(blocks)
    jackknife = np.concatenate([_correlations(c, data, live, statistic) for c in _leave_one_out(n)])
    results = iter(
        _bca(point[k], resampled[:, k], jackknife[:, k], confidence, n) for k in range(len(live))
    )
    return [estimate if estimate is not None else next(results) for estimate in found]


def draw_counts(n: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Row counts of bootstrap resamples in blocks of at most a few million entries."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _leave_one_out(n: int) -> Iterator[Floats]:
    block = max(1, _BLOCK // n)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        counts = np.ones((len(rows), n))
        counts[np.arange(len(rows)), rows] = 0
        yield counts


def _correlations(
    counts: Floats, data: Floats, pairs: Sequence[tuple[int, int]], statistic: Statistic
) -> Floats:
    """The statistic of every pair in every resample, shape (B, pairs)."""
    if statistic.name == "pearson":
        return _pearson_pairs(counts, data, pairs)
    if statistic.name == "spearman":
        total = counts.sum(axis=1)
        ranks = {i: midranks(counts, data[:, i]) for i in set(itertools.chain(*pairs))}
        columns = [spearman_from_ranks(counts, total, ranks[i], ranks[j]) for i, j in pairs]
    else:
        columns = [statistic.resampled(counts, data[:, i], data[:, j]) for i, j in pairs]
    return np.column_stack(columns)


def _pearson_pairs(counts: Floats, data: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    if len(pairs) == 1:
        (i, j) = pairs[0]
        return pearson_counts(counts, data[:, i], data[:, j])[:, None]
    columns = sorted(set(itertools.chain(*pairs)))
    place = {column: index for index, column in enumerate(columns)}
    scale = np.max(np.abs(data[:, columns]), axis=0)
    z = data[:, columns] / scale
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    first = np.array([place[i] for i, _ in pairs])
    second = np.array([place[j] for _, j in pairs])
    total = counts.sum(axis=1, keepdims=True)
    mean = counts @ z / total
    square = counts @ z**2 / total - mean**2
    cross = counts @ (z[:, first] * z[:, second]) / total - mean[:, first] * mean[:, second]
    defined = (square[:, first] > 1e-12) & (square[:, second] > 1e-12)
    product = np.sqrt(np.where(defined, square[:, first] * square[:, second], 1.0))
    return np.where(defined, np.clip(cross / product, -1, 1), np.nan)


def _bca(point: float, resampled: Floats, jackknife: Floats, confidence: float, n: int) -> Estimate:
    values = resampled[~np.isnan(resampled)]

    def refuse(reason: str) -> Estimate:
        return Estimate(estimate=float(point), num_trials=n, reason=reason)

    if len(values) < 0.95 * len(resampled):
        return refuse(f"{len(resampled) - len(values)} of {len(resampled)} resamples are constant")
    if np.any(np.isnan(jackknife)):
        return refuse("without one of the rows a column is constant: no BCa interval")
    deviation = jackknife.mean() - jackknife
    square = float(np.sum(deviation**2))
    below = float(np.mean(values < point) + 0.5 * np.mean(values == point))
    if square == 0 or not 0 < below < 1:
        return refuse("the correlation does not vary over resamples")
    acceleration = float(np.sum(deviation**3)) / (6 * square**1.5)
    bias = float(ndtri(below))
    ends = bias + ndtri([0.5 - confidence / 2, 0.5 + confidence / 2])
    levels = ndtr(bias + ends / (1 - acceleration * ends))
    low, high = np.quantile(values, levels)
    return Estimate(
        estimate=float(point),
        std_error=float(values.std(ddof=1)),
        conf_low=float(low),
        conf_high=float(high),
        num_trials=n,
    )
