"""86 mistakes of a user: each is answered with what is wrong, where, and what to do."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch import nn

from flatscale import analyze, load_network, load_results, measure
from flatscale.errors import FlatscaleError
from flatscale.preflight import check_study, study_points
from flatscale.study.reading import load_config
from tests.oracles.networks import case

STUDY: dict[str, Any] = {
    "name": "study",
    "data": {"source": "digits", "classes": [0, 1, 2], "train_size": 60},
    "models": [{"architecture": "mlp", "options": {"width": 16}}],
    "design": {"kind": "grid", "learning_rate": [0.1, 0.3], "batch_size": [20]},
    "training": {"stop_loss": 0.05, "max_steps": 400},
    "measurement": {"probe_size": 21, "metrics": ["mls", "sharpness"]},
    "analysis": {"primary": ["sharpness", "mls"]},
}
NOTHING = object()
_SOBOL = {"kind": "sobol", "learning_rate": {"low": 1, "high": 0.1}}
_RANGE = {"kind": "grid", "axes": {"training.momentun": [0.1]}}

# The key that is wrong, what it is set to, and what the message says: where, what, what to do.
STUDIES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("name", NOTHING, ("name: required, but not given",)),
    ("name", "../up", ("name: must be letters, digits", "the first a letter", "'../up'")),
    ("name", 3, ("name: input should be a valid string; found 3",)),
    ("desgin", {}, ("desgin: unknown key (did you mean 'design'?); allowed here: name",)),
    ("seed", -1, ("seed:", "greater than or equal to 0; found -1")),
    ("seed", "zero", ("seed:", "valid integer", "found 'zero'")),
    ("models", "mlp", ("models: must be a list, such as ['mlp']; found 'mlp'",)),
    ("models", ["mlp"], ("models[0]: must be a mapping", "did you mean {architecture: 'mlp'}?")),
    ("models", [], ("models: must have at least 1 item; found []",)),
    ("models", NOTHING, ("models: required, but not given; a list is expected",)),
    ("models.0.architecture", "lennet", ("models[0]: unknown", "(did you mean 'lenet'?); known:")),
    ("models.0.architecture", NOTHING, ("models[0].architecture: required",)),
    ("models.0.options.widht", 5, ("models[0]", "'widht' (did you mean 'width'?); allowed: ")),
    ("models.0.options.width", "wide", ("models[0]", "'width'", "valid integer; found 'wide'")),
    ("models.0.options.width", -3, ("models[0]", "'width'", "equal to 1; found -3")),
    ("models.0.options", [1], ("models[0].options: must be a mapping; found [1]",)),
    ("design", NOTHING, ("design: required, but not given",)),
    ("design.kind", "gird", ("design: must be a mapping of kind 'grid'", "'gird'")),
    ("design", _SOBOL, ("design.learning_rate: low (1) must be smaller than high (0.1)",)),
    ("design", _RANGE, ("training.momentun: is no key of data, model", "did you mean")),
    ("design.learning_rate", [], ("design.learning_rate: must have at least 1 item; found []",)),
    ("design.learning_rate", 0.1, ("design.learning_rate: must be a list, such as [0.1]",)),
    ("design.learning_rate", ["fast"], ("design.learning_rate[0]:", "number", "found 'fast'")),
    ("design.learning_rate", [0], ("design.learning_rate[0]:", "greater than 0; found 0")),
    ("design.learning_rate", [0.1, 0.1], ("design.learning_rate: a level is listed twice",)),
    ("design.batch_size", [2.5], ("design.batch_size[0]:", "valid integer", "found 2.5")),
    ("design.num_seeds", 0, ("design.num_seeds:", "equal to 1; found 0")),
    ("data.source", "digit", ("data: unknown data source 'digit' (did you mean 'digits'?)",)),
    ("data.source", "cifar10", ("data.source 'cifar10' needs data.path",)),
    ("data.classes", [0, 17], ("data.classes: class index must be in 0..9, found 17",)),
    ("data.classes", [3], ("data.classes: must have at least 2 items; found [3]",)),
    ("data.train_size", 10**6, ("data.train_size: 1000000 images", "are only 430")),
    ("data.label_noise", 1.5, ("data.label_noise:", "less than or equal to 1; found 1.5")),
    ("data.options", {"side": 4}, ("data: options of 'digits': unknown option 'side'",)),
    ("training.loss", "squared", ("training.loss: unknown loss", "did you mean 'squared_error'?")),
    ("training.optimizer", {"name": "sdg"}, ("training.optimizer:", "did you mean 'sgd'?")),
    ("training.optimizer", {"momentun": 0.9}, ("training.optimizer:", "did you mean 'momentum'?")),
    ("training.max_steps", "many", ("training.max_steps:", "valid integer", "found 'many'")),
    ("training.stop_loss", -1, ("training.stop_loss:", "greater than 0; found -1")),
    ("training.schedule", {"name": "cosin"}, ("training.schedule:", "did you mean 'cosine'?")),
    ("measurement.metrics", ["mlz"], ("measurement: unknown metric", "did you mean 'mls'?")),
    ("measurement.metrics", "mls", ("measurement.metrics: must be a list, such as ['mls']",)),
    ("measurement.probe_size", 10**6, ("measurement.probe_size: 1000000 images", "are only 60")),
    ("measurement.options", {"sharpnes": {}}, ("measurement: unknown", "mean 'sharpness'?")),
    ("analysis.primary", ["sharpness", "mlz"], ("analysis.primary: unknown column 'mlz'", "mls")),
    ("analysis.log", ["mll"], ("analysis.log: unknown column 'mll' (did you mean 'mls'?)",)),
    ("plugins", ["no_such_module"], ("plugins: cannot import 'no_such_module'", "installed, or")),
    ("tracking.url", "x", ("tracking.url: unknown key (did you mean 'uri'?); allowed here: uri",)),
]

MODEL, X, Y = case("mlp", num_points=6)
LENET, IMAGES, LABELS = case("lenet", num_points=6)
TABLE = pl.DataFrame(
    {
        "net": [f"n{row}" for row in range(24)],
        "family": ["a", "b"] * 12,
        "x": np.arange(24.0),
        "y": np.arange(24.0) ** 2,
        "text": ["t"] * 24,
    }
)
A_SET = "the probe set must be (x, y), a Dataset, or an iterable of (x, y) batches; found "
RHO = {"adaptive_sharpness": {"rho": -1}}
SHAPE = "points of shape (3,)"


def ask(data: Any = (X, Y), metrics: Any = ("mls",), model: Any = MODEL, **rest: Any) -> Any:
    return measure(model, data, metrics, **rest)


def options(chosen: Any) -> Any:
    return ask(metrics=["adaptive_sharpness"], options=chosen)


def of_table(**changed: Any) -> Any:
    return analyze(changed.pop("df", TABLE), **{"x": "x", "y": "y", **changed})


# What is called, and what the message says.
CALLS: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: ask(metrics="mls"), ("metrics must be a list of names: ['mls'], not 'mls'",)),
    (lambda: ask(metrics=["mlz"]), ("unknown metric 'mlz' (did you mean 'mls'?); known:",)),
    (lambda: ask(metrics=[]), ("metrics names none; leave it out for the default set",)),
    (lambda: ask(metrics=[3]), ("metrics must be names, such as 'mls'; found 3",)),
    (lambda: ask([{"image": X, "label": Y}]), ("probe set's batches are mappings", "give pairs")),
    (lambda: ask(list(zip(X, Y, strict=True))), ("probe set gives single points", "DataLoader")),
    (lambda: ask([]), ("the probe set has no batches",)),
    (lambda: ask(X), (A_SET + "Tensor",)),
    (lambda: ask(None), (A_SET + "None",)),
    (lambda: ask(7), (A_SET + "int",)),
    (lambda: ask((X[:, :3], Y)), ("does not take the inputs of the probe set", SHAPE)),
    (lambda: ask(train=(X[:, :3], Y)), ("does not take the inputs of the train set", SHAPE)),
    (lambda: ask(((255 * IMAGES).byte(), LABELS), model=LENET), ("probe set", "torch.uint8")),
    (lambda: ask((X, Y[:3])), ("the probe set must have one target for each input; found 6", "3")),
    (lambda: ask((X, 3)), ("the probe set must have one target for each input", "shape ()")),
    (lambda: ask(model=lambda x: x), ("model must be a torch.nn.Module; found function",)),
    (lambda: ask(model=nn.Linear), ("the model must be a torch.nn.Module; found type",)),
    (lambda: ask(loss="cross_entrop"), ("unknown loss", "did you mean 'cross_entropy'?); known:")),
    (lambda: ask(output_map="softmx"), ("unknown output map", "did you mean 'softmax'?); known:")),
    (lambda: options({"adaptive_sharpness": {"roh": 1}}), ("unknown option 'roh'", "'rho'?")),
    (lambda: options({"adaptive_sharpnes": {}}), ("did you mean 'adaptive_sharpness'?",)),
    (lambda: options(RHO), ("options.adaptive_sharpness: 'rho':", "greater than 0; found -1")),
    (lambda: options(["rho"]), ("options must map a metric to its options", "found ['rho']")),
    (lambda: options({"adaptive_sharpness": 3}), ("options.adaptive_sharpness must be a", "3")),
    (lambda: ask(batch_size=0), ("batch_size must be a number of points, at least 1", "found 0")),
    (lambda: ask(batch_size="4"), ("batch_size must be a number of points", "found '4'")),
    (lambda: ask(device="gpu"), ("device: 'gpu' cannot be used", "this machine has cpu")),
    (lambda: ask(device="cuda:99"), ("device: 'cuda:99' cannot be used", "this machine has cpu")),
    (lambda: load_results("/nowhere"), ("/nowhere is not a results store", "Give the folder")),
    (lambda: load_network("/nowhere", "t"), ("/nowhere is not a results store", "Give the folder")),
    (lambda: of_table(df="t.csv"), ("must be a polars DataFrame, found str", "read_table(path)")),
    (
        lambda: of_table(x="xx"),
        ("the table has no column 'xx' (did you mean 'x'?)", "columns: net"),
    ),
    (lambda: of_table(y="x"), ("x and y are the same column, 'x'; name two",)),
    (lambda: of_table(x="text"), ("column 'text' must hold numbers", "row 1 holds 't'")),
    (lambda: of_table(family="famly"), ("no column 'famly' (did you mean 'family'?)",)),
    (lambda: of_table(log=["z"]), ("the table has no column 'z'; its columns: net, family",)),
    (lambda: of_table(log="x"), ("log must be a list of columns: ['x'], not 'x'",)),
    (lambda: of_table(covariates=["netz"]), ("no column 'netz' (did you mean 'net'?)",)),
]


def test_there_are_as_many_as_a_first_week_had() -> None:
    assert (len(STUDIES), len(CALLS)) == (48, 38)


def _wrong(key: str, value: Any) -> dict[str, Any]:
    """The study with one key set, or taken away."""
    study = copy.deepcopy(STUDY)
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    node: Any = study
    for parent in parents:
        node = node[parent] if isinstance(parent, int) else node.setdefault(parent, {})
    if value is NOTHING:
        del node[last]
    else:
        node[last] = value
    return study


def _read_as_run_does(file: Path) -> None:
    study = load_config(file)
    study_points(study, check_study(study))


def _check(message: str, words: tuple[str, ...]) -> None:
    """What was expected is said, in words for people, and shortly."""
    for word in words:
        assert word in message, message
    assert not re.search(
        r"Traceback|File \"|validation error|tuple should|<class |0x[0-9a-f]{6}", message
    )
    assert all(len(line) < 2_500 for line in message.splitlines())


@pytest.mark.parametrize(("key", "value", "words"), STUDIES)
def test_a_wrong_study_file(key: str, value: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(_wrong(key, value)))
    with pytest.raises(FlatscaleError) as caught:
        _read_as_run_does(file)
    _check(str(caught.value), words)


@pytest.mark.parametrize(("call", "words"), CALLS)
def test_a_wrong_call(call: Callable[[], Any], words: tuple[str, ...]) -> None:
    with pytest.raises(FlatscaleError) as caught:
        call()
    _check(str(caught.value), words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nname: b\n", "study.yaml is not valid YAML: the key 'name' is given twice, in "),
        ("name: x\n\tmodels: 1", "line 2, column 1"),
        ("", "study.yaml must hold a mapping with the keys name"),
        ("[1, 2]", "found list"),
    ],
)
def test_a_file_that_is_no_study(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(FlatscaleError) as caught:
        load_config(file)
    _check(str(caught.value), (words, "study.yaml"))


def test_what_was_not_measured_is_said_with_what_was() -> None:
    with pytest.raises(KeyError, match="'sharpness' was not measured here; measured: mls"):
        ask(metrics=["mls"])["sharpness"]
    assert torch.is_grad_enabled()
