"""One Jacobian pass on the small VGG-11 against plain per-point, per-logit loops."""

import numpy as np
import pytest
import torch

from flatscale.metrics import LocalObserver, measure
from flatscale.metrics.passes.jacobian.exact import exact_pass
from tests.oracles.float32_loops import float32_loops
from tests.oracles.loops import loops
from tests.oracles.networks import small_vgg11


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = small_vgg11().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model, torch.rand(20, 3, 32, 32), torch.randint(0, 10, (20,))


def run_pass(problem):
    model, x, y = problem
    return exact_pass(LocalObserver(model, x, y))


@pytest.mark.benchmark(group="jacobian pass, VGG-11, 20 points, 10 classes")
def test_one_pass(benchmark, problem):
    benchmark.pedantic(run_pass, args=(problem,), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="jacobian pass, VGG-11, 20 points, 10 classes")
def test_plain_float32_loops(benchmark, problem):
    slow = benchmark.pedantic(float32_loops, args=problem[:2], rounds=1)
    fast = run_pass(problem)
    np.testing.assert_allclose(fast.singular_values[:, 0], slow["sigma"][:, 0], rtol=1e-4)
    np.testing.assert_allclose(fast.layer_singular_values[:, :, 0], slow["layers"], rtol=1e-4)
    np.testing.assert_allclose(fast.sums.parameter_gradient2, slow["parameters"], rtol=1e-4)
    np.testing.assert_allclose(fast.sums.norms.delta2, slow["deltas"], rtol=1e-4)
    np.testing.assert_allclose(
        fast.along_input.values, slow["along_input"] / 3072, rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(fast.sums.norms.first_layer[:, 3], slow["first"], rtol=1e-4)


@pytest.mark.benchmark(group="jacobian pass, VGG-11, 20 points, 10 classes")
def test_oracle_loops(benchmark, problem):
    slow = benchmark.pedantic(loops, args=problem[:2], kwargs={"norms": False}, rounds=1)
    fast = run_pass(problem)
    np.testing.assert_allclose(
        fast.layer_singular_values[:, :, 0], slow.layer_spectra[:, :, 0], rtol=1e-4
    )
    np.testing.assert_allclose(fast.sums.norms.sharpness, slow.sharpness, rtol=1e-4)


@pytest.mark.benchmark(group="default metrics, VGG-11, 20 points")
def test_default_metrics(benchmark, problem):
    model, x, y = problem
    benchmark.pedantic(measure, args=(model, (x, y)), rounds=2, warmup_rounds=1)
