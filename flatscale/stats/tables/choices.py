"""The primary pair under other choices: scales, rows, and parts of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, pair_sample
from flatscale.stats.findings import Finding
from flatscale.stats.pair import headline
from flatscale.stats.sample import Sample, numeric_column
from flatscale.stats.tables.declaration import (
    FLAG,
    REAL,
    TEXT,
    Column,
    Row,
    X,
    Y,
    statistic_columns,
    study_table,
)
from flatscale.stats.tables.flagged_clusters import clusters_of
from flatscale.stats.tables.study_data import StudyData, with_q_values

_SHOWN = (
    ("pooled", "pearson"),
    ("pooled", "pearson_jackknife"),
    ("pooled", "spearman"),
    ("within", "pearson"),
)


@study_table(
    "sensitivity",
    "the primary pair under one set of choices",
    X,
    Y,
    Column("scale_x", TEXT, "raw or log", "x scale"),
    Column("scale_y", TEXT, "raw or log", "y scale"),
    Column(
        "rows",
        TEXT,
        "all, without clusters, converged only, one per family, or family:<name>",
        "networks",
    ),
    *statistic_columns(),
    Column("declared", FLAG, "the choices declared in advance"),
    title="The primary pair under other choices",
    caption="Would another scale, or another set of networks, have given another answer? Bold: "
    "the choices declared before the results were seen.",
    emphasis=lambda row: bool(row["declared"]),
)
def sensitivity(study: StudyData) -> Iterator[Row]:
    """Every choice of scale and rows for the primary pair.

    Scales are raw and log of each axis (log only where all values are positive). Rows are all,
    without the flagged clusters, converged only, one per family (the first by label), and each
    family alone.
    """
    table, design = study.table, study.design
    x, y = design.primary
    flagged = study.once(clusters_of, study.primary).flagged_rows(study.primary.num_trials)
    cluster_labels = [str(label) for label in study.primary.labels[flagged]]
    for log_x in _scales(table, x):
        for log_y in _scales(table, y):
            log = tuple(name for name, on in ((x, log_x), (y, log_y)) if on)
            sample = pair_sample(table, replace(design, log=log), x, y)
            declared = log_x == (x in design.log) and log_y == (y in design.log)
            scales = {"scale_x": "log" if log_x else "raw", "scale_y": "log" if log_y else "raw"}
            for name, part in _parts(study, sample, cluster_labels):
                for found in _shown(part, design.confidence):
                    chosen = {"rows": name, "declared": declared and name == "all"}
                    yield asdict(found) | scales | chosen


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


def _scales(table: pl.DataFrame, column: str) -> tuple[bool, ...]:
    values = numeric_column(table, column)
    known = values[values == values]
    return (False, True) if len(known) and bool((known > 0).all()) else (False,)


def _shown(sample: Sample, confidence: float) -> list[Finding]:
    found = headline(sample, methods=("pearson", "spearman"), confidence=confidence)
    return [row for row in found if (row.scope, row.method) in _SHOWN]


def _parts(
    study: StudyData, sample: Sample, cluster_labels: list[str]
) -> Iterator[tuple[str, Sample]]:
    """Each choice of rows by its name."""
    yield "all", sample
    labels = pl.Series(sample.labels.tolist(), dtype=pl.String)
    if cluster_labels:
        yield "without clusters", sample.keep((~labels.is_in(cluster_labels)).to_numpy())
    flags = [f"{name}{CONVERGED_SUFFIX}" for name in study.design.primary]
    present = [flag for flag in flags if flag in study.table.columns]
    if present:
        good = study.table.select(
            pl.all_horizontal(pl.col(flag).cast(pl.Boolean).fill_null(True) for flag in present)
        ).to_series()
        yield "converged only", sample.keep(good.to_numpy()[sample.rows])
    if sample.family is not None:
        first: dict[int, int] = {}
        for position in labels.arg_sort().to_numpy():
            first.setdefault(int(sample.family[position]), int(position))
        one = pl.Series(range(sample.num_trials)).is_in(list(first.values())).to_numpy()
        yield "one per family", replace(sample.keep(one), family=None, family_names=())
        for code, name in sorted(enumerate(sample.family_names), key=lambda item: item[1]):
            part = sample.keep(sample.family == code)
            yield f"family:{name}", replace(part, family=None, family_names=())
