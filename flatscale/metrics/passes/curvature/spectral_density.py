"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat
from scipy.linalg import eigh_tridiagonal

from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface, loss_surface
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.probe.point_means import error_of_draws
from flatscale.metrics.registration import measurement_pass, metric

AtLeastTwo = Annotated[int, Field(ge=2)]
_FEWEST_PROBES = 8
"""Fewer say too little about their own spread to count as converged."""


@measurement_pass("lanczos_quadrature")
def lanczos_quadrature(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    num_probes: AtLeastTwo = 8,
    max_probes: AtLeastTwo = 32,
    max_relative_error: PositiveFloat = 0.05,
    num_steps: AtLeastTwo = 40,
    num_bins: AtLeastTwo = 200,
    relative_width: PositiveFloat = 0.01,
) -> Measurement:
    """Stochastic Lanczos quadrature: nodes and weights of random vectors' spectral measures.

    Args:
        observers: the point sets; the probe's is used.
        seed: of the start vectors.
        num_probes: random start vectors drawn first.
        max_probes: most start vectors, where the mean is not accurate with the first.
        max_relative_error: stop once the mean's standard error is at most this share of it.
        num_steps: Lanczos steps from each.
        num_bins: points of the grid.
        relative_width: the broadening's standard deviation as a share of the spectrum's range.
    """
    surface = loss_surface(required(observers, "probe"))
    size, rng = len(surface.theta), np.random.default_rng(seed)
    steps = min(num_steps, size)
    nodes: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    means: list[float] = []
    target = num_probes
    while True:
        while len(means) < target:
            values, vectors = _tridiagonal_spectrum(surface, rng.standard_normal(size), steps)
            nodes.append(values)
            weights.append(vectors[0] ** 2)
            means.append(float(nodes[-1] @ weights[-1]))
        value, error = float(np.mean(means)), error_of_draws(means)
        within = error <= max_relative_error * abs(value)
        converged = within and target >= _FEWEST_PROBES
        if converged or target >= max_probes:
            break
        target = min(2 * target, max_probes)
    grid, density = _broadened(nodes, weights, num_bins, relative_width)
    return Measurement(
        name="spectral_density",
        value=value,
        std_error=error,
        converged=converged,
        num_evaluations=4 * steps * target,
        num_points=surface.num_points,
        reason="; ".join(surface.notes) or None,
        extras={
            "grid": tuple(float(v) for v in grid),
            "density": tuple(float(v) for v in density),
            "nodes": tuple(float(v) for v in np.concatenate(nodes)),
            "weights": tuple(float(v) for v in np.concatenate(weights) / len(weights)),
        },
    )


@metric(
    "spectral_density",
    passes=("lanczos_quadrature",),
    formula="φ(t) = (1/P) Σ_j δ(t − λ_j); the value is its mean, tr H / P",
    group="sharpness",
    value_range="(-inf, inf)",
    source="stochastic Lanczos quadrature: Ghorbani et al. 2019",
)
def spectral_density(estimate: Measurement) -> Measurement:
    """Density of the Hessian's eigenvalues, as a curve in extras (grid, density)."""
    return estimate


def _tridiagonal_spectrum(
    surface: LossSurface, start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the Lanczos tridiagonal matrix, fully reorthogonalised."""
    basis = [start / np.linalg.norm(start)]
    diagonal, off = [], []
    for step in range(steps):
        image = surface.hessian_products(basis[-1][None])[0]
        diagonal.append(float(image @ basis[-1]))
        earlier = np.array(basis)
        for _ in range(2):
            image = image - earlier.T @ (earlier @ image)
        length = float(np.linalg.norm(image))
        scale = max(map(abs, diagonal))
        if step == steps - 1 or length <= 1e-6 * scale:
            break
        off.append(length)
        basis.append(image / length)
    return eigh_tridiagonal(np.array(diagonal), np.array(off))


def _broadened(
    nodes: list[np.ndarray], weights: list[np.ndarray], num_bins: int, relative_width: float
) -> tuple[np.ndarray, np.ndarray]:
    values, shares = np.concatenate(nodes), np.concatenate(weights) / len(weights)
    span = float(np.ptp(values)) or max(abs(float(values[0])), 1.0)
    width = relative_width * span
    grid = np.linspace(values.min() - 4 * width, values.max() + 4 * width, num_bins)
    bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return grid, bumps @ shares
