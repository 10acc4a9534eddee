"""Entropy of what is counted: plug-in estimates, one term a point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def surprisal(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log2 p(c_i) of every point (n,), p the share of points with the same code.

    Its mean is the plug-in entropy in bits, at most log2 n, which it reaches where no two points
    share a code; it is too small by about (codes - 1) / (2 n ln 2) bits (Miller 1955).

    Args:
        codes: (n,), or (n, k) for the joint entropy of k codes.
    """
    _, places, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(np.log2(max(len(codes), 1)) - np.log2(counts[places.reshape(-1)]))


def shared_surprisal(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    """log2 p(a_i, b_i) / (p(a_i) p(b_i)) of every point (n,); its mean is I(A; B) in bits."""
    return surprisal(one) + surprisal(other) - surprisal(np.stack([one, other], axis=1))
