"""What is refused before a study starts, by the key of the study file that is at fault."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from flatscale.cluster.trial import describe
from flatscale.data import load_points
from flatscale.errors import ConfigError, DataError, FlatscaleError, ModelError
from flatscale.preflight import check_networks, check_study, say_what_is_clipped
from flatscale.study.reading import parse_config

STUDY: dict[str, Any] = {
    "name": "study",
    "models": [{"architecture": "mlp"}, {"architecture": "lenet", "training": {"max_steps": 9}}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16]},
}

TABLE = {"source": "sklearn", "options": {"name": "diabetes"}}


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        (
            {"training": {"optimizer": {"momentun": 0.9}}},
            ConfigError,
            (
                "training.optimizer: unknown option 'momentun' (did you mean 'momentum'?); "
                "allowed: momentum, weight_decay, nesterov"
            ),
        ),
        (
            {"training": {"optimizer": {"name": "sdg"}}},
            ConfigError,
            (
                "training.optimizer: unknown optimizer 'sdg' (did you mean 'sgd'?); "
                "known: adam, adamw, asam, rmsprop, sam, sgd, timm:<name>"
            ),
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
                "known: lenet, mlp, modelzoo_cnn, timm:<name>, transformer, vgg11"
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


def test_options_are_checked_on_every_level_of_an_axis() -> None:
    axes = {
        "training.learning_rate": [0.1],
        "training.batch_size": [16],
        "training.optimizer": ["sgd", {"momentun": 0.9}, "sdg"],
        "model.options.width": [50, "wide"],
        "data": [{"source": "digits"}, {"source": "digit"}],
        "measurement.metrics": [["mls"], ["mlz"]],
        "training.loss": ["squared"],
    }
    analysis = {"covariates": ["width", "optimiser"], "primary": ["model.options.width", "mls"]}
    models = [{"architecture": "mlp"}]
    with pytest.raises(ConfigError) as caught:
        check_study(
            parse_config(
                {**STUDY, "models": models, "design": {"axes": axes}, "analysis": analysis}
            )
        )
    said = str(caught.value)
    for words in (
        "  data (data=digit): unknown data source 'digit'",
        "  models[0] (model.options.width=wide): options of 'mlp': 'width'",
        "  training.optimizer (training.optimizer=momentun=0.9, training.loss=squared): unknown",
        "  training.optimizer (training.optimizer=sdg, training.loss=squared): unknown optimizer",
        "training.loss=squared): unknown loss 'squared' (did you mean 'squared_error'?)",
        "  measurement (measurement.metrics=mlz): unknown metric 'mlz' (did you mean 'mls'?)",
        "  analysis.covariates: unknown column 'optimiser' (did you mean",
    ):
        assert words in said, said
    assert "model.options.width=50" not in said
    assert "analysis.primary" not in said


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


def test_an_outcome_that_is_not_measured_is_said(caplog: pytest.LogCaptureFixture) -> None:
    measurement = {"metrics": ["mls", "sharpness", "test_loss"]}
    outcomes = {"outcomes": ["loss_gap", "test_loss"]}
    check_study(parse_config({**STUDY, "measurement": measurement}))
    assert not caplog.records  # the default outcomes were not asked for
    check_study(parse_config({**STUDY, "measurement": measurement, "analysis": outcomes}))
    (said,) = [entry.getMessage() for entry in caplog.records]
    assert said.startswith("analysis.outcomes: 'loss_gap' is not measured")


def test_a_batch_larger_than_the_data_is_said_and_recorded_as_what_was_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    design = {"kind": "grid", "learning_rate": [0.1], "batch_size": [16, 64], "num_seeds": 3}
    data = {"source": "digits", "train_size": 20, "test_size": 20}
    parts = {"design": design, "data": data, "measurement": {"probe_size": 10}}
    config = parse_config({**STUDY, **parts})
    specs, dataset = check_study(config), load_points(config).dataset
    say_what_is_clipped(specs, dataset)
    (said,) = [entry.getMessage() for entry in caplog.records]
    assert "64 is more than the 20 training images; the 6 trials" in said
    assert {(s.batch_size, describe(s, dataset).batch_size) for s in specs} == {(16, 16), (64, 20)}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"models": ["mlp"]},
            (
                "models[0]: must be a mapping with the keys architecture, family, options, design, "
                "training, name, weights, preprocessing, outcomes; found 'mlp' "
                "(did you mean {architecture: 'mlp'}?)"
            ),
        ),
        (
            {"measurement": {"metrics": "mls"}},
            "measurement.metrics: must be a list, such as ['mls']; found 'mls'",
        ),
        ({"data": {"classes": [3]}}, "data.classes: must have at least 2 items; found [3]"),
    ],
)
def test_a_name_where_a_mapping_or_a_list_belongs(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**STUDY, **parts})
    first, *more = str(caught.value).splitlines()[1:]
    assert first.strip().startswith(said)
    assert not more


def test_a_metrics_typo_in_the_measuring_job_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).resolve().parents[1]
    arguments = ["measure.py", str(root / "configs" / "quickstart.yaml"), "mlss"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert runpy.run_path(str(root / "jobs" / "measure.py"))["main"]() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: measurement: unknown metric 'mlss' (did you mean 'mls'?)")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"models": [{"architecture": "lenet"}], "data": TABLE},
            "models[0]: 'lenet' takes images; the data are table rows (10,)",
        ),
        (
            {"models": [{"architecture": "transformer"}], "data": {}},
            "models[0]: 'transformer' takes tokens; the data are images (1, 8, 8)",
        ),
        (
            {"data": TABLE, "training": {"loss": "cross_entropy"}},
            (
                "training.loss: 'cross_entropy' is a loss of classification, and 'sklearn' is a "
                "regression; use one of squared_error, half_squared_error"
            ),
        ),
        (
            {"data": TABLE, "training": {"stop_accuracy": 1.0}},
            "training.stop_accuracy: is for classes; 'sklearn' has numbers to predict",
        ),
        (
            {"data": TABLE, "training": {"augmentation": ["RandomInvert"]}},
            "training.augmentation: is for images; 'sklearn' has table inputs",
        ),
        (
            {"training": {"augmentation": [{"name": "CenterCrop", "size": 4}]}},
            (
                "training.augmentation: the transforms make (1, 4, 4) torch.float32 of an image "
                "(1, 8, 8) torch.float32; its shape and type must stay"
            ),
        ),
        (
            {"training": {"patience": 3}},
            "training.patience: needs points held out: set data.held_out_size",
        ),
    ],
)
def test_what_does_not_fit_the_data_is_one_sentence(parts: dict[str, Any], said: str) -> None:
    config = parse_config({**STUDY, "models": [{"architecture": "mlp"}], **parts})
    check_study(config)
    with pytest.raises(FlatscaleError) as caught:
        check_networks(config, load_points(config).dataset)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert said in (lines[0], *lines[1:])
