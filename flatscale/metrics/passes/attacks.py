"""Adversarial points: each point moved within a ball so that its own loss rises (FGSM, PGD).

The network is left alone and the point moves; `perturbation/` does the opposite. What is found is a
lower bound on the worst loss, and an upper bound on the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.passes.predictions import Predictions, judged_rows
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass
from flatscale.study.schema import PositiveFloat, PositiveInt

Norm = Literal["linf", "l2"]
Bound = Annotated[float, Field(allow_inf_nan=False)] | None
_MICROBATCH = 256


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How points are moved.

    Attributes:
        norm, radius: the ball around each point.
        num_steps, step_size: of the ascent.
        num_restarts: the first starts at the point, the others at random points of the ball.
        low, high: the values that inputs may take, or None.
        keep: `last` judges the point arrived at; `worst` keeps the highest loss evaluated, and
            counts a point as correct that is correct wherever it was tried.
        seed: of the random starts.
    """

    norm: Norm
    radius: float
    num_steps: int
    step_size: float
    num_restarts: int
    low: float | None
    high: float | None
    keep: Literal["last", "worst"]
    seed: int = 0


def _check_range(*, low: float | None, high: float | None, **_: object) -> None:
    if low is not None and high is not None and low >= high:
        raise ValueError(f"low must be below high; found {low} and {high}")


@measurement_pass("fgsm", check=_check_range)
def fgsm(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    norm: Norm = "linf",
    radius: PositiveFloat = 8 / 255,
    low: Bound = None,
    high: Bound = None,
) -> Predictions:
    """Every test point after one full step along its gradient: x + r sign(g), or x + r g / ||g||.

    Args:
        observers: the point sets.
        seed: not used.
        norm: linf or l2.
        radius: r, in the units of the inputs.
        low, high: the moved point is clamped to these; not at all by default.
    """
    attack = Attack(
        norm=norm,
        radius=radius,
        num_steps=1,
        step_size=radius,
        num_restarts=1,
        low=low,
        high=high,
        keep="last",
    )
    return _under(observers, attack)


@measurement_pass("pgd", check=_check_range)
def pgd(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    norm: Norm = "linf",
    radius: PositiveFloat = 8 / 255,
    num_steps: PositiveInt = 10,
    step_size: PositiveFloat | None = None,
    num_restarts: PositiveInt = 2,
    low: Bound = None,
    high: Bound = None,
) -> Predictions:
    """The worst that projected gradient ascent meets for every test point, the point included.

    Args:
        observers: the point sets.
        seed: of the random starts; each point draws its own.
        norm: linf or l2.
        radius: of the ball, in the units of the inputs.
        num_steps: ascent steps of each start.
        step_size: length of a step; 2.5 radius / num_steps by default (Madry et al. 2018).
        num_restarts: starts: the first from the point itself, the others from random points of the
            ball.
        low, high: moved points are clamped to these; not at all by default.
    """
    attack = Attack(
        norm=norm,
        radius=radius,
        num_steps=num_steps,
        step_size=2.5 * radius / num_steps if step_size is None else step_size,
        num_restarts=num_restarts,
        low=low,
        high=high,
        keep="worst",
        seed=seed,
    )
    return _under(observers, attack)


def _under(observers: Mapping[str, Observer], attack: Attack) -> Predictions:
    rows = required(observers, "test").gather(attacked_rows, attack=attack)
    # every step is a forward and a backward, and each start ends with a forward
    spent = attack.num_restarts * (2 * attack.num_steps + 1)
    return Predictions.of(rows, spent)


def attacked_rows(shard: Shard, *, attack: Attack) -> Arrays:
    """Loss, correctness and number of outputs of every point under attack.

    Raises:
        MetricError: the inputs are no real numbers, or lie outside the range stated.
    """

    def compute(points: slice) -> Arrays:
        x, y = shard.x[points], shard.y[points]
        found = None
        for restart in range(attack.num_restarts):
            moved = _start(attack, x, shard.indices[points], restart)
            for step in range(attack.num_steps + 1):
                rows, gradient = _look(shard, x + moved, y, last=step == attack.num_steps)
                worse = found is not None and attack.keep == "worst"
                found = _worse(found, rows) if worse and found else rows
                if gradient is not None:
                    along = _direction(gradient, attack.norm)
                    moved = _project(attack, x, moved + attack.step_size * along)
        assert found is not None
        return found

    shard.logits(shard.x[:1])
    inputs_between(shard.x, attack.low, attack.high)
    return shard.rows(compute, _MICROBATCH)


def inputs_between(x: Tensor, low: float | None, high: float | None) -> None:
    """Refuse inputs that cannot be moved a little, or lie outside the range stated.

    Raises:
        MetricError: says what was found.
    """
    if not x.is_floating_point():
        raise MetricError("the inputs are whole numbers (tokens), which cannot be moved a little")
    finite = x[x.isfinite()]
    ends = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    if (low is not None and ends[0] < low) or (high is not None and ends[1] > high):
        raise MetricError(
            f"the inputs lie in [{ends[0]:g}, {ends[1]:g}], outside the range of the options low "
            f"and high, [{low}, {high}]; set both to what inputs can be"
        )


def _look(shard: Shard, x: Tensor, y: Tensor, *, last: bool) -> tuple[Arrays, Tensor | None]:
    """How the network judges x, and the gradient of each point's loss unless it is the last look.

    Points do not meet in the network, so the gradient of the sum holds that of each.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(not last)
        logits = shard.logits(x)
        losses = shard.losses(logits, y)
        gradient = None
        if not last:
            gradient = torch.zeros_like(x)
            if losses.requires_grad:
                (found,) = torch.autograd.grad(losses.sum(), x, allow_unused=True)
                gradient = gradient if found is None else found
    return judged_rows(logits.detach(), losses, y), gradient


def _worse(one: Arrays, other: Arrays) -> Arrays:
    return {
        "loss": np.maximum(one["loss"], other["loss"]),
        "correct": np.minimum(one["correct"], other["correct"]),
        "num_outputs": one["num_outputs"],
        "of_classes": one["of_classes"],
    }


def _start(attack: Attack, x: Tensor, indices: np.ndarray, restart: int) -> Tensor:
    """Zero, or uniform in the ball, drawn for each point by its place in the whole set."""
    if restart == 0:
        return torch.zeros_like(x)
    drawn = np.empty(x.shape)
    for row, index in enumerate(indices):
        rng = np.random.default_rng((attack.seed, restart, int(index)))
        if attack.norm == "linf":
            drawn[row] = rng.uniform(-attack.radius, attack.radius, x.shape[1:])
        else:
            normal = rng.standard_normal(x.shape[1:])
            length = attack.radius * rng.uniform() ** (1 / max(normal.size, 1))
            drawn[row] = normal * length / max(float(np.linalg.norm(normal)), 1e-300)
    return _project(attack, x, torch.from_numpy(drawn).to(x))


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    length = _lengths(gradient)
    return gradient / torch.where(length > 0, length, torch.ones_like(length))


def _project(attack: Attack, x: Tensor, moved: Tensor) -> Tensor:
    """Onto the ball, then into the range; x lies in both, so the second step leaves neither."""
    if attack.norm == "linf":
        moved = moved.clamp(-attack.radius, attack.radius)
    else:
        moved = moved * (attack.radius / _lengths(moved).clamp_min(1e-30)).clamp_max(1.0)
    if attack.low is None and attack.high is None:
        return moved
    return (x + moved).clamp(attack.low, attack.high) - x


def _lengths(values: Tensor) -> Tensor:
    """Euclidean norm of each point, scaled first so that no square underflows; (B, 1, ...)."""
    axes = tuple(range(1, values.ndim))
    largest = values.abs().amax(dim=axes, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return scale * (values / scale).pow(2).sum(dim=axes, keepdim=True).sqrt()
