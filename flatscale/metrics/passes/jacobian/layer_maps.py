"""The Jacobians of one forward pass at every linear layer's input, or the input, as linear maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.metrics.passes.jacobian.derivatives import ForwardPass
from flatscale.metrics.probe.layer_calls import LayerCall
from flatscale.metrics.probe.microbatch import is_out_of_memory

logger = logging.getLogger(__name__)


class LayerMaps:
    """J_i^l of all linear layers of one forward pass: J v comes from the graph of w -> J^T w.

    That graph is built once and kept, so that no step runs the network forward; where it cannot be
    built, J v is computed in forward mode.

    Args:
        ran: the forward pass; its graph is kept too.
        function: the outputs from the points, for forward mode.
        of_input: J_i alone, as that of a single layer, instead of those of the linear layers.
    """

    def __init__(
        self, ran: ForwardPass, function: Callable[[Tensor], Tensor], *, of_input: bool = False
    ) -> None:
        self._outputs, self._x, self._function = ran.outputs, ran.x.detach(), function
        self._calls = [] if of_input else [call for call in ran.calls if call.is_linear]
        self._leaves = [ran.x] if of_input else [call.x for call in self._calls]
        self._sizes = [leaf.numel() // len(ran.x) for leaf in self._leaves]
        ends = np.cumsum(self._sizes).tolist()
        self.places = [slice(e - s, e) for e, s in zip(ends, self._sizes, strict=True)]
        self.num_layers, self.floats = len(self._leaves), sum(self._sizes)
        self.finite = ran.outputs.detach().isfinite().all(dim=1)
        self._dummy = torch.zeros_like(ran.outputs, requires_grad=True)
        self._kept = self._transposable()

    def pull(self, u: Tensor) -> Tensor:
        """J_i^l^T u_i of every layer, side by side (B, sum of d_l)."""
        found = self._pulled(u, self._leaves)
        flat = [
            (torch.zeros_like(leaf) if g is None else g).reshape(len(u), -1)
            for leaf, g in zip(self._leaves, found, strict=True)
        ]
        return torch.cat(flat, dim=1)

    def push(self, tangent: Tensor) -> Tensor:
        """sum_l J_i^l v_i^l (B, N) in float64, of tangents laid out as by `pull`."""
        parts = [
            part.reshape(leaf.shape)
            for part, leaf in zip(tangent.split(self._sizes, dim=1), self._leaves, strict=True)
        ]
        return self._pushed(dict(enumerate(parts)))

    def gram(self, layer: int) -> Callable[[Tensor], Tensor]:
        """u -> J_i^l (J_i^l^T u_i) of one layer."""

        def product(u: Tensor) -> Tensor:
            (pulled,) = self._pulled(u, [self._leaves[layer]])
            return torch.zeros_like(u) if pulled is None else self._pushed({layer: pulled})

        return product

    def _pulled(self, u: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
        u = u.to(self._outputs.dtype)
        return torch.autograd.grad(self._outputs, leaves, u, retain_graph=True, allow_unused=True)

    def _pushed(self, parts: Mapping[int, Tensor]) -> Tensor:
        if self._kept is None:
            image = self._forward_mode(parts)
        else:
            pairs = [(k, v) for i, v in parts.items() if (k := self._kept[i]) is not None]
            graph, tangents = [k for k, _ in pairs], [v for _, v in pairs]
            (image,) = torch.autograd.grad(graph, self._dummy, tangents, retain_graph=True)
        return torch.nan_to_num(image.double(), nan=0.0, posinf=0.0, neginf=0.0)

    def _transposable(self) -> list[Tensor | None] | None:
        """The graph of w -> J^T w, whose own transpose is J; None where it cannot be built."""
        try:
            with torch.enable_grad():
                kept = torch.autograd.grad(
                    self._outputs, self._leaves, self._dummy, create_graph=True, allow_unused=True
                )
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            logger.info("Jacobian-vector products in forward mode (%s)", error)
            return None
        if not all(k is None or k.requires_grad for k in kept):
            return None
        return list(kept)

    def _forward_mode(self, parts: Mapping[int, Tensor]) -> Tensor:
        if not self._calls:
            return jacobian_vector_product(self._function, self._x, parts[0])

        def moved(step: Tensor) -> Tensor:
            with _added_to_inputs(self._calls, {i: step * part for i, part in parts.items()}):
                return self._function(self._x)

        zero = torch.zeros((), dtype=self._x.dtype, device=self._x.device)
        with torch.no_grad():
            return torch.func.jvp(moved, (zero,), (torch.ones_like(zero),))[1]


def jacobian_vector_product(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """J_i v_i (B, N): forward mode, or twice backward where an operation has no forward mode."""
    try:
        with torch.no_grad():
            return torch.func.jvp(function, (x,), (v,))[1]
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = function(x)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, x, dummy, create_graph=True)
        return torch.autograd.grad(pulled, dummy, v)[0]


@contextmanager
def _added_to_inputs(calls: Sequence[LayerCall], tangents: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, the layers of these calls read their input plus the tangent, use by use."""
    waiting: dict[nn.Module, list[Tensor | None]] = {}
    for place, call in enumerate(calls):
        waiting.setdefault(call.module, []).append(tangents.get(place))

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        tangent = waiting[module].pop(0)
        return None if tangent is None else (args[0] + tangent,)

    handles = [module.register_forward_pre_hook(before) for module in waiting]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
