"""Perturbing a layer's weights through its output, differently for every point of a batch.

Plain Linear layers, one vector a point: for h = W x + b and independent z ~ N(0, I), (W + rho S_W
z_W) x + (b + rho S_b z_b) is Gaussian with independent entries of variance rho^2 (S_W^2 x^2 +
S_b^2), so new noise can be drawn on h for every point (Kingma et al. 2015).

Convolutions and token-wise Linear layers: points of a group share z_W and flip its signs, z_W *
(s t^T) with s, t of signs drawn for every point (Wen et al. 2018, flipout). Every point's
perturbation is N(0, I); those of two points are uncorrelated but equally large, entry by entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatscale.metrics.gradient_routes import find_routes
from flatscale.metrics.jacobian_rows import trace_calls
from flatscale.metrics.perturbation import draw_seed
from flatscale.metrics.probe import Shard

NoisyLayer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(kw_only=True)
class LayerNoise:
    """Noise of the layers perturbed through their outputs, for the batch at hand.

    Attributes:
        layers: plain Linear layers by name, in forward order.
        flipped: layers whose perturbation a group shares up to signs, by name.
        adaptive: scales are |theta|; else one.
        step: rho with its sign.
        directions: S_W z_W of the flipped layers, by name.
        rows: what is drawn for each point (B, width), by name: standard normals of the outputs,
            or, for flipped layers, of the bias, and the signs of outputs and inputs.
    """

    layers: dict[str, nn.Linear] = field(default_factory=dict)
    flipped: dict[str, NoisyLayer] = field(default_factory=dict)
    adaptive: bool
    step: float = 0.0
    directions: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that are not shifted in the network itself."""
        return {
            parameter_name(name, local)
            for name, layer in {**self.layers, **self.flipped}.items()
            for local, _ in layer.named_parameters()
        }

    def shared(self) -> dict[str, Tensor]:
        """Weights whose z a group shares, by layer."""
        return {name: layer.weight.detach() for name, layer in self.flipped.items()}

    def draw(self, seed: int, number: int, indices: np.ndarray, like: Tensor) -> None:
        """The rows of one round for the points of these indices, wherever they are held."""
        widths = {name: layer.out_features for name, layer in self.layers.items()}
        for name, layer in self.flipped.items():
            outgoing, incoming = _channels(layer)
            widths[name] = 2 * outgoing + incoming
        dtype = like.dtype if like.is_floating_point() else torch.float32
        rows = torch.empty(len(indices), sum(widths.values()), dtype=dtype)
        for i, index in enumerate(indices):
            generator = torch.Generator().manual_seed(draw_seed(seed, number, 1, int(index)))
            torch.randn(rows.shape[1], generator=generator, dtype=dtype, out=rows[i])
        pieces = rows.to(like.device).split(list(widths.values()), dim=1)
        self.rows = dict(zip(widths, pieces, strict=True))


def parameter_name(layer: str, local: str) -> str:
    """Full name of a layer's parameter."""
    return f"{layer}.{local}" if layer != "model" else local


def layer_noise(shard: Shard, *, adaptive: bool) -> LayerNoise:
    """The layers to perturb through their outputs: called once, parameters used nowhere else."""
    calls, _ = trace_calls(shard)
    plain = set(find_routes(shard).layered)
    uses = Counter(call.module for call in calls)
    noise = LayerNoise(adaptive=adaptive)
    for call in calls:
        module, x = call.module, call.x
        if x.shape[0] != 1 or uses[module] != 1:
            continue
        if (
            not {parameter_name(call.name, local) for local, _ in module.named_parameters()}
            <= plain
        ):
            continue
        if type(module) is nn.Linear and x.ndim == 2:
            noise.layers[call.name] = module
        elif isinstance(module, NoisyLayer) and type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d):
            noise.flipped[call.name] = module
    return noise


@contextmanager
def noise_added(noise: LayerNoise) -> Iterator[None]:
    """Inside, every layer of the noise adds step times its perturbation to its output."""
    handles = []
    try:
        for name, layer in noise.layers.items():
            handles.append(layer.register_forward_hook(_plain_hook(noise, name, layer)))
        for name, flipped in noise.flipped.items():
            handles.append(flipped.register_forward_hook(_flipped_hook(noise, name, flipped)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain_hook(noise: LayerNoise, name: str, layer: nn.Linear) -> Any:
    weight2 = layer.weight.detach().square() if noise.adaptive else None
    bias2: Tensor | float = 0.0
    if layer.bias is not None:
        bias2 = layer.bias.detach().square() if noise.adaptive else 1.0

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        squares = args[0].square()
        variance = squares.sum(dim=1, keepdim=True) if weight2 is None else squares @ weight2.T
        return output + noise.step * noise.rows[name] * torch.sqrt(variance + bias2)

    return after


def _flipped_hook(noise: LayerNoise, name: str, layer: NoisyLayer) -> Any:
    outgoing, incoming = _channels(layer)
    scale: Tensor | float = 1.0
    if layer.bias is not None and noise.adaptive:
        scale = layer.bias.detach().abs()

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        normals = noise.rows[name]
        signs = torch.where(normals[:, outgoing:] < 0, -1.0, 1.0).to(normals.dtype)
        flip_out, flip_in = signs.split([outgoing, incoming], dim=1)
        x, direction = args[0], noise.directions[name]
        flipped = x * _by_channel(flip_in, x, layer)
        if isinstance(layer, nn.Linear):
            change = F.linear(flipped, direction)
        else:
            change = layer._conv_forward(flipped, direction, None)
        change = change * _by_channel(flip_out, change, layer)
        if layer.bias is not None:
            change = change + _by_channel(scale * normals[:, :outgoing], change, layer)
        return output + noise.step * change

    return after


def _channels(layer: NoisyLayer) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels


def _by_channel(rows: Tensor, like: Tensor, layer: NoisyLayer) -> Tensor:
    """(B, C) shaped to multiply the channels of a layer's inputs or outputs."""
    ones = [1] * (like.ndim - 2)
    if isinstance(layer, nn.Linear):
        return rows.reshape(len(rows), *ones, -1)
    return rows.reshape(len(rows), -1, *ones)
