"""The Jacobian pass against plain loops: every quantity, every kind of layer."""

import numpy as np
import pytest
import torch

from flatscale.metrics import LocalObserver, measure
from flatscale.metrics.passes.jacobian.exact import exact_pass
from flatscale.metrics.passes.jacobian.layer_norms import layer_norms
from flatscale.metrics.passes.jacobian.parameter_gradients import Contraction
from tests.oracles.loops import loops
from tests.oracles.networks import CASES, Residual, case

MAPS = {"identity": lambda f: f, "sigmoid": torch.sigmoid, "softmax": lambda f: torch.softmax(f, 1)}


def run(model, x, y, **settings):
    return exact_pass(LocalObserver(model, x, y, **settings))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("output_map", ["identity", "sigmoid"])
def test_every_quantity_equals_the_loops(name, output_map):
    model, x, y = case(name)
    fast = run(model, x, y, output_map=output_map)
    slow = loops(model, x, MAPS[output_map])
    close = {"rtol": 1e-4, "atol": 1e-7}
    np.testing.assert_allclose(fast.singular_values, slow.spectra, **close)
    np.testing.assert_allclose(fast.layer_singular_values, slow.layer_spectra, **close)
    np.testing.assert_allclose(fast.sums.norms.sharpness, slow.sharpness, **close)
    np.testing.assert_allclose(fast.along_input.values, slow.directional2 / x[0].numel(), **close)
    assert set(fast.sums.parameter_names) == set(slow.parameter_norms)
    for i, parameter in enumerate(fast.sums.parameter_names):
        expected = slow.parameter_norms[parameter]
        np.testing.assert_allclose(fast.sums.parameter_gradient2[:, i], expected, **close)
    norms = layer_norms({"probe": LocalObserver(model, x, y)}, 0)
    a = norms.unrolled / np.sqrt(fast.sums.layer_input_norm2)
    np.testing.assert_allclose(a, slow.layer_a, rtol=1e-3)
    unrolled = np.sqrt(fast.sums.norms.delta2 * fast.sums.layer_input_norm2)
    np.testing.assert_allclose(unrolled, slow.layer_g_unrolled, **close)
    np.testing.assert_allclose(np.sqrt(fast.sums.norms.weight2), slow.layer_g_shared, **close)


@pytest.mark.parametrize("name", CASES)
def test_metrics_reduce_to_their_definitions(name):
    model, x, y = case(name)
    slow = loops(model, x)
    spectra, layers = slow.spectra, slow.layer_spectra
    squares = spectra**2
    expected = {
        "mls": spectra[:, 0],
        "nmls": layers[:, :, 0].sum(axis=1),
        "log_lvr": np.log(spectra).sum(axis=1),
        "log_nvr": np.log(np.exp(np.log(layers).sum(axis=2)).sum(axis=1)),
        "local_dimensionality": squares.sum(axis=1) ** 2 / (squares**2).sum(axis=1),
        "input_gradient": squares.sum(axis=1),
        "normalized_mls": squares[:, 0] * x.flatten(1).double().square().sum(dim=1).numpy(),
        "input_invariant_mls": slow.directional2 / x[0].numel(),
        "sharpness": slow.sharpness,
    }
    report = measure(model, (x, y), list(expected))
    for metric, values in expected.items():
        found = report[metric]
        assert found.value == pytest.approx(values.mean(), rel=1e-4), metric
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert found.std_error == pytest.approx(error, rel=1e-3), metric
        assert found.num_points == len(x)
        assert found.converged
    assert sum(report["nmls"].layers.values()) == pytest.approx(report["nmls"].value)
    assert sum(report["sharpness"].layers.values()) == pytest.approx(report["sharpness"].value)


def residual_by_autograd(model, x):
    """Sharpness per point of the residual network, one output at a time."""
    model.eval()
    totals = []
    for xi in x.split(1):
        total = 0.0
        for k in range(3):
            grads = torch.autograd.grad(
                model(xi)[0, k], list(model.parameters()), allow_unused=True
            )
            total += sum(float(g.square().sum()) for g in grads if g is not None)
        totals.append(total)
    return np.array(totals)


def test_shared_layers_bare_and_unused_parameters_are_differentiated_through_the_network():
    torch.manual_seed(3)
    model, x = Residual(), torch.rand(4, 3, 6, 6)
    found = run(model, x, torch.zeros(4, dtype=torch.long))
    expected = residual_by_autograd(model, x)
    np.testing.assert_allclose(found.sums.norms.sharpness, expected, rtol=1e-4)
    assert {"block.weight", "scale"} <= set(found.sums.parameter_names)
    assert "unused" not in found.sums.parameter_names
    assert found.layer_names == ("stem", "block", "block@2", "head")


def test_weight_standardized_layer_is_not_mistaken_for_a_plain_one():
    class Standardized(torch.nn.Linear):
        def forward(self, x):
            weight = self.weight / self.weight.norm(dim=1, keepdim=True)
            return torch.nn.functional.linear(x, weight, self.bias)

    torch.manual_seed(0)
    model = torch.nn.Sequential(Standardized(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x = torch.rand(4, 5)
    found = run(model, x, torch.zeros(4, dtype=torch.long))
    np.testing.assert_allclose(
        found.sums.norms.sharpness, residual_by_autograd(model, x), rtol=1e-4
    )


class Tied(torch.nn.Module):
    """f = W tanh(W x): one weight, in a layer and in a function that no layer sees."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return torch.nn.functional.linear(torch.tanh(self.layer(x)), self.layer.weight)


def test_a_layers_formula_is_not_trusted_where_the_gradient_vanishes():
    """At a black first point every formula gives the right gradient: zero."""
    torch.manual_seed(0)
    model, x = Tied(), torch.rand(4, 3)
    x[0] = 0.0
    expected = residual_by_autograd(model, x)
    for points in (slice(0, 4), slice(0, 1), slice(1, 4)):
        found = run(model, x[points], torch.zeros(4, dtype=torch.long)[points])
        assert found.sums.parameter_names == ("layer.weight",)
        np.testing.assert_allclose(
            found.sums.norms.sharpness, expected[points], rtol=1e-4, atol=1e-9
        )


class Skip(torch.nn.Module):
    """f = H (x + B x)."""

    def __init__(self):
        super().__init__()
        self.block = torch.nn.Linear(4, 4, bias=False)
        self.head = torch.nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(x + self.block(x))


def test_a_layers_jacobian_runs_through_the_layer_alone_not_through_the_skip():
    torch.manual_seed(0)
    model, x = Skip(), torch.randn(3, 4)
    found = run(model, x, torch.zeros(3, dtype=torch.long))
    block, head = model.block.weight.detach(), model.head.weight.detach()
    for place, matrix in enumerate((head @ block, head)):
        expected = torch.linalg.svdvals(matrix).expand(3, -1)
        np.testing.assert_allclose(found.layer_singular_values[:, place], expected, rtol=1e-4)
    whole = torch.linalg.svdvals(head @ (torch.eye(4) + block))
    np.testing.assert_allclose(found.singular_values, whole.expand(3, -1), rtol=1e-4)


@pytest.mark.parametrize(
    ("positions", "depth", "channels", "entrywise"),
    [(1, 5, 4, False), (2, 9, 8, False), (9, 2, 3, False), (3, 4, 5, True)],
)
def test_every_contraction_is_the_norm_of_the_gradient(positions, depth, channels, entrywise):
    """sum_k sum_g ||delta_kg x_g^T||^2, by factors, by Gram matrices, and gradient by gradient."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, depth, positions)
    delta = torch.randn(6, 2, 3, channels, positions)
    contraction = Contraction(x, 6, channels, entrywise=entrywise)
    contraction.add(delta[:2])
    contraction.add(delta[2:])
    gradients = torch.einsum("kbgcp,bgdp->kbgdc", delta, x)
    expected = gradients.square().sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(contraction.norm(), expected)
    if entrywise:
        by_entry = gradients.square().sum(dim=0).flatten(0, 1)
        torch.testing.assert_close(contraction.squares, by_entry)


def test_inplace_activation_does_not_corrupt_sharpness():
    model, x, y = case("vgg")
    plain = run(model, x, y).sums.parameter_gradient2
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    np.testing.assert_allclose(plain, run(model, x, y).sums.parameter_gradient2, rtol=1e-6)


def test_channels_last_and_noncontiguous_inputs_change_nothing():
    model, x, y = case("vgg")
    expected = run(model, x, y).singular_values
    last = x.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(run(model, last, y).singular_values, expected, rtol=1e-5)
    strided = torch.stack([x, x], dim=-1)[..., 0]
    np.testing.assert_allclose(run(model, strided, y).singular_values, expected, rtol=1e-5)


def test_a_point_that_is_not_finite_is_named_and_leaves_the_others_alone():
    model, x, y = case("vgg", num_points=5)
    clean = measure(model, (x[[0, 1, 3, 4]], y[[0, 1, 3, 4]]), ["mls", "sharpness", "bound_b"])
    spoiled = x.clone()
    spoiled[2, 0, 1, 1] = torch.nan
    report = measure(model, (spoiled, y), ["mls", "sharpness", "bound_b"])
    for name in clean:
        assert report[name].value == pytest.approx(clean[name].value, rel=1e-6), name
        assert report[name].num_points == 4
    assert "1 of 5 points left out, not finite: 2" in report["mls"].reason


def test_softmax_is_rank_deficient_and_says_so():
    model, x, y = case("mlp")
    report = measure(model, (x, y), ["log_lvr", "mls"], output_map="softmax")
    assert report["log_lvr"].value is None
    assert "volume_rank to at most 3" in report["log_lvr"].reason
    options = {"log_lvr": {"volume_rank": 3}}
    report = measure(model, (x, y), ["log_lvr"], output_map="softmax", options=options)
    slow = loops(model, x, MAPS["softmax"])
    expected = np.log(slow.spectra[:, :3]).sum(axis=1).mean()
    assert report["log_lvr"].value == pytest.approx(expected, rel=1e-4)


def test_dead_point_is_counted_not_averaged_as_minus_infinity():
    model, x, y = case("vgg")
    with torch.no_grad():
        model[0].bias.fill_(-0.5)
        x[1] = 0.0
    report = measure(model, (x, y), ["log_lvr", "local_dimensionality"])
    assert report["log_lvr"].num_points == 4
    assert report["log_lvr"].extras["rank_deficient_points"] == (1.0,)
    assert np.isfinite(report["log_lvr"].value)
    assert "the Jacobian vanishes: 1" in report["local_dimensionality"].reason
