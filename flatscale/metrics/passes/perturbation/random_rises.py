"""How much the loss rises when the weights are perturbed at random.

In antithetic pairs (+z, -z), which cancel the first-order term, or, in large networks where the
gradient explains that term and all else that is odd, by single perturbations less what it says.
Points that share a perturbation are strongly correlated, so layers are perturbed anew, or with
signs flipped anew, for every point through their outputs, and groups of points have a perturbation
each of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.passes.perturbation.loss_rises import LossRises
from flatscale.metrics.passes.perturbation.perturbed_losses import (
    drop_gradients,
    most_gradients,
    parameter_counts,
    perturbed_losses,
    unperturbed_losses,
)
from flatscale.metrics.passes.perturbation.rise_rounds import (
    FEWEST_EVALUATIONS,
    Perturbed,
    Rounds,
    Stream,
)
from flatscale.metrics.probe.observers import Observer, required
from flatscale.metrics.probe.rounding import Precision
from flatscale.metrics.registration import measurement_pass

AtLeastFour = Annotated[int, Field(ge=4)]
_PARAMETERS_PER_POINT = 100_000
_POINTS_PER_GROUP = 25
_FEWEST_GROUPS = 4
_FEWEST_GRADIENTS = 8
"""Points whose gradients have to fit at once: fewer would draw much for every evaluation."""


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
        max_evaluations: most perturbed evaluations per point, two a pair; beside them stand the
            unperturbed one and, in large networks, a gradient that counts as three.
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
    observer = required(observers, "probe")
    rounds = _rounds(observer, seed, draws, points_per_perturbation, precision)
    with _gradients_dropped(observer):
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
    observer = required(observers, "probe")
    rounds = _rounds(observer, seed, draws, points_per_perturbation, precision)
    with _gradients_dropped(observer):
        return rounds.until_accurate(max_relative_error, max_evaluations // 2)


@contextmanager
def _gradients_dropped(observer: Observer) -> Iterator[None]:
    """Afterwards no shard keeps gradients of its points."""
    try:
        yield
    finally:
        observer.total(drop_gradients)


def _rounds(
    observer: Observer,
    seed: int,
    draws: Mapping[str, Any],
    asked_group: int | None,
    precision: Precision,
) -> Rounds:
    """Rounds of `perturbed_losses`, whose options `draws` holds."""
    count, group = observer.num_points, _group_size(observer, asked_group)
    held = observer.once(most_gradients)
    controlled = held >= max(_FEWEST_GRADIENTS, asked_group or 0)
    if controlled:
        group = min(group, held)
    # singles are many rounds: their errors need no more groups than gradients allow
    of_singles = asked_group or -(-count // -(-count // max(1, min(held, _POINTS_PER_GROUP))))
    sizes: dict[Stream, int] = {"pairs": group, "corrections": group, "singles": of_singles}
    seeds: dict[Stream, int] = {
        "pairs": seed,
        "corrections": draw_seed(seed, 2),
        "singles": draw_seed(seed, 3),
    }
    # a few points' slopes tell whether those of all are worth it
    sloped = {"pairs": group, "corrections": 0, "singles": count}
    base = observer.gather(unperturbed_losses)["loss"]

    def draw(stream: Stream, precision: Precision, first: int, last: int) -> Perturbed:
        found = observer.gather(
            perturbed_losses,
            seed=seeds[stream],
            rounds=(first, last),
            signs=(1,) if stream == "singles" else (1, -1),
            group=sizes[stream],
            precision=precision,
            sloped=sloped[stream] if controlled else 0,
            **draws,
        )
        return Perturbed(rises=found["losses"] - base[:, None, None], slopes=found["slopes"])

    groups = {stream: np.arange(count) // size for stream, size in sizes.items()}
    return Rounds(draw, precision, draws["rho"], groups)


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
