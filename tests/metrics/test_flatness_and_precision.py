"""Relative flatness, weight precision and finite sensitivity against oracles."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.weight_precision import round_to_bits
from tests.oracles.dense_hessian import dense_hessian, half_squared
from tests.oracles.loops import loops
from tests.oracles.networks import case


def double_neuron_loop(model, place, x, y, loss):
    """Petzka's sum over pairs of neurons <w_s, w_s'> tr H_{s,s'}, from the dense Hessian in W."""
    layer = model[place]
    hidden = model[:place](x).detach()

    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(layer.weight.detach().clone())

        def forward(self, h):
            bias = layer.bias.detach().double()
            return rest(nn.functional.linear(h, self.weight, bias))

    rest = model[place + 1 :].double() if place + 1 < len(model) else nn.Identity()
    hessian = dense_hessian(Tail(), hidden, y, loss)
    m, d = layer.weight.shape
    hessian = hessian.reshape(m, d, m, d)
    weight = layer.weight.detach().double().numpy()
    total = 0.0
    for s in range(m):
        for t in range(m):
            total += weight[s] @ weight[t] * np.trace(hessian[s, :, t, :])
    rest.float()
    return total


def cross_entropy(outputs, y):
    return nn.functional.cross_entropy(outputs, y, reduction="none")


@pytest.mark.parametrize(
    ("name", "loss"), [("half_squared_error", half_squared), ("cross_entropy", cross_entropy)]
)
@pytest.mark.parametrize(("layer", "place"), [(None, 5), ("3", 3), ("1", 1)])
def test_relative_flatness_equals_the_double_neuron_loop(name, loss, layer, place):
    model, x, y = case("mlp", num_points=6)
    model.eval()
    model[4] = nn.Tanh()
    options = {"relative_flatness": {"layer": layer}}
    found = measure(model, (x, y), ["relative_flatness"], loss=name, options=options)
    expected = double_neuron_loop(model, place, x, y, loss)
    assert found["relative_flatness"].value == pytest.approx(expected, rel=1e-4)
    assert f"layer {place}" in found["relative_flatness"].reason


def test_relative_flatness_of_any_loss_through_differentiation():
    model, x, y = case("mlp", num_points=6)
    known = measure(model, (x, y), ["relative_flatness"], loss="cross_entropy")
    found = measure(model, (x, y), ["relative_flatness"], loss=cross_entropy)
    expected = known["relative_flatness"].value
    assert found["relative_flatness"].value == pytest.approx(expected, rel=1e-4)


def test_relative_flatness_refuses_what_it_cannot_do():
    model, x, y = case("mlp")
    options = {"relative_flatness": {"layer": "nothing"}}
    found = measure(model, (x, y), ["relative_flatness"], options=options)["relative_flatness"]
    assert "no Linear layer named 'nothing'" in found.reason


def test_rounding_to_bits():
    t = torch.tensor([-1.0, -0.4, 0.1, 0.9])
    assert round_to_bits(t, 1).unique().tolist() == [-1.0, 1.0]
    assert len(round_to_bits(torch.linspace(-1, 1, 1001), 3).unique()) == 8
    assert (round_to_bits(t, 16) - t).abs().max() < 2.0**-15
    assert round_to_bits(torch.zeros(3), 4).tolist() == [0.0, 0.0, 0.0]


def test_weight_precision_is_the_fewest_bits_within_tolerance():
    model, x, y = case("lenet", num_points=6)
    model.eval()
    with torch.no_grad():
        base = half_squared(model(x), y).mean().item()
        rises = []
        for bits in range(1, 17):
            rounded = {name: round_to_bits(p, bits) for name, p in model.named_parameters()}
            outputs = torch.func.functional_call(model, rounded, (x,))
            rises.append(half_squared(outputs, y).mean().item() - base)
    for tolerance in (0.001, 0.1):
        expected = next(b for b, rise in enumerate(rises, start=1) if rise <= tolerance)
        options = {"weight_precision": {"tolerance": tolerance}}
        found = measure(model, (x, y), ["weight_precision"], options=options)["weight_precision"]
        assert found.value == expected
        np.testing.assert_allclose(found.extras["rises"], rises, atol=1e-5)


def test_finite_mls_of_a_linear_network_is_its_spectral_norm():
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    options = {"finite_mls": {"radius": 3.0, "num_steps": 60, "radius_shares": (1.0,)}}
    x, y = torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    found = measure(model, (x, y), ["finite_mls"], options=options)["finite_mls"]
    norm = torch.linalg.matrix_norm(model.weight.detach(), 2).item()
    assert found.value == pytest.approx(norm, rel=1e-3)


def test_finite_mls_finds_more_than_random_search_and_tends_to_mls():
    model, x, y = case("mlp", num_points=4)
    model.eval()
    options = {"finite_mls": {"radius": 1.0, "num_steps": 20}}
    found = measure(model, (x, y), ["finite_mls"], options=options)["finite_mls"]
    best = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        center = model(x)
        for _ in range(300):
            delta = torch.randn(x.shape, generator=generator)
            delta = delta / delta.norm(dim=1, keepdim=True)
            best = torch.maximum(best, (model(x + delta) - center).norm(dim=1))
    assert found.value > best.mean().item()
    options = {"finite_mls": {"radius": 0.01, "num_steps": 60, "radius_shares": (1.0,)}}
    found = measure(model, (x, y), ["finite_mls"], options=options)["finite_mls"]
    assert found.value == pytest.approx(loops(model, x).spectra[:, 0].mean(), rel=0.02)
