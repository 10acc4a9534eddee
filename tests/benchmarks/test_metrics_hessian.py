"""Hessian products and Lanczos against a double backward and curvlinops; relative flatness."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from flatscale.metrics import LocalObserver, measure
from flatscale.metrics.passes.curvature.loss_surface import hessian_products, loss_surface
from tests.oracles.networks import small_vgg11

POINTS = 100


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = small_vgg11().eval()
    for module in model:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x, y = torch.rand(POINTS, 3, 32, 32), torch.randint(0, 10, (POINTS,))
    return model, x, y


def half_mse(outputs, y):
    return 0.5 * (outputs - nn.functional.one_hot(y, 10)).square().sum(dim=1).mean()


def curvlinops_operator(problem):
    curvlinops = pytest.importorskip("curvlinops")
    model, x, y = problem

    class HalfSquared(nn.MSELoss):
        def forward(self, outputs, labels):
            return 0.5 * 10 * super().forward(outputs, nn.functional.one_hot(labels, 10).float())

    parameters = [p for p in model.parameters() if p.requires_grad]
    return curvlinops.HessianLinearOperator(
        model, HalfSquared(), parameters, [(x, y)], check_deterministic=False
    )


@pytest.mark.benchmark(group="one Hessian-vector product, VGG-11, 100 images")
def test_product_flatscale(benchmark, problem):
    observer = LocalObserver(*problem)
    vector = np.random.default_rng(0).standard_normal(
        (1, len(loss_surface({"probe": observer}, 0).theta))
    )
    call = {"vectors": vector, "left_out": ()}
    benchmark.pedantic(observer.total, (hessian_products,), call, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="one Hessian-vector product, VGG-11, 100 images")
def test_product_plain_double_backward(benchmark, problem):
    model, x, y = problem
    parameters = list(model.parameters())
    vectors = [torch.randn_like(p) for p in parameters]

    def product():
        loss = half_mse(model(x), y)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.autograd.grad(gradients, parameters, vectors)

    benchmark.pedantic(product, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="one Hessian-vector product, VGG-11, 100 images")
def test_product_curvlinops(benchmark, problem):
    operator = curvlinops_operator(problem)
    vector = torch.randn(operator.shape[1])
    benchmark.pedantic(lambda: operator @ vector, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="both extreme eigenvalues, VGG-11, 100 images")
def test_eigenvalues_flatscale(benchmark, problem):
    names = ["top_eigenvalue", "bottom_eigenvalue"]
    found = benchmark.pedantic(measure, (problem[0], problem[1:], names), rounds=1)
    assert found["top_eigenvalue"].converged
    benchmark.extra_info["top"] = found["top_eigenvalue"].value


@pytest.mark.benchmark(group="both extreme eigenvalues, VGG-11, 100 images")
def test_eigenvalues_curvlinops_and_scipy(benchmark, problem):
    operator = curvlinops_operator(problem).to_scipy()
    values = benchmark.pedantic(
        eigsh,
        (operator,),
        {"k": 2, "which": "BE", "tol": 1e-3, "return_eigenvectors": True},
        rounds=1,
    )[0]
    found = measure(problem[0], problem[1:], ["top_eigenvalue"])["top_eigenvalue"]
    assert values.max() == pytest.approx(found.value, rel=1e-2)


@pytest.mark.benchmark(group="relative flatness of a 768 -> 1000 head, 100 points")
def test_relative_flatness_of_a_large_head(benchmark):
    torch.manual_seed(0)
    head, x, y = nn.Linear(768, 1000), torch.randn(100, 768), torch.randint(0, 1000, (100,))
    found = benchmark.pedantic(
        measure, (head, (x, y), ["relative_flatness"]), {"loss": "cross_entropy"}, rounds=2
    )
    assert found["relative_flatness"].value > 0
