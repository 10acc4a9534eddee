"""The trace of the loss's Hessian, by Hutch++ with a standard error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from flatscale.measurement import Measurement
from flatscale.metrics.passes.curvature.loss_surface import loss_surface
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.probe.point_means import error_of_draws
from flatscale.metrics.registration import measurement_pass, metric

_FEWEST_SAMPLES = 10
"""Fewer say too little about their own spread to count as converged."""


def _sketch_fits(*, sketch_size: int, max_products: int, **_: object) -> None:
    if max_products < 2 * sketch_size + 2:
        raise ValueError(f"max_products must be at least 2 sketch_size + 2; found {max_products}")


@measurement_pass("hessian_trace_samples", check=_sketch_fits)
def hessian_trace_samples(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    sketch_size: NonNegativeInt = 10,
    max_relative_error: PositiveFloat = 0.05,
    max_products: PositiveInt = 200,
) -> Measurement:
    """Hutch++ (Meyer et al. 2021): a sketch of the range traced exactly, Hutchinson for rest.

    Args:
        observers: the point sets; the probe's is used.
        seed: of sketch and samples.
        sketch_size: directions of the Hessian's range that are taken out and traced exactly.
        max_relative_error: stop once the standard error is at most this share of the trace.
        max_products: most Hessian-vector products.
    """
    surface = loss_surface(required(observers, "probe"))
    size, rng = len(surface.theta), np.random.default_rng(seed)
    sketch = min(sketch_size, size)
    basis, exact, spent = np.zeros((size, 0)), 0.0, 0
    if sketch:
        images = surface.hessian_products(rng.choice([-1.0, 1.0], size=(sketch, size)))
        basis = np.linalg.qr(images.T)[0]
        exact = float(np.sum(basis.T * surface.hessian_products(basis.T)))
        spent = 2 * sketch
    samples: list[float] = []
    while True:
        more = min(max(10, len(samples)), max_products - spent)
        probes = rng.choice([-1.0, 1.0], size=(more, size))
        probes -= (probes @ basis) @ basis.T
        samples.extend(np.sum(probes * surface.hessian_products(probes), axis=1))
        spent += more
        value = exact + float(np.mean(samples))
        error = error_of_draws(samples)
        enough = len(samples) >= _FEWEST_SAMPLES or sketch == size
        converged = enough and error <= max_relative_error * abs(value)
        if converged or spent >= max_products - 1 or sketch == size:
            break
    return Measurement(
        name="hessian_trace",
        value=value,
        std_error=error,
        converged=converged,
        num_evaluations=4 * spent,
        num_points=surface.num_points,
        reason="; ".join(surface.notes) or None,
    )


@metric(
    "hessian_trace",
    passes=("hessian_trace_samples",),
    formula="tr ∇²_θ mean_i loss_i",
    group="sharpness",
    value_range="(-inf, inf)",
    source="Hutch++: Meyer et al. 2021",
)
def hessian_trace(estimate: Measurement) -> Measurement:
    """Trace of the loss's Hessian in the parameters."""
    return estimate
