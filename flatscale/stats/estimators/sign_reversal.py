"""Simpson's paradox: whether pooling families reverses the sign that holds inside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatscale.stats.estimators.families import family_jackknife, within_family, within_parts
from flatscale.stats.estimators.replication import jackknife, leave_one_out
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Sample

ESTABLISHED, NOT_ESTABLISHED, SAME_SIGN = "established", "not established", "same sign"


@dataclass(frozen=True, kw_only=True)
class SignReversal:
    """The pooled and the within-family correlation, their difference, and what follows.

    difference: atanh of r within families less atanh of the pooled r, on that scale.
    verdict: `established` where both correlations' intervals and that of their difference exclude
        zero and the signs are opposite; `not established` where the signs are opposite but for
        that; else `same sign`. None where one of the correlations does not exist.
    """

    within: Estimate
    pooled: Estimate
    difference: Estimate
    verdict: str | None


def sign_reversal(sample: Sample, *, confidence: float = 0.95) -> SignReversal:
    """Compare the sign of the pooled Pearson r with that of r within families.

    The difference's interval is the jackknife's over the units of `within_family`.
    """
    within = within_family(sample, confidence=confidence)
    pooled = family_jackknife(sample, confidence=confidence)
    difference = _difference(sample, within, pooled, confidence)
    verdict = None
    if within.estimate is not None and pooled.estimate is not None:
        opposite = within.estimate * pooled.estimate < 0
        sure = all(_excludes_zero(found) for found in (within, pooled, difference))
        verdict = (ESTABLISHED if sure else NOT_ESTABLISHED) if opposite else SAME_SIGN
    return SignReversal(within=within, pooled=pooled, difference=difference, verdict=verdict)


def _difference(sample: Sample, within: Estimate, pooled: Estimate, confidence: float) -> Estimate:
    for found in (within, pooled):
        if found.estimate is None or found.conf_low is None:
            return null_estimate(found.reason or "no interval", num_trials=sample.num_trials)
    assert within.estimate is not None
    assert pooled.estimate is not None
    parts = within_parts(sample)
    left_out = leave_one_out(parts.units, "pearson", sample.x, sample.y)
    if np.any(np.abs(left_out) >= 1) or np.any(np.abs(parts.left_out) >= 1):
        return null_estimate("a perfect correlation has no jackknife interval")
    return jackknife(
        float(np.arctanh(within.estimate) - np.arctanh(pooled.estimate)),
        np.arctanh(parts.left_out) - np.arctanh(left_out),
        units=parts.units,
        degrees=parts.degrees,
        num_trials=sample.num_trials,
        num_families=sample.num_families,
        confidence=confidence,
        fisher=False,
    )


def _excludes_zero(found: Estimate) -> bool:
    return found.conf_low is not None and (found.conf_low > 0 or (found.conf_high or 0) < 0)
