"""Maximum local sensitivity to input perturbations of finite size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flatscale.measurement import Measurement
from flatscale.metrics.passes.perturbation.finite_sensitivity import FiniteRatios
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import metric


@metric(
    "finite_mls",
    passes=("finite_sensitivity",),
    formula="mean_i max_{‖δ‖ ≤ r} ‖f(x_i + δ) − f(x_i)‖ / ‖δ‖",
    group="compression",
    invariances=("layer rescaling of ReLU networks",),
    source="arXiv 2310.01770",
)
def finite_mls(found: FiniteRatios, *, settle: float = 0.05) -> Measurement:
    """Maximum local sensitivity to perturbations of finite size.

    Args:
        found: the best ratios.
        settle: the ascent has settled once the second half of the steps raised the mean of the
            best ratios by less than this share.
    """
    measured = mean_over_points(
        "finite_mls",
        found.best,
        num_evaluations=found.num_evaluations,
        extras={"radius": (found.radius,)},
        note=f"the best found, a lower bound, for radius {found.radius}",
    )
    mean = np.nanmean(found.best)
    return replace(measured, converged=bool(mean - np.nanmean(found.half) <= settle * mean))
