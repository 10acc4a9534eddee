"""Sharpness under random perturbations: closed forms, calibration, honest convergence."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.layer_noise import LayerNoise, noise_added
from flatscale.metrics.perturbation import standard_normal
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


@pytest.mark.parametrize(("form", "group"), [("linear", 1), ("convolution", 3), ("tokens", 2)])
def test_200_seeds_cover_the_closed_form(form, group):
    model, x, y, adaptive, average = linear_problem()
    model, x = FORMS[form](model, x)
    hits = {"adaptive_sharpness": 0, "average_sharpness": 0}
    truth = {"adaptive_sharpness": adaptive, "average_sharpness": average}
    seeds = 200
    settings = {"points_per_perturbation": group, "max_evaluations": 20, "max_relative_error": 1e-9}
    for seed in range(seeds):
        report = measure(
            model, (x, y), list(hits), seed=seed, options=dict.fromkeys(hits, settings)
        )
        for name, found in report.items():
            hits[name] += abs(found.value - truth[name]) <= 2 * found.std_error
            assert not found.converged
    for name, count in hits.items():
        assert 0.90 <= count / seeds <= 0.99, (name, count / seeds)


def test_points_that_share_a_perturbation_up_to_signs_are_each_perturbed_by_standard_normals():
    torch.manual_seed(1)
    layer = nn.Conv2d(4, 6, 3, groups=2, padding=1)
    x = torch.randn(1, 4, 5, 5).expand(400, -1, -1, -1)
    noise = LayerNoise(flipped={"model": layer}, adaptive=True, step=0.5)
    with torch.no_grad():
        center, moved = layer(x[:1]), []
        for number in range(10):
            draws = standard_normal(noise.shared(), number)
            noise.directions = {"model": layer.weight.abs() * draws["model"]}
            noise.draw(0, number, np.arange(400), x)
            with noise_added(noise):
                moved.append(layer(x) - center)
        spread = torch.cat(moved).double()
        squared = nn.functional.conv2d(
            x[:1].square(), layer.weight.square(), layer.bias.square(), padding=1, groups=2
        )
    expected = 0.25 * squared.double()
    # ten shared draws of 18 weights each bound how well a variance can be known
    assert torch.allclose(spread.var(dim=0).mean(), expected.mean(), rtol=0.15)
    assert spread.mean(dim=0).abs().max() < 5 * (expected.max() / 4000).sqrt()
    pairs = (spread[0::2] * spread[1::2]).mean()
    assert abs(pairs) < 0.1 * expected.mean()


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
    model, x, y = case("lenet", num_points=4)
    model.eval()
    rng = torch.Generator().manual_seed(0)
    rises = []
    with torch.no_grad():
        base = 0.5 * (torch.sigmoid(model(x)) - nn.functional.one_hot(y, 4)).square().sum(dim=1)
        saved = [p.clone() for p in model.parameters()]
        for _ in range(600):
            for p, s in zip(model.parameters(), saved, strict=True):
                p.copy_(s + 0.1 * s.abs() * torch.randn(s.shape, generator=rng))
            loss = 0.5 * (torch.sigmoid(model(x)) - nn.functional.one_hot(y, 4)).square().sum(dim=1)
            rises.append((loss - base).mean().item())
        for p, s in zip(model.parameters(), saved, strict=True):
            p.copy_(s)
    truth, error = np.mean(rises) / 0.01, np.std(rises) / 0.01 / np.sqrt(len(rises))
    options = {"adaptive_sharpness": {"max_relative_error": 0.05, "max_evaluations": 2000}}
    found = measure(model, (x, y), ["adaptive_sharpness"], options=options, output_map="sigmoid")[
        "adaptive_sharpness"
    ]
    assert abs(found.value - truth) < 4 * np.hypot(error, found.std_error)


def test_same_seed_same_number_other_seed_another():
    model, x, y = case("vgg")
    values = [
        measure(model, (x, y), ["adaptive_sharpness"], seed=s)["adaptive_sharpness"].value
        for s in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_a_point_with_infinite_loss_is_named():
    model, x, y = case("mlp")
    x[3, 0] = torch.nan
    found = measure(model, (x, y), ["adaptive_sharpness"])["adaptive_sharpness"]
    assert "loss not finite: 3" in found.reason
    assert found.num_points == 4
