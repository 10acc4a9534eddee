"""The predictions pass: loss and correctness of every point of the sets a network is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.probe.given_sets import required
from flatscale.metrics.probe.observers import Arrays, Observer, Shard
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import measurement_pass, metric

_MICROBATCH = 512


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Loss (n,) and correctness (n,) of the points of one set; num_outputs of the network."""

    loss: np.ndarray
    correct: np.ndarray
    num_outputs: int


@measurement_pass("train_predictions")
def train_predictions(observers: Mapping[str, Observer], seed: int) -> Predictions:
    """Predictions on the training set."""
    return _predictions(observers, "train")


@measurement_pass("test_predictions")
def test_predictions(observers: Mapping[str, Observer], seed: int) -> Predictions:
    """Predictions on the test set."""
    return _predictions(observers, "test")


def prediction_rows(shard: Shard) -> Arrays:
    """Loss, correctness (NaN where the outputs are not finite) and number of outputs, per point."""

    def compute(points: slice) -> tuple[np.ndarray, np.ndarray, int]:
        y = shard.y[points]
        with torch.no_grad():
            logits = shard.logits(shard.x[points])
            losses = shard.losses(logits, y)
        labels = y if y.ndim == 1 else y.argmax(dim=1)
        hit = (logits.argmax(dim=1) == labels).double()
        hit = torch.where(logits.isfinite().all(dim=1), hit, torch.full_like(hit, torch.nan))
        return losses.double().cpu().numpy(), hit.cpu().numpy(), logits.shape[1]

    parts = list(shard.microbatches(compute, _MICROBATCH))
    return {
        "loss": np.concatenate([part[0] for part in parts]),
        "correct": np.concatenate([part[1] for part in parts]),
        "num_outputs": np.full(shard.num_points, parts[0][2]),
    }


@metric(
    "train_loss",
    passes=("train_predictions",),
    formula="mean_i loss_i, training set",
    group="outcome",
    observers=("train",),
)
def train_loss(predictions: Predictions) -> Measurement:
    """Mean loss on the training set."""
    return mean_over_points("train_loss", predictions.loss, num_evaluations=1)


@metric(
    "test_loss",
    passes=("test_predictions",),
    formula="mean_i loss_i, test set",
    group="outcome",
    observers=("test",),
)
def test_loss(predictions: Predictions) -> Measurement:
    """Mean loss on the test set."""
    return mean_over_points("test_loss", predictions.loss, num_evaluations=1)


@metric(
    "train_accuracy",
    passes=("train_predictions",),
    formula="mean_i 1[argmax f(x_i) = y_i], training set",
    group="outcome",
    value_range="[0, 1]",
    observers=("train",),
)
def train_accuracy(predictions: Predictions) -> Measurement:
    """Share of the training set classified correctly."""
    return mean_over_points("train_accuracy", _correct(predictions), num_evaluations=1)


@metric(
    "test_accuracy",
    passes=("test_predictions",),
    formula="mean_i 1[argmax f(x_i) = y_i], test set",
    group="outcome",
    value_range="[0, 1]",
    observers=("test",),
)
def test_accuracy(predictions: Predictions) -> Measurement:
    """Share of the test set classified correctly."""
    return mean_over_points("test_accuracy", _correct(predictions), num_evaluations=1)


@metric(
    "generalization_gap",
    passes=("train_predictions", "test_predictions"),
    formula="test error − train error",
    group="outcome",
    value_range="[-1, 1]",
    observers=("train", "test"),
)
def generalization_gap(train: Predictions, test: Predictions) -> Measurement:
    """How much more often the network errs on the test set than on the training set."""
    return _difference("generalization_gap", 1.0 - _correct(train), 1.0 - _correct(test))


@metric(
    "loss_gap",
    passes=("train_predictions", "test_predictions"),
    formula="test loss − train loss",
    group="outcome",
    value_range="(-inf, inf)",
    observers=("train", "test"),
)
def loss_gap(train: Predictions, test: Predictions) -> Measurement:
    """How much larger the mean loss is on the test set than on the training set."""
    return _difference("loss_gap", train.loss, test.loss)


def _predictions(observers: Mapping[str, Observer], name: str) -> Predictions:
    rows = required(observers, name).gather(prediction_rows)
    return Predictions(
        loss=rows["loss"], correct=rows["correct"], num_outputs=int(rows["num_outputs"][0])
    )


def _correct(predictions: Predictions) -> np.ndarray:
    if predictions.num_outputs < 2:
        raise MetricError("the network has one output, so there is no class to be right about")
    return predictions.correct


def _difference(name: str, train: np.ndarray, test: np.ndarray) -> Measurement:
    first = mean_over_points(name, train, num_evaluations=1)
    second = mean_over_points(name, test, num_evaluations=1)
    if first.value is None or second.value is None:
        raise MetricError("a side of the gap has no value")
    reasons = [
        f"{side}: {m.reason}" for side, m in (("train", first), ("test", second)) if m.reason
    ]
    return Measurement(
        name=name,
        value=second.value - first.value,
        std_error=_combined(first.std_error, second.std_error),
        num_evaluations=1,
        num_points=first.num_points + second.num_points,
        reason="; ".join(reasons) or None,
    )


def _combined(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else float(np.hypot(first, second))
