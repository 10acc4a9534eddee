"""Monte-Carlo metrics: over 200 seeds two standard errors cover the truth as often as they should.

The number of draws is fixed in some cases and found by the stopping rule in others, which could
stop on samples that happen to agree.
"""

import numpy as np
import pytest

from flatscale.metrics import measure
from flatscale.metrics.estimators.accurate_draws import error_of_draws
from tests.metrics.test_every_metric import DRAWN
from tests.metrics.test_random_sharpness import FORMS, linear_problem
from tests.oracles.dense_hessian import curved_problem, dense_hessian

SEEDS = 200
NOT_MONTE_CARLO = {
    "finite_mls",
    "worst_case_sharpness",
    "pac_bayes_bound",
    "pgd_accuracy",
    "pgd_loss",
}
"""Searches for a maximum: the best found, without a standard error over draws."""

_NEVER = 1e-9
TRACE = [
    {"sketch_size": 2, "max_products": 14, "max_relative_error": _NEVER},
    pytest.param(
        {"sketch_size": 0, "max_products": 10, "max_relative_error": _NEVER}, marks=pytest.mark.slow
    ),
    pytest.param({"max_relative_error": 0.2}, marks=pytest.mark.slow),
    {"sketch_size": 0, "max_relative_error": 0.3},
]
DENSITY = [
    {"num_steps": 2, "num_probes": 5, "max_probes": 5},
    pytest.param({"num_steps": 2, "num_probes": 10, "max_probes": 10}, marks=pytest.mark.slow),
    pytest.param({"num_steps": 2, "max_relative_error": 0.4}, marks=pytest.mark.slow),
]
STOPPING = [{"max_relative_error": 0.08}, {"max_relative_error": 0.15}]


@pytest.fixture(scope="module")
def curved():
    """A small network whose dense Hessian is at hand."""
    model, x, y = curved_problem()
    dense = dense_hessian(model, x, y)
    return (
        model,
        x,
        y,
        {"hessian_trace": np.trace(dense), "spectral_density": np.diag(dense).mean()},
    )


@pytest.fixture(scope="module", params=["linear", "convolution", "tokens"])
def quadratic(request):
    """One linear layer with squared error: random perturbations have a closed form."""
    model, x, y, adaptive, average = linear_problem()
    truth = {"adaptive_sharpness": adaptive, "average_sharpness": average}
    return *FORMS[request.param](model, x), y, truth


def covered(problem, name, settings):
    model, x, y, truth = problem
    found = [
        measure(model, (x, y), [name], seed=seed, options={name: settings})[name]
        for seed in range(SEEDS)
    ]
    hits = [abs(m.value - truth[name]) <= 2 * m.std_error for m in found]
    return np.mean(hits), np.mean([m.converged for m in found])


@pytest.mark.parametrize("settings", TRACE, ids=str)
def test_hessian_trace(curved, settings):
    share, converged = covered(curved, "hessian_trace", settings)
    assert 0.90 <= share <= 0.99
    assert converged == (settings["max_relative_error"] > _NEVER)


@pytest.mark.parametrize("settings", DENSITY, ids=str)
def test_spectral_density(curved, settings):
    share, converged = covered(curved, "spectral_density", settings)
    assert 0.90 <= share <= 0.99
    assert converged == ("max_relative_error" in settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", STOPPING, ids=str)
@pytest.mark.parametrize("name", ["adaptive_sharpness", "average_sharpness"])
def test_random_sharpness_with_its_stopping_rule(quadratic, name, settings):
    share, converged = covered(quadratic, name, settings)
    assert 0.90 <= share <= 0.99
    assert converged == 1.0


@pytest.mark.parametrize("count", [2, 3, 5, 10, 100])
def test_two_standard_errors_of_few_draws_cover_as_often_as_of_many(count):
    draws = np.random.default_rng(0).standard_normal((4000, count))
    hits = [abs(row.mean()) <= 2 * error_of_draws(row) for row in draws]
    assert np.mean(hits) == pytest.approx(0.954, abs=0.012)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hessian_trace", "spectral_density"])
def test_defaults(curved, name):
    share, _ = covered(curved, name, {})
    assert 0.90 <= share <= 0.99


def test_no_monte_carlo_metric_is_forgotten():
    tested = {"hessian_trace", "spectral_density", "adaptive_sharpness", "average_sharpness"}
    assert set(DRAWN) - NOT_MONTE_CARLO == tested


SHORT = {
    "hessian_trace": {"sketch_size": 0, "max_products": 4, "max_relative_error": 10.0},
    "spectral_density": {"num_probes": 2, "max_probes": 2, "max_relative_error": 1e6},
    "top_eigenvalue": {"max_iterations": 2, "tolerance": 1e-14},
    "finite_mls": {"num_steps": 2, "num_restarts": 1, "settle": 1e-4},
    "worst_case_sharpness": {"num_steps": 2, "num_restarts": 1, "rho": 0.5},
    "keskar_sharpness": {"num_steps": 2, "epsilon": 0.1},
    "adaptive_sharpness": {"max_evaluations": 4, "max_relative_error": 1e-6},
    "average_sharpness": {"max_evaluations": 4, "max_relative_error": 1e-6},
}


@pytest.mark.parametrize("name", SHORT)
def test_too_small_a_budget_is_not_called_converged_and_the_value_is_kept(curved, name):
    model, x, y, _ = curved
    found = measure(model, (x, y), [name], options={name: SHORT[name]})[name]
    assert found.value is not None
    assert not found.converged
