"""Derivatives of one batch of points, reduced on the spot to norms and spectra."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.gradient_routes import (
    GradientRoutes,
    layer_gradient_norms,
    network_gradient_norms,
)
from flatscale.metrics.layers import LayerCall, captured_calls
from flatscale.metrics.parameter_gradients import patches, weight_gradient_norm
from flatscale.metrics.probe import Arrays, Shard

logger = logging.getLogger(__name__)


def vector_jacobian_products(
    outputs: Tensor, inputs: Sequence[Tensor], mixes: Tensor | None = None
) -> list[Tensor | None]:
    """df_k/d(input) for all outputs k at once: (N, B, ...) per input; None where f does not depend.

    One vmapped backward pass; output by output where an operation has no batching rule.
    """
    num_outputs = outputs.shape[1]
    if mixes is None:
        basis = torch.eye(num_outputs, dtype=outputs.dtype, device=outputs.device)
        mixes = basis.unsqueeze(1).expand(num_outputs, *outputs.shape)
    try:
        return list(
            torch.autograd.grad(
                outputs, inputs, mixes, is_grads_batched=True, allow_unused=True, retain_graph=True
            )
        )
    except RuntimeError as error:
        if "vmap" not in str(error) and "batching rule" not in str(error):
            raise
        logger.info("vector-Jacobian products one output at a time (%s)", error)
    rows = [
        torch.autograd.grad(outputs, inputs, row, retain_graph=True, allow_unused=True)
        for row in mixes
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


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """Derivatives of K output combinations for a batch of points.

    Attributes:
        outputs: f(x) (B, N).
        calls: every layer's call, of one point where layers fold more into the leading axis.
        deltas: df/dh of every call (K, B, ...); None where f does not depend on it.
        by_input: df/dx (K, B, ...).
        by_layer_input: df/dx^l of every linear call (K, B, ...), if asked for.
    """

    outputs: Tensor
    calls: list[LayerCall]
    deltas: list[Tensor | None]
    by_input: Tensor
    by_layer_input: list[Tensor | None]


def differentiate(
    shard: Shard, x: Tensor, mixes: Tensor | None = None, *, layer_inputs: bool = True
) -> Derivatives:
    """All derivatives of one batch (B, ...) from one forward pass.

    Args:
        shard: whose model and output map.
        x: the points.
        mixes: (K, B, N) combinations of the outputs; None for each output itself.
        layer_inputs: also differentiate with respect to the linear layers' inputs.

    Raises:
        MetricError: the outputs do not depend on the inputs.
    """
    x = x.clone().requires_grad_()
    with captured_calls(shard.model) as captured, torch.enable_grad():
        outputs = shard.outputs(x)
    calls = list(captured)
    linear = [call for call in calls if call.is_linear] if layer_inputs else []
    wanted = [x, *(call.h for call in calls), *(call.x for call in linear)]
    gradients = vector_jacobian_products(outputs, wanted, mixes)
    if gradients[0] is None:
        raise MetricError("the outputs do not depend on the inputs")
    deltas = gradients[1 : 1 + len(calls)]
    by_layer = gradients[1 + len(calls) :]
    if len(x) == 1:
        by_layer = [c.of_one_point(j)[1] for c, j in zip(linear, by_layer, strict=True)]
        pairs = [call.of_one_point(delta) for call, delta in zip(calls, deltas, strict=True)]
        calls, deltas = [call for call, _ in pairs], [delta for _, delta in pairs]
    return Derivatives(
        outputs=outputs.detach(),
        calls=calls,
        deltas=deltas,
        by_input=gradients[0],
        by_layer_input=by_layer,
    )


def exact_rows(shard: Shard, x: Tensor, routes: GradientRoutes) -> Arrays:
    """Every array of the exact pass for one batch of points."""
    found = differentiate(shard, x)
    batch, num_outputs = found.outputs.shape
    linear = [call for call in found.calls if call.is_linear]
    deltas = [d for call, d in zip(found.calls, found.deltas, strict=True) if call.is_linear]
    layered = layer_gradient_norms(shard.model, found.calls, found.deltas)
    by_parameter = layered.by_parameter
    by_parameter.update(network_gradient_norms(shard, x, routes.networked))
    none = torch.zeros(batch, device=x.device)
    spectra = [
        torch.zeros(batch, num_outputs, device=x.device) if j is None else singular_values(j)
        for j in found.by_layer_input
    ]
    reads = bool(linear) and linear[0].x.shape == x.shape and torch.equal(linear[0].x, x)
    alone = reads and _same(found.by_layer_input[0], found.by_input)
    weight_norms = [
        _weight_norm(call, delta, norms, none)
        for call, delta, norms in zip(found.calls, found.deltas, layered.by_call, strict=True)
        if call.is_linear
    ]
    delta_norms = [none if d is None else norm2(d, 2).sum(dim=0) for d in deltas]
    rows = {
        "singular_values": spectra[0] if alone else singular_values(found.by_input),
        "layer_singular_values": _columns(spectra, batch, num_outputs),
        "layer_input_norm2": _columns([norm2(c.x, 1) for c in linear], batch),
        "layer_delta_norm2": _columns(delta_norms, batch),
        "layer_weight_gradient2": _columns(weight_norms, batch),
        "parameter_gradient2": _columns([by_parameter[name] for name in routes.names], batch),
        "input_norm2": norm2(x, 1),
        "directional2": _directional2(found.by_input, x),
        "first_layer": _first_layer(linear, deltas, batch),
    }
    arrays = finite_rows(rows, found.outputs)
    arrays["input_size"] = np.full(batch, x[0].numel())
    arrays["first_layer_reads_input"] = np.full(batch, reads)
    return arrays


def mixed_rows(shard: Shard, x: Tensor, routes: GradientRoutes, mixes: Tensor) -> Arrays:
    """For combinations (K, B, N) of the outputs: their gradients' products and parameter norms."""
    found = differentiate(shard, x, mixes, layer_inputs=False)
    layered = layer_gradient_norms(shard.model, found.calls, found.deltas)
    by_parameter = layered.by_parameter
    by_parameter.update(network_gradient_norms(shard, x, routes.networked, mixes))
    gradients = found.by_input.flatten(2).transpose(0, 1).double()
    rows = {
        "mixed_gram": gradients @ gradients.mT,
        "parameter_gradient2": _columns([by_parameter[n] for n in routes.names], len(x)),
    }
    return finite_rows(rows, found.outputs)


def finite_rows(rows: dict[str, Tensor], outputs: Tensor) -> Arrays:
    """The rows as float64 arrays, all NaN at points where anything is not finite; and which are."""
    arrays = {key: value.detach().double().cpu().numpy() for key, value in rows.items()}
    finite = outputs.isfinite().all(dim=1).cpu().numpy()
    for value in arrays.values():
        finite &= np.isfinite(value).reshape(len(finite), -1).all(axis=1)
    for value in arrays.values():
        value[~finite] = np.nan
    arrays["finite"] = finite
    return arrays


def _first_layer(linear: list[LayerCall], deltas: list[Tensor | None], batch: int) -> Tensor:
    """Columns: unrolled outputs m_1, unrolled ||W * grad_W f||^2, kernel rows, the shared norm."""
    columns = torch.full((batch, 4), torch.nan, dtype=torch.float64)
    if not linear or deltas[0] is None:
        return columns.fill_(0.0)
    module, x, delta = linear[0].module, linear[0].x.detach(), deltas[0]
    columns[:] = 0.0
    if linear[0].folded or not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
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
    columns[:, 3] = norm2(gradient * weight, 1).cpu()
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


def trace_calls(shard: Shard) -> tuple[list[LayerCall], int]:
    with captured_calls(shard.model) as calls, torch.enable_grad():
        outputs = shard.outputs(shard.x[:1].clone().requires_grad_())
    return list(calls), outputs.shape[1]


def _same(first: Tensor | None, second: Tensor) -> bool:
    return first is not None and torch.equal(first, second)


def _directional2(jacobians: Tensor, x: Tensor) -> Tensor:
    along = torch.einsum("kbd,bd->kb", jacobians.flatten(2), x.detach().flatten(1))
    return along.double().square().sum(dim=0)


def norm2(values: Tensor, keep: int) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(keep), dim=keep).double().square()


def _columns(columns: list[Tensor], *shape: int) -> Tensor:
    if not columns:
        return torch.zeros(shape[0], 0, *shape[1:])
    return torch.stack([column.double().cpu() for column in columns], dim=1)


def refuse_integers(shard: Shard) -> None:
    """Raise MetricError where the inputs cannot be differentiated."""
    if not shard.x.is_floating_point():
        raise MetricError(f"inputs must be floating-point to differentiate; found {shard.x.dtype}")
