"""Sharpness under random perturbations: closed forms, calibration, honest convergence."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError
from flatscale.metrics import LocalObserver, held_for_measurement, measure
from flatscale.metrics.passes.perturbation import perturbed_layers, random_rises
from flatscale.metrics.passes.perturbation.perturbed_layers import (
    FlippedWeights,
    OutputNoise,
    OwnWeights,
)
from flatscale.metrics.passes.perturbation.perturbed_network import (
    PerturbedNetwork,
    perturbed_network,
)
from tests.oracles.networks import case


def linear_problem():
    """One Linear layer with squared error: the loss is quadratic: closed forms."""
    torch.manual_seed(5)
    model = nn.Linear(4, 3)
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    squares = x.double().square()
    adaptive = 0.5 * ((squares @ weight.square().T) + bias.square()).sum(dim=1).mean()
    average = 0.5 * 3 * (squares.sum(dim=1) + 1).mean()
    return model, x, y, float(adaptive), float(average)


def as_convolution(model, x):
    """The same function as one convolution over the whole input, perturbed in groups of points."""
    convolution = nn.Conv2d(1, 3, (1, 4))
    with torch.no_grad():
        convolution.weight.copy_(model.weight.reshape(3, 1, 1, 4))
        convolution.bias.copy_(model.bias)
    return nn.Sequential(convolution, nn.Flatten()), x.reshape(-1, 1, 1, 4)


def as_tokens(model, x):
    """The same function as a Linear layer that acts on every token of one."""
    return nn.Sequential(copy.deepcopy(model), nn.Flatten()), x[:, None]


FORMS = {"linear": lambda *pair: pair, "convolution": as_convolution, "tokens": as_tokens}


@pytest.mark.parametrize(
    ("form", "group", "precision"),
    [
        ("linear", 1, "float32"),
        pytest.param("convolution", 3, "float32", marks=pytest.mark.slow),
        pytest.param("tokens", 2, "float32", marks=pytest.mark.slow),
        pytest.param("tokens", 2, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_200_seeds_cover_the_closed_form(form, group, precision):
    model, x, y, adaptive, average = linear_problem()
    model, x = FORMS[form](model, x)
    hits = {"adaptive_sharpness": 0, "average_sharpness": 0}
    truth = {"adaptive_sharpness": adaptive, "average_sharpness": average}
    seeds = 200
    settings = {"points_per_perturbation": group, "max_evaluations": 12, "max_relative_error": 1e-9}
    settings["precision"] = precision
    for seed in range(seeds):
        report = measure(
            model, (x, y), list(hits), seed=seed, options=dict.fromkeys(hits, settings)
        )
        for name, found in report.items():
            hits[name] += abs(found.value - truth[name]) <= 2 * found.std_error
            assert not found.converged
    for name, count in hits.items():
        assert 0.90 <= count / seeds <= 0.99, (name, count / seeds)


def squared(layer, x):
    """The layer with every weight, bias and input squared, as a variance goes through it."""
    layer, x = copy.deepcopy(layer).double(), x.double()
    if not isinstance(layer, NORMS):
        with torch.no_grad():
            for p in layer.parameters():
                p.square_()
            return layer(x.square())
    bare = copy.deepcopy(layer)
    with torch.no_grad():
        bare.weight.fill_(1.0)
        bare.bias.fill_(0.0)
        standard = bare(x).square()
    shape = [1, -1] + [1] * (x.ndim - 2)
    if isinstance(layer, nn.LayerNorm):
        shape = [1] * (x.ndim - 1) + [-1]
    return standard * layer.weight.square().view(shape) + layer.bias.square().view(shape)


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = {
    "vector": (OutputNoise, nn.Linear(5, 4), (5,)),
    "tokens": (OwnWeights, nn.Linear(5, 4), (3, 5)),
    "convolution": (OwnWeights, nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "strided": (OwnWeights, nn.Conv2d(2, 3, 3, stride=2, dilation=2, bias=False), (2, 9, 9)),
    "same": (OwnWeights, nn.Conv1d(2, 3, 3, padding="same"), (2, 7)),
    "layer norm": (OwnWeights, nn.LayerNorm(5), (3, 5)),
    "group norm": (OwnWeights, nn.GroupNorm(2, 4), (4, 3, 3)),
    "batch norm": (OwnWeights, nn.BatchNorm2d(4), (4, 3, 3)),
    "batch norm 1d": (OwnWeights, nn.BatchNorm1d(4), (4,)),
    "flipped convolution": (FlippedWeights, nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "flipped circular": (
        FlippedWeights,
        nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        (2, 7),
    ),
    "flipped tokens": (FlippedWeights, nn.Linear(5, 4, bias=False), (3, 5)),
    "many flipped tokens": (FlippedWeights, nn.Linear(5, 4), (70, 5)),
}


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_perturbed_by_standard_normals_point_by_point(name, adaptive):
    kind, layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(1, *shape).expand(100, *[-1] * len(shape)).contiguous()
    network = PerturbedNetwork(
        model=layer, adaptive=adaptive, layers={"model": kind(layer, adaptive)}, parameters={}
    )
    with torch.no_grad():
        center, moved = layer(x[:1]), []
        for number in range(40):
            rows = network.draw_points(0, number, np.arange(100), x)
            group = network.draw_group(number)
            moved.append(network.outputs(x, group, rows, 0.5)[0] - center)
    assert "forward" not in layer.__dict__
    spread = torch.cat(moved).double()
    if not adaptive:
        with torch.no_grad():
            for p in layer.parameters():
                p.fill_(1.0)
    expected = 0.25 * squared(layer, x[:1])
    if kind is FlippedWeights:  # forty shared draws bound how well a variance can be known
        assert torch.allclose(spread.var(dim=0).mean(), expected.mean(), rtol=0.25)
    else:
        assert torch.allclose(spread.var(dim=0), expected[0], rtol=0.15)
    assert (spread.mean(dim=0).abs() < 5.5 * (expected[0] / 4000).sqrt()).all()
    pairs = (spread[0::2] * spread[1::2]).mean()
    assert abs(pairs) < 0.1 * expected.mean()


def test_one_product_with_a_points_own_weight_is_two_with_flipped_signs(monkeypatch):
    layer = FlippedWeights(nn.Linear(6, 5), adaptive=True)
    x, rows, direction = torch.randn(3, 80, 6), torch.randn(3, layer.width), torch.randn(5, 6)
    with torch.no_grad():
        once = layer.forward(x, rows, direction, -0.3)
        monkeypatch.setattr(perturbed_layers, "_WORTH_A_WEIGHT", 81)
        twice = layer.forward(x, rows, direction, -0.3)
    assert torch.allclose(once, twice, atol=1e-5)
    assert (once - layer.layer(x)).abs().max() > 0.5


def test_bfloat16_agrees_with_the_closed_form_and_says_how_many_pairs():
    model, x, y, adaptive, average = linear_problem()
    model, x = as_tokens(model, x)
    options = {"precision": "bfloat16", "max_evaluations": 1000}
    names = {"adaptive_sharpness": adaptive, "average_sharpness": average}
    report = measure(model, (x, y), list(names), options=dict.fromkeys(names, options))
    for name, truth in names.items():
        found = report[name]
        pairs, both = map(int, re.findall(r"\d+(?= pairs| in both)", found.reason))
        assert found.converged
        assert abs(found.value - truth) < 3 * found.std_error
        assert found.num_evaluations == 1 + 2 * pairs + 4 * both
        assert both < pairs / 2


def test_a_network_that_bfloat16_breaks_is_right_within_its_error():
    # outputs near 300, where bfloat16 knows them to within one
    torch.manual_seed(5)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Flatten()), torch.randn(6, 1, 4)
    model[0].bias.data += 300.0
    y = model(x).detach() + 0.2
    truth = 0.5 * 3 * (x.square().sum(dim=(1, 2)) + 1).mean().item()
    rises = random_rises.average_perturbation(
        {"probe": LocalObserver(model, x, y)},
        0,
        rho=0.1,
        max_relative_error=0.1,
        max_evaluations=4000,
        precision="bfloat16",
    )
    error = rises.mean.std_error / rises.rho**2
    assert abs(rises.parts["pairs"].mean() / rises.rho**2 - truth) > 10 * error
    assert abs(rises.mean.value / rises.rho**2 - truth) < 3 * error
    assert rises.converged
    assert rises.count("corrections") > rises.count("pairs") / 4


def test_bfloat16_is_refused_where_it_cannot_be():
    class LogNormal(nn.Linear):
        def forward(self, x):
            return torch.special.log_ndtr(super().forward(x))

    model, x, y, _, _ = linear_problem()
    options = {"adaptive_sharpness": {"precision": "bfloat16"}}
    double = measure(copy.deepcopy(model).double(), (x, y), list(options), options=options)
    assert "takes a network of float32" in double["adaptive_sharpness"].reason
    strange = measure(LogNormal(4, 3), (x, y), list(options), options=options)
    assert "leave `precision` at float32" in strange["adaptive_sharpness"].reason
    options["adaptive_sharpness"]["max_evaluations"] = 8
    with pytest.raises(ConfigError, match="at least 12; found 8"):
        measure(model, (x, y), list(options), options=options)


def test_known_layers_are_perturbed_point_by_point_and_others_in_the_network():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.scale

    torch.manual_seed(0)
    twice = nn.Linear(4, 4)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 60, 3),
        nn.ReLU(),
        nn.Conv2d(60, 40, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 4),
        Scaled(),
        twice,
        nn.Tanh(),
        twice,
    )
    shard = LocalObserver(model.eval(), torch.randn(3, 1, 12, 12), torch.zeros(3).long()).shard
    with held_for_measurement(model):
        network = perturbed_network(shard, adaptive=True)
    kinds = {name: type(layer) for name, layer in network.layers.items()}
    assert kinds == {
        "0": OwnWeights,
        "1": OwnWeights,
        "3": OwnWeights,
        "5": FlippedWeights,
        "9": OutputNoise,
    }


def test_stops_once_the_standard_error_is_small_enough():
    model, x, y, adaptive, _ = linear_problem()
    found = measure(model, (x, y), ["adaptive_sharpness"])["adaptive_sharpness"]
    assert found.converged
    assert found.std_error <= 0.05 * found.value
    assert found.num_evaluations < 400
    assert found.value == pytest.approx(adaptive, rel=0.2)
    short = {"adaptive_sharpness": {"max_evaluations": 4, "max_relative_error": 0.001}}
    found = measure(model, (x, y), ["adaptive_sharpness"], options=short)["adaptive_sharpness"]
    assert not found.converged
    assert found.num_evaluations == 5


def test_rho_is_a_standard_deviation_not_a_variance():
    model, x, y, adaptive, _ = linear_problem()
    for rho in (0.05, 0.4):
        options = {"adaptive_sharpness": {"rho": rho, "max_relative_error": 0.02}}
        found = measure(model, (x, y), ["adaptive_sharpness"], options=options)
        assert found["adaptive_sharpness"].value == pytest.approx(adaptive, rel=0.1)


def test_agrees_with_one_image_at_a_time_perturbations():
    # targets are the outputs: without perturbation there is no loss, and every rise is one
    model, x, _ = case("lenet", num_points=4)
    model.eval()
    rng = torch.Generator().manual_seed(0)
    rises = []
    with torch.no_grad():
        y = torch.sigmoid(model(x))
        saved = [p.clone() for p in model.parameters()]
        for _ in range(400):
            for p, s in zip(model.parameters(), saved, strict=True):
                p.copy_(s + 0.1 * s.abs() * torch.randn(s.shape, generator=rng))
            rises.append(0.5 * (torch.sigmoid(model(x)) - y).square().sum(dim=1).mean().item())
        for p, s in zip(model.parameters(), saved, strict=True):
            p.copy_(s)
    truth, error = np.mean(rises) / 0.01, np.std(rises) / 0.01 / np.sqrt(len(rises))
    options = {"adaptive_sharpness": {"max_relative_error": 0.05}}
    found = measure(model, (x, y), ["adaptive_sharpness"], options=options, output_map="sigmoid")[
        "adaptive_sharpness"
    ]
    accuracy = np.hypot(error, found.std_error)
    assert abs(found.value - truth) < 4 * accuracy
    assert 4 * accuracy < 0.3 * truth  # a variance of the perturbation half too large shows


def test_same_seed_same_number_other_seed_another():
    model, x, y = case("vgg")
    few = {"adaptive_sharpness": {"max_evaluations": 8}}
    values = [
        measure(model, (x, y), list(few), seed=s, options=few)["adaptive_sharpness"].value
        for s in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_a_point_with_infinite_loss_is_named():
    model, x, y = case("mlp")
    x[3, 0] = torch.nan
    found = measure(model, (x, y), ["adaptive_sharpness"])["adaptive_sharpness"]
    assert "loss not finite: 3" in found.reason
    assert found.num_points == 4
