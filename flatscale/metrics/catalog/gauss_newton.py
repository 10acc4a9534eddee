"""The paper's sharpness: the trace of the Gauss-Newton matrix, from the Jacobian pass."""

from __future__ import annotations

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.jacobian.jacobians import Jacobians, mean_of
from flatscale.metrics.registration import metric


@metric(
    "sharpness",
    passes=("jacobian",),
    formula="S = mean_i Σ_k ‖∇_θ f_k(x_i)‖²",
    group="sharpness",
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
