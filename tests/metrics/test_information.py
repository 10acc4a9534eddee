"""The information plane: closed forms, a second implementation, and what is known of its limits."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError
from flatscale.metrics import measure
from flatscale.metrics.estimators.entropy import shared_surprisal, surprisal
from flatscale.metrics.registration import resolve_options
from flatscale.study.schema import TrainingConfig
from flatscale.training import train

BOTH = ["input_information", "label_information"]


def of(model, x, y, **options):
    found = measure(model, (x, y), BOTH, train=(x, y), options={"activation_bins": options})
    return [found[name] for name in BOTH]


def by_counting(codes: list[tuple], labels: list) -> tuple[float, float]:
    """I(X; T) and I(T; Y) in bits from three dictionaries of counts."""
    n = len(codes)

    def entropy(values: list) -> float:
        return -sum(c / n * math.log2(c / n) for c in Counter(values).values())

    joint = entropy(list(zip(codes, labels, strict=True)))
    return entropy(codes), entropy(codes) + entropy(labels) - joint


def identity(size: int) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(size))
    return layer


def test_the_identity_of_distinct_points_tells_all_of_them_apart() -> None:
    x = torch.arange(16.0).reshape(16, 1)
    inputs, labels = of(nn.Sequential(identity(1), identity(1)), x, torch.arange(16) % 2)
    assert inputs.value == pytest.approx(4.0)
    assert labels.value == pytest.approx(1.0)
    assert inputs.layers == pytest.approx({"1": 4.0, "outputs": 4.0})
    assert inputs.extras["log2_n"] == pytest.approx((4.0,))
    assert "100% of the points have bins of their own" in (inputs.reason or "")


def test_a_constant_layer_tells_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    found = of(model, torch.randn(20, 3), torch.arange(20) % 2)
    assert [m.layers for m in found] == [{"2": 0.0, "outputs": 0.0}] * 2
    assert [m.value for m in found] == [0.0, 0.0]
    assert found[0].reason is None


def test_a_partition_has_the_entropy_of_its_parts() -> None:
    # Bins [0, 1), [1, 2), [2, 3), [3, 4] hold 8, 4, 2 and 2 of 16 points: 1.75 bits.
    x = torch.tensor([0.1] * 8 + [1.5] * 4 + [2.5] * 2 + [3.9] * 2)[:, None]
    model = nn.Sequential(identity(1), identity(1))
    inputs, labels = of(model, x, (x[:, 0] >= 1).long(), num_bins=4, low=0.0, high=4.0)
    assert inputs.value == pytest.approx(1.75)
    assert labels.value == pytest.approx(1.0)
    # A label that the layer's parts say nothing of.
    labels = of(model, x, torch.arange(16) % 2, num_bins=4, low=0.0, high=4.0)[1]
    assert labels.value == pytest.approx(0.0, abs=1e-12)


def test_it_is_counting() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(120, 5), torch.randint(0, 3, (120,))
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))
    for options in ({"num_bins": 5}, {"num_bins": 4, "low": -1.0, "high": 1.0}):
        found = of(model, x, y, **options)
        with torch.no_grad():
            reads = {"2": model[:2](x), "4": model[:4](x), "outputs": model(x)}
        for layer, read in reads.items():
            low, high = (
                options.get("low", read.min().item()),
                options.get("high", read.max().item()),
            )
            edges = [
                low + (high - low) * k / options["num_bins"] for k in range(1, options["num_bins"])
            ]
            codes = [tuple(sum(v >= e for e in edges) for v in row) for row in read.tolist()]
            expected = by_counting(codes, y.tolist())
            assert [m.layers[layer] for m in found] == pytest.approx(expected), (options, layer)
        assert found[0].value == found[0].layers["4"]


def test_numbers_as_targets_are_binned_and_shards_agree() -> None:
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(40, 2)
    y = x[:, :1].clone()
    found = of(model, x, y, num_bins=3)
    low, high = y.min().item(), y.max().item()
    parts = [min(2, int(3 * (v - low) / (high - low))) for v in y[:, 0].tolist()]
    with torch.no_grad():
        read = model[:2](x)
    edges = [read.max().item() * k / 3 for k in (1, 2)]
    codes = [tuple(sum(v >= e for e in edges) for v in row) for row in read.tolist()]
    assert [m.value for m in found] == pytest.approx(by_counting(codes, parts))


def test_the_standard_error_is_that_of_a_mean_of_surprisals() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    terms = [surprisal(rng.choice(4, 400, p=shares)) for _ in range(400)]
    entropies = [found.mean() for found in terms]
    assert np.mean(entropies) == pytest.approx(1.75 - 3 / (800 * math.log(2)), abs=0.005)
    errors = [found.std() / 20 for found in terms]
    assert np.mean(errors) == pytest.approx(np.std(entropies), rel=0.15)
    independent = shared_surprisal(rng.integers(0, 3, 900), rng.integers(0, 4, 900))
    assert 0 <= independent.mean() < 0.02


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"low": 0.0}, "low and high go together"),
        ({"low": 1.0, "high": 0.0}, "low must be below high"),
        ({"num_bins": 1}, "num_bins"),
    ],
)
def test_bins_that_are_none_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_options({"input_information": options})


@pytest.mark.slow
def test_tanh_compresses_and_relu_does_not() -> None:
    """Saxe et al. 2018, figure 1: the second phase is the saturation of tanh, binned."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.choice([-1.0, 1.0], (512, 12)), dtype=torch.float32)
    y = (
        (x[:, :6] @ torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float32)).tanh().sum(1) > 0
    ).long()

    def last_hidden(activation: type[nn.Module]) -> list[float]:
        torch.manual_seed(3)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([12, 10, 7, 5, 4, 3]):
            layers += [nn.Linear(a, b), activation()]
        model = nn.Sequential(*layers, nn.Linear(3, 2))
        kept: list[nn.Module] = []
        train(
            model,
            x,
            y,
            TrainingConfig(
                loss="cross_entropy", stop_loss=None, max_steps=1500, optimizer={"name": "adam"}
            ),
            learning_rate=0.004,
            batch_size=64,
            seed=0,
            snapshot_steps=sorted({int(step) for step in np.geomspace(1, 1499, 12)}),
            on_snapshot=lambda step, network: kept.append(copy.deepcopy(network)),
        )
        with torch.no_grad():
            largest = max(float(network[:-1](x).max()) for network in kept)
        ends = (-1.0, 1.0) if activation is nn.Tanh else (0.0, largest)
        return [of(n, x, y, low=ends[0], high=ends[1])[0].value for n in kept]

    tanh, relu = last_hidden(nn.Tanh), last_hidden(nn.ReLU)
    assert max(tanh) - tanh[-1] > 1, tanh
    assert max(relu) - relu[-1] < 0.25, relu
