"""Observers: shards say what they widened, memory that runs out, points that do not fit."""

import pytest
import torch

from flatscale.errors import MetricError
from flatscale.metrics import LocalObserver, measure, measure_observers
from tests.metrics.quick import QUICK
from tests.oracles.networks import case
from tests.oracles.sharded import ShardedObserver


def test_half_precision_is_said_of_shards_too():
    model, x, y = case("mlp", num_points=7)
    model = model.bfloat16()
    observer = ShardedObserver(model, x.bfloat16().float(), y, cuts=[3])
    found = measure_observers({"probe": observer}, ["mls", "log_lvr"])
    for measured in found.values():
        assert "measured in float32" in measured.reason


def places_of_the_points(shard):
    return shard.indices.tolist()


def test_a_fact_of_the_network_is_asked_of_the_shard_with_the_first_point():
    model, x, y = case("mlp", num_points=7)
    observer = ShardedObserver(model, x, y, cuts=[2, 5], order=[1, 0, 2])
    assert observer.once(places_of_the_points) == [0, 1]
    assert LocalObserver(model, x, y).once(places_of_the_points) == list(range(7))


def out_of_memory_above(limit, error):
    def on_batch(size):
        if size > limit:
            raise error

    return on_batch


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
)
def test_running_out_of_memory_halves_the_microbatch(error):
    model, x, y = case("mlp", num_points=7)
    expected = measure(model, (x, y), ["mls", "adaptive_sharpness"], options=QUICK)
    tried, above_two = [], out_of_memory_above(2, error)

    def on_batch(size):
        tried.append(size)
        above_two(size)

    observer = LocalObserver(model, x, y, on_batch=on_batch)
    found = measure_observers({"probe": observer}, list(expected), options=QUICK)
    for name in expected:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-3)
    assert observer.shard.batch.limit == 1
    assert tried[:3] == [7, 3, 1]


def test_out_of_memory_with_one_point_fails_that_pass_with_its_reason():
    model, x, y = case("mlp")
    observer = LocalObserver(model, x, y, on_batch=out_of_memory_above(0, MemoryError("no room")))
    found = measure_observers({"probe": observer}, ["mls"])
    assert found["mls"].value is None
    assert "out of memory with a single point" in found["mls"].reason


def test_other_runtime_errors_are_not_taken_for_missing_memory():
    model, x, y = case("mlp")
    observer = LocalObserver(model, x, y, on_batch=out_of_memory_above(0, RuntimeError("broken")))
    found = measure_observers({"probe": observer}, ["mls"])
    assert found["mls"].reason == "RuntimeError: broken"


def test_inputs_and_targets_must_be_equally_many():
    model, x, y = case("mlp")
    with pytest.raises(MetricError, match="equally many"):
        LocalObserver(model, x, y[:-1])
    with pytest.raises(MetricError, match="at least one point"):
        LocalObserver(model, x[:0], y[:0])
