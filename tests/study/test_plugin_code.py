"""Edited plugin code is other code: its trials have other ids, and no others have."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flatscale.cluster.trial import describe
from flatscale.data import load_points
from flatscale.errors import ConfigError
from flatscale.metrics.registration import METRICS, PASSES
from flatscale.models import MODELS
from flatscale.preflight import check_study
from flatscale.store.results import Store
from flatscale.study import plugin_code
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.plugin_code import code_of_all
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig

PASS = """
from flatscale.metrics import measurement_pass

@measurement_pass("edited_pass")
def edited_pass(observers, seed):
    return 1.0
"""
METRIC = """
from flatscale.measurement import Measurement
from flatscale.metrics import metric

@metric("edited", passes=("edited_pass",), formula="1", group="compression")
def edited(found):
    return Measurement(name="edited", value=found)
"""
MODEL = """
from torch import nn
from flatscale.models import model

@model("edited_net")
def edited_net(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""
FILES = {"edited_passes": PASS, "edited_metrics": METRIC, "edited_models": MODEL}


def study(metrics: list[str]) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "study",
        "plugins": list(FILES),
        "models": [{"architecture": "mlp"}, {"architecture": "edited_net"}],
        "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16]},
        "measurement": {"metrics": metrics},
        "analysis": {"primary": ["learning_rate", metrics[0]]},
    }
    return parse_config(content)


Planned = Callable[..., dict[str, TrialSpec]]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Trials by architecture, planned as a new process would with these edits in the plugins."""
    for registry in (METRICS, PASSES, MODELS):
        monkeypatch.setattr(registry, "_entries", dict(registry.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def plan_anew(*edits: tuple[str, str], metrics: tuple[str, ...] = ("edited",)) -> Any:
        for name, source in FILES.items():
            for before, after in edits:
                source = source.replace(before, after)
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        plugin_code._source_hash.cache_clear()
        return {spec.architecture: spec for spec in check_study(study(list(metrics)))}

    return plan_anew


def ids(specs: dict[str, TrialSpec]) -> dict[str, tuple[str, str]]:
    return {name: (spec.network_id, spec.trial_id) for name, spec in specs.items()}


def test_the_same_code_has_the_same_ids(planned: Planned) -> None:
    assert ids(planned()) == ids(planned())


@pytest.mark.parametrize("edit", [("value=found", "value=2 * found"), ("return 1.0", "return 2.0")])
def test_an_edited_metric_or_pass_is_measured_again_on_the_same_networks(
    planned: Planned, edit: tuple[str, str]
) -> None:
    before, after = ids(planned()), ids(planned(edit))
    for name in ("mlp", "edited_net"):
        assert before[name][0] == after[name][0]
        assert before[name][1] != after[name][1]


def test_an_edited_model_is_another_network_and_no_other_trial_changes(planned: Planned) -> None:
    before, after = ids(planned()), ids(planned(("nn.Flatten(), ", "nn.Flatten(), nn.Tanh(), ")))
    assert before["mlp"] == after["mlp"]
    assert before["edited_net"][0] != after["edited_net"][0]


def test_what_a_trial_does_not_use_changes_nothing(planned: Planned) -> None:
    used = ids(planned(metrics=("mls",)))["mlp"]
    config = study(["mls"]).model_copy(update={"plugins": ()})
    assert used == ids({spec.architecture: spec for spec in plan(config)})["mlp"]
    assert used == ids(planned(("return 1.0", "return 2.0"), metrics=("mls",)))["mlp"]


def test_a_declared_version_stands_for_the_source(planned: Planned) -> None:
    def declared(version: str) -> tuple[str, str]:
        return ('group="compression"', f'group="compression", version="{version}"')

    same_pass = ('"edited_pass")\n', '"edited_pass", version="a")\n')
    first = planned(same_pass, declared("1"))
    rounded = planned(same_pass, ("value=found", "value=float(found)"), declared("1"))
    assert ids(first) == ids(rounded)
    assert ids(first)["mlp"] != ids(planned(same_pass, declared("2")))["mlp"]


def test_a_record_and_the_store_say_which_code_it_was(planned: Planned, tmp_path: Path) -> None:
    specs = planned()
    config = study(["edited"])
    dataset = load_points(config).dataset
    known = json.loads(describe(specs["edited_net"], dataset).plugin_code or "")
    assert set(known) == {"metric edited", "model edited_net"}
    assert set(json.loads(describe(specs["mlp"], dataset).plugin_code or "")) == {"metric edited"}
    store = Store(tmp_path / "store")
    store.prepare(config.model_copy(update={"plugin_code": code_of_all(specs.values())}))
    kept = {spec.architecture: spec for spec in plan(store.read_study())}
    assert ids(kept) == ids(specs)


def test_code_without_a_source_must_declare_a_version(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(module: object) -> str:
        raise OSError("no source")

    monkeypatch.setattr(plugin_code.inspect, "getsource", unreadable)
    with pytest.raises(ConfigError, match=r"source of 'edited.*' .* cannot be read.*version="):
        planned()
