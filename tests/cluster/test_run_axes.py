"""A study whose data sets, optimizers and measurement are axes, from the file to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

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


@pytest.mark.slow
def test_a_shifted_set_is_measured_by_the_actors_as_it_is_here(tmp_path: Path) -> None:
    """Negatives of the digits as image files: another source, the same classes."""
    digits = load_digits()
    for part in ("train", "test"):
        for place, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            if label < 3 and place % 9 == 0:
                folder = tmp_path / "negatives" / part / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.round(255 * (1 - image / 16)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{place}.png")
    shifted = {"source": "folder", "path": str(tmp_path / "negatives"), "size": 30}
    metrics = ["mls", "sharpness", "test_accuracy", "shifted_accuracy", "shifted_loss"]
    config = parse_config(
        {
            **SMALL,
            "data": {**SMALL["data"], "shifted": shifted},
            "measurement": {"probe_size": 21, "metrics": metrics},
            "keep_checkpoints": True,
        }
    )
    specs, store = check_study(config), Store(tmp_path / "store")
    data = load_all_points(specs)
    check_networks(config, data)
    store.prepare(config)
    with store.locked():
        assert run_trials(config, specs, data, store).statuses == {"finished": 4}
    table = {row["trial_id"]: row for row in store.read().table().iter_rows(named=True)}
    for spec in specs:
        x, y = map(torch.tensor, data[points_key(spec)].point_sets["shifted"])
        model = build_model("mlp", (1, 8, 8), 3, dict(spec.options), seed=9)
        load_weights(store.weights_file(spec.network_id), model)
        with torch.no_grad():
            right = (model(x).argmax(dim=1) == y).double().mean().item()
        row = table[spec.trial_id]
        assert row["shifted_accuracy"] == pytest.approx(right)
        assert row["shifted_accuracy"] < row["test_accuracy"]
        assert row["shifted_loss__std_error"] > 0
