"""A model held against a point set: the seam between metrics and where the points live.

A pass asks an `Observer` three things: `gather` (one row per point), `total` (arrays summed over
points) and `once` (a fact of the network, not of its points). All take a module-level function of a
`Shard`, so that another implementation can call it in other processes, each holding some points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import ConfigError, MetricError
from flatscale.metrics.probe.microbatch import BatchSize
from flatscale.metrics.probe.restore import held_for_measurement, widened
from flatscale.study.registry import unknown_name
from flatscale.training.losses import PointLoss, point_loss, takes_logits

Arrays = dict[str, np.ndarray]
ShardFunction = Callable[..., Arrays]
Result = TypeVar("Result")

OUTPUT_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda outputs: outputs,
    "sigmoid": torch.sigmoid,
    "softmax": lambda outputs: torch.softmax(outputs, dim=-1),
}
"""From raw network outputs to the f(x) whose geometry is measured."""

_GIVE = {
    "probe": "measure() takes it as `data`",
    "train": "give measure() `train=(x, y)`",
    "test": "give measure() `test=(x, y)`",
    "shifted": "give measure() `shifted=(x, y)`, a study file `data.shifted`",
}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One piece of a point set, held with a model.

    Attributes:
        model: the network, in eval mode while a shard function runs.
        x: inputs (B, ...), on the model's device and of its dtype.
        y: targets (B,) or (B, N).
        indices: the points' places in the whole set (B,), for randomness per point that does not
            depend on the sharding.
        loss: loss per point.
        output_map: identity, sigmoid or softmax.
        batch: the microbatch, shrinking when memory runs out.
        widened: the model's weights are of half precision, and measured in float32.
        kept: what shard functions keep from one call to the next (never results).
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    indices: np.ndarray
    loss: PointLoss
    output_map: str = "identity"
    batch: BatchSize = field(default_factory=BatchSize)
    widened: bool = False
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def num_points(self) -> int:
        return int(self.x.shape[0])

    def without(self, points: tuple[int, ...]) -> Shard:
        """The shard without the points of these indices; possibly empty."""
        if not points:
            return self
        kept = np.flatnonzero(~np.isin(self.indices, points))
        rows = torch.from_numpy(kept).to(self.x.device)
        return replace(self, x=self.x[rows], y=self.y[rows], indices=self.indices[kept])

    def logits(self, x: Tensor) -> Tensor:
        """Raw network outputs (B, N).

        Raises:
            MetricError: the network's output is not (batch, classes).
        """
        return check_logits(self.model(x), x.shape[0])

    def outputs(self, x: Tensor) -> Tensor:
        """f(x) after the output map (B, N)."""
        return self.map_outputs(self.logits(x))

    def map_outputs(self, logits: Any) -> Tensor:
        """The output map of raw outputs, of a model's own output type too."""
        return OUTPUT_MAPS[self.output_map](getattr(logits, "logits", logits))

    def losses(self, logits: Any, y: Tensor) -> Tensor:
        """Loss of each point (B,) from raw outputs; a loss of logits sees no output map.

        Raises:
            MetricError: the outputs are not (batch, classes), or the losses not one per point.
        """
        logits = check_logits(logits, y.shape[0])
        outputs = logits if takes_logits(self.loss) else self.map_outputs(logits)
        losses = self.loss(outputs, y)
        if losses.shape != logits.shape[:1]:
            raise MetricError(
                f"the loss must return one value per point, shape ({logits.shape[0]},); "
                f"found {tuple(losses.shape)}"
            )
        return losses

    def microbatches(
        self, compute: Callable[[slice], Result], at_most: int | None = None
    ) -> Iterator[Result]:
        """compute(slice of points) over the shard, halving the slice when memory runs out."""
        return self.batch.run(self.num_points, compute, at_most)

    def rows(self, compute: Callable[[slice], Arrays], at_most: int | None = None) -> Arrays:
        """Arrays of one row per point, computed in microbatches."""
        parts = list(self.microbatches(compute, at_most))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class Observer(Protocol):
    """A model held against a point set.

    `function(shard, **arguments)` must be importable by reference; its arguments are numpy arrays,
    numbers, strings, tuples or frozen dataclasses.
    """

    @property
    def num_points(self) -> int: ...

    @property
    def content_hash(self) -> str: ...

    def gather(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        """Arrays of one row per point, in point order."""
        ...

    def total(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        """Arrays summed over shards, in a fixed order."""
        ...

    def once(self, function: Callable[..., Result], /, **arguments: Any) -> Result:
        """What the function returns on the shard of the first point: a fact of the network.

        For what every shard would answer alike (names of layers, norms of weights, theta): one
        process computes it. The answer is anything that pickles.
        """
        ...


class LocalObserver:
    """The observer of this process: all points in one shard.

    Args:
        model: any module mapping (B, ...) to (B, N); left as found.
        x: inputs (n, ...).
        y: targets, class indices (n,) or vectors (n, N).
        content_hash: identity of the point set; computed from x and y by default.
        settings: the others that `make_shard` takes.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        content_hash: str | None = None,
        **settings: Any,
    ) -> None:
        self.shard = make_shard(model, x, y, **settings)
        self._content_hash = content_hash
        self._points = (x, y)

    @property
    def num_points(self) -> int:
        return self.shard.num_points

    @property
    def content_hash(self) -> str:
        if self._content_hash is None:
            self._content_hash = points_hash(*self._points)
        return self._content_hash

    def gather(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        part = call_on_shard(self.shard, function, **arguments)
        return merge_points([part], [self.shard.indices])

    def total(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        part = call_on_shard(self.shard, function, **arguments)
        return merge_sums([part], [self.shard.indices])

    def once(self, function: Callable[..., Result], /, **arguments: Any) -> Result:
        return call_on_shard(self.shard, function, **arguments)


def required(observers: Mapping[str, Observer], name: str) -> Observer:
    """The observer of that point set.

    Raises:
        MetricError: the set was not given.
    """
    if name not in observers:
        hint = _GIVE.get(name, "give it")
        raise MetricError(f"no {name} set was given; {hint}")
    return observers[name]


def make_shard(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str | PointLoss = "half_squared_error",
    output_map: str = "identity",
    microbatch: int | None = None,
    indices: np.ndarray | None = None,
    device: torch.device | str | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Shard:
    """A shard, its points checked and moved to where the model is.

    Args:
        model: any module mapping (B, ...) to (B, N); left as found.
        x: inputs (B, ...).
        y: targets, class indices (B,) or vectors (B, N).
        loss: name of a registered loss per point, or a callable (outputs, targets) -> (B,).
        output_map: identity, sigmoid or softmax.
        microbatch: most points computed at once; None lets each pass choose.
        indices: the points' places in a larger set; 0..B-1 by default.
        device: where to compute; the model's own device by default.
        on_batch: called with the number of points before every computation.

    Raises:
        MetricError: not a module, no points, or inputs and targets of different number.
        ConfigError: an unknown loss or output map.
    """
    if not isinstance(model, nn.Module):
        raise MetricError(f"the model must be a torch.nn.Module; found {type(model).__name__}")
    if output_map not in OUTPUT_MAPS:
        raise ConfigError(unknown_name("output map", output_map, OUTPUT_MAPS))
    if x.ndim < 1 or x.shape[0] == 0:
        raise MetricError(f"a point set needs at least one point; found inputs {tuple(x.shape)}")
    if y.shape[:1] != x.shape[:1]:
        raise MetricError(
            f"inputs and targets must be equally many; found {x.shape[0]} and {tuple(y.shape)}"
        )
    example = next(model.parameters(), None)
    place = (
        torch.device(device)
        if device is not None
        else (example.device if example is not None else x.device)
    )
    # the dtype the model computes in while it is held: half precision is widened
    dtype = torch.float32
    if example is not None and example.dtype == torch.float64:
        dtype = torch.float64
    return Shard(
        model=model,
        x=_plain(x).to(device=place, dtype=dtype if x.is_floating_point() else None),
        y=_plain(y).to(place),
        indices=np.arange(x.shape[0]) if indices is None else np.asarray(indices, dtype=np.int64),
        loss=point_loss(loss),
        output_map=output_map,
        batch=BatchSize(microbatch, on_batch),
        widened=widened(model),
    )


def call_on_shard(shard: Shard, function: Callable[..., Result], /, **arguments: Any) -> Result:
    """function(shard, **arguments) with the model held still; how every shard function is run."""
    with held_for_measurement(shard.model):
        return function(shard, **arguments)


def merge_points(
    parts: Sequence[Mapping[str, np.ndarray]], indices: Sequence[np.ndarray]
) -> Arrays:
    """Rows per point from shards, in the order of the points' indices, whatever the sharding.

    Args:
        parts: what a shard function returned for each shard.
        indices: the shards' point indices, in the same order.

    Raises:
        MetricError: the shards returned different arrays, or rows and points differ in number.
    """
    order = np.argsort(np.concatenate([np.asarray(i) for i in indices]), kind="stable")
    merged: Arrays = {}
    for key in _common_keys(parts):
        rows = np.concatenate([part[key] for part in parts], axis=0)
        if len(rows) != len(order):
            raise MetricError(f"{key!r} has {len(rows)} rows for {len(order)} points")
        merged[key] = rows[order]
    return merged


def merge_sums(parts: Sequence[Mapping[str, np.ndarray]], indices: Sequence[np.ndarray]) -> Arrays:
    """Arrays summed over shards, added in the order of the shards' first points.

    Args:
        parts: what a shard function returned for each shard.
        indices: the shards' point indices, in the same order.
    """
    order = in_point_order(indices)
    merged: Arrays = {}
    for key in _common_keys(parts):
        merged[key] = np.asarray(parts[order[0]][key]).copy()
        for i in order[1:]:
            merged[key] = merged[key] + parts[i][key]
    return merged


def in_point_order(indices: Sequence[np.ndarray]) -> list[int]:
    """Places of the shards in the order of their first points; the first answers for all."""
    return sorted(range(len(indices)), key=lambda i: int(indices[i][0]))


def points_hash(x: Tensor, y: Tensor) -> str:
    """Content hash of a point set: values, types and shapes of inputs and targets."""
    digest = hashlib.sha256()
    for tensor in (x, y):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_logits(outputs: Any, batch_size: int) -> Tensor:
    """The network's outputs, if they are (batch, classes).

    Raises:
        MetricError: they are not.
    """
    outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[0] != batch_size:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise MetricError(
            f"the network's output must be (batch, classes) = ({batch_size}, N); found {found}"
        )
    return outputs


def _plain(values: Tensor) -> Tensor:
    """Detached; a copy where the tensor was made in inference mode and refuses derivatives."""
    with torch.inference_mode(False):
        return values.clone() if values.is_inference() else values.detach()


def _common_keys(parts: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    keys = [set(part) for part in parts]
    if any(found != keys[0] for found in keys):
        raise MetricError(f"shards returned different arrays: {[sorted(found) for found in keys]}")
    return list(parts[0])
