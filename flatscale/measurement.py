"""The record every metric returns, which store, tracking and statistics read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One metric of one network on one probe set.

    Attributes:
        name: the metric's registered name.
        value: the estimate; None when it could not be computed, and then `reason` says why.
        std_error: its standard error (over probe points, Monte-Carlo draws, or both); None for a
            quantity that has none.
        converged: whether the estimator reached its own tolerance within its budget.
        num_evaluations: network evaluations spent per probe point (a forward or a backward counts
            one; a pass shared by several metrics is counted in full in each of them).
        num_points: probe points the value rests on.
        reason: why there is no value, or what a reader must know about it (points left out and why,
            attention switched to an implementation with double backward).
        layers: the parts of a definition that sums over layers, by layer name, in forward order.
        extras: named series that belong to the value (a spectral density's grid and density, a
            bound's violations and slack).
    """

    name: str
    value: float | None
    std_error: float | None = None
    converged: bool = True
    num_evaluations: int = 0
    num_points: int = 0
    reason: str | None = None
    layers: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError(f"measurement {self.name!r} has no value and no reason")
        if self.value is not None and not math.isfinite(self.value) and not self.reason:
            raise ValueError(f"measurement {self.name!r} is {self.value} without a reason")

    @classmethod
    def failed(cls, name: str, reason: str) -> Measurement:
        """A metric that could not be computed: no value, not converged, and why."""
        return cls(name=name, value=None, converged=False, reason=reason)
