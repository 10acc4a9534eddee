"""The density of a symmetric operator's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from flatscale.metrics.estimators.accurate_draws import MeanOfDraws, draw_until_accurate
from flatscale.metrics.estimators.lanczos import lanczos
from flatscale.metrics.estimators.symmetric_operator import SymmetricOperator

_FEWEST_PROBES = 8
"""Fewer say too little about their own spread to count as converged."""
_EXHAUSTED = 1e-6
"""A Krylov space ends where the next vector is this short against the matrix' size."""


@dataclass(frozen=True, kw_only=True)
class Quadrature:
    """Nodes (S,) and weights (S,) of a start vector's spectral measure; the weights sum to one."""

    nodes: np.ndarray
    weights: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.nodes @ self.weights)


@dataclass(frozen=True, kw_only=True)
class SpectralDensity:
    """phi(t) = (1/P) sum_j delta(t - lambda_j), as nodes with weights.

    Attributes:
        nodes, weights: of all start vectors together; the weights sum to one.
        mean, std_error: the density's mean tr A / P, with its standard error over start vectors.
        converged: whether std_error is at most the asked share of the mean.
        num_products: products A v it took.
    """

    nodes: np.ndarray
    weights: np.ndarray
    mean: float
    std_error: float
    converged: bool
    num_products: int

    def broadened(self, num_bins: int, relative_width: float) -> tuple[np.ndarray, np.ndarray]:
        """A grid (num_bins,) and the density there, every node a Gaussian.

        Args:
            num_bins: points of the grid.
            relative_width: the Gaussians' standard deviation as a share of the spectrum's range.
        """
        nodes = self.nodes
        span = float(np.ptp(nodes)) or max(abs(float(nodes[0])), 1.0)
        width = relative_width * span
        grid = np.linspace(nodes.min() - 4 * width, nodes.max() + 4 * width, num_bins)
        bumps = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2)
        return grid, bumps / (width * np.sqrt(2 * np.pi)) @ self.weights


def spectral_density(
    operator: SymmetricOperator,
    *,
    seed: int,
    num_probes: int = 8,
    max_probes: int = 32,
    max_relative_error: float = 0.05,
    num_steps: int = 40,
) -> SpectralDensity:
    """Gauss quadratures of random vectors' spectral measures, until their mean is accurate.

    Args:
        operator: A (P, P).
        seed: of the start vectors.
        num_probes: random start vectors drawn first.
        max_probes: most start vectors, where the mean is not accurate with the first.
        max_relative_error: stop once the mean's standard error is at most this share of it.
        num_steps: Lanczos steps from each.

    Source: Ghorbani et al. 2019; Golub & Meurant 2010.
    """
    steps, rng = min(num_steps, operator.size), np.random.default_rng(seed)
    found: list[Quadrature] = []

    def draw(start: int, stop: int) -> list[float]:
        for _ in range(start, stop):
            found.append(quadrature(operator, rng.standard_normal(operator.size), steps))
        return [rule.mean for rule in found[start:]]

    drawn = draw_until_accurate(
        draw,
        MeanOfDraws.of,
        first=num_probes,
        most=max_probes,
        max_relative_error=max_relative_error,
        fewest=_FEWEST_PROBES,
    )
    return SpectralDensity(
        nodes=np.concatenate([rule.nodes for rule in found]),
        weights=np.concatenate([rule.weights for rule in found]) / len(found),
        mean=drawn.estimate.value,
        std_error=drawn.estimate.std_error,
        converged=drawn.converged,
        num_products=steps * drawn.num_draws,
    )


def quadrature(operator: SymmetricOperator, start: np.ndarray, num_steps: int) -> Quadrature:
    """Gauss quadrature of the start vector's spectral measure, of so many nodes or fewer.

    The nodes are the Ritz values, the weights the squares of their vectors' first entries.
    """

    def product(v: Tensor) -> Tensor:
        return torch.from_numpy(operator.products(v.numpy()))

    for krylov in islice(lanczos(product, torch.from_numpy(start[None])), num_steps):
        if float(krylov.residual_norm) <= _EXHAUSTED * float(krylov.diagonal.abs().max()):
            break
    values, vectors = krylov.eigenpairs()
    return Quadrature(nodes=values[0].numpy(), weights=vectors[0, 0].square().numpy())
