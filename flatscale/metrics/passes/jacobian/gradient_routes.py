"""Which parameters' gradients come from a layer's x and delta, and which need the network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatscale.metrics.passes.jacobian.parameter_gradients import GradientNormSums
from flatscale.metrics.probe.byte_limits import NETWORK_GRADIENTS
from flatscale.metrics.probe.layer_calls import LayerCall, captured_calls
from flatscale.metrics.probe.observers import Shard, check_logits
from flatscale.metrics.probe.parameters import call_with, float_parameters

logger = logging.getLogger(__name__)

_AGREEMENT = 1e-3
_POINTS_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRoutes:
    """How every parameter's gradient norm is computed.

    Attributes:
        names: all of them, in the network's order.
        layered: parameters whose norm comes from what their one layer read and its delta.
        networked: parameters differentiated per point through the whole network: used more than
            once, outside a plain layer, or by a layer whose weight is itself computed.
    """

    names: tuple[str, ...]
    layered: tuple[str, ...]
    networked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradientNorms:
    """sum_k ||grad_p f_k||^2 per point (B,) from the called layers.

    Attributes:
        by_parameter: by full parameter name.
        repeated: parameters met in more than one call, whose norms are not right.
    """

    by_parameter: dict[str, Tensor]
    repeated: set[str]


def layer_gradient_norms(
    model: nn.Module, calls: Sequence[LayerCall], norms: Sequence[dict[str, Tensor]]
) -> LayerGradientNorms:
    """Every call's norms, by the parameters' names in the whole network."""
    names = {id(p): name for name, p in float_parameters(model).items()}
    found: dict[str, Tensor] = {}
    repeated: set[str] = set()
    for call, of_call in zip(calls, norms, strict=True):
        for local, norm in of_call.items():
            name = names[id(call.module.get_parameter(local))]
            if name in found:
                repeated.add(name)
            found[name] = norm
    return LayerGradientNorms(by_parameter=found, repeated=repeated)


def gradient_norms(call: LayerCall, delta: Tensor | None) -> dict[str, Tensor]:
    """sum_k ||grad_p f_k(x_i)||^2 of one called layer, all k at once; delta is (K, B, ...)."""
    if delta is None:
        return {}
    sums = GradientNormSums(call, len(delta))
    sums.add(delta)
    return sums.norms()


def find_routes(shard: Shard) -> GradientRoutes:
    """The route of every parameter, found on the first points, once for a shard.

    A layer's formula is trusted only where it agrees with backpropagation along one random
    direction of the outputs, at a point where the gradient does not vanish.
    """
    if "gradient_routes" not in shard.kept:
        shard.kept["gradient_routes"] = _compared_routes(shard)
    return shard.kept["gradient_routes"]


def parameter_names(shard: Shard) -> tuple[str, ...]:
    """All parameter tensors that the outputs depend on, in the network's order."""
    return find_routes(shard).names


def _compared_routes(shard: Shard) -> GradientRoutes:
    parameters = float_parameters(shard.model)
    if not parameters:
        return GradientRoutes(names=(), layered=(), networked=())
    used: set[str] = set()
    agree: set[str] = set()
    differ: set[str] = set()
    for calls, outputs, leaves in _finite_points(shard):
        found = _formulas_against_backward(shard, calls, outputs, leaves)
        used |= found.reached
        agree |= found.agree
        differ |= found.differ
        if used <= agree | differ:
            break
    trusted = agree - differ
    names = tuple(name for name in parameters if name in used)
    others = tuple(name for name in names if name not in trusted)
    if others:
        logger.debug("differentiated through the whole network: %s", ", ".join(others))
    layered = tuple(name for name in names if name in trusted)
    return GradientRoutes(names=names, layered=layered, networked=others)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Parameters that the outputs depend on; whose formula agrees with backpropagation; or not."""

    reached: set[str]
    agree: set[str]
    differ: set[str]


def _formulas_against_backward(
    shard: Shard, calls: list[LayerCall], outputs: Tensor, leaves: dict[str, Tensor]
) -> _Compared:
    direction = torch.randn(
        outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype
    ).to(outputs.device)
    gradients = torch.autograd.grad(
        outputs, [*leaves.values(), *(c.h for c in calls)], direction, allow_unused=True
    )
    truth, deltas = gradients[: len(leaves)], gradients[len(leaves) :]
    pairs = [
        call.of_one_point(None if delta is None else delta.unsqueeze(0))
        for call, delta in zip(calls, deltas, strict=True)
    ]
    norms = [gradient_norms(call, delta) for call, delta in pairs]
    layers = layer_gradient_norms(shard.model, [call for call, _ in pairs], norms)
    layered = layers.by_parameter
    compared = _Compared(reached=set(), agree=set(), differ=set())
    for name, gradient in zip(leaves, truth, strict=True):
        exact = 0.0 if gradient is None else float(gradient.square().sum())
        fast = float(layered[name]) if name in layered else 0.0
        if gradient is not None or fast != 0.0:
            compared.reached.add(name)
        if name in layers.repeated or abs(fast - exact) > _AGREEMENT * abs(exact):
            compared.differ.add(name)
        elif name in layered and exact > 0.0:
            compared.agree.add(name)
    return compared


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
    chunk = max(1, int(NETWORK_GRADIENTS / (4 * floats)))
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
        logits = call_with(shard.model, values, xi.unsqueeze(0))
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
        outputs = shard.map_outputs(call_with(shard.model, leaves, x))
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


def _finite_points(
    shard: Shard,
) -> Iterator[tuple[list[LayerCall], Tensor, dict[str, Tensor]]]:
    """Calls, outputs and parameters of the first points with finite outputs; of the first if none.

    The parameters are new leaves of each point's graph.
    """
    tried = 0
    for start in range(shard.num_points):
        parameters = float_parameters(shard.model)
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        x = shard.x[start : start + 1].clone().requires_grad_(shard.x.is_floating_point())
        with captured_calls(shard.model) as calls, torch.enable_grad():
            outputs = shard.map_outputs(check_logits(call_with(shard.model, leaves, x), 1))
        if start == 0:
            first = calls, outputs, leaves
        if bool(outputs.isfinite().all()):
            yield calls, outputs, leaves
            tried += 1
        if tried == _POINTS_TRIED:
            return
    if not tried:
        yield first
