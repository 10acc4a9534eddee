"""Which points a layer tells apart when its units are cut into bins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from flatscale.metrics.passes.predictions import class_labels, targets_are_classes
from flatscale.metrics.probe.layer_calls import LINEAR_LAYERS, points_at_once, trace_calls
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

OUTPUTS = "outputs"
_BYTES_AT_ONCE = 2**28


@dataclass(frozen=True, kw_only=True)
class ActivationBins:
    """A code for every point and layer; points with the same code lie in the same bins.

    Attributes:
        layers: codes (n,) of what each linear layer after the first reads, by its name, in forward
            order, then of the outputs.
        targets: codes (n,) of the targets.
        finite: whether everything about a point is finite (n,).
    """

    layers: Mapping[str, NDArray[np.int64]]
    targets: NDArray[np.int64]
    finite: NDArray[np.bool_]


def check_range(*, num_bins: int, low: float | None, high: float | None) -> None:
    """Raise ValueError unless both ends of the bins are given, in order, or none is."""
    if (low is None) != (high is None):
        raise ValueError(f"low and high go together; found low {low} and high {high}")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"low must be below high; found low {low} and high {high}")


@measurement_pass("activation_bins", check=check_range)
def activation_bins(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    num_bins: Annotated[int, Field(ge=2, le=65536)] = 30,
    low: float | None = None,
    high: float | None = None,
) -> ActivationBins:
    """Every unit's values cut into bins of equal width, and the bins of all units of a layer.

    Args:
        observers: the point sets.
        seed: not used.
        num_bins: bins of a unit.
        low, high: where the first bin begins and the last ends (values beyond are in these); by
            default the smallest and the largest value of the layer over all points and units.
    """
    observer = required(observers, "train")
    names = observer.once(read_names)
    ends = observer.gather(activation_ends)
    answers = observer.gather(targets_of)["targets"].reshape(observer.num_points, -1)
    finite = np.isfinite(ends["low"] + ends["high"]).all(axis=1) & np.isfinite(answers).all(axis=1)
    lows = np.min(ends["low"], axis=0, where=finite[:, None], initial=np.inf)
    highs = np.max(ends["high"], axis=0, where=finite[:, None], initial=-np.inf)
    if low is not None and high is not None:
        lows, highs = np.full_like(lows, low), np.full_like(highs, high)
    codes = observer.gather(codes_of_bins, lows=lows, highs=highs, num_bins=num_bins)["codes"]
    if not (answers == np.round(answers)).all():
        kept = answers[finite]
        answers = _bins(answers, kept.min(initial=0.0), kept.max(initial=0.0), num_bins)
    return ActivationBins(
        layers=dict(zip(names, codes.T, strict=True)),
        targets=np.unique(answers, axis=0, return_inverse=True)[1].reshape(-1),
        finite=finite,
    )


def read_names(shard: Shard) -> tuple[str, ...]:
    """The layers whose reading has codes, and the outputs."""
    return tuple(_reads(shard, slice(0, 1)))


def targets_of(shard: Shard) -> Arrays:
    """Classes (B, 1), or the numbers of a regression (B, N)."""
    y = shard.y
    found = class_labels(y) if targets_are_classes(y).all() else y
    return {"targets": found.reshape(len(y), -1).double().cpu().numpy()}


def activation_ends(shard: Shard) -> Arrays:
    """Smallest and largest value of each point in each layer (B, layers)."""

    def compute(points: slice) -> Arrays:
        reads = [read.double() for read in _reads(shard, points).values()]
        return {
            "low": torch.stack([read.amin(dim=1) for read in reads], dim=1).cpu().numpy(),
            "high": torch.stack([read.amax(dim=1) for read in reads], dim=1).cpu().numpy(),
        }

    return shard.rows(compute, _at_once(shard))


def codes_of_bins(shard: Shard, *, lows: np.ndarray, highs: np.ndarray, num_bins: int) -> Arrays:
    """A number for the bins of all units of a layer (B, layers): a hash of 64 bits."""

    def compute(points: slice) -> Arrays:
        columns = [
            [_hash(row) for row in _bins(read.double().cpu().numpy(), low, high, num_bins)]
            for read, low, high in zip(_reads(shard, points).values(), lows, highs, strict=True)
        ]
        return {"codes": np.array(columns, dtype=np.int64).T}

    return shard.rows(compute, _at_once(shard))


def _bins(values: np.ndarray, low: float, high: float, num_bins: int) -> np.ndarray:
    if not low < high:
        return np.zeros(values.shape, dtype=np.uint16)
    places = np.floor(np.nan_to_num(values - low) / (high - low) * num_bins)
    return np.clip(places, 0, num_bins - 1).astype(np.uint16)


def _hash(row: np.ndarray) -> int:
    digest = hashlib.blake2b(row.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _at_once(shard: Shard) -> int:
    calls, _ = trace_calls(shard)
    floats = sum(call.x.numel() for call in calls)
    return points_at_once(calls, _BYTES_AT_ONCE, 8.0 * floats)


def _reads(shard: Shard, points: slice) -> dict[str, Tensor]:
    """What each linear layer after the first reads (B, d), and the outputs (B, N).

    Several layers that read the same tensor are the first of them; what the first layer reads is
    the input itself.
    """
    with torch.no_grad(), _recorded(shard.model) as found:
        outputs = shard.outputs(shard.x[points])
    first = next(iter(found.values()), None)
    reads: dict[str, Tensor] = {}
    last = first
    for name, x in found.items():
        if x is not last:
            reads[name] = x.reshape(len(outputs), -1)
            last = x
    return {**reads, OUTPUTS: outputs}


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """A mapping that fills with the input of each linear layer's uses, in forward order."""
    found: dict[str, Tensor] = {}
    uses: dict[str, int] = {}

    def hook(name: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            uses[name] = uses.get(name, 0) + 1
            found[name if uses[name] == 1 else f"{name}@{uses[name]}"] = args[0]

        return before

    linear = [(n or "model", m) for n, m in model.named_modules() if isinstance(m, LINEAR_LAYERS)]
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linear]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
