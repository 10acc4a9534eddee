"""Every registered metric gives the same numbers however the points are sharded."""

import pytest
import torch

from flatscale.errors import MetricError
from flatscale.metrics import LocalObserver, measure, measure_observers, metric_catalog
from tests.metrics.quick import QUICK
from tests.oracles.networks import case
from tests.oracles.sharded import ShardedObserver

METRICS = [info.name for info in metric_catalog()]


def sets(kind, **settings):
    model, x, y = case("vgg", num_points=7)
    if kind == "local":
        observer = LocalObserver(model, x, y, **settings)
    elif kind == "ragged":
        observer = ShardedObserver(model, x, y, cuts=[3, 4], **settings)
    else:
        observer = ShardedObserver(model, x, y, cuts=[1, 5], order=[2, 0, 1], **settings)
    return {"probe": observer, "train": observer, "test": observer}


@pytest.fixture(scope="module")
def local():
    return measure_observers(sets("local"), METRICS, options=QUICK, seed=3)


@pytest.mark.parametrize("kind", ["ragged", "shuffled"])
def test_sharding_changes_no_metric(kind, local):
    found = measure_observers(sets(kind), METRICS, options=QUICK, seed=3)
    assert list(found) == METRICS
    for name, expected in local.items():
        assert expected.value is not None, (name, expected.reason)
        assert found[name].value == pytest.approx(expected.value, rel=2e-4, abs=1e-6), name
        assert found[name].num_points == expected.num_points
        assert found[name].layers == pytest.approx(dict(expected.layers), rel=1e-4, abs=1e-7)
        if expected.std_error is not None:
            assert found[name].std_error == pytest.approx(expected.std_error, rel=1e-3, abs=1e-7)


def test_half_precision_is_said_of_shards_too():
    model, x, y = case("mlp", num_points=7)
    model = model.bfloat16()
    observer = ShardedObserver(model, x.bfloat16().float(), y, cuts=[3])
    found = measure_observers({"probe": observer}, ["mls", "log_lvr"])
    for measured in found.values():
        assert "measured in float32" in measured.reason


def test_microbatches_change_no_metric(local):
    found = measure_observers(sets("local", microbatch=2), METRICS, options=QUICK, seed=3)
    for name, expected in local.items():
        assert found[name].value == pytest.approx(expected.value, rel=1e-4, abs=1e-7), name


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
    observer = LocalObserver(model, x, y, on_batch=out_of_memory_above(2, error))
    found = measure_observers({"probe": observer}, list(expected), options=QUICK)
    for name in expected:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-3)
    assert observer.shard.batch.limit <= 2


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
