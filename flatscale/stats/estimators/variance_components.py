"""Robust spread of residuals within and between families, for the null of the family scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from flatscale.stats.sample import Floats, Ints

_CAP = 2.5**2
_NORMAL_PAIR_MEDIAN = 0.6744897501960817 * np.sqrt(2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """sigma: standard deviation within families; tau: between. Functions below draw tau with its
    uncertainty.
    """

    sigma: float
    tau: float
    centers: Floats
    sampling: Floats
    weights: Floats


def components(z: Floats, family: Ints, num_families: int) -> Components | None:
    """sigma from within-family pair differences (each pair weighted 1/n_f), tau by a robust
    Paule-Mandel equation.

    sigma is the weighted median of |z_i - z_j| over 0.6745 sqrt 2. tau^2 solves
    sum_f w_f min(u_f, c) = sum_f w_f E[min(chi^2_1, c)], u_f = (m_f - m)^2/(tau^2 + s_f^2), w_f =
    n_f/(n_f + 4), c = 2.5^2, with m_f the family's median (mean below 3 rows), s_f^2 its sampling
    variance and m the weighted median of the m_f. None when no family has two rows.
    """
    groups = [z[family == code] for code in range(num_families)]
    differences, pair_weights = [], []
    for values in groups:
        if len(values) > 1:
            first, second = np.triu_indices(len(values), k=1)
            differences.append(np.abs(values[first] - values[second]))
            pair_weights.append(np.full(len(first), 1 / len(values)))
    if not differences:
        return None
    sigma = weighted_median(np.concatenate(differences), np.concatenate(pair_weights))
    sigma /= float(_NORMAL_PAIR_MEDIAN)
    sizes = np.array([len(values) for values in groups], dtype=np.float64)
    centers = np.array([np.median(values) for values in groups])
    # variance of a normal median over that of the mean: pi/2 in large families, 1 up to two rows
    inefficiency = np.where(sizes <= 2, 1.0, 1 + (np.pi / 2 - 1) * (1 - 1.5 / sizes))
    found = Components(
        sigma=sigma,
        tau=0.0,
        centers=centers,
        sampling=inefficiency * sigma**2 / sizes,
        weights=sizes / (sizes + 4),
    )
    tau = _solve(found, np.array([_expected(found.weights)]))[0]
    return Components(
        sigma=sigma, tau=float(tau), centers=centers, sampling=found.sampling, weights=found.weights
    )


def draw_tau(found: Components, size: int, rng: np.random.Generator) -> Floats:
    """`size` values of tau from its confidence distribution.

    The left-hand side of the equation for tau^2 is, at the true value, distributed as
    sum_f w_f min(g_f^2, c) with g_f standard normal; solving it for draws of that sum gives tau.
    """
    normal = rng.standard_normal((size, len(found.weights)))
    return _solve(found, np.minimum(normal**2, _CAP) @ found.weights)


def _expected(weights: Floats) -> float:
    # E[min(g^2, c)] of a standard normal g, c = 2.5^2
    c = np.sqrt(_CAP)
    inside = 1 - 2 * norm.sf(c) - 2 * c * norm.pdf(c)
    return float(weights.sum() * (inside + 2 * _CAP * norm.sf(c)))


def _solve(found: Components, targets: Floats) -> Floats:
    """tau at which the capped, weighted sum of squares meets each target; 0 where it never does."""
    spread = (found.centers - weighted_median(found.centers, found.weights)) ** 2
    top = 100 * (float(spread.max()) + found.sigma**2)
    grid = np.concatenate([[0.0], np.geomspace(top * 1e-7, top, 400)])
    sums = np.minimum(spread / (grid[:, None] + found.sampling), _CAP) @ found.weights
    return np.sqrt(np.interp(-targets, -sums, grid))


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value at which the cumulative weight passes one half."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
