"""Ids of version 0.1, held for ever: a change here orphans every store there is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import create_model

from flatscale.study import axes, identity, schema
from flatscale.study.identity import identifying_content, result_content
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.reading import load_config, parse_config
from flatscale.study.schema import (
    MeasurementConfig,
    OptimizerConfig,
    StudyConfig,
    TrainingConfig,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "name": "held",
    "models": [
        {"architecture": "mlp", "options": {"width": 16}},
        {
            "architecture": "timm:resnet10t",
            "family": "r",
            "training": {"max_steps": 7, "loss": "cross_entropy"},
        },
    ],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16, 32], "num_seeds": 2},
}
PARTS: dict[str, dict[str, Any]] = {
    "momentum": {
        "training": {
            "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
            "evaluate_every": 3,
            "checkpoint_every": 9,
        }
    },
    "momentum_as_whole_number": {
        "training": {"optimizer": {"momentum": 0, "weight_decay": 1}},
    },
    "plugin_optimizer": {
        "plugins": ["my_optimizers"],
        "training": {"optimizer": {"name": "adam"}},
    },
    "measurement_options": {
        "data": {
            "source": "folder",
            "path": "x",
            "classes": ["a", 2],
            "image_size": 8,
            "test_size": 9,
        },
        "measurement": {
            "metrics": ["sharpness", "mls", "adaptive_sharpness"],
            "options": {"adaptive_sharpness": {"rho": 0.1, "num_steps": 3}},
            "probe_split": "test",
            "output_map": "softmax",
            "loss": "cross_entropy",
            "num_snapshots": 4,
        },
    },
    "sobol": {
        "seed": 7,
        "design": {
            "kind": "sobol",
            "learning_rate": {"low": 0.01, "high": 1},
            "batch_size": {"low": 8, "high": 128},
            "num_points": 5,
            "num_seeds": 2,
        },
    },
}


def study(name: str) -> StudyConfig:
    """A shipped study, one that was, the documentation's, or the small one with other parts."""
    for folder in (ROOT / "configs", Path(__file__).parent / "held"):
        if (path := folder / f"{name}.yaml").is_file():
            return load_config(path)
    if name == "my_study":
        page = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
        return parse_config(yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.S)[0]))
    return parse_config({**SMALL, **PARTS[name]})


# Computed by version 0.1 (today's quickstart: when it was added): the study, its number of trials,
# the first one's id, a hash over the ids of all trials and networks, the study's own hash, the seed
# of the last trial's data order.
HELD = """
quickstart_0_1 48 93bb661e2fefe01d 5f43b43099a655be a45651648b66e762 8793652030252579333
cifar10_vgg 45 c34571e48561ff2a bbf7dbe3ac805dd0 c33f5f0f0f64195b 8358350082810570944
my_study 64 d969bb8da067733a 8938da87ddfad1fb 98b27e8a4350d2e9 3994172016413525668
momentum 8 1f8c40eefac4dbe0 b7b4cd9816fbbaf9 dd968846ae28b2ea 7632400336361340480
momentum_as_whole_number 8 da2d12270a6a4795 a9c9dd9a624af231 8089c2f82d6561b2 7632400336361340480
plugin_optimizer 8 ce5824e9a3d17662 f1a0d849fed80920 fe3835d376312415 7632400336361340480
measurement_options 8 ad60b79ce19f760e cd8ce94c5869638b 064ab02f83f11ba8 699915387033929678
sobol 20 1214b8da955d6d5c 34a2553c35441b0d 911892a1e2ca50fe 8380020783128838920
quickstart 72 64d2271fdd3e9d72 a2c7b1f6af6d6e3a 8738862b98edf849 3045097061207162944
"""


@pytest.mark.parametrize("held", HELD.strip().splitlines(), ids=lambda line: line.split()[0])
def test_the_ids_of_version_0_1_hold(held: str) -> None:
    name = held.split()[0]
    config = study(name)
    specs = plan(config)
    ids = [spec.trial_id for spec in specs]
    names = " ".join(ids + [spec.network_id for spec in specs])
    together = hashlib.sha256(names.encode()).hexdigest()[:16]
    seed = specs[-1].seed("order")
    assert f"{name} {len(ids)} {ids[0]} {together} {config.content_hash} {seed}" == held


@pytest.mark.parametrize("part", [TrainingConfig(), OptimizerConfig(), MeasurementConfig()])
def test_a_key_that_is_added_with_its_default_changes_no_id(part: Any) -> None:
    later = create_model(type(part).__name__, __base__=type(part), schedule=(str, "constant"))
    assert result_content(later()) == result_content(part)
    assert identifying_content(later(schedule="constant")) == identifying_content(part)
    changed = result_content(later(schedule="cosine"))
    assert changed == {**result_content(part), "schedule": "cosine"}


def test_a_part_that_is_added_enters_by_what_differs_from_its_default() -> None:
    inner = create_model("Augmentation", crop=(int, 0), flip=(bool, False))
    outer = create_model(
        "TrainingConfig", __base__=TrainingConfig, augmentation=(inner | None, None)
    )
    before = result_content(TrainingConfig())
    assert result_content(outer()) == before
    with_crop = result_content(outer(augmentation={"crop": 2}))
    assert with_crop == {**before, "augmentation": {"crop": 2}}
    # Asked for with all its defaults, it is not the same as not asked for.
    assert result_content(outer(augmentation={})) == {**before, "augmentation": {}}


def test_an_optimizers_own_constants_enter_as_they_are_given() -> None:
    plain = result_content(OptimizerConfig(name="lion"))
    assert plain == {"name": "lion", "momentum": 0.0, "weight_decay": 0.0}
    own = result_content(OptimizerConfig(name="lion", betas=(0.9, 0.99), cautious=True))
    assert own == {**plain, "betas": [0.9, 0.99], "cautious": True}


def test_the_options_of_a_source_enter_as_they_are_given() -> None:
    part = {"source": "noisy", "options": {"noise": 0.1}}
    with_options = plan(parse_config({**SMALL, "data": part}))[0]
    without = plan(parse_config({**SMALL, "data": {"source": "noisy"}}))[0]
    assert with_options.network_id != without.network_id
    again = TrialSpec.model_validate_json(with_options.model_dump_json())
    assert again.trial_id == with_options.trial_id


def test_the_keys_of_version_0_1_are_keys_of_the_schema() -> None:
    parts = {**vars(schema), **vars(axes), "TrialSpec": TrialSpec}
    for declared in (identity._OF_0_1, identity._WITHOUT_RESULT):
        for part, keys in declared.items():
            assert keys <= set(parts[part].model_fields), part
