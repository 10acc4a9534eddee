"""Sharpness as the worst loss nearby, in a ball, an ellipsoid or a box around the weights."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.passes.perturbation.ascent import WorstLoss
from flatscale.metrics.registration import metric


@metric(
    "worst_case_sharpness",
    passes=("loss_surface", "ball_ascent"),
    formula="max_{‖ε‖ ≤ ρ} mean_i loss_i(θ + ε) − mean_i loss_i(θ)",
    group="sharpness",
    invariances=("layer rescaling of ReLU networks, when adaptive",),
    source="SAM: Foret et al. 2021; ASAM: Kwon et al. 2021",
)
def worst_case_sharpness(surface: LossSurface, worst: WorstLoss) -> Measurement:
    """Highest rise of the loss found in a ball (SAM) or ellipsoid (ASAM) around the weights."""
    return _measurement("worst_case_sharpness", surface, worst, worst.loss - surface.loss)


@metric(
    "keskar_sharpness",
    passes=("loss_surface", "box_ascent"),
    formula="100 (max_{|e_j| ≤ ε(|θ_j|+1)} loss(θ + e) − loss(θ)) / (1 + loss(θ))",
    group="sharpness",
    unit="%",
    source="Keskar et al. 2017",
)
def keskar_sharpness(surface: LossSurface, worst: WorstLoss) -> Measurement:
    """Highest relative rise of the loss found in a box around the weights."""
    value = 100.0 * (worst.loss - surface.loss) / (1.0 + surface.loss)
    return _measurement("keskar_sharpness", surface, worst, value)


@metric(
    "pac_bayes_bound",
    passes=("loss_surface", "ball_ascent"),
    formula=(
        "max_{‖ε‖≤ρ} loss(θ+ε) + √[(k log(1 + ‖θ‖²/ρ² (1 + √(log n / k))²) + 4 log(n/δ) "
        "+ 8 log(6n + 3k)) / (n − 1)]"
    ),
    group="sharpness",
    source="Foret et al. 2021, Theorem 2",
)
def pac_bayes_bound(
    surface: LossSurface,
    worst: WorstLoss,
    *,
    rho: PositiveFloat = 0.05,
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    num_train_points: PositiveInt | None = None,
) -> Measurement:
    """Right side of SAM's generalization bound, for k parameters and n training points.

    Args:
        surface: the loss.
        worst: the highest loss in the ball.
        rho: its radius.
        delta: the bound holds with probability 1 - delta.
        num_train_points: n; None for the training set's size, or the probe's where none is given.
    """
    n = num_train_points or worst.num_train_points or surface.num_points
    if n < 2:
        raise MetricError(f"the bound needs at least 2 training points; found {n}")
    k, squared_norm = len(surface.theta), float(surface.theta @ surface.theta)
    ratio = squared_norm / rho**2 * (1.0 + np.sqrt(np.log(n) / k)) ** 2
    complexity = k * np.log1p(ratio) + 4 * np.log(n / delta) + 8 * np.log(6 * n + 3 * k)
    slack = float(np.sqrt(complexity / (n - 1)))
    note = None
    if num_train_points is None and worst.num_train_points is None:
        note = f"n = {n} is the probe set's size: no training set was given"
    return _measurement(
        "pac_bayes_bound", surface, worst, worst.loss + slack, note=note, complexity=(slack,)
    )


def _measurement(
    name: str,
    surface: LossSurface,
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
        num_points=surface.num_points,
        reason=note,
        extras={
            "one_step": (worst.one_step - surface.loss,),
            "loss": (surface.loss,),
            **extras,
        },
    )
