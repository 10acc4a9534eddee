"""Near copies inside a family (seeds, distilled variants) count as one network in the scan."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import poisson

from flatscale.stats.estimators.variance_components import pair_scale
from flatscale.stats.sample import Floats, Ints

_RADII = (0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
_EXCESS, _TABLE_EXCESS = 2.0, 1.3
_LEVEL, _TABLE_LEVEL = 0.01, 1e-4
_SHUFFLES = 8


def near_copies(x: Floats, y: Floats, residual: Floats, family: Ints) -> Ints:
    """Group of each row (n,), codes 0..G-1: rows that are near copies of each other share one.

    Two rows of a family are near copies when they lie within a radius in (x, y), both in robust
    standard deviations within families (of x, and of the residuals for y). The radius of a family
    is the largest of 0.4 to 0.02 within which its pairs are twice as many as chance gives
    (Poisson, 1%), at radii where the whole table has more than chance gives (Poisson, 1e-4). The
    rate of chance is that after shuffling y inside families. Without such radii no rows are
    joined.
    """
    scale_x, scale_y = pair_scale(x, family), pair_scale(residual, family)
    if not scale_x or not scale_y:
        return np.arange(len(x))
    first, second = _pairs(family)
    apart_x = ((x[first] - x[second]) / scale_x) ** 2
    distance = np.sqrt(apart_x + ((y[first] - y[second]) / scale_y) ** 2)
    rng = np.random.default_rng(0)
    order = np.argsort(family, kind="stable")
    chance = np.empty((_SHUFFLES, len(first)))
    for repeat in range(_SHUFFLES):
        shuffled = np.empty_like(y)
        shuffled[order] = y[np.lexsort((rng.random(len(y)), family))]
        chance[repeat] = np.sqrt(apart_x + ((shuffled[first] - shuffled[second]) / scale_y) ** 2)
    owner = family[first]
    count = int(family.max()) + 1
    pairs = np.bincount(owner, minlength=count)
    reach = np.zeros(count)
    for radius in _RADII:
        near = np.bincount(owner[distance < radius], minlength=count)
        expected = (np.sum(chance < radius) + 1) / _SHUFFLES
        total = int(near.sum())
        if total < _TABLE_EXCESS * expected or poisson.sf(total - 1, expected) > _TABLE_LEVEL:
            continue
        own = expected * pairs / len(first)
        held = (near >= _EXCESS * own) & (near > 0) & (poisson.sf(near - 1, own) < _LEVEL)
        reach[held & (reach == 0)] = radius
    linked = distance < reach[owner]
    links = coo_matrix((np.ones(linked.sum()), (first[linked], second[linked])), (len(x),) * 2)
    return connected_components(links, directed=False)[1].astype(np.int64)


def _pairs(family: Ints) -> tuple[Ints, Ints]:
    """All pairs of rows of one family."""
    parts = [np.flatnonzero(family == code) for code in range(int(family.max()) + 1)]
    firsts, seconds = [], []
    for where in parts:
        first, second = np.triu_indices(len(where), k=1)
        firsts.append(where[first])
        seconds.append(where[second])
    return np.concatenate(firsts), np.concatenate(seconds)
