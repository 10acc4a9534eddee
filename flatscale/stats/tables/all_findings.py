"""Every statistic of every pair of metrics, and the rows that a pair has to do without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import polars as pl

from flatscale.stats.design import StudyDesign
from flatscale.stats.estimators.multiplicity import add_q_values
from flatscale.stats.findings import FINDING_COLUMNS, Finding, findings_frame
from flatscale.stats.pair import depth_findings, family_findings, headline
from flatscale.stats.tables.declaration import TEXT, Column, Row, X, Y, study_table
from flatscale.stats.tables.study_data import StudyData, pair_of


@study_table("findings", "one statistic of one pair", *FINDING_COLUMNS)
def findings(study: StudyData) -> pl.DataFrame:
    """Headline of every pair; for the pairs in depth all else, and each family alone."""
    return corrected(study.once(pair_findings), study.design)


def pair_findings(study: StudyData) -> list[Finding]:
    """The findings of every pair of metrics, before the correction for their number."""
    design = study.design
    rows = []
    for (x, y), sample in study.samples.items():
        rows += headline(sample, confidence=design.confidence)
        if (x, y) in design.deep_pairs:
            rows += depth_findings(
                sample,
                study.table,
                covariates=design.covariates,
                shared_source=design.shared_source(x, y),
                confidence=design.confidence,
                num_resamples=design.num_resamples,
                seed=design.seed,
            )
            rows += family_findings(sample, confidence=design.confidence)
    return rows


def corrected(findings: list[Finding], design: StudyDesign) -> pl.DataFrame:
    """Findings with q-values over the pairs of one scope and method, the primary pair exempt.

    Values of single families are corrected over the families of their pair.
    """
    one_family = pl.col("scope").str.starts_with("family:")
    primary = (pl.col("x") == design.primary[0]) & (pl.col("y") == design.primary[1])
    frame = findings_frame(findings)
    across = add_q_values(frame.filter(~one_family), by=["scope", "method"], exempt=primary)
    within = add_q_values(frame.filter(one_family), by=["x", "y", "method"])
    return pl.concat([across, within])


@study_table(
    "excluded",
    "one row left out of one pair",
    X,
    Y,
    Column("label", TEXT, "the row's label"),
    Column("family", TEXT, "its family; null where missing"),
    Column("column", TEXT, "the column at fault"),
    Column("reason", TEXT, "why the row is left out"),
)
def excluded(study: StudyData) -> Iterator[Row]:
    """The rows without a usable value, pair by pair."""
    for sample in study.samples.values():
        yield from (pair_of(sample) | asdict(row) for row in sample.excluded)
