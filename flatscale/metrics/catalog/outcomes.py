"""What sharpness is correlated with: loss, accuracy, and their gaps from training to test set."""

from __future__ import annotations

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.predictions import Predictions
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import metric


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
