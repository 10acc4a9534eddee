"""Bounds against what they bound, network by network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from flatscale.report.content.report_content import BOUND_SCHEMA
from flatscale.store.results import Results

Glossary = Sequence[Mapping[str, Any]]

BOUNDED = {
    "bound_a": "mls",
    "bound_b": "mls",
    "bound_c": "mls",
    "bound_d": "mls",
    "nmls_bound": "nmls",
    "input_invariant_bound": "input_invariant_mls",
}
"""What bounds which metric, on a linear scale, in stores of before metrics declared it."""

LOG_BOUNDS = ("lvr_bound", "nvr_bound")
"""Bounds on volumes, recorded in nats with their slack, which is the logarithm of the ratio."""


def inequalities(glossary: Glossary | None) -> set[str]:
    """The metrics that are one side of an inequality, as they declare it; never by their names.

    In a glossary of before metrics declared what they bound, the group says it; a store without a
    glossary can hold no inequality but the known ones.
    """
    if glossary is None:
        return {*BOUNDED, *LOG_BOUNDS}
    return {item["name"] for item in glossary if _is_inequality(item)}


def _is_inequality(item: Mapping[str, Any]) -> bool:
    return item["bounds"] is not None if "bounds" in item else item.get("group") == "bound"


def bounded_metrics(glossary: Glossary | None) -> dict[str, str]:
    """Each bound on a linear scale with the metric that it bounds."""
    items = glossary or ()
    declared = {item["name"]: item["bounds"] for item in items if item.get("bounds")}
    older = {} if any("bounds" in item for item in items) else BOUNDED
    return {**older, **{b: m for b, m in declared.items() if b not in LOG_BOUNDS}}


def bound_rows(results: Results, rows: pl.DataFrame, bounded: Mapping[str, str]) -> pl.DataFrame:
    """BOUND_SCHEMA from the final measurements of the used trials."""
    final = results.measurements.filter("is_final", pl.col("value").is_not_null())
    bounds = final.filter(pl.col("metric").is_in([*bounded, *LOG_BOUNDS])).with_columns(
        pl.col("metric").replace_strict(bounded, default=None).alias("of")
    )
    sides = final.select("trial_id", pl.col("metric").alias("of"), pl.col("value").alias("left"))
    left, right = pl.col("left"), pl.col("value")
    ratio = pl.when(left > 0, right > 0, (right / left).is_finite()).then(right / left)
    slack = _extra("slack").list.eval(pl.element().filter(pl.element().is_finite())).list.mean()
    return (
        bounds.join(sides, on=["trial_id", "of"], how="left", maintain_order="left")
        .join(rows.select("trial_id", "name", "family"), on="trial_id", maintain_order="left")
        .with_columns(
            pl.col("metric").alias("bound"),
            pl.when(pl.col("metric").is_in(LOG_BOUNDS))
            .then(slack / math.log(10))
            .otherwise(np.log10(ratio))
            .alias("log10_ratio"),
            _extra("violations").list.first().alias("violations"),
            _extra("shared_violations").list.first().alias("shared_violations"),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in BOUND_SCHEMA.items())
    )


def _extra(name: str) -> pl.Expr:
    """The values that a measurement brings beside its own, null where it has none of that name."""
    of_name = pl.element().filter(pl.element().struct.field("name") == name)
    return pl.col("extras").list.eval(of_name.struct.field("values")).list.first()
