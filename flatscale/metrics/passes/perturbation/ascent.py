"""Sharpness as the worst loss nearby: projected gradient ascent in a ball, an ellipsoid or a box.

The best value evaluated is kept, never the last one. The weights are not touched: losses and
gradients are evaluated at shifted copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface, loss_surface
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.registration import measurement_pass, metric


@dataclass(frozen=True, kw_only=True)
class WorstLoss:
    """The highest loss found in a region around theta.

    Attributes:
        loss: mean loss at theta.
        worst: highest mean loss evaluated in the region; at least `loss`.
        one_step: the loss after the first step from theta (SAM's own value).
        settled: whether the second half of the steps raised the best by less than 5%.
        squared_norm: ||theta||^2; num_parameters: P.
        num_train_points: size of the training set, or the probe's points that count where none
            was given.
        train_given: whether it was.
        num_evaluations, num_points, notes: for the measurement.
    """

    loss: float
    worst: float
    one_step: float
    settled: bool
    squared_norm: float
    num_parameters: int
    num_train_points: int
    train_given: bool
    num_evaluations: int
    num_points: int
    notes: tuple[str, ...]


@measurement_pass("ball_ascent")
def ball_ascent(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.05,
    num_steps: PositiveInt = 10,
    num_restarts: PositiveInt = 2,
    adaptive: bool = False,
) -> WorstLoss:
    """Ascent of the mean loss over ||eps|| <= rho, or ||eps / |theta| || <= rho.

    Args:
        observers: the point sets; the probe's is used.
        seed: of the random starts.
        rho: radius.
        num_steps: ascent steps of each start; 1 is SAM's own value, which always counts as settled.
        num_restarts: starts: the first from theta itself, the others from random points of the
            ball's surface.
        adaptive: the ellipsoid ||eps / |theta| || <= rho (ASAM) instead of the ball.
    """
    surface = loss_surface(required(observers, "probe"))
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


@measurement_pass("box_ascent")
def box_ascent(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    epsilon: PositiveFloat = 1e-3,
    num_steps: PositiveInt = 10,
) -> WorstLoss:
    """Ascent of the mean loss over |e_j| <= epsilon (|theta_j| + 1), in units of the box.

    Args:
        observers: the point sets; the probe's is used.
        seed: not used.
        epsilon: the box's size.
        num_steps: ascent steps.
    """
    surface = loss_surface(required(observers, "probe"))
    scale = epsilon * (np.abs(surface.theta) + 1.0)

    def project(u: np.ndarray) -> np.ndarray:
        return np.clip(u, -1.0, 1.0)

    start = np.zeros_like(surface.theta)
    run = _ascend(surface, start, scale, project, np.sign, num_steps)
    return _worst(observers, surface, [run])


@metric(
    "worst_case_sharpness",
    passes=("ball_ascent",),
    formula="max_{‖ε‖ ≤ ρ} mean_i loss_i(θ + ε) − mean_i loss_i(θ)",
    group="sharpness",
    invariances=("layer rescaling of ReLU networks, when adaptive",),
    source="SAM: Foret et al. 2021; ASAM: Kwon et al. 2021",
)
def worst_case_sharpness(worst: WorstLoss) -> Measurement:
    """Highest rise of the loss found in a ball (SAM) or ellipsoid (ASAM) around the weights."""
    return _measurement("worst_case_sharpness", worst, worst.worst - worst.loss)


@metric(
    "keskar_sharpness",
    passes=("box_ascent",),
    formula="100 (max_{|e_j| ≤ ε(|θ_j|+1)} loss(θ + e) − loss(θ)) / (1 + loss(θ))",
    group="sharpness",
    unit="%",
    source="Keskar et al. 2017",
)
def keskar_sharpness(worst: WorstLoss) -> Measurement:
    """Highest relative rise of the loss found in a box around the weights."""
    value = 100.0 * (worst.worst - worst.loss) / (1.0 + worst.loss)
    return _measurement("keskar_sharpness", worst, value)


@metric(
    "pac_bayes_bound",
    passes=("ball_ascent",),
    formula=(
        "max_{‖ε‖≤ρ} loss(θ+ε) + √[(k log(1 + ‖θ‖²/ρ² (1 + √(log n / k))²) + 4 log(n/δ) "
        "+ 8 log(6n + 3k)) / (n − 1)]"
    ),
    group="sharpness",
    source="Foret et al. 2021, Theorem 2",
)
def pac_bayes_bound(
    worst: WorstLoss,
    *,
    rho: PositiveFloat = 0.05,
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    num_train_points: PositiveInt | None = None,
) -> Measurement:
    """Right side of SAM's generalization bound, for k parameters and n training points.

    Args:
        worst: the highest loss in the ball.
        rho: its radius.
        delta: the bound holds with probability 1 - delta.
        num_train_points: n; None for the training set's size, or the probe's where none is given.
    """
    n, k = num_train_points or worst.num_train_points, worst.num_parameters
    if n < 2:
        raise MetricError(f"the bound needs at least 2 training points; found {n}")
    ratio = worst.squared_norm / rho**2 * (1.0 + np.sqrt(np.log(n) / k)) ** 2
    complexity = k * np.log1p(ratio) + 4 * np.log(n / delta) + 8 * np.log(6 * n + 3 * k)
    slack = float(np.sqrt(complexity / (n - 1)))
    note = None
    if num_train_points is None and not worst.train_given:
        note = f"n = {n} is the probe set's size: no training set was given"
    return _measurement(
        "pac_bayes_bound", worst, worst.worst + slack, note=note, complexity=(slack,)
    )


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
    notes = list(surface.notes)
    if len(losses) < len(visited):
        lost = len(visited) - len(losses)
        notes.append(f"the loss was not finite at {lost} of {len(visited)} places tried nearby")
    return WorstLoss(
        loss=surface.loss,
        worst=worst,
        one_step=runs[0][1],
        settled=worst - half <= 0.05 * (worst - surface.loss),
        squared_norm=float(surface.theta @ surface.theta),
        num_parameters=len(surface.theta),
        num_train_points=train.num_points if train is not None else surface.num_points,
        train_given=train is not None,
        num_evaluations=1 + 2 * len(visited),
        num_points=surface.num_points,
        notes=tuple(notes),
    )


def _measurement(
    name: str,
    worst: WorstLoss,
    value: float,
    *,
    note: str | None = None,
    **extras: tuple[float, ...],
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        converged=worst.settled,
        num_evaluations=worst.num_evaluations,
        num_points=worst.num_points,
        reason=note,
        extras={
            "one_step": (worst.one_step - worst.loss,),
            "loss": (worst.loss,),
            **extras,
        },
    )
