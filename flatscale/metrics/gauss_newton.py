"""The paper's sharpness: the trace of the Gauss-Newton matrix, exactly, from the Jacobian pass."""

from __future__ import annotations

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.jacobian import JacobianPoints
from flatscale.metrics.reduction import mean_over_points
from flatscale.metrics.registry import metric


@metric(
    "sharpness",
    passes=("jacobian",),
    formula="S = mean_i Σ_k ‖∇_θ f_k(x_i)‖²",
    group="sharpness",
    source="arXiv 2310.01770",
    default=True,
)
def sharpness(jacobian: JacobianPoints, options: None) -> Measurement:
    """Trace of the Gauss-Newton matrix: the Hessian trace of 1/2 MSE at interpolation."""
    if not jacobian.parameter_names:
        raise MetricError("the outputs depend on no parameter")
    parts = jacobian.parameter_gradient2
    return mean_over_points(
        "sharpness",
        parts.sum(axis=1),
        num_evaluations=jacobian.num_evaluations,
        layers={name: parts[:, i] for i, name in enumerate(jacobian.parameter_names)},
    )
