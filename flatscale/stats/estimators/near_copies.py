"""Near copies inside a family (seeds, distilled variants) count as one network in the scan."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist
from scipy.stats import poisson

from flatscale.stats.estimators.family_effects import family_moments
from flatscale.stats.estimators.variance_components import pair_scale
from flatscale.stats.sample import Floats, Ints

_RADII = (0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
_EXCESS, _TABLE_EXCESS = 2.0, 1.3
_LEVEL, _TABLE_LEVEL = 0.01, 1e-4
_BESIDE_EXCESS, _BESIDE_LEVEL = 1.1, 0.01
_SHUFFLES = 8
_CLUMP_RADII = np.array([0.2, 0.3, 0.4, 0.5, 0.6])
_CLUMP_LEVEL = 0.05
_MIN_CLUMPED = 3


def near_copies(x: Floats, y: Floats, residual: Floats, family: Ints) -> Ints:
    """Group of each row (n,), codes 0..G-1: rows that are near copies of each other share one.

    Two rows of a family are near copies when they lie within a radius in (x, y), both in robust
    standard deviations within families (of x, and of the residuals for y). The radius of a family
    is the largest of 0.4 to 0.02 within which its pairs are twice as many as chance gives
    (Poisson, 1%), at radii where the whole table has more than chance gives (Poisson, 1e-4). The
    rate of chance is that after shuffling y inside families; the whole table must also have more
    pairs within the radius in (x, residual) than after shuffling residuals (Poisson, 1%), so that
    a close relation with x makes no copies. Without such radii no rows are joined.
    """
    scale_x, scale_y = pair_scale(x, family), pair_scale(residual, family)
    if not scale_x or not scale_y:
        return np.arange(len(x))
    first, second = _pairs(family)
    apart_x = ((x[first] - x[second]) / scale_x) ** 2
    (distance, chance), beside = (
        _distances(values / scale_y, apart_x, family, first, second) for values in (y, residual)
    )
    owner = family[first]
    count = int(family.max()) + 1
    pairs = np.bincount(owner, minlength=count)
    reach = np.zeros(count)
    for radius in _RADII:
        if not _crowded(distance, chance, radius, _TABLE_EXCESS, _TABLE_LEVEL):
            continue
        if not _crowded(*beside, radius, _BESIDE_EXCESS, _BESIDE_LEVEL):
            continue
        near = np.bincount(owner[distance < radius], minlength=count)
        own = _expected(chance, radius) * pairs / len(first)
        held = (near >= _EXCESS * own) & (near > 0) & (poisson.sf(near - 1, own) < _LEVEL)
        reach[held & (reach == 0)] = radius
    linked = distance < reach[owner]
    links = coo_matrix((np.ones(linked.sum()), (first[linked], second[linked])), (len(x),) * 2)
    return connected_components(links, directed=False)[1].astype(np.int64)


def clumped_families(x: Floats, z: Floats, family: Ints) -> np.ndarray:
    """Whether the rows of each family (F,) still lie in clumps.

    More of its pairs lie close together than a normal spread of its size would give: Poisson, 5% at
    one radius of 0.2 to 0.6 robust standard deviations within families. A pair of independent rows
    lies within r with probability 1 - exp(-r^2/(4 s_x s_z)), s the family's moderated standard
    deviations. A family below 3 rows never does.
    """
    clumped = np.zeros(int(family.max()) + 1, dtype=bool)
    scale_x, scale_z = pair_scale(x, family), pair_scale(z, family)
    if not scale_x or not scale_z:
        return clumped
    x, z = x / scale_x, z / scale_z
    moments = family_moments(x, z, family)
    size = np.sqrt(moments.var_x * moments.var_y)
    for code in np.flatnonzero((np.bincount(family) >= _MIN_CLUMPED) & (size > 0)):
        where = family == code
        apart = pdist(np.column_stack([x[where], z[where]]))
        near = np.sum(apart[:, None] < _CLUMP_RADII, axis=0)
        expected = len(apart) * -np.expm1(-(_CLUMP_RADII**2) / (4 * size[code]))
        clumped[code] = bool(np.any(poisson.sf(near - 1, expected) <= _CLUMP_LEVEL))
    return clumped


def _distances(
    values: Floats, apart_x: Floats, family: Ints, first: Ints, second: Ints
) -> tuple[Floats, Floats]:
    """Distances of pairs of rows (P,), and after shuffles of `values` in families (shuffles, P)."""
    rng = np.random.default_rng(0)
    order = np.argsort(family, kind="stable")
    chance = np.empty((_SHUFFLES, len(first)))
    for repeat in range(_SHUFFLES):
        shuffled = np.empty_like(values)
        shuffled[order] = values[np.lexsort((rng.random(len(values)), family))]
        chance[repeat] = np.sqrt(apart_x + (shuffled[first] - shuffled[second]) ** 2)
    return np.sqrt(apart_x + (values[first] - values[second]) ** 2), chance


def _expected(chance: Floats, radius: float) -> float:
    return float(np.sum(chance < radius) + 1) / _SHUFFLES


def _crowded(distance: Floats, chance: Floats, radius: float, excess: float, level: float) -> bool:
    """Whether the whole table has more pairs within a radius than chance gives."""
    total, expected = int(np.sum(distance < radius)), _expected(chance, radius)
    return total >= excess * expected and bool(poisson.sf(total - 1, expected) <= level)


def _pairs(family: Ints) -> tuple[Ints, Ints]:
    """All pairs of rows of one family."""
    parts = [np.flatnonzero(family == code) for code in range(int(family.max()) + 1)]
    firsts, seconds = [], []
    for where in parts:
        first, second = np.triu_indices(len(where), k=1)
        firsts.append(where[first])
        seconds.append(where[second])
    return np.concatenate(firsts), np.concatenate(seconds)
