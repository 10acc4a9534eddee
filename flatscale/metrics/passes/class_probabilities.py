"""Probabilities of the classes: what a network that takes its softmax at its word says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from flatscale.errors import MetricError
from flatscale.metrics.passes.predictions import class_labels, targets_are_classes
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

_MICROBATCH = 512


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Of every point of the test set, from p = softmax of the network's outputs.

    Attributes:
        surprise: −log p of the true class (n,).
        squares: sum_k (p_k − 1[k = y])² (n,).
        confidence: the largest p (n,).
        correct: whether it is that of the true class (n,).
    """

    surprise: np.ndarray
    squares: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray


@measurement_pass("test_probabilities")
def test_probabilities(observers: Mapping[str, Observer], seed: int) -> Probabilities:
    """Probabilities on the test set.

    Raises:
        MetricError: the targets are no classes, or the network has one output.
    """
    rows = required(observers, "test").gather(probability_rows)
    if not rows.pop("of_classes").all():
        raise MetricError("the targets are numbers, not classes, so they have no probabilities")
    if rows.pop("num_outputs")[0] < 2:
        raise MetricError("the network has one output, so its softmax is 1 whatever it sees")
    return Probabilities(**rows)


def probability_rows(shard: Shard) -> Arrays:
    """The fields of `Probabilities`, NaN where the outputs are not finite, and num_outputs."""

    def compute(points: slice) -> Arrays:
        with torch.no_grad():
            logits = shard.logits(shard.x[points]).double()
        y = shard.y[points]
        labels = class_labels(y).long().clamp(0, logits.shape[1] - 1)
        surprise = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        p = torch.softmax(logits, dim=1)
        squares = (p - torch.nn.functional.one_hot(labels, logits.shape[1])).pow(2).sum(dim=1)
        hit = (logits.argmax(dim=1) == labels).double()
        rows = {
            "surprise": surprise,
            "squares": squares,
            "confidence": p.amax(dim=1),
            "correct": hit.where(logits.isfinite().all(dim=1), torch.nan),
        }
        counted = {
            "num_outputs": np.full(len(labels), logits.shape[1]),
            "of_classes": targets_are_classes(y).cpu().numpy(),
        }
        return {name: values.cpu().numpy() for name, values in rows.items()} | counted

    return shard.rows(compute, _MICROBATCH)
