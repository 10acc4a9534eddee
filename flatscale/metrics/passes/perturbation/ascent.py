"""Sharpness as the worst loss nearby: projected gradient ascent in a ball, an ellipsoid or a box.

The best value evaluated is kept, never the last one. The weights are not touched: losses and
gradients are evaluated at shifted copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.registration import measurement_pass


@dataclass(frozen=True, kw_only=True)
class WorstLoss:
    """The highest loss found in a region around theta.

    Attributes:
        loss: highest mean loss evaluated in the region; at least that at theta.
        one_step: the loss after the first step from theta (SAM's own value).
        settled: whether the second half of the steps raised the best by less than 5%.
        num_train_points: size of the training set; None where none was given.
        num_evaluations, notes: for the measurement.
    """

    loss: float
    one_step: float
    settled: bool
    num_train_points: int | None
    num_evaluations: int
    notes: tuple[str, ...]


@measurement_pass("ball_ascent", needs=("loss_surface",))
def ball_ascent(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    rho: PositiveFloat = 0.05,
    num_steps: PositiveInt = 10,
    num_restarts: PositiveInt = 2,
    adaptive: bool = False,
) -> WorstLoss:
    """Ascent of the mean loss over ||eps|| <= rho, or ||eps / |theta| || <= rho.

    Args:
        observers: the point sets.
        seed: of the random starts.
        surface: the loss.
        rho: radius.
        num_steps: ascent steps of each start; 1 is SAM's own value, which always counts as settled.
        num_restarts: starts: the first from theta itself, the others from random points of the
            ball's surface.
        adaptive: the ellipsoid ||eps / |theta| || <= rho (ASAM) instead of the ball.
    """
    scale = np.abs(surface.theta) if adaptive else np.ones_like(surface.theta)
    rng = np.random.default_rng(seed)

    def project(u: np.ndarray) -> np.ndarray:
        return u * min(1.0, rho / max(float(np.linalg.norm(u)), 1e-300))

    def steepest(gradient: np.ndarray) -> np.ndarray:
        along = gradient * scale
        return rho * along / max(float(np.linalg.norm(along)), 1e-300)

    starts = [np.zeros_like(surface.theta)]
    for _ in range(num_restarts - 1):
        starts.append(project(1e9 * rng.standard_normal(len(surface.theta))))
    runs = [_ascend(surface, u, scale, project, steepest, num_steps) for u in starts]
    return _worst(observers, surface, runs)


@measurement_pass("box_ascent", needs=("loss_surface",))
def box_ascent(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    epsilon: PositiveFloat = 1e-3,
    num_steps: PositiveInt = 10,
) -> WorstLoss:
    """Ascent of the mean loss over |e_j| <= epsilon (|theta_j| + 1), in units of the box.

    Args:
        observers: the point sets.
        seed: not used.
        surface: the loss.
        epsilon: the box's size.
        num_steps: ascent steps.
    """
    scale = epsilon * (np.abs(surface.theta) + 1.0)

    def project(u: np.ndarray) -> np.ndarray:
        return np.clip(u, -1.0, 1.0)

    start = np.zeros_like(surface.theta)
    run = _ascend(surface, start, scale, project, np.sign, num_steps)
    return _worst(observers, surface, [run])


def _ascend(
    surface: LossSurface,
    start: np.ndarray,
    scale: np.ndarray,
    project: Callable[[np.ndarray], np.ndarray],
    steepest: Callable[[np.ndarray], np.ndarray],
    num_steps: int,
) -> list[float]:
    """Losses at every point visited, of projected ascent in u = eps / scale.

    The step halves when the loss falls, and the ascent goes on from the best point so far.
    """
    loss, gradient = surface.gradient(start * scale)
    best_u, best, best_gradient, step = start, loss, gradient, 1.0
    visited = [loss]
    for _ in range(num_steps):
        u = project(best_u + step * steepest(best_gradient))
        loss, gradient = surface.gradient(u * scale)
        visited.append(loss)
        if loss > best:
            best_u, best, best_gradient = u, loss, gradient
        else:
            step /= 2
    return visited


def _worst(
    observers: Mapping[str, Observer], surface: LossSurface, runs: list[list[float]]
) -> WorstLoss:
    visited = [loss for run in runs for loss in run]
    losses = [loss for loss in visited if np.isfinite(loss)]
    worst = max([surface.loss, *losses])
    early = [loss for run in runs for loss in run[: 1 + len(run) // 2]]
    half = max([surface.loss, *(loss for loss in early if np.isfinite(loss))])
    train = observers.get("train")
    notes: tuple[str, ...] = ()
    lost = len(visited) - len(losses)
    if lost:
        notes = (f"the loss was not finite at {lost} of {len(visited)} places tried nearby",)
    return WorstLoss(
        loss=worst,
        one_step=runs[0][1],
        settled=worst - half <= 0.05 * (worst - surface.loss),
        num_train_points=train.num_points if train is not None else None,
        num_evaluations=1 + 2 * len(visited),
        notes=notes,
    )
