"""What is measured of a regression, and of a network over tokens."""

from __future__ import annotations

import pytest
import torch

from flatscale import measure
from flatscale.data import load_dataset
from flatscale.models import build_model
from flatscale.study.schema import DEFAULT_METRICS, DataConfig


def test_a_regression_has_losses_and_no_accuracy() -> None:
    config = DataConfig(source="teacher_student", options={"num_outputs": 2, "num_train": 12})
    data = load_dataset(config, seed=0)
    network = build_model("mlp", data.input_shape, 2, {"width": 6}, seed=0)
    sets = {
        "train": (torch.tensor(data.x_train), torch.tensor(data.y_train)),
        "test": (torch.tensor(data.x_test[:20]), torch.tensor(data.y_test[:20])),
    }
    report = measure(network, sets["train"], DEFAULT_METRICS, **sets)
    reason = "the targets are numbers, not classes, so there is no accuracy"
    for name, measured in report.items():
        if "accuracy" in name or name == "generalization_gap":
            assert (measured.value, measured.reason) == (None, reason), name
        else:
            assert measured.value is not None, (name, measured.reason)
    with torch.no_grad():
        off = network.eval()(sets["train"][0]) - sets["train"][1]
    expected = 0.5 * off.square().sum(dim=1).mean().item()
    assert report["train_loss"].value == pytest.approx(expected, rel=1e-5)


def test_shares_of_classes_have_an_accuracy() -> None:
    network = torch.nn.Linear(2, 2)
    x, y = torch.rand(9, 2), torch.rand(9, 1)
    shares = torch.cat([y, 1 - y], dim=1)
    report = measure(network, (x, shares), ["train_accuracy"], train=(x, shares))
    expected = (network(x).argmax(1) == shares.argmax(1)).double().mean().item()
    assert report["train_accuracy"].value == pytest.approx(expected)


def test_local_sensitivity_of_tokens_is_by_their_one_hot_rows() -> None:
    config = DataConfig(source="modular_arithmetic", options={"modulus": 5})
    data = load_dataset(config, seed=0)
    options = {"width": 8, "heads": 2, "hidden": 8}
    network = build_model("transformer", data.input_shape, 5, options, seed=0).eval()
    x, y = torch.tensor(data.x_train[:4]), torch.tensor(data.y_train[:4])
    report = measure(network, (x, y), ["mls", "sharpness"])
    jacobians = [torch.autograd.functional.jacobian(network, row[None]).reshape(5, -1) for row in x]
    norms = torch.stack([torch.linalg.matrix_norm(j, 2) for j in jacobians])
    assert report["mls"].value == pytest.approx(norms.mean().item(), rel=1e-4)
    assert report["sharpness"].value is not None, report["sharpness"].reason
