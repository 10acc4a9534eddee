"""The pass over the layers' own norms, which the bounds need: data does not enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from flatscale.metrics.passes.jacobian.operator_norm import kernel_norm, unrolled_norm
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.layer_calls import trace_calls
from flatscale.metrics.probe.observers import Observer, Shard
from flatscale.metrics.registration import measurement_pass


@dataclass(frozen=True, kw_only=True)
class LayerNorms:
    """||W_l||_2 of every linear layer, in forward order (L).

    Attributes:
        unrolled: of the layer as a map on its whole input.
        kernel: of the weight as a matrix, whatever its sharing.
    """

    unrolled: np.ndarray
    kernel: np.ndarray


@measurement_pass("layer_norms")
def layer_norms(observers: Mapping[str, Observer], seed: int) -> LayerNorms:
    """Operator norms of the linear layers, for inputs of the probe's shape."""
    return required(observers, "probe").once(norms_of_layers)


def norms_of_layers(shard: Shard) -> LayerNorms:
    """The norms, for inputs of the shard's shape."""
    linear = [call for call in trace_calls(shard)[0] if call.is_linear]
    kernel = [kernel_norm(call.module) for call in linear]
    unrolled = [
        of_kernel
        if isinstance(call.module, nn.Linear)
        else unrolled_norm(call.module, call.of_one_point(None)[0].input_shape)
        for call, of_kernel in zip(linear, kernel, strict=True)
    ]
    return LayerNorms(unrolled=np.array(unrolled), kernel=np.array(kernel))
