"""The learning rate over the steps, by name: each schedule is one decorated function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from flatscale.study.registry import Registered, Registry
from flatscale.study.schema import ScheduleConfig

Schedule = Callable[..., float]
"""(step, number of steps, **constants) -> factor of the learning rate."""

SCHEDULES: Registry[Registered] = Registry("schedule")
_Share = Annotated[float, Field(ge=0, le=1)]
_Step = Annotated[int, Field(ge=1)]


def schedule(name: str, *, version: str | None = None) -> Callable[[Schedule], Schedule]:
    """Register a schedule: (step, number of steps, *, constants) -> factor of the learning rate.

    Both count from the end of the warm-up; steps from 0, up to the step limit.
    """

    def add(function: Schedule) -> Schedule:
        SCHEDULES.add(Registered(name=name, function=function, version=version))
        return function

    return add


def schedule_constants(config: ScheduleConfig) -> dict[str, Any]:
    """The constants of a schedule, as its function takes them.

    Raises:
        ConfigError: no such schedule or constant, or a value of the wrong type or range.
    """
    return SCHEDULES.checked_options(config.name, config.constants, "")


def rate_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """The factor of the learning rate in a step, counted from 0, of a training of so many."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    function = SCHEDULES[config.name].function
    rest = max(1, num_steps - config.warmup_steps)
    return float(function(step - config.warmup_steps, rest, **schedule_constants(config)))


@schedule("constant")
def constant(step: int, num_steps: int) -> float:
    """1."""
    return 1.0


@schedule("cosine")
def cosine(step: int, num_steps: int, *, final: _Share = 0.0) -> float:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017)."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / num_steps)) / 2


@schedule("linear")
def linear(step: int, num_steps: int, *, final: _Share = 0.0) -> float:
    """A line from 1 to `final`."""
    return 1 + (final - 1) * step / num_steps


@schedule("steps")
def steps(
    step: int,
    num_steps: int,
    *,
    milestones: Annotated[tuple[_Step, ...], Field(min_length=1)],
    factor: Annotated[float, Field(gt=0)] = 0.1,
) -> float:
    """`factor` to the power of the number of milestones that have been reached."""
    return float(factor ** sum(step >= milestone for milestone in milestones))
