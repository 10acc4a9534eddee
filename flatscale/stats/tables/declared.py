"""The tables of a study's analysis: every column with its type and its meaning.

One declaration serves three uses: empty tables keep their types, the report's glossary prints the
meanings, and tests hold that every table has the columns it promises.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from flatscale.stats.findings import FINDINGS_SCHEMA
from flatscale.stats.tables.declaration import COUNT, FLAG, REAL, TEXT, Table, declare

_PAIR = (
    ("x", TEXT, "column on the horizontal axis"),
    ("y", TEXT, "column on the vertical axis"),
)
_FINDING_MEANINGS = {
    "x": "column on the horizontal axis",
    "y": "column on the vertical axis",
    "scope": "pooled, within, between, synthesis or family:<name>",
    "method": "name of the statistic; `_jackknife`: families are the independent units",
    "estimate": "value of the statistic",
    "std_error": "standard error, on the scale of atanh r for correlations",
    "conf_low": "lower end of the confidence interval",
    "conf_high": "upper end of the confidence interval",
    "p_value": "two-sided p-value",
    "q_value": "Benjamini-Hochberg adjusted p-value over the pairs with the same scope and method; "
    "null for the pair declared primary",
    "num_trials": "rows used",
    "num_families": "families used; null where families play no part",
    "reason": "why a number is null",
}
_FINDING_COLUMNS = tuple(
    (name, dtype, _FINDING_MEANINGS[name]) for name, dtype in FINDINGS_SCHEMA.items()
)

FINDINGS = declare("findings", "one statistic of one pair", *_FINDING_COLUMNS)
OUTCOME_ASSOCIATIONS = declare(
    "outcome_associations",
    "one statistic of one metric (x) with one outcome (y)",
    *_FINDING_COLUMNS,
)
LEAVE_ONE_OUT = declare(
    "leave_one_out",
    "one family left out of one pair",
    *_PAIR,
    ("family", TEXT, "the family left out"),
    ("num_trials", COUNT, "rows that remain"),
    ("estimate", REAL, "Pearson r of the rows that remain; null where they are constant"),
    ("shift", REAL, "that r minus the r of all rows"),
)
FAMILY_CORRELATIONS = declare(
    "family_correlations",
    "one family of one pair",
    *_PAIR,
    ("family", TEXT, "the family"),
    ("num_trials", COUNT, "n, its rows"),
    ("estimate", REAL, "Pearson r within the family"),
    ("z", REAL, "atanh r"),
    ("std_error", REAL, "1/sqrt(n-3), on the scale of z"),
    ("conf_low", REAL, "tanh(z - quantile std_error)"),
    ("conf_high", REAL, "tanh(z + quantile std_error)"),
    ("weight", REAL, "share of the family in the random-effects mean, 1/(v+tau^2) normalised to 1"),
    (
        "reason",
        TEXT,
        "why the family is not part of the synthesis (fewer than 4 rows, constant, perfect r)",
    ),
)
SYNTHESIS = declare(
    "synthesis",
    "one pair",
    *_PAIR,
    ("num_families", COUNT, "families in the synthesis (n >= 4)"),
    ("num_left_out", COUNT, "families too small or constant; listed in family_correlations"),
    ("estimate", REAL, "tanh of the random-effects mean of z, REML"),
    ("conf_low", REAL, "lower end of the Hartung-Knapp interval, as r"),
    ("conf_high", REAL, "upper end of the Hartung-Knapp interval, as r"),
    ("prediction_low", REAL, "lower end of the interval for a new family's r"),
    ("prediction_high", REAL, "upper end of the interval for a new family's r"),
    ("z", REAL, "random-effects mean on the z scale"),
    ("std_error", REAL, "Hartung-Knapp standard error of z"),
    ("wald_std_error", REAL, "1/sqrt(sum of weights), the standard error without Hartung-Knapp"),
    ("p_value", REAL, "of z = 0, t with k-1 degrees of freedom"),
    ("tau_squared", REAL, "REML variance of z between families"),
    ("q_statistic", REAL, "Cochran's Q"),
    ("q_p_value", REAL, "p-value of Q, chi-squared with k-1 degrees of freedom"),
    ("i_squared", REAL, "tau^2/(tau^2 + typical sampling variance), 0 to 1"),
    ("reason", TEXT, "why a number is null"),
)
ROBUST_LINE = declare(
    "robust_line",
    "one robust line y = intercept + slope x of one pair, on the scale analysed",
    *_PAIR,
    ("method", TEXT, "mm (deterministic MM) or theil_sen"),
    ("slope", REAL, "slope"),
    ("intercept", REAL, "intercept"),
    (
        "slope_std_error",
        REAL,
        "family jackknife where there are 3 or more families, else the fit's own",
    ),
    ("slope_low", REAL, "lower end of the slope's interval"),
    ("slope_high", REAL, "upper end of the slope's interval"),
    ("scale", REAL, "robust residual standard deviation"),
    ("log_x", FLAG, "x was replaced by log10 x"),
    ("log_y", FLAG, "y was replaced by log10 y"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why a number is null"),
)
LINE_BAND = declare(
    "line_band",
    "one point of the robust line with its pointwise band, on the scale analysed",
    *_PAIR,
    ("x_value", REAL, "position, after the logarithm where one was declared"),
    ("y_value", REAL, "the line there"),
    ("band_low", REAL, "lower end of the pointwise band"),
    ("band_high", REAL, "upper end of the pointwise band"),
)
RESIDUALS = declare(
    "residuals",
    "one row of the study in one pair",
    *_PAIR,
    ("label", TEXT, "the row's label"),
    ("family", TEXT, "its family"),
    ("x_value", REAL, "x on the scale analysed"),
    ("y_value", REAL, "y on the scale analysed"),
    ("residual", REAL, "y minus the robust line"),
    ("z", REAL, "residual over its local robust standard deviation"),
    ("flagged", FLAG, "member of a cluster with q <= alpha"),
    ("outlier", FLAG, "|z| > 3.5"),
    ("converged", FLAG, "both estimates converged (null: not recorded)"),
)
CLUSTERS = declare(
    "clusters",
    "one family and side of the family scan of one pair",
    *_PAIR,
    ("family", TEXT, "the family"),
    ("side", TEXT, "above or below the robust line"),
    ("num_trials", COUNT, "rows of the family"),
    ("num_members", COUNT, "rows of the family that make the cluster"),
    ("members", pl.List(pl.String()), "labels of the members"),
    ("mean_z", REAL, "mean standardised residual of the members"),
    ("statistic", REAL, "-log10 S, S = min over k >= 2 of P(Bin(n, p_(k)) >= k)"),
    ("p_value", REAL, "(1 + #{null >= observed}) / (B + 1)"),
    ("q_value", REAL, "Benjamini-Hochberg over families x sides"),
    ("flagged", FLAG, "q <= alpha"),
    ("reason", TEXT, "why the family was not scanned, or what limits the claim"),
)
CLUSTER_EFFECTS = declare(
    "cluster_effects",
    "one headline statistic of one pair, without one flagged cluster (or all of them)",
    *_PAIR,
    ("removed", TEXT, "`none`, `<family> (<side>)`, or `all flagged`"),
    ("num_removed", COUNT, "rows removed"),
    ("scope", TEXT, "pooled, within or between"),
    ("method", TEXT, "as in findings"),
    ("estimate", REAL, "value"),
    ("conf_low", REAL, "lower end of the interval"),
    ("conf_high", REAL, "upper end of the interval"),
    ("p_value", REAL, "two-sided p-value"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why a number is null"),
)
OUTLIER_ROWS = declare(
    "outlier_rows",
    "one row with |z| > 3.5; descriptive, no test",
    *_PAIR,
    ("label", TEXT, "the row's label"),
    ("family", TEXT, "its family"),
    ("z", REAL, "standardised residual"),
)
MATRIX = declare(
    "matrix",
    "one unordered pair of metrics",
    *_PAIR,
    ("r", REAL, "Pearson r"),
    (
        "r_p_value",
        REAL,
        "family-jackknife p where there are 3 or more families, else the usual one",
    ),
    ("r_q_value", REAL, "Benjamini-Hochberg over the matrix"),
    ("tau", REAL, "Kendall tau-b"),
    (
        "tau_p_value",
        REAL,
        "family-jackknife p where there are 3 or more families, else the usual one",
    ),
    ("tau_q_value", REAL, "Benjamini-Hochberg over the matrix"),
    ("num_trials", COUNT, "rows with both metrics"),
    ("reason", TEXT, "why a number is null"),
)
RELIABILITY = declare(
    "reliability",
    "one metric",
    ("metric", TEXT, "the metric, on the scale analysed"),
    ("num_trials", COUNT, "rows with a value"),
    ("num_missing", COUNT, "rows without a finite value"),
    ("num_unconverged", COUNT, "rows whose estimate did not converge (kept); null: not recorded"),
    ("mean", REAL, "mean over rows"),
    ("std_dev", REAL, "standard deviation over rows"),
    ("mean_squared_error", REAL, "mean over rows of the squared standard error"),
    (
        "reliability",
        REAL,
        "1 - mean(std_error^2)/variance; null where not positive or no errors recorded",
    ),
    ("reason", TEXT, "why reliability is null"),
)
SENSITIVITY = declare(
    "sensitivity",
    "the primary pair under one set of choices",
    *_PAIR,
    ("scale_x", TEXT, "raw or log"),
    ("scale_y", TEXT, "raw or log"),
    ("rows", TEXT, "all, without clusters, converged only, one per family, or family:<name>"),
    ("scope", TEXT, "pooled or within"),
    ("method", TEXT, "as in findings"),
    ("estimate", REAL, "value"),
    ("conf_low", REAL, "lower end of the interval"),
    ("conf_high", REAL, "upper end of the interval"),
    ("p_value", REAL, "two-sided p-value"),
    ("num_trials", COUNT, "rows used"),
    ("declared", FLAG, "the choices declared in advance"),
    ("reason", TEXT, "why a number is null"),
)
SUBSETS = declare(
    "subsets",
    "one statistic of the primary pair in one subset (a dataset, a network)",
    ("column", TEXT, "the column that splits the table"),
    ("value", TEXT, "its value in this subset"),
    *_PAIR,
    ("scope", TEXT, "pooled or within"),
    ("method", TEXT, "as in findings"),
    ("estimate", REAL, "value"),
    ("conf_low", REAL, "lower end of the interval"),
    ("conf_high", REAL, "upper end of the interval"),
    ("p_value", REAL, "two-sided p-value"),
    ("q_value", REAL, "Benjamini-Hochberg over the subsets of one column, per scope and method"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why a number is null"),
)
MIXED_MODEL = declare(
    "mixed_model",
    "one term of y ~ within-family x + family-mean x, random intercept and slope by family",
    *_PAIR,
    (
        "term",
        TEXT,
        "intercept, within, between (fixed); sd_intercept, sd_within, sd_residual (random)",
    ),
    ("estimate", REAL, "coefficient, or standard deviation"),
    ("std_error", REAL, "standard error of a coefficient; null for standard deviations"),
    ("conf_low", REAL, "Wald interval, lower end"),
    ("conf_high", REAL, "Wald interval, upper end"),
    ("p_value", REAL, "Wald test"),
    (
        "singular",
        FLAG,
        "the fit lies on the boundary: a random effect's variance is estimated as zero",
    ),
    ("num_trials", COUNT, "rows used"),
    ("num_families", COUNT, "families used"),
    ("reason", TEXT, "what was dropped from the model and why, or why there is no fit"),
)
COMPARISONS = declare(
    "comparisons",
    "two metrics compared by their correlation with one outcome",
    ("metric_a", TEXT, "first metric"),
    ("metric_b", TEXT, "second metric"),
    ("outcome", TEXT, "what both are correlated with"),
    ("method", TEXT, "pearson or spearman"),
    ("r_a", REAL, "correlation of the first metric"),
    ("r_b", REAL, "correlation of the second metric"),
    ("difference", REAL, "r_a - r_b"),
    ("conf_low", REAL, "percentile interval of the paired bootstrap"),
    ("conf_high", REAL, "percentile interval of the paired bootstrap"),
    ("abs_difference", REAL, "|r_a| - |r_b|: which is the stronger association, whatever its sign"),
    ("abs_conf_low", REAL, "percentile interval of the paired bootstrap"),
    ("abs_conf_high", REAL, "percentile interval of the paired bootstrap"),
    ("p_value", REAL, "two-sided bootstrap p-value of difference = 0"),
    ("q_value", REAL, "Benjamini-Hochberg over this table"),
    ("resampling_unit", TEXT, "family or row"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why a number is null"),
)
GRANULATED = declare(
    "granulated",
    "one metric, one outcome, one hyperparameter axis (or their mean)",
    ("metric", TEXT, "the metric"),
    ("outcome", TEXT, "the outcome"),
    ("hyperparameter", TEXT, "the axis i, or `mean` for Psi, the mean of psi_i over the axes"),
    (
        "estimate",
        REAL,
        "psi_i: Kendall tau along the axis, averaged over all settings of the others",
    ),
    ("num_groups", COUNT, "settings of the other hyperparameters"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why the estimate is null (the design is not a regular grid)"),
)
MUTUAL_INFORMATION = declare(
    "mutual_information",
    "one metric, one outcome, one conditioning set of at most two hyperparameters (or the minimum)",
    ("metric", TEXT, "the metric"),
    ("outcome", TEXT, "the outcome"),
    ("conditioned_on", TEXT, "hyperparameters joined by ` & `, `nothing`, or `minimum` for K"),
    ("estimate", REAL, "I(V_metric; V_outcome | U_S) / H(V_outcome | U_S), 0 to 1"),
    ("num_pairs", COUNT, "pairs of trials"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why the estimate is null"),
)
SIGN_ERRORS = declare(
    "sign_errors",
    "one metric, one outcome, one summary over environments",
    ("metric", TEXT, "the metric"),
    ("outcome", TEXT, "the outcome"),
    ("summary", TEXT, "mean, percentile_90 or max over environments"),
    (
        "estimate",
        REAL,
        "sign error: 0 ranks every pair right, 0.5 is chance, 1 ranks every pair wrong",
    ),
    ("num_environments", COUNT, "environments with at least one pair of positive weight"),
    ("num_pairs", COUNT, "pairs of trials in them"),
    ("num_trials", COUNT, "rows used"),
    ("reason", TEXT, "why the estimate is null"),
)
BOUNDS = declare(
    "bounds",
    "one inequality metric <= bound over all rows",
    ("bound", TEXT, "column of the right-hand side"),
    ("metric", TEXT, "column of the left-hand side"),
    ("num_trials", COUNT, "rows with both sides"),
    ("num_violations", COUNT, "rows with metric > bound (beyond rounding)"),
    ("median_log10_ratio", REAL, "median of log10(bound/metric); 0 is tight"),
    ("low_log10_ratio", REAL, "5th percentile"),
    ("high_log10_ratio", REAL, "95th percentile"),
    ("r", REAL, "Pearson r of the logarithms of both sides"),
    ("reason", TEXT, "why a number is null"),
)
EXCLUDED = declare(
    "excluded",
    "one row left out of one pair",
    *_PAIR,
    ("label", TEXT, "the row's label"),
    ("family", TEXT, "its family; null where missing"),
    ("column", TEXT, "the column at fault"),
    ("reason", TEXT, "why the row is left out"),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        FINDINGS,
        LEAVE_ONE_OUT,
        FAMILY_CORRELATIONS,
        SYNTHESIS,
        ROBUST_LINE,
        LINE_BAND,
        RESIDUALS,
        CLUSTERS,
        CLUSTER_EFFECTS,
        OUTLIER_ROWS,
        MATRIX,
        RELIABILITY,
        SENSITIVITY,
        SUBSETS,
        MIXED_MODEL,
        OUTCOME_ASSOCIATIONS,
        COMPARISONS,
        GRANULATED,
        MUTUAL_INFORMATION,
        SIGN_ERRORS,
        BOUNDS,
        EXCLUDED,
    )
}
"""Every table of `StudyAnalysis`, by the name of its field."""
