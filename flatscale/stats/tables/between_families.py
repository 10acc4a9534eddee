"""Across families: what explains the differences of r, and what partial pooling makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flatscale.stats.estimators.meta_regression import meta_regression
from flatscale.stats.estimators.partial_pooling import (
    PRIORS,
    Mixture,
    Pooling,
    Priors,
    pool_partially,
)
from flatscale.stats.estimators.replication import CONFIGURATIONS
from flatscale.stats.sample import Floats, Sample, families_said, numeric_column
from flatscale.stats.tables.against_outcomes import without_replicates
from flatscale.stats.tables.by_family import mean_over_families
from flatscale.stats.tables.declaration import (
    COUNT,
    FLAG,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    interval,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, pair_of, with_q_values

SIZE = "num_parameters"
MEAN, NEW_FAMILY, SPREAD = "mean over families", "a new family", "tau"
_LEAST = 4


@study_table(
    "meta_regression",
    "one moderator of the families' correlations, for one pair",
    X,
    Y,
    Column("moderator", TEXT, "its mean in each family; log10 where positive", "moderator"),
    Column("estimate", REAL, "change of atanh r for one unit of the moderator", "slope"),
    *interval(meaning="end of the Knapp-Hartung interval", format="real"),
    replace(P_VALUE, meaning="of slope = 0, t with k - 2 degrees of freedom"),
    Column(
        "q_value", REAL, "Benjamini-Hochberg over the moderators of the pair", "q", "probability"
    ),
    Column("tau_squared_without", REAL, "REML variance of atanh r between families", "τ²"),
    Column("tau_squared", REAL, "what the moderator leaves of it", "τ² left"),
    Column("explained", REAL, "share it explains, 0 to 1", "explained", "correlation"),
    Column("q_p_value", REAL, "p of Q: that it leaves nothing over", "p of rest", "probability"),
    Column("num_families", COUNT, "families used", "families"),
    REASON,
    title="What explains the differences between families",
    caption="Random-effects regression of the families' atanh r on one of their properties at a "
    "time (REML, Knapp–Hartung). Families differ in more than one property: a slope is an "
    "association between few families, not an effect.",
    emphasis=lambda row: row["q_value"] is not None and row["q_value"] <= 0.05,
)
def meta_regressions(study: StudyData) -> Iterator[Row]:
    """Number of parameters, hyperparameters and covariates as moderators, one at a time."""
    for sample in study.in_depth:
        mean = study.once(mean_over_families, sample)
        if mean is None:
            continue
        names = [sample.family_names.index(name) for name in mean.used]
        rows: list[Row] = []
        for moderator, values in _moderators(study, sample):
            values = values[names]
            row = pair_of(sample) | {"moderator": moderator, "num_families": len(names)}
            row |= {"p_value": None}
            if len(names) < _LEAST:
                row["reason"] = (
                    f"{families_said(len(names))} with a usable r, at least {_LEAST} needed"
                )
            elif not np.isfinite(values).all():
                row["reason"] = "missing in a family"
            elif np.ptp(values) <= 1e-9 * np.max(np.abs(values)):
                row["reason"] = "the same in every family"
            else:
                row |= _slope(mean.z, mean.variance, values, study.design.confidence)
            rows.append(row)
        yield from with_q_values(rows)


def _moderators(study: StudyData, sample: Sample) -> Iterator[tuple[str, Floats]]:
    """Properties of networks that are numbers, as family means."""
    assert sample.family is not None
    design = study.design
    named = (SIZE, *without_replicates(study.table, design), *design.covariates)
    size = np.bincount(sample.family)
    for name in dict.fromkeys(named):
        if name not in study.table.columns or not study.table[name].dtype.is_numeric():
            continue
        if name in (sample.x_name, sample.y_name):
            continue
        values = numeric_column(study.table, name)[sample.rows]
        logged = bool((values > 0).all())
        values = np.log10(values) if logged else values
        yield (f"log10 {name}" if logged else name), np.bincount(sample.family, values) / size


def _slope(z: Floats, variance: Floats, values: Floats, confidence: float) -> Row:
    found = meta_regression(z, variance, values[:, None], confidence=confidence)
    return {
        "estimate": float(found.coefficients[1]),
        "conf_low": float(found.conf_low[1]),
        "conf_high": float(found.conf_high[1]),
        "p_value": float(found.p_values[1]),
        "tau_squared": found.tau_squared,
        "tau_squared_without": found.tau_squared_without,
        "explained": found.explained,
        "q_p_value": found.q_p_value,
        "reason": None
        if found.explained is not None
        else "the families do not differ: nothing to explain",
    }


@study_table(
    "partial_pooling",
    "one quantity of one pair under one choice of priors",
    X,
    Y,
    Column("priors", TEXT, "priors of mean and spread of atanh r over families", "priors"),
    Column("stated", FLAG, "the priors stated in advance; the others check sensitivity"),
    Column("quantity", TEXT, f"{MEAN}, {NEW_FAMILY}, {SPREAD}, or a family's own r", "r of"),
    Column("own", REAL, "the family's own r, before pooling", "own r", "correlation"),
    Column(
        "estimate",
        REAL,
        "posterior median, as r; tau stays on the scale of atanh r",
        "estimate",
        "correlation",
    ),
    *interval("95% credible", meaning="end of the central credible interval"),
    Column(
        "probability_positive", REAL, "posterior probability of r > 0", "P(r > 0)", "correlation"
    ),
    Column("num_families", COUNT, "families used", "families"),
    REASON,
    title="Partial pooling over families",
    caption="Bayesian twin of the mean over families: each family's r is drawn toward their mean "
    "by as much as its own uncertainty asks. With few families it leans on its priors, and says "
    "so: the rows below the stated priors (bold) show what other priors give.",
    emphasis=lambda row: bool(row["stated"]) and row["quantity"] == MEAN,
)
def partial_pooling(study: StudyData) -> Iterator[Row]:
    """The mean, a new family, tau and every family; the first three under other priors too."""
    tail = (1 - study.design.confidence) / 2
    for sample in study.in_depth:
        mean = study.once(mean_over_families, sample)
        if mean is None:
            continue
        names, z, variance = _effects(study, sample)
        row = pair_of(sample) | {"num_families": len(names)}
        if len(names) < 2:
            reason = f"{families_said(len(names))} with an interval of r, at least 2 needed"
            yield row | {"quantity": MEAN, "reason": reason}
            continue
        for priors in PRIORS:
            found = pool_partially(z, variance, priors)
            row |= {"priors": priors.name, "stated": priors is PRIORS[0]}
            for quantity, own, values in _quantities(found, priors, names, z, tail):
                yield row | {"quantity": quantity, "own": own} | values


def _effects(study: StudyData, sample: Sample) -> tuple[list[str], Floats, Floats]:
    """Families with their z and v = 1/(n - 3), n the configurations where rows are replicates."""
    names, z, variance = [], [], []
    mean = study.once(mean_over_families, sample)
    assert mean is not None
    for name in mean.used:
        found = mean.estimates[name]
        count = found.num_units if found.units == CONFIGURATIONS else found.num_trials
        if found.std_error is None or found.estimate is None or not count or count < _LEAST:
            continue
        names.append(name)
        z.append(math.atanh(found.estimate))
        variance.append(1 / (count - 3))
    return names, np.array(z), np.array(variance)


def _quantities(
    found: Pooling, priors: Priors, names: list[str], z: Floats, tail: float
) -> Iterator[tuple[str, float | None, Row]]:
    yield MEAN, None, _as_r(found.mean, tail)
    yield NEW_FAMILY, None, _as_r(found.new, tail)
    ends = [found.tau_quantile(share) for share in (0.5, tail, 1 - tail)]
    yield SPREAD, None, dict(zip(("estimate", "conf_low", "conf_high"), ends, strict=True))
    if priors is PRIORS[0]:
        for name, own, mixture in zip(names, z, found.families, strict=True):
            yield name, math.tanh(own), _as_r(mixture, tail)


def _as_r(mixture: Mixture, tail: float) -> Row:
    return {
        "estimate": math.tanh(mixture.quantile(0.5)),
        "conf_low": math.tanh(mixture.quantile(tail)),
        "conf_high": math.tanh(mixture.quantile(1 - tail)),
        "probability_positive": 1 - mixture.below(0.0),
    }
