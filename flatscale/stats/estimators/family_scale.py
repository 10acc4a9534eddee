"""A robust scale for every family, shrunken toward the common one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from flatscale.stats.estimators.variance_components import between_families, pair_scale
from flatscale.stats.sample import Floats, Ints

_DRAWS = 4000
_MIN_ROWS = 3
_REACH = 2.5


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyScales:
    """`common`: standard deviation within families. Arrays of shape (F,): `log_ratio`, log of
    each family's own over the common one, with its `sampling` variance (infinite below 3 rows);
    `scale`, the shrunken scales.
    """

    common: float
    log_ratio: Floats
    sampling: Floats
    scale: Floats


def family_scales(z: Floats, family: Ints) -> FamilyScales | None:
    """Scale of the residuals z (n,) in each family; None where they do not vary within families.

    A family's own scale is that of its `core`, over the one expected of as many normal values: up
    to half of its rows may lie anywhere. Its logarithm is shrunken toward the common one by
    omega^2/(omega^2 + v_n), omega the spread of log scales between families and v_n the sampling
    variance. Source of shortest-interval scales: Rousseeuw & Leroy 1988.
    """
    common = pair_scale(z, family)
    if not common:
        return None
    sizes = np.bincount(family)
    ratio, sampling = np.zeros(len(sizes)), np.full(len(sizes), np.inf)
    for code in np.flatnonzero(sizes >= _MIN_ROWS):
        own = float(core(np.sort(z[family == code])[None, :], common)[1][0])
        mean, variance, _ = expected_core(int(sizes[code]))
        ratio[code], sampling[code] = own - mean, variance
    known = np.isfinite(sampling)
    scale = np.full(len(sizes), common)
    if known.sum() >= _MIN_ROWS:
        weights = sizes[known] / (sizes[known] + 4.0)
        found = between_families(ratio[known], sampling[known], weights)
        scale[known] *= np.exp(found.share * (ratio[known] - found.center))
    return FamilyScales(common=common, log_ratio=ratio, sampling=sampling, scale=scale)


def core(ascending: Floats, common: float) -> tuple[Floats, Floats]:
    """Center of the core of each row of (B, n) sorted values, and the log of its standard
    deviation over `common`; both (B,).

    The shortest interval with two fifths of the values gives a first center and scale (its length
    over that expected, halfway to the common scale in logs); the core is what lies within 2.5 of
    these scales. Less than half, so that a family split in two has a core.
    """
    n = ascending.shape[1]
    held = max(2, 2 * n // 5 + 1)
    widths = ascending[:, held - 1 :] - ascending[:, : n - held + 1]
    start = widths.argmin(axis=1)
    row = np.arange(len(ascending))
    width = np.maximum(widths[row, start], 0.01 * common)
    first = (ascending[row, start] + ascending[row, start + held - 1]) / 2
    cut = _REACH * np.sqrt(width * common / _expected_width(n, held))
    inside = np.abs(ascending - first[:, None]) <= cut[:, None]
    # at least the two values nearest to the first center
    inside[row, start], inside[row, start + held - 1] = True, True
    count = inside.sum(axis=1)
    center = np.einsum("bn,bn->b", inside, ascending) / count
    squares = np.einsum("bn,bn->b", inside, (ascending - center[:, None]) ** 2)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    return center, np.log(np.maximum(deviation / common, 0.05))


@functools.cache
def _expected_width(n: int, held: int) -> float:
    values = np.sort(np.random.default_rng(n).standard_normal((_DRAWS, n)), axis=1)
    widths = (values[:, held - 1 :] - values[:, : n - held + 1]).min(axis=1)
    return float(np.exp(np.log(widths).mean()))


@functools.cache
def expected_core(n: int) -> tuple[float, float, float]:
    """Mean and variance of the log deviation of the `core` of n standard normal values, and the
    variance of its center; simulated once.
    """
    values = np.sort(np.random.default_rng(n + 1).standard_normal((_DRAWS, n)), axis=1)
    center, logs = core(values, 1.0)
    return float(logs.mean()), float(logs.var()), float(np.mean(center**2))
