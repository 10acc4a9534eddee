"""Speed of the statistics; targets are printed beside the times, never asserted."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flatscale.stats import (
    StudyDesign,
    analyze_study,
    bca_intervals,
    conditional_information,
    family_scan,
    granulated_kendall,
    sign_errors,
)

LEVELS = (10, 10, 10, 10)
AXES = ["lr", "width", "depth", "seed"]


def grid_of_trials() -> pl.DataFrame:
    """10,000 trials on a regular grid of four hyperparameters."""
    rng = np.random.default_rng(0)
    cells = np.array(list(itertools.product(*(range(level) for level in LEVELS))))
    outcome = cells @ [0.02, 0.01, 0.01, 0.0] + 0.1 * rng.random(len(cells))
    metric = outcome + 0.1 * rng.standard_normal(len(cells))
    columns = {name: cells[:, k] for k, name in enumerate(AXES)}
    return pl.DataFrame({**columns, "metric": metric, "outcome": outcome, "all": "one"})


def study_of(num_trials: int, num_metrics: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    family = rng.integers(0, 22, num_trials)
    metrics = {
        f"m{k}": np.exp(rng.standard_normal(num_trials) + 0.1 * family) for k in range(num_metrics)
    }
    return pl.DataFrame(
        {
            **metrics,
            "m0__std_error": np.full(num_trials, 0.1),
            "family": [f"f{code}" for code in family],
            "trial_id": [f"t{k}" for k in range(num_trials)],
            "lr": rng.random(num_trials),
            "test_error": rng.random(num_trials),
        }
    )


def test_granulated_kendall_10000(benchmark: BenchmarkFixture) -> None:
    """Together with the next two: 30 s."""
    table = grid_of_trials()
    benchmark.pedantic(granulated_kendall, args=(table, "metric", "outcome", AXES), rounds=3)


def test_conditional_information_10000(benchmark: BenchmarkFixture) -> None:
    table = grid_of_trials()
    benchmark.pedantic(conditional_information, args=(table, "metric", "outcome", AXES), rounds=1)


@pytest.mark.parametrize("environments", [(), ("all",)], ids=["axes", "all-pairs"])
def test_sign_errors_10000(benchmark: BenchmarkFixture, environments: tuple[str, ...]) -> None:
    table = grid_of_trials()
    options = {"environments": environments, "num_test_samples": 10_000}
    if not environments:
        options["hyperparameters"] = AXES
    benchmark.pedantic(sign_errors, (table, "metric", "outcome"), options, rounds=1)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_bca_100_pairs(benchmark: BenchmarkFixture, method: str) -> None:
    """10,000 resamples of 500 rows: 20 s."""
    data = np.random.default_rng(0).standard_normal((500, 15))
    pairs = list(itertools.combinations(range(15), 2))[:100]
    benchmark.pedantic(bca_intervals, (data, pairs, method), {"num_resamples": 10_000}, rounds=1)


def test_family_scan_500(benchmark: BenchmarkFixture) -> None:
    table = study_of(500, 2)
    benchmark.pedantic(family_scan, (table, "m0", "m1"), {"log": ["m0", "m1"]}, rounds=2)


def test_study_of_500_trials_and_30_metrics(benchmark: BenchmarkFixture) -> None:
    """All tables: 15 s."""
    table = study_of(500, 30)
    design = StudyDesign(
        primary=("m0", "m1"),
        metrics=tuple(f"m{k}" for k in range(30)),
        log=("m0", "m1"),
        covariates=("lr",),
        outcomes=("test_error",),
        hyperparameters=("lr",),
    )
    benchmark.pedantic(analyze_study, (table, design), rounds=1)
