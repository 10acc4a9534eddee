"""The route for many outputs agrees with the exact one wherever both run."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure, measure_observers
from tests.oracles.networks import case
from tests.oracles.sharded import ShardedObserver

BOTH = [
    "mls",
    "normalized_mls",
    "input_invariant_mls",
    "input_gradient",
    "local_dimensionality",
    "sharpness",
]


def estimated(**settings):
    return {"jacobian": {"method": "estimate", **settings}}


@pytest.mark.parametrize("name", ["mlp", "lenet", "vgg", "grouped", "tokens"])
def test_agrees_with_the_exact_route(name):
    model, x, y = case(name)
    exact = measure(model, (x, y), BOTH)
    accurate = estimated(tolerance=1e-6, max_relative_error=0.005, max_samples=2048)
    found = measure(model, (x, y), BOTH, options=accurate)
    for metric in ("mls", "normalized_mls", "input_invariant_mls"):
        assert found[metric].value == pytest.approx(exact[metric].value, rel=1e-4), metric
        assert found[metric].std_error == pytest.approx(exact[metric].std_error, rel=1e-2, abs=1e-6)
    for metric in ("input_gradient", "sharpness"):
        (error,) = found[metric].extras["monte_carlo_std_error"]
        assert abs(found[metric].value - exact[metric].value) <= 4 * error + 1e-6, metric
        assert error <= 0.01 * found[metric].value
    metric = "local_dimensionality"
    assert found[metric].value == pytest.approx(exact[metric].value, rel=0.05)


def test_200_seeds_cover_the_exact_sums():
    model, x, y = case("mlp")
    names = ["input_gradient", "sharpness"]
    exact = measure(model, (x, y), names)
    hits = dict.fromkeys(names, 0)
    few = estimated(max_samples=16, max_relative_error=1e-9)
    for seed in range(200):
        found = measure(model, (x, y), names, seed=seed, options=few)
        for name in names:
            (error,) = found[name].extras["monte_carlo_std_error"]
            hits[name] += abs(found[name].value - exact[name].value) <= 2 * error
            assert not found[name].converged
    for name, count in hits.items():
        assert 0.90 <= count / 200 <= 0.99, name


def test_many_outputs_are_estimated_by_themselves_and_the_rest_says_why():
    torch.manual_seed(0)
    width = 12_000
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, width))
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    report = measure(model, (x, y), [*BOTH, "nmls", "bound_b"])
    model.eval()
    expected = []
    for xi in x.double():
        hidden = model[0].weight.detach().double() @ xi + model[0].bias.detach().double()
        slope = 1 - torch.tanh(hidden) ** 2
        jacobian = model[2].weight.detach().double() @ (slope[:, None] * model[0].weight.double())
        expected.append(torch.linalg.matrix_norm(jacobian, 2).item())
    assert report["mls"].value == pytest.approx(np.mean(expected), rel=1e-3)
    assert report["mls"].converged
    for name in ("nmls", "bound_b"):
        assert report[name].value is None
        assert "256 MB" in report[name].reason


def test_sigma_that_has_not_settled_is_flagged():
    torch.manual_seed(0)
    model = nn.Linear(200, 200)
    x, y = torch.randn(2, 200), torch.tensor([0, 1])
    hasty = estimated(tolerance=1e-12, max_steps=3)
    found = measure(model, (x, y), ["mls"], options=hasty)["mls"]
    assert not found.converged


def test_sharding_changes_no_estimate():
    model, x, y = case("vgg", num_points=6)
    options = estimated(max_samples=8)
    one = measure_observers({"probe": LocalObserver(model, x, y)}, BOTH, options=options)
    three = ShardedObserver(model, x, y, cuts=[1, 4], order=[1, 2, 0])
    other = measure_observers({"probe": three}, BOTH, options=options)
    for name in BOTH:
        assert other[name].value == pytest.approx(one[name].value, rel=1e-3), name


def test_a_point_that_is_not_finite_is_named():
    model, x, y = case("lenet")
    x[1] = torch.nan
    report = measure(model, (x, y), BOTH, options=estimated(max_samples=8))
    for name in BOTH:
        assert "not finite: 1" in report[name].reason, name
        assert report[name].num_points == 4
