"""Linear mixed model: within-family and between-family slopes, random intercepts and slopes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from flatscale.stats.estimators.families import family_means, is_constant_within
from flatscale.stats.estimators.replication import CONFIGURATIONS, ROWS, choose_units, recode
from flatscale.stats.estimators.restricted_likelihood import RestrictedFit, fit_by_reml
from flatscale.stats.sample import Floats, Sample, is_constant

_BOUNDARY = 1e-4


@dataclass(frozen=True, kw_only=True)
class Term:
    """A coefficient (with standard error) or a standard deviation of the model (without)."""

    term: str
    estimate: float
    std_error: float | None = None
    conf_low: float | None = None
    conf_high: float | None = None
    p_value: float | None = None
    degrees: float | None = None


@dataclass(frozen=True, kw_only=True)
class MixedFit:
    """A REML fit, or (`terms` empty) the reason there is none; also what was dropped.

    `units` says what one observation is: a configuration's mean, or a row.
    """

    terms: tuple[Term, ...]
    singular: bool | None
    reason: str | None
    units: str = ROWS
    num_units: int = 0


def mixed_model(sample: Sample, *, center: bool = True, confidence: float = 0.95) -> MixedFit:
    """Fit y ~ within-family x + family-mean x with random intercept and slope by family, by REML.

    `center=False` fits the plain y ~ x with random intercept and slope (terms `intercept`,
    `slope`). Where the full fit is singular (a variance on the boundary at zero) or does not
    converge, a random intercept alone is fitted; `singular` and `reason` say so. Replicates are
    averaged to their configuration first. Intervals and tests are Student's with as many degrees
    of freedom as the level has left over that a term varies at: F less the terms between families
    for these (F families), F - 1 for a slope that varies between families, units - F - 1 for one
    that does not. x and y are standardised inside and the results given on their own scales.
    """
    sample, level = _configuration_means(sample)
    counted = MixedFit(
        terms=(), singular=None, reason=None, units=level, num_units=sample.num_trials
    )
    refused = _problem(sample, center)
    if refused or sample.family is None:
        return replace(counted, reason=refused)
    names, design, dropped = _design(sample, center)
    slope_column = 1
    scale_x = np.array([1.0, *(np.std(design[:, k]) for k in range(1, design.shape[1]))])
    scale_y = float(np.std(sample.y))
    centre_y = float(np.mean(sample.y)) if center else 0.0
    endog, exog = (sample.y - centre_y) / scale_y, design / scale_x
    notes = [dropped] if dropped else []
    result = fit_by_reml(endog, exog, exog[:, [0, slope_column]], sample.family)
    singular = result is None or _at_boundary(result)
    random_names = ["sd_intercept", f"sd_{names[1]}"]
    if result is None or singular:
        notes.append("the random slope's fit is singular: random intercept only")
        result = fit_by_reml(endog, exog, exog[:, [0]], sample.family)
        random_names = random_names[:1]
        if result is None:
            return replace(counted, singular=True, reason="; ".join([*notes, "no fit converged"]))
        if _at_boundary(result):
            notes.append("the intercept's variance is estimated as zero")
    back = scale_y / scale_x
    families = len(sample.family_names)
    between = families - sum(name in ("intercept", "between") for name in names)
    inside = sample.num_trials - families - 1 if singular else families - 1
    errors = np.sqrt(np.diag(result.covariance))
    terms = []
    for k, name in enumerate(names):
        estimate = float(result.effects[k] * back[k]) + (centre_y if k == 0 else 0.0)
        error = float(errors[k] * back[k])
        degrees = between if name in ("intercept", "between") else inside
        terms.append(_coefficient(name, estimate, error, degrees, confidence))
    deviations = np.sqrt(np.diag(result.random))
    for k, name in enumerate(random_names):
        terms.append(Term(term=name, estimate=float(deviations[k] * back[k])))
    terms.append(Term(term="sd_residual", estimate=float(np.sqrt(result.scale) * scale_y)))
    return replace(counted, terms=tuple(terms), singular=singular, reason="; ".join(notes) or None)


def _problem(sample: Sample, center: bool) -> str | None:
    """Why there is no mixed model of the sample, or None."""
    problem = sample.problem()
    if not problem and (sample.family is None or len(sample.family_names) < 3):
        problem = "a mixed model needs at least 3 families"
    if not problem and sample.num_trials < len(sample.family_names) + 3:
        problem = f"{sample.num_trials} rows are too few for {len(sample.family_names)} families"
    if not problem and sample.family is not None and center:
        problem = is_constant_within(sample.x, sample.family, sample.x_name)
    return problem


def _configuration_means(sample: Sample) -> tuple[Sample, str]:
    """The sample with its replicates averaged, and what one of its rows is then."""
    units = choose_units(sample.num_trials, None, sample.configuration)
    if sample.configuration is None or units.level == ROWS:
        return sample, ROWS
    keys = [units.codes] if sample.family is None else [sample.family, units.codes]
    codes = recode(np.stack(keys, axis=1))
    _, first = np.unique(codes, return_index=True)
    mask = np.zeros(sample.num_trials, dtype=bool)
    mask[first] = True
    kept = sample.keep(mask)
    order = codes[mask]
    x, y = (family_means(values, codes)[order] for values in (sample.x, sample.y))
    return replace(kept, x=x, y=y), CONFIGURATIONS


def _design(sample: Sample, center: bool) -> tuple[list[str], Floats, str | None]:
    assert sample.family is not None
    ones = np.ones(sample.num_trials)
    if not center:
        return ["intercept", "slope"], np.column_stack([ones, sample.x]), None
    means = family_means(sample.x, sample.family)
    within = sample.x - means[sample.family]
    if is_constant(means):
        dropped = f"all families have the same mean {sample.x_name}: no between-family term"
        return ["intercept", "within"], np.column_stack([ones, within]), dropped
    between = means[sample.family] - float(means.mean())
    return ["intercept", "within", "between"], np.column_stack([ones, within, between]), None


def _at_boundary(fit: RestrictedFit) -> bool:
    """Whether a random term, or a combination of two, has no variance to speak of."""
    return bool(np.linalg.eigvalsh(fit.random / fit.scale).min() < _BOUNDARY)


def _coefficient(name: str, estimate: float, error: float, degrees: int, confidence: float) -> Term:
    if degrees < 1:
        return Term(term=name, estimate=estimate, std_error=error)
    half = error * float(special.stdtrit(degrees, 0.5 + confidence / 2))
    return Term(
        term=name,
        estimate=estimate,
        std_error=error,
        conf_low=estimate - half,
        conf_high=estimate + half,
        p_value=float(2 * special.stdtr(degrees, -abs(estimate) / error)),
        degrees=float(degrees),
    )
