"""The numbers that figures draw: one frame a data set, the same for the page and for the paper.

Every function takes the content and returns a frame with plain columns; an empty frame means that
there is nothing to draw.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from flatscale.report.content.over_training import information_plane as plane
from flatscale.report.content.report_content import ONE_FAMILY, Content

WITHIN, BETWEEN, SYNTHESIS = "within families", "between families", "mean over families"
JACKKNIFE, PREDICTION = "all networks", "a new family (prediction)"

MAX_ROWS = 40
"""Families in a figure that has a line for each; the tables have all of them."""
MAX_LINES = 150
"""Networks in a figure that has a line for each."""
MAX_DRAWN = 60_000
"""Points of lines in a figure."""
MAX_PARTS = 8
"""Values of an axis that colours tell apart."""
OTHERS = "others"

NAME, FAMILY, OWN_FAMILY = "name", "family", "own_family"
"""FAMILY is the one in the legend, OWN_FAMILY the one a hover shows."""


def forest(content: Content) -> pl.DataFrame:
    """Per-family r of the primary pair, smallest first, then their mean and the prediction."""
    families = content.of_primary("family_correlations")
    drawn = families.drop_nulls("estimate").top_k(MAX_ROWS, by="num_trials")
    mean = content.of_primary("synthesis").drop_nulls("estimate")
    mean = mean.with_columns(num_trials=pl.lit(families["num_trials"].sum()), reason=pl.lit(None))
    return pl.concat(
        [
            _intervals(drawn.sort("estimate", "family"), pl.col("family"), "family"),
            _intervals(mean, pl.lit(SYNTHESIS), "summary"),
            _intervals(mean, pl.lit(PREDICTION), "prediction", ends="prediction"),
        ]
    )


def levels(content: Content) -> pl.DataFrame:
    """The same pair at every level: pooled, within families, between families, over families."""
    found = content.of_primary("findings").drop_nulls("estimate")
    parts = [
        _intervals(found.filter(scope=scope, method=method), pl.lit(label), "summary")
        for scope, method, label in (
            ("pooled", "pearson_jackknife", JACKKNIFE),
            ("within", "pearson", WITHIN),
            ("between", "pearson", BETWEEN),
        )
    ]
    return pl.concat([*parts, forest(content).filter(kind="summary")])


def _intervals(table: pl.DataFrame, label: pl.Expr, kind: str, ends: str = "conf") -> pl.DataFrame:
    """One labelled estimate with its interval a row; `kind` is family, summary or prediction."""
    return table.select(
        label.alias("label"),
        pl.lit(kind).alias("kind"),
        "estimate",
        pl.col(f"{ends}_low").alias("low"),
        pl.col(f"{ends}_high").alias("high"),
        pl.col("num_trials").cast(pl.Int64),
        pl.col("reason").cast(pl.String).alias("note"),
    )


def left_out(content: Content) -> pl.DataFrame:
    """Pooled r of the primary pair without each family, the most influential family first."""
    table = content.of_primary("leave_one_out")
    return table.drop_nulls("estimate").sort(pl.col("shift").abs(), descending=True).head(MAX_ROWS)


def full_r(content: Content) -> float | None:
    """Pearson r of the primary pair over all used rows."""
    found = content.of_primary("findings")
    part = found.filter(scope="pooled", method="pearson")
    return part["estimate"].to_list()[0] if part.height else None


def residuals(content: Content) -> pl.DataFrame:
    """Standardised residuals of the primary pair with each family's smallest q."""
    table = content.of_primary("residuals")
    clusters = content.of_primary("clusters")
    q = clusters.group_by("family").agg(pl.col("q_value").min().alias("family_q"))
    names = content.rows.select(
        pl.col(content.label).cast(pl.String).alias("label"), pl.col("name").cast(pl.String)
    )
    drawn = table.drop_nulls("z").filter(pl.col("family").is_in(residual_families(content)))
    if content.family is None:
        drawn = table.drop_nulls("z").with_columns(pl.lit(ONE_FAMILY).alias("family"))
    joined = drawn.join(q, on="family", how="left", maintain_order="left")
    return joined.join(names, on="label", how="left", maintain_order="left")


def residual_families(content: Content) -> tuple[str, ...]:
    """Families whose residuals are drawn: the flagged ones first, then the largest."""
    if content.family is None:
        return (ONE_FAMILY,)
    flagged = set(content.of_primary("clusters").filter("flagged")["family"])
    ordered = sorted(content.families, key=lambda name: name not in flagged)
    return tuple(ordered[:MAX_ROWS])


def matrix(content: Content) -> pl.DataFrame:
    """Every ordered pair of metrics: r below the diagonal, Kendall's tau above it.

    Columns: row, column, value, statistic, q_value, num_trials, reason.
    """
    table = content.table("matrix").drop_nulls("r")
    place = {name: index for index, name in enumerate(matrix_metrics(content))}
    first, second = (pl.col(c).replace_strict(place, return_dtype=pl.Int64) for c in ("x", "y"))
    x_first = first < second
    early = pl.when(x_first).then("x").otherwise("y")
    late = pl.when(x_first).then("y").otherwise("x")
    halves = [
        table.select(
            row.alias("row"),
            column.alias("column"),
            pl.col(key).alias("value"),
            pl.lit(statistic).alias("statistic"),
            pl.col(f"{key}_q_value").alias("q_value"),
            "num_trials",
            "reason",
        )
        for row, column, key, statistic in (
            (late, early, "r", "Pearson r"),
            (early, late, "tau", "Kendall τ"),
        )
    ]
    return pl.concat(halves).drop_nulls("value")


def matrix_metrics(content: Content) -> tuple[str, ...]:
    """Metrics with at least one correlation, in the declared order."""
    defined = content.table("matrix").drop_nulls("r")
    present = {*defined["x"], *defined["y"]}
    declared = dict.fromkeys(name for name in content.metrics if name in present)
    return (*declared, *sorted(present - set(content.metrics)))


def convergence(content: Content) -> pl.DataFrame:
    """Per metric: spread of the relative standard error, and networks unconverged."""
    parts = []
    for name in dict.fromkeys((*content.metrics, *content.outcomes)):
        if not {name, f"{name}__std_error"} <= set(content.rows.columns):
            continue
        relative = pl.col(f"{name}__std_error") / pl.col(name).abs()
        spread = relative.filter(relative.is_finite() & (relative > 0))
        flag = f"{name}__converged"
        missed = ~pl.col(flag).fill_null(True) if flag in content.rows.columns else pl.lit(False)
        row = content.rows.select(
            pl.lit(name).alias("metric"),
            spread.median().alias("median"),
            spread.quantile(0.1).alias("low"),
            spread.quantile(0.9).alias("high"),
            missed.sum().cast(pl.Int64).alias("num_unconverged"),
            spread.len().cast(pl.Int64).alias("num_trials"),
        )
        parts.append(row.filter(pl.col("num_trials") > 0))
    return (
        pl.concat(parts, rechunk=True).sort("median", descending=True, maintain_order=True)
        if parts
        else pl.DataFrame()
    )


def bounds(content: Content) -> pl.DataFrame:
    """log10(bound/metric) of every network and bound, and whether the inequality fails there."""
    ratios = content.bounds.drop_nulls("log10_ratio")
    fails = (pl.col("violations").fill_null(0) > 0) | (pl.col("log10_ratio") < -1e-9)
    return ratios.with_columns(fails.alias("fails"))


def shown_metrics(content: Content) -> tuple[tuple[str, ...], int, int]:
    """The metrics drawn over training, in the order of the panels; networks drawn, and all.

    First the loss, the primary pair and the outcomes, then every other metric.
    """
    table = content.trajectories
    measured = table["metric"].unique(maintain_order=True).to_list()
    first = ("train_loss", *content.primary, *content.outcomes, *content.metrics)
    names = tuple(dict.fromkeys([*(name for name in first if name in measured), *measured]))
    networks = table["label"].n_unique()
    lines = MAX_DRAWN * networks // max(table.height, 1)
    return names, min(networks, MAX_LINES, max(lines, 1)), networks


def trajectories(content: Content) -> pl.DataFrame:
    """Every metric at every snapshot, and the first snapshot of a network that knows its points.

    Where there are many networks, some, evenly over the families, so that lines can be told apart.
    """
    names, num_drawn, _ = shown_metrics(content)
    if not names:
        return pl.DataFrame()
    table = _evenly(content.trajectories, num_drawn)
    knows = pl.col("step") >= pl.col("moment")
    first = pl.col("step") == pl.col("step").filter(knows).min().over("label", "metric")
    moments = content.interpolated.rename({"step": "moment"})
    place = {name: index for index, name in enumerate(names)}
    return (
        table.join(moments, on="label", how="left", maintain_order="left")
        .with_columns(
            content.shown_family("family").alias("family"),
            first.fill_null(False).alias("interpolated"),
        )
        .drop("moment")
        .sort(pl.col("metric").replace_strict(place, return_dtype=pl.Int64), maintain_order=True)
    )


def information_plane(content: Content) -> pl.DataFrame:
    """I(X; T) and I(T; Y) by network, layer and snapshot."""
    table = plane(content)
    if table.is_empty():
        return table
    lines = MAX_DRAWN * table["label"].n_unique() // table.height
    drawn = _evenly(table, min(MAX_LINES, max(lines, 1)))
    return drawn.with_columns(content.shown_family("family").alias("family"))


def _evenly(table: pl.DataFrame, most: int) -> pl.DataFrame:
    """The rows of at most so many networks, as many of each family as of the others."""
    labels = table.select("label", "family").unique(maintain_order=True)
    rank = pl.int_range(pl.len()).over("family")
    kept = labels.with_columns(rank.alias("rank")).sort("rank", maintain_order=True)
    return table.join(
        kept.head(most).select("label"), on="label", how="semi", maintain_order="left"
    )


def column_keys(content: Content) -> dict[str, str]:
    """Column of numbers -> key in the data; Vega reads dots and brackets in a name as a path."""
    schema = content.rows.schema
    numbers = (name for name in content.hyperparameters if name in schema)
    numbers = (name for name in numbers if schema[name].is_numeric())
    columns = (*content.primary, *content.metrics, *content.outcomes, *numbers)
    present = [name for name in dict.fromkeys(columns) if name in schema]
    return {name: f"v{index}" for index, name in enumerate(present)}


def axis_keys(content: Content) -> dict[str, str]:
    """Axis of the design (hyperparameter, family, data set, ...) -> key of its parts in the data.

    An axis that does not vary is no axis.
    """
    known = (*content.hyperparameters, content.family or "", "network", "dataset", "optimizer")
    present = [name for name in dict.fromkeys(known) if name in content.rows.columns]
    varied = [name for name in present if content.rows[name].drop_nulls().n_unique() > 1]
    return {name: f"a{index}" for index, name in enumerate(varied)}


def axis_parts(values: pl.Series) -> list[str]:
    """The part of an axis that each row belongs to, in words.

    A part is a value where there are at most MAX_PARTS, else one of five ranges that hold as many
    rows each, or the most frequent values and the others.
    """
    distinct = values.drop_nulls().unique()
    if len(distinct) <= MAX_PARTS:
        return [_value(value) for value in values]
    if not values.dtype.is_numeric():
        most = values.drop_nulls().value_counts(sort=True)[values.name].head(MAX_PARTS - 1)
        kept = set(most)
        return [_value(value) if value is None or value in kept else OTHERS for value in values]
    cuts = sorted({float(values.quantile(part / 5) or 0.0) for part in range(6)})
    ranges = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(cuts)]
    return [
        _value(None) if value is None else ranges[max(0, bisect.bisect_left(cuts, value) - 1)]
        for value in values
    ]


def parts_in_order(content: Content, column: str) -> list[str]:
    """The parts of an axis as a legend lists them: numbers by size, words by name, others last."""
    first: dict[str, Any] = {}
    values = content.rows[column]
    for part, value in zip(axis_parts(values), values, strict=True):
        if value is not None:
            first[part] = min(first.get(part, value), value)
    order = sorted(first, key=lambda part: (part == OTHERS, first[part]))
    return [*order, *([_value(None)] if values.null_count() else [])]


def _value(value: Any) -> str:
    if value is None:
        return "(missing)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trials(content: Content) -> pl.DataFrame:
    """One row a used trial, under keys that no column name can break.

    Beside a value of the primary pair stand value - se and value + se, where they were measured.
    """
    keys = column_keys(content)
    ends = [
        (pl.col(column) + sign * pl.col(f"{column}__std_error")).alias(f"{keys[column]}_{end}")
        for column in content.primary
        if column in keys and f"{column}__std_error" in content.rows.columns
        for sign, end in ((-1, "low"), (1, "high"))
    ]
    return content.rows.select(
        _text("name").alias(NAME),
        content.shown_family().alias(FAMILY),
        (_text(content.family) if content.family else pl.lit("")).alias(OWN_FAMILY),
        *(pl.col(column).cast(pl.Float64).alias(key) for column, key in keys.items()),
        *ends,
        *(
            pl.Series(key, axis_parts(content.rows[column]), dtype=pl.String)
            for column, key in axis_keys(content).items()
        ),
    )


def _text(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).fill_null("(missing)")


def line(content: Content) -> pl.DataFrame:
    """The robust line of the primary pair and its band, on the axes' own scales."""
    log_x, log_y = (name in content.log for name in content.primary)

    def back(column: str, *, log: bool) -> pl.Expr:
        value = pl.col(column)
        return pl.when(value < 300).then(10.0**value).otherwise(value) if log else value

    return content.of_primary("line_band").select(
        back("x_value", log=log_x).alias("x"),
        back("y_value", log=log_y).alias("y"),
        back("band_low", log=log_y).alias("low"),
        back("band_high", log=log_y).alias("high"),
    )


CHOICES = ("estimator", "scale", "networks", "families", "metric", "outcome")
"""What a specification chooses."""


def specifications(content: Content) -> pl.DataFrame:
    """Every specification of the primary pair that has an estimate, smallest r first."""
    table = content.of_primary("multiverse").drop_nulls("estimate")
    curve = table.filter(~pl.col("rows").str.starts_with("family:")).sort("estimate")
    return curve.select(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank"),
        "estimate",
        pl.col("conf_low").alias("low"),
        pl.col("conf_high").alias("high"),
        "p_value",
        "num_trials",
        "declared",
        (pl.col("p_value") <= 0.05).fill_null(False).alias("significant"),
        pl.col("scope").replace({"synthesis": SYNTHESIS}).alias("estimator"),
        pl.format("{} / {}", "scale_x", "scale_y").alias("scale"),
        pl.col("rows").alias("networks"),
        "families",
        "metric",
        "outcome",
    )


FRAMES: Mapping[str, Callable[[Content], pl.DataFrame]] = {
    frame.__name__: frame
    for frame in (trials, line, forest, levels, left_out, residuals, matrix, bounds, convergence,
                  trajectories, information_plane, specifications)
}  # fmt: skip
"""Every data set that a figure may name."""


def as_records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON takes them: seven digits, more than a screen resolves; NaN is absent."""
    return [
        {
            name: (float(f"{value:.7g}") if math.isfinite(value) else None)
            if isinstance(value, float)
            else value
            for name, value in row.items()
        }
        for row in frame.iter_rows(named=True)
    ]
