"""Relative flatness, weight precision and finite sensitivity against oracles."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.passes.perturbation.rounded_weights import round_to_bits
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


class Elementwise(nn.Module):
    """A function applied to A x, without parameters."""

    def __init__(self, function, matrix):
        super().__init__()
        self.function = function
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return self.function(x @ self.matrix.T)


def finite_mls(model, x, **settings):
    y = torch.zeros(len(x), dtype=torch.long)
    options = {"finite_mls": {"num_steps": 40, **settings}}
    return measure(model, (x, y), ["finite_mls", "mls"], options=options)


@pytest.mark.parametrize("radius", [0.2, 3.0])
def test_finite_mls_of_squares_is_reached_on_the_balls_surface_and_not_beyond(radius):
    """f = x^2 at 0: ||delta^2|| / ||delta|| is largest, r, along an axis; the MLS is 0."""
    report = finite_mls(Elementwise(torch.square, torch.eye(2)), torch.zeros(3, 2), radius=radius)
    assert report["finite_mls"].value == pytest.approx(radius, rel=1e-4)
    assert report["mls"].value == 0.0


def test_finite_mls_of_a_saturating_network_is_its_mls():
    """f = tanh(3 x) is steepest at 0: the maximum over the ball is the limit at its centre."""
    model = Elementwise(torch.tanh, 3.0 * torch.eye(2))
    report = finite_mls(model, torch.zeros(3, 2), radius=3.0)
    assert report["mls"].value == pytest.approx(3.0, rel=1e-5)
    assert 0.95 * 3.0 <= report["finite_mls"].value <= 3.0 * (1 + 1e-5)


def test_finite_mls_finds_what_a_dense_search_finds():
    generator = torch.Generator().manual_seed(2)
    model = Elementwise(torch.exp, torch.randn(3, 3, generator=generator))
    x = torch.randn(4, 3, generator=generator)
    found = finite_mls(model, x, radius=1.5, num_restarts=3)["finite_mls"]
    deltas = torch.randn(20000, 1, 3, generator=generator)
    deltas = 1.5 * deltas / deltas.norm(dim=2, keepdim=True)
    best = 0.0
    for share in (1.0, 0.7, 0.4, 0.1):
        moved = model((x + share * deltas).reshape(-1, 3)).reshape(-1, 4, 3)
        ratios = (moved - model(x)).norm(dim=2) / (share * 1.5)
        best = torch.maximum(torch.as_tensor(best), ratios.max(dim=0).values)
    assert found.value == pytest.approx(best.mean().item(), rel=2e-3)
    assert found.value >= best.mean().item() * (1 - 1e-5)
