"""A network that is measured again: what an earlier record holds of it is not computed again."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flatscale import load_network
from flatscale.cluster import measurer, running_loss, trial
from flatscale.cluster.mailbox import _Mailbox
from flatscale.cluster.measurer import Measurer
from flatscale.cluster.probe_pool import Network
from flatscale.cluster.trial import describe
from flatscale.data import Points, load_points, points_key
from flatscale.measurement import Measurement
from flatscale.metrics import LocalObserver, measure, metric
from flatscale.metrics.registration import METRICS
from flatscale.store.earlier_records import EarlierRecords, earlier_records
from flatscale.store.layout import Layout
from flatscale.store.records import FINISHED, TrialRecord
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.reading import parse_config
from flatscale.training import weights_from_bytes

STUDY: dict[str, Any] = {
    "name": "kept",
    "data": {"source": "digits", "train_size": 40, "test_size": 20},
    "models": [{"architecture": "mlp", "options": {"width": 8}}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [8]},
    "analysis": {"primary": ["learning_rate", "mls"]},
    "keep_checkpoints": True,
}


class InThisProcess:
    """A pool without Ray."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.content_hashes = points.content_hashes

    def observers(self, network: Network, weights: bytes) -> dict[str, LocalObserver]:
        model = network.build(seed=0)
        weights_from_bytes(weights, model)
        return {
            name: LocalObserver(
                model,
                torch.tensor(x),
                torch.tensor(y),
                content_hash=self.content_hashes[name],
                loss=network.loss,
                output_map=network.output_map,
            )
            for name, (x, y) in self.points.point_sets.items()
        }


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The metrics that were computed, a list for each network measured."""
    calls: list[list[str]] = []
    whole = measurer.measure_observers

    def counting(observers: Any, names: list[str], **options: Any) -> Any:
        calls.append([name for name in names if METRICS[name].bounds is None])
        return whole(observers, names, **options)

    monkeypatch.setattr(measurer, "measure_observers", counting)
    return calls


def measured(store: Store, seed: int = 0, alone: bool = False, **wanted: Any) -> TrialRecord:
    """The record of the one trial of a study, of weights drawn by a seed, written to the store."""
    config = parse_config({**STUDY, "measurement": {"probe_size": 10, **wanted}})
    points, (spec,) = load_points(config), plan(config)
    dataset = points.dataset
    network = Network(
        architecture="mlp",
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        options=spec.options,
        loss=spec.training.loss,
        output_map=spec.measurement.output_map,
    )
    earlier = EarlierRecords(root=str(store.root), trial_ids=_earlier(store, spec, alone))
    pool: Any = InThisProcess(points)
    with Measurer(spec, network, pool, 1, None, earlier) as measuring:
        measuring.submit(5, network.build(seed), is_final=True)
        columns = measuring.collect()
    record = replace(describe(spec, dataset), status=FINISHED, reason=None, versions="torch 2")
    record = replace(record, **columns)
    if not alone:
        store.prepare(config)
        store.write(record)
    return record


def _earlier(store: Store, spec: TrialSpec, alone: bool) -> tuple[str, ...]:
    return () if alone else earlier_records(store, [spec]).get(spec.trial_id, ())


def test_only_new_metrics_are_computed_and_the_record_is_that_of_measuring_all(
    tmp_path: Path, computed: list[list[str]]
) -> None:
    store = Store(tmp_path)
    first = measured(store, metrics=["mls", "sharpness"])
    second = measured(store, metrics=["mls", "adaptive_sharpness", "sharpness"])
    third = measured(store, metrics=["loss_gap", "mls", "adaptive_sharpness", "sharpness"])
    assert computed == [["mls", "sharpness"], ["adaptive_sharpness"], ["loss_gap"]]
    whole = measured(
        store, alone=True, metrics=["loss_gap", "mls", "adaptive_sharpness", "sharpness"]
    )
    assert third.snapshots == whole.snapshots
    assert (third.value_ids, third.weights_hash) == (whole.value_ids, whole.weights_hash)
    assert (first.taken_over, whole.taken_over) == (None, None)
    # The line says who measured a value, also where it was handed on.
    taken = json.loads(third.taken_over or "")
    assert {"mls", "sharpness"} <= set(taken[first.trial_id]["metrics"])
    assert taken[second.trial_id]["metrics"] == ["adaptive_sharpness"]
    assert taken[first.trial_id]["versions"] == "flatscale 0.1.0, torch 2"
    # What the table and the statistics read is complete.
    row = store.read([third.trial_id]).table().row(0, named=True)
    assert all(row[m.name] == m.value for m in whole.snapshots[0].measurements)


def test_other_options_points_weights_or_code_are_measured_anew(
    tmp_path: Path, computed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, both = Store(tmp_path), ["adaptive_sharpness", "mls"]

    def edited(version: str) -> None:
        monkeypatch.delitem(METRICS._entries, "handmade", raising=False)

        @metric("handmade", passes=(), formula="1", group="outcome", version=version)
        def handmade() -> Measurement:
            """Always one."""
            return Measurement(name="handmade", value=1.0)

        handmade.__module__ = "somebodys_plugin"

    edited("1")
    measured(store, metrics=[*both, "handmade"])
    measured(store, metrics=both, options={"adaptive_sharpness": {"rho": 0.3}})
    measured(store, metrics=[*both, "loss_gap"], probe_size=12)
    measured(store, metrics=[*both, "loss_gap"], seed=1)
    edited("2")
    measured(store, metrics=[*both, "handmade", "train_loss"])
    assert computed == [
        [*both, "handmade"],
        ["adaptive_sharpness"],
        [*both, "loss_gap"],
        [*both, "loss_gap"],
        ["handmade", "train_loss"],
    ]
    monkeypatch.delitem(METRICS._entries, "handmade", raising=False)


class Study:
    """The one trial of a study, run as a worker of Ray runs it, in this process."""

    def __init__(self, store: Store, metrics: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = {"probe_size": 10, "metrics": metrics}
        training = {"stop_loss": 0.05, "max_steps": 300}
        self.config = parse_config({**STUDY, "measurement": wanted, "training": training})
        self.store, self.points, (self.spec,) = store, load_points(self.config), plan(self.config)
        store.prepare(self.config)
        self.box = _Mailbox(str(store.root), earlier_records(store, [self.spec]))
        self.posted: list[TrialRecord] = []
        here = SimpleNamespace(current_actor=None)
        no_ray = SimpleNamespace(get=lambda x: x, get_runtime_context=lambda: here)
        monkeypatch.setattr(trial, "ray", no_ray)
        monkeypatch.setattr(running_loss.ray, "wait", lambda sent, timeout: (sent, []))
        monkeypatch.setattr(running_loss, "_SECONDS_BETWEEN", 0.0)
        monkeypatch.setattr(running_loss, "_SHARE_BETWEEN", 0.0)

    def run(self) -> TrialRecord:
        def sent(call: Any) -> Any:
            return SimpleNamespace(remote=lambda *given: asyncio.run(call(*pickled(given))))

        async def post(record: TrialRecord) -> None:
            self.posted.append(record)

        key, pool = points_key(self.spec), InThisProcess(self.points)
        context = trial.TrialContext(
            config=self.config,
            datasets={key: self.points.dataset},
            pools={key: pool},  # type: ignore[dict-item]
            mailbox=SimpleNamespace(
                announce=sent(self.box.announce), report=sent(self.box.report), post=sent(post)
            ),
            layout=Layout(self.store.root),
        )
        assert trial.run_trial({"spec": self.spec.model_dump_json()}, context) == {
            "status": FINISHED
        }
        (record,) = self.posted
        self.store.write(record)
        return record


def pickled(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(pickle.loads(pickle.dumps(given)))


def test_a_trial_on_kept_weights_measures_what_is_new_and_trains_nothing(
    tmp_path: Path, computed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first = Study(store, ["mls", "sharpness"], monkeypatch)
    trained = first.run()
    started, *heard = asyncio.run(first.box.take([], 0.0))
    assert started == first.spec.trial_id
    told = [point for running in heard for point in running.record.history]
    assert tuple(told) == trained.history
    second = Study(store, ["mls", "sharpness", "loss_gap"], monkeypatch)
    monkeypatch.setattr(trial, "train", None)
    again = second.run()
    assert computed == [["mls", "sharpness"], ["loss_gap"]]
    assert (again.history, again.weights_hash) == (trained.history, trained.weights_hash)
    # What the kept network gives is what is recorded of it, whoever measured it.
    network = load_network(store.root, again.trial_id)
    sets = {k: tuple(map(torch.tensor, xy)) for k, xy in second.points.point_sets.items()}
    names, seed = list(second.config.measurement.metrics), second.spec.seed("measurement")
    both = {name: sets[name] for name in ("train", "test")}
    found = measure(network, sets["probe"], names, seed=seed, **both)
    recorded = {m.name: m.value for m in again.snapshots[0].measurements}
    assert {name: found[name].value for name in names} == {
        name: pytest.approx(recorded[name], rel=1e-6) for name in names
    }


def test_a_value_that_could_not_be_computed_is_tried_again(
    tmp_path: Path, computed: list[list[str]]
) -> None:
    store = Store(tmp_path)
    record = measured(store, metrics=["mls", "sharpness"])
    (snapshot,) = record.snapshots
    failed = tuple(
        Measurement.failed(m.name, "out of memory") if m.name == "sharpness" else m
        for m in snapshot.measurements
    )
    store.write(replace(record, snapshots=(replace(snapshot, measurements=failed),)))
    measured(store, metrics=["mls", "sharpness", "loss_gap"])
    assert computed[-1] == ["sharpness", "loss_gap"]
