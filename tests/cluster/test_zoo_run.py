"""A zoo on a real Ray: every network a record, measured as by hand; what is wrong is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import safetensors.torch
import torch

from flatscale.cluster.launch import run_trials
from flatscale.cluster.mailbox import Listener
from flatscale.cluster.measured_trial import size_of
from flatscale.cluster.packing import Packing, rounded_up
from flatscale.data import load_encoded, prepare
from flatscale.metrics import measure
from flatscale.models import build_model
from flatscale.models.zoo import read_zoo
from flatscale.preflight import check_study, study_points
from flatscale.report import write_study_report
from flatscale.store.records import TrialRecord
from flatscale.store.results import Store
from flatscale.study.reading import parse_config
from flatscale.study.resources import ResourcesConfig
from flatscale.study.schema import StudyConfig
from tests.kept_networks import keep_network, write_zoo

METRICS = ["normalized_mls", "test_accuracy"]
WIDTHS = (4, 6, 8)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig]:
    """Three networks and an absent one, with a table; images of two classes, 8x8."""
    root = tmp_path_factory.mktemp("zoo")
    parts = write_zoo(
        root,
        WIDTHS,
        num_images=12,
        absent=(10,),
        name=["w4", "w6", "w8", "w10"],
        family=["narrow", "narrow", "wide", "wide"],
        top1=[4, 6, 8, 10],
    )
    config = {
        "name": "zoo",
        **parts,
        "measurement": {"metrics": METRICS, "probe_size": 4, "probe_split": "test"},
        "analysis": {
            "primary": ["normalized_mls", "test_accuracy"],
            "outcomes": ["top1"],
            "num_resamples": 100,
        },
    }
    return root, read_zoo(parse_config(config)).study


def run(config: StudyConfig, root: Path, *listeners: Listener) -> tuple[Store, Any]:
    store = Store(root)
    specs = check_study(config)
    store.prepare(config)
    with store.locked():
        data = study_points(config, specs)
        summary = run_trials(config, specs, data, store, listeners=listeners)
    return store, summary


@pytest.mark.usefixtures("small_ray")
def test_every_network_is_measured_as_by_hand_and_an_absent_one_is_a_row_with_a_reason(
    zoo: tuple[Path, StudyConfig], tmp_path: Path
) -> None:
    root, config = zoo
    listener = Mock(spec=Listener)
    store, summary = run(config, tmp_path, listener)
    assert summary.statuses == {"finished": 3, "failed": 1}
    # The two workers are given the largest networks first, whichever of them says so first.
    first = {spec.trial_id: spec.name for spec in check_study(config)}[
        listener.started.call_args_list[0].args[0]
    ]
    assert first in ("w10", "w8")
    results = store.read()
    rows = {row["model"]: row for row in results.table().iter_rows(named=True)}
    assert "no weights at" in rows["w10"]["reason"]
    assert [rows[name]["top1"] for name in ("w4", "w10")] == [4, 10]
    points = load_encoded(config, ["test"])
    sets = {
        name: (torch.tensor(prepare(images, None)), torch.tensor(labels))
        for name, (images, labels) in points.point_sets.items()
    }
    for spec in check_study(config):
        if spec.name == "w10":
            continue
        row = rows[spec.name or ""]
        model = build_model("mlp", (1, 8, 8), 2, dict(spec.options), seed=0)
        model.load_state_dict(safetensors.torch.load_file(root / f"{spec.name[1:]}.safetensors"))
        found = measure(
            model, sets["probe"], METRICS, test=sets["test"], seed=spec.seed("measurement")
        )
        for metric in METRICS:
            np.testing.assert_allclose(row[metric], found[metric].value, rtol=1e-5)
        assert row["weights_hash"] == spec.weights.content_hash
        assert (row["learning_rate"], row["optimizer"], row["num_steps"]) == (None, None, None)
        assert row["peak_memory_bytes"] > 1e7
        assert row["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert results.measurements["probe_hash"].unique().to_list() == [points.content_hashes["probe"]]
    # A second run has nothing to do but the network that was absent; its weights are there now.
    keep_network(root, 10)
    _, again = run(config, tmp_path)
    assert again.num_kept == 3
    assert again.statuses == {"finished": 4}
    page = write_study_report(tmp_path).page.read_text()
    assert "w10" in page
    assert "top1" in page


def test_networks_that_take_longest_are_handed_out_first(
    zoo: tuple[Path, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Mock(wraps=size_of)
    monkeypatch.setattr("flatscale.cluster.packing.size_of", counted)
    _, config = zoo
    specs = check_study(config)
    (points,) = study_points(config, specs).values()
    strange = specs[0].model_copy(update={"trial_id": "strange", "architecture": "none"})
    packing = Packing(ResourcesConfig(), points, None)
    order = packing.longest_first([strange, *specs])
    assert [spec.name for spec in order] == ["w10", "w8", "w6", "w4", "w4"]
    assert order[-1] is strange
    assert counted.call_count == 5
    # The same architecture with other weights is not counted again; with other images it is.
    packing.longest_first([specs[0].model_copy(update={"trial_id": "others", "name": "others"})])
    assert counted.call_count == 5
    larger = specs[0].data.model_copy(update={"image_size": 16})
    packing.longest_first([specs[0].model_copy(update={"data": larger})])
    assert counted.call_count == 6


def test_a_failure_that_is_no_networks_fault_is_raised_each_time(
    zoo: tuple[Path, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = zoo
    specs = check_study(config)
    packing = Packing(ResourcesConfig(), *study_points(config, specs).values(), None)
    broken = Mock(side_effect=RuntimeError("no threads left"))
    monkeypatch.setattr("flatscale.cluster.packing.size_of", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no threads left"):
            packing.expected_bytes(specs[0])


def test_what_a_trial_reserves_is_estimated_then_measured(zoo: tuple[Path, StudyConfig]) -> None:
    _, config = zoo
    specs = check_study(config)
    (points,) = study_points(config, specs).values()
    packing = Packing(ResourcesConfig(), points, node_bytes=16 * 2**30)
    request = {"spec": specs[0].model_dump_json()}
    (estimated,) = packing.request(request).bundles
    assert estimated == {"CPU": 1, "memory": 2**30}
    record = TrialRecord(
        trial_id="other", network_id="other", family="mlp", architecture="mlp",
        options='{"width": 4}', dataset="d", dataset_hash="d", num_classes=2, train_size=0,
        seed_index=0, status="finished", peak_memory_bytes=5 * 2**30,
    )  # fmt: skip
    packing.ended(record)
    assert packing.request(request).bundles[0]["memory"] == 6 * 2**30
    large = Packing(ResourcesConfig(), points, node_bytes=2**29)
    assert large.request(request).bundles[0]["memory"] < 2**29  # alone, not never
    on_gpu = Packing(ResourcesConfig(gpus_per_trial=1), points, None, 8 * 2**30)
    assert on_gpu.request(request).bundles[0] == {"CPU": 1, "GPU": 0.125}
    on_gpu.ended(record)
    assert on_gpu.request(request).bundles[0] == {"CPU": 1, "GPU": 0.75}
    assert [rounded_up(x * 2**30) / 2**30 for x in (0.2, 1.2, 2.5, 9)] == [1, 1.5, 3, 12]
