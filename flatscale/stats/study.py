"""A whole study: every table the report shows, from one table with one row a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from flatscale.stats.design import StudyDesign, check_design, pair_sample
from flatscale.stats.estimators.bound_tightness import bound_tightness
from flatscale.stats.estimators.multiplicity import add_q_values
from flatscale.stats.findings import Finding, findings_frame
from flatscale.stats.pair import depth_findings, family_findings, headline
from flatscale.stats.sample import Sample
from flatscale.stats.tables import declared as tables
from flatscale.stats.tables.against_outcomes import (
    association_findings,
    comparison_rows,
    granulated_rows,
    information_rows,
    sign_error_rows,
)
from flatscale.stats.tables.choices import sensitivity_rows, subset_rows
from flatscale.stats.tables.metrics_together import matrix_rows, reliability_rows
from flatscale.stats.tables.pairs import (
    Clusters,
    effect_rows,
    excluded_rows,
    family_rows,
    find_clusters,
    leave_one_out_rows,
    line_rows,
    mixed_rows,
    residual_rows,
)

Row = dict[str, Any]
Samples = Mapping[tuple[str, str], Sample]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyAnalysis:
    """The result of `analyze_study`: named polars DataFrames, always with all their columns,
    possibly empty.

    The columns of every field, with their meaning, are declared in `flatscale.stats.TABLES`.

    findings: every statistic of every pair of metrics.
    leave_one_out, family_correlations, synthesis, robust_line, line_band, residuals, clusters,
    cluster_effects, outlier_rows, mixed_model: the pairs analysed in depth.
    matrix: metric x metric, lower triangle as rows.
    reliability: one row a metric.
    sensitivity, subsets: the primary pair under other choices and in parts of the table.
    outcome_associations, comparisons, granulated, mutual_information, sign_errors: metrics
    against outcomes.
    bounds: inequalities and their slack.
    excluded: rows left out, pair by pair, each with its reason.
    design: what was declared. num_rows: rows of the table.
    """

    design: StudyDesign
    num_rows: int
    findings: pl.DataFrame
    leave_one_out: pl.DataFrame
    family_correlations: pl.DataFrame
    synthesis: pl.DataFrame
    robust_line: pl.DataFrame
    line_band: pl.DataFrame
    residuals: pl.DataFrame
    clusters: pl.DataFrame
    cluster_effects: pl.DataFrame
    outlier_rows: pl.DataFrame
    matrix: pl.DataFrame
    reliability: pl.DataFrame
    sensitivity: pl.DataFrame
    subsets: pl.DataFrame
    mixed_model: pl.DataFrame
    outcome_associations: pl.DataFrame
    comparisons: pl.DataFrame
    granulated: pl.DataFrame
    mutual_information: pl.DataFrame
    sign_errors: pl.DataFrame
    bounds: pl.DataFrame
    excluded: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """All tables by name, in the order of `TABLES`."""
        return {name: getattr(self, name) for name in tables.TABLES}


def analyze_study(table: pl.DataFrame, design: StudyDesign) -> StudyAnalysis:
    """Analyse a study: one row a trial, one column a metric, outcome, hyperparameter, family,
    label.

    A metric column `m` may have the companions `m__std_error` and `m__converged`. Raises
    `StatsError` for columns that do not exist or are not numbers and for labels that occur twice;
    whatever else cannot be computed is a null row with its reason.
    """
    check_design(table, design)
    samples = {pair: pair_sample(table, design, *pair) for pair in design.all_pairs}
    findings = _all_findings(samples, table, design)
    clusters = {pair: find_clusters(samples[pair], design) for pair in design.deep_pairs}
    rows = _deep_rows(samples, clusters, table, design)
    primary = samples[design.primary]
    flagged = clusters[design.primary].flagged_rows(primary.num_trials)
    labels = frozenset(str(label) for label in primary.labels[flagged])
    rows["matrix"] = matrix_rows(findings, design.all_pairs)
    rows["reliability"] = reliability_rows(table, design)
    rows["sensitivity"] = sensitivity_rows(table, design, labels)
    rows["subsets"] = subset_rows(table, design)
    rows["comparisons"] = comparison_rows(table, design)
    rows["granulated"] = granulated_rows(table, design)
    rows["mutual_information"] = information_rows(table, design)
    rows["sign_errors"] = sign_error_rows(table, design)
    rows["bounds"] = [dict(bound_tightness(table, *pair)) for pair in design.bounds]
    frames = {name: tables.TABLES[name].frame(made) for name, made in rows.items()}
    frames["findings"] = _adjusted(findings, design)
    frames["outcome_associations"] = _adjusted(association_findings(table, design), design)
    return StudyAnalysis(design=design, num_rows=table.height, **frames)


def _all_findings(samples: Samples, table: pl.DataFrame, design: StudyDesign) -> list[Finding]:
    rows = []
    for (x, y), sample in samples.items():
        rows += headline(sample, confidence=design.confidence)
        if (x, y) in design.deep_pairs:
            rows += depth_findings(
                sample,
                table,
                covariates=design.covariates,
                shared_source=design.shared_source(x, y),
                confidence=design.confidence,
                num_resamples=design.num_resamples,
                seed=design.seed,
            )
            rows += family_findings(sample, confidence=design.confidence)
    return rows


def _deep_rows(
    samples: Samples,
    clusters: Mapping[tuple[str, str], Clusters],
    table: pl.DataFrame,
    design: StudyDesign,
) -> dict[str, list[Row]]:
    """Rows of every table about the pairs analysed in depth, and of `excluded` for all pairs."""
    rows: dict[str, list[Row]] = {name: [] for name in _DEEP_TABLES}

    def shown(sample: Sample) -> list[Finding]:
        return headline(sample, methods=("pearson", "spearman"), confidence=design.confidence)

    for pair, found in clusters.items():
        sample = samples[pair]
        rows["leave_one_out"] += leave_one_out_rows(sample)
        families, synthesis = family_rows(sample, design.confidence)
        rows["family_correlations"] += families
        rows["synthesis"] += synthesis
        line, band = line_rows(sample, design)
        rows["robust_line"] += line
        rows["line_band"] += band
        rows["clusters"] += found.rows
        rows["cluster_effects"] += effect_rows(sample, found, shown)
        residuals, outliers = residual_rows(sample, found, table)
        rows["residuals"] += residuals
        rows["outlier_rows"] += outliers
        rows["mixed_model"] += mixed_rows(sample, design.confidence)
    for sample in samples.values():
        rows["excluded"] += excluded_rows(sample)
    return rows


_DEEP_TABLES = (
    "leave_one_out",
    "family_correlations",
    "synthesis",
    "robust_line",
    "line_band",
    "clusters",
    "cluster_effects",
    "residuals",
    "outlier_rows",
    "mixed_model",
    "excluded",
)


def _adjusted(findings: list[Finding], design: StudyDesign) -> pl.DataFrame:
    """Findings with q-values over the pairs of the same scope and method; over families within a
    pair.
    """
    one_family = pl.col("scope").str.starts_with("family:")
    primary = (pl.col("x") == design.primary[0]) & (pl.col("y") == design.primary[1])
    frame = findings_frame(findings)
    across = add_q_values(frame.filter(~one_family), by=["scope", "method"], exempt=primary)
    within = add_q_values(frame.filter(one_family), by=["x", "y", "method"])
    return pl.concat([across, within])
