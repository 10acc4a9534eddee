"""Outlier clusters: families, and subsets of them, that lie off the relation beyond ordinary
family differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flatscale.stats.estimators.family_effects import (
    family_moments,
    level_deviations,
    level_slopes,
    slope_deviations,
)
from flatscale.stats.estimators.family_scale import family_scales
from flatscale.stats.estimators.linearity import Linearity, check_linearity
from flatscale.stats.estimators.near_copies import clumped_families, near_copies
from flatscale.stats.estimators.standard_residuals import StandardResiduals, standard_residuals
from flatscale.stats.estimators.subset_scan import Subsets, scan_subsets
from flatscale.stats.estimators.working_scale import working_scale
from flatscale.stats.sample import Floats, Ints, Sample, families_said

SIDES = ("above", "below", "across")
TESTS = ("subset", "family in y", "family in x", "slope")
_MAX_RESAMPLES = 20_000
_SUBSET_SHARE = 0.6
_LEVEL_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Result of `scan_families`. Arrays of shape (F, 3), one column a side of `SIDES`; NaN p
    where not scanned.

    `members[f][side]` are row positions in the sample, `test[f][side]` the test of `TESTS` with
    the smaller p, `log_score` (F, 2) -log10 S of the subset test. `family_scale` (F,) is each
    family's standard deviation over the common one, `num_copies` (F,) how many of its rows were
    counted as near copies of another, `clumped` (F,) whether those left still clump. `log_scale`
    says whether x and y were scanned in log10, `linearity` what the check of linearity found.
    `reason` says why nothing was scanned.
    """

    residuals: StandardResiduals | None
    linearity: Linearity | None
    log_scale: tuple[bool, bool]
    log_score: Floats
    p_value: Floats
    members: list[list[Ints]]
    test: list[list[str | None]]
    family_scale: Floats
    num_copies: Ints
    clumped: np.ndarray
    reason: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """What is scanned: x and y on the working scale, straightened, with the residuals."""

    x: Floats
    y: Floats
    log_scale: tuple[bool, bool] = (False, False)
    linearity: Linearity | None = None
    residuals: StandardResiduals | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Joined:
    """The rows with near copies joined to one; `group` gives each row of the sample its row."""

    x: Floats
    y: Floats
    z: Floats
    spread: Floats
    family: Ints
    group: Ints


def scan_families(
    sample: Sample, *, num_resamples: int = 1999, seed: int = 0, alpha: float = 0.05
) -> Scan:
    """Scan every family of at least two rows, on both sides of the relation and for its slope.

    Before anything is tested, a check of linearity decides whether residuals are taken from the
    robust line or from a monotone curve, and near copies inside a family are joined to one row.
    Above and below the relation three tests share the level, 0.6, 0.2 and 0.2 of it:

    - subset: some rows of the family off its others (`scan_subsets`).
    - family in y, family in x: the family's mean against the random-effects line through the
      other families' means, of y on x and of x on y (`level_deviations`). The second counts only
      where the first is below 0.1, so that a family far along the line is not off it.
    - slope (side `across`): its slope within the family against the other families' slopes.

    B, the draws of the subset test's null, is raised until one family alone can reach q <= alpha,
    up to 20,000.
    """
    made = _prepare(sample)
    if made.reason or made.residuals is None or sample.family is None:
        return _nothing(sample, made)
    rows = _join_copies(made, made.residuals, sample.family)
    z, extra = level_slopes(rows.x, rows.z, rows.family)
    scales = family_scales(z, rows.family)
    if scales is None:
        return _nothing(sample, made, "residuals do not vary within families")
    count = len(sample.family_names)
    enough = math.ceil(len(SIDES) * count / _SUBSET_SHARE / alpha)
    draws = min(max(num_resamples, enough), max(num_resamples, _MAX_RESAMPLES))
    subsets = scan_subsets(
        z, rows.spread, extra, rows.family, scales, num_resamples=draws, seed=seed
    )
    p_value, test = _combine(rows, subsets)
    joined = np.bincount(rows.family, minlength=count)
    return Scan(
        residuals=made.residuals,
        linearity=made.linearity,
        log_scale=made.log_scale,
        log_score=subsets.log_score,
        p_value=p_value,
        members=_members(sample.family, rows.group, subsets, test),
        test=test,
        family_scale=scales.scale / scales.common,
        num_copies=np.bincount(sample.family, minlength=count) - joined,
        clumped=clumped_families(rows.x, z, rows.family),
        reason=None,
    )


def _prepare(sample: Sample) -> _Prepared:
    """The working scale, the check of linearity and the residuals, or why there is no scan."""
    x, y = sample.x, sample.y
    reason = sample.problem()
    if reason:
        return _Prepared(x=x, y=y, reason=reason)
    log_scale, linearity, reason = (False, False), None, _refusal(sample)
    if sample.family is not None and not reason:
        x, y, log_scale = working_scale(x, y, sample.family)
        linearity = check_linearity(x, y, sample.family)
        if linearity is not None and linearity.curved:
            # along the fitted curve the relation is a line again, and all that follows applies
            x = linearity.fitted(x)
    residuals = standard_residuals(x, y)
    if residuals is None:
        reason = "more than half of the rows lie on the line: residuals have no scale"
    return _Prepared(
        x=x, y=y, log_scale=log_scale, linearity=linearity, residuals=residuals, reason=reason
    )


def _members(
    family: Ints, group: Ints, subsets: Subsets, test: list[list[str | None]]
) -> list[list[Ints]]:
    """Rows of the sample that make each cluster: those of the subset, or the whole family."""
    members = []
    for code, names in enumerate(test):
        whole = np.flatnonzero(family == code)
        chosen = []
        for side, name in enumerate(names):
            if name == TESTS[0]:
                chosen.append(np.flatnonzero(np.isin(group, subsets.members[code][side])))
            else:
                chosen.append(whole if name else whole[:0])
        members.append(chosen)
    return members


def _combine(rows: _Joined, subsets: Subsets) -> tuple[Floats, list[list[str | None]]]:
    """p-value of each family and side over its tests, and which test gave it."""
    subset = subsets.p_value
    moments = family_moments(rows.x, rows.y, rows.family)
    in_y = level_deviations(
        moments.mean_x, moments.mean_y, moments.var_y / moments.sizes, moments.sizes
    )
    in_x = level_deviations(
        moments.mean_y, moments.mean_x, moments.var_x / moments.sizes, moments.sizes
    )
    # where y rises with x, a family too far right lies below the line
    rising = np.cov(moments.mean_x, moments.mean_y)[0, 1] >= 0
    y_sides = (in_y.above(), in_y.below())
    x_sides = (in_x.below(), in_x.above()) if rising else (in_x.above(), in_x.below())
    slope = slope_deviations(moments)
    count = len(moments.sizes)
    p_value = np.full((count, 3), np.nan)
    test: list[list[str | None]] = [[None] * 3 for _ in range(count)]
    for code in np.flatnonzero(np.isfinite(subset[:, 0])):
        for side in range(2):
            in_x_too = x_sides[side][code] if y_sides[side][code] <= 0.1 else 1.0
            parts = [
                subset[code, side] / _SUBSET_SHARE,
                y_sides[side][code] / _LEVEL_SHARE,
                in_x_too / _LEVEL_SHARE,
            ]
            chosen = int(np.nanargmin(parts))
            # a permutation p cannot be smaller than its floor: there the named members decide
            if subset[code, side] <= 1.5 * subsets.floor:
                chosen = 0
            p_value[code, side] = min(1.0, np.nanmin(parts))
            test[code][side] = TESTS[chosen]
        if np.isfinite(slope.t[code]):
            p_value[code, 2] = 2 * min(slope.above()[code], slope.below()[code])
            test[code][2] = TESTS[3]
    return p_value, test


def _join_copies(made: _Prepared, residuals: StandardResiduals, family: Ints) -> _Joined:
    x, y = made.x, made.y
    group = near_copies(x, y, residuals.residual, family)
    size = np.bincount(group)
    columns = (x, y, residuals.z, residuals.spread)
    mean_x, mean_y, mean_z, spread = (np.bincount(group, values) / size for values in columns)
    codes = np.zeros(len(size), dtype=np.int64)
    codes[group] = family
    return _Joined(x=mean_x, y=mean_y, z=mean_z, spread=spread, family=codes, group=group)


def _nothing(sample: Sample, made: _Prepared, reason: str | None = None) -> Scan:
    count = len(sample.family_names) if sample.family is not None else 0
    return Scan(
        residuals=made.residuals,
        linearity=made.linearity,
        log_scale=made.log_scale,
        log_score=np.full((count, 2), np.nan),
        p_value=np.full((count, 3), np.nan),
        members=[[np.zeros(0, dtype=np.int64)] * 3 for _ in range(count)],
        test=[[None] * 3 for _ in range(count)],
        family_scale=np.full(count, np.nan),
        num_copies=np.zeros(count, dtype=np.int64),
        clumped=np.zeros(count, dtype=bool),
        reason=reason or made.reason,
    )


def _refusal(sample: Sample) -> str | None:
    if sample.family is None:
        return "the table has no family column"
    if sample.num_trials < 20:
        return f"{sample.num_trials} rows, at least 20 needed to tell clusters from the line"
    sizes = np.bincount(sample.family)
    if len(sizes) < 3:
        return f"{families_said(len(sizes))}, at least 3 needed"
    if np.sum(sizes > 1) < 2:
        return "fewer than 2 families have two rows"
    return None
