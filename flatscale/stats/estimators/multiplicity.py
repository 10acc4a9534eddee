"""Correction for many tests: Benjamini-Hochberg over one table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl
from scipy.stats import false_discovery_control


def adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini-Hochberg adjusted p-values in the order given; null ones stay null, uncounted."""
    known = [index for index, value in enumerate(p_values) if value is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    if known:
        values = false_discovery_control(
            np.array([p_values[index] for index in known], dtype=float)
        )
        for index, value in zip(known, values, strict=True):
            adjusted[index] = float(value)
    return adjusted


def add_q_values(
    table: pl.DataFrame,
    *,
    by: Collection[str] = (),
    p_value: str = "p_value",
    q_value: str = "q_value",
    exempt: pl.Expr | None = None,
) -> pl.DataFrame:
    """The table with `q_value` filled, adjusted separately in each group of equal `by` columns.

    Rows where `exempt` holds were declared in advance: they keep a null q-value and do not count
    as tests.
    """
    if table.is_empty():
        return table
    counted = pl.lit(True) if exempt is None else ~exempt
    keyed = table.with_row_index("_row").with_columns(
        pl.when(counted).then(pl.col(p_value)).alias("_p")
    )
    groups = keyed.partition_by(list(by), maintain_order=True) if by else [keyed]
    parts = [
        group.with_columns(pl.Series(q_value, adjust(group["_p"].to_list()), dtype=pl.Float64))
        for group in groups
    ]
    return pl.concat(parts).sort("_row").select(table.columns)
