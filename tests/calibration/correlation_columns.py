"""The tests whose error rates are measured on the tables of `correlation_rows`."""

from __future__ import annotations

from functools import lru_cache

from flatscale.stats.estimators.comparison import compare_metrics
from flatscale.stats.estimators.correlation import estimate_correlation
from flatscale.stats.estimators.equivalence import equivalence
from flatscale.stats.estimators.families import (
    between_family,
    family_jackknife,
    repeated_measures,
    within_family,
)
from flatscale.stats.estimators.mixed_model import MixedFit, mixed_model
from flatscale.stats.estimators.partial import partial_correlation
from flatscale.stats.estimators.replication import choose_units
from flatscale.stats.estimators.sign_reversal import ESTABLISHED, sign_reversal
from flatscale.stats.findings import Estimate
from flatscale.stats.pair import synthesis_estimate
from tests.calibration.harness import ALPHA, Simulated, column


def rejects(found: Estimate) -> bool | None:
    """Whether the p-value is at most 5%; None without one."""
    return None if found.p_value is None else found.p_value <= ALPHA


@column("naive r")
def naive(table: Simulated) -> bool | None:
    return rejects(estimate_correlation(table.x, table.y))


@column("naive within")
def naive_within(table: Simulated) -> bool | None:
    return rejects(repeated_measures(table.sample()))


@column("pooled")
def pooled(table: Simulated) -> bool | None:
    return rejects(family_jackknife(table.sample()))


@column("spearman")
def spearman(table: Simulated) -> bool | None:
    return rejects(family_jackknife(table.sample(), "spearman"))


@column("within")
def within(table: Simulated) -> bool | None:
    return rejects(within_family(table.sample()))


@column("between")
def between(table: Simulated) -> bool | None:
    return rejects(between_family(table.sample()))


@column("synthesis")
def synthesis(table: Simulated) -> bool | None:
    return rejects(synthesis_estimate(table.sample(), 0.95))


@column("partial")
def partial(table: Simulated) -> bool | None:
    if table.covariates is None:
        return None
    units = choose_units(len(table.x), table.family, table.configuration)
    return rejects(partial_correlation(table.x, table.y, table.covariates, units=units))


@column("comparison")
def comparison(table: Simulated) -> bool | None:
    if table.rival is None:
        return None
    found = compare_metrics(
        table.x, table.rival, table.y, family=table.family, configuration=table.configuration
    )
    return None if found.p_value is None else found.p_value <= ALPHA


@column("reversal")
def reversal(table: Simulated) -> bool | None:
    verdict = sign_reversal(table.sample()).verdict
    return None if verdict is None else verdict == ESTABLISHED


@column("mixed between", slow=True)
def mixed_between(table: Simulated) -> bool | None:
    return _term(table, "between")


@column("mixed within", slow=True)
def mixed_within(table: Simulated) -> bool | None:
    return _term(table, "within")


@lru_cache(maxsize=2)
def _fit(table: Simulated) -> MixedFit:
    return mixed_model(table.sample())


def _term(table: Simulated, name: str) -> bool | None:
    found = {term.term: term.p_value for term in _fit(table).terms}
    p_value = found.get(name)
    return None if p_value is None else p_value <= ALPHA


column("naive within", group="power")(naive_within)
column("pooled", group="power")(pooled)
column("within", group="power")(within)
column("synthesis", group="power")(synthesis)


@column("smaller than .2", group="equivalence")
def smaller(table: Simulated) -> bool | None:
    p_value = equivalence(within_family(table.sample()), bound=0.2).p_value
    return None if p_value is None else p_value <= ALPHA
