"""A whole study: every table the report shows, from one table with one row a trial."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from flatscale.errors import StatsError
from flatscale.stats import tables
from flatscale.stats.findings import findings_frame
from flatscale.stats.multiplicity import add_q_values
from flatscale.stats.pair import family_findings, headline
from flatscale.stats.sample import Sample, require_columns, select_pair

ERROR_SUFFIX = "__std_error"
CONVERGED_SUFFIX = "__converged"


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """What a study declares before it looks at its results.

    primary: the (x, y) pair whose test is not corrected for the others.
    metrics: columns correlated with each other; the primary pair is always among them.
    pairs: further pairs analysed in depth (families, synthesis, line, scan), like the primary one.
    family: column of the family of each row; None for independent rows.
    label: column that names each row, each name once; None numbers the rows.
    log: columns analysed as log10.
    covariates: columns held fixed in partial correlations; text columns become indicator variables.
    outcomes: columns predicted, each correlated with every metric.
    hyperparameters: columns of the design, for granulated Kendall, mutual information and sign
        errors.
    environments: columns whose values define the environments of sign errors; empty derives them
        from pairs of
        values of each hyperparameter.
    subsets: columns that split the primary analysis (dataset, network).
    bounds: (bound column, metric column) inequalities to check.
    error_sources: metric -> name of the source of its sampling error; two metrics with the same
        source share it,
        and their correlation is not corrected for it.
    num_test_samples: test points behind each outcome, for the weights of sign errors; None
        weights pairs alike.
    """

    primary: tuple[str, str]
    metrics: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    family: str | None = "family"
    label: str | None = "trial_id"
    log: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    hyperparameters: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    bounds: tuple[tuple[str, str], ...] = ()
    error_sources: Mapping[str, str] = field(default_factory=dict)
    num_test_samples: int | None = None
    alpha: float = 0.05
    confidence: float = 0.95
    seed: int = 0
    num_resamples: int = 2000

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The metrics with the primary pair first, each once."""
        return tuple(dict.fromkeys((*self.primary, *self.metrics)))

    @property
    def deep_pairs(self) -> tuple[tuple[str, str], ...]:
        """The primary pair, then the further pairs analysed in depth."""
        return tuple(dict.fromkeys((self.primary, *self.pairs)))

    @property
    def all_pairs(self) -> tuple[tuple[str, str], ...]:
        """Every unordered pair of metrics once, the pairs in depth first and as declared."""
        seen = {frozenset(pair) for pair in self.deep_pairs}
        rest = [p for p in itertools.combinations(self.all_metrics, 2) if frozenset(p) not in seen]
        return (*self.deep_pairs, *rest)


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyAnalysis:
    """The result of `analyze_study`: named polars DataFrames, always with all their columns,
    possibly empty.

    The columns of every field, with their meaning, are declared in `flatscale.stats.tables.TABLES`.

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
    """Analyse a study: one row a trial, one column a metric, outcome, hyperparameter, family or
    label.

    A metric column `m` may have the companions `m__std_error` and `m__converged`. Raises
    `StatsError` for columns that do not exist or are not numbers and for labels that occur twice.
    """
    check_design(table, design)
    samples = {pair: pair_sample(table, design, *pair) for pair in design.all_pairs}
    made = {name: spec.frame() for name, spec in tables.TABLES.items()}
    made["findings"] = _all_findings(samples, design)
    return StudyAnalysis(design=design, num_rows=table.height, **made)


def check_design(table: pl.DataFrame, design: StudyDesign) -> None:
    """Raise `StatsError` for the first declared column that the table lacks."""
    if len(set(design.primary)) != 2:
        raise StatsError(
            f"the primary pair must name two different columns, found {design.primary}"
        )
    named = [
        *design.all_metrics,
        *itertools.chain(*design.pairs),
        *design.outcomes,
        *design.covariates,
    ]
    named += [
        *design.hyperparameters,
        *design.environments,
        *design.subsets,
        *itertools.chain(*design.bounds),
    ]
    require_columns(table, [*named, design.family, design.label])


def pair_sample(table: pl.DataFrame, design: StudyDesign, x: str, y: str) -> Sample:
    """The usable rows of a pair under the design's scales, with standard errors where the table
    has them.
    """
    errors = {name: f"{name}{ERROR_SUFFIX}" for name in (x, y)}
    present = {name: column if column in table.columns else None for name, column in errors.items()}
    return select_pair(
        table,
        x,
        y,
        family=design.family,
        label=design.label,
        log=design.log,
        x_error=present[x],
        y_error=present[y],
    )


def _all_findings(samples: Mapping[tuple[str, str], Sample], design: StudyDesign) -> pl.DataFrame:
    rows = []
    for pair, sample in samples.items():
        rows += headline(sample, confidence=design.confidence)
        if pair in design.deep_pairs:
            rows += family_findings(sample, confidence=design.confidence)
    primary = (pl.col("x") == design.primary[0]) & (pl.col("y") == design.primary[1])
    exempt = primary & ~pl.col("scope").str.starts_with("family:")
    return add_q_values(findings_frame(rows), by=["scope", "method"], exempt=exempt)
