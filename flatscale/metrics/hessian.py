"""The Hessian of the loss in theta: extreme eigenvalues, trace, spectral density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes import required
from flatscale.metrics.probe import Observer
from flatscale.metrics.registry import measurement_pass, metric
from flatscale.metrics.theta import LossSurface, loss_surface

_DENSE = 24
"""Up to this many parameters the Hessian is assembled whole."""


@dataclass(frozen=True, kw_only=True)
class EigenvalueOptions:
    """Options of the Lanczos run for the extreme eigenvalues.

    Attributes:
        tolerance: relative accuracy asked of the eigenvalues.
        max_iterations: most restarts of the iteration.
    """

    tolerance: float = 1e-3
    max_iterations: int = 100

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive; found {self.tolerance}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1; found {self.max_iterations}")


@dataclass(frozen=True, kw_only=True)
class ExtremeEigenvalues:
    """The two ends of the Hessian's spectrum.

    Attributes:
        top, bottom: the eigenvalues.
        top_residual, bottom_residual: ||H v - lambda v|| of their unit eigenvectors.
        converged: whether both reached the tolerance.
        num_evaluations: per point: a Hessian-vector product is a forward and three backwards' work.
        num_points: points of the loss.
        notes: what measurements must say.
    """

    top: float
    bottom: float
    top_residual: float
    bottom_residual: float
    converged: bool
    num_evaluations: int
    num_points: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Options of the trace estimate (Hutch++).

    Attributes:
        sketch_size: directions of the Hessian's range that are taken out and traced exactly.
        max_relative_error: stop once the standard error is at most this share of the trace.
        max_products: most Hessian-vector products.
    """

    sketch_size: int = 10
    max_relative_error: float = 0.05
    max_products: int = 200

    def __post_init__(self) -> None:
        if self.sketch_size < 0:
            raise ValueError(f"sketch_size must not be negative; found {self.sketch_size}")
        if not self.max_relative_error > 0:
            raise ValueError(
                f"max_relative_error must be positive; found {self.max_relative_error}"
            )
        if self.max_products < 2 * self.sketch_size + 2:
            raise ValueError(
                f"max_products must be at least 2 sketch_size + 2; found {self.max_products}"
            )


@dataclass(frozen=True, kw_only=True)
class DensityOptions:
    """Options of the spectral density.

    Attributes:
        num_probes: random start vectors.
        num_steps: Lanczos steps from each.
        num_bins: points of the grid.
        relative_width: the broadening's standard deviation as a share of the spectrum's range.
    """

    num_probes: int = 8
    num_steps: int = 40
    num_bins: int = 200
    relative_width: float = 0.01

    def __post_init__(self) -> None:
        if self.num_probes < 2 or self.num_steps < 2 or self.num_bins < 2:
            raise ValueError("num_probes, num_steps and num_bins must be at least 2")
        if not self.relative_width > 0:
            raise ValueError(f"relative_width must be positive; found {self.relative_width}")


@measurement_pass("extreme_eigenvalues", options=EigenvalueOptions)
def extreme_eigenvalues(
    observers: Mapping[str, Observer], options: EigenvalueOptions, seed: int
) -> ExtremeEigenvalues:
    """Both ends of the Hessian's spectrum from one Lanczos run (ARPACK, both-ends mode)."""
    surface = loss_surface(required(observers, "probe"))
    size = len(surface.theta)
    if size <= _DENSE:
        values, vectors = np.linalg.eigh(surface.hessian_products(np.eye(size)))
        pairs, products, converged = (values[[0, -1]], vectors[:, [0, -1]]), size, True
    else:
        pairs, products, converged = _both_ends(surface, options, seed)
    values, vectors = pairs
    residuals = np.linalg.norm(
        surface.hessian_products(vectors.T) - values[:, None] * vectors.T, axis=1
    )
    return ExtremeEigenvalues(
        top=float(values[-1]),
        bottom=float(values[0]),
        top_residual=float(residuals[-1]),
        bottom_residual=float(residuals[0]),
        converged=converged,
        num_evaluations=4 * (products + 2),
        num_points=surface.num_points,
        notes=surface.notes,
    )


@measurement_pass("hessian_trace_samples", options=TraceOptions)
def hessian_trace_samples(
    observers: Mapping[str, Observer], options: TraceOptions, seed: int
) -> Measurement:
    """Hutch++ (Meyer et al. 2021): a sketch of the range traced exactly, Hutchinson for rest."""
    surface = loss_surface(required(observers, "probe"))
    size, rng = len(surface.theta), np.random.default_rng(seed)
    sketch = min(options.sketch_size, size)
    basis, exact, spent = np.zeros((size, 0)), 0.0, 0
    if sketch:
        images = surface.hessian_products(rng.choice([-1.0, 1.0], size=(sketch, size)))
        basis = np.linalg.qr(images.T)[0]
        exact = float(np.sum(basis.T * surface.hessian_products(basis.T)))
        spent = 2 * sketch
    samples: list[float] = []
    while True:
        more = min(max(10, len(samples)), options.max_products - spent)
        probes = rng.choice([-1.0, 1.0], size=(more, size))
        probes -= (probes @ basis) @ basis.T
        samples.extend(np.sum(probes * surface.hessian_products(probes), axis=1))
        spent += more
        value = exact + float(np.mean(samples))
        error = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
        converged = error <= options.max_relative_error * abs(value)
        if converged or spent >= options.max_products - 1 or sketch == size:
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
    options=TraceOptions,
)
def hessian_trace(estimate: Measurement, options: TraceOptions) -> Measurement:
    """Trace of the loss's Hessian in the parameters."""
    return estimate


@metric(
    "top_eigenvalue",
    passes=("extreme_eigenvalues",),
    formula="λ_max(∇²_θ mean_i loss_i)",
    group="sharpness",
    value_range="(-inf, inf)",
    options=EigenvalueOptions,
)
def top_eigenvalue(ends: ExtremeEigenvalues, options: EigenvalueOptions) -> Measurement:
    """Largest eigenvalue of the loss's Hessian."""
    return _end("top_eigenvalue", ends, ends.top, (ends.top_residual,))


@metric(
    "bottom_eigenvalue",
    passes=("extreme_eigenvalues",),
    formula="λ_min(∇²_θ mean_i loss_i)",
    group="sharpness",
    value_range="(-inf, inf)",
    options=EigenvalueOptions,
)
def bottom_eigenvalue(ends: ExtremeEigenvalues, options: EigenvalueOptions) -> Measurement:
    """Smallest eigenvalue of the loss's Hessian; negative away from a minimum."""
    return _end("bottom_eigenvalue", ends, ends.bottom, (ends.bottom_residual,))


@metric(
    "eigenvalue_ratio",
    passes=("extreme_eigenvalues",),
    formula="|λ_min| / λ_max",
    group="sharpness",
    options=EigenvalueOptions,
)
def eigenvalue_ratio(ends: ExtremeEigenvalues, options: EigenvalueOptions) -> Measurement:
    """How negative the Hessian's spectrum is, against its top: 0 at a minimum."""
    if ends.top <= 0.0:
        raise MetricError(f"the top eigenvalue is {ends.top:.3g}, not positive: no ratio")
    ratio = abs(ends.bottom) / ends.top
    return _end("eigenvalue_ratio", ends, ratio, (ends.top_residual, ends.bottom_residual))


@measurement_pass("lanczos_quadrature", options=DensityOptions)
def lanczos_quadrature(
    observers: Mapping[str, Observer], options: DensityOptions, seed: int
) -> Measurement:
    """Stochastic Lanczos quadrature: nodes and weights of random vectors' spectral measures."""
    surface = loss_surface(required(observers, "probe"))
    size, rng = len(surface.theta), np.random.default_rng(seed)
    steps = min(options.num_steps, size)
    nodes, weights = [], []
    for _ in range(options.num_probes):
        values, vectors = _tridiagonal_spectrum(surface, rng.standard_normal(size), steps)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    means = np.array([float(v @ w) for v, w in zip(nodes, weights, strict=True)])
    grid, density = _broadened(nodes, weights, options)
    return Measurement(
        name="spectral_density",
        value=float(means.mean()),
        std_error=float(means.std(ddof=1) / np.sqrt(len(means))),
        num_evaluations=4 * steps * options.num_probes,
        num_points=surface.num_points,
        reason="; ".join(surface.notes) or None,
        extras={
            "grid": tuple(float(v) for v in grid),
            "density": tuple(float(v) for v in density),
            "nodes": tuple(float(v) for v in np.concatenate(nodes)),
            "weights": tuple(float(v) for v in np.concatenate(weights) / len(weights)),
        },
    )


@metric(
    "spectral_density",
    passes=("lanczos_quadrature",),
    formula="φ(t) = (1/P) Σ_j δ(t − λ_j); the value is its mean, tr H / P",
    group="sharpness",
    value_range="(-inf, inf)",
    source="stochastic Lanczos quadrature: Ghorbani et al. 2019",
    options=DensityOptions,
)
def spectral_density(estimate: Measurement, options: DensityOptions) -> Measurement:
    """Density of the Hessian's eigenvalues, as a curve in extras (grid, density)."""
    return estimate


def _both_ends(
    surface: LossSurface, options: EigenvalueOptions, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], int, bool]:
    size, products = len(surface.theta), 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return surface.hessian_products(v.reshape(1, -1))[0]

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    try:
        values, vectors = eigsh(
            operator,
            k=2,
            which="BE",
            v0=start,
            tol=options.tolerance,
            maxiter=options.max_iterations,
        )
    except ArpackNoConvergence as error:
        if len(error.eigenvalues) < 2:
            raise MetricError(
                f"Lanczos did not converge in {options.max_iterations} restarts "
                f"({products} Hessian-vector products)"
            ) from error
        return (error.eigenvalues, error.eigenvectors), products, False
    order = np.argsort(values)
    return (values[order], vectors[:, order]), products, True


def _tridiagonal_spectrum(
    surface: LossSurface, start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the Lanczos tridiagonal matrix, fully reorthogonalised."""
    basis = [start / np.linalg.norm(start)]
    diagonal, off = [], []
    for step in range(steps):
        image = surface.hessian_products(basis[-1][None])[0]
        diagonal.append(float(image @ basis[-1]))
        earlier = np.array(basis)
        for _ in range(2):
            image = image - earlier.T @ (earlier @ image)
        length = float(np.linalg.norm(image))
        scale = max(map(abs, diagonal))
        if step == steps - 1 or length <= 1e-6 * scale:
            break
        off.append(length)
        basis.append(image / length)
    return eigh_tridiagonal(np.array(diagonal), np.array(off))


def _broadened(
    nodes: list[np.ndarray], weights: list[np.ndarray], options: DensityOptions
) -> tuple[np.ndarray, np.ndarray]:
    values, shares = np.concatenate(nodes), np.concatenate(weights) / len(weights)
    span = float(np.ptp(values)) or max(abs(float(values[0])), 1.0)
    width = options.relative_width * span
    grid = np.linspace(values.min() - 4 * width, values.max() + 4 * width, options.num_bins)
    bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return grid, bumps @ shares


def _end(
    name: str, ends: ExtremeEigenvalues, value: float, residuals: tuple[float, ...]
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        converged=ends.converged,
        num_evaluations=ends.num_evaluations,
        num_points=ends.num_points,
        extras={"residual_norm": residuals},
    )
