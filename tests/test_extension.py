"""The contract of extension: one decorated function for each of the eight kinds of thing.

A module named under `plugins:` adds one of each; a study is run for real, and each is seen where it
must have reached: the record, the statistics, the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flatscale.store.results import Results, load_results

ROOT = Path(__file__).parents[1]
PLUGIN = '''
"""One of each kind."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from flatscale.data import Source, array_split, dataset
from flatscale.measurement import Measurement
from flatscale.metrics import measurement_pass, metric
from flatscale.models import model
from flatscale.report import Section, section
from flatscale.stats import Estimate, statistic
from flatscale.training import loss, optimizer


@dataset("two_greys")
def two_greys(config, *, dark: Annotated[float, Field(ge=0, le=0.5)] = 0.25):
    """Two classes of 3x3 images, each of one grey."""
    labels = np.arange(24) % 2
    images = np.where(labels == 0, dark, 1 - dark)[:, None, None, None] * np.ones((1, 1, 3, 3))
    split = array_split(images, labels, "the grey images", config.image_size)
    return Source(train=split, test=split, class_names=("dark", "light"))


@model("affine", family="lines")
def affine(input_shape, num_classes, *, bias: bool = True):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), num_classes, bias))


Share = Annotated[float, Field(ge=0, lt=1)]


@optimizer("smoothed")
def smoothed(parameters, learning_rate, *, smoothing: Share = 0.99, centered: bool = False):
    return torch.optim.RMSprop(parameters, learning_rate, smoothing, centered=centered)


@loss("fourth_power")
def fourth_power(outputs, targets):
    """sum_k (f_k - t_k)^4, per point (B,)."""
    return (outputs - nn.functional.one_hot(targets, outputs.shape[1])).pow(4).sum(dim=1)


def output_rows(shard, *, power):
    with torch.no_grad():
        return {"size": shard.outputs(shard.x).abs().pow(power).sum(dim=1).double().numpy()}


@measurement_pass("output_sizes")
def output_sizes(observers, seed, *, power: Annotated[int, Field(ge=1)] = 1):
    """sum_k |f_k|^power of every probe point (n,)."""
    return observers["probe"].gather(output_rows, power=power)["size"]


@metric("output_size", passes=("output_sizes",), formula="max_i sum_k |f_k|^p", group="compression")
def output_size(sizes):
    """The largest output on the probe."""
    return Measurement(name="output_size", value=float(sizes.max()))


@statistic("quadrant")
def quadrant(x, y, confidence):
    """Mean product of the signs about the medians."""
    signs = np.sign(x - np.median(x)) * np.sign(y - np.median(y))
    return Estimate(estimate=float(signs.mean()), num_trials=len(x))


@section("greys", title="What the greys say")
def greys(content):
    return Section(paragraphs=(f"{content.rows.height} networks have seen two greys.",))
'''
STUDY = {
    "name": "every_kind",
    "plugins": ["every_kind"],
    "data": {"source": "two_greys", "options": {"dark": 0.1}},
    "models": [{"architecture": "affine", "options": {"bias": False}}],
    "design": {"kind": "grid", "learning_rate": [0.01, 0.02], "batch_size": [8], "num_seeds": 2},
    "training": {
        "optimizer": {"name": "smoothed", "smoothing": 0.5},
        "loss": "fourth_power",
        "max_steps": 30,
    },
    "measurement": {
        "probe_size": 10,
        "metrics": ["output_size", "train_loss"],
        "options": {"output_sizes": {"power": 2}},
    },
    "analysis": {
        "primary": ["learning_rate", "output_size"],
        "outcomes": ["train_loss"],
        "num_resamples": 100,
    },
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin and the study file."""
    folder = tmp_path_factory.mktemp("extension")
    (folder / "every_kind.py").write_text(PLUGIN)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    """What the study left."""
    done = flatscale(folder, "run", "study.yaml", "--store", "store")
    assert done.returncode == 0, done.stderr
    return folder / "store"


@pytest.fixture(scope="module")
def results(store: Path) -> Results:
    return load_results(store)


def flatscale(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: what a plugin registers stays registered."""
    return subprocess.run(
        [sys.executable, "-m", "flatscale", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_model_dataset_optimizer_and_loss_are_in_every_record(results: Results) -> None:
    trials = results.trials
    assert trials["status"].to_list() == ["finished"] * 4
    known = trials.select("architecture", "options", "family", "dataset", "optimizer", "loss")
    assert known.unique().rows() == [
        ("affine", '{"bias": false}', "lines", "two_greys", "smoothed", "fourth_power")
    ]
    constants = [json.loads(text) for text in trials["optimizer_options"]]
    assert constants == [{"centered": False, "smoothing": 0.5}] * 4
    assert trials["num_classes"].unique().to_list() == [2]
    assert trials["num_parameters"].unique().to_list() == [18]


def test_a_metric_has_the_value_its_pass_gave_it(results: Results) -> None:
    values = results.measurements.filter(metric="output_size")["value"]
    assert len(values) == 4
    assert values.is_finite().all()
    assert values.n_unique() == 4


def test_a_statistic_is_in_the_findings_and_a_section_on_the_page(store: Path) -> None:
    tables = json.loads((store / "report" / "findings.json").read_text())["tables"]
    found = [row for row in tables["findings"] if row["method"] == "quadrant"]
    assert [(row["x"], row["y"]) for row in found] == [("learning_rate", "output_size")]
    assert -1 <= found[0]["estimate"] <= 1
    page = (store / "report" / "report.html").read_text()
    assert "<h2>What the greys say</h2>" in page
    assert "4 networks have seen two greys." in page


def test_every_fault_in_their_options_is_named_with_its_place(folder: Path) -> None:
    done = flatscale(
        folder,
        "plan",
        "study.yaml",
        *("--set", "data.options.drak=0.1"),
        *("--set", "models=[{architecture: affine, options: {bias: 3}}]"),
        *("--set", "training.optimizer.smoothing=1.5"),
        *("--set", "training.optimizer.smothing=0.5"),
        *("--set", "training.loss=forth_power"),
        *("--set", "measurement.options.output_sizes.power=0"),
    )
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    for fault in (
        "data: options of 'two_greys': unknown option 'drak' (did you mean 'dark'?)",
        "models[0]: options of 'affine': 'bias': input should be a valid boolean; found 3",
        (
            "training.optimizer: 'smoothing': input should be less than 1; found 1.5; "
            "unknown option 'smothing' (did you mean 'smoothing'?); allowed: smoothing, centered"
        ),
        "training.loss: unknown loss 'forth_power' (did you mean 'fourth_power'?)",
        "measurement: options.output_sizes: 'power': input should be greater than or equal to 1",
    ):
        assert fault in said
