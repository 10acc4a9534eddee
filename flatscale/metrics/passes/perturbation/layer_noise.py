"""Which layers of a network can be perturbed differently for every point, and doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.metrics.passes.jacobian.gradient_routes import find_routes
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.passes.perturbation.noisy_layers import (
    FlippedWeights,
    NoisyLayer,
    Norm,
    OutputNoise,
    OwnWeights,
    Sliding,
)
from flatscale.metrics.probe.layer_calls import LayerCall, trace_calls
from flatscale.metrics.probe.observers import Shard

_MOST_OWN_WEIGHTS = 10_000


@dataclass(kw_only=True)
class LayerNoise:
    """The layers perturbed point by point, and what is drawn for the batch at hand.

    Attributes:
        layers: by name, in forward order.
        step: rho with its sign.
        directions: S_W z_W of the layers whose z_W a group shares, by name.
        rows: standard normals drawn for each point (B, width), by name.
    """

    layers: dict[str, NoisyLayer] = field(default_factory=dict)
    step: float = 0.0
    directions: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that are perturbed here, not in the network itself."""
        return {
            parameter_name(name, local)
            for name, noisy in self.layers.items()
            for local, _ in noisy.layer.named_parameters()
        }

    @property
    def width(self) -> int:
        """Standard normals drawn for each point."""
        return sum(noisy.width for noisy in self.layers.values())

    def shared(self) -> dict[str, Tensor]:
        """Weights whose z a group shares, by layer."""
        weights = {name: noisy.shared for name, noisy in self.layers.items()}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def draw(self, seed: int, number: int, indices: np.ndarray, like: Tensor) -> None:
        """The rows of one round for the points of these indices, wherever they are held."""
        widths = {name: noisy.width for name, noisy in self.layers.items()}
        dtype = like.dtype if like.is_floating_point() else torch.float32
        rows = torch.empty(len(indices), self.width, dtype=dtype)
        for i, index in enumerate(indices):
            generator = torch.Generator().manual_seed(draw_seed(seed, number, 1, int(index)))
            torch.randn(self.width, generator=generator, dtype=dtype, out=rows[i])
        pieces = rows.to(like.device).split(list(widths.values()), dim=1)
        self.rows = dict(zip(widths, pieces, strict=True))


def parameter_name(layer: str, local: str) -> str:
    """Full name of a layer's parameter."""
    return f"{layer}.{local}" if layer != "model" else local


def layer_noise(shard: Shard, *, adaptive: bool) -> LayerNoise:
    """The layers to perturb point by point: called once, their parameters used nowhere else."""
    calls, _ = trace_calls(shard)
    plain = set(find_routes(shard).layered)
    uses = Counter(call.module for call in calls)
    noise = LayerNoise()
    for call in calls:
        names = {parameter_name(call.name, local) for local, _ in call.module.named_parameters()}
        if call.x.shape[0] == 1 and uses[call.module] == 1 and names <= plain:
            noisy = _noisy(call, adaptive=adaptive)
            if noisy is not None:
                noise.layers[call.name] = noisy
    return noise


@contextmanager
def noise_added(noise: LayerNoise) -> Iterator[None]:
    """Inside, every layer of the noise computes with its perturbed parameters."""
    replaced: list[nn.Module] = []
    try:
        for name, noisy in noise.layers.items():
            replaced.append(noisy.layer)
            noisy.layer.__dict__["forward"] = partial(_perturbed_forward, noise, name)
        yield
    finally:
        for layer in replaced:
            del layer.__dict__["forward"]


def _perturbed_forward(noise: LayerNoise, name: str, x: Tensor) -> Tensor:
    return noise.layers[name].forward(x, noise.rows[name], noise.directions.get(name), noise.step)


def _noisy(call: LayerCall, *, adaptive: bool) -> NoisyLayer | None:
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
