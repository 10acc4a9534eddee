"""The numbers behind the figures, shared by the page's charts and the paper's.

Every function takes the content and returns a frame with plain columns; an empty frame means that
there is nothing to draw.
"""

from __future__ import annotations

import polars as pl

from flatscale.report.content.content import ONE_FAMILY, Content

POOLED, JACKKNIFE = "all networks, taken as independent", "all networks"
WITHIN, BETWEEN, SYNTHESIS = "within families", "between families", "mean over families"
PREDICTION = "a new family (prediction)"

MAX_ROWS = 40
"""Families in a figure that has a line for each; the tables have all of them."""

INTERVALS = pl.Schema(
    {
        "label": pl.String(),
        "kind": pl.String(),
        "estimate": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "num_trials": pl.Int64(),
        "note": pl.String(),
    }
)
"""One labelled estimate with its interval; `kind` is family, summary or prediction."""


def forest(content: Content) -> pl.DataFrame:
    """Per-family r of the primary pair, smallest first, then their mean and the prediction."""
    families = content.of_primary("family_correlations")
    if families.is_empty():
        return INTERVALS.to_frame()
    drawn = families.drop_nulls("estimate")
    drawn = drawn.top_k(MAX_ROWS, by="num_trials").sort("estimate", "family")
    rows = [
        (
            r["family"],
            "family",
            r["estimate"],
            r["conf_low"],
            r["conf_high"],
            r["num_trials"],
            r["reason"],
        )
        for r in drawn.iter_rows(named=True)
    ]
    for r in content.of_primary("synthesis").drop_nulls("estimate").iter_rows(named=True):
        total = int(families["num_trials"].sum())
        rows.append(
            (SYNTHESIS, "summary", r["estimate"], r["conf_low"], r["conf_high"], total, None)
        )
        rows.append(
            (
                PREDICTION,
                "prediction",
                r["estimate"],
                r["prediction_low"],
                r["prediction_high"],
                total,
                None,
            )
        )
    return pl.DataFrame(rows, schema=INTERVALS, orient="row")


def levels(content: Content) -> pl.DataFrame:
    """The same pair at every level: pooled, within families, between families, over families."""
    found = content.of_primary("findings")
    if found.is_empty():
        return INTERVALS.to_frame()
    wanted = (
        ("pooled", "pearson_jackknife", JACKKNIFE),
        ("within", "pearson", WITHIN),
        ("between", "pearson", BETWEEN),
    )
    rows = []
    for scope, method, label in wanted:
        part = found.filter(pl.col("scope") == scope, pl.col("method") == method)
        for r in part.drop_nulls("estimate").iter_rows(named=True):
            ends = r["conf_low"], r["conf_high"]
            rows.append((label, "summary", r["estimate"], *ends, r["num_trials"], r["reason"]))
    summary = forest(content).filter(pl.col("kind") == "summary")
    return pl.concat([pl.DataFrame(rows, schema=INTERVALS, orient="row"), summary])


def left_out(content: Content) -> pl.DataFrame:
    """Pooled r of the primary pair without each family, the most influential family first."""
    table = content.of_primary("leave_one_out")
    if table.is_empty():
        return table
    return table.drop_nulls("estimate").sort(pl.col("shift").abs(), descending=True).head(MAX_ROWS)


def full_r(content: Content) -> float | None:
    """Pearson r of the primary pair over all used rows."""
    found = content.of_primary("findings")
    if found.is_empty():
        return None
    part = found.filter(pl.col("scope") == "pooled", pl.col("method") == "pearson")
    return part["estimate"].to_list()[0] if part.height else None


def residuals(content: Content) -> pl.DataFrame:
    """Standardised residuals of the primary pair with each family's smallest q."""
    table = content.of_primary("residuals")
    if table.is_empty():
        return table
    q = (
        content.of_primary("clusters")
        .group_by("family")
        .agg(pl.col("q_value").min().alias("family_q"))
    )
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
    table = content.table("matrix")
    if table.is_empty():
        return table
    index = {name: i for i, name in enumerate(matrix_metrics(content))}
    rows = []
    for r in table.drop_nulls("r").iter_rows(named=True):
        first, second = sorted((r["x"], r["y"]), key=index.__getitem__)
        for a, b, key, statistic in (
            (second, first, "r", "Pearson r"),
            (first, second, "tau", "Kendall τ"),
        ):
            rows.append(
                (a, b, r[key], statistic, r[f"{key}_q_value"], r["num_trials"], r["reason"])
            )
    columns = ["row", "column", "value", "statistic", "q_value", "num_trials", "reason"]
    return pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None).drop_nulls(
        "value"
    )


def matrix_metrics(content: Content) -> tuple[str, ...]:
    """Metrics with at least one correlation, in the declared order."""
    table = content.table("matrix")
    if table.is_empty():
        return ()
    defined = table.drop_nulls("r")
    present = {*defined["x"], *defined["y"]}
    return tuple(dict.fromkeys(name for name in content.metrics if name in present)) + tuple(
        sorted(present - set(content.metrics))
    )


def convergence(content: Content) -> pl.DataFrame:
    """Per metric: spread of the relative standard error, and networks unconverged."""
    rows = []
    for name in dict.fromkeys((*content.metrics, *content.outcomes)):
        error, flag = f"{name}__std_error", f"{name}__converged"
        if name not in content.rows.columns or error not in content.rows.columns:
            continue
        relative = content.rows.select((pl.col(error) / pl.col(name).abs()).alias("e"))["e"]
        relative = relative.drop_nulls().filter(relative.drop_nulls().is_finite())
        relative = relative.filter(relative > 0)
        if relative.is_empty():
            continue
        missed = 0
        if flag in content.rows.columns:
            missed = int((~content.rows[flag].fill_null(True)).sum())
        ends = (relative.median(), relative.quantile(0.1), relative.quantile(0.9))
        rows.append((name, *ends, missed, len(relative)))
    columns = {
        "metric": pl.String,
        "median": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "num_unconverged": pl.Int64,
        "num_trials": pl.Int64,
    }
    return pl.DataFrame(rows, schema=columns, orient="row").sort("median", descending=True)


def trajectories(content: Content, *, max_metrics: int = 6) -> pl.DataFrame:
    """Snapshots of the loss, the primary pair and the outcomes, `max_metrics` at most."""
    table = content.trajectories
    if table.is_empty():
        return table
    measured = set(table["metric"].unique())
    wanted = ("train_loss", *content.primary, *content.outcomes, "nmls", "local_dimensionality")
    chosen = [name for name in dict.fromkeys(wanted) if name in measured][:max_metrics]
    return table.filter(pl.col("metric").is_in(chosen))
