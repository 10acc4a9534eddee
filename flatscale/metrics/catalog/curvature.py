"""Curvature of the loss at the weights: the Hessian's trace and spectrum, relative flatness."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.estimators.eigenvalues import ExtremeEigenvalues
from flatscale.metrics.estimators.spectral_quadrature import SpectralDensity
from flatscale.metrics.estimators.trace import TraceEstimate
from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.passes.curvature.relative_flatness import PointFlatness
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import RESCALING, metric

_curvature = functools.partial(metric, group="sharpness", value_range="(-inf, inf)")


@_curvature(
    "hessian_trace",
    passes=("hessian_trace_samples", "loss_surface"),
    formula="tr ∇²_θ mean_i loss_i",
    source="Hutch++: Meyer et al. 2021",
)
def hessian_trace(found: TraceEstimate, surface: LossSurface) -> Measurement:
    """Trace of the loss's Hessian in the parameters."""
    return replace(
        _of_hessian("hessian_trace", found.value, found, surface), std_error=found.std_error
    )


@_curvature(
    "top_eigenvalue",
    passes=("extreme_eigenvalues", "loss_surface"),
    formula="λ_max(∇²_θ mean_i loss_i)",
)
def top_eigenvalue(ends: ExtremeEigenvalues, surface: LossSurface) -> Measurement:
    """Largest eigenvalue of the loss's Hessian."""
    return _of_hessian(
        "top_eigenvalue", ends.top, ends, surface, residual_norm=(ends.top_residual,)
    )


@_curvature(
    "bottom_eigenvalue",
    passes=("extreme_eigenvalues", "loss_surface"),
    formula="λ_min(∇²_θ mean_i loss_i)",
)
def bottom_eigenvalue(ends: ExtremeEigenvalues, surface: LossSurface) -> Measurement:
    """Smallest eigenvalue of the loss's Hessian; negative away from a minimum."""
    return _of_hessian(
        "bottom_eigenvalue", ends.bottom, ends, surface, residual_norm=(ends.bottom_residual,)
    )


@_curvature(
    "eigenvalue_ratio",
    passes=("extreme_eigenvalues", "loss_surface"),
    formula="|λ_min| / λ_max",
    value_range="[0, inf)",
)
def eigenvalue_ratio(ends: ExtremeEigenvalues, surface: LossSurface) -> Measurement:
    """How negative the Hessian's spectrum is, against its top: 0 at a minimum."""
    if ends.top <= 0.0:
        raise MetricError(f"the top eigenvalue is {ends.top:.3g}, not positive: no ratio")
    residuals = (ends.top_residual, ends.bottom_residual)
    ratio = abs(ends.bottom) / ends.top
    return _of_hessian("eigenvalue_ratio", ratio, ends, surface, residual_norm=residuals)


@_curvature(
    "spectral_density",
    passes=("lanczos_quadrature", "loss_surface"),
    formula="φ(t) = (1/P) Σ_j δ(t − λ_j); the value is its mean, tr H / P",
    source="stochastic Lanczos quadrature: Ghorbani et al. 2019",
)
def spectral_density(
    found: SpectralDensity,
    surface: LossSurface,
    *,
    num_bins: Annotated[int, Field(ge=2)] = 200,
    relative_width: PositiveFloat = 0.01,
) -> Measurement:
    """Density of the Hessian's eigenvalues, as a curve in extras (grid, density).

    Args:
        found: the quadratures' nodes and weights.
        surface: the loss.
        num_bins: points of the grid.
        relative_width: the broadening's standard deviation as a share of the spectrum's range.
    """
    grid, density = found.broadened(num_bins, relative_width)
    curve = {"grid": grid, "density": density, "nodes": found.nodes, "weights": found.weights}
    extras = {name: tuple(values.tolist()) for name, values in curve.items()}
    measured = _of_hessian("spectral_density", found.mean, found, surface, **extras)
    return replace(measured, std_error=found.std_error)


@_curvature(
    "relative_flatness",
    passes=("relative_flatness_points",),
    formula="κ(l) = mean_i ‖x_i^l‖² tr(∂²loss_i/∂(x_i^l)²) = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'}",
    invariances=(RESCALING,),
    source="Petzka et al. 2021",
)
def relative_flatness(points: PointFlatness) -> Measurement:
    """Curvature of the loss in a Linear layer's weights relative to their size."""
    return mean_over_points(
        "relative_flatness", points.kappa, num_evaluations=points.num_evaluations
    )


def _of_hessian(
    name: str,
    value: float,
    found: TraceEstimate | ExtremeEigenvalues | SpectralDensity,
    surface: LossSurface,
    **extras: Any,
) -> Measurement:
    """A Hessian-vector product is a forward and three backwards' work at every point."""
    return Measurement(
        name=name,
        value=value,
        converged=found.converged,
        num_evaluations=4 * found.num_products,
        num_points=surface.num_points,
        extras=extras,
    )
