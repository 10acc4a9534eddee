"""Tables about metrics: against outcomes, against their bounds, against themselves."""

from __future__ import annotations

import polars as pl

from flatscale.report.content.content import Content
from flatscale.report.content.main_tables import honest, method_field
from flatscale.report.content.views import (
    TableView,
    corr,
    make_view,
    prob,
    real,
    span,
    text,
    whole,
)


def sensitivity_table(content: Content) -> TableView:
    """The primary pair under every other reasonable set of choices."""
    return make_view(
        "sensitivity",
        "The primary pair under other choices",
        "Would another scale, or another set of networks, have given another answer? Bold: the "
        "choices declared before the results were seen.",
        honest(content.table("sensitivity")),
        (
            text("x scale", "scale_x"),
            text("y scale", "scale_y"),
            text("networks", "rows"),
            text("level", "scope"),
            method_field(),
            corr("estimate", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            prob("p", "p_value"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
        emphasise=lambda row: bool(row["declared"]),
    )


def subsets_table(content: Content) -> TableView:
    """The primary pair per dataset and per network."""
    return make_view(
        "subsets",
        "Per dataset and network",
        "The primary pair in each part of the study; q is corrected over the parts of one column.",
        honest(content.table("subsets")),
        (
            text("split by", "column"),
            text("part", "value"),
            text("level", "scope"),
            method_field(),
            corr("estimate", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            prob("p", "p_value"),
            prob("q", "q_value"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
    )


def outcomes_table(content: Content) -> TableView:
    """Each metric against each outcome."""
    frame = content.table("outcome_associations")
    return make_view(
        "outcomes",
        "Metrics against outcomes",
        "Does the metric go with what one wants to predict? Partial: covariates held fixed. All "
        "of these tests are corrected for their number (q).",
        honest(frame.filter(~pl.col("scope").str.starts_with("family:"))),
        (
            text("metric", "x"),
            text("outcome", "y"),
            text("level", "scope"),
            method_field(),
            corr("estimate", "estimate"),
            span("95% interval", "conf_low", "conf_high"),
            prob("p", "p_value"),
            prob("q", "q_value"),
            whole("n", "num_trials"),
            whole("families", "num_families"),
            text("reason", "reason"),
        ),
    )


def _collapsed(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per reason where nothing could be computed, instead of one per metric and outcome."""
    if frame.is_empty() or frame["estimate"].count() > 0:
        return frame
    said = frame.unique(subset=["reason"], keep="first", maintain_order=True)
    return said.with_columns(pl.lit("all").alias("metric"), pl.lit("all").alias("outcome"))


def comparisons_table(content: Content) -> TableView:
    """Two metrics compared as predictors of one outcome."""
    return make_view(
        "comparisons",
        "Which metric goes with the outcome more closely",
        "Paired bootstrap of the difference of two correlations with the same outcome; |r| "
        "compares their strength whatever the sign.",
        content.table("comparisons"),
        (
            text("metric A", "metric_a"),
            text("metric B", "metric_b"),
            text("outcome", "outcome"),
            text("statistic", "method"),
            corr("r of A", "r_a"),
            corr("r of B", "r_b"),
            corr("|r| difference", "abs_difference"),
            span("95% interval", "abs_conf_low", "abs_conf_high"),
            corr("difference", "difference"),
            span("95% interval", "conf_low", "conf_high"),
            prob("p", "p_value"),
            prob("q", "q_value"),
            text("units", "units"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
    )


def granulated_table(content: Content) -> TableView:
    """Kendall's tau along single hyperparameters."""
    return make_view(
        "granulated",
        "Along one hyperparameter at a time",
        "Granulated Kendall τ (Jiang et al.): ranks only networks that differ in one "
        "hyperparameter, so a hyperparameter that moves both cannot make the correlation. “mean” "
        "is Ψ.",
        _collapsed(content.table("granulated")),
        (
            text("metric", "metric"),
            text("outcome", "outcome"),
            text("hyperparameter", "hyperparameter"),
            corr("ψ", "estimate"),
            whole("groups", "num_groups"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
        emphasise=lambda row: row["hyperparameter"] == "mean",
    )


def mutual_information_table(content: Content) -> TableView:
    """Conditional mutual information of metric and outcome given hyperparameters."""
    return make_view(
        "mutual-information",
        "Information beyond the hyperparameters",
        "Normalised conditional mutual information (Jiang et al.) between the order of two "
        "networks by the metric and by the outcome; “minimum” is their K: 0 tells nothing beyond "
        "the hyperparameters.",
        _collapsed(content.table("mutual_information")),
        (
            text("metric", "metric"),
            text("outcome", "outcome"),
            text("given", "conditioned_on"),
            corr("information", "estimate"),
            whole("pairs", "num_pairs"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
        emphasise=lambda row: row["conditioned_on"] == "minimum",
    )


def sign_errors_table(content: Content) -> TableView:
    """How often a metric ranks two networks wrongly, over environments."""
    return make_view(
        "sign-errors",
        "How often the metric ranks two networks wrongly",
        "Sign error (Dziugaite et al.) over environments: 0 ranks all pairs right, 0.5 is "
        "chance, 1 ranks all wrong. The maximum is the worst environment.",
        _collapsed(content.table("sign_errors")),
        (
            text("metric", "metric"),
            text("outcome", "outcome"),
            text("over environments", "summary"),
            corr("sign error", "estimate"),
            whole("environments", "num_environments"),
            whole("pairs", "num_pairs"),
            whole("n", "num_trials"),
            text("reason", "reason"),
        ),
    )


def bounds_table(content: Content) -> TableView:
    """How tight each bound is, and whether it ever failed."""
    counted = (
        content.bounds.group_by("bound", maintain_order=True)
        .agg(
            pl.len().alias("num_networks"),
            pl.col("log10_ratio").median().alias("median"),
            pl.col("log10_ratio").quantile(0.05).alias("low"),
            pl.col("log10_ratio").quantile(0.95).alias("high"),
            pl.col("num_points").sum().alias("num_points"),
            (pl.col("violations") > 0).sum().alias("violated"),
            (pl.col("shared_violations") > 0).sum().alias("shared_violated"),
        )
        .join(content.table("bounds").select("bound", "metric", "r"), on="bound", how="left")
        .sort("median")
    )
    return make_view(
        "bounds",
        "How loose the bounds are",
        "log10 of bound over metric: 0 is tight, 1 is a factor of ten. Violated: networks for "
        "which the inequality failed at some probe point, for the unrolled layer (must be 0) and "
        "for the paper's weight-shared form (may fail for convolutions).",
        counted,
        (
            text("bound", "bound"),
            text("of", "metric"),
            real("median log10 ratio", "median"),
            span("5th to 95th percentile", "low", "high", digits=3),
            corr("r of the logarithms", "r", "do bound and metric go together?"),
            whole("networks", "num_networks"),
            whole("violated", "violated"),
            whole("violated, weight-shared", "shared_violated"),
        ),
    )


def reliability_table(content: Content) -> TableView:
    """How much of each metric's variation is measurement noise."""
    return make_view(
        "reliability",
        "How well each metric is measured",
        "Reliability = 1 − mean squared standard error / variance over networks: 1 is measured "
        "without error; noise alone gives 0 and weakens every correlation with it.",
        content.table("reliability"),
        (
            text("metric", "metric"),
            corr("reliability", "reliability"),
            real("mean", "mean"),
            real("standard deviation", "std_dev"),
            whole("networks", "num_trials"),
            whole("missing", "num_missing"),
            whole("unconverged", "num_unconverged"),
            text("reason", "reason"),
        ),
    )


def excluded_table(content: Content) -> TableView:
    """Networks left out of single pairs."""
    frame = (
        content.table("excluded")
        .group_by("x", "y", "column", "reason", maintain_order=True)
        .agg(pl.len().alias("num_rows"), pl.col("label").head(5).str.join(", ").alias("first"))
    )
    return make_view(
        "excluded",
        "Networks left out of single pairs",
        "A network without a usable value of one metric still counts in the pairs that do not "
        "need it.",
        frame,
        (
            text("x", "x"),
            text("y", "y"),
            text("column at fault", "column"),
            text("reason", "reason"),
            whole("networks", "num_rows"),
            text("the first five", "first"),
        ),
    )
