"""What the Jacobian pass returns: one form, whether Jacobians were held whole or estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from flatscale.measurement import Measurement
from flatscale.metrics.estimators.accurate_draws import share
from flatscale.metrics.probe.point_means import mean_over_points


@dataclass(frozen=True, kw_only=True)
class Found:
    """How values were found.

    Attributes:
        converged: whether iterations and draws reached their tolerance; True where exact.
        num_evaluations: network evaluations per point.
        notes: what a measurement of the values must say.
    """

    converged: bool = True
    num_evaluations: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Leading(Found):
    """The r largest singular values of J_i, or of J_i^l at every linear layer.

    Attributes:
        sigma: descending (n, r) or (n, L, r); NaN at points that are not finite.
        floor: a value of at most this times sigma_1 is the arithmetic's noise: zero.
        numerical_rank: how many of all N values are not zero (n,) or (n, L); None where only the
            leading ones are known.
        tolerance: relative accuracy of sigma, from below.
        layer_names: the layers in forward order (L); none for J_i itself.
        reads_input: whether the first layer reads the network's input.
    """

    sigma: np.ndarray
    floor: float
    numerical_rank: np.ndarray | None
    tolerance: float
    layer_names: tuple[str, ...] = ()
    reads_input: bool = True

    @property
    def rank(self) -> int:
        """r."""
        return int(self.sigma.shape[-1])

    def log_volumes(self) -> np.ndarray:
        """sum_{k<=r} log sigma_k (n,) or (n, L); -inf where the numerical rank is below r."""
        unknown = np.isnan(self.sigma)
        positive = np.where(unknown, np.nan, np.maximum(self.sigma, np.finfo(float).tiny))
        noise = (self.sigma <= self.floor * self.sigma[..., :1]) & ~unknown
        return np.where(noise, -np.inf, np.log(positive)).sum(axis=-1)


@dataclass(frozen=True, kw_only=True)
class GradientNorms:
    """Squared gradient norms per point (n, ...), or of R rounds of estimates (R, n, ...).

    Attributes:
        delta2: ||delta_i^l||_F^2 (n, L).
        weight2: ||grad_{W_l} f(x_i)||_F^2, weight sharing included (n, L).
        sharpness: over all parameters (n,).
        first_layer: the columns of `FIRST_LAYER` for the input-invariant bound (n, 4).
    """

    delta2: np.ndarray
    weight2: np.ndarray
    sharpness: np.ndarray
    first_layer: np.ndarray

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> GradientNorms:
        """The same change made to every array."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Sums(Found):
    """Sums over outputs, per point (n).

    Attributes:
        frobenius2: tr G_i = ||J_i||_F^2.
        dimensionality: (tr G_i)^2 / tr G_i^2; 0 where the Jacobian vanishes.
        parameter_names: all parameter tensors that the outputs depend on (P).
        parameter_gradient2: sum_k ||grad_p f_k(x_i)||^2 (n, P).
        layer_input_norm2: ||x_i^l||^2 (n, L).
        norms: squared gradient norms by layer.
        first_layer_reads_input: whether x^1 is the network's input.
        finite: points whose outputs and derivatives are all finite.
        rounds: independent unbiased estimates whose mean `norms` is; None where it is exact.
        frobenius_error, sharpness_error: Monte-Carlo standard errors of the means over points of
            frobenius2 and of the squared gradient; None where exact.
    """

    frobenius2: np.ndarray
    dimensionality: np.ndarray
    parameter_names: tuple[str, ...]
    parameter_gradient2: np.ndarray
    layer_input_norm2: np.ndarray
    norms: GradientNorms
    first_layer_reads_input: bool
    finite: np.ndarray
    rounds: GradientNorms | None = None
    frobenius_error: float | None = None
    sharpness_error: float | None = None

    @property
    def relative_error(self) -> float:
        """The larger of the two Monte-Carlo errors, each as a share of its mean; 0 where exact."""
        pairs = (
            (self.frobenius_error, self.frobenius2),
            (self.sharpness_error, self.norms.sharpness),
        )
        return max(share(error or 0.0, values[self.finite].mean()) for error, values in pairs)


@dataclass(frozen=True, kw_only=True)
class AlongInput(Found):
    """values: ||J_i x_i||^2 / d (n)."""

    values: np.ndarray


class Jacobians(Protocol):
    """Spectra and norms of every probe point's Jacobians, one row per point (n), in point order."""

    @property
    def num_evaluations(self) -> int:
        """Network evaluations per point so far, all parts together."""
        ...

    @property
    def squared_norms(self) -> np.ndarray:
        """||J_i||_F^2 = tr J_i J_i^T (n)."""
        ...

    @property
    def input_norm2(self) -> np.ndarray:
        """||x_i||^2 (n)."""
        ...

    @property
    def along_input(self) -> AlongInput:
        """How far the outputs move along the input itself."""
        ...

    @property
    def sums(self) -> Sums:
        """What is summed over outputs."""
        ...

    def leading(self, rank: int | None) -> Leading:
        """The rank largest singular values of J_i; all N for None.

        Raises:
            MetricError: more than the network has outputs, or than can be iterated for.
        """
        ...

    def layer_leading(self, rank: int | None) -> Leading:
        """The rank largest singular values of every J_i^l; all N for None.

        Raises:
            MetricError: as `leading`, or the network has no linear layer.
        """
        ...


def mean_of(
    name: str,
    values: np.ndarray,
    found: Found,
    *,
    extras: Mapping[str, tuple[float, ...]] | None = None,
    draw_error: float | None = None,
    **points: Any,
) -> Measurement:
    """The mean over points, with how the values were found; see `mean_over_points`.

    Args:
        name: the metric.
        values: one per point (n,).
        found: how.
        extras: as there.
        draw_error: Monte-Carlo standard error of the mean, for the extras.
        points: left_out and layers, as there.
    """
    drawn = {} if draw_error is None else {"monte_carlo_std_error": (draw_error,)}
    return mean_over_points(
        name,
        values,
        num_evaluations=found.num_evaluations,
        converged=found.converged,
        extras={**(extras or {}), **drawn},
        note="; ".join(found.notes) or None,
        **points,
    )
