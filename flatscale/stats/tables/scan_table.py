"""The family scan of any table, as a table."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from flatscale.stats.design import StudyDesign
from flatscale.stats.sample import select_pair
from flatscale.stats.tables.pairs import find_clusters, frame


def family_scan(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    family: str = "family",
    label: str | None = None,
    log: Collection[str] = (),
    alpha: float = 0.05,
    num_resamples: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """Subsets of families that lie off the robust line of a pair, beyond ordinary family
    differences.

    The columns are those of `TABLES["clusters"]`: one row a family and side, smallest p first,
    `flagged` where q <= alpha, `members` the labels (row numbers without a `label` column) of the
    rows that make the cluster. See `outlier_clusters` for the method. Raises
    `StatsError` like `analyze`.
    """
    sample = select_pair(df, x, y, family=family, label=label, log=log)
    design = StudyDesign(
        primary=(x, y), family=family, alpha=alpha, num_resamples=num_resamples, seed=seed
    )
    return frame("clusters", find_clusters(sample, design).rows)
