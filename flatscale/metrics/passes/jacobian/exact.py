"""The Jacobian pass: spectra and norms per probe point and layer, or estimates of them.

N vector-Jacobian products with respect to all layer inputs and pre-activations at once. Where
those would not fit into memory, the pass turns to estimates that never hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat

from flatscale.errors import MetricError
from flatscale.metrics.passes.jacobian.estimated import JacobianEstimates
from flatscale.metrics.passes.jacobian.gradient_routes import find_routes
from flatscale.metrics.passes.jacobian.leading_values import SAMPLES_A_ROUND, Accuracy
from flatscale.metrics.passes.jacobian.rows import exact_rows, refuse_integers, trace_calls
from flatscale.metrics.probe.observers import Arrays, Observer, Shard
from flatscale.metrics.probe.required import required
from flatscale.metrics.registration import measurement_pass

_MEMORY_BYTES = 256e6
_CACHED_BYTES = 40e6
"""What a CPU computes fastest: fresh memory beyond it costs more than larger batches save."""


@dataclass(frozen=True, kw_only=True)
class JacobianPoints:
    """What the pass found, one row per probe point (n), in point order.

    Attributes:
        singular_values: of J_i, descending (n, N).
        layer_names: the linear layers' uses, in forward order (L).
        layer_singular_values: of J_i^l (n, L, N).
        layer_input_norm2: ||x_i^l||^2 (n, L).
        layer_delta_norm2: ||delta_i^l||_F^2 (n, L).
        layer_weight_gradient2: ||grad_{W_l} f(x_i)||_F^2, weight sharing included (n, L).
        parameter_names: all parameter tensors the outputs depend on (P).
        parameter_gradient2: sum_k ||grad_p f_k(x_i)||^2 (n, P).
        input_norm2: ||x_i||^2 (n).
        input_size: d.
        directional2: ||J_i x_i||^2 (n).
        first_layer: `FIRST_LAYER` columns for the input-invariant bound (n, 4).
        first_layer_reads_input: whether x^1 is the network's input.
        finite: points whose outputs and derivatives are all finite (n).
        dtype_epsilon: rounding unit of the arithmetic the Jacobians were computed in.
        num_evaluations: network evaluations per point.
    """

    singular_values: np.ndarray
    layer_names: tuple[str, ...]
    layer_singular_values: np.ndarray
    layer_input_norm2: np.ndarray
    layer_delta_norm2: np.ndarray
    layer_weight_gradient2: np.ndarray
    parameter_names: tuple[str, ...]
    parameter_gradient2: np.ndarray
    input_norm2: np.ndarray
    input_size: int
    directional2: np.ndarray
    first_layer: np.ndarray
    first_layer_reads_input: bool
    finite: np.ndarray
    dtype_epsilon: float
    num_evaluations: int

    @property
    def squared_norms(self) -> np.ndarray:
        """||J_i||_F^2 = tr J_i J_i^T (n)."""
        return np.square(self.singular_values).sum(axis=1)


@measurement_pass("jacobian")
def jacobian_pass(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    method: Literal["auto", "exact", "estimate"] = "auto",
    tolerance: PositiveFloat = 1e-3,
    max_steps: Annotated[int, Field(ge=2)] = 60,
    max_relative_error: PositiveFloat = 0.05,
    max_samples: Annotated[int, Field(ge=2 * SAMPLES_A_ROUND)] = 64,
) -> JacobianPoints | JacobianEstimates:
    """Spectra and norms of every probe point's Jacobians, exact where they fit into memory.

    Args:
        observers: the point sets; the probe's is used.
        seed: of start vectors and signs.
        method: exact (all N rows at once), estimate, or auto: estimate where one point's rows and
            their layer-wise parts would exceed 256 MB.
        tolerance: relative change of sigma_1 at which the iteration stops.
        max_steps: most Lanczos steps; three more for every further singular value asked for.
        max_relative_error: of the sums over outputs, over random signs.
        max_samples: most random vectors a point.
    """
    probe = required(observers, "probe")
    exact = method == "exact"
    if method == "auto":
        exact = bool((probe.gather(exact_bytes)["bytes"] <= _MEMORY_BYTES).all())
    if exact:
        return exact_pass(probe)
    accuracy = Accuracy(
        tolerance=tolerance,
        max_steps=max_steps,
        max_relative_error=max_relative_error,
        max_samples=max_samples,
    )
    return JacobianEstimates(probe, accuracy, seed)


def exact_pass(probe: Observer) -> JacobianPoints:
    """The pass with all N rows of every Jacobian.

    Raises:
        MetricError: no point is finite.
    """
    found = probe.gather(jacobian_points)
    first = {key: found[key][0] for key in ("layer_names", "parameter_names")}
    if not found["finite"].any():
        raise MetricError("outputs or derivatives are not finite at any probe point")
    return JacobianPoints(
        singular_values=found["singular_values"],
        layer_names=tuple(str(name) for name in first["layer_names"]),
        layer_singular_values=found["layer_singular_values"],
        layer_input_norm2=found["layer_input_norm2"],
        layer_delta_norm2=found["layer_delta_norm2"],
        layer_weight_gradient2=found["layer_weight_gradient2"],
        parameter_names=tuple(str(name) for name in first["parameter_names"]),
        parameter_gradient2=found["parameter_gradient2"],
        input_norm2=found["input_norm2"],
        input_size=int(found["input_size"][0]),
        directional2=found["directional2"],
        first_layer=found["first_layer"],
        first_layer_reads_input=bool(found["first_layer_reads_input"].all()),
        finite=found["finite"],
        dtype_epsilon=float(found["dtype_epsilon"][0]),
        num_evaluations=1 + found["singular_values"].shape[1],
    )


def exact_bytes(shard: Shard) -> Arrays:
    """Bytes that one point's rows take, layer by layer, once per point."""
    refuse_integers(shard)
    calls, num_outputs = trace_calls(shard)
    floats = num_outputs * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)
    return {"bytes": np.full(shard.num_points, 4.0 * floats)}


def jacobian_points(shard: Shard) -> Arrays:
    """The pass on one shard: see `JacobianPoints` for every array."""
    refuse_integers(shard)
    routes = find_routes(shard)
    calls, num_outputs = trace_calls(shard)
    linear = [call for call in calls if call.is_linear]
    per_point = 4 * num_outputs * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)
    at_most = max(1, int(_MEMORY_BYTES / max(per_point, 1)))
    if shard.x.device.type == "cpu":
        at_most = min(at_most, max(4, int(_CACHED_BYTES / max(per_point, 1))))
    if any(call.of_one_point(None)[0].folded for call in calls):
        at_most = 1

    def compute(points: slice) -> Arrays:
        return exact_rows(shard, shard.x[points], routes)

    parts = list(shard.microbatches(compute, at_most))
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    count = shard.num_points
    rows["layer_names"] = _same_rows(np.array([c.name for c in linear], dtype=np.str_), count)
    rows["parameter_names"] = _same_rows(np.array(routes.names, dtype=np.str_), count)
    rows["dtype_epsilon"] = np.full(count, torch.finfo(shard.x.dtype).eps)
    return rows


def _same_rows(row: Any, count: int) -> np.ndarray:
    return np.repeat(np.asarray(row)[None], count, axis=0)
