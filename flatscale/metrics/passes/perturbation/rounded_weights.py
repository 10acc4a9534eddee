"""Hochreiter and Schmidhuber's flat minimum: how coarsely the weights can be written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flatscale.metrics.passes.curvature.loss_surface import LossSurface, sum_of_losses
from flatscale.metrics.probe.observers import Arrays, Observer, Shard
from flatscale.metrics.probe.parameters import float_parameters
from flatscale.metrics.registration import measurement_pass


@dataclass(frozen=True, kw_only=True)
class RoundedRises:
    """Rises of the mean loss for 1, 2, ... bits (max_bits,)."""

    rises: np.ndarray


@measurement_pass("rounded_weights", needs=("loss_surface",))
def rounded_weights(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    max_bits: Annotated[int, Field(ge=1, le=23)] = 16,
) -> RoundedRises:
    """The rise of the mean loss for every number of bits.

    Args:
        observers: not used.
        seed: not used.
        surface: the loss.
        max_bits: most bits tried.
    """
    bits = tuple(range(1, max_bits + 1))
    total = surface.observer.total(rounded_losses, bits=bits, left_out=surface.left_out)
    return RoundedRises(rises=total["loss"] / surface.num_points - surface.loss)


def rounded_losses(shard: Shard, *, bits: tuple[int, ...], left_out: tuple[int, ...]) -> Arrays:
    """Summed loss with every parameter tensor rounded to each number of bits."""
    shard = shard.without(left_out)
    parameters = float_parameters(shard.model)
    sums = np.zeros(len(bits))
    for place, count in enumerate(bits):
        rounded = {name: round_to_bits(p.detach(), count) for name, p in parameters.items()}
        sums[place] = sum_of_losses(shard, rounded)
    return {"loss": sums}


def round_to_bits(tensor: Tensor, bits: int) -> Tensor:
    """Rounded to the 2^bits equally spaced values from -max|t| to max|t|."""
    limit = tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
    if limit == 0:
        return tensor.clone()
    step = 2.0 * limit / (2**bits - 1)
    return torch.round((tensor + limit) / step) * step - limit
