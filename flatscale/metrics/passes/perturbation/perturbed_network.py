"""A network whose weights are perturbed differently for every point, where its layers allow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.metrics.passes.jacobian.gradient_routes import find_routes
from flatscale.metrics.passes.perturbation.draws import normals_of_points, standard_normal
from flatscale.metrics.passes.perturbation.perturbed_layers import (
    FlippedWeights,
    Norm,
    OutputNoise,
    OwnWeights,
    PerturbedLayer,
    Sliding,
)
from flatscale.metrics.probe.layer_calls import LayerCall, trace_calls
from flatscale.metrics.probe.observers import Shard
from flatscale.metrics.probe.parameters import call_with, float_parameters, parameter_name

_MOST_OWN_WEIGHTS = 10_000


@dataclass(frozen=True, kw_only=True)
class PerturbedNetwork:
    """Which parameters are perturbed how; nothing of it changes from one draw to the next.

    Attributes:
        model: the network, left as it is.
        adaptive: whether perturbations are weighted by |theta|.
        layers: those perturbed point by point, by name, in forward order.
        parameters: the others' parameters, which a group of points shares, by name.
    """

    model: nn.Module
    adaptive: bool
    layers: Mapping[str, PerturbedLayer]
    parameters: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        """Standard normals drawn for each point."""
        return sum(layer.width for layer in self.layers.values())

    @property
    def shared_weights(self) -> dict[str, Tensor]:
        """Weights whose z a group shares up to signs, by layer."""
        weights = {name: layer.shared for name, layer in self.layers.items()}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def draw_group(self, seed: int) -> dict[str, Tensor]:
        """S z of all that a group of points shares, before it is scaled by rho.

        By name of the parameters shifted in the network itself, and by layer of the weights whose
        signs every point flips.
        """
        moved = {**self.parameters, **self.shared_weights}
        z = standard_normal(moved, seed)
        return {n: v.abs() * z[n] for n, v in moved.items()} if self.adaptive else z

    def draw_points(
        self, seed: int, number: int, indices: np.ndarray, like: Tensor
    ) -> dict[str, Tensor]:
        """Standard normals (B, width) by layer, of one round for the points of these indices."""
        widths = {name: layer.width for name, layer in self.layers.items()}
        dtype = like.dtype if like.is_floating_point() else torch.float32
        rows = normals_of_points(indices, (self.width,), dtype, seed, number, 1)
        pieces = rows.to(like.device).split(list(widths.values()), dim=1)
        return dict(zip(widths, pieces, strict=True))

    def logits(
        self,
        x: Tensor,
        group: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        step: float,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """The network's outputs for x (B, ...) at theta + step S z, z of its own for every point.

        Args:
            x: inputs.
            group: what the points share, as `draw_group` returns it.
            rows: what each has of its own (B, width), by layer.
            step: rho with its sign.
            dtype: inputs, perturbed weights and products are rounded to it; outputs are float32.
                None rounds nothing.
        """
        moved = {name: p + step * group[name] for name, p in self.parameters.items()}
        with ExitStack() as replaced:
            if dtype is not None:
                replaced.enter_context(torch.autocast(x.device.type, dtype))
                moved = {name: value.to(dtype) for name, value in moved.items()}
                x = x.to(dtype) if x.is_floating_point() else x
            for name, layer in self.layers.items():
                replaced.enter_context(_replaced_forward(layer, rows[name], group.get(name), step))
            outputs = call_with(self.model, moved, x)
        return outputs if dtype is None else getattr(outputs, "logits", outputs).float()


def perturbed_network(shard: Shard, *, adaptive: bool) -> PerturbedNetwork:
    """How a shard's network is perturbed.

    A layer is perturbed point by point where it is called once, and its parameters are used nowhere
    else; other parameters are shifted in the network itself.
    """
    calls, _ = trace_calls(shard)
    plain = set(find_routes(shard).layered)
    uses = Counter(call.module for call in calls)
    layers: dict[str, PerturbedLayer] = {}
    inside: set[str] = set()
    for call in calls:
        names = {parameter_name(call.name, local) for local, _ in call.module.named_parameters()}
        if call.x.shape[0] == 1 and uses[call.module] == 1 and names <= plain:
            layer = _perturbed_layer(call, adaptive=adaptive)
            if layer is not None:
                layers[call.name] = layer
                inside |= names
    parameters = {
        name: p.detach() for name, p in float_parameters(shard.model).items() if name not in inside
    }
    return PerturbedNetwork(
        model=shard.model, adaptive=adaptive, layers=layers, parameters=parameters
    )


@contextmanager
def _replaced_forward(
    layer: PerturbedLayer, rows: Tensor, direction: Tensor | None, step: float
) -> Iterator[None]:
    """Inside, the layer computes with its parameters perturbed by this draw."""
    layer.layer.__dict__["forward"] = lambda x: layer.forward(x, rows, direction, step)
    try:
        yield
    finally:
        del layer.layer.__dict__["forward"]


def _perturbed_layer(call: LayerCall, *, adaptive: bool) -> PerturbedLayer | None:
    """How this layer is perturbed; None where none of the ways is known to fit."""
    layer = call.module
    if "forward" in layer.__dict__:
        return None
    if isinstance(layer, Norm):
        own = OwnWeights(layer, adaptive)
        return own if _is_plain_norm(layer, call.x) and _reproduces(own, call) else None
    if not isinstance(layer, Sliding) or type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return None
    if type(layer) is nn.Linear and call.x.ndim == 2:
        return OutputNoise(layer, adaptive)
    padded = getattr(layer, "padding_mode", "zeros") != "zeros"
    few = layer.weight.numel() <= min(call.h.numel(), _MOST_OWN_WEIGHTS)
    return OwnWeights(layer, adaptive) if few and not padded else FlippedWeights(layer, adaptive)


def _is_plain_norm(layer: Norm, x: Tensor) -> bool:
    if isinstance(layer, nn.LayerNorm):
        return x.shape[-len(layer.normalized_shape) :] == layer.normalized_shape
    return isinstance(layer, nn.GroupNorm) or layer.running_mean is not None


def _reproduces(own: OwnWeights, call: LayerCall) -> bool:
    """Whether a kind of normalization that may be a subclass's own computes what is known."""
    with torch.no_grad():
        again = own.forward(call.x, call.x.new_zeros(1, own.width), None, 0.0)
    return again.shape == call.h.shape and torch.allclose(again, call.h, rtol=1e-4, atol=1e-5)
