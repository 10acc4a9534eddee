"""A study whose data sets, optimizers and measurement are axes, from the file to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flatscale.cluster.launch import run_trials
from flatscale.data import load_all_points, points_key
from flatscale.errors import ModelError
from flatscale.metrics import measure
from flatscale.models import build_model
from flatscale.preflight import check_networks, check_study
from flatscale.store.results import Store
from flatscale.study.reading import parse_config
from flatscale.training import load_weights
from tests.cluster.conftest import SMALL

pytestmark = pytest.mark.usefixtures("small_ray")

DATA: list[dict[str, Any]] = [
    {"label": "three", **SMALL["data"]},
    {"label": "two", **SMALL["data"], "classes": [3, 5], "name": "two of them"},
]


def test_each_data_set_has_a_probe_set_of_its_own(tmp_path: Path) -> None:
    axes = {
        "training.learning_rate": [0.1],
        "training.batch_size": ["full", 20],
        "data": DATA,
        "measurement.probe_size": [21, 2],
    }
    config = parse_config({**SMALL, "design": {"axes": axes}, "keep_checkpoints": True})
    specs, store = check_study(config), Store(tmp_path)
    data = load_all_points(specs)
    check_networks(config, data)
    store.prepare(config)
    with store.locked():
        summary = run_trials(config, specs, data, store)
    assert summary.statuses == {"finished": 8}
    results = store.read()
    table = {row["trial_id"]: row for row in results.table().iter_rows(named=True)}
    probes = dict(results.measurements.select("trial_id", "probe_hash").iter_rows())
    assert len(set(probes.values())) == 4
    for spec in specs:
        row, points = table[spec.trial_id], data[points_key(spec)]
        assert row["data"] == ("two" if spec.data.name else "three")
        assert row["dataset"] == (spec.data.name or "digits")
        assert row["num_classes"] == (2 if spec.data.name else 3)
        assert row["batch_size"] == (60 if spec.batch_size == "full" else 20)
        assert row["measurement.probe_size"] == len(points.point_sets["probe"][1])
        assert probes[spec.trial_id] == points.content_hashes["probe"]
        model = build_model("mlp", (1, 8, 8), row["num_classes"], dict(spec.options), seed=9)
        load_weights(store.weights_file(spec.network_id), model)
        sets = {n: tuple(map(torch.tensor, both)) for n, both in points.point_sets.items()}
        here = measure(model, sets["probe"], ["mls", "test_accuracy"], test=sets["test"],
                       seed=spec.seed("measurement"))  # fmt: skip
        assert row["mls"] == pytest.approx(here["mls"].value, rel=1e-5)
        assert row["test_accuracy"] == here["test_accuracy"].value


def test_an_arm_that_the_data_cannot_take_is_named_with_its_level(tmp_path: Path) -> None:
    axes = {
        "training.learning_rate": [0.1],
        "training.batch_size": [20],
        "model.architecture": ["mlp", "timm:levit_128s"],
        "data": DATA,
    }
    config = parse_config({**SMALL, "models": [{"architecture": "mlp"}], "design": {"axes": axes}})
    with pytest.raises(ModelError) as caught:
        check_networks(config, load_all_points(check_study(config)))
    assert "models[0] (model.architecture=timm:levit_128s): " in str(caught.value)
