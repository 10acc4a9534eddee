"""How much the loss rises when the weights are perturbed at random.

Always in antithetic pairs (+z, -z), which cancels the first-order term. Points that share a
perturbation are strongly correlated, so layers are perturbed anew, or with signs flipped anew, for
every point through their outputs, and groups of points have a perturbation each of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.estimators.accurate_draws import (
    MeanOfDraws,
    as_many_as_needed,
    draw_until_accurate,
    widening,
)
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.passes.perturbation.perturbed_network import (
    PerturbedNetwork,
    perturbed_network,
)
from flatscale.metrics.probe.byte_limits import DRAWN_ROWS
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

AtLeastFour = Annotated[int, Field(ge=4)]
_DEGREES_OF_FREEDOM = 12
"""Fewest, of groups times rounds less one, that a standard error is taken from."""
_FEWEST_RISES = 60
"""Fewest rises, points times rounds: theirs are skewed, their mean is to be nearly normal."""
_PARAMETERS_PER_POINT = 100_000
_POINTS_PER_GROUP = 25
_FEWEST_GROUPS = 4


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

    @cached_property
    def mean(self) -> MeanOfDraws:
        """Over points and rounds, with its standard error over perturbations.

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
        return MeanOfDraws(value=float(rises.mean()), std_error=float(error))

    @property
    def relative_error(self) -> float:
        return self.mean.relative_error


@measurement_pass("adaptive_perturbation")
def adaptive_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: AtLeastFour = 400,
    points_per_perturbation: PositiveInt | None = None,
) -> LossRises:
    """Rises of the loss at theta + rho |theta| z, in rounds until their mean is accurate.

    Args:
        observers: the point sets; the probe's is used.
        seed: of the perturbations.
        rho: standard deviation of the perturbation, relative to |theta|.
        max_relative_error: stop once the standard error is at most this share of the estimate.
        max_evaluations: most network evaluations per point, two a pair.
        points_per_perturbation: points that share a perturbation of what is not perturbed anew for
            every point: large convolutions and token-wise layers, up to signs, and parameters
            outside known layers; None balances the cost of drawing one against the points'
            correlation.
    """
    draws = {"rho": rho, "adaptive": True, "seed": seed}
    most = max_evaluations // 2
    return _rises(observers, draws, points_per_perturbation, max_relative_error, most)


@measurement_pass("average_perturbation")
def average_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: AtLeastFour = 400,
    points_per_perturbation: PositiveInt | None = None,
) -> LossRises:
    """Rises of the loss at theta + rho z; options as those of `adaptive_perturbation`."""
    draws = {"rho": rho, "adaptive": False, "seed": seed}
    most = max_evaluations // 2
    return _rises(observers, draws, points_per_perturbation, max_relative_error, most)


def parameter_counts(shard: Shard) -> tuple[int, int]:
    """Parameters shifted in the network itself, and weights shared up to signs."""
    network = perturbed_network(shard, adaptive=True)
    shifted = sum(p.numel() for p in network.parameters.values())
    return shifted, sum(weight.numel() for weight in network.shared_weights.values())


def paired_rises(
    shard: Shard, *, seed: int, rounds: tuple[int, int], rho: float, adaptive: bool, group: int
) -> Arrays:
    """(loss(+z) + loss(-z)) / 2 - loss of every point, for the rounds [first, last).

    Point i of the set belongs to group i // group, whose points share the z drawn from (seed,
    round, group); what can be perturbed anew for every point is.
    """
    network = perturbed_network(shard, adaptive=adaptive)
    shares = bool(network.parameters or network.shared_weights)
    groups = shard.indices // group if shares else np.zeros(shard.num_points, dtype=int)
    rises = np.empty((shard.num_points, rounds[1] - rounds[0]))

    def losses(part: slice) -> Arrays:
        with torch.no_grad():
            found = shard.losses(shard.model(shard.x[part]), shard.y[part])
        return {"loss": found.double().cpu().numpy()}

    base = shard.rows(losses)["loss"]
    for g in np.unique(groups):
        at = np.flatnonzero(groups == g)
        for column, number in enumerate(range(*rounds)):
            drawn = network.draw_group(draw_seed(seed, number, 0, int(g)))
            pairs = _paired_losses(shard, network, drawn, at, rho, (seed, number))
            rises[at, column] = pairs - base[at]
    return {"rises": rises}


def _rises(
    observers: Mapping[str, Observer],
    draws: Mapping[str, Any],
    asked_group: int | None,
    max_relative_error: float,
    most: int,
) -> LossRises:
    """Rounds of `paired_rises`, whose other arguments `draws` holds, until accurate."""
    observer = required(observers, "probe")
    group = _group_size(observer, asked_group)
    rho, groups = draws["rho"], np.arange(observer.num_points) // group

    def draw(start: int, stop: int) -> list[np.ndarray]:
        found = observer.gather(paired_rises, rounds=(start, stop), group=group, **draws)
        return list(found["rises"].T)

    def estimate(rounds: Sequence[np.ndarray]) -> LossRises:
        found = LossRises(rho=rho, rises=np.stack(rounds, axis=1), groups=groups, converged=False)
        if not found.kept.any():
            raise MetricError(
                "the loss, or the loss under perturbation, is not finite at any point"
            )
        return found

    # enough rounds first that their spread is known: by degrees of freedom and by rises
    first = 1 + math.ceil(_DEGREES_OF_FREEDOM / (groups[-1] + 1))
    drawn = draw_until_accurate(
        draw,
        estimate,
        first=min(max(first, math.ceil(_FEWEST_RISES / observer.num_points)), most),
        most=most,
        max_relative_error=max_relative_error,
        schedule=as_many_as_needed,
    )
    return replace(drawn.estimate, converged=drawn.converged)


def _group_size(observer: Observer, asked: int | None) -> int:
    """Points that share a perturbation."""
    moved, flipped = observer.once(parameter_counts)
    if moved + flipped == 0:
        return 1
    if asked is not None:
        return asked
    most = max(1, min(_POINTS_PER_GROUP, observer.num_points // _FEWEST_GROUPS))
    if moved == 0:
        return most
    return min(most, max(1, round((moved + flipped) / _PARAMETERS_PER_POINT)))


def _paired_losses(
    shard: Shard,
    network: PerturbedNetwork,
    group: Mapping[str, Tensor],
    at: np.ndarray,
    rho: float,
    draw: tuple[int, int],
) -> np.ndarray:
    """Mean loss of +z and -z, of the points at these places of the shard."""

    def compute(part: slice) -> np.ndarray:
        members = torch.from_numpy(at[part]).to(shard.x.device)
        rows = network.draw_points(*draw, shard.indices[at[part]], shard.x)
        x, y = shard.x[members], shard.y[members]
        losses = np.zeros(len(members))
        with torch.no_grad():
            for step in (rho, -rho):
                logits = network.logits(x, group, rows, step)
                losses += shard.losses(logits, y).double().cpu().numpy()
        return losses / 2

    at_most = max(1, int(DRAWN_ROWS / (4 * max(1, network.width))))
    return np.concatenate(list(shard.batch.run(len(at), compute, at_most)))
