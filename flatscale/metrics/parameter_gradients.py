"""Squared gradient norms of parameter tensors, per point, summed over outputs, from x and delta.

With delta_k = df_k/dh of a layer, the gradient of its weight is a contraction of delta_k with what
the layer read, so its norm needs no backward pass of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatscale.metrics.layers import LayerCall


def gradient_norms(call: LayerCall, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """sum_k ||grad_p f_k(x_i)||^2 for each parameter p of one called layer.

    Args:
        call: the layer.
        x: what it read (B, ...).
        delta: df_k/dh (K, B, ...).

    Returns:
        (B,) per parameter, by its name inside the layer.
    """
    module = call.module
    if type(module) is nn.Linear:
        return _linear(module, x, delta)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and type(module) in (nn.Conv1d, nn.Conv2d):
        return _convolution(module, x, delta)
    return _any_module(module, x, delta, call.folded)


def weight_gradient_norm(module: nn.Module, x: Tensor, delta: Tensor) -> Tensor | None:
    """||grad_W f(x_i)||_F^2 of a linear layer's effective weight (B,).

    None for transposed and three-dimensional convolutions.
    """
    if isinstance(module, nn.Linear):
        return contraction_norm(*_linear_factors(x, delta))
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return contraction_norm(*_convolution_factors(module, x, delta))
    return None


def contraction_norm(delta: Tensor, x: Tensor) -> Tensor:
    """sum_k sum_g ||delta_kg x_g^T||_F^2 per point, by the cheaper of two routes.

    Args:
        delta: (K, B, G, C, P) with P positions (tokens, pixels), G groups.
        x: (B, G, D, P).

    Returns:
        (B,).
    """
    outputs, batch, groups, channels, positions = delta.shape
    depth = x.shape[2]
    if positions == 1:
        return (delta.square().sum(dim=(0, 3, 4)) * x.square().sum(dim=(2, 3))).sum(dim=1)
    rows = outputs * channels
    stacked = delta.permute(1, 2, 0, 3, 4).reshape(batch, groups, rows, positions)
    if rows * depth <= positions * (rows + depth):
        return (stacked @ x.mT).square().sum(dim=(1, 2, 3))
    return ((stacked.mT @ stacked) * (x.mT @ x)).sum(dim=(1, 2, 3))


def patches(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position of a convolution reads: (B, groups, depth, positions)."""
    if module.padding_mode != "zeros" or module.padding == "same":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
        padding: tuple[int, ...] = (0,) * len(module.kernel_size)
    elif module.padding == "valid":
        padding = (0,) * len(module.kernel_size)
    else:
        padding = tuple(int(p) for p in module.padding)
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
    flat = (1,) if isinstance(module, nn.Conv1d) else ()
    columns = F.unfold(
        x,
        (*flat, *module.kernel_size),
        dilation=(*flat, *module.dilation),
        padding=(*(0 for _ in flat), *padding),
        stride=(*flat, *module.stride),
    )
    return columns.reshape(x.shape[0], module.groups, -1, columns.shape[-1])


def _linear(module: nn.Linear, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    found = {"weight": contraction_norm(*_linear_factors(x, delta))}
    if module.bias is not None:
        found["bias"] = _summed_positions(delta.reshape(*delta.shape[:2], -1, delta.shape[-1]), 2)
    return found


def _convolution(module: nn.Conv1d | nn.Conv2d, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    found = {"weight": contraction_norm(*_convolution_factors(module, x, delta))}
    if module.bias is not None:
        if delta.ndim - len(module.kernel_size) == 4:
            delta = delta.movedim(2, 3)
        found["bias"] = _summed_positions(delta.flatten(3), 3)
    return found


def _linear_factors(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    tokens = x.reshape(x.shape[0], 1, -1, x.shape[-1]).mT
    outgoing = delta.reshape(*delta.shape[:2], 1, -1, delta.shape[-1]).mT
    return outgoing, tokens


def _convolution_factors(
    module: nn.Conv1d | nn.Conv2d, x: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    pieces = x.ndim - len(module.kernel_size) == 3
    columns = patches(module, x.flatten(0, 1) if pieces else x)
    if pieces:
        columns = columns.unflatten(0, x.shape[:2]).movedim(1, 3).flatten(3)
        delta = delta.movedim(2, 3)
    outgoing = delta.reshape(*delta.shape[:2], module.groups, -1, columns.shape[-1])
    return outgoing, columns


def _summed_positions(delta: Tensor, dim: int) -> Tensor:
    return delta.sum(dim=dim).square().sum(dim=(0, 2))


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
