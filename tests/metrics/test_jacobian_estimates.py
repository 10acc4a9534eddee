"""The route for many outputs agrees with the exact one wherever both run."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure, measure_observers, metric_catalog
from tests.oracles.networks import Residual, case
from tests.oracles.sharded import ShardedObserver

BOTH = [
    "mls",
    "normalized_mls",
    "input_invariant_mls",
    "input_gradient",
    "local_dimensionality",
    "sharpness",
]


BOUNDS = [info.name for info in metric_catalog() if info.group == "bound"]


def estimated(**settings):
    return {"jacobian": {"method": "estimate", **settings}}


NETWORKS = ["mlp", "lenet", pytest.param("vgg", marks=pytest.mark.slow), "grouped", "tokens"]


@pytest.mark.parametrize("name", NETWORKS)
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


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_and_bounds_agree_with_the_exact_route(name):
    model, x, y = case(name)
    names = ["nmls", "log_lvr", "log_nvr", *BOUNDS]
    volumes = ("log_lvr", "log_nvr", "lvr_bound", "nvr_bound")
    ranks = {volume: {"volume_rank": 2} for volume in volumes}
    exact = measure(model, (x, y), names, options=ranks)
    accurate = estimated(tolerance=1e-7, max_relative_error=0.005, max_samples=1024)
    found = measure(model, (x, y), names, options={**accurate, **ranks})
    for metric in ("nmls", "bound_a"):
        assert found[metric].value == pytest.approx(exact[metric].value, rel=1e-4), metric
    assert found["nmls"].layers == pytest.approx(exact["nmls"].layers, rel=1e-4)
    for metric in ("log_lvr", "log_nvr"):
        assert found[metric].value == pytest.approx(exact[metric].value, abs=1e-3), metric
    for metric in BOUNDS[1:]:
        error = found[metric].std_error
        assert abs(found[metric].value - exact[metric].value) <= 4 * error + 1e-3, metric
        assert error <= 0.02 * max(1.0, exact[metric].value), metric
        assert "estimated" in found[metric].reason
        truth, slack = exact[metric].extras["slack"], found[metric].extras["slack"]
        errors = np.array(found[metric].extras["slack_std_error"])
        room = 5 * errors + 1e-3 * np.abs(exact[metric].value) + 1e-3
        assert (np.abs(np.subtract(truth, slack)) <= room).all(), metric
        assert found[metric].extras["violations"] == (0.0,), metric


def test_default_tolerance_finds_the_leading_value_of_every_layer():
    model, x, y = case("vgg", num_points=4)
    exact = measure(model, (x, y), ["nmls"])["nmls"].layers
    found = measure(model, (x, y), ["nmls"], options=estimated())["nmls"].layers
    assert found == pytest.approx(exact, rel=5e-3)


def test_a_layer_used_twice_has_two_inputs_on_both_routes():
    torch.manual_seed(0)
    model, x, y = Residual(), torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 0])
    exact = measure(model, (x, y), ["nmls"])["nmls"].layers
    found = measure(model, (x, y), ["nmls"], options=estimated(tolerance=1e-6))["nmls"].layers
    assert {"block", "block@2"} <= set(exact)
    assert found == pytest.approx(exact, rel=1e-4)


@pytest.mark.slow
def test_200_seeds_cover_the_exact_sums_and_bounds():
    model, x, y = case("lenet", num_points=3)
    names = ["input_gradient", "sharpness", *BOUNDS[1:]]
    ranks = {name: {"volume_rank": 2} for name in ("lvr_bound", "nvr_bound")}
    exact = measure(model, (x, y), names, options=ranks)
    hits = dict.fromkeys(names, 0)
    few = estimated(max_samples=12, max_relative_error=1e-9, tolerance=0.1) | ranks
    for seed in range(200):
        found = measure(model, (x, y), names, seed=seed, options=few)
        for name in names:
            (error,) = found[name].extras["monte_carlo_std_error"]
            hits[name] += abs(found[name].value - exact[name].value) <= 2 * error
            assert not found[name].converged
    for name, count in hits.items():
        assert 0.90 <= count / 200 <= 0.99, (name, count)


def test_an_estimate_that_could_hide_a_violation_says_so():
    # one hidden unit: the bound on MLS is an equality
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(6, 1, bias=False), nn.Linear(1, 40, bias=False))
    x, y = torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        wide[1].weight.copy_(torch.eye(40)[:, :1] + 0.3 * torch.randn(40, 1))
    few = estimated(max_samples=16, max_relative_error=1e-9)
    found = measure(wide, (x, y), ["bound_b"], options=few)["bound_b"]
    exact = measure(wide, (x, y), ["bound_b"])["bound_b"]
    assert exact.extras["violations"] == (0.0,)
    assert max(np.abs(exact.extras["slack"])) < 1e-4 * exact.value
    assert found.extras["undecided"][0] > 0
    hidden, broken = "within the estimate's error of a violation", "violations are within"
    assert hidden in found.reason or broken in found.reason


def test_many_outputs_are_estimated_by_themselves_and_the_rest_says_why():
    torch.manual_seed(0)
    width = 12_000
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, width))
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    report = measure(
        model, (x, y), [*BOTH, "nmls", "bound_b", "log_lvr", "log_nvr", "lvr_bound", "nvr_bound"]
    )
    model.eval()
    expected = []
    for xi in x.double():
        hidden = model[0].weight.detach().double() @ xi + model[0].bias.detach().double()
        slope = 1 - torch.tanh(hidden) ** 2
        jacobian = model[2].weight.detach().double() @ (slope[:, None] * model[0].weight.double())
        expected.append(torch.linalg.matrix_norm(jacobian, 2).item())
    assert report["mls"].value == pytest.approx(np.mean(expected), rel=1e-3)
    assert report["mls"].converged
    head = torch.linalg.matrix_norm(model[2].weight.detach(), 2).item()
    assert report["nmls"].layers["0"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert report["nmls"].layers["2"] == pytest.approx(head, rel=1e-3)
    assert report["nmls"].value == pytest.approx(np.mean(expected) + head, rel=1e-3)
    assert report["bound_b"].value > report["mls"].value
    for name in ("log_lvr", "log_nvr", "lvr_bound", "nvr_bound"):
        assert report[name].value is None
        assert "256 MB" in report[name].reason
    few = measure(model, (x, y), ["log_lvr"], options={"log_lvr": {"volume_rank": 2}})["log_lvr"]
    gram = jacobian.T @ jacobian
    last = 0.5 * torch.linalg.eigvalsh(gram).flip(0)[:2].log().sum().item()
    alone = {"log_lvr": {"volume_rank": 2}}
    one = measure(model, (x[2:], y[2:]), ["log_lvr"], options=alone)["log_lvr"]
    assert one.value == pytest.approx(last, abs=5e-3)
    assert few.num_points == 3


def test_sigma_that_has_not_settled_is_flagged():
    torch.manual_seed(0)
    model = nn.Linear(200, 200)
    x, y = torch.randn(2, 200), torch.tensor([0, 1])
    hasty = estimated(tolerance=1e-12, max_steps=3)
    found = measure(model, (x, y), ["mls"], options=hasty)["mls"]
    assert not found.converged


def test_sharding_changes_no_estimate():
    model, x, y = case("vgg", num_points=6)
    ranks = {name: {"volume_rank": 2} for name in ("lvr_bound", "nvr_bound")}
    options = estimated(max_samples=8) | ranks
    names = [*BOTH, "nmls", *BOUNDS]
    one = measure_observers({"probe": LocalObserver(model, x, y)}, names, options=options)
    three = ShardedObserver(model, x, y, cuts=[1, 4], order=[1, 2, 0])
    other = measure_observers({"probe": three}, names, options=options)
    for name in names:
        assert other[name].value == pytest.approx(one[name].value, rel=2e-3), name


def test_a_point_that_is_not_finite_is_named():
    model, x, y = case("lenet")
    x[1] = torch.nan
    report = measure(model, (x, y), BOTH, options=estimated(max_samples=8))
    for name in BOTH:
        assert "not finite: 1" in report[name].reason, name
        assert report[name].num_points == 4
