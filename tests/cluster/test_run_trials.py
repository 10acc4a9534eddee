"""Trials on a real Ray: what they record, what is not run again, what goes wrong and is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from flatscale.cluster import run_trials
from flatscale.config import StudyConfig
from flatscale.errors import FlatscaleError, StoreError
from flatscale.metrics import measure
from flatscale.models import build_model
from flatscale.preflight import check_study, load_points
from flatscale.results import Results, Store
from flatscale.training import load_weights

Make = Callable[..., StudyConfig]
pytestmark = pytest.mark.usefixtures("small_ray")


def run(config: StudyConfig, root: Path) -> tuple[Results, Any]:
    store = Store(root)
    specs = check_study(config)
    store.prepare(config)
    with store.locked():
        summary = run_trials(config, specs, load_points(config), store)
    return store.read([s.trial_id for s in specs]), summary


def test_every_trial_is_trained_measured_and_recorded(small_study: Make, tmp_path: Path) -> None:
    config = small_study()
    results, summary = run(config, tmp_path)
    assert summary.statuses == {"finished": 4}
    assert not summary.interrupted
    assert results.trials["stop"].to_list() == ["interpolated"] * 4
    assert results.trials["num_attempts"].to_list() == [1] * 4
    table = results.table()
    for metric in config.measurement.metrics:
        assert table[metric].is_finite().all(), metric
    assert table["train_loss"].max() <= 0.05
    assert table["mls"].n_unique() == 4
    assert results.measurements["probe_hash"].n_unique() == 1
    assert results.history.height > 4


def test_the_same_command_runs_nothing_twice_and_a_grown_study_only_its_new_part(
    small_study: Make, tmp_path: Path
) -> None:
    run(small_study(), tmp_path)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()}
    _, again = run(small_study(), tmp_path)
    assert again.num_kept == 4
    design = {"kind": "grid", "learning_rate": [0.1, 0.3, 0.5], "batch_size": [20], "num_seeds": 2}
    results, grown = run(small_study(design=design), tmp_path)
    assert (grown.num_kept, results.trials.height) == (4, 6)
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_sharded_measurements_equal_those_of_one_process(small_study: Make, tmp_path: Path) -> None:
    config = small_study(keep_checkpoints=True, resources={"probe_actors": 3})
    results, _ = run(config, tmp_path)
    points = load_points(config)
    tensors = {
        name: (torch.tensor(x), torch.tensor(y)) for name, (x, y) in points.point_sets.items()
    }
    for spec in check_study(config)[:2]:
        model = build_model("mlp", (1, 8, 8), 3, dict(spec.options), seed=99)
        load_weights(tmp_path / "checkpoints" / f"{spec.network_id}.safetensors", model)
        local = measure(
            model,
            tensors["probe"],
            metrics=config.measurement.metrics,
            train=tensors["train"],
            test=tensors["test"],
            seed=spec.seed("measurement"),
        )
        rows = results.measurements.filter(trial_id=spec.trial_id)
        for row in rows.iter_rows(named=True):
            np.testing.assert_allclose(row["value"], local[row["metric"]].value, rtol=1e-5)


def test_the_same_study_gives_the_same_numbers_bit_for_bit(
    small_study: Make, tmp_path: Path
) -> None:
    one, _ = run(small_study(), tmp_path / "one")
    two, _ = run(small_study(), tmp_path / "two")
    columns = ["trial_id", "metric", "step", "value", "std_error"]
    assert one.measurements.select(columns).equals(two.measurements.select(columns))
    assert one.history.equals(two.history)


def test_snapshots_are_measured_while_training_goes_on(small_study: Make, tmp_path: Path) -> None:
    measurement = {"probe_size": 21, "metrics": ["mls", "train_loss"], "num_snapshots": 5}
    results, _ = run(small_study(measurement=measurement), tmp_path)
    for _, rows in results.measurements.filter(metric="train_loss").group_by("trial_id"):
        ordered = rows.sort("step")
        assert ordered.height >= 3
        assert ordered["is_final"].to_list() == [False] * (ordered.height - 1) + [True]
        assert ordered["value"][-1] < ordered["value"][0]


def test_a_diverged_trial_is_recorded_with_its_reason(small_study: Make, tmp_path: Path) -> None:
    design = {"kind": "grid", "learning_rate": [0.1, 1e6], "batch_size": [20]}
    model = {"architecture": "mlp", "options": {"width": 16, "activation": "relu"}}
    results, summary = run(small_study(design=design, models=[model]), tmp_path)
    assert summary.statuses == {"finished": 1, "diverged": 1}
    row = results.trials.filter(status="diverged").row(0, named=True)
    assert row["learning_rate"] == 1e6
    assert "loss" in row["reason"]
    _, again = run(small_study(design=design, models=[model]), tmp_path)
    assert again.num_kept == 2


def test_a_failed_metric_spoils_nothing_else(small_study: Make, tmp_path: Path) -> None:
    measurement = {"probe_size": 21, "metrics": ["mls", "metric_that_fails"]}
    config = small_study(measurement=measurement, plugins=["tests.cluster.plugin"])
    results, summary = run(config, tmp_path)
    assert summary.statuses == {"finished": 4}
    failed = results.measurements.filter(metric="metric_that_fails")
    assert failed["value"].null_count() == 4
    assert failed["reason"].str.contains("on purpose").all()
    assert results.measurements.filter(metric="mls")["value"].is_finite().all()


def test_a_failed_trial_is_recorded_and_tried_again(
    small_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [
        {"architecture": "mlp", "options": {"width": 16}},
        {"architecture": "fails_in_training"},
    ]
    design = {"kind": "grid", "learning_rate": [0.1], "batch_size": [20]}
    config = small_study(models=models, design=design, plugins=["tests.cluster.plugin"])
    results, summary = run(config, tmp_path)
    assert summary.statuses == {"finished": 1, "failed": 1}
    row = results.trials.filter(status="failed").row(0, named=True)
    assert "broken on purpose" in row["reason"]
    _, again = run(config, tmp_path)
    assert again.num_kept == 1


def test_a_trial_whose_worker_dies_is_started_again(small_study: Make, tmp_path: Path) -> None:
    flag = tmp_path / "died"
    models = [{"architecture": "dies_once", "options": {"flag": str(flag)}}]
    design = {"kind": "grid", "learning_rate": [0.1], "batch_size": [20]}
    config = small_study(models=models, design=design, plugins=["tests.cluster.plugin"])
    results, summary = run(config, tmp_path / "store")
    assert flag.exists()
    assert summary.statuses == {"finished": 1}
    assert results.trials["num_attempts"].to_list() == [2]


def test_a_worker_that_always_dies_ends_as_a_failed_trial(
    small_study: Make, tmp_path: Path
) -> None:
    models = [{"architecture": "dies_always"}, {"architecture": "mlp", "options": {"width": 16}}]
    design = {"kind": "grid", "learning_rate": [0.1], "batch_size": [20]}
    config = small_study(
        models=models,
        design=design,
        plugins=["tests.cluster.plugin"],
        resources={"max_retries": 1},
    )
    results, summary = run(config, tmp_path)
    assert summary.statuses == {"failed": 1, "finished": 1}
    row = results.trials.filter(status="failed").row(0, named=True)
    assert row["num_attempts"] == 2
    assert "worker died" in row["reason"]


def test_other_data_does_not_get_into_a_store(small_study: Make, tmp_path: Path) -> None:
    config = small_study()
    run(config, tmp_path)
    store = Store(tmp_path)
    data = {"source": "digits", "train_size": 61, "classes": [0, 1, 2]}
    other = load_points(small_study(data=data))
    with pytest.raises(StoreError, match="hash"):
        run_trials(config, check_study(config), other, store)


def test_a_trial_no_node_can_hold_is_refused(small_study: Make, tmp_path: Path) -> None:
    with pytest.raises(FlatscaleError, match="64 CPUs"):
        run(small_study(resources={"cpus_per_trial": 64}), tmp_path)


def test_no_cpu_is_left_reserved(small_study: Make, tmp_path: Path) -> None:
    config = small_study(resources={"probe_actors": 6, "cpus_per_trial": 2})
    _, summary = run(config, tmp_path)
    assert summary.statuses == {"finished": 4}
    assert ray.cluster_resources()["CPU"] == 2
