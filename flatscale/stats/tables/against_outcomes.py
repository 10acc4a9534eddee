"""Metrics against outcomes: correlations, comparisons, granulated Kendall, information, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import polars as pl

from flatscale.stats.design import StudyDesign, pair_sample
from flatscale.stats.estimators.comparison import compare_samples
from flatscale.stats.estimators.granulated import granulated_kendall
from flatscale.stats.estimators.mutual_information import conditional_information
from flatscale.stats.estimators.sign_error import sign_errors
from flatscale.stats.findings import FINDING_COLUMNS, Finding
from flatscale.stats.pair import headline
from flatscale.stats.sample import numeric_column
from flatscale.stats.tables.all_findings import corrected
from flatscale.stats.tables.declaration import (
    COUNT,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    interval,
    number_of_trials,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, with_q_values

_METRIC = Column("metric", TEXT, "the metric", "metric")
_OUTCOME = Column("outcome", TEXT, "the outcome", "outcome")
_JACKKNIFE = "end of the jackknife interval over the units"


def metric_outcome_pairs(design: StudyDesign) -> Iterator[tuple[str, str]]:
    """Every metric with every outcome it is not itself."""
    for outcome in design.outcomes:
        yield from ((metric, outcome) for metric in design.all_metrics if metric != outcome)


@study_table(
    "outcome_associations",
    "one statistic of one metric (x) with one outcome (y)",
    *FINDING_COLUMNS,
    key="outcomes",
    title="Metrics against outcomes",
    caption="Does the metric go with what one wants to predict? Partial: covariates held fixed. "
    "All of these tests are corrected for their number (q).",
)
def outcome_associations(study: StudyData) -> pl.DataFrame:
    """Headline correlations of every metric with every outcome."""
    design = study.design
    rows: list[Finding] = []
    for metric, outcome in metric_outcome_pairs(design):
        sample = pair_sample(study.table, design, metric, outcome)
        rows += headline(sample, confidence=design.confidence)
    return corrected(rows, design)


@study_table(
    "comparisons",
    "two metrics compared by their correlation with one outcome",
    Column("metric_a", TEXT, "first metric", "metric A"),
    Column("metric_b", TEXT, "second metric", "metric B"),
    Column("outcome", TEXT, "what both are correlated with", "outcome"),
    Column("method", TEXT, "pearson or spearman", "statistic"),
    Column("r_a", REAL, "correlation of the first metric", "r of A", "correlation"),
    Column("r_b", REAL, "correlation of the second metric", "r of B", "correlation"),
    Column(
        "abs_difference",
        REAL,
        "|r_a| - |r_b|: which is the stronger association, whatever its sign",
        "|r| difference",
        "correlation",
    ),
    *interval(low="abs_conf_low", high="abs_conf_high", meaning=_JACKKNIFE),
    Column("difference", REAL, "r_a - r_b", "difference", "correlation"),
    *interval(meaning=_JACKKNIFE),
    replace(P_VALUE, meaning="two-sided p-value of difference = 0"),
    Column("q_value", REAL, "Benjamini-Hochberg over this table", "q", "probability"),
    Column("units", TEXT, "independent units: families, configurations or rows", "units"),
    Column("num_units", COUNT, "how many of these units there are"),
    number_of_trials(),
    REASON,
    title="Which metric goes with the outcome more closely",
    caption="Difference of two correlations with the same outcome, with a jackknife interval over "
    "the independent units; |r| compares their strength whatever the sign.",
)
def comparisons(study: StudyData) -> list[Row]:
    """The primary x against every other metric, outcome by outcome."""
    design = study.design
    rows: list[Row] = []
    first = design.primary[0]
    for outcome in design.outcomes:
        for other in design.all_metrics:
            if other == first or outcome in (first, other):
                continue
            pairs = (pair_sample(study.table, design, name, outcome) for name in (first, other))
            result = compare_samples(*pairs, confidence=design.confidence)
            names = {"metric_a": first, "metric_b": other, "outcome": outcome}
            rows.append(names | {"method": "pearson"} | asdict(result))
    return with_q_values(rows)


@study_table(
    "granulated",
    "one metric, one outcome, one hyperparameter axis (or their mean)",
    _METRIC,
    _OUTCOME,
    Column(
        "hyperparameter",
        TEXT,
        "the axis i, or `mean` for Psi, the mean of psi_i over the axes",
        "hyperparameter",
    ),
    Column(
        "estimate",
        REAL,
        "psi_i: Kendall tau along the axis, averaged over all settings of the others",
        "ψ",
        "correlation",
    ),
    Column("num_groups", COUNT, "settings of the other hyperparameters", "groups"),
    number_of_trials(),
    replace(REASON, meaning="why the estimate is null (the design is not a regular grid)"),
    title="Along one hyperparameter at a time",
    caption="Granulated Kendall τ (Jiang et al.): ranks only networks that differ in one "
    "hyperparameter, so a hyperparameter that moves both cannot make the correlation. “mean” is Ψ.",
    emphasis=lambda row: row["hyperparameter"] == "mean",
)
def granulated(study: StudyData) -> Iterator[Row]:
    """Kendall's tau along single hyperparameters, and their mean."""
    if not study.design.hyperparameters:
        return
    for metric, outcome in metric_outcome_pairs(study.design):
        found = granulated_kendall(study.table, metric, outcome, study.design.hyperparameters)
        for name, estimate in [*found.psi.items(), ("mean", found.mean)]:
            yield asdict(estimate) | {
                "metric": metric,
                "outcome": outcome,
                "hyperparameter": name,
                "num_groups": found.num_groups.get(name),
            }


@study_table(
    "mutual_information",
    "one metric, one outcome, one conditioning set of at most two hyperparameters (or the minimum)",
    _METRIC,
    _OUTCOME,
    Column(
        "conditioned_on",
        TEXT,
        "hyperparameters joined by ` & `, `nothing`, or `minimum` for K",
        "given",
    ),
    Column(
        "estimate",
        REAL,
        "I(V_metric; V_outcome | U_S) / H(V_outcome | U_S), 0 to 1",
        "information",
        "correlation",
    ),
    Column("num_pairs", COUNT, "pairs of trials", "pairs"),
    number_of_trials(),
    replace(REASON, meaning="why the estimate is null"),
    title="Information beyond the hyperparameters",
    caption="Normalised conditional mutual information (Jiang et al.) between the order of two "
    "networks by the metric and by the outcome; “minimum” is their K: 0 tells nothing beyond the "
    "hyperparameters.",
    emphasis=lambda row: row["conditioned_on"] == "minimum",
)
def mutual_information(study: StudyData) -> Iterator[Row]:
    """Conditional mutual information of metric and outcome given hyperparameters."""
    if not study.design.hyperparameters:
        return
    for metric, outcome in metric_outcome_pairs(study.design):
        found = conditional_information(study.table, metric, outcome, study.design.hyperparameters)
        named = [(" & ".join(names) or "nothing", e) for names, e in found.by_set.items()]
        for name, estimate in [*named, ("minimum", found.minimum)]:
            yield asdict(estimate) | {
                "metric": metric,
                "outcome": outcome,
                "conditioned_on": name,
                "num_pairs": found.num_pairs,
            }


@study_table(
    "sign_errors",
    "one metric, one outcome, one summary over environments",
    _METRIC,
    _OUTCOME,
    Column("summary", TEXT, "mean, percentile_90 or max over environments", "over environments"),
    Column(
        "estimate",
        REAL,
        "sign error: 0 ranks every pair right, 0.5 is chance, 1 ranks every pair wrong",
        "sign error",
        "correlation",
    ),
    Column(
        "num_environments",
        COUNT,
        "environments with at least one pair of positive weight",
        "environments",
    ),
    Column("num_pairs", COUNT, "pairs of trials in them", "pairs"),
    number_of_trials(),
    replace(REASON, meaning="why the estimate is null"),
    title="How often the metric ranks two networks wrongly",
    caption="Sign error (Dziugaite et al.) over environments: 0 ranks all pairs right, 0.5 is "
    "chance, 1 ranks all wrong. The maximum is the worst environment.",
)
def sign_error_summaries(study: StudyData) -> Iterator[Row]:
    """How often a metric ranks two networks wrongly: mean, 90th percentile, worst environment."""
    table, design = study.table, study.design
    if not design.hyperparameters and not design.environments:
        return
    for metric, outcome in metric_outcome_pairs(design):
        samples, note = design.num_test_samples, None
        if samples is not None and not _is_rate(table, outcome):
            samples = None
            note = f"{outcome} is not a rate in [-1, 1]: all pairs weighted alike"
        found = sign_errors(
            table,
            metric,
            outcome,
            environments=design.environments,
            hyperparameters=without_replicates(table, design),
            num_test_samples=samples,
        )
        for name, estimate in (
            ("mean", found.mean),
            ("percentile_90", found.percentile_90),
            ("max", found.maximum),
        ):
            yield asdict(estimate) | {
                "metric": metric,
                "outcome": outcome,
                "summary": name,
                "num_environments": found.environments.height,
                "num_pairs": int(found.environments["num_pairs"].sum()),
                "reason": "; ".join(filter(None, [estimate.reason, note])) or None,
            }


def _is_rate(table: pl.DataFrame, outcome: str) -> bool:
    values = numeric_column(table, outcome)
    return bool(np.nanmax(np.abs(np.where(np.isfinite(values), values, np.nan)), initial=0) <= 1)


def without_replicates(table: pl.DataFrame, design: StudyDesign) -> list[str]:
    """The hyperparameters that do not vary between the replicates of a configuration (no seeds)."""
    if not design.configuration:
        return list(design.hyperparameters)
    point = [*design.configuration, *([design.family] if design.family else [])]
    values = table.group_by(point).agg(pl.col(design.hyperparameters).n_unique().name.prefix("#"))
    return [name for name in design.hyperparameters if (values[f"#{name}"] == 1).all()]
