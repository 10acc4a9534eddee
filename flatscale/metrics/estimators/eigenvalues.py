"""The two ends of a symmetric operator's spectrum, from one Lanczos run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from flatscale.errors import MetricError
from flatscale.metrics.estimators.symmetric_operator import SymmetricOperator

_LOOSER = (0.05, 0.5)
"""Where the tolerance is not reached, the ends are given to one of these, as not converged."""
_DENSE = 24
"""Up to this size the matrix is assembled whole."""


@dataclass(frozen=True, kw_only=True)
class ExtremeEigenvalues:
    """The two ends of a spectrum.

    Attributes:
        top, bottom: the eigenvalues.
        top_residual, bottom_residual: ||A v - lambda v|| of their unit eigenvectors.
        converged: whether both reached the tolerance.
        num_products: products A v it took.
    """

    top: float
    bottom: float
    top_residual: float
    bottom_residual: float
    converged: bool
    num_products: int


def extreme_eigenvalues(
    operator: SymmetricOperator, *, seed: int, tolerance: float = 1e-3, max_iterations: int = 100
) -> ExtremeEigenvalues:
    """Both ends from one run of ARPACK's restarted Lanczos iteration, in its both-ends mode.

    Restarts keep some twenty vectors of the operator's size, whatever the number of products.

    Args:
        operator: A (P, P).
        seed: of the start vector and of restarts.
        tolerance: relative accuracy asked of the eigenvalues.
        max_iterations: most restarts.

    Raises:
        MetricError: not even a loose tolerance is reached.
    """
    if operator.size <= _DENSE:
        values, vectors = np.linalg.eigh(operator.products(np.eye(operator.size)))
        values, vectors = values[[0, -1]], vectors[:, [0, -1]]
        num_products, converged = operator.size, True
    else:
        values, vectors, num_products, converged = _both_ends(
            operator, seed, tolerance, max_iterations
        )
    residuals = np.linalg.norm(operator.products(vectors.T) - values[:, None] * vectors.T, axis=1)
    return ExtremeEigenvalues(
        top=float(values[-1]),
        bottom=float(values[0]),
        top_residual=float(residuals[-1]),
        bottom_residual=float(residuals[0]),
        converged=converged,
        num_products=num_products + 2,
    )


def _both_ends(
    operator: SymmetricOperator, seed: int, asked: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    num_products = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal num_products
        num_products += 1
        return operator.products(v.reshape(1, -1))[0]

    size = operator.size
    matrix = LinearOperator((size, size), matvec=product, dtype=np.float64)
    rng = np.random.default_rng(seed)  # ARPACK draws from it too, where it has to start anew
    start = rng.standard_normal(size)
    for tolerance in (asked, *(t for t in _LOOSER if t > asked)):
        try:
            values, vectors = eigsh(
                matrix, k=2, which="BE", v0=start, tol=tolerance, maxiter=max_iterations, rng=rng
            )
        except ArpackNoConvergence:
            continue
        order = np.argsort(values)
        return values[order], vectors[:, order], num_products, tolerance == asked
    raise MetricError(
        f"Lanczos did not converge in {max_iterations} restarts, not even to a relative "
        f"accuracy of {_LOOSER[-1]} ({num_products} products with the matrix)"
    )
