"""How much the loss rises when the weights are perturbed at random.

Always in antithetic pairs (+z, -z), which cancels the first-order term. Points that share a
perturbation are strongly correlated, so layers are perturbed anew, or with signs flipped anew, for
every point through their outputs, and groups of points have a perturbation each of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.passes.perturbation.perturbed_network import (
    PerturbedNetwork,
    perturbed_network,
)
from flatscale.metrics.passes.perturbation.precision_levels import (
    FEWEST_EVALUATIONS,
    LossRises,
    Precision,
    Rounds,
)
from flatscale.metrics.probe.byte_limits import DRAWN_ROWS
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.probe.parameters import float_parameters
from flatscale.metrics.registration import measurement_pass
from flatscale.training.memory import is_out_of_memory

AtLeastFour = Annotated[int, Field(ge=4)]
_PARAMETERS_PER_POINT = 100_000
_POINTS_PER_GROUP = 25
_FEWEST_GROUPS = 4


def enough_evaluations(*, precision: Precision, max_evaluations: int, **_: object) -> None:
    """Refuse a budget that has no room for rounds in two precisions."""
    if precision != "float32" and max_evaluations < FEWEST_EVALUATIONS:
        raise ValueError(
            f"precision {precision} takes max_evaluations of at least {FEWEST_EVALUATIONS}; "
            f"found {max_evaluations}"
        )


@measurement_pass("adaptive_perturbation", check=enough_evaluations)
def adaptive_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: AtLeastFour = 400,
    points_per_perturbation: PositiveInt | None = None,
    precision: Precision = "float32",
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
        precision: of the arithmetic. bfloat16 computes most pairs in it and a few in both, and adds
            the mean of float32 less bfloat16 (multilevel Monte Carlo, Giles 2008): the estimate is
            float32's, whatever the rounding does, and the standard error holds both parts. Quicker
            where processors multiply bfloat16 quickly; the network must be of float32.
    """
    draws = {"rho": rho, "adaptive": True}
    rounds = _rounds(observers, seed, draws, points_per_perturbation, precision)
    return rounds.until_accurate(max_relative_error, max_evaluations // 2)


@measurement_pass("average_perturbation", check=enough_evaluations)
def average_perturbation(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    rho: PositiveFloat = 0.1,
    max_relative_error: PositiveFloat = 0.05,
    max_evaluations: AtLeastFour = 400,
    points_per_perturbation: PositiveInt | None = None,
    precision: Precision = "float32",
) -> LossRises:
    """Rises of the loss at theta + rho z; options as those of `adaptive_perturbation`."""
    draws = {"rho": rho, "adaptive": False}
    rounds = _rounds(observers, seed, draws, points_per_perturbation, precision)
    return rounds.until_accurate(max_relative_error, max_evaluations // 2)


def parameter_counts(shard: Shard) -> tuple[int, int]:
    """Parameters shifted in the network itself, and weights shared up to signs."""
    network = perturbed_network(shard, adaptive=True)
    shifted = sum(p.numel() for p in network.parameters.values())
    return shifted, sum(weight.numel() for weight in network.shared_weights.values())


def paired_rises(
    shard: Shard,
    *,
    seed: int,
    rounds: tuple[int, int],
    rho: float,
    adaptive: bool,
    group: int,
    precision: Precision = "float32",
) -> Arrays:
    """(loss(+z) + loss(-z)) / 2 - loss of every point, for the rounds [first, last).

    The unperturbed loss is float32's in either precision.

    Point i of the set belongs to group i // group, whose points share the z drawn from (seed,
    round, group); what can be perturbed anew for every point is.
    """
    network = perturbed_network(shard, adaptive=adaptive)
    dtype = None if precision == "float32" else _rounded_to(shard, precision)
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
            pairs = _paired_losses(shard, network, drawn, at, rho, (seed, number), dtype)
            rises[at, column] = pairs - base[at]
    return {"rises": rises}


def _rounds(
    observers: Mapping[str, Observer],
    seed: int,
    draws: Mapping[str, Any],
    asked_group: int | None,
    precision: Precision,
) -> Rounds:
    """Rounds of `paired_rises`, whose options `draws` holds."""
    observer = required(observers, "probe")
    group = _group_size(observer, asked_group)
    seeds = (seed, draw_seed(seed, 2))

    def pairs(precision: Precision, corrections: bool, first: int, last: int) -> list[np.ndarray]:
        found = observer.gather(
            paired_rises,
            seed=seeds[corrections],
            rounds=(first, last),
            group=group,
            precision=precision,
            **draws,
        )
        return list(found["rises"].T)

    groups = np.arange(observer.num_points) // group
    return Rounds(pairs, precision, draws["rho"], groups)


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


def _rounded_to(shard: Shard, precision: Precision) -> torch.dtype:
    """The type that a float32 network is rounded to."""
    found = {p.dtype for p in float_parameters(shard.model).values()} - {torch.float32}
    if found:
        raise MetricError(f"precision {precision} takes a network of float32; found {found.pop()}")
    return getattr(torch, precision)


@contextmanager
def _refused(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, an operation that is not known in this type says what to do."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        if dtype is None or is_out_of_memory(error):
            raise
        raise MetricError(
            f"the network cannot be computed in {dtype}: leave `precision` at float32 ({error})"
        ) from error


def _paired_losses(
    shard: Shard,
    network: PerturbedNetwork,
    group: Mapping[str, Tensor],
    at: np.ndarray,
    rho: float,
    draw: tuple[int, int],
    dtype: torch.dtype | None,
) -> np.ndarray:
    """Mean loss of +z and -z, of the points at these places of the shard."""

    def compute(part: slice) -> np.ndarray:
        members = torch.from_numpy(at[part]).to(shard.x.device)
        rows = network.draw_points(*draw, shard.indices[at[part]], shard.x)
        x, y = shard.x[members], shard.y[members]
        losses = np.zeros(len(members))
        with torch.no_grad(), _refused(dtype):
            for step in (rho, -rho):
                logits = network.logits(x, group, rows, step, dtype)
                losses += shard.losses(logits, y).double().cpu().numpy()
        return losses / 2

    at_most = max(1, int(DRAWN_ROWS / (4 * max(1, network.width))))
    return np.concatenate(list(shard.batch.run(len(at), compute, at_most)))
