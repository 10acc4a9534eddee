"""One batch of points in the Jacobian pass: derivatives reduced to rows, one a point."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flatscale.metrics.passes.jacobian.derivatives import ForwardPass, differentiate, run_forward
from flatscale.metrics.passes.jacobian.first_layer import FirstLayer
from flatscale.metrics.passes.jacobian.gradient_routes import (
    GradientRoutes,
    layer_gradient_norms,
    network_gradient_norms,
)
from flatscale.metrics.passes.jacobian.parameter_gradients import GradientNormSums
from flatscale.metrics.passes.jacobian.spectra_and_norms import JacobianSums, columns, norm2
from flatscale.metrics.probe.byte_limits import CACHED_DERIVATIVES
from flatscale.metrics.probe.observers import Arrays, Shard


def exact_rows(shard: Shard, x: Tensor, routes: GradientRoutes) -> Arrays:
    """Every array of the exact pass for one batch of points."""
    ran = run_forward(shard, x)
    # as many outputs at a time as stay in cache; what they give is reduced at once and not kept
    sums = JacobianSums(ran)
    for mixes in _output_chunks(ran):
        sums.add(differentiate(ran, mixes))
    rows = sums.rows()
    # parameters of plain layers from x and delta; the few others through the whole network
    layered = layer_gradient_norms(shard.model, sums.calls, sums.gradient_norms())
    by_parameter = layered.by_parameter
    by_parameter.update(network_gradient_norms(shard, x, routes.networked))
    rows["parameter_gradient2"] = columns([by_parameter[name] for name in routes.names], len(x))
    return finite_rows(rows, ran.outputs) | {"first_layer_reads_input": sums.reads_input}


def mixed_rows(shard: Shard, x: Tensor, routes: GradientRoutes, mixes: Tensor) -> Arrays:
    """For combinations (K, B, N) of the outputs: their gradients' products and norms."""
    ran = run_forward(shard, x)
    found = differentiate(ran, mixes, layer_inputs=False)
    calls, batch = ran.calls_by_point(), len(x)
    none = torch.zeros(batch, dtype=torch.float64, device=x.device)
    first = FirstLayer(calls, x)
    added: list[GradientNormSums | None] = []
    weights, deltas = [], []
    for call, delta in zip(calls, found.deltas, strict=True):
        sums = None
        if delta is not None:
            sums = GradientNormSums(call, len(mixes), entrywise=first.shares_weights(call))
            sums.add(delta)
            first.add(call, delta)
        added.append(sums)
        if call.is_linear:
            weight = None if sums is None else sums.weight_norm()
            weights.append(none if weight is None else weight)
            deltas.append(none if delta is None else norm2(delta, 2).sum(dim=0))
    norms = [{} if sums is None else sums.norms() for sums in added]
    by_parameter = layer_gradient_norms(shard.model, calls, norms).by_parameter
    by_parameter.update(network_gradient_norms(shard, x, routes.networked, mixes))
    gradients = found.by_input.flatten(2).transpose(0, 1).double()
    inputs = [norm2(call.x.detach(), 1) for call in calls if call.is_linear]
    rows = {
        "mixed_gram": gradients @ gradients.mT,
        "parameter_gradient2": columns([by_parameter[n] for n in routes.names], batch),
        "layer_delta_norm2": columns(deltas, batch),
        "layer_weight_gradient2": columns(weights, batch),
        "layer_input_norm2": columns(inputs, batch),
        "first_layer": first.columns(calls, added),
    }
    return finite_rows(rows, ran.outputs) | {"first_layer_reads_input": first.reads_input}


def _output_chunks(ran: ForwardPass) -> Iterator[Tensor]:
    """Unit mixes of the outputs; on a CPU so few at once that their derivatives stay in cache."""
    batch, num_outputs = ran.outputs.shape
    chunk = num_outputs
    if ran.x.device.type == "cpu":
        floats = sum(call.h.numel() + call.x.numel() for call in ran.calls)
        chunk = max(1, int(CACHED_DERIVATIVES / (4 * max(floats, 1))))
    units = torch.eye(num_outputs, dtype=ran.outputs.dtype, device=ran.x.device)
    for rows in units.split(chunk):
        yield rows.unsqueeze(1).expand(len(rows), batch, num_outputs)


def finite_rows(rows: dict[str, Tensor], outputs: Tensor) -> Arrays:
    """The rows as float64 arrays, all NaN at points where anything is not finite; and which are."""
    arrays = {key: value.detach().double().cpu().numpy() for key, value in rows.items()}
    finite = outputs.detach().isfinite().all(dim=1).cpu().numpy()
    for value in arrays.values():
        finite &= np.isfinite(value).reshape(len(finite), -1).all(axis=1)
    for value in arrays.values():
        value[~finite] = np.nan
    arrays["finite"] = finite
    return arrays
