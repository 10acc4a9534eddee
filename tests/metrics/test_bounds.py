"""The inequalities, against loops and on every kind of layer: right sides, slack and violations."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure, metric_catalog
from flatscale.metrics.passes.jacobian.layer_norms import unrolled_norm
from tests.oracles.loops import loops
from tests.oracles.networks import CASES, case

BOUNDS = [info.name for info in metric_catalog() if info.group == "bound"]


def sharpness_unrolled(slow):
    shared, unrolled = slow.layer_g_shared**2, slow.layer_g_unrolled**2
    return slow.sharpness - shared.sum(axis=1) + unrolled.sum(axis=1)


@pytest.mark.parametrize("name", CASES)
def test_bounds_equal_their_formulas_and_hold(name):
    model, x, y = case(name)
    slow = loops(model, x)
    n, rank = slow.spectra.shape
    a, g, s = slow.layer_a, slow.layer_g_unrolled, sharpness_unrolled(slow).mean()
    root = np.sqrt((a[:, 0] ** 2).mean())
    volume = 0.5 * rank * np.log(n * s / rank) - np.log(n)
    expected = {
        "bound_a": slow.layer_spectra[:, 0, 0].mean(),
        "bound_b": (a[:, 0] * g[:, 0]).mean(),
        "bound_c": root * np.sqrt((g[:, 0] ** 2).mean()),
        "bound_d": root * np.sqrt(s),
        "nmls_bound": np.sqrt((a**2).sum(axis=1).mean()) * np.sqrt(s),
        "lvr_bound": 0.5 * np.log((a[:, 0] ** (2 * rank)).sum()) + volume,
        "nvr_bound": 0.5 * np.log((a ** (2 * rank)).sum()) + volume,
    }
    report = measure(model, (x, y), [*BOUNDS, "mls", "nmls", "input_invariant_mls"])
    for bound, value in expected.items():
        assert report[bound].value == pytest.approx(value, rel=2e-3), bound
    values = [report[b].value for b in ("bound_a", "bound_b", "bound_c", "bound_d")]
    assert values == sorted(values)
    assert report["mls"].value == pytest.approx(report["bound_a"].value, rel=1e-5)
    assert report["nmls"].value <= report["nmls_bound"].value
    assert report["input_invariant_mls"].value <= report["input_invariant_bound"].value
    for bound in BOUNDS[1:]:
        assert report[bound].extras["violations"] == (0.0,), bound
    assert len(report["bound_b"].extras["slack"]) == n
    slack = a[:, 0] * g[:, 0] - slow.layer_spectra[:, 0, 0]
    np.testing.assert_allclose(report["bound_b"].extras["slack"], slack, rtol=5e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 2, stride=2),
        nn.Conv2d(4, 8, (2, 3), stride=(3, 3), groups=2),
        nn.Conv1d(4, 6, 1, stride=2, groups=2),
        nn.Conv2d(3, 4, 2, stride=2, padding=1),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Conv2d(3, 4, 2, stride=2, dilation=2),
    ],
)
def test_operator_norm_is_that_of_the_dense_matrix_whether_patches_overlap_or_not(layer):
    shape = (layer.in_channels, *[7] * len(layer.kernel_size))
    zero = torch.zeros(1, *shape)
    matrix = torch.autograd.functional.jacobian(layer, zero).reshape(-1, zero.numel())
    expected = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert unrolled_norm(layer, shape) == pytest.approx(expected, rel=1e-4)


def test_operator_norm_of_a_linear_layer_that_computes_its_weight():
    class Normalized(nn.Linear):
        def forward(self, x):
            weight = self.weight / self.weight.norm(dim=1, keepdim=True)
            return nn.functional.linear(x, weight, self.bias)

    layer = Normalized(6, 4)
    weight = layer.weight.detach() / layer.weight.detach().norm(dim=1, keepdim=True)
    expected = float(torch.linalg.matrix_norm(weight, 2))
    assert unrolled_norm(layer, (6,)) == pytest.approx(expected, rel=1e-5)


def test_without_weight_sharing_both_forms_agree():
    model, x, y = case("mlp")
    report = measure(model, (x, y), BOUNDS)
    for bound in BOUNDS[1:]:
        (shared,) = report[bound].extras["shared"]
        assert shared == pytest.approx(report[bound].value, rel=1e-5), bound


def test_weight_shared_form_fails_where_theory_says_it_may_and_is_counted():
    # one input pattern at every position: the shared gradient cancels, J does not
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    x = torch.ones(3, 1, 2)
    report = measure(model, (x, torch.zeros(3, 1)), ["bound_b"])
    assert report["bound_b"].extras["shared_violations"] == (3.0,)
    assert report["bound_b"].extras["violations"] == (0.0,)
    assert report["bound_b"].reason is None


def test_input_invariant_bound_equals_its_formula_for_linear_layers():
    model, x, y = case("mlp")
    total = 0.0
    weight = model[1].weight
    for xi in x.split(1):
        for k in range(4):
            (gradient,) = torch.autograd.grad(model(xi)[0, k], weight)
            total += float((weight.detach() * gradient).square().sum())
    report = measure(model, (x, y), ["input_invariant_bound"])
    expected = len(weight) * total / len(x)
    assert report["input_invariant_bound"].value == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_reads_only_zeros_has_no_bound():
    model, x, y = case("mlp")
    x[0] = 0.0
    report = measure(model, (x, y), ["bound_b", "mls"])
    assert "reads only zeros" in report["bound_b"].reason
    assert report["mls"].value is not None


def test_a_network_whose_jacobian_vanishes_has_no_volume_and_says_so():
    model, x, y = case("mlp")
    torch.nn.init.zeros_(model[-1].weight)
    reason = measure(model, (x, y), ["log_lvr"])["log_lvr"].reason
    assert "vanishes at every probe point" in reason


def test_bound_a_says_when_the_first_layer_does_not_read_the_input():
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3))
    report = measure(model, (torch.rand(4, 6), torch.zeros(4, dtype=torch.long)), ["bound_a"])
    assert "not at the network's" in report["bound_a"].reason
