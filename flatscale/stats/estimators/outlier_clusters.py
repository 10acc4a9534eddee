"""Outlier clusters: subsets of a family that lie off the robust line, beyond ordinary family
differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc, ndtr

from flatscale.stats.estimators.standard_residuals import StandardResiduals, standard_residuals
from flatscale.stats.estimators.variance_components import Components, components, draw_tau
from flatscale.stats.sample import Floats, Ints, Sample

SIDES = ("above", "below")
OUTLIER_Z = 3.5
_SIGNS = (1.0, -1.0)
_EFFECT_CAP = 2.5
_MAX_RESAMPLES = 20_000
_BLOCK = 4_000_000
_STAGE = 2000
_CLEAR = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Result of `scan_families`. Arrays of shape (F, 2), one column a side of `SIDES`; NaN p
    where not scanned.

    `members[f][side]` are row positions in the sample. `reason` says why nothing was scanned.
    """

    residuals: StandardResiduals | None
    parts: Components | None
    log_score: Floats
    p_value: Floats
    members: list[list[Ints]]
    reason: str | None


def scan_families(
    sample: Sample, *, num_resamples: int = 1999, seed: int = 0, alpha: float = 0.05
) -> Scan:
    """Scan every family of at least two rows, on both sides of the robust line.

    Each residual is taken relative to its family's predicted effect: the family median shrunk by
    tau^2/(tau^2 + s_f^2) and capped at 2.5 tau, so that ordinary differences between families are
    set aside while a family far outside them is not. With p_(k) the k-th smallest normal tail
    probability in a family, its score is S = min over k >= 2 of P(Bin(n, p_(k)) >= k); the
    minimising k names the members.

    A null family draws within-family-centred residuals from the rows of the other families (a
    cluster must not serve as its own null) and adds a normal family effect with standard
    deviation tau*, drawn with its own uncertainty; p = (1 + #{null >= observed})/(B + 1). B is
    raised until one family alone can reach q <= alpha, up to 20,000; a family of which more than
    40 of 2,000 null scores reach the observed one on both sides stops there.
    """
    count = len(sample.family_names) if sample.family is not None else 0
    residuals, parts, reason = _prepare(sample)
    scores = np.full((count, 2), np.nan)
    if reason or residuals is None or parts is None or sample.family is None:
        none = [[np.zeros(0, dtype=np.int64)] * 2 for _ in range(count)]
        return Scan(
            residuals=residuals,
            parts=parts,
            log_score=scores,
            p_value=scores,
            members=none,
            reason=reason,
        )
    members = []
    for code in range(count):
        where = np.flatnonzero(sample.family == code)
        relative = _relative(residuals.z[where][None, :], parts, code)[0]
        found = [best_subset(sign * relative) for sign in _SIGNS]
        scores[code] = [score for score, _ in found]
        members.append([where[chosen] for _, chosen in found])
    enough = math.ceil(2 * np.isfinite(scores).sum() / alpha)
    draws = min(max(num_resamples, enough), max(num_resamples, _MAX_RESAMPLES))
    p_value = _null_p_values(residuals.z, sample.family, parts, scores, draws, seed)
    return Scan(
        residuals=residuals,
        parts=parts,
        log_score=scores,
        p_value=p_value,
        members=members,
        reason=None,
    )


def best_subset(z: Floats) -> tuple[float, Ints]:
    """-log10 S of one family and side, and which of its rows minimise it; NaN below two rows."""
    n = len(z)
    if n < 2:
        return math.nan, np.zeros(0, dtype=np.int64)
    order = np.argsort(-z, kind="stable")
    log_tail = _log_binomial_tails(z[order][None, :])[0]
    k = int(np.argmax(log_tail)) + 2
    return float(log_tail[k - 2]), np.sort(order[:k])


def _log_binomial_tails(descending: Floats) -> Floats:
    """-log10 P(Bin(n, p_(k)) >= k) for k = 2..n; input (B, n) sorted from far out to far in."""
    n = descending.shape[1]
    k = np.arange(2, n + 1)
    tails = bdtrc(k - 1, n, ndtr(-descending[:, 1:]))
    return -np.log10(np.maximum(tails, 1e-300))


def _relative(z: Floats, parts: Components, code: int) -> Floats:
    """Residuals (B, n_f) of one family relative to its predicted effect, in units of their own
    spread.
    """
    share = parts.tau**2 / (parts.tau**2 + parts.sampling[code])
    effect = share * np.median(z, axis=1, keepdims=True)
    spread = math.sqrt(parts.sigma**2 + parts.tau**2 * (1 - share))
    return (z - np.clip(effect, -_EFFECT_CAP * parts.tau, _EFFECT_CAP * parts.tau)) / spread


def _null_p_values(
    z: Floats, family: Ints, parts: Components, scores: Floats, num_resamples: int, seed: int
) -> Floats:
    rng = np.random.default_rng(seed)
    sizes = np.bincount(family)
    centred, owner = _centred_residuals(z, family, parts)
    effects = rng.standard_normal(num_resamples) * draw_tau(parts, num_resamples, rng)
    p_value = np.full(scores.shape, np.nan)
    for code in map(int, np.flatnonzero(np.isfinite(scores[:, 0]))):
        pool = centred[owner != code]
        reached, block, start = np.ones(2), max(1, min(_STAGE, _BLOCK // int(sizes[code]))), 0
        while start < num_resamples and (start < _STAGE or reached.min() <= _CLEAR):
            effect = effects[start : start + block, None]
            drawn = pool[rng.integers(0, len(pool), size=(len(effect), sizes[code]))]
            ordered = np.sort(_relative(drawn + effect, parts, code), axis=1)
            for side, values in enumerate((ordered[:, ::-1], -ordered)):
                best = _log_binomial_tails(values).max(axis=1)
                reached[side] += np.sum(best >= scores[code, side] - 1e-9)
            start += len(effect)
        p_value[code] = reached / (start + 1)
    return p_value


def _centred_residuals(z: Floats, family: Ints, parts: Components) -> tuple[Floats, Ints]:
    """Residuals less their family's median, widened to undo the centring, with their families.

    Families of one row are left out: centred, they are zero.
    """
    sizes = np.bincount(family)[family]
    keep = sizes > 1
    centred = (z - parts.centers[family])[keep] / np.sqrt(1 - 1 / sizes[keep])
    return centred, family[keep]


def _prepare(sample: Sample) -> tuple[StandardResiduals | None, Components | None, str | None]:
    """Residuals and their components, or the reason there is no scan."""
    reason = sample.problem()
    if reason:
        return None, None, reason
    residuals = standard_residuals(sample.x, sample.y)
    if residuals is None:
        return None, None, "more than half of the rows lie on the line: residuals have no scale"
    reason = _refusal(sample)
    if reason or sample.family is None:
        return residuals, None, reason
    parts = components(residuals.z, sample.family, len(sample.family_names))
    if parts is None or parts.sigma == 0:
        return residuals, None, "residuals do not vary within families"
    return residuals, parts, None


def _refusal(sample: Sample) -> str | None:
    if sample.family is None:
        return "the table has no family column"
    if sample.num_trials < 20:
        return f"{sample.num_trials} rows, at least 20 needed to tell clusters from the line"
    sizes = np.bincount(sample.family)
    if len(sizes) < 3:
        return f"{len(sizes)} families, at least 3 needed"
    if np.sum(sizes > 1) < 2:
        return "fewer than 2 families have two rows"
    return None
