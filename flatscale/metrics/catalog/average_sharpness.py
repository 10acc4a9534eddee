"""Sharpness as the mean rise of the loss under random perturbations of the weights."""

from __future__ import annotations

from flatscale.measurement import Measurement
from flatscale.metrics.passes.perturbation.random_rises import LossRises
from flatscale.metrics.probe.point_means import left_out_note
from flatscale.metrics.registration import metric


@metric(
    "adaptive_sharpness",
    passes=("adaptive_perturbation",),
    formula="(E_z mean_i loss_i(θ + ρ|θ|∘z) − mean_i loss_i(θ)) / ρ², z ~ N(0, I)",
    group="sharpness",
    value_range="(-inf, inf)",
    invariances=("layer rescaling of ReLU networks",),
    source="arXiv 2310.01770, Figure 4 (sigmoid outputs, squared_error)",
)
def adaptive_sharpness(rises: LossRises) -> Measurement:
    """Mean rise of the loss under relative random perturbations of every weight."""
    return _measurement("adaptive_sharpness", rises)


@metric(
    "average_sharpness",
    passes=("average_perturbation",),
    formula="(E_z mean_i loss_i(θ + ρz) − mean_i loss_i(θ)) / ρ², z ~ N(0, I)",
    group="sharpness",
    value_range="(-inf, inf)",
    source="Andriushchenko et al. 2023",
)
def average_sharpness(rises: LossRises) -> Measurement:
    """Mean rise of the loss under random perturbations of equal size in every weight."""
    return _measurement("average_sharpness", rises)


def _measurement(name: str, found: LossRises) -> Measurement:
    lost = ~found.kept
    return Measurement(
        name=name,
        value=found.mean.value / found.rho**2,
        std_error=found.mean.std_error / found.rho**2,
        converged=found.converged,
        num_evaluations=1 + 2 * found.rises.shape[1],
        num_points=int(found.kept.sum()),
        reason=left_out_note("loss not finite", lost) if lost.any() else None,
    )
