"""Standard errors of means of few independent draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, stdtrit


def error_of_draws(draws: Sequence[float]) -> float:
    """Standard error of the mean of independent draws, widened where they are few.

    By Student's t, so that two of them cover the truth as often as with many draws (95.4%).
    """
    count = len(draws)
    return widening(count - 1) * float(np.std(draws, ddof=1)) / float(np.sqrt(count))


def widening(degrees_of_freedom: float) -> float:
    """What a standard error of so few degrees of freedom is multiplied by, that two cover 95.4%."""
    return float(stdtrit(degrees_of_freedom, ndtr(2.0))) / 2.0
