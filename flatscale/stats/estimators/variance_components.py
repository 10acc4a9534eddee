"""Robust spread of a quantity between families, with the uncertainty of its estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from flatscale.stats.sample import Floats, Ints

_CAP = 2.5**2
_NORMAL_PAIR_MEDIAN = 0.6744897501960817 * np.sqrt(2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Between:
    """One quantity of F families: its estimates, their sampling variances and their true spread.

    `spread` is the standard deviation between families beyond sampling, `center` the weighted
    median; arrays have shape (F,).
    """

    center: float
    spread: float
    values: Floats
    sampling: Floats
    weights: Floats

    @property
    def share(self) -> Floats:
        """Part of each family's deviation that is its own rather than sampling, 0 to 1."""
        total = self.spread**2 + self.sampling
        return np.divide(self.spread**2, total, out=np.zeros_like(total), where=total > 0)


def between_families(values: Floats, sampling: Floats, weights: Floats) -> Between:
    """Spread between families from a robust Paule-Mandel equation.

    spread^2 = t solves sum_f w_f min(u_f, c) = sum_f w_f E[min(chi^2_1, c)] with
    u_f = (v_f - m)^2/(t + s_f^2), c = 2.5^2 and m the weighted median of the values v_f.
    Source: Paule & Mandel 1982, capped so that one family far off does not set the spread.
    """
    found = Between(
        center=weighted_median(values, weights),
        spread=0.0,
        values=values,
        sampling=sampling,
        weights=weights,
    )
    squares = (values - found.center) ** 2
    target = np.array([_EXPECTED * weights.sum()])
    spread = float(_solve(squares, sampling, weights, target)[0])
    return Between(
        center=found.center, spread=spread, values=values, sampling=sampling, weights=weights
    )


def leave_out_spreads(squares: Floats, sampling: Floats, weights: Floats, lost: int) -> Floats:
    """Spread of the other families for each family left out, shape (F,).

    `squares` (F, F) holds in row f the squared deviations without family f; `lost` counts the
    parameters fitted to them.
    """
    others = np.where(np.eye(len(weights), dtype=bool), 0.0, weights)
    kept = 1 - lost / (len(weights) - 1)
    top = 100 * (float(squares.max()) + float(sampling.max()))
    grid = np.concatenate([[0.0], np.geomspace(top * 1e-7, top, 120)])
    ratio = squares[None] / (grid[:, None, None] + sampling)
    sums = np.einsum("gfj,fj->gf", np.minimum(ratio, _CAP), others)
    target = kept * _EXPECTED * others.sum(axis=1)
    return np.sqrt([np.interp(-t, -s, grid) for t, s in zip(target, sums.T, strict=True)])


def pair_scale(z: Floats, family: Ints) -> float | None:
    """Robust standard deviation within families: the weighted median of |z_i - z_j| over pairs
    within families over 0.6745 sqrt 2, each pair weighted 1/n_f; None without any pair.
    """
    differences, pair_weights = [], []
    for code in range(int(family.max()) + 1):
        values = z[family == code]
        if len(values) > 1:
            first, second = np.triu_indices(len(values), k=1)
            differences.append(np.abs(values[first] - values[second]))
            pair_weights.append(np.full(len(first), 1 / len(values)))
    if not differences:
        return None
    middle = weighted_median(np.concatenate(differences), np.concatenate(pair_weights))
    return middle / float(_NORMAL_PAIR_MEDIAN)


def _expected() -> float:
    # E[min(g^2, c)] of a standard normal g, c = 2.5^2
    c = np.sqrt(_CAP)
    return float(1 - 2 * norm.sf(c) - 2 * c * norm.pdf(c) + 2 * _CAP * norm.sf(c))


_EXPECTED = _expected()


def _solve(squares: Floats, sampling: Floats, weights: Floats, targets: Floats) -> Floats:
    """Spread at which the capped, weighted sum of squares meets each target; 0 where it never
    does.
    """
    top = 100 * (float(squares.max()) + float(sampling.max()))
    grid = np.concatenate([[0.0], np.geomspace(top * 1e-7, top, 400)])
    sums = np.minimum(squares / (grid[:, None] + sampling), _CAP) @ weights
    return np.sqrt(np.interp(-targets, -sums, grid))


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value at which the cumulative weight passes one half."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
