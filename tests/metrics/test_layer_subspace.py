"""Leading values of every layer from one subspace, against dense SVDs of the Jacobians."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver
from flatscale.metrics.passes.jacobian.derivatives import run_forward
from flatscale.metrics.passes.jacobian.exact import exact_pass
from flatscale.metrics.passes.jacobian.layer_maps import LayerMaps
from flatscale.metrics.passes.jacobian.layer_subspace import Subspace, layer_leading_rows
from flatscale.metrics.passes.jacobian.leading_values import Accuracy
from tests.oracles.networks import Residual, case


def many_outputs(decay: float) -> nn.Sequential:
    """Tanh layers whose singular values fall as k^-decay, 120 outputs."""
    torch.manual_seed(0)
    sizes = [30, 60, 60, 60, 60, 120]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layer = nn.Linear(before, after)
        u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        fall = torch.arange(1, len(s) + 1) ** -decay
        layer.weight.data = (u * (2.0 * fall)) @ v
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def by_autograd(model, x):
    """Singular values of J^l per point and linear layer, from dense Jacobians (n, L, ...)."""
    found = []
    for xi in x.double().split(1):
        values, rest = [], model.double()
        for place, module in enumerate(model):
            if isinstance(module, nn.Linear):
                at = model[:place](xi)[0].detach()
                jacobian = torch.autograd.functional.jacobian(rest[place:], at)
                values.append(torch.linalg.svdvals(jacobian)[:4].numpy())
        found.append(values)
    model.float()
    return np.array(found)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_leading_values_equal_dense_svds_whether_layers_share_directions_or_not(decay, rank):
    model, x = many_outputs(decay), torch.randn(3, 30)
    observer = LocalObserver(model, x, torch.zeros(3, dtype=torch.long))
    options = Accuracy(tolerance=1e-5, max_steps=120)
    found = observer.gather(layer_leading_rows, options=options, seed=1, rank=rank)
    assert found["settled"].all()
    expected = by_autograd(model, x)[:, :, :rank]
    np.testing.assert_allclose(found["sigma"], expected, rtol=1e-3, atol=1e-7)


def test_shared_directions_need_fewer_products_than_layers_alone():
    x, y = torch.randn(3, 30), torch.zeros(3, dtype=torch.long)
    steps = {}
    for decay in (0.0, 2.0):
        observer = LocalObserver(many_outputs(decay), x, y)
        found = observer.gather(layer_leading_rows, options=Accuracy(), seed=0, rank=1)
        assert found["settled"].all()
        steps[decay] = int(found["steps"].max())
    assert steps[2.0] < 16 < steps[0.0]


def test_residual_estimate_is_unbiased():
    model, x = many_outputs(1.0), torch.randn(1, 30)
    shard = LocalObserver(model, x, torch.zeros(1, dtype=torch.long)).shard
    maps = LayerMaps(run_forward(shard, x), shard.outputs)
    generator = torch.Generator().manual_seed(3)
    space = Subspace(maps)
    basis = torch.linalg.qr(torch.randn(120, 5, generator=generator, dtype=torch.float64))[0]
    for q in basis.T:
        space.add(q[None])
    values, vectors, gaps = space.ritz(1)
    truth = 0.0
    for layer in range(maps.num_layers):
        u = space.in_outputs(vectors[:, layer, :, 0])
        residual = maps.gram(layer)(u) - values[0, layer] * u
        truth += float(residual.square().sum() / (values[0, layer] ** 2 * gaps[0, layer, 0]))
    draws = []
    for _ in range(300):
        signs = torch.randint(0, 2, values.shape, generator=generator) * 2.0 - 1.0
        draws.append(float(space.next_direction(values, vectors, gaps, signs.double())[1]))
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - truth) < 4 * error + 1e-3 * truth


@pytest.mark.parametrize("name", ["mlp", "lenet", "vgg", "grouped", "tokens", "residual"])
def test_forward_mode_gives_the_same_values(name, monkeypatch):
    if name == "residual":
        torch.manual_seed(0)
        model, x, y = Residual(), torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 0])
    else:
        model, x, y = case(name)
    expected = exact_pass(LocalObserver(model, x, y)).layer_singular_values[:, :, :2]
    monkeypatch.setattr(LayerMaps, "_transposable", lambda self: None)
    observer = LocalObserver(model, x, y)
    found = observer.gather(layer_leading_rows, options=Accuracy(), seed=0, rank=2)
    np.testing.assert_allclose(found["sigma"], expected, rtol=1e-4, atol=1e-6)
