"""Tables about what was planned, what was found, and what was left out."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from flatscale.report.content.content import Content
from flatscale.report.content.views import (
    Field,
    Row,
    TableView,
    corr,
    make_view,
    prob,
    real,
    span,
    text,
    whole,
)
from flatscale.stats import TABLES

METHOD_NAMES = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "kendall": "Kendall τ-b",
}


def honest(frame: pl.DataFrame) -> pl.DataFrame:
    """One row where a table has a statistic twice: with its interval over families if it has one.

    The interval that takes rows as independent is shown only where there is no other; both stand in
    the data files.
    """
    measures = (
        "estimate",
        "std_error",
        "conf_low",
        "conf_high",
        "p_value",
        "q_value",
        "num_trials",
    )
    dropped = {*measures, "num_families", "reason", "num_removed", "declared", "method"}
    keys = [name for name in frame.columns if name not in dropped]
    bare = frame.with_columns(
        pl.col("method").str.strip_suffix("_jackknife").alias("_base"),
        pl.col("method").str.ends_with("_jackknife").alias("_families"),
        pl.col("conf_low").is_not_null().alias("_has_interval"),
    ).with_row_index("_row")
    best = bare.sort("_has_interval", "_families", descending=True, maintain_order=True)
    kept = best.unique(subset=[*keys, "_base"], keep="first", maintain_order=True)
    return kept.sort("_row").select(frame.columns)


def method_name(method: str) -> str:
    """A statistic's usual name, with how its interval was made."""
    base, _, rest = method.partition("_")
    if base not in METHOD_NAMES:
        return method.replace("_", " ")
    if not rest:
        return METHOD_NAMES[base]
    how = "over families" if rest == "jackknife" else rest.replace("_", " ")
    return f"{METHOD_NAMES[base]} ({how})"


def method_field() -> Field:
    """The column that names the statistic."""

    def show(row: Row) -> str:
        return method_name(row["method"])

    return Field(title="statistic", show=show, order=show, is_number=False)


def flow_table(content: Content) -> TableView | None:
    """From the plan to the statistics, stage by stage."""
    if content.flow is None:
        return None
    return make_view(
        "flow",
        "From plan to statistics",
        "Every planned trial ends in one place: not run, failed, diverged, left out, or used.",
        content.flow.stages,
        (text("stage", "stage"), whole("trials", "num_trials"), text("meaning", "meaning")),
        emphasise=lambda row: row["stage"] in ("planned", "used"),
    )


def unused_table(content: Content) -> TableView | None:
    """Planned trials and foreign records that are in no correlation, each with its reason."""
    if content.flow is None:
        return None
    frame = pl.concat([content.flow.unused, content.flow.foreign])
    return make_view(
        "unused",
        "Trials that are not used",
        "One row per trial or record without a place in the statistics.",
        frame,
        (
            text("trial", "trial_id"),
            text("family", "family"),
            whole("batch size", "batch_size"),
            real("learning rate", "learning_rate"),
            whole("seed", "seed_index"),
            text("outcome", "outcome"),
            text("reason", "reason"),
        ),
    )


def correlations_table(content: Content) -> TableView:
    """Every pair of metrics: pooled with the honest interval, within families, between families."""
    x, y = content.primary
    families = content.family is not None
    pooled = "interval and p: jackknife over families" if families else "rows taken as independent"
    return make_view(
        "correlations",
        "Correlations of all pairs",
        "Pooled: all networks together; interval and p-value treat families, not networks, as the "
        "independent units. Within: family means removed. Between: family means only. q is p "
        "after the Benjamini–Hochberg correction over all pairs; the primary pair (bold) was "
        "declared in advance and is not corrected.",
        headline_frame(content),
        (
            text("x", "x"),
            text("y", "y"),
            text("statistic", "statistic"),
            corr("pooled", "estimate", "all networks"),
            span("95% interval", "conf_low", "conf_high", pooled),
            prob("p", "p_value", pooled),
            prob("q", "q_value", "p adjusted over all pairs"),
            corr("within", "within", "family means removed"),
            span("95% interval", "within_low", "within_high"),
            corr("between", "between", "family means only"),
            whole("networks", "num_trials"),
            whole("families", "num_families"),
            text("reason", "reason"),
        ),
        emphasise=lambda row: (row["x"], row["y"]) == (x, y),
    )


def headline_frame(content: Content) -> pl.DataFrame:
    """One row per pair and statistic: pooled with its jackknife interval, within, between.

    The within- and between-family r stand in the row of Pearson's r. Where rows have no families,
    the pooled interval takes them as independent.
    """
    found = content.table("findings")
    if found.is_empty():
        return _EMPTY_HEADLINE
    suffix = "_jackknife" if content.family is not None else ""
    pooled = found.filter(
        pl.col("scope") == "pooled", pl.col("method").is_in([m + suffix for m in METHOD_NAMES])
    ).with_columns(pl.col("method").str.strip_suffix("_jackknife"))
    for scope in ("within", "between"):
        part = found.filter(pl.col("scope") == scope).select(
            "x",
            "y",
            "method",
            pl.col("estimate").alias(scope),
            pl.col("conf_low").alias(f"{scope}_low"),
            pl.col("conf_high").alias(f"{scope}_high"),
        )
        pooled = pooled.join(part, on=["x", "y", "method"], how="left", maintain_order="left")
    named = pooled.with_columns(
        pl.col("method").replace_strict(METHOD_NAMES, return_dtype=pl.String).alias("statistic")
    )
    return named.sort(pl.col("estimate").is_null(), maintain_order=True)


_EMPTY_HEADLINE = pl.DataFrame(
    schema={
        **dict.fromkeys(("x", "y", "method", "statistic", "reason"), pl.String),
        **dict.fromkeys(("num_trials", "num_families"), pl.Int64),
        **dict.fromkeys(
            (
                "estimate",
                "conf_low",
                "conf_high",
                "p_value",
                "q_value",
                "within",
                "within_low",
                "within_high",
                "between",
                "between_low",
                "between_high",
            ),
            pl.Float64,
        ),
    }
)


def unconverged_table(content: Content) -> TableView | None:
    """Used networks with an estimator that missed its tolerance."""
    if content.flow is None:
        return None
    return make_view(
        "unconverged",
        "Used, with an estimator that did not converge",
        "These networks stay in the statistics; the sensitivity table shows the primary pair "
        "without them.",
        content.flow.unconverged,
        (text("trial", "trial_id"), text("family", "family"), text("metrics", "metrics")),
    )


def glossary_table(content: Content) -> TableView | None:
    """Every measured metric with its definition."""
    if content.glossary is None:
        return None
    measured = {*content.metrics, *content.outcomes, *content.bounds["bound"].unique()}
    columns = ("name", "meaning", "formula", "unit", "range", "passes", "invariances", "source")
    rows = [
        {
            key: ", ".join(v) if isinstance(v := item.get(key, ""), list) else str(v)
            for key in columns
        }
        for item in content.glossary
        if item["name"] in measured or not measured
    ]
    return make_view(
        "glossary",
        "Metrics",
        "What each column is, how it is computed, and which transformations leave it unmoved.",
        pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"),
        (
            text("metric", "name"),
            text("meaning", "meaning"),
            text("formula", "formula"),
            text("unit", "unit"),
            text("range", "range"),
            text("unmoved by", "invariances"),
            text("pass", "passes"),
            text("source", "source"),
        ),
    )


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def columns_table() -> TableView:
    """The columns of every table in the machine-readable files."""
    rows = [
        {"table": table.name, "column": column.name, "meaning": column.meaning}
        for table in TABLES.values()
        for column in table.columns
    ]
    view = make_view(
        "columns",
        "Columns of the data files",
        "For reading findings.json and the Parquet files.",
        pl.DataFrame(rows),
        (text("table", "table"), text("column", "column"), text("meaning", "meaning")),
    )
    return replace(view, folded=True)


def provenance_table(content: Content) -> TableView:
    """What this report was made from."""
    rows = [{"name": name, "value": value} for name, value in content.provenance.items()]
    return make_view(
        "provenance",
        "Provenance",
        "What these numbers were made from.",
        pl.DataFrame(rows, schema={"name": pl.String, "value": pl.String}),
        (text("what", "name"), text("value", "value")),
    )
