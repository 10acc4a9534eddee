"""The inequalities between compression and sharpness, checked on every network measured.

Exact for Linear layers. For convolutions and token-wise layers they hold for the unrolled layer:
||W||_2 of the layer as a map on its whole input and ||grad|| = ||delta||_F ||x||_F. The paper's
weight-shared form (kernel matrix norm, gradient of the shared weight) is reported beside it and may
fail; its violations are counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.catalog.bound_checks import (
    Factors,
    Form,
    Sides,
    checked,
    evidence,
    factors,
)
from flatscale.metrics.catalog.compression import VolumeRank
from flatscale.metrics.passes.jacobian.jacobians import GradientNorms, Jacobians, Leading
from flatscale.metrics.passes.jacobian.layer_norms import LayerNorms
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import RESCALING, metric

_inequality = functools.partial(
    metric, passes=("jacobian", "layer_norms"), group="bound", source="arXiv 2310.01770"
)


@_inequality(
    "bound_a",
    passes=("jacobian",),
    formula="A = mean_i ‖J_i¹‖₂",
    invariances=(RESCALING,),
    bounds="mls",
)
def bound_a(jacobian: Jacobians) -> Measurement:
    """Left side of A ≤ B ≤ C ≤ D: the sensitivity to the first linear layer's input."""
    largest = jacobian.layer_leading(1)
    note = f"J¹ is taken at the input of {largest.layer_names[0]}, not at the network's"
    return mean_over_points(
        "bound_a",
        largest.sigma[:, 0, 0],
        num_evaluations=largest.num_evaluations,
        converged=largest.converged,
        note=None if largest.reads_input else note,
    )


@_inequality(
    "bound_b",
    formula="B = mean_i (‖W₁‖₂/‖x_i‖) ‖∇_{W₁} f(x_i)‖_F",
    invariances=(RESCALING,),
    bounds="mls",
)
def bound_b(jacobian: Jacobians, norms: LayerNorms) -> Measurement:
    """First upper bound on MLS, holding at every point."""

    def sides(f: Factors, sigma: np.ndarray) -> Sides:
        return Sides.of_points(sigma[:, 0, 0], f.a[:, 0] * f.g[:, 0])

    return _of_leading("bound_b", jacobian, norms, sides)


@_inequality(
    "bound_c", formula="C = √mean_i (a_i¹)² √mean_i (g_i¹)²", invariances=(RESCALING,), bounds="mls"
)
def bound_c(jacobian: Jacobians, norms: LayerNorms) -> Measurement:
    """Second upper bound on MLS: B with its two factors averaged apart."""

    def sides(f: Factors, sigma: np.ndarray) -> Sides:
        right = np.sqrt((f.a[:, 0] ** 2).mean() * (f.g[:, 0] ** 2).mean())
        return Sides.of_means((f.a[:, 0] * f.g[:, 0]).mean(), right)

    return _of_leading("bound_c", jacobian, norms, sides)


@_inequality("bound_d", formula="D = √mean_i (a_i¹)² √S", bounds="mls")
def bound_d(jacobian: Jacobians, norms: LayerNorms) -> Measurement:
    """Third upper bound on MLS: through the sharpness of all parameters."""

    def sides(f: Factors, sigma: np.ndarray) -> Sides:
        a2 = (f.a[:, 0] ** 2).mean()
        left = np.sqrt(a2 * (f.g[:, 0] ** 2).mean())
        return Sides.of_means(left, np.sqrt(a2 * f.sharpness.mean()))

    return _of_leading("bound_d", jacobian, norms, sides)


@_inequality("nmls_bound", formula="√mean_i Σ_l (a_i^l)² √S ≥ NMLS", bounds="nmls")
def nmls_bound(jacobian: Jacobians, norms: LayerNorms) -> Measurement:
    """Upper bound on NMLS through sharpness; the inequality is also checked at every point."""

    def sides(f: Factors, sigma: np.ndarray) -> Sides:
        a2 = (f.a**2).sum(axis=1)
        return Sides(
            left=sigma[:, :, 0].sum(axis=1),
            right=np.sqrt(a2 * f.sharpness),
            value=float(np.sqrt(a2.mean() * f.sharpness.mean())),
        )

    return _of_leading("nmls_bound", jacobian, norms, sides)


@_inequality(
    "lvr_bound",
    formula="log[(1/n) √Σ_i (a_i¹)^{2r} (nS/r)^{r/2}] ≥ log mean_i LVR_i",
    unit="nats",
    value_range="(-inf, inf)",
    bounds="log_lvr",
)
def lvr_bound(
    jacobian: Jacobians, norms: LayerNorms, *, volume_rank: VolumeRank = None
) -> Measurement:
    """Upper bound on the mean local volumetric ratio, in logs."""
    return _of_volumes("lvr_bound", jacobian, norms, volume_rank, slice(1))


@_inequality(
    "nvr_bound",
    formula="log[(1/n) √Σ_{i,l} (a_i^l)^{2r} (nS/r)^{r/2}] ≥ log mean_i NVR_i",
    unit="nats",
    value_range="(-inf, inf)",
    bounds="log_nvr",
)
def nvr_bound(
    jacobian: Jacobians, norms: LayerNorms, *, volume_rank: VolumeRank = None
) -> Measurement:
    """Upper bound on the mean network-wide volume ratio, in logs."""
    return _of_volumes("nvr_bound", jacobian, norms, volume_rank, slice(None))


@_inequality(
    "input_invariant_bound",
    passes=("jacobian",),
    formula="m₁ mean_i ‖W₁ ∘ ∇_{W₁} f(x_i)‖_F² ≥ mean_i ‖J_i x_i‖²/d",
    invariances=(RESCALING,),
    bounds="input_invariant_mls",
)
def input_invariant_bound(jacobian: Jacobians) -> Measurement:
    """Upper bound on the input-invariant MLS through the first layer's adaptive sharpness."""
    along = jacobian.along_input
    held = evidence(jacobian, along.values, along)
    plain = (held.norms.first_layer[:, 0] > 0).all()
    if not jacobian.sums.first_layer_reads_input or not plain:
        raise MetricError("the first layer is not a Linear, Conv1d or Conv2d that reads the input")

    def sides(squares: GradientNorms, form: Form) -> Sides:
        size, adaptive = (0, 1) if form == "unrolled" else (2, 3)
        right = squares.first_layer[:, size] * squares.first_layer[:, adaptive]
        return Sides.of_points(along.values[held.kept], right)

    return checked("input_invariant_bound", held, sides)


def _of_leading(
    name: str,
    jacobian: Jacobians,
    norms: LayerNorms,
    sides: Callable[[Factors, np.ndarray], Sides],
) -> Measurement:
    """An inequality on the largest singular values by layer (n, L, 1)."""
    largest = jacobian.layer_leading(1)
    return _checked(name, jacobian, norms, largest, largest.sigma, sides)


def _of_volumes(
    name: str, jacobian: Jacobians, norms: LayerNorms, volume_rank: int | None, layers: slice
) -> Measurement:
    """By AM-GM, prod_{k<=r} sigma_k^2 <= (||J||_F^2 / r)^r with ||J^l||_F <= a^l g^l."""
    leading = jacobian.layer_leading(volume_rank)

    def sides(f: Factors, logs: np.ndarray) -> Sides:
        right = _log_volume_bound(f.a[:, layers], f.sharpness, leading.rank)
        return Sides.of_means(_log_mean(logs[:, layers]), right)

    return _checked(name, jacobian, norms, leading, leading.log_volumes(), sides, logs=True)


def _checked(
    name: str,
    jacobian: Jacobians,
    norms: LayerNorms,
    leading: Leading,
    lefts: np.ndarray,
    sides: Callable[[Factors, np.ndarray], Sides],
    *,
    logs: bool = False,
) -> Measurement:
    """The inequality between the factors and what was made of leading singular values."""
    tolerance = leading.tolerance * (leading.rank if logs else 1.0)
    held = evidence(jacobian, leading.sigma, leading, tolerance)

    def of_squares(squares: GradientNorms, form: Form) -> Sides:
        found = factors(squares, held.input_norm2, leading.layer_names, norms, form)
        return sides(found, lefts[held.kept])

    return checked(name, held, of_squares, logs=logs)


def _log_mean(logs: np.ndarray) -> float:
    """log of the mean over points of a sum over the other axis."""
    return float(logsumexp(logs)) - float(np.log(len(logs)))


def _log_volume_bound(a: np.ndarray, sharpness: np.ndarray, rank: int) -> float:
    """log of (1/n) sqrt(sum a^{2r}) (n S / r)^{r/2} over points and layers."""
    with np.errstate(divide="ignore"):
        root = 0.5 * float(logsumexp(2.0 * rank * np.log(a)))
        volume = 0.5 * rank * float(np.log(sharpness.sum() / rank))
    return root + volume - float(np.log(len(sharpness)))
