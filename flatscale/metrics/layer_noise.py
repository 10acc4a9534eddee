"""Perturbing a Linear layer's weights through its output: exact in law, new for every point.

For h = W x + b and independent z ~ N(0, I), (W + rho S_W z_W) x + (b + rho S_b z_b) is Gaussian
with independent entries of variance rho^2 (S_W^2 x^2 + S_b^2): the noise can be drawn on h (Kingma
et al. 2015, local reparametrization), where the layer reads one vector a point and is used once.
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

from flatscale.metrics.gradient_routes import find_routes
from flatscale.metrics.layers import captured_calls
from flatscale.metrics.perturbation import draw_seed
from flatscale.metrics.probe import Shard


@dataclass(kw_only=True)
class LayerNoise:
    """Noise of the layers perturbed through their outputs, for the batch at hand.

    Attributes:
        layers: by name, in forward order.
        adaptive: scales are |theta|; else one.
        step: rho with its sign.
        rows: standard normals (B, width) by layer.
    """

    layers: dict[str, nn.Linear]
    adaptive: bool
    step: float = 0.0
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that need no perturbation of their own."""
        return {
            f"{name}.{local}" if name != "model" else local
            for name, layer in self.layers.items()
            for local, _ in layer.named_parameters()
        }

    def draw(self, seed: int, number: int, indices: np.ndarray, like: Tensor) -> None:
        """The rows of one round for the points of these indices, wherever they are held."""
        widths = [layer.out_features for layer in self.layers.values()]
        rows = torch.empty(len(indices), sum(widths), dtype=like.dtype)
        for i, index in enumerate(indices):
            generator = torch.Generator().manual_seed(draw_seed(seed, number, 1, int(index)))
            rows[i] = torch.randn(sum(widths), generator=generator, dtype=like.dtype)
        pieces = rows.to(like.device).split(widths, dim=1)
        self.rows = dict(zip(self.layers, pieces, strict=True))


def noisy_layers(shard: Shard) -> dict[str, nn.Linear]:
    """Linear layers that read one vector a point and whose parameters are used nowhere else."""
    with captured_calls(shard.model) as calls, torch.enable_grad():
        shard.logits(shard.x[:1].clone().requires_grad_(shard.x.is_floating_point()))
    plain = set(find_routes(shard).layered)
    uses = Counter(call.module for call in calls)
    found: dict[str, nn.Linear] = {}
    for call in calls:
        module = call.module
        if type(module) is not nn.Linear or call.x.ndim != 2 or call.x.shape[0] != 1:
            continue
        names = LayerNoise(layers={call.name: module}, adaptive=True).parameters
        if uses[module] == 1 and names <= plain:
            found[call.name] = module
    return found


@contextmanager
def noise_added(noise: LayerNoise) -> Iterator[None]:
    """Inside, every layer of the noise adds step * sqrt(S_W^2 x^2 + S_b^2) * rows to its output."""
    handles = []

    def hook(name: str, layer: nn.Linear) -> Any:
        weight2 = layer.weight.detach().square() if noise.adaptive else None
        bias2: Tensor | float = 0.0
        if layer.bias is not None:
            bias2 = layer.bias.detach().square() if noise.adaptive else 1.0

        def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            squares = args[0].square()
            variance = squares.sum(dim=1, keepdim=True) if weight2 is None else squares @ weight2.T
            return output + noise.step * noise.rows[name] * torch.sqrt(variance + bias2)

        return after

    try:
        for name, layer in noise.layers.items():
            handles.append(layer.register_forward_hook(hook(name, layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
