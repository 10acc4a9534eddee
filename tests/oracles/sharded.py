"""An observer that holds its points in several shards, in this process."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from flatscale.metrics import call_on_shard, make_shard, merge_points, merge_sums, points_hash
from flatscale.metrics.probe.observers import in_point_order


class ShardedObserver:
    """Points split at `cuts`, shards in the order `order`, each with a model copy."""

    def __init__(self, model, x, y, cuts: Sequence[int], order: Sequence[int] | None = None, **kw):
        places = np.split(np.arange(len(x)), cuts)
        places = [places[i] for i in (order or range(len(places)))]
        self.shards = [
            make_shard(copy.deepcopy(model), x[p], y[p], indices=p, **kw) for p in places
        ]
        self.num_points = len(x)
        self.content_hash = points_hash(x, y)

    def gather(self, function, /, **arguments):
        parts = [call_on_shard(shard, function, **arguments) for shard in self.shards]
        return merge_points(parts, [shard.indices for shard in self.shards])

    def total(self, function, /, **arguments):
        parts = [call_on_shard(shard, function, **arguments) for shard in self.shards]
        return merge_sums(parts, [shard.indices for shard in self.shards])

    def once(self, function, /, **arguments):
        first = in_point_order([shard.indices for shard in self.shards])[0]
        return call_on_shard(self.shards[first], function, **arguments)
