"""Capturing, in one forward pass, what every layer reads and what it hands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.probe.observers import Shard
from flatscale.metrics.probe.parameters import refuse_complex

NO_LINEAR_LAYER = "the network has no linear layer (Linear or Conv) that its outputs use"
LINEAR_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_WORK_OF_AN_ELEMENT = 16
"""What a normalization does to an element, in multiplications of a product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """One use of one layer in a forward pass.

    Attributes:
        name: the layer's dotted name; a second use of the same layer is `name@2`.
        module: the layer.
        x: what it read, as its own node of the graph: a derivative with respect to it runs
            through this layer alone, also where other branches read the same tensor.
        h: what it returned, before anything downstream changed it in place.
        folded: the network folded more than the points into the leading axis (windows, patches);
            x and h are then (1, pieces, ...) of a single point.
    """

    name: str
    module: nn.Module
    x: Tensor
    h: Tensor
    folded: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the layer, without the leading axis."""
        return tuple(self.x.shape[2 if self.folded else 1 :])

    def of_one_point(self, delta: Tensor | None) -> tuple[LayerCall, Tensor | None]:
        """The call and df_k/dh (K, ...) with everything under a leading axis of one point."""
        if self.x.shape[0] == 1 and self.h.shape[0] == 1:
            return self, delta
        call = replace(self, x=self.x.unsqueeze(0), h=self.h.unsqueeze(0), folded=True)
        return call, None if delta is None else delta.unsqueeze(1)

    @property
    def is_linear(self) -> bool:
        return isinstance(self.module, LINEAR_LAYERS)


@contextmanager
def captured_calls(model: nn.Module) -> Iterator[list[LayerCall]]:
    """A list that fills, during forward passes in the block, with the calls of all layers.

    Layers are the linear ones and every other module that owns parameters and has no parametrised
    child. A copy of the output is handed on, so that an in-place activation cannot overwrite the
    pre-activation kept here.
    """
    calls: list[LayerCall] = []
    inputs: dict[nn.Module, Tensor] = {}
    uses: dict[str, int] = {}
    handles = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        inputs.pop(module, None)
        if len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        x = args[0].clone()
        if x.is_floating_point() and not x.requires_grad:
            x.requires_grad_()
        inputs[module] = x
        return (x,)

    def after(name: str, module: nn.Module, output: Any) -> Any:
        if module not in inputs or not isinstance(output, Tensor) or not output.requires_grad:
            return output
        uses[name] = uses.get(name, 0) + 1
        called = name if uses[name] == 1 else f"{name}@{uses[name]}"
        calls.append(LayerCall(name=called, module=module, x=inputs.pop(module), h=output))
        return output.clone()

    def hook(name: str) -> Any:
        return lambda module, args, output: after(name, module, output)

    try:
        for name, module in layers_of(model).items():
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(hook(name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose calls are captured, by dotted name (the model itself: `model`)."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        owns = any(p is not None for p in module._parameters.values())
        nested = any(True for child in module.children() for _ in child.parameters())
        if isinstance(module, LINEAR_LAYERS) or (owns and not nested):
            found[name or "model"] = module
    return found


def trace_calls(shard: Shard) -> tuple[list[LayerCall], int]:
    """The layers' calls on one point, and the number of outputs; once for a shard."""
    if "traced_calls" not in shard.kept:
        shard.kept["traced_calls"] = _trace(shard)
    return shard.kept["traced_calls"]


def work_of_a_point(shard: Shard) -> int:
    """Multiplications in the network's layers for one point, roughly."""
    return sum(map(work_of_call, trace_calls(shard)[0]))


def work_of_call(call: LayerCall) -> int:
    """Multiplications of one point in one layer, roughly."""
    if not call.is_linear:
        return _WORK_OF_AN_ELEMENT * call.h.numel()
    weight = cast(Tensor, call.module.weight)  # a parametrized one is computed
    return call.h.numel() * weight[0].numel()


def points_at_once(calls: Sequence[LayerCall], limit: float, bytes_per_point: float) -> int:
    """How many points of so many bytes stay below a limit; one where layers fold points."""
    if any(call.of_one_point(None)[0].folded for call in calls):
        return 1
    return max(1, int(limit / max(bytes_per_point, 1)))


def linear_layer_names(shard: Shard) -> tuple[str, ...]:
    """The linear layers' uses that the outputs depend on, in forward order."""
    return tuple(call.name for call in trace_calls(shard)[0] if call.is_linear)


def _trace(shard: Shard) -> tuple[list[LayerCall], int]:
    refuse_complex(shard.model)
    with captured_calls(shard.model) as calls, torch.enable_grad():
        outputs = shard.outputs(shard.x[:1].clone().requires_grad_(shard.x.is_floating_point()))
    return list(calls), outputs.shape[1]


def refuse_integers(shard: Shard) -> None:
    """Raise MetricError where the inputs cannot be differentiated."""
    if not shard.x.is_floating_point():
        raise MetricError(f"inputs must be floating-point to differentiate; found {shard.x.dtype}")
