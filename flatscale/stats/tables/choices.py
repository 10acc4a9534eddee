"""The primary pair under other choices: scales, rows, and parts of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, StudyDesign, pair_sample
from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.findings import Finding
from flatscale.stats.pair import headline
from flatscale.stats.sample import Sample, numeric_column

Row = dict[str, Any]
_SHOWN = (
    ("pooled", "pearson"),
    ("pooled", "pearson_jackknife"),
    ("pooled", "spearman"),
    ("within", "pearson"),
)
_KEYS = ("scope", "method", "estimate", "conf_low", "conf_high", "p_value", "num_trials", "reason")


def sensitivity_rows(
    table: pl.DataFrame, design: StudyDesign, cluster_labels: frozenset[str]
) -> list[Row]:
    """Rows of `sensitivity`: every choice of scale and rows for the primary pair.

    Scales are raw and log of each axis (log only where all values are positive). Rows are all,
    without the flagged clusters (`cluster_labels`), converged only, one per family (the first by
    label), and each family alone.
    """
    x, y = design.primary
    rows: list[Row] = []
    for log_x in _scales(table, x):
        for log_y in _scales(table, y):
            log = tuple(name for name, on in ((x, log_x), (y, log_y)) if on)
            chosen = replace(design, log=log)
            sample = pair_sample(table, chosen, x, y)
            declared = log_x == (x in design.log) and log_y == (y in design.log)
            base = {
                "x": x,
                "y": y,
                "scale_x": "log" if log_x else "raw",
                "scale_y": "log" if log_y else "raw",
            }
            for name, part in _parts(table, design, sample, cluster_labels):
                for found in _shown(part, design.confidence):
                    row = {key: getattr(found, key) for key in _KEYS}
                    rows.append(base | row | {"rows": name, "declared": declared and name == "all"})
    return rows


def subset_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `subsets`: the primary pair in each part that a declared column makes."""
    x, y = design.primary
    rows: list[Row] = []
    for column in design.subsets:
        parts = table.with_columns(pl.col(column).cast(pl.String).fill_null("missing"))
        found: list[Row] = []
        for value in sorted(parts[column].unique()):
            sample = pair_sample(parts.filter(pl.col(column) == value), design, x, y)
            for result in _shown(sample, design.confidence):
                row = {key: getattr(result, key) for key in _KEYS}
                found.append({"column": column, "value": value, "x": x, "y": y} | row)
        for scope, method in _SHOWN:
            same = [row for row in found if (row["scope"], row["method"]) == (scope, method)]
            for row, q in zip(same, adjust([row["p_value"] for row in same]), strict=True):
                row["q_value"] = q
        rows += found
    return rows


def _scales(table: pl.DataFrame, column: str) -> tuple[bool, ...]:
    values = numeric_column(table, column)
    known = values[values == values]
    return (False, True) if len(known) and bool((known > 0).all()) else (False,)


def _shown(sample: Sample, confidence: float) -> list[Finding]:
    found = headline(sample, methods=("pearson", "spearman"), confidence=confidence)
    return [row for row in found if (row.scope, row.method) in _SHOWN]


def _parts(
    table: pl.DataFrame, design: StudyDesign, sample: Sample, cluster_labels: frozenset[str]
) -> Iterator[tuple[str, Sample]]:
    yield "all", sample
    labels = pl.Series(sample.labels.tolist(), dtype=pl.String)
    if cluster_labels:
        yield "without clusters", sample.keep((~labels.is_in(list(cluster_labels))).to_numpy())
    flags = [f"{name}{CONVERGED_SUFFIX}" for name in design.primary]
    present = [flag for flag in flags if flag in table.columns]
    if present:
        good = table.select(
            pl.all_horizontal(pl.col(flag).cast(pl.Boolean).fill_null(True) for flag in present)
        ).to_series()
        yield "converged only", sample.keep(good.to_numpy()[sample.rows])
    if sample.family is not None:
        order = labels.arg_sort().to_numpy()
        first: dict[int, int] = {}
        for position in order:
            first.setdefault(int(sample.family[position]), int(position))
        one = pl.Series(range(sample.num_trials)).is_in(list(first.values())).to_numpy()
        yield "one per family", replace(sample.keep(one), family=None, family_names=())
        for code, name in sorted(enumerate(sample.family_names), key=lambda item: item[1]):
            part = sample.keep(sample.family == code)
            yield f"family:{name}", replace(part, family=None, family_names=())
