"""Sharpness: how steeply the loss and the outputs change with the weights, beside the Hessian.

The trace of the Gauss-Newton matrix; the mean and the worst rise of the loss nearby; and how
coarsely the weights can be written down (Hochreiter and Schmidhuber's flat minimum).
"""

from __future__ import annotations

import functools
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.passes.jacobian.jacobians import Jacobians, mean_of
from flatscale.metrics.passes.perturbation.ascent import WorstLoss
from flatscale.metrics.passes.perturbation.loss_rises import LossRises
from flatscale.metrics.passes.perturbation.rounded_weights import RoundedRises
from flatscale.metrics.probe.point_means import left_out_note
from flatscale.metrics.registration import RESCALING, metric

_sharpness = functools.partial(metric, group="sharpness")


@_sharpness(
    "sharpness",
    passes=("jacobian",),
    formula="S = mean_i Σ_k ‖∇_θ f_k(x_i)‖²",
    source="arXiv 2310.01770",
)
def sharpness(jacobian: Jacobians) -> Measurement:
    """Trace of the Gauss-Newton matrix: the Hessian trace of 1/2 MSE at interpolation."""
    sums = jacobian.sums
    if not sums.parameter_names:
        raise MetricError("the outputs depend on no parameter")
    named = dict(zip(sums.parameter_names, sums.parameter_gradient2.T, strict=True))
    values = sums.parameter_gradient2.sum(axis=1)
    return mean_of("sharpness", values, sums, layers=named, draw_error=sums.sharpness_error)


@_sharpness(
    "adaptive_sharpness",
    passes=("adaptive_perturbation",),
    formula="(E_z mean_i loss_i(θ + ρ|θ|∘z) − mean_i loss_i(θ)) / ρ², z ~ N(0, I)",
    value_range="(-inf, inf)",
    invariances=(RESCALING,),
    source="arXiv 2310.01770, Figure 4 (sigmoid outputs, squared_error)",
    variant_of="average_sharpness",
)
def adaptive_sharpness(rises: LossRises) -> Measurement:
    """Mean rise of the loss under relative random perturbations of every weight."""
    return _mean_rise("adaptive_sharpness", rises)


@_sharpness(
    "average_sharpness",
    passes=("average_perturbation",),
    formula="(E_z mean_i loss_i(θ + ρz) − mean_i loss_i(θ)) / ρ², z ~ N(0, I)",
    value_range="(-inf, inf)",
    source="Andriushchenko et al. 2023",
)
def average_sharpness(rises: LossRises) -> Measurement:
    """Mean rise of the loss under random perturbations of equal size in every weight."""
    return _mean_rise("average_sharpness", rises)


def _mean_rise(name: str, found: LossRises) -> Measurement:
    lost = ~found.kept
    notes = [left_out_note("loss not finite", lost)] if lost.any() else []
    singles, both = found.count("singles"), found.count("corrections")
    drawn = f"{found.count('pairs')} pairs"
    if singles:
        drawn += f" and {singles} single perturbations less what the gradient predicts"
    if both:
        drawn += f" in bfloat16, corrected by {both} pairs in both precisions"
    if singles or both:
        notes.append(drawn)
    return Measurement(
        name=name,
        value=found.mean.value / found.rho**2,
        std_error=found.mean.std_error / found.rho**2,
        converged=found.converged,
        num_evaluations=found.num_evaluations,
        num_points=int(found.kept.sum()),
        reason="; ".join(notes) or None,
    )


@_sharpness(
    "weight_precision",
    passes=("rounded_weights", "loss_surface"),
    formula="min b: mean_i loss_i(round_b(θ)) − mean_i loss_i(θ) ≤ tolerance",
    unit="bits",
    value_range="[1, 23]",
    invariances=(RESCALING,),
    source="Hochreiter & Schmidhuber 1997",
)
def weight_precision(
    rounded: RoundedRises, surface: LossSurface, *, tolerance: PositiveFloat = 0.01
) -> Measurement:
    """Fewest bits to which every parameter tensor can be rounded without the loss rising much.

    Args:
        rounded: rises of the loss.
        surface: the loss.
        tolerance: largest rise of the mean loss allowed.
    """
    rises = rounded.rises
    enough = np.flatnonzero(rises <= tolerance)
    if not len(enough):
        raise MetricError(
            f"even {len(rises)} bits raise the loss by {rises[-1]:.3g}, more than the "
            f"tolerance {tolerance}"
        )
    return Measurement(
        name="weight_precision",
        value=1.0 + float(enough[0]),
        num_evaluations=1 + len(rises),
        num_points=surface.num_points,
        extras={
            "bits": tuple(float(1 + bit) for bit in range(len(rises))),
            "rises": tuple(rises.tolist()),
        },
    )


@_sharpness(
    "worst_case_sharpness",
    passes=("loss_surface", "ball_ascent"),
    formula="max_{‖ε‖ ≤ ρ} mean_i loss_i(θ + ε) − mean_i loss_i(θ)",
    invariances=("layer rescaling of ReLU networks, when adaptive",),
    source="SAM: Foret et al. 2021; ASAM: Kwon et al. 2021",
)
def worst_case_sharpness(surface: LossSurface, worst: WorstLoss) -> Measurement:
    """Highest rise of the loss found in a ball (SAM) or ellipsoid (ASAM) around the weights."""
    return _worst_rise("worst_case_sharpness", surface, worst, worst.loss - surface.loss)


@_sharpness(
    "keskar_sharpness",
    passes=("loss_surface", "box_ascent"),
    formula="100 (max_{|e_j| ≤ ε(|θ_j|+1)} loss(θ + e) − loss(θ)) / (1 + loss(θ))",
    unit="%",
    source="Keskar et al. 2017",
    variant_of="worst_case_sharpness",
)
def keskar_sharpness(surface: LossSurface, worst: WorstLoss) -> Measurement:
    """Highest relative rise of the loss found in a box around the weights."""
    value = 100.0 * (worst.loss - surface.loss) / (1.0 + surface.loss)
    return _worst_rise("keskar_sharpness", surface, worst, value)


@_sharpness(
    "pac_bayes_bound",
    passes=("loss_surface", "ball_ascent"),
    formula=(
        "max_{‖ε‖≤ρ} loss(θ+ε) + √[(k log(1 + ‖θ‖²/ρ² (1 + √(log n / k))²) + 4 log(n/δ) "
        "+ 8 log(6n + 3k)) / (n − 1)]"
    ),
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
    return _worst_rise(
        "pac_bayes_bound", surface, worst, worst.loss + slack, note=note, complexity=(slack,)
    )


def _worst_rise(
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
