"""The tables of the page: those of the analysis with their rows arranged, and the report's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from flatscale.report.content.report_content import Content
from flatscale.report.content.table_view import TableView, table_view
from flatscale.report.words import printed
from flatscale.stats import TABLES
from flatscale.stats.tables.declaration import (
    COUNT,
    FLAG,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    Column,
    declare,
    interval,
    number_of_trials,
)

Arrange = Callable[[Content, pl.DataFrame], pl.DataFrame]


def page_tables(content: Content, *names: str) -> tuple[TableView, ...]:
    """Tables of the analysis as the page shows them, by their names in `TABLES`."""

    def arranged(name: str) -> pl.DataFrame:
        frame = content.of_primary(name) if name in _PRIMARY else content.table(name)
        frame = _ARRANGED[name](content, frame) if name in _ARRANGED else frame
        return counted_units(frame) if {"units", "num_units"} <= {*frame.columns} else frame

    return tuple(table_view(TABLES[name], arranged(name)) for name in names)


_PRIMARY = frozenset(
    {
        "leave_one_out",
        "family_correlations",
        "mixed_model",
        "clusters",
        "cluster_effects",
        "linearity",
        "outlier_rows",
        "scales",
        "equivalence",
        "required_numbers",
        "negative_controls",
        "meta_regression",
        "partial_pooling",
    }
)
"""Tables of all pairs analysed in depth of which the page shows the primary pair."""


def prefer_family_intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """One row where a table has a statistic twice: with its interval over families if it has one.

    The interval that takes rows as independent is shown only where there is no other; both stand in
    the data files.
    """
    measured = {"estimate", "std_error", "conf_low", "conf_high", "p_value", "q_value", "method"}
    described = {
        "num_trials",
        "num_families",
        "units",
        "num_units",
        "num_removed",
        "declared",
        "reason",
    }
    keys = [name for name in frame.columns if name not in measured | described]
    marked = frame.with_columns(
        pl.col("method").str.strip_suffix("_jackknife").alias("_base"),
        pl.col("method").str.ends_with("_jackknife").alias("_families"),
        pl.col("conf_low").is_not_null().alias("_has_interval"),
    ).with_row_index("_row")
    best = marked.sort("_has_interval", "_families", descending=True, maintain_order=True)
    kept = best.unique(subset=[*keys, "_base"], keep="first", maintain_order=True)
    return kept.sort("_row").select(frame.columns)


def declared_curve(content: Content) -> pl.DataFrame:
    """The pooled specifications with the declared columns and families (none where each is one)."""
    curve = content.of_primary("multiverse").filter(
        scope="pooled", metric=content.primary[0], outcome=content.primary[1]
    )
    families = pl.col("families") == (content.family or "none")
    return curve.filter(families | (pl.col("rows") == "one per family")).drop_nulls("estimate")


def counted_units(frame: pl.DataFrame) -> pl.DataFrame:
    """The units of each interval with their number, or that networks only count as such."""
    pairs = frame.select("units", "num_units", "conf_low").iter_rows()
    text = ["" if low is None else printed.units(kind, number) for kind, number, low in pairs]
    return frame.with_columns(pl.Series("units", text, dtype=pl.String))


def _with_names(content: Content, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows labelled by the name that a reader knows the network by."""
    labels = content.rows[content.label].cast(pl.String)
    names = dict(zip(labels, content.rows["name"], strict=True))
    return frame.with_columns(pl.col("label").replace(names))


def _collapsed(content: Content, frame: pl.DataFrame) -> pl.DataFrame:
    """One row per reason where nothing could be computed, instead of one per metric and outcome."""
    if frame.is_empty() or frame["estimate"].count() > 0:
        return frame
    said = frame.unique(subset=["reason"], keep="first", maintain_order=True)
    return said.with_columns(pl.lit("all").alias("metric"), pl.lit("all").alias("outcome"))


_ARRANGED: Mapping[str, Arrange] = {
    "leave_one_out": lambda _, frame: frame.sort(
        pl.col("shift").abs(), descending=True, nulls_last=True
    ),
    "clusters": lambda _, frame: frame.sort("q_value", nulls_last=True),
    "cluster_effects": lambda _, frame: prefer_family_intervals(frame),
    "outlier_rows": _with_names,
    "subsets": lambda _, frame: prefer_family_intervals(frame),
    "outcome_associations": lambda _, frame: prefer_family_intervals(
        frame.filter(~pl.col("scope").str.starts_with("family:"))
    ),
    "granulated": _collapsed,
    "mutual_information": _collapsed,
    "sign_errors": _collapsed,
}
"""Tables whose rows the page filters or orders."""

_CORRELATIONS = declare(
    "correlations",
    "one pair and statistic at every level",
    Column("x", TEXT, "column on the horizontal axis", "x"),
    Column("y", TEXT, "column on the vertical axis", "y"),
    Column("method", TEXT, "name of the statistic", "statistic", "method"),
    Column("estimate", REAL, "all networks together", "pooled", "correlation"),
    *interval(),
    P_VALUE,
    Column("q_value", REAL, "p adjusted over all pairs", "q", "probability"),
    Column("within", REAL, "family means removed", "within", "correlation"),
    *interval(low="within_low", high="within_high"),
    Column("between", REAL, "family means only", "between", "correlation"),
    *interval("", low="between_low", high="between_high"),
    number_of_trials("networks"),
    Column("num_families", COUNT, "families used", "families"),
    Column("units", TEXT, "what counts as independent in the pooled interval", "independent"),
    REASON,
    Column("is_primary", FLAG, "the pair declared in advance"),
    title="Correlations of all pairs",
    caption="Pooled: all networks together; intervals and p-values are over independent units: "
    "families where there are five or more (the fewer of them carry the result, the wider the "
    "interval), else configurations, else networks. Within: family means removed. Between: family "
    "means only. q is p after the Benjamini–Hochberg correction over all pairs; the primary pair "
    "(bold) was declared in advance and is not corrected.",
    emphasis=lambda row: bool(row["is_primary"]),
)


def headline_frame(content: Content) -> pl.DataFrame:
    """One row per pair and statistic: pooled with its jackknife interval, within, between.

    The within- and between-family r stand in the row of Pearson's r. Where rows have neither
    families nor replicates, the pooled interval takes them as independent.
    """
    found = content.table("findings")
    over_units = found["method"].str.ends_with("_jackknife").any()
    suffix = "_jackknife" if over_units else ""
    methods = [name + suffix for name in ("pearson", "spearman", "kendall")]
    pooled = found.filter(
        pl.col("scope") == "pooled", pl.col("method").is_in(methods)
    ).with_columns(pl.col("method").str.strip_suffix("_jackknife"))
    for scope in ("within", "between"):
        part = found.filter(scope=scope).select(
            *("x", "y", "method"),
            **{scope: "estimate", f"{scope}_low": "conf_low", f"{scope}_high": "conf_high"},
        )
        pooled = pooled.join(part, on=["x", "y", "method"], how="left", maintain_order="left")
    x, y = content.primary
    primary = (pl.col("x") == x) & (pl.col("y") == y)
    failed = pl.col("estimate").is_null()
    return pooled.with_columns(is_primary=primary).sort(failed, maintain_order=True)


def correlations_table(content: Content) -> TableView:
    """Every pair of metrics: pooled with its interval over families, within, between families."""
    return table_view(_CORRELATIONS, counted_units(headline_frame(content)))


_MEMBERS = declare(
    "cluster_members",
    "one network of a flagged cluster",
    Column("family", TEXT, "the family", "family"),
    Column("side", TEXT, "above or below the robust line", "side"),
    Column("label", TEXT, "the network", "network"),
    title="Members of the flagged clusters",
    caption="The networks that the scan, not a person, singled out.",
)


def members_table(content: Content) -> TableView:
    """Which networks make up the flagged clusters."""
    members = content.of_primary("clusters").filter("flagged").explode("members")
    return table_view(_MEMBERS, _with_names(content, members.rename({"members": "label"})))


_LOOSENESS = declare(
    "bounds",
    "one bound over all networks",
    Column("bound", TEXT, "the right-hand side", "bound"),
    Column("metric", TEXT, "the left-hand side", "of"),
    Column("median", REAL, "median over networks", "median log10 ratio"),
    *interval(
        "5th to 95th percentile",
        low="low",
        high="high",
        meaning="end of the middle 90% of the networks",
        format="real",
    ),
    Column("r", REAL, "do bound and metric go together?", "r of the logarithms", "correlation"),
    number_of_trials("networks", "networks with both sides"),
    Column("violated", COUNT, "networks with the inequality broken", "violated"),
    Column(
        "shared_violated",
        COUNT,
        "networks with the weight-shared form broken",
        "violated, weight-shared",
    ),
    title="How loose the bounds are",
    caption="log10 of bound over metric: 0 is tight, 1 is a factor of ten. Violated: networks for "
    "which the inequality failed at some probe point, for the unrolled layer (must be 0) and for "
    "the paper's weight-shared form (may fail for convolutions).",
)


def bounds_table(content: Content) -> TableView:
    """How tight each bound is, and whether it ever failed."""
    correlations = content.table("bounds").select("bound", "metric", "r")
    counted = content.bounds.group_by("bound", maintain_order=True).agg(
        pl.len().alias("num_trials"),
        pl.col("log10_ratio").median().alias("median"),
        pl.col("log10_ratio").quantile(0.05).alias("low"),
        pl.col("log10_ratio").quantile(0.95).alias("high"),
        (pl.col("violations") > 0).sum().alias("violated"),
        (pl.col("shared_violations") > 0).sum().alias("shared_violated"),
    )
    joined = counted.join(correlations, on="bound", how="left", maintain_order="left")
    return table_view(_LOOSENESS, joined.sort("median", maintain_order=True))


_LEFT_OUT = declare(
    "excluded",
    "one reason for which rows are left out of one pair",
    Column("x", TEXT, "column on the horizontal axis", "x"),
    Column("y", TEXT, "column on the vertical axis", "y"),
    Column("column", TEXT, "the column without a usable value", "column at fault"),
    REASON,
    Column("num_rows", COUNT, "rows left out", "networks"),
    Column("first", TEXT, "labels of the first five", "the first five"),
    title="Networks left out of single pairs",
    caption="A network without a usable value of one metric still counts in the pairs that do not "
    "need it.",
)


def excluded_table(content: Content) -> TableView:
    """Networks left out of single pairs, by reason."""
    grouped = content.table("excluded").group_by("x", "y", "column", "reason", maintain_order=True)
    first = pl.col("label").head(5).str.join(", ").alias("first")
    return table_view(_LEFT_OUT, grouped.agg(pl.len().alias("num_rows"), first))


_GLOSSARY = declare(
    "glossary",
    "one metric",
    Column("name", TEXT, "", "metric"),
    *(Column(name, TEXT, "", name) for name in ("meaning", "formula", "unit", "range")),
    Column("invariances", TEXT, "", "unmoved by"),
    Column("passes", TEXT, "", "pass"),
    Column("source", TEXT, "", "source"),
    title="Metrics",
    caption="What each column is, how it is computed, and which transformations leave it unmoved.",
)


def glossary_table(content: Content) -> TableView:
    """Every measured metric with its definition; empty when the store has none."""
    measured = {*content.metrics, *content.outcomes, *content.bounds["bound"].unique()}

    def text(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [
        {column.name: text(item.get(column.name, "")) for column in _GLOSSARY.columns}
        for item in content.glossary or ()
        if item["name"] in measured or not measured
    ]
    return table_view(_GLOSSARY, _GLOSSARY.frame(rows))


_PROVENANCE = declare(
    "provenance",
    "one fact",
    Column("name", TEXT, "", "what"),
    Column("value", TEXT, "", "value"),
    title="Provenance",
    caption="What these numbers were made from.",
)


def provenance_table(content: Content) -> TableView:
    """What this report was made from."""
    rows = [{"name": name, "value": value} for name, value in content.provenance.items()]
    return table_view(_PROVENANCE, _PROVENANCE.frame(rows))


_COLUMNS = declare(
    "columns",
    "one column of one table",
    Column("table", TEXT, "", "table"),
    Column("column", TEXT, "", "column"),
    Column("meaning", TEXT, "", "meaning"),
    title="Columns of the data files",
    caption="For reading findings.json and the Parquet files.",
    folded=True,
)


def columns_table() -> TableView:
    """The columns of every table in the machine-readable files."""
    rows = [
        {"table": table.name, "column": column.name, "meaning": column.meaning}
        for table in TABLES.values()
        for column in table.columns
    ]
    return table_view(_COLUMNS, _COLUMNS.frame(rows))
