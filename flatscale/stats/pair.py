"""One pair of columns: `correlate` for independent rows, `analyze` for rows in families."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import polars as pl

from flatscale.stats.correlation import estimate_correlation, get_statistic
from flatscale.stats.families import between_family, family_jackknife, per_family, within_family
from flatscale.stats.findings import Estimate, Finding, finding, findings_frame, null_estimate
from flatscale.stats.multiplicity import add_q_values
from flatscale.stats.sample import Sample, select_pair
from flatscale.stats.synthesis import fisher_z, synthesize

METHODS = ("pearson", "spearman", "kendall")


def correlate(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    methods: Sequence[str] = METHODS,
    log: Collection[str] = (),
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Correlations of two columns whose rows are independent; a findings table, one row a method.

    Rows with a missing, NaN or infinite value are left out (`num_trials` counts the rest). `log`
    names columns replaced by log10. Where rows come in families use `analyze`: these intervals
    are too narrow then. Raises `StatsError` for missing or non-numeric columns and unknown
    methods.
    """
    sample = select_pair(df, x, y, log=log)
    return findings_frame(
        finding(x, y, "pooled", method, pooled_estimate(sample, method, confidence))
        for method in methods
    )


def analyze(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    family: str | None = "family",
    methods: Sequence[str] = METHODS,
    label: str | None = None,
    log: Collection[str] = (),
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Everything flatscale concludes about one pair of columns, as a tidy findings table.

    The headline is three rows: `pooled`/`pearson_jackknife`, `within`/`pearson`,
    `between`/`pearson`. Per-family rows carry q-values over the families; the others belong to a
    pair declared in advance and have none.
    """
    sample = select_pair(df, x, y, family=family, label=label, log=log)
    rows = headline(sample, methods=methods, confidence=confidence)
    if sample.family is not None:
        rows.append(finding(x, y, "synthesis", "reml", synthesis_estimate(sample, confidence)))
        rows += family_findings(sample, methods=methods, confidence=confidence)
    one_family = pl.col("scope").str.starts_with("family:")
    return add_q_values(findings_frame(rows), by=["method"], exempt=~one_family)


def headline(
    sample: Sample, *, methods: Sequence[str] = METHODS, confidence: float = 0.95
) -> list[Finding]:
    """Pooled (naive and family jackknife), within-family and between-family correlation of a
    sample.
    """
    x, y = sample.x_name, sample.y_name
    rows = [finding(x, y, "pooled", m, pooled_estimate(sample, m, confidence)) for m in methods]
    if sample.family is None:
        return rows
    for method in methods:
        found = family_jackknife(sample, method, confidence=confidence)
        rows.append(finding(x, y, "pooled", f"{method}_jackknife", found))
    rows.append(finding(x, y, "within", "pearson", within_family(sample, confidence=confidence)))
    rows.append(finding(x, y, "between", "pearson", between_family(sample, confidence=confidence)))
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
    get_statistic(method)
    problem = sample.problem()
    if problem:
        return null_estimate(
            problem, num_trials=sample.num_trials, num_families=sample.num_families
        )
    return estimate_correlation(sample.x, sample.y, method, confidence=confidence)


def synthesis_estimate(sample: Sample, confidence: float) -> Estimate:
    """The random-effects mean correlation of the families as a finding; see `synthesize`."""
    used, z, variance, refused = fisher_z(per_family(sample, confidence=confidence))
    if len(used) < 2:
        reason = f"{len(used)} families with a usable correlation, at least 2 needed"
        return null_estimate(reason, num_trials=sample.num_trials, num_families=len(used))
    result = synthesize(z, variance, confidence=confidence)
    return Estimate(
        estimate=result.r,
        std_error=result.std_error,
        conf_low=math.tanh(result.conf_low),
        conf_high=math.tanh(result.conf_high),
        p_value=result.p_value,
        num_trials=sample.num_trials,
        num_families=len(used),
        reason=f"{len(refused)} families left out of the synthesis" if refused else None,
    )
