"""Hochreiter and Schmidhuber's flat minimum: how coarsely the weights can be written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import loss_surface, sum_of_losses
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Arrays, Observer, Shard
from flatscale.metrics.probe.parameters import float_parameters
from flatscale.metrics.registration import measurement_pass, metric


@measurement_pass("rounded_weights")
def rounded_weights(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    tolerance: PositiveFloat = 0.01,
    max_bits: Annotated[int, Field(ge=1, le=23)] = 16,
) -> Measurement:
    """The rise of the mean loss for every number of bits.

    Args:
        observers: the point sets; the probe's is used.
        seed: not used.
        tolerance: largest rise of the mean loss allowed.
        max_bits: most bits tried.
    """
    observer = required(observers, "probe")
    surface = loss_surface(observer)
    bits = tuple(range(1, max_bits + 1))
    total = observer.total(rounded_losses, bits=bits, left_out=surface.left_out)
    rises = total["loss"] / surface.num_points - surface.loss
    enough = np.flatnonzero(rises <= tolerance)
    if not len(enough):
        raise MetricError(
            f"even {max_bits} bits raise the loss by {rises[-1]:.3g}, more than the "
            f"tolerance {tolerance}"
        )
    return Measurement(
        name="weight_precision",
        value=float(bits[int(enough[0])]),
        num_evaluations=1 + len(bits),
        num_points=surface.num_points,
        reason="; ".join(surface.notes) or None,
        extras={"bits": tuple(map(float, bits)), "rises": tuple(float(r) for r in rises)},
    )


@metric(
    "weight_precision",
    passes=("rounded_weights",),
    formula="min b: mean_i loss_i(round_b(θ)) − mean_i loss_i(θ) ≤ tolerance",
    group="sharpness",
    unit="bits",
    value_range="[1, 23]",
    invariances=("layer rescaling of ReLU networks",),
    source="Hochreiter & Schmidhuber 1997",
)
def weight_precision(estimate: Measurement) -> Measurement:
    """Fewest bits to which every parameter tensor can be rounded without the loss rising much."""
    return estimate


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
