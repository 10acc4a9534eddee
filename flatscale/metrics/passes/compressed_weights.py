"""How far a network's weights can be compressed before its test loss rises: three ways.

Weights are the real parameters with two axes or more; biases and norms stay as they are. A way of
compression has levels 0 (none), 1, ..., top. The largest level at which the mean loss rises by at
most the tolerance is sought by bisection, which assumes that the loss does not fall again as the
level rises; where it does, a higher level may be within the tolerance, too. Bits are few enough to
be gone through from the top, which assumes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.probe.parameters import call_with, float_parameters
from flatscale.metrics.registration import measurement_pass

Floats = NDArray[np.float64]
_DRAWS = 200
_MICROBATCH = 512
_LARGEST = 1e30
"""Stands for a loss that is not finite: it may be multiplied by 0."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """The largest level within the tolerance.

    Attributes:
        level: that level.
        top: the highest level there is.
        draws: levels, not rounded, of resampled test points; the mean rise over points is
            interpolated between the levels looked at.
        rises: level looked at -> rise of the mean loss.
        lost: points whose loss is not finite without compression (n,).
    """

    level: int
    top: int
    draws: Floats
    rises: Mapping[int, float]
    lost: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LayerRanks:
    """Of every layer its full rank and the lowest rank within the tolerance, it alone cut."""

    full: Mapping[str, int]
    cut: Mapping[str, Compression]


@measurement_pass("pruned_weights")
def pruned_weights(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    tolerance: PositiveFloat = 0.01,
    num_levels: PositiveInt = 100,
) -> Compression:
    """Level k: the share k / num_levels of all weights that is smallest in size becomes zero.

    Args:
        observers: the point sets.
        seed: of the resampled points.
        tolerance: largest rise of the mean test loss allowed.
        num_levels: of the share.
    """
    search = _Search(observers, seed, tolerance)
    return search.largest(num_levels, lambda k: {"prune": k / num_levels})


@measurement_pass("quantized_weights")
def quantized_weights(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    tolerance: PositiveFloat = 0.01,
    max_bits: Annotated[int, Field(ge=2, le=23)] = 16,
) -> Compression:
    """Level k: max_bits + 1 − k bits, down to two.

    Args:
        observers: the point sets.
        seed: of the resampled points.
        tolerance: largest rise of the mean test loss allowed.
        max_bits: most bits tried.
    """
    search = _Search(observers, seed, tolerance)
    return search.largest(max_bits - 1, lambda k: {"bits": max_bits + 1 - k}, each=True)


@measurement_pass("truncated_layers")
def truncated_layers(
    observers: Mapping[str, Observer], seed: int, *, tolerance: PositiveFloat = 0.01
) -> LayerRanks:
    """Level k of a layer: its rank is k below full, the smallest singular values becoming zero.

    Args:
        observers: the point sets.
        seed: of the resampled points.
        tolerance: largest rise of the mean test loss allowed, when this layer alone is cut.
    """
    search = _Search(observers, seed, tolerance)
    full = required(observers, "test").once(full_ranks)

    def cut(name: str) -> Compression:
        return search.largest(full[name], lambda k: {"rank": full[name] - k, "layer": name})

    return LayerRanks(full=full, cut={name: cut(name) for name in full})


class _Search:
    """A search over levels of compression, every level's losses kept for resampling."""

    def __init__(self, observers: Mapping[str, Observer], seed: int, tolerance: float) -> None:
        self._test = required(observers, "test")
        self._tolerance = tolerance
        plain = self._test.gather(compressed_losses)["loss"]
        self._lost = ~np.isfinite(plain)
        self._plain = plain[~self._lost]
        if not len(self._plain):
            raise MetricError("the loss of no test point is finite")
        if not self._test.once(full_ranks):
            raise MetricError("the network has no weights (real parameters with two or more axes)")
        n = len(self._plain)
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS) / n

    def largest(
        self, top: int, how: Callable[[int], Mapping[str, object]], *, each: bool = False
    ) -> Compression:
        """The largest level within the tolerance; `how` says what a level does to the weights."""
        rises: dict[int, Floats] = {0: np.zeros(len(self._plain))}

        def within(level: int) -> bool:
            found = self._test.gather(compressed_losses, **how(level))["loss"][~self._lost]
            rises[level] = np.nan_to_num(found - self._plain, nan=_LARGEST, posinf=_LARGEST)
            return bool(rises[level].mean() <= self._tolerance)

        if each:
            low = next((level for level in range(top, 0, -1) if within(level)), 0)
        else:
            low, high = (top, top) if within(top) else (0, top)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if within(middle) else (low, middle)
        levels = sorted(rises)
        means = self._weights @ np.stack([rises[level] for level in levels], axis=1)
        return Compression(
            level=low,
            top=top,
            draws=crossings(np.array(levels, dtype=float), means, self._tolerance),
            rises={level: float(rises[level].mean()) for level in levels},
            lost=self._lost,
        )


def crossings(levels: Floats, rises: Floats, tolerance: float) -> Floats:
    """Where rises (draws, levels), made nondecreasing, reach the tolerance, linearly in between.

    The first level's rise is at most the tolerance; the last level is the answer where none
    exceeds it.
    """
    rises = np.maximum.accumulate(rises, axis=1)
    exceeds = rises > tolerance
    found = np.full(len(rises), levels[-1])
    rows = np.flatnonzero(exceeds.any(axis=1))
    after = exceeds[rows].argmax(axis=1)
    below, above = rises[rows, after - 1], rises[rows, after]
    start, end = levels[after - 1], levels[after]
    found[rows] = start + (end - start) * (tolerance - below) / (above - below)
    return found


def compressed_losses(
    shard: Shard,
    *,
    prune: float = 0.0,
    bits: int | None = None,
    rank: int | None = None,
    layer: str = "",
) -> Arrays:
    """Loss of every point with compressed weights."""
    weights = weights_of(shard.model)
    values: dict[str, Tensor] = {}
    if prune:
        values = prune_smallest(weights, prune)
    elif bits is not None:
        values = {name: quantize(weight, bits) for name, weight in weights.items()}
    elif rank is not None:
        values = {layer: truncate(weights[layer], rank)}

    def compute(points: slice) -> Arrays:
        with torch.no_grad():
            logits = call_with(shard.model, values, shard.x[points])
            return {"loss": shard.losses(logits, shard.y[points]).double().cpu().numpy()}

    return shard.rows(compute, _MICROBATCH)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are compressed, by name."""
    return {n: p.detach() for n, p in float_parameters(model).items() if p.ndim > 1 and p.numel()}


def full_ranks(shard: Shard) -> dict[str, int]:
    """Of every weight, as a matrix of its first axis by the others, the smaller side."""
    return {n: min(w.shape[0], w[0].numel()) for n, w in weights_of(shard.model).items()}


def prune_smallest(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """At least that share of all weights together, the smallest, set to zero; ties by place."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    count = math.ceil(share * len(sizes) - 1e-9)
    smallest = torch.argsort(sizes, stable=True)[:count]
    kept = torch.ones_like(sizes)
    kept[smallest] = 0
    parts = kept.split([weight.numel() for weight in weights.values()])
    both = zip(weights.items(), parts, strict=True)
    return {name: weight * part.reshape(weight.shape) for (name, weight), part in both}


def quantize(weight: Tensor, bits: int) -> Tensor:
    """Rounded to step (−q..q), q = 2^(bits−1) − 1, step = max |w| / q: symmetric, zero kept."""
    limit = weight.abs().max()
    if limit == 0:
        return weight
    step = limit / (2 ** (bits - 1) - 1)
    return torch.round(weight / step) * step


def truncate(weight: Tensor, rank: int) -> Tensor:
    """The nearest matrix of that rank (Eckart and Young), in the weight's shape."""
    matrix = weight.reshape(len(weight), -1).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    cut = (left[:, :rank] * values[:rank]) @ right[:rank]
    return cut.to(weight.dtype).reshape(weight.shape)
