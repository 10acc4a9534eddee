"""What must hold for every metric of the catalog, those still to come included.

An exemption names the metric and the reason; a metric without one is held to everything.
"""

import re
from functools import cache

import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure, measure_observers, metric_catalog
from flatscale.metrics.passes.corruptions import CORRUPTIONS
from tests.metrics.quick import QUICK
from tests.oracles.networks import case
from tests.oracles.sharded import ShardedObserver

METRICS = [info.name for info in metric_catalog()]
POINTS = 7

DRAWN = {
    "adaptive_sharpness": "random perturbations",
    "average_sharpness": "random perturbations",
    "hessian_trace": "random probes",
    "spectral_density": "random probes",
    "finite_mls": "random starts",
    "worst_case_sharpness": "random restarts",
    "pac_bayes_bound": "random restarts",
    "pgd_accuracy": "random restarts",
    "pgd_loss": "random restarts",
}
"""Metrics whose value depends on the seed, and on how many numbers are drawn in which dtype."""

WITH_THE_NUMBER_OF_PARAMETERS = {
    "pac_bayes_bound": "k is the number of parameters",
    "spectral_density": "tr H / P",
    "hessian_trace": "random probes of other parameters",
    "worst_case_sharpness": "random restarts in other parameters",
    "adaptive_sharpness": "perturbations of other parameters are drawn",
    "average_sharpness": "perturbations of other parameters are drawn",
    "prunable_share": "of all weights",
    "lowest_rank_share": "mean over all layers",
}

QUICK_CALIBRATED = {**QUICK, "pac_bayes_bound": {"num_steps": 2, "num_train_points": 50}}


def network():
    return case("vgg", num_points=POINTS)


def as_sets(observer):
    return dict.fromkeys(("probe", "train", "test", "shifted"), observer)


def measured(observers, seed=3):
    return measure_observers(observers, METRICS, options=QUICK_CALIBRATED, seed=seed)


@cache
def plain(points=POINTS):
    model, x, y = network()
    return measured(as_sets(LocalObserver(model, x[:points], y[:points])))


def sharded(cuts, order=None, **settings):
    model, x, y = network()
    return measured(as_sets(ShardedObserver(model, x, y, cuts=cuts, order=order, **settings)))


def in_train_mode_frozen():
    model, x, y = network()
    model.train().requires_grad_(False)
    model[0].requires_grad_(True)
    with torch.no_grad():
        return measured(as_sets(LocalObserver(model, x, y)))


def changed_in_place():
    """Every activation in place, the network's first operation in place on the probe itself."""
    model, x, y = network()
    first = nn.Hardtanh(-10.0, 10.0, inplace=True)
    found = measured(as_sets(LocalObserver(nn.Sequential(first, *model), x, y)))
    assert torch.equal(x, network()[1])
    return found


def not_in_place():
    model, x, y = network()
    model = nn.Sequential(nn.Hardtanh(-10.0, 10.0), *model)
    for module in model:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return measured(as_sets(LocalObserver(model, x, y)))


def in_double():
    model, x, y = network()
    return measured(as_sets(LocalObserver(model.double(), x.double(), y)))


def rounded(half):
    model, x, y = network()
    model, x = model.bfloat16(), x.bfloat16().float()
    return measured(as_sets(LocalObserver(model if half else model.float(), x, y)))


class WithSpare(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model
        self.spare = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x)


def with_unused_parameters():
    model, x, y = network()
    return measured(as_sets(LocalObserver(WithSpare(model), x, y)))


def spoiled(observer=LocalObserver, **settings):
    model, x, y = network()
    x[POINTS - 1, 1, 2, 2] = torch.nan
    return measured(as_sets(observer(model, x, y, **settings)))


def one_hot(targets):
    return nn.functional.one_hot(targets, 4).float()


CALLABLES = {
    "half_squared_error": lambda f, t: 0.5 * (f - one_hot(t)).pow(2).sum(1),
    "squared_error": lambda f, t: (f - one_hot(t)).pow(2).sum(1),
    "cross_entropy": lambda f, t: -torch.log_softmax(f, 1)[torch.arange(len(t)), t],
}


def with_loss(loss):
    model, x, y = network()
    return measured(as_sets(LocalObserver(model, x, y, loss=loss)))


VARIANTS = {
    **{
        f"{name} as a callable": (
            lambda name=name: with_loss(CALLABLES[name]),
            lambda name=name: with_loss(name),
            1e-4,
            {},
        )
        for name in CALLABLES
    },
    "ragged shards": (lambda: sharded([3, 4]), plain, 2e-4, {}),
    "shards in another order": (lambda: sharded([1, 5], [2, 0, 1]), plain, 2e-4, {}),
    "a shard a point": (lambda: sharded(range(1, POINTS), [4, 2, 6, 0, 1, 3, 5]), plain, 2e-4, {}),
    "ragged microbatches": (lambda: sharded([5], microbatch=2), plain, 2e-4, {}),
    "train mode, frozen, no_grad": (in_train_mode_frozen, plain, 1e-6, {}),
    "in place": (changed_in_place, not_in_place, 1e-5, {}),
    "float64": (in_double, plain, 2e-3, DRAWN),
    "bfloat16": (lambda: rounded(True), lambda: rounded(False), 1e-6, {}),
    "unused parameters": (with_unused_parameters, plain, 1e-5, WITH_THE_NUMBER_OF_PARAMETERS),
    "a point that is not finite": (spoiled, lambda: plain(POINTS - 1), 1e-4, {}),
    "a point that is not finite, sharded": (
        lambda: spoiled(ShardedObserver, cuts=[3, 4], order=[2, 0, 1]),
        lambda: plain(POINTS - 1),
        2e-4,
        {},
    ),
}


@cache
def pair(variant):
    found, expected, _, _ = VARIANTS[variant]
    return found(), expected()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_does_not_depend_on_how_it_is_measured(variant, name):
    found, expected = (report[name] for report in pair(variant))
    _, _, tolerance, exempt = VARIANTS[variant]
    assert expected.value is not None, expected.reason
    assert found.value is not None, found.reason
    if name in exempt:
        return
    assert found.value == pytest.approx(expected.value, rel=tolerance, abs=1e-6)
    assert found.num_points == expected.num_points
    layers = {layer.removeprefix("inner."): v for layer, v in found.layers.items()}
    if variant == "in place":
        assert list(layers) == list(expected.layers)
    assert layers == pytest.approx(dict(expected.layers), rel=tolerance, abs=1e-7)
    if expected.std_error is not None:
        assert found.std_error == pytest.approx(expected.std_error, rel=5e-3, abs=1e-6)
    assert found.converged == expected.converged


@pytest.mark.parametrize("name", METRICS)
def test_a_point_that_is_not_finite_is_named(name):
    found, _ = pair("a point that is not finite")
    assert f"1 of {POINTS} points left out" in found[name].reason
    assert re.search(rf"not finite: {POINTS - 1}\b", found[name].reason)


@pytest.mark.parametrize("name", METRICS)
def test_half_precision_is_said(name):
    found, expected = pair("bfloat16")
    assert "measured in float32" in found[name].reason
    assert "measured in float32" not in (expected[name].reason or "")


def test_every_exemption_is_of_a_metric_and_has_a_reason():
    for _, _, _, exempt in VARIANTS.values():
        assert set(exempt) <= set(METRICS)
        assert all(exempt.values())


@cache
def seeded(seed):
    model, x, y = network()
    return measured(as_sets(LocalObserver(model, x, y)), seed=seed)


@pytest.mark.parametrize("name", METRICS)
def test_the_seed_decides_what_is_drawn_and_nothing_else(name):
    assert seeded(3)[name] == plain()[name]
    if name not in DRAWN:
        assert seeded(4)[name].value == pytest.approx(plain()[name].value, rel=1e-3, abs=1e-6)


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.bias.expand(len(x), 3)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x), x


def cannot():
    """Networks and points for which some metrics have no value."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x, y = torch.linspace(-1, 1, 24).reshape(4, 6), torch.tensor([0, 1, 2, 0])
        two_layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        embedding = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(24, 3))
        return {
            "no linear layer": (nn.Sequential(nn.BatchNorm1d(6)), x, y),
            "no parameter": (nn.Flatten(), x, y),
            "one class": (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), x, 0 * y),
            "one point": (two_layers, x[:1], y[:1]),
            "constant": (Constant(), x, y),
            "dead": (nn.Sequential(nn.Linear(6, 3, bias=False), nn.ReLU()), 0 * x, y),
            "integers": (embedding, torch.arange(24).reshape(4, 6) % 5, y),
            "nothing finite": (two_layers, x * torch.nan, y),
            "images": (nn.Conv2d(1, 3, 3), torch.ones(4, 1, 5, 5), y),
            "two outputs": (Pair(), x, y),
        }


@cache
def tried(network):
    model, x, y = cannot()[network]
    return measure(model, (x, y), METRICS, options=QUICK, train=(x, y), test=(x, y), shifted=(x, y))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("network", cannot())
def test_what_cannot_be_computed_says_why_in_words(network, name):
    found = tried(network)[name]
    if found.value is None:
        assert not found.converged
        assert not re.match(r"\w+(Error|Warning|Exception)\b", found.reason), found.reason
    else:
        assert found.value == found.value


def test_what_cannot_be_computed_spoils_nothing_else():
    def given(network):
        return {name for name, m in tried(network).items() if m.value is not None}

    outcomes = {info.name for info in metric_catalog() if info.group == "outcome"}
    of_classes = {name for name in METRICS if name.endswith("_accuracy")}
    of_classes |= {info.name for info in metric_catalog() if info.group == "calibration"}
    of_images = {"corruption_accuracy"}
    of_images |= {f"{kind}_accuracy" for kind, known in CORRUPTIONS.items() if known.images_only}
    assert given("one class") == set(METRICS) - of_classes - {"generalization_gap"}
    assert set(METRICS) - given("one point") == {"pac_bayes_bound"} | of_images
    assert given("no linear layer") >= outcomes | {"mls", "sharpness", "top_eigenvalue"}
    assert given("no parameter") >= outcomes | {"mls", "log_lvr", "input_gradient"}
    assert given("constant") >= outcomes | {"top_eigenvalue", "worst_case_sharpness"}
    assert given("integers") >= outcomes | {"hessian_trace", "relative_flatness"}
    for network in ("images", "two outputs"):
        assert given(network) == set()
        for found in tried(network).values():
            assert "(batch, classes)" in found.reason
