"""What the estimators of this room are given: a symmetric matrix known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SymmetricOperator:
    """A symmetric matrix A (P, P) that is never assembled.

    Attributes:
        size: P.
        products: rows v (K, P) to rows A v (K, P), in float64.
    """

    size: int
    products: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of_matrix(cls, matrix: np.ndarray) -> SymmetricOperator:
        """The operator of a symmetric matrix that is at hand."""
        return cls(size=len(matrix), products=lambda rows: rows @ matrix)
