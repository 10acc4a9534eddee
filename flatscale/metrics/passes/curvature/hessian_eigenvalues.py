"""The two ends of the Hessian's spectrum, from one Lanczos run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface, loss_surface
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.registration import measurement_pass, metric

_LOOSER = (0.05, 0.5)
"""Where the tolerance is not reached, the ends are given to one of these, as not converged."""
_DENSE = 24
"""Up to this many parameters the Hessian is assembled whole."""


@dataclass(frozen=True, kw_only=True)
class ExtremeEigenvalues:
    """The two ends of the Hessian's spectrum.

    Attributes:
        top, bottom: the eigenvalues.
        top_residual, bottom_residual: ||H v - lambda v|| of their unit eigenvectors.
        converged: whether both reached the tolerance.
        num_evaluations: per point: a Hessian-vector product is a forward and three backwards' work.
        num_points: points of the loss.
        notes: what measurements must say.
    """

    top: float
    bottom: float
    top_residual: float
    bottom_residual: float
    converged: bool
    num_evaluations: int
    num_points: int
    notes: tuple[str, ...]


@measurement_pass("extreme_eigenvalues")
def extreme_eigenvalues(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    tolerance: PositiveFloat = 1e-3,
    max_iterations: PositiveInt = 100,
) -> ExtremeEigenvalues:
    """Both ends of the Hessian's spectrum from one Lanczos run (ARPACK, both-ends mode).

    Args:
        observers: the point sets; the probe's is used.
        seed: of the start vector.
        tolerance: relative accuracy asked of the eigenvalues.
        max_iterations: most restarts of the iteration.
    """
    surface = loss_surface(required(observers, "probe"))
    size = len(surface.theta)
    if size <= _DENSE:
        values, vectors = np.linalg.eigh(surface.hessian_products(np.eye(size)))
        pairs, products, converged = (values[[0, -1]], vectors[:, [0, -1]]), size, True
    else:
        pairs, products, converged = _both_ends(surface, tolerance, max_iterations, seed)
    values, vectors = pairs
    residuals = np.linalg.norm(
        surface.hessian_products(vectors.T) - values[:, None] * vectors.T, axis=1
    )
    return ExtremeEigenvalues(
        top=float(values[-1]),
        bottom=float(values[0]),
        top_residual=float(residuals[-1]),
        bottom_residual=float(residuals[0]),
        converged=converged,
        num_evaluations=4 * (products + 2),
        num_points=surface.num_points,
        notes=surface.notes,
    )


@metric(
    "top_eigenvalue",
    passes=("extreme_eigenvalues",),
    formula="λ_max(∇²_θ mean_i loss_i)",
    group="sharpness",
    value_range="(-inf, inf)",
)
def top_eigenvalue(ends: ExtremeEigenvalues) -> Measurement:
    """Largest eigenvalue of the loss's Hessian."""
    return _end("top_eigenvalue", ends, ends.top, (ends.top_residual,))


@metric(
    "bottom_eigenvalue",
    passes=("extreme_eigenvalues",),
    formula="λ_min(∇²_θ mean_i loss_i)",
    group="sharpness",
    value_range="(-inf, inf)",
)
def bottom_eigenvalue(ends: ExtremeEigenvalues) -> Measurement:
    """Smallest eigenvalue of the loss's Hessian; negative away from a minimum."""
    return _end("bottom_eigenvalue", ends, ends.bottom, (ends.bottom_residual,))


@metric(
    "eigenvalue_ratio",
    passes=("extreme_eigenvalues",),
    formula="|λ_min| / λ_max",
    group="sharpness",
)
def eigenvalue_ratio(ends: ExtremeEigenvalues) -> Measurement:
    """How negative the Hessian's spectrum is, against its top: 0 at a minimum."""
    if ends.top <= 0.0:
        raise MetricError(f"the top eigenvalue is {ends.top:.3g}, not positive: no ratio")
    ratio = abs(ends.bottom) / ends.top
    return _end("eigenvalue_ratio", ends, ratio, (ends.top_residual, ends.bottom_residual))


def _both_ends(
    surface: LossSurface, asked: float, max_iterations: int, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], int, bool]:
    size, products = len(surface.theta), 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return surface.hessian_products(v.reshape(1, -1))[0]

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    for tolerance in (asked, *(t for t in _LOOSER if t > asked)):
        try:
            values, vectors = eigsh(
                operator,
                k=2,
                which="BE",
                v0=start,
                tol=tolerance,
                maxiter=max_iterations,
            )
        except ArpackNoConvergence:
            continue
        order = np.argsort(values)
        return (values[order], vectors[:, order]), products, tolerance == asked
    raise MetricError(
        f"Lanczos did not converge in {max_iterations} restarts, not even to a relative "
        f"accuracy of {_LOOSER[-1]} ({products} Hessian-vector products)"
    )


def _end(
    name: str, ends: ExtremeEigenvalues, value: float, residuals: tuple[float, ...]
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        converged=ends.converged,
        num_evaluations=ends.num_evaluations,
        num_points=ends.num_points,
        extras={"residual_norm": residuals},
    )
