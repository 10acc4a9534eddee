"""Compression of the representation: how far the outputs move with the input at each point."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from pydantic import PositiveInt
from scipy.special import logsumexp

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.jacobian.jacobians import Jacobians, Leading, mean_of
from flatscale.metrics.passes.perturbation.finite_sensitivity import FiniteRatios
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import RESCALING, metric

_PAPER = "arXiv 2310.01770"

VolumeRank = PositiveInt | None
"""How many leading singular values make the volume; None for all N."""

_compression = functools.partial(metric, passes=("jacobian",), group="compression")


@_compression("mls", formula="mean_i σ₁(J_i)", invariances=(RESCALING,), source=_PAPER)
def mls(jacobian: Jacobians) -> Measurement:
    """Maximum Local Sensitivity: how far the output moves per unit of the worst input change."""
    largest = jacobian.leading(1)
    return mean_of("mls", largest.sigma[:, 0], largest)


@_compression("nmls", formula="mean_i Σ_l σ₁(J_i^l)", source=_PAPER, variant_of="mls")
def nmls(jacobian: Jacobians) -> Measurement:
    """Network-wide MLS: the sensitivities to the inputs of all linear layers, summed."""
    largest = jacobian.layer_leading(1)
    sigma = largest.sigma[:, :, 0]
    named = dict(zip(largest.layer_names, sigma.T, strict=True))
    return mean_of("nmls", sigma.sum(axis=1), largest, layers=named)


@_compression(
    "log_lvr",
    formula="mean_i Σ_{k≤r} log σ_k(J_i)",
    unit="nats",
    value_range="(-inf, inf)",
    invariances=(RESCALING,),
    source=_PAPER,
)
def log_lvr(jacobian: Jacobians, *, volume_rank: VolumeRank = None) -> Measurement:
    """Local Volumetric Ratio, in logs: how the network scales volumes of the input space."""
    found = jacobian.leading(volume_rank)
    logs = found.log_volumes()
    deficient = np.asarray(np.isneginf(logs))
    _refuse_deficient(found, deficient)
    lost = {} if found.numerical_rank is None else _count("rank_deficient_points", deficient)
    values, left_out = np.where(deficient, 0.0, logs), {f"rank below {found.rank}": deficient}
    return mean_of("log_lvr", values, found, left_out=left_out, extras=lost)


@_compression(
    "log_nvr",
    formula="mean_i log Σ_l exp Σ_{k≤r} log σ_k(J_i^l)",
    unit="nats",
    value_range="(-inf, inf)",
    source=_PAPER,
    variant_of="log_lvr",
)
def log_nvr(jacobian: Jacobians, *, volume_rank: VolumeRank = None) -> Measurement:
    """Network-wide volume ratio, in logs: the volume ratios of all linear layers, summed.

    A layer of lower rank adds no volume; where only leading values are known it may have been
    missed, and the point is left out.
    """
    found = jacobian.layer_leading(volume_rank)
    logs = found.log_volumes()
    empty = np.asarray(np.isneginf(logs))
    deficient, where, lost = np.asarray(empty.any(axis=1)), "a layer", {}
    if found.numerical_rank is not None:
        deficient, where = np.asarray(empty.all(axis=1)), "every layer"
        lost = _count("rank_deficient_layers_and_points", empty)
    _refuse_deficient(found, deficient)
    named = dict(zip(found.layer_names, logs.T, strict=True))
    if found.numerical_rank is not None:
        named = {name: v for name, v in named.items() if not np.isneginf(v).any()}
    return mean_of(
        "log_nvr",
        logsumexp(np.where(deficient[:, None], 0.0, logs), axis=1),
        found,
        left_out={f"rank below {found.rank} at {where}": deficient},
        layers=named,
        extras=lost,
    )


@_compression(
    "local_dimensionality",
    formula="mean_i (Σ σ²)² / Σ σ⁴",
    value_range="[1, N]",
    invariances=(RESCALING,),
    source=_PAPER,
)
def local_dimensionality(jacobian: Jacobians) -> Measurement:
    """Participation ratio of the local output directions: how many of them share the variance."""
    sums = jacobian.sums
    flat = {"the Jacobian vanishes": sums.frobenius2 == 0.0}
    return mean_of("local_dimensionality", sums.dimensionality, sums, left_out=flat)


@_compression(
    "input_gradient", formula="mean_i ‖J_i‖_F²", invariances=(RESCALING,), source="Ma & Ying 2021"
)
def input_gradient(jacobian: Jacobians) -> Measurement:
    """Squared norm of the gradient with respect to the input, summed over outputs."""
    sums = jacobian.sums
    return mean_of("input_gradient", sums.frobenius2, sums, draw_error=sums.frobenius_error)


@_compression(
    "normalized_mls",
    formula="mean_i σ₁(J_i)² ‖x_i‖²",
    invariances=(RESCALING, "scaling of the input against the first layer"),
    source=f"{_PAPER}, Figure 4 (with sigmoid outputs)",
    variant_of="mls",
)
def normalized_mls(jacobian: Jacobians) -> Measurement:
    """Squared sensitivity to a relative change of the input."""
    largest = jacobian.leading(1)
    return mean_of("normalized_mls", largest.sigma[:, 0] ** 2 * jacobian.input_norm2, largest)


@_compression(
    "input_invariant_mls",
    formula="mean_i ‖J_i x_i‖² / d",
    invariances=(RESCALING, "scaling of the input against the first layer"),
    source=_PAPER,
    variant_of="mls",
)
def input_invariant_mls(jacobian: Jacobians) -> Measurement:
    """Squared output change along the input itself, per input dimension."""
    along = jacobian.along_input
    return mean_of("input_invariant_mls", along.values, along)


@_compression(
    "finite_mls",
    passes=("finite_sensitivity",),
    formula="mean_i max_{‖δ‖ ≤ r} ‖f(x_i + δ) − f(x_i)‖ / ‖δ‖",
    invariances=(RESCALING,),
    source=_PAPER,
    variant_of="mls",
)
def finite_mls(found: FiniteRatios, *, settle: float = 0.05) -> Measurement:
    """Maximum local sensitivity to perturbations of finite size.

    Args:
        found: the best ratios.
        settle: the ascent has settled once the second half of the steps raised the mean of the
            best ratios by less than this share.
    """
    measured = mean_over_points(
        "finite_mls",
        found.best,
        num_evaluations=found.num_evaluations,
        extras={"radius": (found.radius,)},
        note=f"the best found, a lower bound, for radius {found.radius}",
    )
    mean = np.nanmean(found.best)
    return replace(measured, converged=bool(mean - np.nanmean(found.half) <= settle * mean))


def _count(name: str, mask: np.ndarray) -> dict[str, tuple[float, ...]]:
    return {name: (float(mask.sum()),)}


def _refuse_deficient(found: Leading, deficient: np.ndarray) -> None:
    """Raise MetricError where the whole spectra are known and no point has the rank asked for."""
    if found.numerical_rank is None or not deficient.all():
        return
    highest = int(found.numerical_rank.reshape(len(deficient), -1)[:, 0].max())
    if highest == 0:
        raise MetricError("the Jacobian vanishes at every probe point, so it scales no volume")
    raise MetricError(
        f"every probe point's Jacobian has rank below {found.rank} (at most {highest}; softmax "
        f"outputs have at most N-1): set volume_rank to at most {highest}"
    )
