"""The primary pair in parts of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import polars as pl

from flatscale.stats.design import pair_sample
from flatscale.stats.findings import Finding
from flatscale.stats.pair import headline
from flatscale.stats.sample import Sample
from flatscale.stats.tables.declaration import (
    REAL,
    TEXT,
    Column,
    Row,
    X,
    Y,
    statistic_columns,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, with_q_values

_SHOWN = (
    ("pooled", "pearson"),
    ("pooled", "pearson_jackknife"),
    ("pooled", "spearman"),
    ("within", "pearson"),
)


@study_table(
    "subsets",
    "one statistic of the primary pair in one subset (a dataset, a network)",
    Column("column", TEXT, "the column that splits the table", "split by"),
    Column("value", TEXT, "its value in this subset", "part"),
    X,
    Y,
    *statistic_columns(
        more=(
            Column(
                "q_value",
                REAL,
                "Benjamini-Hochberg over the subsets of one column, per scope and method",
                "q",
                "probability",
            ),
        )
    ),
    title="Per dataset and network",
    caption="The primary pair in each part of the study; q is corrected over the parts of one "
    "column.",
)
def subsets(study: StudyData) -> Iterator[Row]:
    """The primary pair in each part that a declared column makes."""
    x, y = study.design.primary
    for column in study.design.subsets:
        parts = study.table.with_columns(pl.col(column).cast(pl.String).fill_null("missing"))
        rows: list[Row] = []
        for value in sorted(parts[column].unique()):
            sample = pair_sample(parts.filter(pl.col(column) == value), study.design, x, y)
            for result in _shown(sample, study.design.confidence):
                rows.append(asdict(result) | {"column": column, "value": value})
        adjusted = {
            (row["value"], row["scope"], row["method"]): row["q_value"]
            for shown in _SHOWN
            for row in with_q_values(r for r in rows if (r["scope"], r["method"]) == shown)
        }
        for row in rows:
            key = (row["value"], row["scope"], row["method"])
            yield row | {"q_value": adjusted[key]}


def _shown(sample: Sample, confidence: float) -> list[Finding]:
    found = headline(sample, methods=("pearson", "spearman"), confidence=confidence)
    return [row for row in found if (row.scope, row.method) in _SHOWN]
