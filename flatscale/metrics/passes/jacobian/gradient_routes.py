"""Which parameters' gradients come from a layer's x and delta, and which need the network."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
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


def layer_gradient_norms(
    model: nn.Module, calls: Sequence[LayerCall], norms: Sequence[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], set[str]]:
    """Every call's norms (B,), by the parameters' names in the whole network.

    The second are parameters met in more than one call, whose norms are not right.
    """
    names = {id(p): name for name, p in float_parameters(model).items()}
    found: dict[str, Tensor] = {}
    repeated: set[str] = set()
    for call, of_call in zip(calls, norms, strict=True):
        for local, norm in of_call.items():
            name = names[id(call.module.get_parameter(local))]
            if name in found:
                repeated.add(name)
            found[name] = norm
    return found, repeated


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
    used: set[str] = set()
    agree: set[str] = set()
    differ: set[str] = set()
    for calls, outputs, leaves in _finite_points(shard) if parameters else ():
        direction = torch.randn(
            outputs.shape, generator=torch.Generator().manual_seed(0), dtype=outputs.dtype
        ).to(outputs.device)
        gradients = torch.autograd.grad(
            outputs, [*leaves.values(), *(c.h for c in calls)], direction, allow_unused=True
        )
        layered, repeated = _norms_by_formula(shard.model, calls, gradients[len(leaves) :])
        for name, gradient in zip(leaves, gradients[: len(leaves)], strict=True):
            exact = 0.0 if gradient is None else float(gradient.square().sum())
            fast = float(layered[name]) if name in layered else 0.0
            if gradient is not None or fast != 0.0:
                used.add(name)
            if name in repeated or abs(fast - exact) > _AGREEMENT * abs(exact):
                differ.add(name)
            elif name in layered and exact > 0.0:
                agree.add(name)
        if used <= agree | differ:
            break
    trusted = agree - differ
    names = tuple(name for name in parameters if name in used)
    others = tuple(name for name in names if name not in trusted)
    if others:
        logger.debug("differentiated through the whole network: %s", ", ".join(others))
    layered_names = tuple(name for name in names if name in trusted)
    return GradientRoutes(names=names, layered=layered_names, networked=others)


def _norms_by_formula(
    model: nn.Module, calls: Sequence[LayerCall], deltas: Sequence[Tensor | None]
) -> tuple[dict[str, Tensor], set[str]]:
    """`layer_gradient_norms` of one combination of a point's outputs."""
    norms, by_point = [], []
    for call, delta in zip(calls, deltas, strict=True):
        one, moved = call.of_one_point(None if delta is None else delta.unsqueeze(0))
        sums = GradientNormSums(one, 1)
        if moved is not None:
            sums.add(moved)
        by_point.append(one)
        norms.append({} if moved is None else sums.norms())
    return layer_gradient_norms(model, by_point, norms)


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
    floats = len(mixes) * sum(p.numel() for p in chosen.values())
    chunk = max(1, int(NETWORK_GRADIENTS / (4 * floats)))

    def outputs(values: dict[str, Tensor], xi: Tensor, mix: Tensor) -> Tensor:
        logits = call_with(shard.model, values, xi.unsqueeze(0))
        return mix @ shard.map_outputs(logits).squeeze(0)

    def norms(values: dict[str, Tensor], xi: Tensor, mix: Tensor) -> dict[str, Tensor]:
        jacobians = torch.func.jacrev(outputs)(values, xi, mix)
        return {name: jacobian.square().sum() for name, jacobian in jacobians.items()}

    try:
        return torch.func.vmap(norms, in_dims=(None, 0, 1), chunk_size=chunk)(chosen, x, mixes)
    except RuntimeError as error:
        logger.info("gradients one point at a time: vmap refused the network (%s)", error)
    rows = [_one_point_by_backward(shard, chosen, x[i : i + 1], mixes[:, i]) for i in range(len(x))]
    return {name: torch.stack([row[name] for row in rows]) for name in names}


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
