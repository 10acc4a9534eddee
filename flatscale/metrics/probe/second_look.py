"""A second look at some points, in another batch: whether the network is a function of the point.

Every measure here is one of f(x) for a single x. BatchNorm without running statistics makes f
depend on the other points of the batch, dropout that stays on makes it depend on chance: both are
measured without an error, and wrongly.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.probe.observers import Shard

_POINTS = 4
_TOLERANCE = 1e-3
"""Of the largest output; rounding in batches of one size stays orders of magnitude below it."""


def network_notes(shard: Shard) -> tuple[str, ...]:
    """What every measurement of this network must say; nothing of one that cannot be run."""
    notes = ["half-precision weights were measured in float32 arithmetic"] if shard.widened else []
    with suppress(Exception):  # what the network raises, each metric that meets it says itself
        notes.append(_no_function_of_the_point(shard))
    return tuple(note for note in notes if note)


def refuse_misfit(shard: Shard, name: str) -> None:
    """Refuse points that the network does not take; other errors of its own are its metrics'.

    Args:
        shard: the network and the points.
        name: of the point set.

    Raises:
        MetricError: names the shape of the inputs and what torch says of it.
    """
    try:
        with torch.no_grad():
            shard.model(shard.x[:_POINTS])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        said = str(error).strip().split("\n")[0]
        words = ("shape", "size", "channel", "dim", "dtype", "scalar type", "input type", "indices")
        if not any(word in said.lower() for word in words):
            return
        raise MetricError(
            f"the network does not take the inputs of the {name} set, {_described(shard.x)}: {said}"
        ) from None


def _no_function_of_the_point(shard: Shard) -> str:
    """Why values of this network depend on more than the point; empty where they do not."""
    rows = shard.x[:_POINTS]
    kept = (len(rows) + 1) // 2
    others = torch.cat([rows[:kept], rows[:1].expand_as(rows[kept:])])
    with torch.no_grad():
        first, again, elsewhere = (shard.logits(x) for x in (rows, rows, others))
    if (moved := _difference(first, again)) > _TOLERANCE:
        return (
            "the network draws random numbers in eval mode (dropout that stays on?): its outputs "
            f"for the same points differ by {moved:.0%} from one call to the next, and so do the "
            "functions that are measured"
        )
    if (moved := _difference(first[:kept], elsewhere[:kept])) > _TOLERANCE:
        return (
            "the network is no function of the point alone (BatchNorm without running statistics?)"
            f": its outputs differ by {moved:.0%} with the other points of the batch, and values "
            "depend on how points are batched"
        )
    return ""


def _difference(first: Tensor, second: Tensor) -> float:
    """The largest difference relative to the largest output; 0 where they are not finite."""
    found = ((first - second).abs().max() / first.abs().max().clamp_min(1e-30)).item()
    return found if found == found else 0.0


def _described(x: Tensor) -> str:
    return f"{x.shape[0]} points of shape {tuple(x.shape[1:])} and type {x.dtype}"
