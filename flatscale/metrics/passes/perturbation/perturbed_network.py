"""A network whose weights are perturbed differently for every point, where its layers allow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

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
from flatscale.metrics.probe.layer_calls import (
    LayerCall,
    trace_calls,
    work_of_a_point,
    work_of_call,
)
from flatscale.metrics.probe.observers import Shard
from flatscale.metrics.probe.parameters import call_with, float_parameters, parameter_name
from flatscale.metrics.probe.rounding import computed_in
from flatscale.training.memory import is_out_of_memory

_MOST_OWN_WEIGHTS = 10_000
_TAIL_SHARE = 0.05
"""Most of a network's work that its tail may cost."""
_LONGEST_TAIL = 4


@dataclass(frozen=True, kw_only=True)
class PerturbedNetwork:
    """Which parameters are perturbed how; nothing of it changes from one draw to the next.

    Attributes:
        model: the network, left as it is.
        adaptive: whether perturbations are weighted by |theta|.
        layers: those perturbed point by point, by name, in forward order.
        parameters: the others' parameters, which a group of points shares, by name.
        tail: the last layers, in forward order, if they cost next to nothing: they are computed
            with both their signs for either sign of all before them.
    """

    model: nn.Module
    adaptive: bool
    layers: Mapping[str, PerturbedLayer]
    parameters: Mapping[str, Tensor]
    tail: tuple[str, ...] = ()

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

    def outputs(
        self,
        x: Tensor,
        group: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        step: float,
        dtype: torch.dtype | None = None,
    ) -> list[Tensor]:
        """The network's outputs for x (B, ...) at theta + step S z, z of its own for every point.

        One (B, N); with a tail another one, at the same z with the tail's signs reversed, so that
        what is odd in the tail's z cancels in the mean of the two.

        Args:
            x: inputs.
            group: what the points share, as `draw_group` returns it.
            rows: what each has of its own (B, width), by layer.
            step: rho with a sign, which reverses z before the tail.
            dtype: inputs, perturbed weights and products are rounded to it; outputs are float32.
                None rounds nothing.
        """
        moved = {name: p + step * group[name] for name, p in self.parameters.items()}
        if dtype is not None:
            moved = {name: value.to(dtype) for name, value in moved.items()}
            x = x.to(dtype) if x.is_floating_point() else x
        with ExitStack() as replaced:
            replaced.enter_context(computed_in(dtype, x.device))
            for name, layer in self.layers.items():
                drawn = rows[name] if step >= 0 else layer.reversed(rows[name])
                if name in self.tail:
                    drawn = torch.cat([rows[name], layer.reversed(rows[name])])
                twice = name in self.tail[:1]
                replaced.enter_context(
                    _replaced_forward(layer, drawn, group.get(name), abs(step), twice=twice)
                )
            found = call_with(self.model, moved, x)
        logits = getattr(found, "logits", found)
        if dtype is not None:
            logits = logits.float()
        return list(logits.chunk(2)) if self.tail else [logits]

    def slopes(
        self,
        gradients: Mapping[str, Tensor],
        group: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
    ) -> Tensor:
        """d loss / d step of every point at step zero (B,), of all before the tail.

        Args:
            gradients: of every point's loss (B, ...), by the names of `steered`.
            group, rows: as in `outputs`.
        """
        found = [
            (gradients[name].flatten(1) @ group[name].to(gradients[name].dtype).flatten())
            for name in self.parameters
        ]
        for name, layer in self.before_tail.items():
            own = {local: gradients[full] for local, full in _parameters_of(name, layer)}
            found.append(layer.slope(own, rows[name], group.get(name)))
        return torch.stack([part.float() for part in found]).sum(dim=0)

    @property
    def before_tail(self) -> dict[str, PerturbedLayer]:
        return {name: layer for name, layer in self.layers.items() if name not in self.tail}

    @property
    def steered(self) -> tuple[str, ...]:
        """Names of the parameters that are perturbed before the tail."""
        within = (
            f for name, layer in self.before_tail.items() for _, f in _parameters_of(name, layer)
        )
        return (*self.parameters, *within)


def _parameters_of(name: str, layer: PerturbedLayer) -> list[tuple[str, str]]:
    """Names of a layer's parameters, in the layer and in the network."""
    return [(local, parameter_name(name, local)) for local, _ in layer.layer.named_parameters()]


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
    network = PerturbedNetwork(
        model=shard.model, adaptive=adaptive, layers=layers, parameters=parameters
    )
    if "perturbed_tail" not in shard.kept:
        shard.kept["perturbed_tail"] = _tail(shard, network, calls)
    return replace(network, tail=shard.kept["perturbed_tail"])


def _tail(shard: Shard, network: PerturbedNetwork, calls: Sequence[LayerCall]) -> tuple[str, ...]:
    """The most of the last layers that cost next to nothing and can be computed twice."""
    total, shares, last = work_of_a_point(shard), 0.0, list[str]()
    for call in calls[: -_LONGEST_TAIL - 1 : -1]:
        shares += work_of_call(call) / total
        if shares > _TAIL_SHARE or call.name not in network.layers:
            break
        last.insert(0, call.name)
    candidates = (tuple(last[start:]) for start in range(len(last)))
    found = (tail for tail in candidates if _doubles(shard, replace(network, tail=tail)))
    return next(found, ())


def _doubles(shard: Shard, network: PerturbedNetwork) -> bool:
    """Whether the points can be doubled where the tail begins: nothing before it is used again."""
    x = shard.x[:1].repeat(2, *[1] * (shard.x.ndim - 1))
    shared = {**network.parameters, **network.shared_weights}
    group = {n: torch.zeros_like(v) for n, v in shared.items()}
    with torch.no_grad():
        plain = shard.logits(x)
        rows = {name: plain.new_zeros(2, layer.width) for name, layer in network.layers.items()}
        try:
            doubled = torch.cat(network.outputs(x, group, rows, 0.0))
        except Exception as error:  # whatever a network says to twice as many points midway
            if is_out_of_memory(error):
                raise
            return False
    expected = plain.repeat(2, 1)
    return doubled.shape == expected.shape and torch.allclose(
        doubled, expected, rtol=1e-4, atol=1e-5, equal_nan=True
    )


@contextmanager
def _replaced_forward(
    layer: PerturbedLayer, rows: Tensor, direction: Tensor | None, step: float, *, twice: bool
) -> Iterator[None]:
    """Inside, the layer computes with its parameters perturbed by this draw, all points twice."""

    def forward(x: Tensor) -> Tensor:
        return layer.forward(torch.cat([x, x]) if twice else x, rows, direction, step)

    layer.layer.__dict__["forward"] = forward
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
