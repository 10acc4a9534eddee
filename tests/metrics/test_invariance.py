"""Rescaling two layers and not the function: what must not move does not, and the rest does."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure, measure_observers, metric_catalog
from flatscale.metrics.catalog.reparametrization import RESCALING, RescaledObserver
from flatscale.metrics.registration import metric_info
from tests.metrics.quick import QUICK
from tests.oracles.networks import case

CHECKED = [
    info.name
    for info in metric_catalog()
    if info.observers == ("probe",) and info.name != "reparametrization_check"
]
INVARIANT = {info.name for info in metric_catalog() if RESCALING in info.invariances}


def network(name):
    if name == "mlp":
        model, x, y = case("mlp", num_points=6)
        model[2] = nn.ReLU()
        return model, x, y
    return case(name, num_points=6)


RESCALED = {"mlp": ("1", "3"), "vgg": ("0", "3")}
"""The first two layers of each network with ReLUs between them."""
_CHEAP = {"jacobian", "layer_norms", "relative_flatness_points", "activation_bins"}
NOT_DRAWN = tuple(metric for metric in CHECKED if set(metric_info(metric).passes) <= _CHEAP)
"""What the check measures again here: it gives each metric its whole budget."""


@cache
def ratios(name):
    """Every measure after rescaling over before; small budgets draw the same numbers twice."""
    model, x, y = network(name)
    probe = LocalObserver(model, x, y)
    budgets = {metric: QUICK[metric] for metric in CHECKED if metric in QUICK}
    before, after = (
        measure_observers({"probe": observer}, CHECKED, options=budgets, seed=0)
        for observer in (probe, RescaledObserver(probe, RESCALED[name], 3.0))
    )
    return {metric: after[metric].value / before[metric].value for metric in CHECKED}


@cache
def checked(name):
    model, x, y = network(name)
    settings = {"alpha": 3.0, "metrics": NOT_DRAWN}
    options = {"reparametrization_check": settings}
    report = measure(model, (x, y), ["reparametrization_check"], options=options)
    return report["reparametrization_check"]


@pytest.mark.parametrize("metric", CHECKED)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_what_is_declared_invariant_does_not_move_and_all_else_does(name, metric):
    ratio = ratios(name)[metric]
    if metric in INVARIANT:
        assert abs(ratio - 1) < 1e-3
    else:
        assert abs(ratio - 1) > 1e-2


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_the_check_is_the_largest_move_of_an_invariant_measure(name):
    found = checked(name)
    assert set(found.extras) == set(NOT_DRAWN)
    for metric, (ratio,) in found.extras.items():
        assert ratio == pytest.approx(ratios(name)[metric], rel=1e-6), metric
    moves = {m: abs(ratio - 1) for m, (ratio,) in found.extras.items() if m in INVARIANT}
    assert set(moves) == INVARIANT & set(NOT_DRAWN)
    assert len(moves) >= 11
    assert found.value == max(moves.values())
    assert found.value < 1e-3
    assert f"layers {RESCALED[name][0]} and {RESCALED[name][1]} rescaled by 3.0" in found.reason


def test_the_specification_names_what_is_invariant():
    specified = {"mls", "log_lvr", "local_dimensionality", "relative_flatness"}
    assert specified | {"adaptive_sharpness"} <= INVARIANT
    assert not INVARIANT & {"sharpness", "top_eigenvalue", "worst_case_sharpness", "nmls"}


def test_the_rescaled_network_is_the_same_function_with_other_weights():
    model, x, y = network("vgg")
    found = RescaledObserver(LocalObserver(model, x, y), ("0", "3"), 3.0).gather(
        weights_and_outputs
    )
    with torch.no_grad():
        expected = model.eval()(x)
    np.testing.assert_allclose(found["outputs"], expected.numpy(), rtol=1e-4, atol=1e-6)
    first, second = (model[i].weight.detach().norm().item() for i in (0, 3))
    assert found["first"][0] == pytest.approx(3.0 * first, rel=1e-5)
    assert found["second"][0] == pytest.approx(second / 3.0, rel=1e-5)


def weights_and_outputs(shard):
    with torch.no_grad():
        outputs = shard.outputs(shard.x).numpy()
    norms = {
        name: np.full(len(outputs), shard.model[i].weight.norm().item())
        for name, i in (("first", 0), ("second", 3))
    }
    return {"outputs": outputs, **norms}


def test_asam_sharpness_is_invariant_where_sam_is_not():
    model, x, y = case("lenet", num_points=5)
    probe = LocalObserver(model, x, y)
    rescaled = RescaledObserver(probe, ("0", "3"), 3.0)
    for adaptive, moved in ((True, False), (False, True)):
        options = {"worst_case_sharpness": {"adaptive": adaptive, "num_restarts": 1, "rho": 0.1}}
        values = [
            measure_observers({"probe": o}, ["worst_case_sharpness"], options=options)
            for o in (probe, rescaled)
        ]
        first, second = (v["worst_case_sharpness"].value for v in values)
        assert (abs(second / first - 1) > 1e-3) == moved


def test_networks_that_cannot_be_rescaled_say_so():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    report = measure(model, (x, y), ["reparametrization_check"])
    assert "positively homogeneous" in report["reparametrization_check"].reason
