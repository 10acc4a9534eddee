"""Tables gathered from several of the analysis: the answer's robustness, estimators, invariance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from flatscale.report.content.page_tables import (
    counted_units,
    declared_curve,
    headline_frame,
)
from flatscale.report.content.report_content import Content
from flatscale.report.content.table_view import TableView, table_view
from flatscale.report.words import printed
from flatscale.report.words.clusters import without_clusters
from flatscale.report.words.summary import headline_row, mean_row
from flatscale.stats.tables.declaration import (
    FLAG,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    UNITS,
    Column,
    declare,
    interval,
    number_of_trials,
)

Row = dict[str, Any]

_ROBUSTNESS = declare(
    "robustness",
    "the primary pair under one choice",
    Column("choice", TEXT, "what is different", "over, or with"),
    Column("estimate", REAL, "the correlation", "r", "correlation"),
    *interval(),
    Column("units", TEXT, "independent units of the interval", "independent"),
    Column("declared", FLAG, "the answer as declared"),
    title="Does the answer stay?",
    caption="The declared answer (bold) and what it becomes under other questions and choices. "
    "“independent”: what the interval counts so; naive ones are too narrow where networks resemble "
    "each other.",
    emphasis=lambda row: bool(row["declared"]),
)


def robustness_table(content: Content) -> TableView:
    """r as declared; inside, between and over families; other scales; fewer networks."""
    frame = _ROBUSTNESS.frame(_robustness_rows(content))
    drawn = tuple(frame.select("conf_low", "estimate", "conf_high").iter_rows())
    return replace(table_view(_ROBUSTNESS, frame), drawn=drawn)


def _robustness_rows(content: Content) -> Iterator[Row]:
    row = headline_row(content)
    if row is None or row["estimate"] is None:
        return
    yield _of("all networks, as declared", row) | {"declared": True}
    yield from _levels(content, row)
    yield from _left_out(content)
    effect = without_clusters(content)
    if effect is not None:
        yield _of(f"without the {effect['num_removed']} networks of flagged clusters", effect)
    yield from _other_choices(content)


def _of(choice: str, row: Row) -> Row:
    units = "" if row["conf_low"] is None else printed.units(row["units"], row["num_units"])
    keys = ("estimate", "conf_low", "conf_high")
    return {key: row[key] for key in keys} | {"choice": choice, "units": units}


def _levels(content: Content, row: Row) -> Iterator[Row]:
    found = {r["scope"]: r for r in content.of_primary("findings").iter_rows(named=True)
             if r["method"] == "pearson" and r["estimate"] is not None}  # fmt: skip
    for scope, words in (("within", "inside families"), ("between", "between family means")):
        if scope in found:
            yield _of(words, found[scope])
    mean = mean_row(content)
    if mean is not None:
        counted = {"units": "families", "num_units": mean["num_families"]}
        yield _of("mean over families", mean | counted)


def _left_out(content: Content) -> Iterator[Row]:
    left = content.of_primary("leave_one_out").drop_nulls("estimate").sort("estimate")
    ends = left.unique("estimate", keep="first", maintain_order=True)
    for row in [ends.row(0, named=True), ends.row(-1, named=True)] if ends.height > 1 else []:
        yield {"choice": f"without {row['family']}", "estimate": row["estimate"]}


def _other_choices(content: Content) -> Iterator[Row]:
    x, y = content.primary
    grid = declared_curve(content)
    logs = {"scale_x": "log" if x in content.log else "raw",
            "scale_y": "log" if y in content.log else "raw"}  # fmt: skip
    for row in grid.filter(scale_x="rank", rows="all").iter_rows(named=True):
        yield _of("Spearman ρ, all networks", row)
    pearson = grid.filter(method="pearson")
    for row in pearson.filter(rows="all").iter_rows(named=True):
        if not row["declared"]:
            yield _of(f"{x} {row['scale_x']}, {y} {row['scale_y']}", row)
    kept = {"converged only": "converged only", "one per family": "one network per family"}
    for row in pearson.filter(**logs).iter_rows(named=True):
        if row["rows"] in kept:
            yield _of(kept[row["rows"]], row)


_ESTIMATORS = declare(
    "estimators",
    "one statistic of the primary pair",
    Column("scope", TEXT, "pooled, within, between or synthesis", "level"),
    Column("method", TEXT, "name of the statistic", "statistic", "method"),
    Column("estimate", REAL, "value of the statistic", "estimate", "correlation"),
    *interval(),
    P_VALUE,
    UNITS[0],
    number_of_trials(),
    REASON,
    title="Every statistic of the primary pair",
    caption="Robust, resampled, partial and error-corrected values beside the headline. "
    "“independent” says what an interval takes as independent: naive ones take networks so, and "
    "are too narrow where families or seeds resemble each other.",
)


def estimators_frame(content: Content) -> pl.DataFrame:
    """All findings of the primary pair but those of single families."""
    found = content.of_primary("findings")
    return found.filter(~pl.col("scope").str.starts_with("family:"))


def estimators_table(content: Content, *methods: str) -> TableView:
    """Every statistic of the primary pair, or those of the named methods."""
    frame = counted_units(estimators_frame(content))
    if not methods:
        return table_view(_ESTIMATORS, frame)
    adjusted = replace(_ESTIMATORS, key="adjusted", title="The primary pair, adjusted")
    chosen = frame.filter(pl.col("method").is_in(methods))
    return table_view(adjusted, chosen)


_INVARIANCE = declare(
    "invariance",
    "one metric beside the primary y",
    Column("metric", TEXT, "the metric", "metric"),
    Column("unmoved_by", TEXT, "reparametrizations that leave it unmoved", "unmoved by"),
    Column("estimate", REAL, "Pearson r with the primary y", "r", "correlation"),
    *interval(),
    Column("units", TEXT, "independent units of the interval", "independent"),
    Column("is_primary", FLAG, "the primary x"),
    title="Metrics that a reparametrization leaves alone",
    caption="A rescaling of layers can leave a network's function as it is and change its "
    "sharpness (Dinh et al. 2017). Correlation of each metric with the primary y; the primary x "
    "is bold.",
    emphasis=lambda row: bool(row["is_primary"]),
)


def invariance_frame(content: Content) -> pl.DataFrame:
    """Each metric beside the primary y: what leaves it unmoved, and its correlation with y."""
    x, y = content.primary
    known = {
        item["name"]: item.get("invariances") or ()
        for item in content.glossary or ()
        if item.get("group") != "outcome"
    }
    names = [name for name in content.metrics if name != y and name in known]
    pairs = headline_frame(content).filter(method="pearson")
    with_y = {
        row["x"] if row["y"] == y else row["y"]: row
        for row in pairs.filter((pl.col("x") == y) | (pl.col("y") == y)).iter_rows(named=True)
    }
    rows = [
        _of("", with_y[name])
        | {"metric": name, "unmoved_by": "; ".join(known[name]), "is_primary": name == x}
        for name in names
        if name in with_y
    ]
    return _INVARIANCE.frame(rows)


def invariance_table(content: Content) -> TableView:
    """The same as a table; empty where the store has no glossary."""
    return table_view(_INVARIANCE, invariance_frame(content))
