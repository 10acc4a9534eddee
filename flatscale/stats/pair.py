"""One pair of columns: `correlate` for independent rows, `analyze` for rows in families."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from flatscale.errors import StatsError
from flatscale.progress_bar import progress_bar
from flatscale.stats.estimators import robust_correlation  # noqa: F401  registers three
from flatscale.stats.estimators.bootstrap import bca_interval
from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.estimators.families import (
    between_family,
    family_jackknife,
    per_family,
    repeated_measures,
    within_family,
)
from flatscale.stats.estimators.measurement_error import disattenuated
from flatscale.stats.estimators.multiplicity import add_q_values
from flatscale.stats.estimators.partial import partial_estimate
from flatscale.stats.estimators.permutation import permutation_within
from flatscale.stats.estimators.synthesis import Synthesis, fisher_z, synthesize
from flatscale.stats.findings import Estimate, Finding, finding, findings_frame, null_estimate
from flatscale.stats.row_notes import row_notes
from flatscale.stats.sample import Floats, Sample, families_said, require_columns, select_pair

logger = logging.getLogger(__name__)

METHODS = ("pearson", "spearman", "kendall")
"""The headline statistics; every other registered one belongs to the analysis in depth."""

_STEPS = (
    "headline",
    "robust correlations",
    "bootstrap",
    "without one family at a time",
    "permutations",
    "what is held fixed, measurement error",
    "each family",
)


def correlate(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    methods: Sequence[str] = METHODS,
    log: Collection[str] = (),
    interval: str = "fisher",
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
) -> pl.DataFrame:
    """Correlations of two columns whose rows are independent; a findings table, one row a method.

    Where rows come in families use `analyze`: these intervals are too narrow then.

    Args:
        df: one row a network; rows with a missing, NaN or infinite value are left out
            (`num_trials` counts the rest).
        x, y: the pair of columns.
        methods: registered statistics.
        log: columns replaced by log10.
        interval: `fisher` (analytic, on the scale of atanh) or `bca` (bootstrap; no p-value).
        confidence: of the intervals.
        num_resamples, seed: of the bootstrap.

    Raises:
        StatsError: a column is missing or holds no numbers; an unknown method or interval.
    """
    if interval not in ("fisher", "bca"):
        raise StatsError(f"interval must be 'fisher' or 'bca', found {interval!r}")
    sample = select_pair(df, x, y, log=log)
    rows = []
    for method in methods:
        if interval == "bca" and not sample.problem():
            estimate = bca_interval(
                sample.x,
                sample.y,
                method,
                confidence=confidence,
                num_resamples=num_resamples,
                seed=seed,
            )
        else:
            estimate = pooled_estimate(sample, method, confidence)
        rows.append(finding(x, y, "pooled", method, estimate))
    return findings_frame(rows)


def analyze(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    family: str | None = "family",
    configuration: Sequence[str] = (),
    se_x: str | None = None,
    se_y: str | None = None,
    log: Collection[str] = (),
    covariates: Sequence[str] = (),
    label: str | None = None,
    shared_error: bool = False,
    methods: Sequence[str] = METHODS,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> pl.DataFrame:
    """Everything flatscale concludes about one pair of columns, as a tidy findings table.

    The headline is three rows: `pooled`/`pearson_jackknife`, `within`/`pearson`,
    `between`/`pearson`, with intervals over the independent units that `units` names: families
    where there are at least 5, else configurations, else rows. Further rows: the naive pooled
    values by each method, every other registered statistic (percentage bend, winsorized, skipped),
    BCa and partial and error-corrected values, the repeated-measures correlation and the
    permutation test within families, the synthesis over families and each family alone. Rows of
    one family carry q-values over the families; the others belong to a pair declared in advance
    and have none.

    Args:
        df: one row a network.
        x, y: the pair of columns.
        family: column of families, None for independent rows.
        configuration: columns that make a hyperparameter point; rows that agree in all are seeds.
        se_x, se_y: columns of standard errors.
        log: columns replaced by log10.
        covariates: columns held fixed in the partial correlation.
        label: column that must name each row once.
        shared_error: x and y share their sampling error, which rules the correction for it out.
        methods: statistics of the headline and of each family.
        confidence: of the intervals.
        num_resamples, seed: of the bootstrap and the permutations.
        progress: show a bar on standard error; by default where that is a terminal or a notebook.

    Returns:
        A findings table; what cannot be computed is a null row with its reason. Rows left out,
        repeated, or without a standard error are named in warnings of the log.

    Raises:
        StatsError: a column does not exist or holds no numbers, or a label occurs twice.
    """
    if isinstance(log, str):
        raise StatsError(f"log must be a list of columns: [{log!r}], not {log!r}")
    require_columns(df, [*covariates, *log])
    if x == y:
        raise StatsError(f"x and y are the same column, {x!r}; name two")
    sample = select_pair(
        df,
        x,
        y,
        family=family,
        configuration=configuration,
        label=label,
        log=log,
        x_error=se_x,
        y_error=se_y,
    )
    for note in row_notes(df, sample, label=label, errors=(se_x, se_y)):
        logger.warning(note)
    with progress_bar(progress, len(_STEPS)) as watch:

        def begins(step: str) -> None:
            watch(step, _STEPS.index(step))

        begins("headline")
        rows = headline(sample, methods=methods, confidence=confidence)
        rows += depth_findings(
            sample,
            df,
            covariates=covariates,
            shared_source="declared by the caller" if shared_error else None,
            confidence=confidence,
            num_resamples=num_resamples,
            seed=seed,
            begins=begins,
        )
        begins("each family")
        rows += family_findings(sample, methods=methods, confidence=confidence)
    one_family = pl.col("scope").str.starts_with("family:")
    return add_q_values(findings_frame(rows), by=["method"], exempt=~one_family)


def headline(
    sample: Sample, *, methods: Sequence[str] = METHODS, confidence: float = 0.95
) -> list[Finding]:
    """Pooled (naive and family jackknife), within-family and between-family correlations."""
    x, y = sample.x_name, sample.y_name
    rows = [finding(x, y, "pooled", m, pooled_estimate(sample, m, confidence)) for m in methods]
    if sample.family is None and sample.configuration is None:
        return rows
    for method in methods:
        found = family_jackknife(sample, method, confidence=confidence)
        rows.append(finding(x, y, "pooled", f"{method}_jackknife", found))
    if sample.family is None:
        return rows
    rows.append(finding(x, y, "within", "pearson", within_family(sample, confidence=confidence)))
    rows.append(finding(x, y, "between", "pearson", between_family(sample, confidence=confidence)))
    return rows


def depth_findings(
    sample: Sample,
    table: pl.DataFrame,
    *,
    covariates: Sequence[str] = (),
    shared_source: str | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    begins: Callable[[str], None] = lambda step: None,
) -> list[Finding]:
    """What a pair analysed in depth has beyond its headline and its families."""
    x, y = sample.x_name, sample.y_name

    def row(scope: str, method: str, estimate: Estimate) -> Finding:
        return finding(x, y, scope, method, estimate)

    begins("robust correlations")
    further = [method for method in STATISTICS if method not in METHODS]
    rows = [row("pooled", m, pooled_estimate(sample, m, confidence)) for m in further]
    if sample.problem():
        return rows
    begins("bootstrap")
    resampled = bca_interval(
        sample.x, sample.y, confidence=confidence, num_resamples=num_resamples, seed=seed
    )
    rows.append(row("pooled", "pearson_bca", resampled))
    if sample.family is not None:
        begins("without one family at a time")
        naive = repeated_measures(sample, confidence=confidence)
        rows.append(row("within", "repeated_measures", naive))
        for method in further:
            found = family_jackknife(sample, method, confidence=confidence)
            rows.append(row("pooled", f"{method}_jackknife", found))
        begins("permutations")
        shuffled = permutation_within(sample, num_resamples=num_resamples, seed=seed)
        rows.append(row("within", "pearson_permutation", shuffled))
        rows.append(row("synthesis", "reml", synthesis_estimate(sample, confidence)))
    begins("what is held fixed, measurement error")
    if covariates:
        partial = partial_estimate(sample, table, covariates, confidence=confidence)
        rows.append(row("pooled", "partial", partial))
    if sample.x_error is not None or sample.y_error is not None:
        corrected = disattenuated(
            sample,
            shared_source=shared_source,
            confidence=confidence,
            num_resamples=num_resamples,
            seed=seed,
        )
        rows.append(row("pooled", "disattenuated", corrected))
    return rows


def family_findings(
    sample: Sample, *, methods: Sequence[str] = METHODS, confidence: float = 0.95
) -> list[Finding]:
    """The correlation inside each family, by each method."""
    return [
        finding(sample.x_name, sample.y_name, f"family:{name}", method, found)
        for method in methods
        for name, found in per_family(sample, method, confidence=confidence).items()
    ]


def pooled_estimate(sample: Sample, method: str, confidence: float) -> Estimate:
    """A registered correlation over all rows, or a null estimate naming the column at fault."""
    chosen = STATISTICS[method]
    problem = sample.problem()
    if problem:
        return null_estimate(
            problem, num_trials=sample.num_trials, num_families=sample.num_families
        )
    return chosen.function(sample.x, sample.y, confidence)


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyMean:
    """r of every family and their random-effects mean.

    Attributes:
        estimates: r inside each family.
        used: the families in the mean.
        z, variance: atanh r of those and its sampling variance.
        refused: the other families with the reason.
        result: the mean; None with fewer than two families, and then `problem`.
        problem: why there is no mean.
    """

    estimates: Mapping[str, Estimate]
    used: Sequence[str]
    z: Floats
    variance: Floats
    refused: Mapping[str, str]
    result: Synthesis | None
    problem: str | None


def family_mean(sample: Sample, confidence: float) -> FamilyMean:
    """The random-effects mean correlation of the families of a sample; see `synthesize`."""
    estimates = per_family(sample, confidence=confidence)
    used, z, variance, refused = fisher_z(estimates)
    enough = len(used) >= 2
    return FamilyMean(
        estimates=estimates,
        used=used,
        z=z,
        variance=variance,
        refused=refused,
        result=synthesize(z, variance, confidence=confidence) if enough else None,
        problem=None
        if enough
        else f"{families_said(len(used))} with a usable correlation, at least 2 needed",
    )


def synthesis_estimate(sample: Sample, confidence: float) -> Estimate:
    """The random-effects mean over the families as a finding."""
    mean = family_mean(sample, confidence)
    result, num_families = mean.result, len(mean.used)
    if result is None:
        reason = str(mean.problem)
        return null_estimate(reason, num_trials=sample.num_trials, num_families=num_families)
    left_out = f"{families_said(len(mean.refused))} left out of the synthesis"
    return Estimate(
        estimate=result.r,
        std_error=result.std_error,
        conf_low=math.tanh(result.conf_low),
        conf_high=math.tanh(result.conf_high),
        p_value=result.p_value,
        num_trials=sample.num_trials,
        num_families=num_families,
        reason=left_out if mean.refused else None,
    )
