"""Trials on a real Ray: what they record, what is not run again, what goes wrong and is said."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from flatscale import load_network
from flatscale.cluster.launch import missing_trials, run_trials
from flatscale.cluster.trial import describe
from flatscale.data import load_all_points, load_points, points_key
from flatscale.errors import FlatscaleError, StoreError
from flatscale.metrics import measure
from flatscale.models import build_model
from flatscale.preflight import check_study
from flatscale.store.records import TrialRecord
from flatscale.store.results import Results, Store
from flatscale.study.plan import plan
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig
from flatscale.tracking.runs import _connect
from flatscale.tracking.writer import TrackingWriter
from flatscale.training import OPTIMIZERS, load_weights, optimizer
from tests.cluster.conftest import SMALL

Make = Callable[..., StudyConfig]
pytestmark = pytest.mark.usefixtures("small_ray")


def run(config: StudyConfig, root: Path) -> tuple[Results, Any]:
    store = Store(root)
    specs = check_study(config)
    store.prepare(config)
    with store.locked():
        summary = run_trials(config, specs, load_all_points(specs), store)
    return store.read([s.trial_id for s in specs]), summary


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small_ray: None
) -> tuple[Path, StudyConfig, Results, Any]:
    """The small study, run once: its store, itself, its results and how it ended."""
    root = tmp_path_factory.mktemp("finished")
    config = parse_config({**SMALL, "keep_checkpoints": True})
    return root, config, *run(config, root)


def test_every_trial_is_trained_measured_and_recorded(finished: Any) -> None:
    _, config, results, summary = finished
    assert summary.statuses == {"finished": 4}
    assert not summary.interrupted
    assert results.trials["stop"].to_list() == ["interpolated"] * 4
    assert results.trials["num_attempts"].to_list() == [1] * 4
    table = results.table()
    bounds = ("bound_a", "bound_b", "bound_c", "bound_d")
    for metric in (*config.measurement.metrics, *bounds):
        assert table[metric].is_finite().all(), metric
    assert table["train_loss"].max() <= 0.05
    assert table["mls"].n_unique() == 4
    assert results.measurements["probe_hash"].n_unique() == 1
    assert results.history.height > 4


def test_sharded_measurements_equal_those_of_one_process(finished: Any) -> None:
    root, config, results, _ = finished
    points = load_points(config)
    tensors = {
        name: (torch.tensor(x), torch.tensor(y)) for name, (x, y) in points.point_sets.items()
    }
    for spec in check_study(config):
        model = build_model("mlp", (1, 8, 8), 3, dict(spec.options), seed=99)
        load_weights(root / "checkpoints" / f"{spec.network_id}.safetensors", model)
        local = measure(
            model,
            tensors["probe"],
            metrics=results.measurements["metric"].unique().to_list(),
            train=tensors["train"],
            test=tensors["test"],
            seed=spec.seed("measurement"),
        )
        rows = results.measurements.filter(trial_id=spec.trial_id)
        for row in rows.iter_rows(named=True):
            np.testing.assert_allclose(row["value"], local[row["metric"]].value, rtol=1e-5)


def test_a_kept_network_is_the_one_that_was_measured(finished: Any) -> None:
    root, config, results, _ = finished
    trial_id = results.trials["trial_id"][0]
    network = load_network(root, trial_id)
    assert not network.training
    points = {k: tuple(map(torch.tensor, xy)) for k, xy in load_points(config).point_sets.items()}
    seed = next(s for s in plan(config) if s.trial_id == trial_id).seed("measurement")
    names = list(config.measurement.metrics)
    found = measure(
        network, *(points["probe"], names), train=points["train"], test=points["test"], seed=seed
    )
    for row in results.measurements.filter(trial_id=trial_id).iter_rows(named=True):
        if row["metric"] in names:
            np.testing.assert_allclose(found[row["metric"]].value, row["value"], rtol=1e-5)
    with pytest.raises(StoreError, match=rf"did you mean '{trial_id}'"):
        load_network(root, trial_id[:-1])


def test_the_same_command_runs_nothing_twice_and_a_grown_study_only_its_new_part(
    finished: Any, small_study: Make, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished[0], store)
    before = {p: p.read_bytes() for p in (store / "records").iterdir()}
    _, again = run(small_study(), store)
    assert again.num_kept == 4
    design = {"kind": "grid", "learning_rate": [0.1, 0.3, 0.5], "batch_size": [20], "num_seeds": 2}
    results, grown = run(small_study(design=design), store)
    assert (grown.num_kept, results.trials.height) == (4, 6)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_only_a_metric_that_was_added_is_measured_on_kept_networks(
    finished: Any, tmp_path: Path
) -> None:
    root, before = tmp_path / "store", finished[2]
    shutil.copytree(finished[0], root)
    wanted = {**SMALL["measurement"], "metrics": [*SMALL["measurement"]["metrics"], "log_lvr"]}
    results, _ = run(parse_config({**SMALL, "keep_checkpoints": True, "measurement": wanted}), root)
    known = {row["network_id"]: row for row in before.trials.iter_rows(named=True)}
    for row in results.trials.iter_rows(named=True):
        (source,) = json.loads(row["taken_over"]).items()
        assert source[0] == known[row["network_id"]]["trial_id"]
        assert "log_lvr" not in source[1]["metrics"]
        assert set(SMALL["measurement"]["metrics"]) <= set(source[1]["metrics"])
    (whole, _), names = run(parse_config({**SMALL, "measurement": wanted}), tmp_path / "whole"), []
    for metric in whole.measurements["metric"].unique():
        found, all_anew = (
            r.measurements.filter(metric=metric).sort("trial_id") for r in (results, whole)
        )
        names.append(metric)
        np.testing.assert_allclose(found["value"], all_anew["value"], rtol=1e-6)
    assert "log_lvr" in names


@pytest.mark.slow
def test_losses_are_in_mlflow_while_a_trial_trains(small_study: Make, tmp_path: Path) -> None:
    design = {"kind": "grid", "learning_rate": [0.01], "batch_size": [20]}
    training = {"stop_loss": None, "max_steps": 40_000, "evaluate_every": 50}
    config, store = small_study(design=design, training=training), Store(tmp_path)
    specs = check_study(config)
    store.prepare(config)
    seen: list[list[int]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            if store.mlflow_database.is_file():
                client = _connect(store.mlflow_uri)
                for experiment in client.search_experiments():
                    for found in client.search_runs([experiment.experiment_id]):
                        kind = found.data.tags.get("flatscale.kind")
                        if kind == "trial" and found.info.status == "RUNNING":
                            points = client.get_metric_history(found.info.run_id, "training/loss")
                            seen.append([point.step for point in points])

    looking = threading.Thread(target=look)
    looking.start()
    with store.locked(), TrackingWriter(store, config) as tracker:
        run_trials(config, specs, load_all_points(specs), store, listeners=(tracker,))
        tracker.finish(())
    done.set()
    looking.join()
    assert seen[-1]
    history = store.read().history["step"].to_list()
    assert set(seen[-1]) < set(history)
    (trial,) = (r for r in _runs(store) if r.data.tags["flatscale.kind"] == "trial")
    points = _connect(store.mlflow_uri).get_metric_history(trial.info.run_id, "training/loss")
    assert sorted(point.step for point in points) == history


def _runs(store: Store) -> list[Any]:
    client = _connect(store.mlflow_uri)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_snapshots_are_measured_while_training_goes_on_with_all_cpus_taken(
    small_study: Make, tmp_path: Path
) -> None:
    measurement = {"probe_size": 21, "metrics": ["mls", "train_loss"], "num_snapshots": 5}
    resources = {"probe_actors": 3, "cpus_per_trial": 2}
    results, _ = run(small_study(measurement=measurement, resources=resources), tmp_path)
    for _, rows in results.measurements.filter(metric="train_loss").group_by("trial_id"):
        ordered = rows.sort("step")
        assert ordered.height >= 3
        assert ordered["is_final"].to_list() == [False] * (ordered.height - 1) + [True]
        assert ordered["value"][-1] < ordered["value"][0]
    assert ray.cluster_resources()["CPU"] == 2


def test_whatever_goes_wrong_is_recorded_with_its_reason_and_spoils_nothing_else(
    small_study: Make, tmp_path: Path
) -> None:
    flag = tmp_path / "died"
    sound = {"architecture": "mlp", "options": {"width": 16}}
    diverges = {
        "architecture": "mlp",
        "options": {"width": 8, "activation": "relu"},
        "design": {"kind": "grid", "learning_rate": [1e6], "batch_size": [20]},
    }
    models = [
        {"architecture": "dies_once", "options": {"flag": str(flag)}},
        {"architecture": "dies_always"},
        {"architecture": "fails_in_training"},
        diverges,
        sound,
    ]
    config = small_study(
        models=models,
        design={"kind": "grid", "learning_rate": [0.1], "batch_size": [20]},
        measurement={"probe_size": 21, "metrics": ["mls", "metric_that_fails"]},
        plugins=["tests.cluster.plugin"],
        resources={"max_retries": 1},
    )
    results, summary = run(config, tmp_path / "store")
    assert summary.statuses == {"finished": 2, "diverged": 1, "failed": 2}
    rows = {row["architecture"] + row["options"]: row for row in results.trials.to_dicts()}
    by_name = {name.split("{")[0]: row for name, row in rows.items()}
    assert flag.exists()
    assert by_name["dies_once"]["num_attempts"] == 2
    assert by_name["dies_always"]["num_attempts"] == 2
    assert "worker died" in by_name["dies_always"]["reason"]
    assert "broken on purpose" in by_name["fails_in_training"]["reason"]
    (diverged,) = [row for row in rows.values() if row["status"] == "diverged"]
    assert (diverged["learning_rate"], "loss" in diverged["reason"]) == (1e6, True)
    failed = results.measurements.filter(metric="metric_that_fails")
    assert failed["value"].null_count() == failed.height == 2
    assert failed["reason"].str.contains("on purpose").all()
    assert results.measurements.filter(metric="mls")["value"].is_finite().all()
    # What has a result stays; what failed is missing, and would be tried again.
    again = {
        spec.architecture for spec in missing_trials(Store(tmp_path / "store"), check_study(config))
    }
    assert again == {"dies_always", "fails_in_training"}


def test_other_data_does_not_get_into_a_store(finished: Any, small_study: Make) -> None:
    root, config, _, _ = finished
    data = {"source": "digits", "train_size": 61, "classes": [0, 1, 2]}
    (other,) = load_all_points(check_study(small_study(data=data))).values()
    specs = check_study(config)
    with pytest.raises(StoreError, match="hash"):
        run_trials(config, specs, {points_key(specs[0]): other}, Store(root))


def test_a_trial_no_node_can_hold_is_refused(small_study: Make, tmp_path: Path) -> None:
    with pytest.raises(FlatscaleError, match="64 CPUs"):
        run(small_study(resources={"cpus_per_trial": 64}), tmp_path)


def test_a_run_that_can_no_longer_write_ends_and_is_continued_to_the_same_numbers(
    finished: Any, small_study: Make, tmp_path: Path
) -> None:
    class Unwell:
        """Fails as a thread does whose terminal is gone."""

        def started(self, trial_id: str) -> None:
            raise SystemExit(f"cannot say that {trial_id} has started")

        def ended(self, record: TrialRecord) -> None:
            pass

    config = small_study()
    store, specs = Store(tmp_path), check_study(config)
    store.prepare(config)
    with store.locked(), pytest.raises(SystemExit, match="has started"):
        run_trials(config, specs, load_all_points(specs), store, listeners=[Unwell()])
    assert not store.statuses()
    results, summary = run(config, tmp_path)
    assert summary.statuses == {"finished": 4}
    assert results.trials["num_attempts"].to_list() == [1, 1, 1, 1]
    columns = ["trial_id", "metric", "step", "value", "std_error"]
    assert results.measurements.select(columns).equals(finished[2].measurements.select(columns))
    assert results.history.equals(finished[2].history)


def test_the_constants_of_an_optimizer_of_its_own_are_recorded(
    small_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS.items()))

    @optimizer("damped")
    def damped(
        parameters: Any, rate: float, *, momentum: float = 0.0, dampening: float = 0.0, up: bool
    ) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, rate, momentum, dampening, maximize=up)

    chosen = {"name": "damped", "momentum": 0.5, "up": False}
    config = small_study(training={"optimizer": chosen, "max_steps": 2})
    described = describe(plan(config)[0], load_points(config).dataset)
    assert (described.optimizer, described.momentum) == ("damped", 0.5)
    assert described.optimizer_options == '{"dampening": 0.0, "up": false}'
