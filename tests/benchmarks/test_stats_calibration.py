"""Error rates by simulation, printed as tables (run with `-s` to see them)."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from flatscale.stats import (
    estimate_correlation,
    family_jackknife,
    family_scan,
    select_pair,
    within_family,
)
from tests.stats.simulated import CLUSTER_FAMILY, correlated_families, scan_table


def rejection_table(num_tables: int) -> list[tuple[str, int, float, float, float]]:
    rows = []
    for num_families in (10, 22, 40):
        counts = np.zeros(3)
        for seed in range(num_tables):
            rng = np.random.default_rng([num_families, seed])
            table = correlated_families(rng, num_families=num_families)
            sample = select_pair(table, "x", "y", family="family")
            found = (
                estimate_correlation(sample.x, sample.y),
                family_jackknife(sample),
                within_family(sample),
            )
            counts += [e.p_value is not None and e.p_value <= 0.05 for e in found]
        rows.append(("no effect", num_families, *(counts / num_tables)))
    return rows


def scan_table_rates(num_tables: int) -> list[tuple[float, float, float, float]]:
    rows = []
    for effect in (0.0, 0.5, 1.0):
        false_tables = hits = flags = false = 0
        for seed in range(num_tables):
            null = scan_table(np.random.default_rng([1, seed]), cluster=False, effect=effect)
            false_tables += bool(family_scan(null, "x", "y", seed=seed)["flagged"].any())
            planted = scan_table(np.random.default_rng([2, seed]), cluster=True, effect=effect)
            found = family_scan(planted, "x", "y", seed=seed)
            named = set(found.filter(found["flagged"])["family"])
            hits += CLUSTER_FAMILY in named
            flags += len(named)
            false += len(named - {CLUSTER_FAMILY})
        share = false / max(flags, 1)
        rows.append((effect, false_tables / num_tables, hits / num_tables, share))
    return rows


def test_rejection_rates(benchmark: BenchmarkFixture) -> None:
    rows = benchmark.pedantic(rejection_table, (1000,), rounds=1)
    print("\nrejections at 5% when there is no correlation, 181 rows (jackknife, within: 3-9%)")
    print(f"{'families':>9} {'naive':>7} {'jackknife':>10} {'within':>7}")
    for _, families, naive, jackknife, within in rows:
        print(f"{families:>9} {naive:>7.3f} {jackknife:>10.3f} {within:>7.3f}")


def test_family_scan_rates(benchmark: BenchmarkFixture) -> None:
    rows = benchmark.pedantic(scan_table_rates, (50,), rounds=1)
    print("\nfamily scan, 181 rows: null tables flagged (8%), power (70%), false flags (10%)")
    print(f"{'family sd':>10} {'null':>6} {'power':>6} {'false':>6}")
    for effect, null, power, false in rows:
        print(f"{effect:>10.1f} {null:>6.3f} {power:>6.3f} {false:>6.3f}")
