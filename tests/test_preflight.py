"""What is refused before a study starts, by the key of the study file that is at fault."""

from __future__ import annotations

from typing import Any

import pytest

from flatscale.data import load_points
from flatscale.errors import ConfigError, DataError, FlatscaleError, ModelError
from flatscale.preflight import check_networks, check_study
from flatscale.study.reading import parse_config

STUDY: dict[str, Any] = {
    "name": "study",
    "models": [{"architecture": "mlp"}, {"architecture": "lenet", "training": {"max_steps": 9}}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16]},
}


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        (
            {"training": {"optimizer": {"momentun": 0.9}}},
            ConfigError,
            (
                "training.optimizer: unknown option 'momentun' (did you mean 'momentum'?); "
                "allowed: momentum, weight_decay"
            ),
        ),
        (
            {"training": {"optimizer": {"name": "sdg"}}},
            ConfigError,
            "training.optimizer: unknown optimizer 'sdg' (did you mean 'sgd'?); known: sgd",
        ),
        (
            {"models": [{"architecture": "mlp", "training": {"loss": "squared"}}]},
            ConfigError,
            (
                "models[0].training.loss: unknown loss 'squared' (did you mean 'squared_error'?); "
                "known: cross_entropy, half_squared_error, squared_error"
            ),
        ),
        (
            {"models": [{"architecture": "mlp"}, {"architecture": "lennet"}]},
            ModelError,
            (
                "models[1]: unknown architecture 'lennet' (did you mean 'lenet'?); "
                "known: lenet, mlp, timm:<name>, vgg11"
            ),
        ),
        (
            {"data": {"source": "digits", "options": {"side": 4}}},
            DataError,
            "data: options of 'digits': unknown option 'side'; it takes none",
        ),
    ],
)
def test_a_fault_is_named_with_its_key(
    parts: dict[str, Any], kind: type[FlatscaleError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        check_study(parse_config({**STUDY, **parts}))
    assert str(caught.value) == said


def test_every_fault_is_named_at_once() -> None:
    wrong = {"data": {"source": "digit"}, "training": {"loss": "los"}, "analysis": {"log": ["mll"]}}
    with pytest.raises(ConfigError) as caught:
        check_study(parse_config({**STUDY, **wrong}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "the study cannot run:"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  data",
        "  training.loss",
        "  measurement",
        "  analysis.log",
    ]
    assert "'mls'" in lines[-1]


def test_networks_that_do_not_fit_the_images_are_named_before_anything_starts() -> None:
    models = [
        {"architecture": "mlp"},
        {"architecture": "timm:levit_128s"},
        {"architecture": "timm:resnet10t", "options": {"foo": 1}},
    ]
    config = parse_config({**STUDY, "models": models})
    with pytest.raises(ModelError) as caught:
        check_networks(config, load_points(config).dataset)
    assert "models[1]: 'timm:levit_128s' does not take images (1, 8, 8)" in str(caught.value)
    assert "models[2]: timm cannot build 'timm:resnet10t'" in str(caught.value)
