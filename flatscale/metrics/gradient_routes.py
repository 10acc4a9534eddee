"""Which parameters' gradients come from a layer's x and delta, and which need the network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatscale.metrics.layers import LayerCall, captured_calls
from flatscale.metrics.parameter_gradients import gradient_norms
from flatscale.metrics.probe import Shard

logger = logging.getLogger(__name__)

_AGREEMENT = 1e-3
_NETWORK_ROUTE_BYTES = 256e6


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRoutes:
    """How every parameter's gradient norm is computed.

    Attributes:
        layered: parameters whose norm comes from what their one layer read and its delta.
        networked: parameters differentiated per point through the whole network: used more than
            once, outside a plain layer, or by a layer whose weight is itself computed.
    """

    layered: tuple[str, ...]
    networked: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.layered + self.networked


def float_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every floating-point parameter once, frozen ones included: theta."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradientNorms:
    """sum_k ||grad_p f_k||^2 per point (B,) from the called layers.

    Attributes:
        by_parameter: by full parameter name.
        by_call: by the parameter's name in its layer, for every call in order.
        repeated: parameters met in more than one call, whose norms are not right.
    """

    by_parameter: dict[str, Tensor]
    by_call: list[dict[str, Tensor]]
    repeated: set[str]


def layer_gradient_norms(
    model: nn.Module, calls: Sequence[LayerCall], deltas: Sequence[Tensor | None]
) -> LayerGradientNorms:
    """sum_k ||grad_p f_k||^2 per point of every parameter of the called layers."""
    names = {id(p): name for name, p in float_parameters(model).items()}
    found: dict[str, Tensor] = {}
    by_call: list[dict[str, Tensor]] = []
    repeated: set[str] = set()
    for call, delta in zip(calls, deltas, strict=True):
        norms = {} if delta is None else gradient_norms(call, call.x.detach(), delta)
        by_call.append(norms)
        for local, norm in norms.items():
            name = names[id(call.module.get_parameter(local))]
            if name in found:
                repeated.add(name)
            found[name] = norm
    return LayerGradientNorms(by_parameter=found, by_call=by_call, repeated=repeated)


def find_routes(shard: Shard) -> GradientRoutes:
    """The route of every parameter, found on one point.

    A layer's formula is trusted only where it agrees with backpropagation along one random
    direction of the outputs.
    """
    parameters = float_parameters(shard.model)
    x = _first_finite(shard)
    with captured_calls(shard.model) as calls, torch.enable_grad():
        outputs = shard.outputs(x.clone().requires_grad_(x.is_floating_point()))
    direction = torch.randn(
        outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype
    ).to(outputs.device)
    deltas = torch.autograd.grad(outputs, [c.h for c in calls], direction, allow_unused=True)
    pairs = [
        call.of_one_point(None if delta is None else delta.unsqueeze(0))
        for call, delta in zip(calls, deltas, strict=True)
    ]
    layers = layer_gradient_norms(
        shard.model, [call for call, _ in pairs], [delta for _, delta in pairs]
    )
    layered = layers.by_parameter
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        again = shard.map_outputs(torch.func.functional_call(shard.model, leaves, (x,)))
        truth = torch.autograd.grad(again, list(leaves.values()), direction, allow_unused=True)
    trusted, others = [], []
    for name, gradient in zip(parameters, truth, strict=True):
        exact = 0.0 if gradient is None else float(gradient.square().sum())
        fast = float(layered[name]) if name in layered else 0.0
        agrees = abs(fast - exact) <= _AGREEMENT * abs(exact)
        if agrees and name not in layers.repeated and (name in layered or gradient is None):
            if gradient is not None:
                trusted.append(name)
        else:
            others.append(name)
    if others:
        logger.debug("differentiated through the whole network: %s", ", ".join(others))
    return GradientRoutes(layered=tuple(trusted), networked=tuple(others))


def network_gradient_norms(
    shard: Shard, x: Tensor, names: Sequence[str], mixes: Tensor | None = None
) -> dict[str, Tensor]:
    """sum_k ||grad_p f_k(x_i)||^2 per point through the whole network, for the named parameters.

    With mixes (K, B, N), the sum is over those combinations of the outputs.
    """
    if not names:
        return {}
    parameters = float_parameters(shard.model)
    chosen = {name: parameters[name].detach() for name in names}
    if mixes is None:
        with torch.no_grad():
            num_outputs = shard.outputs(x[:1]).shape[1]
        identity = torch.eye(num_outputs, dtype=x.dtype, device=x.device)
        mixes = identity.unsqueeze(1).expand(num_outputs, len(x), num_outputs)
    num_outputs = len(mixes)
    floats = num_outputs * sum(p.numel() for p in chosen.values())
    chunk = max(1, int(_NETWORK_ROUTE_BYTES / (4 * floats)))
    try:
        per_point = torch.func.vmap(_one_point(shard), in_dims=(None, 0, 1), chunk_size=chunk)
        return per_point(chosen, x, mixes)
    except RuntimeError as error:
        logger.info("gradients one point at a time: vmap refused the network (%s)", error)
    rows = [_one_point_by_backward(shard, chosen, x[i : i + 1], mixes[:, i]) for i in range(len(x))]
    return {name: torch.stack([row[name] for row in rows]) for name in names}


def _one_point(
    shard: Shard,
) -> Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]:
    def outputs(values: dict[str, Tensor], xi: Tensor, mix: Tensor) -> Tensor:
        logits = torch.func.functional_call(shard.model, values, (xi.unsqueeze(0),))
        return mix @ shard.map_outputs(logits).squeeze(0)

    def norms(values: dict[str, Tensor], xi: Tensor, mix: Tensor) -> dict[str, Tensor]:
        jacobians = torch.func.jacrev(outputs)(values, xi, mix)
        return {name: jacobian.square().sum() for name, jacobian in jacobians.items()}

    return norms


def _one_point_by_backward(
    shard: Shard, chosen: dict[str, Tensor], x: Tensor, mix: Tensor
) -> dict[str, Tensor]:
    leaves = {name: p.clone().requires_grad_() for name, p in chosen.items()}
    with torch.enable_grad():
        outputs = shard.map_outputs(torch.func.functional_call(shard.model, leaves, (x,)))
        mixed = mix @ outputs[0]
    norms = dict.fromkeys(leaves, torch.zeros((), device=x.device))
    for value in mixed:
        gradients = torch.autograd.grad(
            value, list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                norms[name] = norms[name] + gradient.square().sum()
    return norms


def _first_finite(shard: Shard) -> Tensor:
    for start in range(0, shard.num_points, 8):
        x = shard.x[start : start + 8]
        with torch.no_grad():
            finite = shard.outputs(x).isfinite().all(dim=1)
        if bool(finite.any()):
            first = int(finite.int().argmax())
            return x[first : first + 1]
    return shard.x[:1]
