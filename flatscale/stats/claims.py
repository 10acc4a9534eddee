"""Claims that a study tests: a region for a number, an estimate with its interval, a verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy import stats

from flatscale.errors import StatsError
from flatscale.stats.estimators.comparison import compare_samples
from flatscale.stats.estimators.families import between_family, family_jackknife, within_family
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.pair import pooled_estimate
from flatscale.stats.sample import select_pair

Verdict = Literal["agrees", "disagrees", "cannot tell"]

CLAIMS_SCHEMA = pl.Schema(
    {
        "claim": pl.String,
        "source": pl.String,
        "estimate": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "num_networks": pl.Int64,
        "verdict": pl.String,
        "notebook": pl.String,
        "study_hash": pl.String,
        "exploratory": pl.Boolean,
    }
)
"""Columns of every table of claims."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim about one number, and what a study found of it.

    Attributes:
        claim: what is claimed, in a sentence that names the number.
        source: who claims it.
        above, below: the claim holds where the number is between these, ends included.
        found: the estimate of the number.
        study_hash: content hash of the study (or studies) that it comes from.
        exploratory: the number, its region or the study was chosen after results had been seen, so
            the interval says less than it seems to.
    """

    claim: str
    source: str
    above: float = -np.inf
    below: float = np.inf
    found: Estimate
    study_hash: str
    exploratory: bool = False

    @property
    def verdict(self) -> Verdict:
        """What the interval says; see `verdict`."""
        low, high = self.found.conf_low, self.found.conf_high
        return verdict(low, high, above=self.above, below=self.below)


def verdict(
    low: float | None, high: float | None, *, above: float = -np.inf, below: float = np.inf
) -> Verdict:
    """Whether an interval agrees with the claim that a number is between `above` and `below`.

    It agrees where all of the interval lies in the claimed region, disagrees where none of it does,
    and cannot tell otherwise, or where there is no interval.

    Args:
        low, high: ends of the interval.
        above, below: ends of the region, which belong to it.

    Raises:
        StatsError: the region is everything, empty, or the interval's ends are exchanged.
    """
    if not above <= below or (above == -np.inf and below == np.inf):
        raise StatsError(f"a claim needs a region; found {above} to {below}")
    if low is None or high is None:
        return "cannot tell"
    if low > high:
        raise StatsError(f"an interval's low end is not above its high end; found {low} to {high}")
    if above <= low and high <= below:
        return "agrees"
    return "disagrees" if high < above or low > below else "cannot tell"


def claims_table(claims: Sequence[Claim], notebook: str) -> pl.DataFrame:
    """A row for each claim, by `CLAIMS_SCHEMA`; numbers with four digits.

    Args:
        claims: in the order to show.
        notebook: the notebook that tests them.
    """

    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    rows = [
        (
            one.claim,
            one.source,
            *map(short, (one.found.estimate, one.found.conf_low, one.found.conf_high)),
            one.found.num_trials,
            one.verdict,
            notebook,
            one.study_hash,
            one.exploratory,
        )
        for one in claims
    ]
    return pl.DataFrame(rows, schema=CLAIMS_SCHEMA, orient="row")


def mean_estimate(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of one number a network, with Student's interval.

    Args:
        values: (n,), one an independent unit; missing ones are left out.
        confidence: of the interval.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return null_estimate("fewer than 2 values", num_trials=len(known))
    mean, error = float(known.mean()), float(stats.sem(known))
    half = float(stats.t.ppf((1 + confidence) / 2, len(known) - 1)) * error
    return Estimate(
        estimate=mean,
        std_error=error,
        conf_low=mean - half,
        conf_high=mean + half,
        num_trials=len(known),
    )


def share_estimate(holds: Sequence[bool], confidence: float = 0.95) -> Estimate:
    """Share of networks of which something holds, with Clopper and Pearson's exact interval."""
    if not len(holds):
        return null_estimate("no networks")
    found = stats.binomtest(int(np.sum(holds)), len(holds))
    ends = found.proportion_ci(confidence, method="exact")
    return Estimate(
        estimate=float(np.mean(holds)),
        conf_low=float(ends.low),
        conf_high=float(ends.high),
        num_trials=len(holds),
    )


def correlation_of(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    scope: Literal["pooled", "within", "between"] = "pooled",
    log: Collection[str] = (),
    family: str | None = None,
    configuration: Sequence[str] = (),
) -> Estimate:
    """Pearson's r of two columns with the interval that a report leads with.

    Args:
        df: one row a network.
        x, y: the columns.
        scope: over all rows, inside families, or between their means.
        log: columns replaced by log10.
        family: column of families.
        configuration: columns in which replicates agree.
    """
    sample = select_pair(df, x, y, family=family, configuration=configuration, log=log)
    if scope != "pooled":
        return (within_family if scope == "within" else between_family)(sample)
    if sample.family is None and sample.configuration is None:
        return pooled_estimate(sample, "pearson", 0.95)
    return family_jackknife(sample)


def difference_of_sizes(
    df: pl.DataFrame,
    a: str,
    b: str,
    outcome: str,
    *,
    log: Collection[str] = (),
    configuration: Sequence[str] = (),
) -> Estimate:
    """|r(a, outcome)| - |r(b, outcome)| with its interval; see `compare_samples`."""
    first, second = (
        select_pair(df, metric, outcome, configuration=configuration, log=log) for metric in (a, b)
    )
    found = compare_samples(first, second)
    if found.abs_difference is None:
        return null_estimate(found.reason or "", num_trials=found.num_trials)
    return Estimate(
        estimate=found.abs_difference,
        conf_low=found.abs_conf_low,
        conf_high=found.abs_conf_high,
        num_trials=found.num_trials,
        units=found.units,
        num_units=found.num_units,
    )
