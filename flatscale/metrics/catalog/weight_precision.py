"""Hochreiter and Schmidhuber's flat minimum: how coarsely the weights can be written down."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.passes.perturbation.rounded_weights import RoundedRises
from flatscale.metrics.registration import metric


@metric(
    "weight_precision",
    passes=("rounded_weights", "loss_surface"),
    formula="min b: mean_i loss_i(round_b(θ)) − mean_i loss_i(θ) ≤ tolerance",
    group="sharpness",
    unit="bits",
    value_range="[1, 23]",
    invariances=("layer rescaling of ReLU networks",),
    source="Hochreiter & Schmidhuber 1997",
)
def weight_precision(
    rounded: RoundedRises, surface: LossSurface, *, tolerance: PositiveFloat = 0.01
) -> Measurement:
    """Fewest bits to which every parameter tensor can be rounded without the loss rising much.

    Args:
        rounded: rises of the loss.
        surface: the loss.
        tolerance: largest rise of the mean loss allowed.
    """
    rises = rounded.rises
    enough = np.flatnonzero(rises <= tolerance)
    if not len(enough):
        raise MetricError(
            f"even {len(rises)} bits raise the loss by {rises[-1]:.3g}, more than the "
            f"tolerance {tolerance}"
        )
    return Measurement(
        name="weight_precision",
        value=1.0 + float(enough[0]),
        num_evaluations=1 + len(rises),
        num_points=surface.num_points,
        extras={
            "bits": tuple(float(1 + bit) for bit in range(len(rises))),
            "rises": tuple(rises.tolist()),
        },
    )
