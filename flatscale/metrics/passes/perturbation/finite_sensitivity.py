"""The largest finite change of the output inside a radius around each input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.passes.perturbation.draws import normals_of_points
from flatscale.metrics.probe.layer_calls import refuse_integers
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

Shares = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class FiniteRatios:
    """||f(x + delta) - f(x)|| / ||delta|| of every point (n,), NaN where it is not finite.

    Attributes:
        best: the best found.
        half: the best of the first half of the steps.
        radius: of the ball searched.
        num_evaluations: per point.
    """

    best: np.ndarray
    half: np.ndarray
    radius: float
    num_evaluations: int


@measurement_pass("finite_sensitivity")
def finite_sensitivity(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    radius: PositiveFloat = 0.1,
    num_steps: PositiveInt = 10,
    num_restarts: PositiveInt = 2,
    radius_shares: Shares = (1.0, 0.3, 0.1, 0.03),
) -> FiniteRatios:
    """The best ratio found at every point.

    Args:
        observers: the point sets; the probe's is used.
        seed: of the starts.
        radius: perturbations have ||delta|| <= radius.
        num_steps: ascent steps on each sphere.
        num_restarts: random starts.
        radius_shares: spheres searched, as shares of the radius; on a small one the ratio comes
            near the MLS itself, which the maximum over the ball cannot fall below.
    """
    rows = required(observers, "probe").gather(
        finite_ratio_rows,
        seed=seed,
        radii=tuple(share * radius for share in radius_shares),
        num_steps=num_steps,
        num_restarts=num_restarts,
    )
    steps = num_steps * num_restarts * len(radius_shares)
    return FiniteRatios(
        best=rows["ratio"], half=rows["half"], radius=radius, num_evaluations=1 + 2 * steps
    )


def finite_ratio_rows(
    shard: Shard, *, seed: int, radii: tuple[float, ...], num_steps: int, num_restarts: int
) -> Arrays:
    """The best ratio found at each point (B,), and the best of the first half of the steps."""
    refuse_integers(shard)

    def compute(points: slice) -> np.ndarray:
        x = shard.x[points]
        with torch.no_grad():
            center = shard.outputs(x)
        best = torch.full((2, len(x)), -1.0, dtype=torch.float64, device=x.device)
        for restart in range(num_restarts):
            indices = shard.indices[points]
            start = normals_of_points(indices, x.shape[1:], x.dtype, seed, restart).to(x.device)
            for radius in radii:
                found = _climb(shard, x, center, start, radius, num_steps)
                best = torch.fmax(best, found)
        finite = center.isfinite().all(dim=1)
        return torch.where(finite & (best >= 0), best, torch.nan).cpu().numpy()

    best, half = np.concatenate(list(shard.microbatches(compute)), axis=1)
    return {"ratio": best, "half": half}


def _climb(
    shard: Shard, x: Tensor, center: Tensor, start: Tensor, radius: float, num_steps: int
) -> Tensor:
    """Best ratio on a sphere, after all steps and after half of them (2, B).

    delta <- radius g / ||g||, g = grad ||f(x + delta) - f||^2: as the radius shrinks this becomes
    power iteration on J^T J.
    """
    delta = radius * _unit(start)
    best = torch.full((len(x),), -1.0, dtype=torch.float64, device=x.device)
    half = best
    for step in range(num_steps):
        delta = delta.detach().requires_grad_()
        with torch.enable_grad():
            change = (shard.outputs(x + delta) - center).square().sum(dim=1)
            if not change.requires_grad:
                raise MetricError("the outputs do not depend on the inputs")
            (gradient,) = torch.autograd.grad(change.sum(), delta)
        length = (delta.detach().flatten(1)).double().norm(dim=1)
        best = torch.fmax(best, change.detach().double().sqrt() / length)
        if step <= (num_steps - 1) // 2:
            half = best
        flat = gradient.flatten(1).norm(dim=1) == 0
        gradient[flat] = delta.detach()[flat]
        delta = radius * _unit(gradient)
    return torch.stack([best, half])


def _unit(v: Tensor) -> Tensor:
    norms = v.flatten(1).norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v / norms.reshape(-1, *([1] * (v.ndim - 1)))
