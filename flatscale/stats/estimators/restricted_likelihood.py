"""Restricted maximum likelihood of a linear mixed model with one grouping, up to two random terms.

y = X b + Z u + e, u ~ N(0, s^2 L L') in each group, e ~ N(0, s^2). The fixed effects and s^2 are
profiled out, so the search is over the one or three entries of the triangle L alone, and a group
enters by Z'Z, Z'X, Z'y only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from flatscale.stats.sample import Floats, Ints

_STARTS = (1.0, 0.1)
_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class RestrictedFit:
    """The fit: fixed effects (p,), their covariance (p x p), u's covariance (q x q), s^2."""

    effects: Floats
    covariance: Floats
    random: Floats
    scale: float


def fit_by_reml(y: Floats, fixed: Floats, random: Floats, group: Ints) -> RestrictedFit | None:
    """Maximise the restricted likelihood of y (n,) on X (n x p), Z (n x q), q = 1 or 2.

    Minimises sum_g log |I + L'Z'Z L| + log |X'V^-1 X| + (n - p) log s^2, with V = I + Z L L'Z' and
    s^2 = (y - X b)'V^-1 (y - X b)/(n - p), from several starts. Columns should be of similar size.
    None where the fixed effects leave nothing over or are collinear. Source: Bates et al. 2015.
    """
    n, p, q = len(y), fixed.shape[1], random.shape[1]
    joined = np.column_stack([fixed, y])
    whole = joined.T @ joined
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    both = np.column_stack([random, joined])[order]
    parts = np.add.reduceat(both[:, :q, None] * both[:, None, :], starts, axis=0)
    inner, across = parts[:, :, :q], parts[:, :, q:]
    places = np.tril_indices(q)

    def reduced(theta: Floats) -> tuple[Floats, float, Floats]:
        """(X, y)'V^-1 (X, y), log |V| and L."""
        root = np.zeros((q, q))
        root[places] = theta
        middle = np.eye(q) + np.matmul(np.matmul(root.T, inner), root)
        scaled = np.matmul(root.T, across)
        explained = np.einsum("gik,gil->kl", scaled, np.linalg.solve(middle, scaled))
        return whole - explained, float(np.linalg.slogdet(middle)[1].sum()), root

    def deviance(theta: Floats) -> float:
        matrix, log_v, _ = reduced(theta)
        sign, log_x = np.linalg.slogdet(matrix[:p, :p])
        if sign <= 0:
            return np.inf
        rest = matrix[p, p] - matrix[p, :p] @ np.linalg.solve(matrix[:p, :p], matrix[:p, p])
        return log_v + float(log_x) + (n - p) * math.log(max(float(rest), _SMALLEST))

    if n <= p or np.linalg.matrix_rank(whole[:p, :p]) < p:
        return None
    bounds = [(0.0, 1e4) if i == j else (-1e4, 1e4) for i, j in zip(*places, strict=True)]
    best, lowest = None, np.inf
    for start in _STARTS:
        first = start * np.eye(q)[places]
        found = minimize(deviance, first, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13})
        reached = float(found.fun)
        if reached < lowest - 1e-9:
            best, lowest = np.asarray(found.x, dtype=np.float64), reached
    if best is None:
        return None
    matrix, _, root = reduced(best)
    effects: Floats = np.linalg.solve(matrix[:p, :p], matrix[:p, p]).astype(np.float64)
    scale = float(matrix[p, p] - matrix[p, :p] @ effects) / (n - p)
    if scale <= _SMALLEST:
        return None
    return RestrictedFit(
        effects=effects,
        covariance=scale * np.linalg.inv(matrix[:p, :p]),
        random=scale * root @ root.T,
        scale=scale,
    )
