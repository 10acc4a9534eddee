"""The inequalities between compression and sharpness, checked on every network measured.

Exact for Linear layers. For convolutions and token-wise layers they hold for the unrolled layer:
||W||_2 of the layer as a map on its whole input and ||grad|| = ||delta||_F ||x||_F. The paper's
weight-shared form (kernel matrix norm, gradient of the shared weight) is reported beside it and may
fail; its violations are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.compression import (
    Jacobian,
    VolumeOptions,
    all_rows,
    layer_values,
    log_volumes,
    volume_rank,
)
from flatscale.metrics.jacobian import JacobianPoints
from flatscale.metrics.jacobian_estimates import JacobianEstimates, Sums
from flatscale.metrics.layer_norms import LayerNorms
from flatscale.metrics.reduction import mean_over_points, who_is_left_out
from flatscale.metrics.registry import metric

_PAPER = "arXiv 2310.01770"
_TOLERANCE = 1e-3
"""Relative room for the operator norm's own accuracy and float32 Jacobians."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """left <= right, for each point (n,) or once for means (1,); value is the bound."""

    left: np.ndarray
    right: np.ndarray
    value: float


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The two factors of every bound, per point and linear layer.

    Attributes:
        a: ||W_l||_2 / ||x_i^l|| (n, L).
        g: ||grad_{W_l} f(x_i)||_F (n, L).
        sharpness: S_i, the squared gradient norm over all parameters (n,).
        spectra: singular values of J_i^l (n, L, N), or the largest alone (n, L, 1).
    """

    a: np.ndarray
    g: np.ndarray
    sharpness: np.ndarray
    spectra: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Squared norms of every layer at the finite points (n, L), sharpness (n,), spectra."""

    layer_names: tuple[str, ...]
    x2: np.ndarray
    delta2: np.ndarray
    weight2: np.ndarray
    sharpness: np.ndarray
    spectra: np.ndarray


def _norms(jacobian: Jacobian) -> Norms:
    source: JacobianPoints | Sums
    if isinstance(jacobian, JacobianPoints):
        spectra, rows, source = layer_values(jacobian), jacobian.finite, jacobian
        names = jacobian.layer_names
    else:
        leading, source = jacobian.leading(1, layers=True), jacobian.sums
        spectra, rows = leading["sigma"], jacobian.finite
        names = tuple(str(name) for name in leading["layer_names"][0])
    return Norms(
        layer_names=names,
        x2=source.layer_input_norm2[rows],
        delta2=source.layer_delta_norm2[rows],
        weight2=source.layer_weight_gradient2[rows],
        sharpness=source.parameter_gradient2[rows].sum(axis=1),
        spectra=spectra[rows],
    )


def factors(jacobian: Jacobian, norms: LayerNorms, form: Literal["unrolled", "shared"]) -> Factors:
    """The factors at the finite points.

    Raises:
        MetricError: no linear layer, or a layer that reads zeros only.
    """
    found = _norms(jacobian)
    x = found.x2
    if (x == 0.0).any():
        layer = found.layer_names[int(np.flatnonzero((x == 0.0).any(axis=0))[0])]
        raise MetricError(
            f"layer {layer} reads only zeros at a probe point: ||W||/||x|| is infinite"
        )
    total, unrolled = found.sharpness, found.delta2 * x
    if form == "shared":
        spectral, g2 = norms.kernel, found.weight2
    else:
        spectral, g2 = norms.unrolled, unrolled
        total = total - found.weight2.sum(axis=1) + unrolled.sum(axis=1)
    return Factors(a=spectral / np.sqrt(x), g=np.sqrt(g2), sharpness=total, spectra=found.spectra)


@metric(
    "bound_a",
    passes=("jacobian",),
    formula="A = mean_i ‖J_i¹‖₂",
    group="bound",
    invariances=("layer rescaling of ReLU networks",),
    source=_PAPER,
    default=True,
)
def bound_a(jacobian: Jacobian) -> Measurement:
    """Left side of A ≤ B ≤ C ≤ D: the sensitivity to the first linear layer's input."""
    if isinstance(jacobian, JacobianEstimates):
        leading = jacobian.leading(1, layers=True)
        names, reads = leading["layer_names"][0], bool(leading["reads_input"].all())
        note = None if reads else _elsewhere(str(names[0]))
        return replace(
            mean_over_points(
                "bound_a",
                leading["sigma"][:, 0, 0],
                num_evaluations=1 + 3 * int(leading["steps"].max()),
                note=note,
            ),
            converged=bool(leading["settled"].all()),
        )
    values = layer_values(jacobian)[:, 0, 0]
    note = None if jacobian.first_layer_reads_input else _elsewhere(jacobian.layer_names[0])
    return mean_over_points(
        "bound_a",
        values,
        num_evaluations=jacobian.num_evaluations,
        left_out={"not finite": ~jacobian.finite},
        note=note,
    )


@metric(
    "bound_b",
    passes=("jacobian", "layer_norms"),
    formula="B = mean_i (‖W₁‖₂/‖x_i‖) ‖∇_{W₁} f(x_i)‖_F",
    group="bound",
    invariances=("layer rescaling of ReLU networks",),
    source=_PAPER,
    default=True,
)
def bound_b(jacobian: Jacobian, norms: LayerNorms) -> Measurement:
    """First upper bound on MLS, holding at every point."""

    def sides(f: Factors) -> Sides:
        right = f.a[:, 0] * f.g[:, 0]
        return Sides(left=f.spectra[:, 0, 0], right=right, value=float(right.mean()))

    return _checked("bound_b", jacobian, norms, sides)


@metric(
    "bound_c",
    passes=("jacobian", "layer_norms"),
    formula="C = √mean_i (a_i¹)² √mean_i (g_i¹)²",
    group="bound",
    invariances=("layer rescaling of ReLU networks",),
    source=_PAPER,
    default=True,
)
def bound_c(jacobian: Jacobian, norms: LayerNorms) -> Measurement:
    """Second upper bound on MLS: B with its two factors averaged apart."""

    def sides(f: Factors) -> Sides:
        right = float(np.sqrt((f.a[:, 0] ** 2).mean() * (f.g[:, 0] ** 2).mean()))
        return _of_means(float((f.a[:, 0] * f.g[:, 0]).mean()), right)

    return _checked("bound_c", jacobian, norms, sides)


@metric(
    "bound_d",
    passes=("jacobian", "layer_norms"),
    formula="D = √mean_i (a_i¹)² √S",
    group="bound",
    source=_PAPER,
    default=True,
)
def bound_d(jacobian: Jacobian, norms: LayerNorms) -> Measurement:
    """Third upper bound on MLS: through the sharpness of all parameters."""

    def sides(f: Factors) -> Sides:
        a2 = (f.a[:, 0] ** 2).mean()
        left = float(np.sqrt(a2 * (f.g[:, 0] ** 2).mean()))
        return _of_means(left, float(np.sqrt(a2 * f.sharpness.mean())))

    return _checked("bound_d", jacobian, norms, sides)


@metric(
    "nmls_bound",
    passes=("jacobian", "layer_norms"),
    formula="√mean_i Σ_l (a_i^l)² √S ≥ NMLS",
    group="bound",
    source=_PAPER,
    default=True,
)
def nmls_bound(jacobian: Jacobian, norms: LayerNorms) -> Measurement:
    """Upper bound on NMLS through sharpness; the inequality is also checked at every point."""

    def sides(f: Factors) -> Sides:
        a2 = (f.a**2).sum(axis=1)
        return Sides(
            left=f.spectra[:, :, 0].sum(axis=1),
            right=np.sqrt(a2 * f.sharpness),
            value=float(np.sqrt(a2.mean() * f.sharpness.mean())),
        )

    return _checked("nmls_bound", jacobian, norms, sides)


@metric(
    "lvr_bound",
    passes=("jacobian", "layer_norms"),
    formula="log[(1/n) √Σ_i (a_i¹)^{2r} (nS/r)^{r/2}] ≥ log mean_i LVR_i",
    group="bound",
    unit="nats",
    value_range="(-inf, inf)",
    source=_PAPER,
    default=True,
    options=VolumeOptions,
)
def lvr_bound(jacobian: Jacobian, norms: LayerNorms, options: VolumeOptions) -> Measurement:
    """Upper bound on the mean local volumetric ratio, in logs."""
    jacobian = all_rows(jacobian)
    rank = volume_rank(jacobian, options)

    def sides(f: Factors) -> Sides:
        logs = log_volumes(f.spectra[:, 0], rank, jacobian.dtype_epsilon)
        return _of_means(_log_mean(logs), _log_volume_bound(f.a[:, :1], f.sharpness, rank))

    return _checked("lvr_bound", jacobian, norms, sides, logs=True)


@metric(
    "nvr_bound",
    passes=("jacobian", "layer_norms"),
    formula="log[(1/n) √Σ_{i,l} (a_i^l)^{2r} (nS/r)^{r/2}] ≥ log mean_i NVR_i",
    group="bound",
    unit="nats",
    value_range="(-inf, inf)",
    source=_PAPER,
    default=True,
    options=VolumeOptions,
)
def nvr_bound(jacobian: Jacobian, norms: LayerNorms, options: VolumeOptions) -> Measurement:
    """Upper bound on the mean network-wide volume ratio, in logs."""
    jacobian = all_rows(jacobian)
    rank = volume_rank(jacobian, options)

    def sides(f: Factors) -> Sides:
        logs = log_volumes(f.spectra, rank, jacobian.dtype_epsilon)
        return _of_means(_log_mean(logs), _log_volume_bound(f.a, f.sharpness, rank))

    return _checked("nvr_bound", jacobian, norms, sides, logs=True)


@metric(
    "input_invariant_bound",
    passes=("jacobian",),
    formula="m₁ mean_i ‖W₁ ∘ ∇_{W₁} f(x_i)‖_F² ≥ mean_i ‖J_i x_i‖²/d",
    group="bound",
    invariances=("layer rescaling of ReLU networks",),
    source=_PAPER,
    default=True,
)
def input_invariant_bound(jacobian: Jacobian) -> Measurement:
    """Upper bound on the input-invariant MLS through the first layer's adaptive sharpness."""
    jacobian = all_rows(jacobian)
    rows = jacobian.finite
    first = jacobian.first_layer[rows]
    if not jacobian.first_layer_reads_input or not (first[:, 0] > 0).all():
        raise MetricError("the first layer is not a Linear, Conv1d or Conv2d that reads the input")
    left = jacobian.directional2[rows] / jacobian.input_size
    unrolled, shared = first[:, 0] * first[:, 1], first[:, 2] * first[:, 3]
    return _compared(
        "input_invariant_bound",
        jacobian,
        Sides(left=left, right=unrolled, value=float(unrolled.mean())),
        Sides(left=left, right=shared, value=float(shared.mean())),
    )


def _elsewhere(layer: str) -> str:
    return f"J¹ is taken at the input of {layer}, not at the network's"


def _of_means(left: float, right: float) -> Sides:
    return Sides(left=np.array([left]), right=np.array([right]), value=right)


def _log_mean(logs: np.ndarray) -> float:
    return float(logsumexp(logs)) - float(np.log(len(logs)))


def _log_volume_bound(a: np.ndarray, sharpness: np.ndarray, rank: int) -> float:
    count = len(sharpness)
    with np.errstate(divide="ignore"):
        root = 0.5 * float(logsumexp(2.0 * rank * np.log(a)))
        volume = 0.5 * rank * float(np.log(sharpness.sum() / rank))
    return root + volume - float(np.log(count))


def _checked(
    name: str,
    jacobian: Jacobian,
    norms: LayerNorms,
    sides: Callable[[Factors], Sides],
    *,
    logs: bool = False,
) -> Measurement:
    unrolled = factors(jacobian, norms, "unrolled")
    shared = factors(jacobian, norms, "shared")
    return _compared(name, jacobian, sides(unrolled), sides(shared), logs=logs)


def _compared(
    name: str, jacobian: Jacobian, unrolled: Sides, shared: Sides, *, logs: bool = False
) -> Measurement:
    """The bound with both sides' slack (right - left) and how often each form was violated."""
    slack, slack_shared = _slack(unrolled), _slack(shared)
    lost = ~jacobian.finite
    notes = [who_is_left_out("not finite", lost)] if lost.any() else []
    broken = _violations(unrolled, logs)
    if broken:
        notes.append(f"the bound is violated {broken} times")
    if not np.isfinite(unrolled.value):
        raise MetricError("the bound is not finite: a layer's weights or gradients vanish")
    converged = True
    if isinstance(jacobian, JacobianEstimates):
        sums = jacobian.sums
        converged = sums.converged and bool(jacobian.leading(1, layers=True)["settled"].all())
        error = (
            0.5
            * sums.sharpness_error
            / max(float(np.nanmean(sums.parameter_gradient2.sum(axis=1))), 1e-300)
        )
        notes.append(f"gradient norms estimated (relative error of √S {error:.1%})")
    return Measurement(
        name=name,
        value=unrolled.value,
        converged=converged,
        num_evaluations=jacobian.num_evaluations,
        num_points=int(jacobian.finite.sum()),
        reason="; ".join(notes) or None,
        extras={
            "slack": tuple(float(v) for v in slack),
            "violations": (float(broken),),
            "shared": (shared.value,) if np.isfinite(shared.value) else (),
            "shared_slack": tuple(float(v) for v in slack_shared),
            "shared_violations": (float(_violations(shared, logs)),),
        },
    )


def _slack(sides: Sides) -> np.ndarray:
    slack = sides.right - sides.left
    return slack[np.isfinite(slack)]


def _violations(sides: Sides, logs: bool) -> int:
    room = _TOLERANCE if logs else _TOLERANCE * np.abs(sides.right)
    return int((sides.left > sides.right + room).sum())
