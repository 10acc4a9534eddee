"""The contract of extension: one decorated function for each of the eight kinds of thing.

A module named under `plugins:` adds one of each; a study is run for real, and each is seen where it
must have reached: the record, the statistics, the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flatscale.store.results import Results, load_results
from flatscale.study import plugin_code

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
DOCUMENT = PAGE.partition("## Each kind of thing")[2]
PLUGIN = "\n\n".join(re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL))
"""The eight functions of docs/plugins.md, as one module."""
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
    done = subprocess.run(
        [sys.executable, "-m", "flatscale", "run", "study.yaml", "--store", "store"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "store"


@pytest.fixture(scope="module")
def results(store: Path) -> Results:
    return load_results(store)


@pytest.fixture
def plan(flatscale: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`flatscale plan` of the study in a folder, with the plugin as it is there now."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            sys.modules.pop("every_kind", None)
            plugin_code._source_hash.cache_clear()
            return flatscale("plan", "study.yaml", *arguments, cwd=folder)

    return run


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


def test_edited_code_is_other_code(
    folder: Path, store: Path, tmp_path: Path, plan: Command
) -> None:
    ran = yaml.safe_load((store / "study.yaml").read_text())["plugin_code"]
    used = {"dataset two_greys", "model affine", "optimizer smoothed", "loss fourth_power"}
    assert set(ran) == {*used, "metric output_size"}
    code = load_results(store).trials["plugin_code"].to_list()
    assert [json.loads(text) for text in code] == [ran] * 4
    for edit, done in (("sizes.max()", 4), ("sizes.min()", 0)):
        copy = tmp_path / str(done)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "every_kind.py").write_text(PLUGIN.replace("sizes.max()", edit))
        said = " ".join(plan(copy, "--store", "store").stdout.split())
        assert f"4 trials, {done} done, {4 - done} to run" in said


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


def test_every_fault_in_their_options_is_named_with_its_place(folder: Path, plan: Command) -> None:
    done = plan(
        folder,
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
