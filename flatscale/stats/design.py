"""What a study declares before it looks at its results, and its pairs as samples."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from flatscale.errors import StatsError
from flatscale.stats.sample import Sample, require_columns, select_pair

ERROR_SUFFIX = "__std_error"
CONVERGED_SUFFIX = "__converged"


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """What a study declares before it looks at its results.

    Attributes:
        primary: the (x, y) pair whose test is not corrected for the others.
        metrics: columns correlated with each other; the primary pair is always among them.
        pairs: further pairs analysed in depth (families, synthesis, line, scan), like the primary.
        family: column of the family of each row; None for independent rows.
        configuration: columns that make a hyperparameter point, whose rows are replicates (seeds)
            where they agree in all of them and the family; empty where there are no replicates.
        label: column that names each row, each name once; None numbers the rows.
        log: columns analysed as log10.
        covariates: columns held fixed in partial correlations; text becomes indicator variables.
        outcomes: columns predicted, each correlated with every metric.
        hyperparameters: columns of the design, for granulated Kendall, mutual information and
            sign errors.
        environments: columns whose values define the environments of sign errors; empty derives
            them from pairs of values of each hyperparameter.
        subsets: columns that split the primary analysis (dataset, network).
        bounds: (bound column, metric column) inequalities to check.
        variants: metric -> columns that measure the same with other options; each in turn stands
            for the metric in the specification curve.
        error_sources: metric -> name of the source of its sampling error; two metrics with the
            same source share it, and their correlation is not corrected for it.
        num_test_samples: test points behind each outcome, for the weights of sign errors; None
            weights pairs alike.
        alpha: level of the scan's flags.
        confidence: of every interval.
        seed: of every resampling.
        num_resamples: draws of a bootstrap or permutation.
    """

    primary: tuple[str, str]
    metrics: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    family: str | None = "family"
    configuration: tuple[str, ...] = ()
    label: str | None = "trial_id"
    log: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    hyperparameters: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    bounds: tuple[tuple[str, str], ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error_sources: Mapping[str, str] = field(default_factory=dict)
    num_test_samples: int | None = None
    alpha: float = 0.05
    confidence: float = 0.95
    seed: int = 0
    num_resamples: int = 2000

    def shared_source(self, x: str, y: str) -> str | None:
        """Name of the source of sampling error that two metrics share, or None."""
        source = self.error_sources.get(x)
        return source if source is not None and source == self.error_sources.get(y) else None

    def stand_ins(self, metric: str) -> tuple[str, ...]:
        """A metric, then all that measure the same with other options, each once."""
        groups = ((base, *others) for base, others in self.variants.items())
        alike = itertools.chain(*(group for group in groups if metric in group))
        return tuple(dict.fromkeys((metric, *alike)))

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


def check_design(table: pl.DataFrame, design: StudyDesign) -> None:
    """Refuse a design that the table cannot answer.

    Raises:
        StatsError: a declared column does not exist, or the primary pair is one column twice.
    """
    if len(set(design.primary)) != 2:
        raise StatsError(
            f"the primary pair must name two different columns, found {design.primary}"
        )
    named = itertools.chain(
        design.all_metrics,
        *design.pairs,
        design.outcomes,
        design.covariates,
        design.hyperparameters,
        design.environments,
        design.configuration,
        design.subsets,
        *design.bounds,
        *((base, *others) for base, others in design.variants.items()),
    )
    require_columns(table, [*named, design.family, design.label])


def declared_variants(
    catalog: Iterable[Mapping[str, Any]],
    columns: Collection[str],
    declared: Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """`StudyDesign.variants`: those declared, and those that metrics say they are.

    Args:
        catalog: the entries of metrics, of which `name` and `variant_of` count.
        columns: what a study has; a metric's own variants that it lacks are left out.
        declared: metric -> further columns.
    """
    found = {metric: tuple(others) for metric, others in declared.items()}
    for item in catalog:
        name, base = item["name"], item.get("variant_of") or ""
        if base in columns and name in columns:
            found[base] = tuple(dict.fromkeys((*found.get(base, ()), name)))
    return found


def pair_sample(table: pl.DataFrame, design: StudyDesign, x: str, y: str) -> Sample:
    """The usable rows of a pair under the design's scales, with the standard errors recorded."""
    errors = {
        name: f"{name}{ERROR_SUFFIX}" for name in (x, y) if f"{name}{ERROR_SUFFIX}" in table.columns
    }
    return select_pair(
        table,
        x,
        y,
        family=design.family,
        configuration=design.configuration,
        label=design.label,
        log=design.log,
        x_error=errors.get(x),
        y_error=errors.get(y),
    )
