"""Simulated tables for calibration: networks in unequal families, with family effects."""

from __future__ import annotations

import numpy as np
import polars as pl

NUM_ROWS = 181
CLUSTER_FAMILY = "f0"


def family_sizes(rng: np.random.Generator, num_families: int, num_rows: int) -> np.ndarray:
    """Unequal family sizes, each at least 1, that add up to `num_rows`."""
    shares = rng.dirichlet(np.ones(num_families))
    return rng.multinomial(num_rows - num_families, shares) + 1


def correlated_families(
    rng: np.random.Generator, *, num_families: int = 22, within: float = 0.0, between: float = 0.0
) -> pl.DataFrame:
    """181 rows; family effects as large as the rows' own spread, correlations given at both
    levels.
    """
    family = np.repeat(np.arange(num_families), family_sizes(rng, num_families, NUM_ROWS))
    effect_x = rng.standard_normal(num_families)
    effect_y = between * effect_x + np.sqrt(1 - between**2) * rng.standard_normal(num_families)
    own_x = rng.standard_normal(NUM_ROWS)
    own_y = within * own_x + np.sqrt(1 - within**2) * rng.standard_normal(NUM_ROWS)
    return pl.DataFrame(
        {
            "x": effect_x[family] + own_x,
            "y": effect_y[family] + own_y,
            "family": [f"f{code}" for code in family],
        }
    )


def scan_table(
    rng: np.random.Generator, *, cluster: bool, effect: float = 0.7, displaced: float = 4.0
) -> pl.DataFrame:
    """A line with family effects; with `cluster`, 6 of the 16 rows of one family are displaced
    off it.

    `effect` is the standard deviation of family effects in units of the rows' own; `displaced`
    counts standard deviations of all residuals about the line.
    """
    num_families = int(rng.integers(20, 31))
    if cluster:
        rest = family_sizes(rng, num_families - 1, NUM_ROWS - 16)
        sizes = np.concatenate([[16], rest])
    else:
        sizes = family_sizes(rng, num_families, NUM_ROWS)
    family = np.repeat(np.arange(num_families), sizes)
    x = rng.standard_normal(num_families)[family] + 0.7 * rng.standard_normal(NUM_ROWS)
    residual = effect * rng.standard_normal(num_families)[family] + rng.standard_normal(NUM_ROWS)
    if cluster:
        moved = rng.choice(16, size=6, replace=False)
        residual[moved] += displaced * np.sqrt(1 + effect**2) * rng.choice([-1, 1])
    return pl.DataFrame(
        {"x": x, "y": 0.6 * x + residual, "family": [f"f{code}" for code in family]}
    )
