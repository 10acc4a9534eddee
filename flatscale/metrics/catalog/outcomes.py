"""What sharpness is correlated with: loss, accuracy, and their gaps from training to test set."""

from __future__ import annotations

import functools
import math

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.predictions import Predictions
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import metric

_TRAIN, _TEST = "train_predictions", "test_predictions"
_train = functools.partial(metric, passes=(_TRAIN,), group="outcome", observers=("train",))
_test = functools.partial(metric, passes=(_TEST,), group="outcome", observers=("test",))
_shifted = functools.partial(
    metric,
    passes=("shifted_predictions",),
    group="outcome",
    observers=("shifted",),
    source="Recht et al. 2019 (arXiv 1902.10811)",
)
_gap = functools.partial(
    metric, passes=(_TRAIN, _TEST), group="outcome", observers=("train", "test")
)


@_train("train_loss", formula="mean_i loss_i, training set")
def train_loss(predictions: Predictions) -> Measurement:
    """Mean loss on the training set."""
    return mean_over_points("train_loss", predictions.loss, num_evaluations=1)


@_test("test_loss", formula="mean_i loss_i, test set")
def test_loss(predictions: Predictions) -> Measurement:
    """Mean loss on the test set."""
    return mean_over_points("test_loss", predictions.loss, num_evaluations=1)


@_train(
    "train_accuracy",
    formula="mean_i 1[argmax f(x_i) = y_i], training set",
    value_range="[0, 1]",
)
def train_accuracy(predictions: Predictions) -> Measurement:
    """Share of the training set classified correctly."""
    return mean_over_points("train_accuracy", predictions.class_hits, num_evaluations=1)


@_test(
    "test_accuracy",
    formula="mean_i 1[argmax f(x_i) = y_i], test set",
    value_range="[0, 1]",
)
def test_accuracy(predictions: Predictions) -> Measurement:
    """Share of the test set classified correctly."""
    return mean_over_points("test_accuracy", predictions.class_hits, num_evaluations=1)


@_shifted("shifted_loss", formula="mean_i loss_i, shifted test set")
def shifted_loss(predictions: Predictions) -> Measurement:
    """Mean loss on a second test set with the same classes (`data.shifted`)."""
    return mean_over_points("shifted_loss", predictions.loss, num_evaluations=1)


@_shifted(
    "shifted_accuracy",
    formula="mean_i 1[argmax f(x_i) = y_i], shifted test set",
    value_range="[0, 1]",
)
def shifted_accuracy(predictions: Predictions) -> Measurement:
    """Share of a second test set with the same classes (`data.shifted`) classified correctly."""
    return mean_over_points("shifted_accuracy", predictions.class_hits, num_evaluations=1)


@_gap("generalization_gap", formula="test error − train error", value_range="[-1, 1]")
def generalization_gap(train: Predictions, test: Predictions) -> Measurement:
    """How much more often the network errs on the test set than on the training set."""
    return _difference("generalization_gap", 1.0 - train.class_hits, 1.0 - test.class_hits)


@_gap("loss_gap", formula="test loss − train loss", value_range="(-inf, inf)")
def loss_gap(train: Predictions, test: Predictions) -> Measurement:
    """How much larger the mean loss is on the test set than on the training set."""
    return _difference("loss_gap", train.loss, test.loss)


def _difference(name: str, train: np.ndarray, test: np.ndarray) -> Measurement:
    first = mean_over_points(name, train, num_evaluations=1)
    second = mean_over_points(name, test, num_evaluations=1)
    if first.value is None or second.value is None:
        raise MetricError("a side of the gap has no value")
    errors = [m.std_error for m in (first, second) if m.std_error is not None]
    reasons = [
        f"{side}: {m.reason}" for side, m in (("train", first), ("test", second)) if m.reason
    ]
    return Measurement(
        name=name,
        value=second.value - first.value,
        std_error=math.hypot(*errors) if len(errors) == 2 else None,
        num_evaluations=1,
        num_points=first.num_points + second.num_points,
        reason="; ".join(reasons) or None,
    )
