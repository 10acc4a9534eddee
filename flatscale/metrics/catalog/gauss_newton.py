"""The paper's sharpness: the trace of the Gauss-Newton matrix, exactly, from the Jacobian pass."""

from __future__ import annotations

from dataclasses import replace

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.catalog.reduction import mean_over_points
from flatscale.metrics.passes.jacobian.estimated import JacobianEstimates, Sums
from flatscale.metrics.passes.jacobian.exact import JacobianPoints
from flatscale.metrics.registration import metric


@metric(
    "sharpness",
    passes=("jacobian",),
    formula="S = mean_i Σ_k ‖∇_θ f_k(x_i)‖²",
    group="sharpness",
    source="arXiv 2310.01770",
    default=True,
)
def sharpness(jacobian: JacobianPoints | JacobianEstimates) -> Measurement:
    """Trace of the Gauss-Newton matrix: the Hessian trace of 1/2 MSE at interpolation."""
    source = jacobian.sums if isinstance(jacobian, JacobianEstimates) else jacobian
    if not source.parameter_names:
        raise MetricError("the outputs depend on no parameter")
    parts = source.parameter_gradient2
    measured = mean_over_points(
        "sharpness",
        parts.sum(axis=1),
        num_evaluations=source.num_evaluations,
        layers={name: parts[:, i] for i, name in enumerate(source.parameter_names)},
    )
    if not isinstance(source, Sums):
        return measured
    return replace(
        measured,
        converged=source.converged,
        extras={"monte_carlo_std_error": (source.sharpness_error,)},
    )
