"""Tests and intervals have the error rates they claim, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flatscale.stats import (
    estimate_correlation,
    family_jackknife,
    family_scan,
    permutation_within,
    select_pair,
    synthesize,
    within_family,
)
from tests.stats.simulated import CLUSTER_FAMILY, correlated_families, scan_table


def rejection_rates(num_tables: int, first_seed: int) -> dict[str, float]:
    rejected = {"naive": 0, "jackknife": 0, "within": 0}
    for seed in range(first_seed, first_seed + num_tables):
        table = correlated_families(np.random.default_rng(seed))
        sample = select_pair(table, "x", "y", family="family")
        found = {
            "naive": estimate_correlation(sample.x, sample.y),
            "jackknife": family_jackknife(sample),
            "within": within_family(sample),
        }
        for name, estimate in found.items():
            assert estimate.p_value is not None
            rejected[name] += estimate.p_value <= 0.05
    return {name: count / num_tables for name, count in rejected.items()}


def scan_rates(num_null: int, num_cluster: int) -> tuple[float, float, float]:
    """Share of null tables with a flag, power, and share of false families among the flagged."""
    false_tables = 0
    for seed in range(num_null):
        found = family_scan(
            scan_table(np.random.default_rng(seed), cluster=False), "x", "y", seed=seed
        )
        false_tables += bool(found["flagged"].any())
    hits = flags = false = 0
    for seed in range(10_000, 10_000 + num_cluster):
        found = family_scan(
            scan_table(np.random.default_rng(seed), cluster=True), "x", "y", seed=seed
        )
        named = set(found.filter(found["flagged"])["family"])
        hits += CLUSTER_FAMILY in named
        flags += len(named)
        false += len(named - {CLUSTER_FAMILY})
    return false_tables / num_null, hits / num_cluster, false / max(flags, 1)


def test_error_rates_quick() -> None:
    rates = rejection_rates(300, 0)
    # 300 tables: a rate of 0.06 has a standard error of 0.014
    assert rates["naive"] > 0.2
    assert 0.02 <= rates["jackknife"] <= 0.11
    assert 0.01 <= rates["within"] <= 0.09


@pytest.mark.slow
def test_error_rates() -> None:
    rates = rejection_rates(4000, 50_000)
    assert rates["naive"] > 0.25
    assert 0.03 <= rates["jackknife"] <= 0.09
    assert 0.03 <= rates["within"] <= 0.09


@pytest.mark.parametrize("num_tables", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_intervals_cover(num_tables: int) -> None:
    covered = {"jackknife": 0, "within": 0}
    # variance of x and y is 2: half between (rho 0.6), half within (rho 0.3)
    truth = {"jackknife": 0.45, "within": 0.3}
    for seed in range(num_tables):
        table = correlated_families(np.random.default_rng(70_000 + seed), within=0.3, between=0.6)
        sample = select_pair(table, "x", "y", family="family")
        for name, found in (
            ("jackknife", family_jackknife(sample)),
            ("within", within_family(sample)),
        ):
            assert found.conf_low is not None
            assert found.conf_high is not None
            covered[name] += found.conf_low <= truth[name] <= found.conf_high
    slack = 3 * math.sqrt(0.05 * 0.95 / num_tables)
    assert covered["jackknife"] / num_tables >= 0.90 - slack
    assert 0.93 - slack <= covered["within"] / num_tables <= 0.97 + slack


def test_synthesis_interval_covers() -> None:
    rng = np.random.default_rng(3)
    covered = predicted = 0
    for _ in range(400):
        variance = 1 / (rng.integers(5, 30, size=15) - 3.0)
        effects = 0.4 + 0.25 * rng.standard_normal(16)
        found = synthesize(effects[:15] + np.sqrt(variance) * rng.standard_normal(15), variance)
        covered += found.conf_low <= 0.4 <= found.conf_high
        predicted += found.prediction_low <= effects[15] <= found.prediction_high
    assert 0.91 <= covered / 400 <= 0.985
    assert 0.90 <= predicted / 400 <= 0.985


def test_permutation_within_agrees_with_the_t_test() -> None:
    for seed in range(5):
        table = correlated_families(np.random.default_rng(seed), within=0.15)
        sample = select_pair(table, "x", "y", family="family")
        exact, approximate = permutation_within(sample, num_resamples=4000), within_family(sample)
        assert exact.estimate == pytest.approx(approximate.estimate, rel=1e-12)
        assert exact.p_value == pytest.approx(approximate.p_value, abs=0.03)


def test_family_scan_quick() -> None:
    false_tables, power, false_share = scan_rates(25, 15)
    assert false_tables <= 0.16
    assert power >= 0.7
    assert false_share <= 0.2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_family_scan_gate() -> None:
    false_tables, power, false_share = scan_rates(200, 100)
    assert false_tables <= 0.08
    assert power >= 0.7
    assert false_share <= 0.10
