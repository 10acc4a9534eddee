"""The number planned gives the interval wanted, and one unit less does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flatscale.stats import (
    estimate_correlation,
    mean_estimate,
    number_for_correlation,
    number_for_mean,
    number_for_share,
    share_estimate,
)


def _sample_of_correlation(r: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two columns whose Pearson correlation is r, to rounding."""
    rng = np.random.default_rng(n)
    x = stats.zscore(rng.normal(size=n))
    z = rng.normal(size=n)
    z = stats.zscore(z - z.mean() - x * (z @ x) / n)
    return x, r * x + np.sqrt(1 - r**2) * z


@pytest.mark.parametrize(("half", "r"), [(0.1, 0.8), (0.1, 0.9), (0.2, 0.0), (0.3, -0.7)])
def test_a_correlation(half: float, r: float) -> None:
    number = number_for_correlation(half, r=r)
    for n, enough in ((number, True), (number - 1, False)):
        found = estimate_correlation(*_sample_of_correlation(r, n))
        assert found.estimate == pytest.approx(r)
        assert ((found.conf_high - found.conf_low) / 2 <= half) is enough


def test_a_mean() -> None:
    number = number_for_mean(0.5)
    for n, enough in ((number, True), (number - 1, False)):
        found = mean_estimate(stats.zscore(np.arange(n), ddof=1))
        assert ((found.conf_high - found.conf_low) / 2 <= 0.5) is enough


def test_a_share() -> None:
    number = number_for_share(0.9)
    assert share_estimate([True] * number).conf_low >= 0.9
    assert share_estimate([True] * (number - 1)).conf_low < 0.9


def test_what_cannot_be_planned_is_refused() -> None:
    for refused in (
        lambda: number_for_correlation(0, r=0.5),
        lambda: number_for_correlation(0.1, r=1),
        lambda: number_for_mean(0.1, confidence=1),
        lambda: number_for_share(1),
    ):
        with pytest.raises(ValueError, match="between"):
            refused()
    with pytest.raises(ValueError, match="more than 1000000 units needed"):
        number_for_mean(1e-4)
