"""Estimators on plain matrices, whose trace and spectrum are known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from flatscale.errors import MetricError
from flatscale.metrics.estimators.accurate_draws import (
    MeanOfDraws,
    as_many_as_needed,
    draw_until_accurate,
)
from flatscale.metrics.estimators.eigenvalues import extreme_eigenvalues
from flatscale.metrics.estimators.lanczos import lanczos
from flatscale.metrics.estimators.spectral_quadrature import quadrature, spectral_density
from flatscale.metrics.estimators.symmetric_operator import SymmetricOperator
from flatscale.metrics.estimators.trace import trace


def matrix(size=60, top=40.0, seed=0):
    """Symmetric, of a spectrum from -2 to `top` that falls fast, as a Hessian's does."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([[top, top / 2, top / 4], np.linspace(-2.0, 1.0, size - 3)])
    vectors = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return (vectors * values) @ vectors.T


class Counted:
    """A matrix as an operator that counts its products."""

    def __init__(self, values):
        self.num_products = 0
        self._values = values
        self.operator = SymmetricOperator(size=len(values), products=self._products)

    def _products(self, rows):
        self.num_products += len(rows)
        return rows @ self._values


@pytest.mark.parametrize("sketch_size", [0, 3, 10])
def test_trace_is_within_its_standard_error_and_its_cost_is_counted(sketch_size):
    dense = matrix()
    counted = Counted(dense)
    found = trace(counted.operator, seed=1, sketch_size=sketch_size, max_products=500)
    assert abs(found.value - np.trace(dense)) <= 4 * found.std_error
    assert found.num_products == counted.num_products <= 500
    assert found.converged == (found.std_error <= 0.05 * abs(found.value))


def test_a_sketch_of_the_range_leaves_less_to_sample():
    dense = matrix()
    operator = SymmetricOperator.of_matrix(dense)
    same = {"seed": 0, "max_relative_error": 1e-9, "max_products": 100}
    hutchpp = trace(operator, sketch_size=10, **same)
    hutchinson = trace(operator, sketch_size=0, **same)
    assert hutchpp.std_error < 0.5 * hutchinson.std_error
    assert not hutchpp.converged
    assert not hutchinson.converged
    assert hutchpp.num_products == hutchinson.num_products == 100


def test_a_sketch_of_the_whole_range_is_exact():
    dense = matrix(8)
    found = trace(SymmetricOperator.of_matrix(dense), seed=0, sketch_size=8)
    assert found.value == pytest.approx(np.trace(dense), rel=1e-12)
    assert found.converged


@pytest.mark.parametrize(
    "estimate", [trace, extreme_eigenvalues, spectral_density], ids=lambda f: f.__name__
)
def test_a_seed_gives_the_same_numbers_and_another_seed_others(estimate):
    operator = SymmetricOperator.of_matrix(matrix())
    first, again, other = (vars(estimate(operator, seed=seed)) for seed in (3, 3, 4))
    for name, value in first.items():
        np.testing.assert_allclose(value, again[name], rtol=1e-9, atol=1e-9)
    if estimate is not extreme_eigenvalues:  # which finds the same ends from any start
        assert first["std_error"] != pytest.approx(other["std_error"], rel=1e-3)


@pytest.mark.parametrize("size", [5, 24, 25, 60])
def test_ends_of_a_known_spectrum(size):
    dense = matrix(size)
    counted = Counted(dense)
    found = extreme_eigenvalues(counted.operator, seed=0, tolerance=1e-6)
    values = np.linalg.eigvalsh(dense)
    assert found.top == pytest.approx(values[-1], rel=1e-6)
    assert found.bottom == pytest.approx(values[0], rel=1e-4)
    assert found.converged
    assert max(found.top_residual, found.bottom_residual) < 1e-2
    assert found.num_products == counted.num_products


def test_ends_of_too_few_restarts_are_loose_or_refused():
    rng = np.random.default_rng(0)
    dense = np.diag(rng.uniform(-1.0, 1.0, 3000))
    operator = SymmetricOperator.of_matrix(dense)
    found = extreme_eigenvalues(operator, seed=0, tolerance=1e-12, max_iterations=2)
    assert not found.converged
    assert found.top == pytest.approx(dense.max(), rel=0.1)
    crowded = np.diag(rng.uniform(0.0, 1.0, 3000) ** 8)
    with pytest.raises(MetricError, match="did not converge in 1 restarts"):
        extreme_eigenvalues(SymmetricOperator.of_matrix(crowded), seed=0, max_iterations=1)


def test_lanczos_finds_each_of_a_batch_of_spectra():
    batch = np.stack([matrix(12, seed=seed) for seed in range(3)])
    tensor = torch.from_numpy(batch)
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 12)))

    def product(v):
        return torch.einsum("bij,bj->bi", tensor, v)

    *_, last = islice(lanczos(product, start), 12)
    assert last.num_steps == 12
    values, _ = last.eigenpairs()
    np.testing.assert_allclose(values.numpy(), np.linalg.eigvalsh(batch), atol=1e-9)
    gram = last.basis @ last.basis.mT
    np.testing.assert_allclose(gram.numpy(), np.stack([np.eye(12)] * 3), atol=1e-12)
    assert (last.residual_norm < 1e-9).all()


def test_a_quadrature_ends_where_the_krylov_space_does():
    dense = np.diag([1.0, 1.0, 1.0, 4.0, 4.0])
    rule = quadrature(SymmetricOperator.of_matrix(dense), np.ones(5), 5)
    np.testing.assert_allclose(rule.nodes, [1.0, 4.0])
    np.testing.assert_allclose(rule.weights, [0.6, 0.4])
    assert rule.mean == pytest.approx(np.trace(dense) / 5)


def test_spectral_density_has_the_spectrums_mean_and_mass():
    dense = matrix()
    found = spectral_density(SymmetricOperator.of_matrix(dense), seed=0, max_probes=64)
    assert abs(found.mean - np.trace(dense) / 60) <= 4 * found.std_error
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.nodes.max() == pytest.approx(40.0, rel=1e-3)
    grid, density = found.broadened(2000, 0.01)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, rel=1e-3)
    short = spectral_density(SymmetricOperator.of_matrix(dense), seed=0, num_probes=2, max_probes=2)
    assert not short.converged


def draws_of(rng, asked):
    """A drawing function that notes what it was asked for."""

    def draw(start, stop):
        asked.append((start, stop))
        return list(rng.normal(10.0, 4.0, stop - start))

    return draw


@pytest.mark.parametrize("schedule", [None, as_many_as_needed])
def test_draws_go_on_until_the_error_is_small_and_no_longer(schedule):
    asked = []
    found = draw_until_accurate(
        draws_of(np.random.default_rng(0), asked),
        MeanOfDraws.of,
        first=4,
        most=10_000,
        max_relative_error=0.02,
        schedule=schedule,
    )
    assert found.converged
    assert found.estimate.relative_error <= 0.02
    assert found.estimate.value == pytest.approx(10.0, abs=4 * found.estimate.std_error)
    assert asked[0] == (0, 4)
    assert [start for start, _ in asked[1:]] == [stop for _, stop in asked[:-1]]
    assert found.num_draws == asked[-1][1] < 4 * (0.4 / 0.02) ** 2


def test_a_spent_budget_is_not_converged_and_never_overdrawn():
    asked = []
    found = draw_until_accurate(
        draws_of(np.random.default_rng(0), asked),
        MeanOfDraws.of,
        first=4,
        most=30,
        max_relative_error=1e-6,
    )
    assert not found.converged
    assert asked == [(0, 4), (4, 8), (8, 16), (16, 30)]
    assert found.num_draws == 30


def test_few_draws_that_happen_to_agree_do_not_count_as_converged():
    found = draw_until_accurate(
        lambda start, stop: [1.0] * (stop - start),
        MeanOfDraws.of,
        first=2,
        most=100,
        max_relative_error=0.05,
        fewest=8,
    )
    assert found.num_draws == 8
    assert found.converged
