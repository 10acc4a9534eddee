"""Hessian metrics against the dense Hessian of small networks."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure
from flatscale.metrics.estimators.spectral_quadrature import quadrature
from flatscale.metrics.passes.curvature.loss_surface import hessian_products, loss_surface
from tests.oracles.dense_hessian import curved_problem, dense_hessian, half_squared
from tests.oracles.networks import Residual, case

ENDS = ["top_eigenvalue", "bottom_eigenvalue", "eigenvalue_ratio"]


@pytest.fixture(scope="module")
def small():
    model, x, y = curved_problem()
    return model, x, y, dense_hessian(model, x, y)


@pytest.mark.parametrize("microbatch", [None, 2, 4])
def test_products_equal_the_dense_hessian_ragged_batches_included(small, microbatch):
    model, x, y, dense = small
    surface = loss_surface({"probe": LocalObserver(model, x, y, microbatch=microbatch)}, 0)
    vectors = np.random.default_rng(0).standard_normal((3, len(dense)))
    np.testing.assert_allclose(surface.hessian.products(vectors), vectors @ dense, atol=2e-5)


@pytest.mark.parametrize("microbatch", [None, 2, 4])
def test_loss_and_gradient_anywhere_equal_plain_backpropagation(small, microbatch):
    model, x, y, dense = small
    shift = 0.1 * np.random.default_rng(0).standard_normal(len(dense))
    moved = copy.deepcopy(model).double()
    vector = torch.nn.utils.parameters_to_vector(moved.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector + torch.from_numpy(shift), moved.parameters())
    expected = half_squared(moved(x.double()), y).mean()
    gradients = torch.autograd.grad(expected, list(moved.parameters()))
    surface = loss_surface({"probe": LocalObserver(model, x, y, microbatch=microbatch)}, 0)
    loss, gradient = surface.gradient(shift)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    flat = torch.cat([g.reshape(-1) for g in gradients]).numpy()
    np.testing.assert_allclose(gradient, flat, atol=1e-5 * np.abs(flat).max())
    np.testing.assert_allclose(surface.theta, vector.numpy(), rtol=1e-12)


def test_products_on_a_convolutional_network_with_in_place_relu():
    model, x, y = case("lenet", num_points=3)
    for module in model:
        if isinstance(module, nn.ReLU):
            module.inplace = True
    dense = dense_hessian(model, x, y)
    surface = loss_surface({"probe": LocalObserver(model, x, y)}, 0)
    vectors = np.random.default_rng(0).standard_normal((2, len(dense)))
    expected = vectors @ dense
    found = surface.hessian.products(vectors)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_kept_graph_is_of_these_weights_statistics_and_points():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    observer = LocalObserver(model, x, y)
    vector = np.random.default_rng(0).standard_normal(
        (1, sum(p.numel() for p in model.parameters()))
    )

    def agrees(left_out):
        rest = [i for i in range(6) if i not in left_out]
        found = observer.total(hessian_products, vectors=vector, left_out=left_out)["products"]
        expected = vector @ dense_hessian(model, x[rest], y[rest]) * len(rest)
        return np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    assert agrees(())
    assert agrees((2,))
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    assert agrees((2,))
    model[1].running_mean.add_(0.5)
    assert agrees((2,))


def test_the_ends_are_signed(small):
    model, x, y, dense = small
    values = np.linalg.eigvalsh(dense)
    report = measure(model, (x, y), ENDS[:2], loss=lambda f, t: -half_squared(f, t))
    assert report["top_eigenvalue"].value == pytest.approx(-values[0], rel=2e-3)
    assert report["bottom_eigenvalue"].value == pytest.approx(-values[-1], rel=1e-3)


def test_cross_entropy_curvature(small):
    model, x, y, _ = small
    dense = dense_hessian(
        model, x, y, lambda f, t: nn.functional.cross_entropy(f, t, reduction="none")
    )
    found = measure(model, (x, y), ENDS, loss="cross_entropy")
    assert found["top_eigenvalue"].value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-3)


def test_extreme_eigenvalues(small):
    model, x, y, dense = small
    values = np.linalg.eigvalsh(dense)
    report = measure(model, (x, y), ENDS)
    assert report["top_eigenvalue"].value == pytest.approx(values[-1], rel=1e-3)
    assert report["bottom_eigenvalue"].value == pytest.approx(values[0], rel=2e-3)
    ratio = -values[0] / values[-1]
    assert report["eigenvalue_ratio"].value == pytest.approx(ratio, rel=3e-3)
    for name in ENDS:
        assert report[name].converged
        assert max(report[name].extras["residual_norm"]) < 0.05 * values[-1]


def test_tiny_network_is_solved_whole():
    model = nn.Linear(2, 2)
    x, y = torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 1])
    values = np.linalg.eigvalsh(dense_hessian(model, x, y))
    report = measure(model, (x, y), ENDS)
    assert report["top_eigenvalue"].value == pytest.approx(values[-1], rel=1e-4)
    assert report["bottom_eigenvalue"].value == pytest.approx(values[0], abs=1e-5)


def test_lanczos_that_runs_out_of_restarts_gives_what_it_has_and_says_so(small):
    model, x, y, dense = small
    options = {"top_eigenvalue": {"max_iterations": 2, "tolerance": 1e-14}}
    found = measure(model, (x, y), ["top_eigenvalue"], options=options)["top_eigenvalue"]
    assert not found.converged
    assert found.value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=0.05)


def test_trace_converges_to_the_truth(small):
    model, x, y, dense = small
    options = {"hessian_trace": {"max_relative_error": 0.02, "max_products": 4000}}
    found = measure(model, (x, y), ["hessian_trace"], options=options)["hessian_trace"]
    assert found.converged
    assert abs(found.value - np.trace(dense)) <= 4 * found.std_error
    assert found.std_error <= 0.02 * abs(found.value)


def test_spectral_density_has_the_dense_moments(small):
    model, x, y, dense = small
    options = {"spectral_density": {"num_probes": 60, "num_steps": 12}}
    found = measure(model, (x, y), ["spectral_density"], options=options)["spectral_density"]
    nodes, weights = np.array(found.extras["nodes"]), np.array(found.extras["weights"])
    assert weights.sum() == pytest.approx(1.0)
    values = np.linalg.eigvalsh(dense)
    assert abs(found.value - values.mean()) <= 4 * found.std_error
    assert (weights * nodes**2).sum() == pytest.approx((values**2).mean(), rel=0.3)
    assert nodes.max() == pytest.approx(values[-1], rel=1e-3)
    grid, density = np.array(found.extras["grid"]), np.array(found.extras["density"])
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.02)


def test_shared_layers_batch_norm_and_unused_parameters(small):
    torch.manual_seed(4)
    model, x, y = Residual(), torch.rand(5, 3, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    model.also_the_head = model.head
    model.norm.running_var.uniform_(0.5, 2.0)
    dense = dense_hessian(model, x, y)
    before = {name: (p, p.clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    vectors = np.random.default_rng(0).standard_normal((2, len(dense)))
    surface = loss_surface({"probe": LocalObserver(model.train(), x, y, microbatch=2)}, 0)
    expected = vectors @ dense
    scale = np.abs(expected).max()
    np.testing.assert_allclose(surface.hessian.products(vectors), expected, atol=1e-4 * scale)
    found = measure(model, (x, y), ENDS)
    values = np.linalg.eigvalsh(dense)
    assert found["top_eigenvalue"].value == pytest.approx(values[-1], rel=2e-3)
    assert found["bottom_eigenvalue"].value == pytest.approx(values[0], rel=5e-3)
    for name, p in model.named_parameters(remove_duplicate=False):
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_lanczos_quadrature_has_the_moments_of_its_start_vector(small, steps):
    model, x, y, dense = small
    surface = loss_surface({"probe": LocalObserver(model.double(), x.double(), y)}, 0)
    start = np.random.default_rng(1).standard_normal(len(dense))
    rule = quadrature(surface.hessian, start, steps)
    model.float()
    unit, power = start / np.linalg.norm(start), np.eye(len(dense))
    for moment in range(2 * steps):
        expected = unit @ power @ unit
        assert rule.nodes**moment @ rule.weights == pytest.approx(expected, rel=1e-5), moment
        power = power @ dense
    assert len(rule.nodes) == steps


def test_unused_and_frozen_parameters_are_part_of_theta():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    torch.manual_seed(0)
    model = Net()
    model.used.bias.requires_grad_(False)
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    values = np.linalg.eigvalsh(dense_hessian(model, x, y))
    found = measure(model, (x, y), ["top_eigenvalue"])["top_eigenvalue"]
    assert found.value == pytest.approx(values[-1], rel=1e-4)


def test_a_point_that_is_not_finite_is_named_and_left_out(small):
    model, x, y, _ = small
    spoiled = x.clone()
    spoiled[4, 2] = torch.nan
    rest = [i for i in range(9) if i != 4]
    dense = dense_hessian(model, x[rest], y[rest])
    names = ["top_eigenvalue", "worst_case_sharpness", "weight_precision"]
    report = measure(model, (spoiled, y), names)
    assert report["top_eigenvalue"].value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-3)
    for name in names:
        assert "1 of 9 points left out, not finite: 4" in report[name].reason
        assert report[name].num_points == 8


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2)))


def test_fused_attention_is_switched_and_said():
    torch.manual_seed(0)
    model, x, y = Attention(), torch.randn(4, 5, 4), torch.tensor([0, 1, 2, 0])
    report = measure(model, (x, y), ["top_eigenvalue", "hessian_trace", "mls", "sharpness"])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(copy.deepcopy(model), x, y)
    assert report["top_eigenvalue"].value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-3)
    assert "fused attention switched" in report["top_eigenvalue"].reason
    assert "fused attention switched" in report["hessian_trace"].reason
    assert report["mls"].reason is None
