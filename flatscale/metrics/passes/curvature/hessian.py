"""Three looks at the Hessian of the mean loss over the probe: its trace, its ends, its spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from flatscale.metrics.estimators.eigenvalues import ExtremeEigenvalues, extreme_eigenvalues
from flatscale.metrics.estimators.spectral_quadrature import SpectralDensity, spectral_density
from flatscale.metrics.estimators.trace import TraceEstimate, trace
from flatscale.metrics.passes.curvature.loss_surface import LossSurface
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.registration import measurement_pass

AtLeastTwo = Annotated[int, Field(ge=2)]


def _sketch_fits(*, sketch_size: int, max_products: int, **_: object) -> None:
    if max_products < 2 * sketch_size + 2:
        raise ValueError(f"max_products must be at least 2 sketch_size + 2; found {max_products}")


@measurement_pass("hessian_trace_samples", needs=("loss_surface",), check=_sketch_fits)
def hessian_trace_samples(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    sketch_size: NonNegativeInt = 10,
    max_relative_error: PositiveFloat = 0.05,
    max_products: PositiveInt = 200,
) -> TraceEstimate:
    """The trace by Hutch++.

    Args:
        observers, seed, surface: the seed is that of sketch and samples; observers are not used.
        sketch_size: directions of the Hessian's range that are taken out and traced exactly.
        max_relative_error: stop once the standard error is at most this share of the trace.
        max_products: most Hessian-vector products.
    """
    return trace(
        surface.hessian,
        seed=seed,
        sketch_size=sketch_size,
        max_relative_error=max_relative_error,
        max_products=max_products,
    )


@measurement_pass("extreme_eigenvalues", needs=("loss_surface",))
def hessian_ends(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    tolerance: PositiveFloat = 1e-3,
    max_iterations: PositiveInt = 100,
) -> ExtremeEigenvalues:
    """Both ends of the spectrum from one Lanczos run.

    Args:
        observers, seed, surface: the seed is that of the start vector; observers are not used.
        tolerance: relative accuracy asked of the eigenvalues.
        max_iterations: most restarts of the iteration.
    """
    return extreme_eigenvalues(
        surface.hessian, seed=seed, tolerance=tolerance, max_iterations=max_iterations
    )


@measurement_pass("lanczos_quadrature", needs=("loss_surface",))
def lanczos_quadrature(
    observers: Mapping[str, Observer],
    seed: int,
    surface: LossSurface,
    *,
    num_probes: AtLeastTwo = 8,
    max_probes: AtLeastTwo = 32,
    max_relative_error: PositiveFloat = 0.05,
    num_steps: AtLeastTwo = 40,
) -> SpectralDensity:
    """Nodes and weights of the spectral measures of random vectors.

    Args:
        observers, seed, surface: the seed is that of the start vectors; observers are not used.
        num_probes: random start vectors drawn first.
        max_probes: most start vectors, where the mean is not accurate with the first.
        max_relative_error: stop once the mean's standard error is at most this share of it.
        num_steps: Lanczos steps from each.
    """
    return spectral_density(
        surface.hessian,
        seed=seed,
        num_probes=num_probes,
        max_probes=max_probes,
        max_relative_error=max_relative_error,
        num_steps=num_steps,
    )
