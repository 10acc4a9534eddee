"""Squared gradient norms of parameter tensors, per point, summed over outputs, from x and delta.

With delta_k = df_k/dh of a layer, the gradient of its weight is a contraction of delta_k with what
the layer read, so its norm needs no backward pass of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatscale.metrics.probe.layer_calls import LayerCall

PLAIN_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class GradientNormSums:
    """sum_k ||grad_p f_k(x_i)||^2 for each parameter p of one called layer, added up over k.

    Args:
        call: the layer and what it read.
        num_outputs: how many k will come, to choose the cheaper contraction.
        entrywise: keep sum_k (grad_W f_k)^2 entry by entry.
    """

    def __init__(self, call: LayerCall, num_outputs: int, *, entrywise: bool = False) -> None:
        self._call, self._x = call, call.x.detach()
        self._norms: dict[str, Tensor] = {}
        self._weight: Contraction | None = None
        if isinstance(call.module, PLAIN_LAYERS):
            inner = _read_columns(call.module, self._x)
            channels = call.module.weight.shape[0] // inner.shape[1]
            self._weight = Contraction(inner, num_outputs, channels, entrywise=entrywise)

    def add(self, delta: Tensor) -> None:
        """Add some of the outputs: their df_k/dh (K, B, ...)."""
        module = self._call.module
        if self._weight is not None and isinstance(module, PLAIN_LAYERS):
            self._weight.add(_outgoing_columns(module, delta))
        if not isinstance(module, PLAIN_LAYERS) or type(module) not in PLAIN_LAYERS:
            for name, norm in _any_module(module, self._x, delta, self._call.folded).items():
                self._norms[name] = self._norms.get(name, 0.0) + norm
        elif module.bias is not None:
            bias = _bias_norm(module, delta)
            self._norms["bias"] = self._norms.get("bias", 0.0) + bias

    def norms(self) -> dict[str, Tensor]:
        """(B,) per parameter, by its name inside the layer."""
        if type(self._call.module) in PLAIN_LAYERS and self._weight is not None:
            return {"weight": self._weight.norm(), **self._norms}
        return dict(self._norms)

    def weight_norm(self) -> Tensor | None:
        """||grad_W f(x_i)||_F^2 of a linear layer's effective weight (B,).

        None for transposed and three-dimensional convolutions without plain parameters.
        """
        if self._weight is not None:
            return self._weight.norm()
        return self._norms.get("weight")

    def weight_squares(self) -> Tensor | None:
        """sum_k (grad_W f_k(x_i))^2 entry by entry (B, *W.shape); None unless kept."""
        module = self._call.module
        if self._weight is None or self._weight.squares is None:
            return None
        if not isinstance(module, PLAIN_LAYERS):
            return None
        return self._weight.squares.mT.reshape(-1, *module.weight.shape)


class Contraction:
    """sum_k sum_g ||delta_kg x_g^T||_F^2 per point, by the cheapest of three routes.

    Args:
        x: (B, G, D, P) with G groups and P positions (tokens, pixels).
        num_outputs: how many k will be added.
        channels: C, rows of delta.
        entrywise: keep the sums of squares entry by entry.
    """

    def __init__(
        self, x: Tensor, num_outputs: int, channels: int, *, entrywise: bool = False
    ) -> None:
        batch, self._groups, depth, positions = x.shape
        self._x = x.flatten(0, 1)
        self._total = torch.zeros(batch, dtype=x.dtype, device=x.device)
        self._outer: Tensor | None = None
        self.squares: Tensor | None = None
        rows = num_outputs * channels
        self._by_factors = positions == 1 and not entrywise
        if entrywise:
            self.squares = torch.zeros(
                len(self._x), depth, channels, dtype=x.dtype, device=x.device
            )
        elif not self._by_factors and rows * depth > positions * (rows + depth):
            self._outer = torch.zeros(
                len(self._x), positions, positions, dtype=x.dtype, device=x.device
            )

    def add(self, delta: Tensor) -> None:
        """Add delta (K, B, G, C, P)."""
        batch = len(self._total)
        if self._by_factors:
            x2 = self._x.square().sum(dim=(1, 2)).reshape(batch, self._groups)
            self._total += (delta.square().sum(dim=(0, 3, 4)) * x2).sum(dim=1)
            return
        for row in delta:
            flat = row.flatten(0, 1)
            if self._outer is not None:
                self._outer.baddbmm_(flat.mT, flat)
                continue
            gradient = torch.bmm(self._x, flat.mT)
            if self.squares is not None:
                self.squares.addcmul_(gradient, gradient)
            else:
                norms = torch.linalg.vector_norm(gradient.reshape(batch, -1), dim=1)
                self._total += norms.square()

    def norm(self) -> Tensor:
        """The sum so far (B,)."""
        batch = len(self._total)
        if self._outer is not None:
            terms = self._outer * (self._x.mT @ self._x)
            return terms.reshape(batch, -1).sum(dim=1)
        if self.squares is not None:
            return self.squares.reshape(batch, -1).sum(dim=1)
        return self._total


def patches(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position of a convolution reads: (B, groups, depth, positions)."""
    if any(module._reversed_padding_repeated_twice):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
    flat = (1,) if isinstance(module, nn.Conv1d) else ()
    columns = F.unfold(
        x,
        (*flat, *module.kernel_size),
        dilation=(*flat, *module.dilation),
        stride=(*flat, *module.stride),
    )
    return columns.reshape(x.shape[0], module.groups, -1, columns.shape[-1])


def _read_columns(module: nn.Linear | nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position reads: (B, groups, depth, positions)."""
    if isinstance(module, nn.Linear):
        return x.reshape(x.shape[0], 1, -1, x.shape[-1]).mT
    if x.ndim - len(module.kernel_size) == 2:
        return patches(module, x)
    columns = patches(module, x.flatten(0, 1))
    return columns.unflatten(0, (x.shape[0], x.shape[1])).movedim(1, 3).flatten(3)


def _outgoing_columns(module: nn.Linear | nn.Conv1d | nn.Conv2d, delta: Tensor) -> Tensor:
    """delta by output position: (K, B, groups, channels, positions)."""
    if isinstance(module, nn.Linear):
        return delta.reshape(*delta.shape[:2], 1, -1, delta.shape[-1]).mT
    delta = _channels_first(module, delta)
    return delta.reshape(*delta.shape[:2], module.groups, delta.shape[2] // module.groups, -1)


def _bias_norm(module: nn.Linear | nn.Conv1d | nn.Conv2d, delta: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        summed = delta.reshape(*delta.shape[:2], -1, delta.shape[-1]).sum(dim=2)
    else:
        summed = _channels_first(module, delta).flatten(3).sum(dim=3)
    return summed.square().sum(dim=(0, 2))


def _channels_first(module: nn.Conv1d | nn.Conv2d, delta: Tensor) -> Tensor:
    """(K, B, channels, ...), also where one point's pieces come before the channels."""
    return delta.movedim(2, 3) if delta.ndim - len(module.kernel_size) == 4 else delta


def _any_module(module: nn.Module, x: Tensor, delta: Tensor, folded: bool) -> dict[str, Tensor]:
    """The same through vmap over points of the layer's own vector-Jacobian products."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def one_point(xi: Tensor, delta_i: Tensor) -> dict[str, Tensor]:
        def layer(values: dict[str, Tensor]) -> Tensor:
            if folded:
                return torch.func.functional_call(module, values, (xi,))
            return torch.func.functional_call(module, values, (xi.unsqueeze(0),)).squeeze(0)

        pullback = torch.func.vjp(layer, parameters)[1]
        gradients = torch.func.vmap(lambda d: pullback(d)[0])(delta_i)
        return {name: g.square().sum() for name, g in gradients.items()}

    return torch.func.vmap(one_point, in_dims=(0, 1))(x, delta)
