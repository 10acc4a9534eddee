"""The inequalities between compression and sharpness, checked on every network measured.

Exact for Linear layers. For convolutions and token-wise layers they hold for the unrolled layer:
||W||_2 of the layer as a map on its whole input and ||grad|| = ||delta||_F ||x||_F. The paper's
weight-shared form (kernel matrix norm, gradient of the shared weight) is reported beside it and may
fail; its violations are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.catalog.bound_checks import (
    Factors,
    Form,
    Sides,
    Squares,
    checked,
    evidence,
    factors,
)
from flatscale.metrics.catalog.compression import (
    Jacobian,
    VolumeRank,
    checked_rank,
    layer_values,
    log_volumes,
)
from flatscale.metrics.catalog.reduction import mean_over_points
from flatscale.metrics.passes.jacobian.estimated import JacobianEstimates
from flatscale.metrics.passes.jacobian.layer_norms import LayerNorms
from flatscale.metrics.registration import metric

_PAPER = "arXiv 2310.01770"


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Leading singular values of every J_i^l (n, L, r), and how they were found.

    Attributes:
        values: descending; NaN at points that are not finite.
        names: the layers.
        input_norm2: ||x_i^l||^2 (n, L).
        settled: whether an iteration for them settled.
        epsilon: rounding unit of the arithmetic.
    """

    values: np.ndarray
    names: tuple[str, ...]
    input_norm2: np.ndarray
    settled: bool
    epsilon: float


def _spectra(jacobian: Jacobian, rank: int) -> Spectra:
    if isinstance(jacobian, JacobianEstimates):
        found = jacobian.leading(rank, layers=True)
        return Spectra(
            values=found["sigma"],
            names=tuple(str(name) for name in found["layer_names"][0]),
            input_norm2=jacobian.sums.layer_input_norm2,
            settled=bool(found["settled"].all()),
            epsilon=float(np.finfo(np.float32).eps),
        )
    return Spectra(
        values=layer_values(jacobian),
        names=jacobian.layer_names,
        input_norm2=jacobian.layer_input_norm2,
        settled=True,
        epsilon=jacobian.dtype_epsilon,
    )


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

    def sides(f: Factors, spectra: np.ndarray) -> Sides:
        right = f.a[:, 0] * f.g[:, 0]
        return Sides(left=spectra[:, 0, 0], right=right, value=float(right.mean()))

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

    def sides(f: Factors, spectra: np.ndarray) -> Sides:
        right = float(np.sqrt((f.a[:, 0] ** 2).mean() * (f.g[:, 0] ** 2).mean()))
        return Sides.of_means(float((f.a[:, 0] * f.g[:, 0]).mean()), right)

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

    def sides(f: Factors, spectra: np.ndarray) -> Sides:
        a2 = (f.a[:, 0] ** 2).mean()
        left = float(np.sqrt(a2 * (f.g[:, 0] ** 2).mean()))
        return Sides.of_means(left, float(np.sqrt(a2 * f.sharpness.mean())))

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

    def sides(f: Factors, spectra: np.ndarray) -> Sides:
        a2 = (f.a**2).sum(axis=1)
        return Sides(
            left=spectra[:, :, 0].sum(axis=1),
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
)
def lvr_bound(
    jacobian: Jacobian, norms: LayerNorms, *, volume_rank: VolumeRank = None
) -> Measurement:
    """Upper bound on the mean local volumetric ratio, in logs."""
    return _volume_bound("lvr_bound", jacobian, norms, volume_rank, slice(1))


@metric(
    "nvr_bound",
    passes=("jacobian", "layer_norms"),
    formula="log[(1/n) √Σ_{i,l} (a_i^l)^{2r} (nS/r)^{r/2}] ≥ log mean_i NVR_i",
    group="bound",
    unit="nats",
    value_range="(-inf, inf)",
    source=_PAPER,
    default=True,
)
def nvr_bound(
    jacobian: Jacobian, norms: LayerNorms, *, volume_rank: VolumeRank = None
) -> Measurement:
    """Upper bound on the mean network-wide volume ratio, in logs."""
    return _volume_bound("nvr_bound", jacobian, norms, volume_rank, slice(None))


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
    if isinstance(jacobian, JacobianEstimates):
        along, reads = jacobian.along_input, jacobian.sums.first_layer_reads_input
        left = along["directional2"] / along["input_size"]
    else:
        left, reads = jacobian.directional2 / jacobian.input_size, jacobian.first_layer_reads_input
    held = evidence(jacobian, np.isfinite(left), relative=0.0)
    if not reads or not (held.squares.first_layer[:, 0] > 0).all():
        raise MetricError("the first layer is not a Linear, Conv1d or Conv2d that reads the input")

    def sides(squares: Squares, form: Form) -> Sides:
        size, adaptive = (0, 1) if form == "unrolled" else (2, 3)
        right = squares.first_layer[:, size] * squares.first_layer[:, adaptive]
        return Sides(left=left[held.kept], right=right, value=float(right.mean()))

    return checked("input_invariant_bound", held, sides)


def _elsewhere(layer: str) -> str:
    return f"J¹ is taken at the input of {layer}, not at the network's"


def _volume_bound(
    name: str, jacobian: Jacobian, norms: LayerNorms, volume_rank: int | None, layers: slice
) -> Measurement:
    """By AM-GM, prod_{k<=r} sigma_k^2 <= (||J||_F^2 / r)^r with ||J^l||_F <= a^l g^l."""
    rank = checked_rank(jacobian, volume_rank)

    def sides(f: Factors, log_volume: np.ndarray) -> Sides:
        right = _log_volume_bound(f.a[:, layers], f.sharpness, rank)
        return Sides.of_means(_log_mean(log_volume[:, layers]), right)

    return _checked(name, jacobian, norms, sides, rank=rank, logs=True)


def _log_mean(logs: np.ndarray) -> float:
    """log of the mean over points of a sum over the other axis."""
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
    sides: Callable[[Factors, np.ndarray], Sides],
    *,
    rank: int = 1,
    logs: bool = False,
) -> Measurement:
    """The inequality on leading singular values (n, L, rank), or their volumes' logs (n, L)."""
    found = _spectra(jacobian, rank)
    kept = np.isfinite(found.values).all(axis=(1, 2))
    held = evidence(jacobian, kept, settled=found.settled, relative=float(rank) if logs else 1.0)
    values, input_norm2 = found.values[held.kept], found.input_norm2[held.kept]
    lefts = log_volumes(values, rank, found.epsilon) if logs else values

    def of_squares(squares: Squares, form: Form) -> Sides:
        return sides(factors(squares, input_norm2, found.names, norms, form), lefts)

    return checked(name, held, of_squares, logs=logs)
