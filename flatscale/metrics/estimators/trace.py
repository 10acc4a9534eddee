"""The trace of a symmetric operator from random products: Hutch++, or Hutchinson's estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatscale.metrics.estimators.accurate_draws import MeanOfDraws, draw_until_accurate
from flatscale.metrics.estimators.symmetric_operator import SymmetricOperator

_FIRST_SAMPLES = 10
"""Samples drawn first; fewer say too little about their own spread to count as converged."""


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """tr A with its standard error.

    Attributes:
        value: the estimate.
        std_error: two cover the truth in 95% of the cases.
        converged: whether std_error is at most the asked share of the value.
        num_products: products A v it took.
    """

    value: float
    std_error: float
    converged: bool
    num_products: int


def trace(
    operator: SymmetricOperator,
    *,
    seed: int,
    sketch_size: int = 10,
    max_relative_error: float = 0.05,
    max_products: int = 200,
) -> TraceEstimate:
    """tr A = tr Q^T A Q + E z^T (I - Q Q^T) A (I - Q Q^T) z, Q a basis of A's sketched range.

    The first term is exact, the second the mean over random signs z (Hutchinson 1989). Without a
    sketch it is Hutchinson's estimator.

    Args:
        operator: A (P, P).
        seed: of sketch and signs.
        sketch_size: columns of Q; each costs two products.
        max_relative_error: draw until the standard error is at most this share of the trace.
        max_products: at least 2 sketch_size + 2.

    Source: Hutch++, Meyer et al. 2021, Algorithm 1.
    """
    size, rng = operator.size, np.random.default_rng(seed)
    sketch = min(sketch_size, size)
    basis, exact = np.zeros((size, 0)), 0.0
    if sketch:
        images = operator.products(rng.choice([-1.0, 1.0], size=(sketch, size)))
        basis = np.linalg.qr(images.T)[0]
        exact = float(np.sum(basis.T * operator.products(basis.T)))

    def draw(start: int, stop: int) -> list[float]:
        signs = rng.choice([-1.0, 1.0], size=(stop - start, size))
        signs -= (signs @ basis) @ basis.T
        return list(np.sum(signs * operator.products(signs), axis=1))

    most = max_products - 2 * sketch
    first = min(_FIRST_SAMPLES, most)
    whole = sketch == size  # nothing is left to estimate
    drawn = draw_until_accurate(
        draw,
        lambda samples: MeanOfDraws.of(samples, exact),
        first=first,
        most=first if whole else most,
        max_relative_error=max_relative_error,
        fewest=1 if whole else _FIRST_SAMPLES,
    )
    return TraceEstimate(
        value=drawn.estimate.value,
        std_error=drawn.estimate.std_error,
        converged=drawn.converged,
        num_products=2 * sketch + drawn.num_draws,
    )
