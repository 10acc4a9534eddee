"""What a new user hands to measure() by mistake: one sentence, and what can be measured is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flatscale.errors import ConfigError, DataError, FlatscaleError, MetricError
from flatscale.metrics import (
    LocalObserver,
    Report,
    measure,
    measure_observers,
    metric_catalog,
)
from flatscale.metrics.measure import _is_at, _measurable
from tests.metrics.quick import QUICK
from tests.oracles.networks import case

METRICS = ["mls", "sharpness", "adaptive_sharpness"]


def quick(model: nn.Module, data: Any, metrics: Any = METRICS, **rest: Any) -> Report:
    return measure(model, data, metrics, options=QUICK, **rest)


def values(report: Report) -> list[float | None]:
    return [report[name].value for name in METRICS]


MODEL, X, Y = case("mlp", num_points=6)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: measure(MODEL, (X, Y), "mls"),
            ConfigError,
            r"must be a list of names: \['mls'\], not 'mls'",
        ),
        (lambda: measure(MODEL, (X, Y), "mlz"), ConfigError, r"did you mean 'mls'"),
        (
            lambda: measure(MODEL, [{"image": X, "label": Y}]),
            DataError,
            r"probe set's batches are mappings with the keys 'image', 'label'.*b\[\"image\"\]",
        ),
        (
            lambda: measure(MODEL, list(zip(X, Y, strict=True))),
            DataError,
            r"gives single points, not batches: wrap it in torch.utils.data.DataLoader",
        ),
        (lambda: measure(MODEL, []), DataError, r"the probe set has no batches"),
        (
            lambda: measure(MODEL, (X[:, :3], Y)),
            MetricError,
            r"does not take the inputs of the probe set, 6 points of shape \(3,\).*4x3 and 12x20",
        ),
        (
            lambda: measure(MODEL, (X, Y), train=(X[:, :3], Y)),
            MetricError,
            r"inputs of the train set",
        ),
        (
            lambda: measure(case("lenet")[0], ((255 * case("lenet")[1]).byte(), Y[:5])),
            MetricError,
            r"points of shape \(1, 14, 14\) and type torch.uint8: .*type",
        ),
    ],
)
def test_what_cannot_be_measured_at_all_is_one_sentence(
    call: Callable[[], Report], kind: type[FlatscaleError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_without_targets_is_measured_what_needs_none() -> None:
    own = [i for i in metric_catalog() if i.function.__module__.startswith("flatscale.")]
    names = [info.name for info in own if info.observers == ("probe",)]
    expected, found = quick(MODEL, (X, Y), names), quick(MODEL, (X, None), names)
    for name in ("mls", "nmls", "log_lvr", "sharpness", "local_dimensionality"):
        assert found[name].value == expected[name].value, name
    missing = [name for name in names if found[name].value is None]
    assert {"adaptive_sharpness", "top_eigenvalue", "worst_case_sharpness"} <= set(missing)
    for name in missing:
        assert expected[name].value is None or "the probe set has no targets" in found[name].reason
    assert found.probe_hash != expected.probe_hash


def test_labels_outside_the_classes_spoil_only_what_needs_labels() -> None:
    report = quick(MODEL, (X, Y + 3))
    assert report["mls"].value == quick(MODEL, (X, Y))["mls"].value
    assert "class indices must lie in 0..3, one per output" in report["adaptive_sharpness"].reason


@pytest.mark.parametrize("wrap", [TensorDataset, lambda *xy: DataLoader(TensorDataset(*xy), 4)])
def test_a_dataset_is_measured_like_its_tensors(wrap: Callable[..., Any]) -> None:
    assert values(quick(MODEL, wrap(X, Y))) == values(quick(MODEL, (X, Y)))


def test_a_compiled_module_is_measured_as_the_module_that_was_compiled() -> None:
    expected = values(quick(MODEL, (X, Y)))

    def never(graph: Any, inputs: Any) -> Any:
        raise AssertionError("compiled")

    inner = nn.Sequential(*(torch.compile(layer, backend=never) for layer in MODEL))
    for model in (torch.compile(MODEL, backend=never), inner):
        assert values(quick(model, (X, Y))) == expected


def test_what_was_made_in_inference_mode_is_measured_there_too() -> None:
    expected = values(quick(MODEL, (X, Y)))
    with torch.inference_mode():
        model, x, y = case("mlp", num_points=6)
        assert all(parameter.is_inference() for parameter in model.parameters())
        assert values(quick(model, (x, y))) == expected
        assert all(parameter.is_inference() for parameter in model.parameters())


class Batchwise(nn.Module):
    """BatchNorm without running statistics, or dropout that stays on."""

    def __init__(self, *, chance: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4 * 36, 3)
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = nn.functional.dropout(x, 0.2, training=True) if self.chance else self.norm(x)
        return self.head(torch.tanh(x).flatten(1))


@pytest.mark.parametrize(
    ("chance", "words"),
    [(True, "draws random numbers in eval mode"), (False, "no function of the point alone")],
)
def test_a_network_that_is_no_function_of_the_point_is_found_out(chance: bool, words: str) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 3
    report = quick(Batchwise(chance=chance), (x, y), [*METRICS, "train_loss"], train=(x, y))
    for measured in report.values():
        assert measured.value is not None
        assert words in measured.reason


@pytest.mark.parametrize("name", ["mlp", "lenet", "vgg", "grouped", "tokens"])
def test_networks_that_are_functions_of_the_point_are_not_suspected(name: str) -> None:
    model, x, y = case(name)
    assert measure(model.train(), (x, y), ["sharpness"])["sharpness"].reason is None


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.w = nn.Parameter(torch.randn(8, 3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x).to(torch.cfloat) @ self.w).abs()


def test_complex_parameters_are_refused_where_theta_is_needed() -> None:
    x, y = torch.rand(5, 6), torch.arange(5) % 3
    report = quick(Complex(), (x, y), [*METRICS, "train_loss"], train=(x, y))
    for name in METRICS:
        assert report[name].value is None
        assert "complex parameters, such as 'w'" in report[name].reason
    assert report["train_loss"].value > 0


def test_an_error_of_the_networks_own_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no forward today")

    with caplog.at_level(logging.ERROR):
        report = quick(Broken(12, 4), (X, Y))
    assert sum(entry.exc_info is not None for entry in caplog.records) == 1
    (row,) = [line for line in str(report).splitlines() if "no forward today" in line]
    assert all(name in str(report) for name in METRICS)
    assert "mls, sharpness" in row


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("cuda:0", "cuda:1", False),
        ("cuda:1", "cuda:1", True),
        ("cuda:1", "cuda", True),
        ("cuda:0", "cpu", False),
        ("cpu", "cpu", True),
        ("cpu", "cuda:0", False),
    ],
)
def test_a_device_is_the_one_that_is_wanted_number_included(
    found: str, wanted: str, same: bool
) -> None:
    assert _is_at(torch.device(found), torch.device(wanted)) is same


def test_a_model_elsewhere_is_copied_there_and_left_where_it_is() -> None:
    model = nn.BatchNorm1d(3)
    assert _measurable(model, "cpu") is model
    moved = _measurable(model, "meta")
    assert {t.device.type for t in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cpu"}


def test_measuring_says_what_it_is_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    observers = {"probe": LocalObserver(MODEL, X, Y)}
    names = ["mls", "sharpness", "adaptive_sharpness"]
    measure_observers(observers, names, options=QUICK, watch=lambda *at: told.append(at))
    assert told == [("jacobian", 0), ("adaptive_perturbation", 2)]
    quick(MODEL, (X, Y))
    assert not capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    quick(MODEL, (X, Y), progress=True)
    assert "/3" in capsys.readouterr().err


def test_a_report_is_shown_in_a_notebook_and_given_to_pandas() -> None:
    report = quick(MODEL, (X, Y), ["mls", "train_loss"])
    assert "mls" in report._repr_html_()
    frame = report.to_pandas()
    assert list(frame["metric"]) == ["mls", "train_loss"]
    assert frame["value"][0] == report["mls"].value
