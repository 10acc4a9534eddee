"""Bounds against what they bound, network by network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
"""Each bound with the metric it bounds, both on a linear scale; what metrics declare is added."""

LOG_BOUNDS = ("lvr_bound", "nvr_bound")
"""Bounds on volumes, recorded in nats with their slack, which is the logarithm of the ratio."""


def inequalities(glossary: Glossary | None) -> set[str]:
    """The metrics that are one side of an inequality, as they declare it; never by their names.

    A metric declares what it bounds, or its group alone (as in glossaries of older versions). A
    store without a glossary can hold no inequality but the known ones.
    """
    if glossary is None:
        return {*BOUNDED, *LOG_BOUNDS}
    return {
        item["name"]
        for item in glossary
        if item.get("bounds") is not None or item.get("group") == "bound"
    }


def bounded_metrics(glossary: Glossary | None) -> dict[str, str]:
    """Each bound on a linear scale with the metric that it bounds."""
    declared = {item["name"]: item["bounds"] for item in glossary or () if item.get("bounds")}
    return {**BOUNDED, **{b: m for b, m in declared.items() if b not in LOG_BOUNDS}}


def bound_rows(
    results: Results, rows: pl.DataFrame, bounded: Mapping[str, str] = BOUNDED
) -> pl.DataFrame:
    """BOUND_SCHEMA from the final measurements of the used trials."""
    final = results.measurements.filter(
        "is_final", pl.col("metric").is_in([*bounded, *LOG_BOUNDS]), pl.col("value").is_not_null()
    )
    used = {row["trial_id"]: row for row in rows.iter_rows(named=True)}
    made = []
    for row in final.iter_rows(named=True):
        trial = used.get(row["trial_id"])
        if trial is None:
            continue
        extras = {extra["name"]: extra["values"] for extra in row["extras"]}
        made.append(
            {
                "name": trial["name"],
                "family": trial["family"],
                "bound": row["metric"],
                "log10_ratio": _log10_ratio(row, trial.get(bounded.get(row["metric"], "")), extras),
                "num_points": row["num_points"],
                "violations": _first(extras.get("violations")),
                "shared_violations": _first(extras.get("shared_violations")),
            }
        )
    return pl.DataFrame(made, schema=BOUND_SCHEMA, orient="row")


def _log10_ratio(
    row: dict[str, Any], left: float | None, extras: dict[str, list[float]]
) -> float | None:
    if row["metric"] in LOG_BOUNDS:
        slack = [value for value in extras.get("slack", []) if math.isfinite(value)]
        return sum(slack) / len(slack) / math.log(10) if slack else None
    right = row["value"]
    if left is None or not (left > 0 and right > 0) or math.isinf(right / left):
        return None
    return math.log10(right / left)


def _first(values: list[float] | None) -> float | None:
    return values[0] if values else None
