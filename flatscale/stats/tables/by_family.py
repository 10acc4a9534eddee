"""The pairs analysed in depth, family by family: r in each, without each, their mean, the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from flatscale.stats.estimators.correlation import estimate_correlation
from flatscale.stats.estimators.families import leave_one_family_out
from flatscale.stats.estimators.mixed_model import mixed_model
from flatscale.stats.pair import FamilyMean, family_mean
from flatscale.stats.sample import Sample
from flatscale.stats.tables.declaration import (
    COUNT,
    FLAG,
    NAMED_X,
    NAMED_Y,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    interval,
    number_of_trials,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, pair_of


@study_table(
    "leave_one_out",
    "one family left out of one pair",
    X,
    Y,
    Column("family", TEXT, "the family left out", "left out"),
    number_of_trials("networks left", "rows that remain"),
    Column(
        "estimate",
        REAL,
        "Pearson r of the rows that remain; null where they are constant",
        "r without it",
        "correlation",
    ),
    Column("shift", REAL, "that r minus the r of all rows", "shift", "correlation"),
    title="Without each family",
    caption="Pooled Pearson r when one family is left out; shift is its change.",
)
def leave_one_out(study: StudyData) -> Iterator[Row]:
    """Pooled r without each family, families in alphabetical order."""
    for sample in study.in_depth:
        if sample.family is None or sample.problem():
            continue
        pooled = estimate_correlation(sample.x, sample.y).estimate
        values = leave_one_family_out(sample)
        for code, name in sorted(enumerate(sample.family_names), key=lambda item: item[1]):
            value = None if math.isnan(values[code]) else float(values[code])
            yield pair_of(sample) | {
                "family": name,
                "num_trials": int(np.sum(sample.family != code)),
                "estimate": value,
                "shift": None if value is None or pooled is None else value - pooled,
            }


def mean_over_families(study: StudyData, sample: Sample) -> FamilyMean | None:
    """The random-effects mean of a pair; None where its rows have no families."""
    return None if sample.family is None else family_mean(sample, study.design.confidence)


@study_table(
    "family_correlations",
    "one family of one pair",
    X,
    Y,
    Column("family", TEXT, "the family", "family"),
    number_of_trials("networks", "n, its rows"),
    Column("estimate", REAL, "Pearson r within the family", "r", "correlation"),
    Column("z", REAL, "atanh r"),
    Column("std_error", REAL, "1/sqrt(n-3), on the scale of z"),
    *interval(meaning="end: tanh(z -+ quantile std_error)"),
    Column(
        "weight",
        REAL,
        "share of the family in the random-effects mean, 1/(v+tau^2) normalised to 1",
        "weight",
        "correlation",
    ),
    replace(
        REASON,
        meaning="why the family is not part of the synthesis (fewer than 4 rows, constant, "
        "perfect r)",
    ),
    key="families",
    title="The primary pair inside each family",
    caption="Pearson r among the networks of one family. Weight: the family's share in the "
    "random-effects mean; families too small for it are listed with the reason.",
)
def family_correlations(study: StudyData) -> Iterator[Row]:
    """r inside each family with its weight in the random-effects mean."""
    for sample in study.in_depth:
        mean = study.once(mean_over_families, sample)
        if mean is None:
            continue
        place = {name: index for index, name in enumerate(mean.used)}
        for name, estimate in mean.estimates.items():
            row = pair_of(sample) | asdict(estimate)
            row |= {"family": name, "std_error": None, "reason": mean.refused.get(name)}
            if name in place:
                index = place[name]
                row |= {
                    "z": float(mean.z[index]),
                    "std_error": math.sqrt(mean.variance[index]),
                    "weight": None if mean.result is None else float(mean.result.weights[index]),
                }
            yield row


@study_table(
    "synthesis",
    "one pair",
    NAMED_X,
    NAMED_Y,
    Column("num_families", COUNT, "families in the synthesis (n >= 4)", "families"),
    Column(
        "num_left_out",
        COUNT,
        "families with fewer than 4 networks, or constant; listed in family_correlations",
        "left out",
    ),
    Column("estimate", REAL, "tanh of the REML mean of z = atanh r", "mean r", "correlation"),
    *interval(meaning="end of the Hartung-Knapp interval, as r"),
    *interval(
        "prediction",
        low="prediction_low",
        high="prediction_high",
        meaning="end of the interval for a new family's r",
    ),
    Column("z", REAL, "random-effects mean on the z scale"),
    Column("std_error", REAL, "Hartung-Knapp standard error of z"),
    Column("wald_std_error", REAL, "1/sqrt(sum of weights), the error without Hartung-Knapp"),
    replace(P_VALUE, meaning="of z = 0, t with k-1 degrees of freedom"),
    Column(
        "i_squared",
        REAL,
        "tau^2/(tau^2 + typical sampling variance), 0 to 1",
        "I²",
        "correlation",
    ),
    Column("tau_squared", REAL, "REML variance of z = atanh r between families", "τ²"),
    Column("q_statistic", REAL, "Cochran's Q"),
    Column(
        "q_p_value",
        REAL,
        "p-value of Q, Cochran's test that all families have one r: chi-squared with k-1 degrees "
        "of freedom",
        "p of Q",
        "probability",
    ),
    REASON,
    title="Mean over families",
    caption="Random-effects mean of the per-family r (REML, Hartung–Knapp interval). I² is the "
    "share of the differences between families that is not sampling noise; the prediction "
    "interval is where a new family's r would fall.",
)
def synthesis(study: StudyData) -> Iterator[Row]:
    """The random-effects mean over the families of each pair."""
    for sample in study.in_depth:
        mean = study.once(mean_over_families, sample)
        if mean is None:
            yield pair_of(sample) | {"reason": "the table has no family column"}
            continue
        row = pair_of(sample) | {
            "num_families": len(mean.used),
            "num_left_out": len(mean.refused),
            "reason": mean.problem,
        }
        if mean.result is not None:
            row |= vars(mean.result) | {"estimate": mean.result.r}
            for name in ("conf_low", "conf_high", "prediction_low", "prediction_high"):
                row[name] = math.tanh(row[name])
        yield row


@study_table(
    "mixed_model",
    "one term of y ~ within-family x + family-mean x, random intercept and slope by family",
    X,
    Y,
    Column(
        "term",
        TEXT,
        "intercept, within, between (fixed); sd_intercept, sd_within, sd_residual (random)",
        "term",
    ),
    Column("estimate", REAL, "coefficient, or standard deviation", "estimate"),
    Column(
        "std_error",
        REAL,
        "standard error of a coefficient; null for standard deviations",
        "standard error",
    ),
    *interval(meaning="end of the Wald interval", format="real"),
    replace(P_VALUE, meaning="Wald test"),
    Column(
        "singular",
        FLAG,
        "the fit lies on the boundary: a random effect's variance is estimated as zero",
        "at the boundary",
    ),
    number_of_trials("networks"),
    Column("num_families", COUNT, "families used", "families"),
    Column(
        "reason",
        TEXT,
        "what was dropped from the model and why, or why there is no fit",
        "note",
    ),
    title="Mixed model",
    caption="y on x split into its family mean (between) and the deviation from it (within), with "
    "a random intercept and slope for each family. Standard deviations (sd) are of the random "
    "parts.",
)
def mixed_model_terms(study: StudyData) -> Iterator[Row]:
    """The terms of the mixed model; one row with the reason where there is no fit."""
    for sample in study.in_depth:
        fit = mixed_model(sample, confidence=study.design.confidence)
        base = pair_of(sample) | {
            "singular": fit.singular,
            "num_trials": sample.num_trials,
            "num_families": sample.num_families,
            "reason": fit.reason,
        }
        yield from (asdict(term) | base for term in fit.terms)
        if not fit.terms:
            yield base
