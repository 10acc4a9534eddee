"""What the input-invariant bound needs of the first layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.metrics.passes.jacobian.parameter_gradients import PLAIN_LAYERS, GradientNormSums
from flatscale.metrics.probe.layer_calls import LayerCall

FIRST_LAYER = ("m_1 unrolled", "||W o grad||^2 unrolled", "kernel rows", "||W o grad||^2 shared")


def reads_input(first: LayerCall | None, x: Tensor) -> np.ndarray:
    """Of which points (B,) the first layer reads the network's input itself."""
    if first is None or first.x.shape != x.shape:
        return np.zeros(len(x), dtype=bool)
    same = first.x.detach().nan_to_num() == x.detach().nan_to_num()
    return same.flatten(1).all(dim=1).cpu().numpy()


class FirstLayer:
    """||W_1 o grad_{W_1} f(x_i)||_F^2, unrolled and with weights shared, added up over outputs.

    Args:
        calls: every layer's call of one batch, in forward order.
        x: the batch (B, ...).

    Attributes:
        reads_input: at which points (B,) that layer reads the network's input.
    """

    def __init__(self, calls: Sequence[LayerCall], x: Tensor) -> None:
        first = next((call for call in calls if call.is_linear), None)
        self.reads_input = reads_input(first, x)
        self._batch = len(x)
        self._call: LayerCall | None = None
        self._module: nn.Linear | nn.Conv1d | nn.Conv2d | None = None
        if first is not None and not first.folded and isinstance(first.module, PLAIN_LAYERS):
            self._call, self._module = first, first.module
        self._squares: Tensor | None = None

    def shares_weights(self, call: LayerCall) -> bool:
        """Whether this is the first layer, and its weights serve several positions."""
        if call is not self._call or self._module is None:
            return False
        return call.h[0].numel() > self._module.weight.shape[0]

    def add(self, call: LayerCall, delta: Tensor) -> None:
        """Add df_k/dh (K, B, ...), if the call is the first layer's."""
        if call is not self._call:
            return
        if self._squares is None:
            self._squares = torch.zeros_like(delta[0])
        for row in delta:
            self._squares.addcmul_(row, row)

    def columns(self, sums: GradientNormSums | None) -> Tensor:
        """The `FIRST_LAYER` columns (B, 4) from the layer's sums; zeros for no plain layer."""
        found = torch.zeros(self._batch, len(FIRST_LAYER), dtype=torch.float64)
        module = self._module
        if self._call is None or module is None or self._squares is None:
            return found
        squared = {"weight": module.weight.detach().square()}
        if module.bias is not None:
            squared["bias"] = torch.zeros_like(module.bias)
        image = torch.func.functional_call(module, squared, (self._call.x.detach().square(),))
        shared = None if sums is None else sums.weight_squares()
        found[:, 0] = self._squares[0].numel()
        found[:, 1] = (self._squares * image).flatten(1).sum(dim=1).double().cpu()
        found[:, 2] = module.weight.shape[0]
        found[:, 3] = found[:, 1]
        if shared is not None:
            found[:, 3] = (shared * squared["weight"]).flatten(1).sum(dim=1).double().cpu()
        return found
