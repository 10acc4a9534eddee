"""Permutation tests: within strata for rows, Mantel's for distance matrices."""

from __future__ import annotations

import numpy as np

from flatscale.errors import StatsError
from flatscale.stats.estimators.families import NO_FAMILIES, demean, within_family
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Sample

_BLOCK = 4_000_000
_TIE = 1e-12


def permutation_within(sample: Sample, *, num_resamples: int = 9999, seed: int = 0) -> Estimate:
    """Within-family correlation tested by shuffling y inside each family; p = (1 + #)/(B + 1),
    two-sided.

    # counts shuffles whose |r| reaches the observed one (to rounding, so that ties count). Exact
    for rows that are exchangeable inside their family; families of one row contribute nothing.
    """
    if sample.family is None:
        return null_estimate(NO_FAMILIES, num_trials=sample.num_trials)
    found = within_family(sample)
    if found.estimate is None:
        return found
    # rows sorted by family, so that sorting random keys + family code shuffles inside families
    order = np.argsort(sample.family, kind="stable")
    family = sample.family[order]
    x, y = demean(sample.x[order], family), demean(sample.y[order], family)
    x, y = (v / np.max(np.abs(v)) for v in (x, y))
    x, y = x / np.sqrt(x @ x), y / np.sqrt(y @ y)
    observed = abs(float(x @ y))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(x))
    reached = 0
    for start in range(0, num_resamples, block):
        keys = rng.random((min(block, num_resamples - start), len(x))) + family
        shuffled = y[np.argsort(keys, axis=1)]
        reached += int(np.sum(np.abs(shuffled @ x) >= observed - _TIE))
    return Estimate(
        estimate=found.estimate,
        p_value=(1 + reached) / (num_resamples + 1),
        num_trials=sample.num_trials,
        num_families=sample.num_families,
    )


def mantel(first: Floats, second: Floats, *, num_resamples: int = 9999, seed: int = 0) -> Estimate:
    """Pearson r of the off-diagonal entries of two distance matrices (n x n), tested by permuting
    networks.

    Rows and columns of one matrix are permuted together, never single entries, because the n(n-1)/2
    distances are not independent. Two-sided p = (1 + #)/(B + 1). Source: Mantel 1967. Raises
    `StatsError` for matrices that are not square, symmetric, finite and of the same shape.
    """
    for name, matrix in (("first", first), ("second", second)):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != first.shape:
            raise StatsError(
                f"the {name} distance matrix has shape {matrix.shape}; two equal squares are needed"
            )
        if not np.all(np.isfinite(matrix)) or not np.allclose(matrix, matrix.T):
            raise StatsError(f"the {name} distance matrix must be finite and symmetric")
    n = len(first)
    if n < 4:
        return null_estimate(f"{n} networks, at least 4 needed", num_trials=n)
    upper = np.triu_indices(n, k=1)
    x, y = first[upper], second[upper]
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return null_estimate("all distances of a matrix are equal", num_trials=n)
    x = (x - x.mean()) / np.linalg.norm(x - x.mean())
    centred = (second - y.mean()) / np.linalg.norm(y - y.mean())
    observed = float(x @ centred[upper])
    rng = np.random.default_rng(seed)
    reached = 0
    for _ in range(num_resamples):
        order = rng.permutation(n)
        reached += abs(float(x @ centred[order[upper[0]], order[upper[1]]])) >= abs(observed) - _TIE
    return Estimate(
        estimate=float(np.clip(observed, -1, 1)),
        p_value=(1 + reached) / (num_resamples + 1),
        num_trials=n,
    )
