"""Compressibility: networks whose answer is known, a scan over all levels, resampled test sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.passes.compressed_weights import (
    crossings,
    prune_smallest,
    quantize,
    truncate,
)
from tests.oracles.networks import mlp

NAMES = ["prunable_share", "quantization_bits", "lowest_rank_share"]


def found(model, x, y, tolerance, names=NAMES, **options):
    given = {name: {"tolerance": tolerance, **options.get(name, {})} for name in names}
    return measure(model, (x, y), names, options=given, test=(x, y))


def linear(weight):
    model = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(weight))
        model.bias.zero_()
    return model


def data(model, n=30, seed=0):
    """Points that the network fits exactly: every compression that loses something is seen."""
    x = torch.randn(n, model.in_features, generator=torch.Generator().manual_seed(seed))
    return x, model(x).detach()


def test_answers_that_are_known():
    diagonal = linear(np.diag(np.arange(1.0, 11.0)))
    measured = found(diagonal, *data(diagonal), 1e-6)
    assert measured["prunable_share"].value == 0.9
    assert measured["lowest_rank_share"].value == 1.0
    rng = np.random.default_rng(0)
    thin = linear(rng.standard_normal((6, 2)) @ rng.standard_normal((2, 8)))
    measured = found(thin, *data(thin), 1e-6)
    assert measured["lowest_rank_share"].value == pytest.approx(2 / 6)
    assert measured["lowest_rank_share"].layers == {"model": 2.0}
    assert measured["prunable_share"].value == 0.0
    coarse = linear(rng.integers(-7, 8, (5, 9)) / 4)
    assert abs(coarse.weight).max() == 7 / 4
    assert found(coarse, *data(coarse), 1e-6)["quantization_bits"].value == 4.0


def test_a_scan_over_every_level_finds_the_same():
    torch.manual_seed(0)
    model, x = mlp(12).eval(), torch.randn(60, 12)
    y, tolerance = model(x).detach(), 0.002
    measured = found(model, x, y, tolerance, prunable_share={"num_levels": 40})
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}

    def rise(values):
        def loss(changed):
            out = torch.func.functional_call(model, changed, (x,))
            return (0.5 * (out - y).pow(2).sum(1).mean()).item()

        return loss(values) - loss({})

    shares = [rise(prune_smallest(weights, k / 40)) <= tolerance for k in range(41)]
    assert measured["prunable_share"].value == (shares.index(False) - 1) / 40
    bits = [rise({n: quantize(w, b) for n, w in weights.items()}) for b in range(2, 17)]
    assert measured["quantization_bits"].value == 2 + [r <= tolerance for r in bits].index(True)
    ranks = {}
    for name, weight in weights.items():
        full = min(weight.shape)
        within = [rise({name: truncate(weight, r)}) <= tolerance for r in range(full + 1)]
        ranks[name] = within.index(True)
        layer = name.removesuffix(".weight")
        assert measured["lowest_rank_share"].layers[layer] == ranks[name]
    expected = np.mean([rank / min(weights[name].shape) for name, rank in ranks.items()])
    assert measured["lowest_rank_share"].value == pytest.approx(expected)
    levels = dict(zip(*measured["prunable_share"].extras.values(), strict=True))
    for level, value in levels.items():
        assert value == pytest.approx(rise(prune_smallest(weights, level / 40)), abs=1e-6)


def test_the_ways_of_compression():
    weight = torch.tensor([[0.1, -0.5, 0.3], [2.0, -1.0, 0.0]])
    pruned = prune_smallest({"a": weight, "b": weight[:1] / 4}, 4 / 9)
    assert torch.equal(pruned["a"], torch.tensor([[0.0, -0.5, 0.3], [2.0, -1.0, 0.0]]))
    assert torch.equal(pruned["b"], torch.tensor([[0.0, -0.125, 0.0]]))
    assert torch.equal(quantize(weight, 2), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert torch.equal(quantize(0 * weight, 2), 0 * weight)
    kernel = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    cut = truncate(kernel, 2)
    assert torch.linalg.matrix_rank(cut.reshape(4, -1).double(), rtol=1e-5) == 2
    values = torch.linalg.svdvals(kernel.reshape(4, -1))
    lost = (kernel - cut).norm()
    assert float(lost) == pytest.approx(float(values[2:].norm()), rel=1e-5)


def test_crossings_are_interpolated_between_levels():
    levels = np.array([0.0, 2.0, 3.0, 10.0])
    rises = np.array([[0, 1, 3, 9], [0, 0, 0, 1], [0, 4, 1, 1], [0, 1, 2, 1e30]], dtype=float)
    np.testing.assert_allclose(crossings(levels, rises, 2.0), [2.5, 10.0, 1.0, 3.0])


def test_the_bootstrap_is_the_spread_over_test_sets():
    torch.manual_seed(1)
    model = mlp(12, width=40).eval()
    names = ["prunable_share"]
    options = {"num_levels": 1000}
    runs = []
    for seed in range(60):
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(80, 12, generator=rng)
        y = model(x).detach() + 0.5 * torch.randn(80, 4, generator=rng)
        runs.append(found(model, x, y, 0.01, names, prunable_share=options)["prunable_share"])
    spread = np.std([m.value for m in runs], ddof=1)
    assert np.mean([m.std_error for m in runs]) == pytest.approx(spread, rel=0.3)


def test_what_cannot_be_compressed_says_so():
    x, y = torch.randn(5, 6), torch.arange(5) % 3
    nothing = found(nn.Flatten(), x, torch.arange(5) % 6, 0.01)
    assert all("has no weights" in measured.reason for measured in nothing.values())
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.mul_(1e4)
    coarse = found(model, x, y, 1e-9, quantization_bits={"max_bits": 2})["quantization_bits"]
    assert coarse.value is None
    assert "even 2 bits raise the loss by" in coarse.reason
