"""Whether the probabilities that a network gives are those with which it is right."""

from __future__ import annotations

import functools
import math

import numpy as np
from pydantic import PositiveInt

from flatscale.measurement import Measurement
from flatscale.metrics.passes.class_probabilities import Probabilities
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import metric

_calibration = functools.partial(
    metric, passes=("test_probabilities",), group="calibration", observers=("test",)
)


@_calibration(
    "negative_log_likelihood", formula="mean_i −log softmax(f(x_i))_{y_i}, test set", unit="nats"
)
def negative_log_likelihood(found: Probabilities) -> Measurement:
    """Mean surprise at the true class of the test points, whatever the study's loss."""
    return mean_over_points("negative_log_likelihood", found.surprise, num_evaluations=1)


@_calibration(
    "brier_score",
    formula="mean_i Σ_k (softmax(f(x_i))_k − 1[k = y_i])², test set",
    value_range="[0, 2]",
    source="Brier 1950, with its sum over all classes",
)
def brier_score(found: Probabilities) -> Measurement:
    """Mean squared distance of the class probabilities from the truth, on the test set."""
    return mean_over_points("brier_score", found.squares, num_evaluations=1)


@_calibration(
    "expected_calibration_error",
    formula="Σ_b |Σ_{i ∈ b} (1[right_i] − p_i)| / n, p_i the largest probability, b bins of p_i",
    value_range="[0, 1]",
    source="Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599); bias: Kumar et al. 2019",
)
def expected_calibration_error(found: Probabilities, *, num_bins: PositiveInt = 15) -> Measurement:
    """Mean gap between accuracy and confidence over bins of equal width of the confidence (L1).

    Biased upwards by about `expected_if_calibrated` (an extra) for a network that is calibrated, as
    the gap of a bin is a distance; and downwards where gaps of both signs share a bin. The standard
    error is that of the mean of s_b (1[right_i] − p_i), with s_b the sign of the bin's gap (delta
    method); it is too small where gaps are small against it.

    Args:
        found: the probabilities.
        num_bins: bins of (0, 1].
    """
    gaps = found.correct - found.confidence
    usable = np.isfinite(gaps)
    p = np.where(usable, found.confidence, 1.0)
    bins = np.clip(np.ceil(p * num_bins).astype(int) - 1, 0, num_bins - 1)
    sums = np.bincount(bins[usable], gaps[usable], num_bins)
    noise = np.bincount(bins[usable], (p * (1 - p))[usable], num_bins)
    expected = float(np.sqrt(2 / math.pi * noise).sum()) / max(int(usable.sum()), 1)
    return mean_over_points(
        "expected_calibration_error",
        np.sign(sums)[bins] * gaps,
        num_evaluations=1,
        extras={"expected_if_calibrated": (expected,)},
    )
