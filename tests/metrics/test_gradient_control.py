"""Single perturbations less what the gradient predicts; last layers with both signs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.passes.perturbation import perturbed_losses, random_rises
from flatscale.metrics.passes.perturbation.perturbed_layers import OutputNoise
from flatscale.metrics.passes.perturbation.perturbed_network import (
    PerturbedNetwork,
    perturbed_network,
)
from flatscale.metrics.passes.perturbation.rise_rounds import Perturbed
from flatscale.metrics.probe.attention import attention_by_products
from flatscale.metrics.probe.observers import LocalObserver
from flatscale.metrics.probe.restore import held_for_measurement
from tests.metrics.test_random_sharpness import LAYERS


class Tokens(nn.Module):
    """A small network of tokens with a parameter of its own, a norm and a head at the end."""

    def __init__(self, *, residual_end: bool = False):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 6, 8))
        self.mix = nn.Sequential(nn.Linear(8, 300), nn.GELU(), nn.Linear(300, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.residual_end = residual_end

    def forward(self, x):
        x = x + self.place
        x = x + self.mix(x)
        pooled = self.norm(x).mean(dim=1)
        return self.head(pooled) + (x[:, 0, :5] if self.residual_end else 0)


@pytest.fixture
def gradients_are_worth_it(monkeypatch):
    monkeypatch.setattr(perturbed_losses, "_WORTH_A_GRADIENT", 0)


def problem(**settings):
    torch.manual_seed(3)
    model, x = Tokens(**settings).eval(), torch.randn(12, 6, 8)
    with torch.no_grad():
        y = model(x) + 2.0 * torch.randn(12, 5)
    return model, x, y


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("name", [n for n, (kind, *_) in LAYERS.items() if kind is not OutputNoise])
def test_slopes_are_what_the_losses_change_by(name, adaptive):
    kind, layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).eval()
    torch.manual_seed(1)
    x = torch.randn(3, *shape)
    network = PerturbedNetwork(
        model=layer, adaptive=adaptive, layers={"model": kind(layer, adaptive)}, parameters={}
    )
    group, rows = network.draw_group(5), network.draw_points(0, 1, np.arange(3), x)
    weights = torch.randn_like(layer(x[:1]))
    own = []
    for point in x.split(1):
        own.append(torch.autograd.grad((layer(point) * weights).sum(), list(layer.parameters())))
    names = [name for name, _ in layer.named_parameters()]
    gradients = {n: torch.stack(g) for n, g in zip(names, zip(*own, strict=True), strict=True)}
    with torch.no_grad():
        for step in (0.5, -0.5):
            change = network.outputs(x, group, rows, step)[0] - layer(x)
            expected = (change * weights).flatten(1).sum(dim=1)
            slopes = network.slopes(gradients, group, rows)
            assert torch.allclose(step * slopes, expected, rtol=1e-3, atol=1e-4)
    assert expected.abs().min() > 1e-3


def test_the_tail_is_computed_with_both_its_signs_for_either_sign_of_the_rest():
    model, x, y = problem()
    shard = LocalObserver(model, x, y).shard
    with held_for_measurement(model):
        network = perturbed_network(shard, adaptive=True)
        assert network.tail == ("norm", "head")
        group, rows = network.draw_group(0), network.draw_points(0, 0, np.arange(12), x)
        still = {name: torch.zeros_like(v) for name, v in group.items()}
        fixed = {n: v if n in network.tail else 0 * v for n, v in rows.items()}
        with torch.no_grad():
            plus, minus = network.outputs(x, still, fixed, 0.1)
            again = network.outputs(x, group, rows, 0.1)
            mirrored = network.outputs(x, group, rows, -0.1)
            center = model(x)
    assert (plus - center).abs().max() > 0.05
    # the head's noise grows with what it reads, hence not exactly
    assert torch.allclose((plus + minus) / 2, center, atol=0.05)
    assert all((a - center).abs().max() > 0.05 for a in (*again, *mirrored))
    assert not torch.allclose(again[0], again[1], atol=0.05)


def test_layers_whose_points_cannot_be_doubled_are_no_tail():
    model, x, y = problem(residual_end=True)
    shard = LocalObserver(model, x, y).shard
    with held_for_measurement(model):
        assert perturbed_network(shard, adaptive=True).tail == ()


def test_singles_agree_with_pairs_and_take_fewer_evaluations(gradients_are_worth_it, monkeypatch):
    model, x, y = problem()
    options = {"rho": 0.05, "max_relative_error": 0.05, "max_evaluations": 4000}
    options["points_per_perturbation"] = 12
    observers = {"probe": LocalObserver(model, x, y)}
    with held_for_measurement(model):
        singles = random_rises.adaptive_perturbation(observers, 0, **options)
        rounded = random_rises.adaptive_perturbation(observers, 0, precision="bfloat16", **options)
        monkeypatch.setattr(perturbed_losses, "_WORTH_A_GRADIENT", 1e12)
        pairs = random_rises.adaptive_perturbation(observers, 1, **options)
    assert singles.count("singles") > 0 < rounded.count("singles")
    assert pairs.count("singles") == 0
    assert singles.converged
    assert pairs.converged
    for found in (singles, rounded):
        apart = abs(found.mean.value - pairs.mean.value)
        assert apart < 3.5 * np.hypot(found.mean.std_error, pairs.mean.std_error)
    assert singles.num_evaluations < 0.8 * pairs.num_evaluations


def test_groups_are_no_larger_than_gradients_fit(gradients_are_worth_it, monkeypatch):
    model, x, y = problem()
    observers = {"probe": LocalObserver(model, x, y)}
    options = {"max_evaluations": 24, "max_relative_error": 1e-6}
    monkeypatch.setattr(random_rises, "_FEWEST_GROUPS", 1)
    monkeypatch.setattr(random_rises, "_PARAMETERS_PER_POINT", 1)
    for fit, sizes in ((9, {"pairs": 9, "singles": 6}), (7, {"pairs": 12})):
        monkeypatch.setattr(perturbed_losses, "NETWORK_GRADIENTS", fit * 2 * 5156)
        with held_for_measurement(model):
            found = random_rises.adaptive_perturbation(observers, 0, **options)
        assert {s: np.bincount(found.groups[s])[0] for s in found.parts} == sizes
        assert "point_gradients" not in observers["probe"].shard.kept


def test_standard_errors_of_singles_cover(gradients_are_worth_it):
    model, x, y = problem()
    observers = {"probe": LocalObserver(model, x, y)}
    options = {"rho": 0.05, "max_evaluations": 32, "max_relative_error": 1e-6}
    options["points_per_perturbation"] = 12
    with held_for_measurement(model):
        found = [random_rises.adaptive_perturbation(observers, s, **options) for s in range(24)]
    assert all(f.count("singles") > 0 for f in found)
    values, errors = np.array([(f.mean.value, f.mean.std_error) for f in found]).T
    # stated errors of few draws are widened
    assert 0.7 < np.std(values, ddof=1) / errors.mean() < 1.25


def test_pairs_stay_where_the_gradient_says_little():
    rng = np.random.default_rng(0)
    slopes, noise, even = rng.normal(size=(3, 40, 4))

    def drawn(odd, slopes=slopes):
        return Perturbed(rises=np.stack([even + odd, even - odd], axis=2), slopes=slopes)

    assert drawn(2 * slopes + 0.1 * noise).coefficient() == pytest.approx(2, abs=0.05)
    assert drawn(2 * slopes + 2 * noise).coefficient() is None
    assert drawn(noise, 0 * slopes).coefficient() is None
    assert drawn(noise, np.nan * slopes).coefficient() is None
    few = np.where(np.arange(40)[:, None] < 20, slopes, np.nan)
    assert drawn(2 * slopes, few).coefficient() == pytest.approx(2)


def test_attention_in_products_is_attention():
    query, key, value = torch.randn(3, 2, 3, 7, 8).bfloat16()
    attend = nn.functional.scaled_dot_product_attention
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    for options in ({}, {"scale": 0.2}, {"is_causal": True}, {"attn_mask": mask}):
        with attention_by_products(query.device, query.dtype):
            found = attend(query, key, value, **options)
        exact = attend(query.double(), key.double(), value.double(), **options)
        assert found.dtype == torch.bfloat16
        assert (found.double() - exact).abs().max() < 0.05


def test_steps_in_bfloat16_end_in_float32():
    model, x, y = problem()
    method = {"method": "estimate", "tolerance": 1e-3, "precision": "bfloat16"}
    exact = measure(model, (x, y), ["mls"])["mls"]
    found = measure(model, (x, y), ["mls"], options={"jacobian": method})["mls"]
    assert found.converged
    assert found.value == pytest.approx(exact.value, rel=1e-3)
    double = measure(model.double(), (x.double(), y), ["mls"], options={"jacobian": method})["mls"]
    assert "takes a network of float32" in double.reason
