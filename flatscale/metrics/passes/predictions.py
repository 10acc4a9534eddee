"""The predictions pass: loss and correctness of every point of the sets a network is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

_MICROBATCH = 512


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Loss (n,) and correctness (n,) of the points of one set; num_outputs of the network.

    `of_classes` says whether the targets are classes, or shares of classes, and not numbers.
    """

    loss: np.ndarray
    correct: np.ndarray
    num_outputs: int
    of_classes: bool = True
    num_evaluations: int = 1

    @classmethod
    def of(cls, rows: Arrays, num_evaluations: int = 1) -> Predictions:
        """From rows as `judged_rows` makes them."""
        return cls(
            loss=rows["loss"],
            correct=rows["correct"],
            num_outputs=int(rows["num_outputs"][0]),
            of_classes=bool(rows["of_classes"].all()),
            num_evaluations=num_evaluations,
        )

    @property
    def class_hits(self) -> np.ndarray:
        """Correctness (n,).

        Raises:
            MetricError: the targets are no classes, or one output tells no classes apart.
        """
        if self.num_outputs < 2:
            raise MetricError("the network has one output, so there is no class to be right about")
        if not self.of_classes:
            raise MetricError("the targets are numbers, not classes, so there is no accuracy")
        return self.correct


@measurement_pass("train_predictions")
def train_predictions(observers: Mapping[str, Observer], seed: int) -> Predictions:
    """Predictions on the training set."""
    return _predictions(observers, "train")


@measurement_pass("test_predictions")
def test_predictions(observers: Mapping[str, Observer], seed: int) -> Predictions:
    """Predictions on the test set."""
    return _predictions(observers, "test")


@measurement_pass("shifted_predictions")
def shifted_predictions(observers: Mapping[str, Observer], seed: int) -> Predictions:
    """Predictions on the shifted test set."""
    return _predictions(observers, "shifted")


def prediction_rows(shard: Shard) -> Arrays:
    """Loss, correctness (NaN where the outputs are not finite) and number of outputs, per point."""

    def compute(points: slice) -> Arrays:
        y = shard.y[points]
        with torch.no_grad():
            logits = shard.logits(shard.x[points])
            return judged_rows(logits, shard.losses(logits, y), y)

    return shard.rows(compute, _MICROBATCH)


def judged_rows(logits: Tensor, losses: Tensor, y: Tensor) -> Arrays:
    """Loss, correctness (NaN where the outputs are not finite) and number of outputs, per point."""
    hit = (logits.argmax(dim=1) == class_labels(y)).double()
    hit = torch.where(logits.isfinite().all(dim=1), hit, torch.full_like(hit, torch.nan))
    return {
        "loss": losses.detach().double().cpu().numpy(),
        "correct": hit.cpu().numpy(),
        "num_outputs": np.full(len(y), logits.shape[1]),
        "of_classes": targets_are_classes(y).cpu().numpy(),
    }


def targets_are_classes(y: Tensor) -> Tensor:
    """Whether each target is a class, or shares of classes (not negative, of sum 1), (B,)."""
    if y.ndim == 1:
        return torch.full((len(y),), not y.is_floating_point(), device=y.device)
    return (y >= 0).all(dim=1) & ((y.double().sum(dim=1) - 1).abs() < 1e-3)


def class_labels(y: Tensor) -> Tensor:
    """Classes (B,) of targets that are classes, or vectors (B, N) with the largest at the class."""
    return y if y.ndim == 1 else y.argmax(dim=1)


def _predictions(observers: Mapping[str, Observer], name: str) -> Predictions:
    return Predictions.of(required(observers, name).gather(prediction_rows))
