"""The networks whose weights a store kept, as a zoo that others can measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flatscale.store.layout import Layout

if TYPE_CHECKING:
    from flatscale.store.results import Results


def zoo_table(store: Layout, results: Results) -> pl.DataFrame:
    """A row a network that was kept, as the zoo reader `folder` takes it, with its metrics."""
    table = results.table().unique("network_id", keep="first", maintain_order=True)
    metrics = [m for m in results.measurements["metric"].unique().sort() if m in table.columns]
    files = [store.weights_file(name) for name in table["network_id"]]
    return (
        table.with_columns(
            pl.Series("path", [file.name for file in files], dtype=pl.String),
            name=pl.format("{}-{}", "architecture", pl.col("network_id").str.head(6)),
        )
        .filter(pl.Series([file.is_file() for file in files], dtype=pl.Boolean))
        .select("path", "name", "architecture", "options", "family", *metrics)
    )
