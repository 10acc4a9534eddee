"""Permutation tests: within strata for rows, Mantel's for distance matrices."""

from __future__ import annotations

import numpy as np

from flatscale.errors import StatsError
from flatscale.stats.estimators.families import NO_FAMILIES, demean, repeated_measures
from flatscale.stats.estimators.replication import CONFIGURATIONS, ROWS, recode
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Sample

_BLOCK = 4_000_000
_TIE = 1e-12


def permutation_within(sample: Sample, *, num_resamples: int = 9999, seed: int = 0) -> Estimate:
    """Within-family correlation tested by shuffling y inside families; p = (1 + #)/(B + 1).

    # counts shuffles whose |r| reaches the observed one (to rounding, so that ties count).
    Two-sided, exact for units that are exchangeable inside their family: rows, or, where there
    are replicates, configurations, which change places whole with others of as many rows.
    Families of one unit contribute nothing.
    """
    if sample.family is None:
        return null_estimate(NO_FAMILIES, num_trials=sample.num_trials)
    found = repeated_measures(sample)
    if found.estimate is None:
        return found
    own = np.arange(sample.num_trials) if sample.configuration is None else sample.configuration
    cells = recode(np.stack([sample.family, own], axis=1))
    size = np.bincount(cells)
    # units of one stratum (family and size) stand together, so that sorting random keys plus the
    # stratum's code shuffles them inside it
    stratum = recode(np.stack([sample.family, size[cells]], axis=1))
    order = np.lexsort((cells, stratum))
    _, first, unit = np.unique(cells[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    unit, start = rank[unit], np.sort(first)
    offset, stratum_of_unit = np.arange(len(order)) - start[unit], stratum[order][start]
    family = sample.family[order]
    x, y = demean(sample.x[order], family), demean(sample.y[order], family)
    x, y = (v / np.max(np.abs(v)) for v in (x, y))
    x, y = x / np.sqrt(x @ x), y / np.sqrt(y @ y)
    observed = abs(float(x @ y))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(x))
    reached = 0
    for begin in range(0, num_resamples, block):
        keys = rng.random((min(block, num_resamples - begin), len(start))) + stratum_of_unit
        moved = start[np.argsort(keys, axis=1)]
        shuffled = y[moved[:, unit] + offset]
        reached += int(np.sum(np.abs(shuffled @ x) >= observed - _TIE))
    replicated = len(start) < len(order)
    return Estimate(
        estimate=found.estimate,
        p_value=(1 + reached) / (num_resamples + 1),
        num_trials=sample.num_trials,
        num_families=sample.num_families,
        units=CONFIGURATIONS if replicated else ROWS,
        num_units=len(start),
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
