"""The probe set across Ray actors: each holds one shard of every point set and measures snapshots.

A study of several data sets has a pool for each, with the same actors. They are made by the
driver before the trials start. The actors reserve no CPU by default, so
they can share a machine that the trials fill; their calls depend on nothing but their arguments, so
Ray repeats them when an actor dies and the values do not change.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch

from flatscale.cluster.allocator import keep_freed_memory
from flatscale.data import Points
from flatscale.errors import LostWorkerError
from flatscale.metrics.probe.observers import (
    Result,
    Shard,
    ShardFunction,
    call_on_shard,
    in_point_order,
    make_shard,
    merge_points,
    merge_sums,
)
from flatscale.models import build_model
from flatscale.study.registry import import_plugins
from flatscale.study.resources import ResourcesConfig
from flatscale.training import weights_from_bytes

PointSet = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Inputs, targets, and the points' places in the whole set."""
_SNAPSHOTS_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class Network:
    """How to build a network and what to measure it with; its weights travel apart."""

    architecture: str
    input_shape: tuple[int, ...]
    num_classes: int
    options: Mapping[str, Any]
    loss: str
    output_map: str

    def build(self, seed: int) -> torch.nn.Module:
        """The network, with weights drawn by a seed."""
        return build_model(
            self.architecture, self.input_shape, self.num_classes, dict(self.options), seed=seed
        )


class _ProbeActor:
    """Runs the shard functions of the passes on a snapshot and this actor's share of the points.

    Every call brings all it needs, by reference; what is kept between calls only saves time. So an
    actor that Ray had to start anew answers as the old one would have.
    """

    def __init__(self, plugins: tuple[str, ...], num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        keep_freed_memory()
        import_plugins(plugins)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._shards: OrderedDict[str, dict[str, Shard]] = OrderedDict()

    def observe(
        self,
        points: Mapping[str, PointSet],
        point_set: str,
        network: Network,
        snapshot: str,
        weights: bytes,
        function: Any,
        arguments: Mapping[str, Any],
    ) -> Any:
        """function(shard, **arguments) on one shard of a point set."""
        shards = self._hold(points, network, snapshot, weights)
        return call_on_shard(shards[point_set], function, **arguments)

    def pid(self) -> int:
        """The process, for tests that kill it."""
        return os.getpid()

    def _hold(
        self, points: Mapping[str, PointSet], network: Network, snapshot: str, weights: bytes
    ) -> dict[str, Shard]:
        """The snapshot's network held against every point set, built when first asked for."""
        if snapshot not in self._shards:
            model = network.build(seed=0)
            weights_from_bytes(weights, model)
            model.to(self._device)
            self._shards[snapshot] = {
                name: make_shard(
                    model,
                    # Arrays from the object store are shared memory that torch could write to.
                    torch.tensor(x),
                    torch.tensor(y),
                    loss=network.loss,
                    output_map=network.output_map,
                    indices=indices,
                )
                for name, (x, y, indices) in points.items()
            }
            if len(self._shards) > _SNAPSHOTS_KEPT:
                self._shards.popitem(last=False)
        self._shards.move_to_end(snapshot)
        return self._shards[snapshot]


@dataclass(frozen=True, kw_only=True)
class ProbePool:
    """Actors of a study, the shard of a data set each measures on, and which points are in it.

    The driver keeps the pool as long as the study runs: it owns the shards.
    """

    actors: tuple[Any, ...]
    shards: tuple[Any, ...]
    indices: Mapping[str, tuple[np.ndarray, ...]]
    content_hashes: Mapping[str, str]

    def observers(self, network: Network, weights: bytes) -> dict[str, ShardedObserver]:
        """One network held against every point set, its weights sent to the actors once."""
        snapshot = uuid4().hex
        reference = ray.put(weights)
        return {
            name: ShardedObserver(self, name, (name, network, snapshot, reference))
            for name in self.indices
        }


class ShardedObserver:
    """A snapshot held against one point set by the pool's actors; see `metrics.probe.Observer`."""

    def __init__(self, pool: ProbePool, point_set: str, request: tuple[Any, ...]) -> None:
        self._actors = tuple(zip(pool.actors, pool.shards, strict=True))
        self._indices = pool.indices[point_set]
        self._request = request
        self.num_points = sum(len(part) for part in self._indices)
        self.content_hash = pool.content_hashes[point_set]

    def gather(self, function: ShardFunction, /, **arguments: Any) -> dict[str, np.ndarray]:
        return merge_points(self._ask(function, arguments), self._indices)

    def total(self, function: ShardFunction, /, **arguments: Any) -> dict[str, np.ndarray]:
        return merge_sums(self._ask(function, arguments), self._indices)

    def once(self, function: Callable[..., Result], /, **arguments: Any) -> Result:
        first = self._actors[in_point_order(self._indices)[0]]
        return self._ask(function, arguments, first)[0]

    def _ask(
        self,
        function: Callable[..., Result],
        arguments: Mapping[str, Any],
        *actors: tuple[Any, Any],
    ) -> list[Result]:
        """The answers of some actors, of all by default."""
        asked = actors or self._actors
        shared = ray.put(dict(arguments)) if len(asked) > 1 and arguments else arguments
        answers = [
            actor.observe.remote(shard, *self._request, function, shared) for actor, shard in asked
        ]
        try:
            return ray.get(answers)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:500]  # Ray's texts run over many lines
            raise LostWorkerError(
                f"the probe actors did not answer, and Ray gave them up: {said}"
            ) from error


def make_pools(
    data: Mapping[str, Points], resources: ResourcesConfig, plugins: tuple[str, ...] = ()
) -> dict[str, ProbePool]:
    """Start the actors and put the shards of every point set into the object store.

    Args:
        data: what is measured on, by a name of its own; all of them share the actors.
        resources: how many actors, and what each may use.
        plugins: modules that the actors import.
    """
    num_shards = {
        name: min(resources.probe_actors, *(len(y) for _, y in points.point_sets.values()))
        for name, points in data.items()
    }
    actor = ray.remote(
        num_cpus=resources.cpus_per_probe_actor,
        num_gpus=resources.gpus_per_probe_actor,
        max_restarts=-1,
        max_task_retries=3,
    )(_ProbeActor)
    num_threads = max(1, int(resources.cpus_per_probe_actor))
    actors = [actor.remote(plugins, num_threads) for _ in range(max(num_shards.values()))]
    return {name: _pool(points, tuple(actors[: num_shards[name]])) for name, points in data.items()}


def _pool(points: Points, actors: tuple[Any, ...]) -> ProbePool:
    indices = {
        name: tuple(np.array_split(np.arange(len(y)), len(actors)))
        for name, (_, y) in points.point_sets.items()
    }
    shards = tuple(
        ray.put(
            {
                name: (x[indices[name][k]], y[indices[name][k]], indices[name][k])
                for name, (x, y) in points.point_sets.items()
            }
        )
        for k in range(len(actors))
    )
    return ProbePool(
        actors=actors,
        shards=shards,
        indices=indices,
        content_hashes=dict(points.content_hashes),
    )
