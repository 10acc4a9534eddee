"""Compression of the representation: metrics of the Jacobian df/dx at each probe point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydantic import PositiveInt
from scipy.special import logsumexp

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.catalog.reduction import mean_over_points
from flatscale.metrics.passes.jacobian.estimated import JacobianEstimates
from flatscale.metrics.passes.jacobian.exact import JacobianPoints
from flatscale.metrics.registration import metric

Jacobian = JacobianPoints | JacobianEstimates

_PAPER = "arXiv 2310.01770"
MOST_ITERATED_VALUES = 32
"""Most leading singular values computed where no Jacobian is held whole."""
_RESCALING = ("layer rescaling of ReLU networks",)


VolumeRank = PositiveInt | None
"""How many leading singular values make the volume; None for all N."""


@metric(
    "mls",
    passes=("jacobian",),
    formula="mean_i σ₁(J_i)",
    group="compression",
    invariances=_RESCALING,
    source=_PAPER,
    default=True,
)
def mls(jacobian: Jacobian) -> Measurement:
    """Maximum Local Sensitivity: how far the output moves per unit of the worst input change."""
    if isinstance(jacobian, JacobianEstimates):
        return _iterated("mls", jacobian, jacobian.largest["sigma"][:, 0])
    return mean_over_points(
        "mls", jacobian.singular_values[:, 0], num_evaluations=jacobian.num_evaluations
    )


@metric(
    "nmls",
    passes=("jacobian",),
    formula="mean_i Σ_l σ₁(J_i^l)",
    group="compression",
    source=_PAPER,
    default=True,
)
def nmls(jacobian: Jacobian) -> Measurement:
    """Network-wide MLS: the sensitivities to the inputs of all linear layers, summed."""
    if isinstance(jacobian, JacobianEstimates):
        found = jacobian.leading(1, layers=True)
        sigma = found["sigma"][:, :, 0]
        named = {str(name): sigma[:, i] for i, name in enumerate(found["layer_names"][0])}
        return _iterated("nmls", jacobian, sigma.sum(axis=1), found, named)
    largest = layer_values(jacobian)[:, :, 0]
    return mean_over_points(
        "nmls",
        largest.sum(axis=1),
        num_evaluations=jacobian.num_evaluations,
        layers={name: largest[:, i] for i, name in enumerate(jacobian.layer_names)},
    )


@metric(
    "log_lvr",
    passes=("jacobian",),
    formula="mean_i Σ_{k≤r} log σ_k(J_i)",
    group="compression",
    unit="nats",
    value_range="(-inf, inf)",
    invariances=_RESCALING,
    source=_PAPER,
    default=True,
)
def log_lvr(jacobian: Jacobian, *, volume_rank: VolumeRank = None) -> Measurement:
    """Local Volumetric Ratio, in logs: how the network scales volumes of the input space."""
    if isinstance(jacobian, JacobianEstimates):
        rank = checked_rank(jacobian, volume_rank)
        found = jacobian.leading(rank, layers=False)
        logs, deficient = _log_leading(found["sigma"], rank)
        out = {f"rank below {rank}": deficient}
        return _iterated("log_lvr", jacobian, logs, found, left_out=out)
    rank = checked_rank(jacobian, volume_rank)
    logs = log_volumes(jacobian.singular_values, rank, jacobian.dtype_epsilon)
    deficient = np.asarray(np.isneginf(logs))
    if deficient.all():
        _refuse_deficient(jacobian.singular_values, rank, jacobian.dtype_epsilon)
    return mean_over_points(
        "log_lvr",
        np.where(deficient, 0.0, logs),
        num_evaluations=jacobian.num_evaluations,
        left_out={f"rank below {rank}": deficient},
        extras={"rank_deficient_points": (float(deficient.sum()),)},
    )


@metric(
    "log_nvr",
    passes=("jacobian",),
    formula="mean_i log Σ_l exp Σ_{k≤r} log σ_k(J_i^l)",
    group="compression",
    unit="nats",
    value_range="(-inf, inf)",
    source=_PAPER,
    default=True,
)
def log_nvr(jacobian: Jacobian, *, volume_rank: VolumeRank = None) -> Measurement:
    """Network-wide volume ratio, in logs: the volume ratios of all linear layers, summed."""
    if isinstance(jacobian, JacobianEstimates):
        rank = checked_rank(jacobian, volume_rank)
        found = jacobian.leading(rank, layers=True)
        logs, deficient = _log_leading(found["sigma"], rank)
        out = {f"rank below {rank} at a layer": np.asarray(deficient.any(axis=1))}
        named = {str(name): logs[:, i] for i, name in enumerate(found["layer_names"][0])}
        return _iterated("log_nvr", jacobian, logsumexp(logs, axis=1), found, named, out)
    rank = checked_rank(jacobian, volume_rank)
    spectra = layer_values(jacobian)
    logs = log_volumes(spectra, rank, jacobian.dtype_epsilon)
    empty = np.asarray(np.isneginf(logs))
    deficient = np.asarray(empty.all(axis=1))
    if deficient.all():
        _refuse_deficient(spectra[:, 0], rank, jacobian.dtype_epsilon)
    safe = np.where(deficient[:, None], 0.0, logs)
    named = {name: logs[:, i] for i, name in enumerate(jacobian.layer_names)}
    lost = float(empty.sum())
    return mean_over_points(
        "log_nvr",
        logsumexp(safe, axis=1),
        num_evaluations=jacobian.num_evaluations,
        left_out={f"rank below {rank} at every layer": deficient},
        layers={name: v for name, v in named.items() if not np.any(np.isneginf(v))},
        extras={"rank_deficient_layers_and_points": (lost,)},
    )


@metric(
    "local_dimensionality",
    passes=("jacobian",),
    formula="mean_i (Σ σ²)² / Σ σ⁴",
    group="compression",
    value_range="[1, N]",
    invariances=_RESCALING,
    source=_PAPER,
    default=True,
)
def local_dimensionality(jacobian: Jacobian) -> Measurement:
    """Participation ratio of the local output directions: how many of them share the variance."""
    if isinstance(jacobian, JacobianEstimates):
        return _summed("local_dimensionality", jacobian, jacobian.sums.dimensionality)
    squares = jacobian.singular_values**2
    total = squares.sum(axis=1)
    flat = total == 0.0
    ratio = total**2 / np.where(flat, 1.0, (squares**2).sum(axis=1))
    return mean_over_points(
        "local_dimensionality",
        ratio,
        num_evaluations=jacobian.num_evaluations,
        left_out={"the Jacobian vanishes": flat},
    )


@metric(
    "input_gradient",
    passes=("jacobian",),
    formula="mean_i ‖J_i‖_F²",
    group="compression",
    invariances=_RESCALING,
    source="Ma & Ying 2021",
    default=True,
)
def input_gradient(jacobian: Jacobian) -> Measurement:
    """Squared norm of the gradient with respect to the input, summed over outputs."""
    if isinstance(jacobian, JacobianEstimates):
        sums = jacobian.sums
        extra = {"monte_carlo_std_error": (sums.frobenius_error,)}
        return _summed("input_gradient", jacobian, sums.frobenius2, extra)
    return mean_over_points(
        "input_gradient",
        (jacobian.singular_values**2).sum(axis=1),
        num_evaluations=jacobian.num_evaluations,
    )


@metric(
    "normalized_mls",
    passes=("jacobian",),
    formula="mean_i σ₁(J_i)² ‖x_i‖²",
    group="compression",
    invariances=(*_RESCALING, "scaling of the input against the first layer"),
    source=f"{_PAPER}, Figure 4 (with sigmoid outputs)",
    default=True,
)
def normalized_mls(jacobian: Jacobian) -> Measurement:
    """Squared sensitivity to a relative change of the input."""
    if isinstance(jacobian, JacobianEstimates):
        found = jacobian.largest
        return _iterated(
            "normalized_mls", jacobian, found["sigma"][:, 0] ** 2 * found["input_norm2"]
        )
    return mean_over_points(
        "normalized_mls",
        jacobian.singular_values[:, 0] ** 2 * jacobian.input_norm2,
        num_evaluations=jacobian.num_evaluations,
    )


@metric(
    "input_invariant_mls",
    passes=("jacobian",),
    formula="mean_i ‖J_i x_i‖² / d",
    group="compression",
    invariances=(*_RESCALING, "scaling of the input against the first layer"),
    source=_PAPER,
    default=True,
)
def input_invariant_mls(jacobian: Jacobian) -> Measurement:
    """Squared output change along the input itself, per input dimension."""
    if isinstance(jacobian, JacobianEstimates):
        along = jacobian.along_input
        return mean_over_points(
            "input_invariant_mls",
            along["directional2"] / along["input_size"],
            num_evaluations=2,
            note="; ".join(jacobian.attention_notes) or None,
        )
    return mean_over_points(
        "input_invariant_mls",
        jacobian.directional2 / jacobian.input_size,
        num_evaluations=jacobian.num_evaluations,
    )


def _iterated(
    name: str,
    jacobian: JacobianEstimates,
    values: np.ndarray,
    found: Mapping[str, np.ndarray] | None = None,
    layers: Mapping[str, np.ndarray] | None = None,
    left_out: Mapping[str, np.ndarray] | None = None,
) -> Measurement:
    found = jacobian.largest if found is None else found
    measured = mean_over_points(
        name,
        values,
        num_evaluations=1 + 3 * int(found["steps"].max()),
        layers=layers,
        left_out=left_out,
        note="; ".join(jacobian.attention_notes) or None,
    )
    return replace(measured, converged=bool(found["settled"].all()))


def _log_leading(sigma: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """sum_{k<=rank} log sigma_k, and where the rank is smaller (the sum is then 0)."""
    logs = log_volumes(sigma, rank, float(np.finfo(np.float32).eps))
    deficient = np.asarray(np.isneginf(logs))
    return np.where(deficient, 0.0, logs), deficient


def _summed(
    name: str,
    jacobian: JacobianEstimates,
    values: np.ndarray,
    extras: Mapping[str, tuple[float, ...]] | None = None,
) -> Measurement:
    sums = jacobian.sums
    measured = mean_over_points(
        name, values, num_evaluations=sums.num_evaluations, extras=extras or {}
    )
    return replace(measured, converged=sums.converged)


def layer_values(jacobian: JacobianPoints) -> np.ndarray:
    """Singular values by layer (n, L, N).

    Raises:
        MetricError: the network has no linear layer.
    """
    if not jacobian.layer_names:
        raise MetricError("the network has no linear layer (Linear or Conv) that its outputs use")
    return jacobian.layer_singular_values


def checked_rank(jacobian: Jacobian, rank: int | None) -> int:
    """How many singular values make the volume.

    Raises:
        MetricError: more than the network has outputs, or than can be iterated for.
    """
    if isinstance(jacobian, JacobianEstimates):
        if rank is None or rank > MOST_ITERATED_VALUES:
            raise MetricError(
                "needs the whole spectrum of Jacobians whose rows would exceed 256 MB a point: set "
                f"volume_rank to at most {MOST_ITERATED_VALUES} for the leading singular values "
                'alone, or options={"jacobian": {"method": "exact"}} for all of them'
            )
        return rank
    num_outputs = jacobian.singular_values.shape[1]
    rank = rank or num_outputs
    if rank > num_outputs:
        raise MetricError(f"volume_rank is {rank} but the network has {num_outputs} outputs")
    return rank


def log_volumes(spectra: np.ndarray, rank: int, epsilon: float) -> np.ndarray:
    """sum_{k<=rank} log sigma_k over the last axis; -inf where the numerical rank is smaller.

    A singular value counts as zero below 8 N epsilon sigma_1, the noise of the arithmetic.
    """
    num_outputs = spectra.shape[-1]
    floor = 8.0 * num_outputs * epsilon * spectra[..., :1]
    kept = spectra[..., :rank]
    positive = np.where(np.isnan(kept), np.nan, np.maximum(kept, np.finfo(float).tiny))
    logs = np.where((kept <= floor) & ~np.isnan(kept), -np.inf, np.log(positive))
    return logs.sum(axis=-1)


def _refuse_deficient(spectra: np.ndarray, rank: int, epsilon: float) -> None:
    floor = 8.0 * spectra.shape[-1] * epsilon * spectra[..., :1]
    highest = int((spectra > floor).sum(axis=-1).max())
    if highest == 0:
        raise MetricError("the Jacobian vanishes at every probe point, so it scales no volume")
    raise MetricError(
        f"every probe point's Jacobian has rank below {rank} (at most {highest}; softmax outputs "
        f"have at most N-1): set volume_rank to at most {highest}"
    )
