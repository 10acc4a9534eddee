"""The Jacobian pass: spectra and norms per probe point and layer.

N vector-Jacobian products with respect to all layer inputs and pre-activations at once, reduced on
the spot.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.gradient_routes import (
    GradientRoutes,
    find_routes,
    layer_gradient_norms,
    network_gradient_norms,
)
from flatscale.metrics.layers import LayerCall, captured_calls
from flatscale.metrics.parameter_gradients import patches, weight_gradient_norm
from flatscale.metrics.passes import required
from flatscale.metrics.probe import Arrays, Observer, Shard
from flatscale.metrics.registry import measurement_pass

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 256e6


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


@measurement_pass("jacobian")
def jacobian_pass(observers: Mapping[str, Observer], options: None, seed: int) -> JacobianPoints:
    """Spectra and norms of every probe point's Jacobians."""
    del options, seed
    found = required(observers, "probe").gather(jacobian_points)
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


def jacobian_points(shard: Shard) -> Arrays:
    """The pass on one shard: see `JacobianPoints` for every array."""
    if not shard.x.is_floating_point():
        raise MetricError(f"inputs must be floating-point to differentiate; found {shard.x.dtype}")
    routes = find_routes(shard)
    calls, num_outputs = _trace(shard)
    linear = [call for call in calls if call.is_linear]
    per_point = 4 * num_outputs * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)
    at_most = max(1, int(_MEMORY_BYTES / max(per_point, 1)))

    def compute(points: slice) -> Arrays:
        return _batch_rows(shard, shard.x[points], routes)

    parts = list(shard.microbatches(compute, at_most))
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    count = shard.num_points
    rows["layer_names"] = _same_rows(np.array([c.name for c in linear], dtype=np.str_), count)
    rows["parameter_names"] = _same_rows(np.array(routes.names, dtype=np.str_), count)
    rows["dtype_epsilon"] = np.full(count, torch.finfo(shard.x.dtype).eps)
    return rows


def vector_jacobian_products(outputs: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """df_k/d(input) for all outputs k at once: (N, B, ...) per input; None where f does not depend.

    One vmapped backward pass; output by output where an operation has no batching rule.
    """
    num_outputs = outputs.shape[1]
    basis = torch.eye(num_outputs, dtype=outputs.dtype, device=outputs.device)
    basis = basis.unsqueeze(1).expand(num_outputs, *outputs.shape)
    try:
        return list(
            torch.autograd.grad(
                outputs, inputs, basis, is_grads_batched=True, allow_unused=True, retain_graph=True
            )
        )
    except RuntimeError as error:
        if "vmap" not in str(error) and "batching rule" not in str(error):
            raise
        logger.info("vector-Jacobian products one output at a time (%s)", error)
    rows = [
        torch.autograd.grad(outputs, inputs, row, retain_graph=True, allow_unused=True)
        for row in basis
    ]
    return [
        None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)
    ]


def singular_values(jacobians: Tensor) -> Tensor:
    """Singular values, descending, of (N, B, ...) matrices: (B, N), from float64 Gram matrices.

    Rows of a point that is not finite are NaN and leave the others alone.
    """
    rows = jacobians.flatten(2).transpose(0, 1).double()
    gram = rows @ rows.mT
    finite = gram.isfinite().all(dim=(1, 2))
    gram = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    values = torch.linalg.eigvalsh(gram).flip(1).clamp(min=0.0).sqrt()
    return torch.where(finite[:, None], values, torch.full_like(values, torch.nan))


def _batch_rows(shard: Shard, x: Tensor, routes: GradientRoutes) -> Arrays:
    x = x.clone().requires_grad_()
    with captured_calls(shard.model) as calls, torch.enable_grad():
        outputs = shard.outputs(x)
    linear = [call for call in calls if call.is_linear]
    wanted = [x, *(call.h for call in calls), *(call.x for call in linear)]
    gradients = vector_jacobian_products(outputs, wanted)
    if gradients[0] is None:
        raise MetricError("the outputs do not depend on the inputs")
    deltas = gradients[1 : 1 + len(calls)]
    layer_jacobians = gradients[1 + len(calls) :]
    batch, num_outputs = outputs.shape
    layered = layer_gradient_norms(shard.model, calls, deltas)
    by_parameter = layered.by_parameter
    by_parameter.update(network_gradient_norms(shard, x.detach(), routes.networked))
    none = torch.zeros(batch, device=x.device)
    linear_deltas = [d for call, d in zip(calls, deltas, strict=True) if call.is_linear]
    spectra = [
        torch.zeros(batch, num_outputs, device=x.device) if j is None else singular_values(j)
        for j in layer_jacobians
    ]
    reads = bool(linear) and linear[0].x.shape == x.shape and torch.equal(linear[0].x, x)
    alone = reads and _same(layer_jacobians[0], gradients[0])
    found = {
        "singular_values": spectra[0] if alone else singular_values(gradients[0]),
        "layer_singular_values": _columns(spectra, batch, num_outputs),
        "layer_input_norm2": _columns([_norm2(c.x, 1) for c in linear], batch),
        "layer_delta_norm2": _columns(
            [none if d is None else _norm2(d, 2).sum(dim=0) for d in linear_deltas], batch
        ),
        "layer_weight_gradient2": _columns(
            [
                _weight_norm(call, delta, norms, none)
                for call, delta, norms in zip(calls, deltas, layered.by_call, strict=True)
                if call.is_linear
            ],
            batch,
        ),
        "parameter_gradient2": _columns([by_parameter[name] for name in routes.names], batch),
        "input_norm2": _norm2(x, 1),
        "directional2": _directional2(gradients[0], x),
        "first_layer": _first_layer(linear, linear_deltas, batch),
    }
    rows = {key: value.detach().double().cpu().numpy() for key, value in found.items()}
    finite = np.isfinite(outputs.detach().double().cpu().numpy()).all(axis=1)
    for value in rows.values():
        finite &= np.isfinite(value).reshape(batch, -1).all(axis=1)
    for value in rows.values():
        value[~finite] = np.nan
    rows["finite"] = finite
    rows["input_size"] = np.full(batch, x[0].numel())
    rows["first_layer_reads_input"] = np.full(batch, reads)
    return rows


def _first_layer(linear: list[LayerCall], deltas: list[Tensor | None], batch: int) -> Tensor:
    """Columns: unrolled outputs m_1, unrolled ||W * grad_W f||^2, kernel rows, the shared norm."""
    columns = torch.full((batch, 4), torch.nan, dtype=torch.float64)
    if not linear or deltas[0] is None:
        return columns.fill_(0.0)
    module, x, delta = linear[0].module, linear[0].x.detach(), deltas[0]
    columns[:] = 0.0
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return columns
    squared = {"weight": module.weight.detach().square()}
    if module.bias is not None:
        squared["bias"] = torch.zeros_like(module.bias)
    image = torch.func.functional_call(module, squared, (x.square(),))
    columns[:, 0] = delta[0, 0].numel()
    columns[:, 1] = (delta.square().sum(dim=0) * image).flatten(1).double().sum(dim=1).cpu()
    columns[:, 2] = module.weight.shape[0]
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        if x.ndim == 2:
            columns[:, 3] = columns[:, 1]
            return columns
        gradient = torch.einsum("nbto,bti->bnoi", delta.flatten(2, -2), x.flatten(1, -2))
    else:
        columns_in = patches(module, x)
        out = delta.reshape(*delta.shape[:2], module.groups, -1, columns_in.shape[-1])
        stacked = out.permute(1, 2, 0, 3, 4).flatten(2, 3)
        gradient = (stacked @ columns_in.mT).unflatten(2, (len(delta), -1)).transpose(1, 2)
        gradient = gradient.reshape(*gradient.shape[:2], *weight.shape)
    columns[:, 3] = _norm2(gradient * weight, 1).cpu()
    return columns


def _weight_norm(
    call: LayerCall, delta: Tensor | None, norms: dict[str, Tensor], none: Tensor
) -> Tensor:
    if delta is None:
        return none
    if "weight" in norms:
        return norms["weight"]
    norm = weight_gradient_norm(call.module, call.x.detach(), delta)
    return torch.zeros_like(none) if norm is None else norm


def _trace(shard: Shard) -> tuple[list[LayerCall], int]:
    with captured_calls(shard.model) as calls, torch.enable_grad():
        outputs = shard.outputs(shard.x[:1].clone().requires_grad_())
    return list(calls), outputs.shape[1]


def _same(first: Tensor | None, second: Tensor) -> bool:
    return first is not None and torch.equal(first, second)


def _directional2(jacobians: Tensor, x: Tensor) -> Tensor:
    along = torch.einsum("kbd,bd->kb", jacobians.flatten(2), x.detach().flatten(1))
    return along.double().square().sum(dim=0)


def _norm2(values: Tensor, keep: int) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(keep), dim=keep).double().square()


def _columns(columns: list[Tensor], *shape: int) -> Tensor:
    if not columns:
        return torch.zeros(shape[0], 0, *shape[1:])
    return torch.stack([column.double().cpu() for column in columns], dim=1)


def _same_rows(row: Any, count: int) -> np.ndarray:
    return np.repeat(np.asarray(row)[None], count, axis=0)
