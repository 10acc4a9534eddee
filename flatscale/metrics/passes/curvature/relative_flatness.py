"""Petzka et al.'s relative flatness of one Linear layer, without any Hessian in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.probe.attention import attention_notes, twice_differentiable
from flatscale.metrics.probe.byte_limits import CURVATURE_ROWS
from flatscale.metrics.probe.layer_calls import LayerCall, captured_calls
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass
from flatscale.training.losses import cross_entropy, half_squared_error, squared_error


@dataclass(frozen=True, kw_only=True)
class PointFlatness:
    """kappa of every point (n,), NaN where the loss is not finite; cost and notes."""

    kappa: np.ndarray
    num_evaluations: int
    notes: tuple[str, ...]


@measurement_pass("relative_flatness_points")
def relative_flatness_points(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    layer: str | None = None,
) -> PointFlatness:
    """kappa of every point.

    Args:
        observers: the point sets; the probe's is used.
        seed: not used.
        layer: dotted name of a Linear layer; None for the last one used.
    """
    observer = required(observers, "probe")
    rows = observer.gather(relative_flatness_rows, layer=layer or "")
    return PointFlatness(
        kappa=rows["kappa"],
        num_evaluations=1 + int(rows["products"][0]),
        notes=(f"layer {rows['layer'][0]}", *attention_notes(observer)),
    )


def relative_flatness_rows(shard: Shard, *, layer: str) -> Arrays:
    """kappa (B,), the layer's name and the backward passes it took."""
    name, products = "", 0

    def compute(points: slice) -> np.ndarray:
        nonlocal name, products
        with captured_calls(shard.model) as calls, torch.enable_grad(), twice_differentiable():
            x = shard.x[points].clone()
            logits = shard.logits(x.requires_grad_(x.is_floating_point()))
            losses = shard.losses(logits, shard.y[points])
        call = _linear_call(calls, layer)
        name = call.name
        curvature = _known_curvature(shard, logits.detach(), call)
        if curvature is None:
            products = 1 + call.h.shape[1]
            with torch.enable_grad(), twice_differentiable():
                curvature = _curvature(losses, call)
        kappa = call.x.detach().double().square().sum(dim=1) * curvature
        return torch.where(losses.isfinite(), kappa, torch.nan).detach().cpu().numpy()

    kappa = np.concatenate(list(shard.microbatches(compute)))
    count = shard.num_points
    return {"kappa": kappa, "layer": np.full(count, name), "products": np.full(count, products)}


def _known_curvature(shard: Shard, logits: Tensor, call: LayerCall) -> Tensor | None:
    """The same in closed form where the layer's output is what a known loss sees (B,).

    Cross-entropy: H = diag(p) - p p^T; squared errors: H = c I.
    """
    if call.h.shape != logits.shape or not torch.equal(call.h, logits):
        return None
    weight = call.module.weight
    if not isinstance(weight, Tensor):
        return None
    rows = weight.detach().double()
    squares = rows.square().sum(dim=1)
    if shard.loss is cross_entropy:
        p = torch.softmax(logits.double(), dim=1)
        return p @ squares - (p @ rows).square().sum(dim=1)
    factors = {half_squared_error: 1.0, squared_error: 2.0}
    if shard.loss in factors and shard.output_map == "identity":
        total = factors[shard.loss] * squares.sum()
        return total.expand(len(logits))
    return None


def _curvature(losses: Tensor, call: LayerCall) -> Tensor:
    """tr(W^T H_i W) = sum(H_i * W W^T), H_i the Hessian of loss_i in the layer's output (B,)."""
    weight = call.module.weight
    if not isinstance(weight, Tensor):
        raise MetricError(f"layer {call.name} has no weight tensor")
    products = weight.detach() @ weight.detach().T
    (gradient,) = torch.autograd.grad(losses.sum(), call.h, create_graph=True)
    batch, width = call.h.shape
    trace = torch.zeros(batch, dtype=torch.float64, device=call.h.device)
    if not gradient.requires_grad:
        return trace
    chunk = max(1, int(CURVATURE_ROWS / (4 * batch * width)))
    for start in range(0, width, chunk):
        units = torch.arange(start, min(start + chunk, width), device=gradient.device)
        picks = torch.zeros(len(units), batch, width, dtype=gradient.dtype, device=gradient.device)
        picks[torch.arange(len(units)), :, units] = 1.0
        (rows,) = torch.autograd.grad(
            gradient, call.h, picks, is_grads_batched=True, retain_graph=True
        )
        trace += torch.einsum("kbm,km->b", rows, products[units]).double()
    return trace


def _linear_call(calls: list[LayerCall], layer: str) -> LayerCall:
    usable = [call for call in calls if isinstance(call.module, nn.Linear) and call.h.ndim == 2]
    if layer:
        usable = [call for call in usable if call.name == layer]
    if not usable:
        named = f" named {layer!r}" if layer else ""
        raise MetricError(
            f"the network has no Linear layer{named} that acts on one vector a point; its layers: "
            f"{', '.join(call.name for call in calls)}"
        )
    return usable[-1]
