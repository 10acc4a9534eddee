"""Tables about families: who carries the correlation, who departs from it."""

from __future__ import annotations

import polars as pl

from flatscale.report.content.content import Content
from flatscale.report.content.main_tables import honest, method_field
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
    yes,
)


def families_table(content: Content) -> TableView:
    """The primary pair inside each family, with its weight in the synthesis."""
    return make_view(
        "families",
        "The primary pair inside each family",
        "Pearson r among the networks of one family. Weight: the family's share in the "
        "random-effects mean; families too small for it are listed with the reason.",
        content.of_primary("family_correlations"),
        (
            text("family", "family"),
            whole("networks", "num_trials"),
            corr("r", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            corr("weight", "weight", "share in the mean over families"),
            text("reason", "reason"),
        ),
    )


def synthesis_table(content: Content) -> TableView:
    """Random-effects mean over families: how large, how different, what to expect of a new one."""
    return make_view(
        "synthesis",
        "Mean over families",
        "Random-effects mean of the per-family r (REML, Hartung–Knapp interval). I² is the share "
        "of the differences between families that is not sampling noise; the prediction interval "
        "is where a new family's r would fall.",
        content.table("synthesis"),
        (
            text("x", "x"),
            text("y", "y"),
            whole("families", "num_families"),
            whole("left out", "num_left_out", "families with fewer than 4 networks, or constant"),
            corr("mean r", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            span("prediction", "prediction_low", "prediction_high"),
            prob("p", "p_value"),
            corr("I²", "i_squared"),
            real("τ²", "tau_squared", "variance of atanh r between families"),
            prob("p of Q", "q_p_value", "Cochran's test that all families have one r"),
            text("reason", "reason"),
        ),
    )


def left_out_table(content: Content) -> TableView:
    """Pooled r without each family."""
    return make_view(
        "leave-one-out",
        "Without each family",
        "Pooled Pearson r when one family is left out; shift is its change.",
        content.of_primary("leave_one_out").sort(
            pl.col("shift").abs(), descending=True, nulls_last=True
        ),
        (
            text("left out", "family"),
            whole("networks left", "num_trials"),
            corr("r without it", "estimate"),
            corr("shift", "shift"),
        ),
    )


def mixed_model_table(content: Content) -> TableView:
    """y ~ within-family x + family-mean x with random intercept and slope."""
    return make_view(
        "mixed-model",
        "Mixed model",
        "y on x split into its family mean (between) and the deviation from it (within), with a "
        "random intercept and slope for each family. Standard deviations (sd) are of the random "
        "parts.",
        content.of_primary("mixed_model"),
        (
            text("term", "term"),
            real("estimate", "estimate"),
            real("standard error", "std_error"),
            span("95% interval", "conf_low", "conf_high", digits=3),
            prob("p", "p_value"),
            yes("at the boundary", "singular", "a random effect's variance is estimated as zero"),
            whole("networks", "num_trials"),
            whole("families", "num_families"),
            text("note", "reason"),
        ),
    )


def clusters_table(content: Content) -> TableView:
    """Every scanned family and side, flagged or not."""
    return make_view(
        "clusters",
        "Outlier clusters: the family scan",
        "One row per family and side of the robust line. q: Benjamini–Hochberg over families and "
        "sides, against a null in which families differ as families do. Flagged rows are bold; "
        "all others were looked at, too.",
        content.of_primary("clusters").sort("q_value", nulls_last=True),
        (
            text("family", "family"),
            text("side", "side"),
            whole("networks", "num_trials"),
            whole("in the cluster", "num_members"),
            real("mean z", "mean_z", "mean standardised residual of the members"),
            real("statistic", "statistic", "−log10 of the smallest tail probability"),
            prob("p", "p_value"),
            prob("q", "q_value"),
            text("note", "reason"),
        ),
        emphasise=lambda row: bool(row["flagged"]),
    )


def members_table(content: Content) -> TableView:
    """Which networks make up the flagged clusters."""
    frame = content.of_primary("clusters")
    if not frame.is_empty():
        names = _names(content)
        frame = (
            frame.filter(pl.col("flagged"))
            .explode("members")
            .with_columns(pl.col("members").replace(names).alias("name"))
        )
    return make_view(
        "cluster-members",
        "Members of the flagged clusters",
        "The networks that the scan, not a person, singled out.",
        frame,
        (text("family", "family"), text("side", "side"), text("network", "name")),
    )


def _names(content: Content) -> dict[str, str]:
    labels = content.rows[content.label].cast(pl.String)
    return dict(zip(labels, content.rows["name"], strict=True))


def cluster_effects_table(content: Content) -> TableView:
    """Headline correlations with and without each flagged cluster."""
    return make_view(
        "cluster-effects",
        "Correlations with and without the clusters",
        "The same headline numbers after removing each flagged cluster, and all of them. Nothing "
        "was removed anywhere else in this report.",
        honest(content.of_primary("cluster_effects")),
        (
            text("removed", "removed"),
            whole("networks removed", "num_removed"),
            text("level", "scope"),
            method_field(),
            corr("r", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            prob("p", "p_value"),
            whole("networks", "num_trials"),
            text("reason", "reason"),
        ),
        emphasise=lambda row: row["removed"] == "none",
    )


def outlier_rows_table(content: Content) -> TableView:
    """Single networks far from the line; descriptive."""
    frame = content.of_primary("outlier_rows")
    if not frame.is_empty():
        frame = frame.with_columns(pl.col("label").replace(_names(content)).alias("name"))
    return make_view(
        "outlier-rows",
        "Single networks far from the line",
        "Standardised residual beyond 3.5; a description, not a test.",
        frame,
        (text("network", "name"), text("family", "family"), real("z", "z")),
    )


def robust_line_table(content: Content) -> TableView:
    """The robust lines, on the scale analysed."""
    return make_view(
        "robust-line",
        "Robust line",
        "y = intercept + slope · x on the scale analysed. The interval of the slope is a "
        "jackknife over families where there are three or more.",
        content.table("robust_line"),
        (
            text("x", "x"),
            text("y", "y"),
            text("method", "method"),
            real("slope", "slope"),
            span("95% interval", "slope_low", "slope_high", digits=3),
            real("intercept", "intercept"),
            real("scatter", "scale", "robust residual standard deviation"),
            _scale_field(),
            whole("networks", "num_trials"),
            text("reason", "reason"),
        ),
    )


def _scale_field() -> Field:
    def show(row: Row) -> str:
        return ", ".join("log10" if row[key] else "raw" for key in ("log_x", "log_y"))

    return Field(title="scale of x, y", show=show, order=show, is_number=False)
