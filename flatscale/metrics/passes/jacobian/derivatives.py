"""Derivatives of one batch of points with respect to all layers at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.probe.layer_calls import LayerCall, captured_calls
from flatscale.metrics.probe.observers import Shard

logger = logging.getLogger(__name__)


def vector_jacobian_products(
    outputs: Tensor, inputs: Sequence[Tensor], mixes: Tensor
) -> list[Tensor | None]:
    """d(mix_k . f)/d(input) for K mixes (K, B, N) of the outputs: (K, B, ...) per input.

    One vmapped backward pass; mix by mix where an operation has no batching rule. None where f
    does not depend on the input.
    """
    if len(mixes) == 1:
        only = torch.autograd.grad(outputs, inputs, mixes[0], retain_graph=True, allow_unused=True)
        return [None if g is None else g.unsqueeze(0) for g in only]
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


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """One batch's outputs with the graph that leads to them.

    Attributes:
        x: the points, the graph's leaf (B, ...).
        outputs: f(x) (B, N).
        calls: every layer's call, as the network made it.
    """

    x: Tensor
    outputs: Tensor
    calls: list[LayerCall]

    def calls_by_point(self) -> list[LayerCall]:
        """The calls, of one point where layers fold more into the leading axis."""
        if len(self.x) > 1:
            return self.calls
        return [call.of_one_point(None)[0] for call in self.calls]


def run_forward(shard: Shard, x: Tensor) -> ForwardPass:
    """One forward pass whose layers and inputs can be differentiated."""
    x = x.clone().requires_grad_()
    with captured_calls(shard.model) as captured, torch.enable_grad():
        outputs = shard.outputs(x)
    return ForwardPass(x=x, outputs=outputs, calls=list(captured))


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """Derivatives of K output combinations for a batch of points.

    Attributes:
        deltas: df/dh of every call (K, B, ...); None where f does not depend on it.
        by_input: df/dx (K, B, ...).
        by_layer_input: df/dx^l of every linear call (K, B, ...), if asked for.
    """

    deltas: list[Tensor | None]
    by_input: Tensor
    by_layer_input: list[Tensor | None]


def differentiate(ran: ForwardPass, mixes: Tensor, *, layer_inputs: bool = True) -> Derivatives:
    """All derivatives of combinations (K, B, N) of the outputs.

    Args:
        ran: the forward pass.
        mixes: the combinations.
        layer_inputs: also differentiate with respect to the linear layers' inputs.

    Raises:
        MetricError: the outputs do not depend on the inputs.
    """
    if not ran.outputs.requires_grad:
        raise MetricError("the outputs do not depend on the inputs")
    linear = [call for call in ran.calls if call.is_linear] if layer_inputs else []
    wanted = [ran.x, *(call.h for call in ran.calls), *(call.x for call in linear)]
    gradients = vector_jacobian_products(ran.outputs, wanted, mixes)
    if gradients[0] is None:
        raise MetricError("the outputs do not depend on the inputs")
    deltas = gradients[1 : 1 + len(ran.calls)]
    by_layer = gradients[1 + len(ran.calls) :]
    if len(ran.x) == 1:
        by_layer = [c.of_one_point(j)[1] for c, j in zip(linear, by_layer, strict=True)]
        deltas = [c.of_one_point(d)[1] for c, d in zip(ran.calls, deltas, strict=True)]
    return Derivatives(deltas=deltas, by_input=gradients[0], by_layer_input=by_layer)
