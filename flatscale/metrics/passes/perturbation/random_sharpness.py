"""Sharpness under random perturbations: how much the loss rises when the weights are jittered.

Always in antithetic pairs (+z, -z), which cancels the first-order term. Points that share a
perturbation are strongly correlated, so layers are perturbed anew, or with signs flipped anew, for
every point through their outputs, and groups of points have a perturbation each of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.perturbation.draws import draw_seed, shifted, standard_normal
from flatscale.metrics.passes.perturbation.layer_noise import LayerNoise, layer_noise, noise_added
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Arrays, Observer, Shard
from flatscale.metrics.probe.parameters import call_with, float_parameters
from flatscale.metrics.probe.point_means import left_out_note, widening
from flatscale.metrics.registration import measurement_pass, metric

_DEGREES_OF_FREEDOM = 12
"""Fewest, of groups times rounds less one, that a standard error is taken from."""
_FEWEST_RISES = 60
"""Fewest rises, points times rounds: theirs are skewed, their mean is to be nearly normal."""
_PARAMETERS_PER_POINT = 100_000
_POINTS_PER_GROUP = 25
_FEWEST_GROUPS = 4
_DRAWN_BYTES = 64e6


@dataclass(frozen=True, kw_only=True)
class LossRises:
    """Antithetic rises of the loss, (loss(+z) + loss(-z)) / 2 - loss, per point and round.

    Attributes:
        rho: standard deviation of the perturbation.
        rises: (n, rounds); NaN rows where the unperturbed loss is not finite.
        groups: which points share a perturbation (n,).
        converged: whether the standard error reached its target within the budget.
    """

    rho: float
    rises: np.ndarray
    groups: np.ndarray
    converged: bool

    @property
    def kept(self) -> np.ndarray:
        return np.isfinite(self.rises).all(axis=1)

    def mean_and_error(self) -> tuple[float, float]:
        """The mean over points and rounds, and its standard error over perturbations.

        The points are taken as given. Groups are independent, so the variances of their sums add;
        the error is widened for the degrees of freedom that their sum has (Satterthwaite 1946).
        """
        rises, groups = self.rises[self.kept], self.groups[self.kept]
        rounds = rises.shape[1]
        sums = np.zeros((int(groups.max()) + 1, rounds))
        np.add.at(sums, groups, rises)
        variances = sums.var(axis=1, ddof=1)
        error = np.sqrt(variances.sum() / rounds) / len(rises)
        if error > 0:
            freedom = (rounds - 1) * variances.sum() ** 2 / np.square(variances).sum()
            error *= widening(freedom)
        return float(rises.mean()), float(error)


@measurement_pass("adaptive_perturbation")
def adaptive_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: Annotated[int, Field(ge=4)] = 400,
    points_per_perturbation: PositiveInt | None = None,
) -> LossRises:
    """Rises of the loss at theta + rho |theta| z.

    Options as those of `_rises`.
    """
    return _rises(
        required(observers, "probe"),
        seed,
        adaptive=True,
        rho=rho,
        max_relative_error=max_relative_error,
        max_evaluations=max_evaluations,
        points_per_perturbation=points_per_perturbation,
    )


@measurement_pass("average_perturbation")
def average_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: Annotated[int, Field(ge=4)] = 400,
    points_per_perturbation: PositiveInt | None = None,
) -> LossRises:
    """Rises of the loss at theta + rho z.

    Options as those of `_rises`.
    """
    return _rises(
        required(observers, "probe"),
        seed,
        adaptive=False,
        rho=rho,
        max_relative_error=max_relative_error,
        max_evaluations=max_evaluations,
        points_per_perturbation=points_per_perturbation,
    )


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


def parameter_count(shard: Shard) -> Arrays:
    """Parameters shifted in the network, and weights shared up to signs, once per point."""
    noise = layer_noise(shard, adaptive=True)
    spared = noise.parameters
    sizes = [p.numel() for n, p in float_parameters(shard.model).items() if n not in spared]
    flipped = [weight.numel() for weight in noise.shared().values()]
    count = shard.num_points
    return {"shifted": np.full(count, sum(sizes)), "flipped": np.full(count, sum(flipped))}


def paired_rises(
    shard: Shard, *, seed: int, rounds: tuple[int, int], rho: float, adaptive: bool, group: int
) -> Arrays:
    """(loss(+z) + loss(-z)) / 2 - loss of every point, for the rounds [first, last).

    Point i of the set belongs to group i // group, whose points share the z drawn from (seed,
    round, group); what can be perturbed anew for every point is.
    """
    noise = layer_noise(shard, adaptive=adaptive)
    parameters = {
        name: p.detach()
        for name, p in float_parameters(shard.model).items()
        if name not in noise.parameters
    }
    scale = {name: p.abs() if adaptive else torch.ones_like(p) for name, p in parameters.items()}
    shared = noise.shared()
    drawn = {**parameters, **shared}
    groups = shard.indices // group if drawn else np.zeros(shard.num_points, dtype=int)
    rises = np.empty((shard.num_points, rounds[1] - rounds[0]))
    base = _losses(shard, parameters, np.arange(shard.num_points))
    for g in np.unique(groups):
        at = np.flatnonzero(groups == g)
        for column, number in enumerate(range(*rounds)):
            z = standard_normal(drawn, draw_seed(seed, number, 0, int(g)))
            direction = {name: scale[name] * z[name] for name in parameters}
            noise.directions = {n: w.abs() * z[n] if adaptive else z[n] for n, w in shared.items()}
            moved = {step: shifted(parameters, direction, step) for step in (rho, -rho)}
            pairs = _paired_losses(shard, noise, moved, at, (seed, number))
            rises[at, column] = pairs - base[at]
    return {"rises": rises}


def _rises(
    observer: Observer,
    seed: int,
    *,
    adaptive: bool,
    rho: float,
    max_relative_error: float,
    max_evaluations: int,
    points_per_perturbation: int | None,
) -> LossRises:
    """Rounds of antithetic pairs until the mean rise is accurate.

    Args:
        observer: the model held against the points.
        seed: of the perturbations.
        adaptive: whether z is weighted by |theta|.
        rho: standard deviation of the perturbation (relative to |theta| when adaptive).
        max_relative_error: stop once the standard error is at most this share of the estimate.
        max_evaluations: most network evaluations per point, two a pair.
        points_per_perturbation: points that share a perturbation of what is not perturbed anew for
            every point: large convolutions and token-wise layers, up to signs, and parameters
            outside known layers; None balances the cost of drawing one against the points'
            correlation.
    """
    group = _group_size(observer, points_per_perturbation)
    most = max_evaluations // 2
    groups = np.arange(observer.num_points) // group
    rises = np.empty((observer.num_points, 0))
    first = 1 + math.ceil(_DEGREES_OF_FREEDOM / (groups[-1] + 1))
    target = min(max(first, math.ceil(_FEWEST_RISES / observer.num_points)), most)
    while True:
        done = rises.shape[1]
        more = observer.gather(
            paired_rises,
            seed=seed,
            rounds=(done, target),
            rho=rho,
            adaptive=adaptive,
            group=group,
        )["rises"]
        rises = np.concatenate([rises, more], axis=1)
        found = LossRises(rho=rho, rises=rises, groups=groups, converged=False)
        if not found.kept.any():
            raise MetricError(
                "the loss, or the loss under perturbation, is not finite at any point"
            )
        mean, error = found.mean_and_error()
        if error <= max_relative_error * abs(mean):
            return LossRises(rho=rho, rises=rises, groups=groups, converged=True)
        if target >= most:
            return found
        needed = target * (error / max(max_relative_error * abs(mean), 1e-300)) ** 2
        target = min(most, int(np.clip(np.ceil(1.1 * needed), target + 1, 2 * target)))


def _group_size(observer: Observer, asked: int | None) -> int:
    """Points that share a perturbation."""
    counts = observer.gather(parameter_count)
    moved, flipped = int(counts["shifted"][0]), int(counts["flipped"][0])
    if moved + flipped == 0:
        return 1
    if asked is not None:
        return asked
    most = max(1, min(_POINTS_PER_GROUP, observer.num_points // _FEWEST_GROUPS))
    if moved == 0:
        return most
    return min(most, max(1, round((moved + flipped) / _PARAMETERS_PER_POINT)))


def _measurement(name: str, rises: LossRises) -> Measurement:
    mean, error = rises.mean_and_error()
    lost = ~rises.kept
    return Measurement(
        name=name,
        value=mean / rises.rho**2,
        std_error=error / rises.rho**2,
        converged=rises.converged,
        num_evaluations=1 + 2 * rises.rises.shape[1],
        num_points=int(rises.kept.sum()),
        reason=left_out_note("loss not finite", lost) if lost.any() else None,
    )


def _paired_losses(
    shard: Shard,
    noise: LayerNoise,
    moved: Mapping[float, dict[str, Tensor]],
    at: np.ndarray,
    draw: tuple[int, int],
) -> np.ndarray:
    """Mean loss over the steps of `moved`, of the points at these places of the shard."""

    def compute(part: slice) -> np.ndarray:
        losses = np.zeros(part.stop - part.start)
        noise.draw(*draw, shard.indices[at[part]], shard.x)
        with noise_added(noise):
            for step, parameters in moved.items():
                noise.step = step
                losses += _losses_of(shard, parameters, at[part])
        return losses / len(moved)

    at_most = max(1, int(_DRAWN_BYTES / (4 * max(1, noise.width))))
    return np.concatenate(list(shard.batch.run(len(at), compute, at_most)))


def _losses(shard: Shard, parameters: dict[str, Tensor], at: np.ndarray) -> np.ndarray:
    parts = shard.batch.run(len(at), lambda part: _losses_of(shard, parameters, at[part]))
    return np.concatenate(list(parts))


def _losses_of(shard: Shard, parameters: dict[str, Tensor], members: np.ndarray) -> np.ndarray:
    """Losses of the points at these places of the shard."""
    points = torch.from_numpy(members).to(shard.x.device)
    with torch.no_grad():
        logits = call_with(shard.model, parameters, shard.x[points])
        return shard.losses(logits, shard.y[points]).double().cpu().numpy()
