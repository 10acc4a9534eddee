"""The one loop that draws until an estimate is accurate, and standard errors of few draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.special import ndtr, stdtrit

Draw = TypeVar("Draw")


class Accuracy(Protocol):
    """An estimate that knows its standard error as a share of its value."""

    @property
    def relative_error(self) -> float: ...


Found = TypeVar("Found", bound=Accuracy)


@dataclass(frozen=True, kw_only=True)
class Drawn(Generic[Found]):
    """What the draws came to.

    Attributes:
        estimate: from all draws.
        num_draws: how many those are.
        converged: whether the estimate is as accurate as asked.
    """

    estimate: Found
    num_draws: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class MeanOfDraws:
    """An offset known exactly plus the mean of independent draws, with its standard error."""

    value: float
    std_error: float

    @classmethod
    def of(cls, draws: Sequence[float], offset: float = 0.0) -> MeanOfDraws:
        return cls(value=offset + float(np.mean(draws)), std_error=error_of_draws(draws))

    @property
    def relative_error(self) -> float:
        return share(self.std_error, self.value)


def draw_until_accurate(
    draw: Callable[[int, int], Sequence[Draw]],
    estimate: Callable[[Sequence[Draw]], Found],
    *,
    first: int,
    most: int,
    max_relative_error: float,
    fewest: int = 1,
    schedule: Callable[[int, float], int] | None = None,
) -> Drawn[Found]:
    """Draw, estimate from all draws so far, and draw more until the estimate is accurate.

    Args:
        draw: (start, stop) -> the draws of these numbers.
        estimate: all draws -> the estimate.
        first: draws of the first batch.
        most: draws after which the budget is spent; `first` are drawn even where it is less.
        max_relative_error: of the estimate, for it to count as converged.
        fewest: draws below which their own spread says too little to count as converged.
        schedule: (draws so far, relative error over the asked one) -> draws to have next; twice
            as many by default.
    """
    draws: list[Draw] = []
    target = first
    while True:
        draws.extend(draw(len(draws), target))
        found = estimate(draws)
        excess = found.relative_error / max_relative_error
        converged = excess <= 1.0 and len(draws) >= fewest
        if converged or target >= most:
            return Drawn(estimate=found, num_draws=target, converged=converged)
        target = min(most, schedule(target, excess) if schedule else 2 * target)


def as_many_as_needed(num_draws: int, excess: float, growth: int = 2) -> int:
    """The draws that a standard error falling with their root needs, up to `growth` times those."""
    needed = np.ceil(1.1 * num_draws * min(excess, 1e6) ** 2)
    return int(np.clip(needed, num_draws + 1, growth * num_draws))


def share(error: float, value: float) -> float:
    """error / |value|; zero for no error, infinite for an error of nothing."""
    if error == 0.0:
        return 0.0
    return error / abs(value) if value else float("inf")


def error_of_draws(draws: Sequence[float]) -> float:
    """Standard error of the mean of independent draws, widened where they are few.

    By Student's t, so that two of them cover the truth as often as with many draws (95.4%).
    """
    count = len(draws)
    return widening(count - 1) * float(np.std(draws, ddof=1)) / float(np.sqrt(count))


def widening(degrees_of_freedom: float) -> float:
    """What a standard error of so few degrees of freedom is multiplied by, that two cover 95.4%."""
    return float(stdtrit(degrees_of_freedom, ndtr(2.0))) / 2.0
