"""Near copies inside a family (seeds, distilled variants) count as one network in the scan."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import poisson

from flatscale.stats.estimators.families import demean
from flatscale.stats.estimators.family_effects import family_moments
from flatscale.stats.estimators.variance_components import pair_scale
from flatscale.stats.sample import Floats, Ints

_RADII = (0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
_EXCESS, _TABLE_EXCESS = 2.0, 1.3
_LEVEL, _TABLE_LEVEL = 0.01, 1e-4
_BESIDE_EXCESS, _BESIDE_LEVEL = 1.1, 0.01
_SHUFFLES = 8
_CLUMP_WIDTH = 0.5
_CLUMP_LEVEL = 0.05
_CLUMP_DRAWS = 99
_MIN_CLUMPED = 3
_BLOCK = 20_000


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
    """Whether the rows of each family (F,) still lie in clumps, p <= 5% for each.

    The score of a family is the sum over its rows of exp(-d^2/(2 * 0.5^2)), d the distance to the
    nearest other one in (x, z), in robust standard deviations within families. p is
    (1 + #{null >= observed})/(99 + 1) among draws that keep the x of the family (which may be a
    grid) and take z from the centred residuals of the other families (which may be skewed or
    rounded), at the family's moderated variance times degrees/chi^2_degrees, as it is estimated.
    A family below 3 rows never does. Nearest neighbours against independent points: Clark & Evans
    1954.
    """
    clumped = np.zeros(int(family.max()) + 1, dtype=bool)
    scale_x, scale_z = pair_scale(x, family), pair_scale(z, family)
    if not scale_x or not scale_z:
        return clumped
    x, z = x / scale_x, z / scale_z
    moments = family_moments(x, z, family)
    # centred values of n rows have 1 - 1/n of their variance
    unit = np.sqrt(moments.var_y * np.maximum(1 - 1 / moments.sizes, 0.5))[family]
    if not unit.all():
        return clumped
    relative, several = demean(z, family) / unit, moments.sizes[family] > 1
    rng = np.random.default_rng(0)
    for code in np.flatnonzero(moments.sizes >= _MIN_CLUMPED):
        where, others = family == code, relative[several & (family != code)]
        if not len(others):
            continue
        degrees = moments.degrees[code]
        variance = moments.var_y[code] * degrees / rng.chisquare(degrees, size=(_CLUMP_DRAWS, 1))
        null = np.sqrt(variance) * rng.choice(others, size=(_CLUMP_DRAWS, int(where.sum())))
        scores = _nearness(x[where], np.vstack([z[where], null]))
        clumped[code] = np.mean(scores >= scores[0] - 1e-12) <= _CLUMP_LEVEL
    return clumped


def _nearness(x: Floats, z: Floats) -> Floats:
    """The score of `clumped_families` for each of B rows of z (B, n) over x (n,), shape (B,)."""
    apart = (x[:, None] - x) ** 2
    np.fill_diagonal(apart, np.inf)
    # as many rows of z at a time as keep the squares in the cache
    parts = np.array_split(z, min(len(z), 1 + z.size * len(x) // _BLOCK))
    nearest = [np.min(apart + (part[:, :, None] - part[:, None]) ** 2, axis=1) for part in parts]
    return np.exp(-np.concatenate(nearest) / (2 * _CLUMP_WIDTH**2)).sum(axis=1)


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
