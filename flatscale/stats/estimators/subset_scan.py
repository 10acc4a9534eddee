"""The subset test of the family scan: some rows of a family off its others, beyond chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flatscale.stats.estimators.binomial_tails import log_binomial_tails, tail_thresholds
from flatscale.stats.estimators.family_scale import FamilyScales, core, expected_core
from flatscale.stats.estimators.variance_components import between_families
from flatscale.stats.sample import Floats, Ints

OUTLIER_Z = 3.5
_SIGNS = (1.0, -1.0)
_EFFECT_CAP = 2.5
_STAGE = 2000
_CLEAR = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Subsets:
    """Result of `scan_subsets`, arrays of shape (F, 2), above and below; NaN below two rows.

    `log_score` is -log10 S, `members[f][side]` the rows that make the cluster, `floor` the
    smallest p that the draws can give.
    """

    log_score: Floats
    p_value: Floats
    members: list[list[Ints]]
    floor: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """Ordinary families as one of them sees the others: the spread of their effects and of their
    log scales, and the center of the latter.
    """

    common: float
    tau: float
    omega: float
    log_center: float


def scan_subsets(
    z: Floats,
    spread: Floats,
    extra: Floats,
    family: Ints,
    scales: FamilyScales,
    *,
    num_resamples: int,
    seed: int,
) -> Subsets:
    """The subset test of every family and side on the standardised residuals z (n,) with their
    local `spread` (n,); `extra` (F,) is variance of a family's level beyond the common one.

    A family's residuals are taken relative to its predicted effect, its center shrunken by
    tau^2/(tau^2 + s_f^2) and capped at 2.5 tau, and to its own scale (`family_scales`), so that
    ordinary differences between families are set aside while a family far outside them is not.
    The score is S = min over k >= 2 of P(Bin(n, p_(k)) >= k), see `best_subset`.

    A null family draws within-family-centred residuals from the rows of the other families (a
    cluster must not serve as its own null), scaled and moved by normal log scales and effects with
    the spreads that the other families show; p = (1 + #{null >= observed})/(B + 1). A family of
    which more than 40 of 2,000 null scores reach the observed one on both sides stops there.
    """
    count = int(family.max()) + 1
    score = np.full((count, 2), np.nan)
    models = _models(z, spread, extra, family, scales)
    members: list[list[Ints]] = []
    for code in range(count):
        where = np.flatnonzero(family == code)
        if len(where) < 2:
            members.append([where[:0]] * 2)
            continue
        where = where[np.argsort(z[where], kind="stable")]
        relative = _relative(z[where][None, :], models[code])[0]
        best = [best_subset(sign * relative) for sign in _SIGNS]
        score[code] = [value for value, _ in best]
        members.append([np.sort(where[chosen]) for _, chosen in best])
    p_value = _null_p_values(z, family, models, scales, score, num_resamples, seed)
    return Subsets(log_score=score, p_value=p_value, members=members, floor=1 / (num_resamples + 1))


def best_subset(z: Floats) -> tuple[float, Ints]:
    """-log10 S of one family and side, and which of its rows make the cluster; NaN below two rows.

    Ties go to the larger k. To the k rows of the minimum come those beyond half their median, at
    most 3.5: S may name the core of a cluster.
    """
    n = len(z)
    if n < 2:
        return math.nan, np.zeros(0, dtype=np.int64)
    order = np.argsort(-z, kind="stable")
    log_tail = log_binomial_tails(z[order])
    k = n - int(np.argmax(log_tail[::-1]))
    reach = min(float(np.median(z[order[:k]])) / 2, OUTLIER_Z)
    if reach > 1:
        k = max(k, int(np.sum(z >= reach)))
    return float(log_tail.max()), np.sort(order[:k])


def _relative(ascending: Floats, model: _Model) -> Floats:
    """Sorted residuals (B, n_f) of one family relative to its predicted effect, in units of its
    own scale.
    """
    n = ascending.shape[1]
    mean, variance, location = expected_core(n)
    middle, logs = core(ascending, model.common)
    own = model.omega**2 / (model.omega**2 + variance) if n >= 3 else 0.0
    scale = model.common * np.exp(own * (logs - mean - model.log_center))
    share = model.tau**2 / (model.tau**2 + location * scale**2)
    effect = np.clip(share * middle, -_EFFECT_CAP * model.tau, _EFFECT_CAP * model.tau)
    return (ascending - effect[:, None]) / np.sqrt(scale**2 + model.tau**2 * (1 - share))[:, None]


def _models(
    z: Floats, spread: Floats, extra: Floats, family: Ints, scales: FamilyScales
) -> list[_Model]:
    """For each family what the others say of families: an outlying one must not widen its own
    null.
    """
    sizes = np.bincount(family)
    centers = np.array([np.median(z[family == code]) for code in range(len(sizes))])
    # variance of a normal median over that of the mean: pi/2 in large families, 1 up to two rows
    inefficiency = np.where(sizes <= 2, 1.0, 1 + (np.pi / 2 - 1) * (1 - 1.5 / sizes))
    sampling, weights = inefficiency * scales.scale**2 / sizes, sizes / (sizes + 4.0)
    # effects may grow with the spread or not: the wider of the two null distributions is used
    unit = np.bincount(family, spread) / sizes
    models = []
    for code in range(len(sizes)):
        others = np.arange(len(sizes)) != code
        tau = between_families(centers[others], sampling[others], weights[others]).spread
        if np.ptp(unit) > 0:
            raw = between_families(
                (centers * unit)[others], (sampling * unit**2)[others], weights[others]
            )
            tau = max(tau, raw.spread / unit[code])
        tau = math.sqrt(tau**2 + extra[code])
        omega = center = 0.0
        scaled = others & np.isfinite(scales.sampling)
        if scaled.sum() >= 2:
            found = between_families(
                scales.log_ratio[scaled], scales.sampling[scaled], weights[scaled]
            )
            omega, center = found.spread, found.center
        models.append(_Model(common=scales.common, tau=tau, omega=omega, log_center=center))
    return models


def _null_p_values(
    z: Floats,
    family: Ints,
    models: list[_Model],
    scales: FamilyScales,
    scores: Floats,
    num_resamples: int,
    seed: int,
) -> Floats:
    rng = np.random.default_rng(seed)
    sizes = np.bincount(family)
    pool_all, owner = _centred_residuals(z, family, scales)
    moved = rng.standard_normal((2, num_resamples, 1))
    p_value = np.full(scores.shape, np.nan)
    for code in map(int, np.flatnonzero(np.isfinite(scores[:, 0]))):
        pool, n, model = pool_all[owner != code], int(sizes[code]), models[code]
        limits = [tail_thresholds(n, scores[code, side] - 1e-9) for side in range(2)]
        reached, start = np.ones(2), 0
        while start < num_resamples and (start < _STAGE or reached.min() <= _CLEAR):
            now = slice(start, min(start + _STAGE, num_resamples))
            drawn = pool[rng.integers(0, len(pool), size=(now.stop - start, n))]
            drawn *= model.common * np.exp(model.omega * moved[0, now])
            null = _relative(np.sort(drawn + model.tau * moved[1, now], axis=1), model)
            reached[0] += np.sum(np.any(null[:, -2::-1] >= limits[0], axis=1))
            reached[1] += np.sum(np.any(-null[:, 1:] >= limits[1], axis=1))
            start = now.stop
        p_value[code] = reached / (start + 1)
    return p_value


def _centred_residuals(z: Floats, family: Ints, scales: FamilyScales) -> tuple[Floats, Ints]:
    """Residuals less their family's median, over its scale, widened to undo the centring, with
    their families. Families of one row are left out: centred, they are zero.
    """
    sizes = np.bincount(family)
    centers = np.array([np.median(z[family == code]) for code in range(len(sizes))])
    keep = sizes[family] > 1
    centred = (z - centers[family]) / scales.scale[family]
    return (centred / np.sqrt(1 - 1 / np.maximum(sizes, 2))[family])[keep], family[keep]
