"""Accuracy and loss where the test points are moved by an adversary or corrupted."""

from __future__ import annotations

import functools

import numpy as np

from flatscale.measurement import Measurement
from flatscale.metrics.passes.corruptions import CORRUPTIONS, CorruptedPredictions, pass_of
from flatscale.metrics.passes.predictions import Predictions
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import metric

_on_test = functools.partial(metric, group="robustness", observers=("test",))
_FGSM = functools.partial(
    _on_test, passes=("fgsm",), source="Goodfellow, Shlens & Szegedy 2015 (arXiv 1412.6572)"
)
_PGD = functools.partial(_on_test, passes=("pgd",), source="Madry et al. 2018 (arXiv 1706.06083)")


@_FGSM(
    "fgsm_accuracy",
    formula="mean_i 1[argmax f(x_i + r sign ∇_x loss_i) = y_i], test set (l2: r ∇/‖∇‖)",
    value_range="[0, 1]",
)
def fgsm_accuracy(attacked: Predictions) -> Measurement:
    """Share of the test set classified correctly after one full step along its gradient."""
    return _mean("fgsm_accuracy", attacked.class_hits, attacked)


@_FGSM("fgsm_loss", formula="mean_i loss_i(x_i + r sign ∇_x loss_i), test set (l2: r ∇/‖∇‖)")
def fgsm_loss(attacked: Predictions) -> Measurement:
    """Mean loss on the test set after one full step of every point along its gradient.

    Exact where the loss rises with a function that is linear in x, such as the cross-entropy of a
    linear network of two classes: then it is the worst loss of the ball.
    """
    return _mean("fgsm_loss", attacked.loss, attacked)


@_PGD(
    "pgd_accuracy",
    formula="mean_i min_{δ tried, ‖δ‖ ≤ r} 1[argmax f(x_i + δ) = y_i], test set",
    value_range="[0, 1]",
)
def pgd_accuracy(attacked: Predictions) -> Measurement:
    """Share of the test set that stays correct wherever projected gradient ascent looked.

    An upper bound on the robust accuracy of the ball; at most the plain accuracy.
    """
    return _mean("pgd_accuracy", attacked.class_hits, attacked)


@_PGD("pgd_loss", formula="mean_i max_{δ tried, ‖δ‖ ≤ r} loss_i(x_i + δ), test set")
def pgd_loss(attacked: Predictions) -> Measurement:
    """Mean of the highest losses that projected gradient ascent met around each test point.

    A lower bound on the worst loss of the ball; at least the plain loss.
    """
    return _mean("pgd_loss", attacked.loss, attacked)


def _mean(name: str, values: np.ndarray, attacked: Predictions) -> Measurement:
    return mean_over_points(name, values, num_evaluations=attacked.num_evaluations)


_corruption_metric = functools.partial(
    _on_test,
    formula="mean over severities and points of 1[argmax f(corrupted x_i) = y_i], test set",
    value_range="[0, 1]",
    source="Hendrycks & Dietterich 2019 (arXiv 1903.12261)",
)


def _accuracy_under(kind: str) -> None:
    name, meaning = f"{kind}_accuracy", (CORRUPTIONS[kind].function.__doc__ or "").split("\n")[0]

    def accuracy(corrupted: CorruptedPredictions) -> Measurement:
        return _mean_accuracy(name, {kind: corrupted})

    words = kind.replace("_", " ")
    accuracy.__doc__ = f"Share of the test set classified correctly under {words}: {meaning}"
    _corruption_metric(name, passes=(pass_of(kind),))(accuracy)


for _kind in CORRUPTIONS:
    _accuracy_under(_kind)


@_corruption_metric("corruption_accuracy", passes=tuple(map(pass_of, CORRUPTIONS)))
def corruption_accuracy(*corrupted: CorruptedPredictions) -> Measurement:
    """Share of the test set classified correctly, mean over all kinds of corruption.

    One minus the mean corruption error without its division by another network's errors.
    """
    return _mean_accuracy("corruption_accuracy", dict(zip(CORRUPTIONS, corrupted, strict=True)))


def _mean_accuracy(name: str, by_kind: dict[str, CorruptedPredictions]) -> Measurement:
    """Mean over kinds and severities for every point, then over points; each accuracy as extra."""
    correct = {kind: found.correct for kind, found in by_kind.items()}
    per_point = np.mean([rows.mean(axis=1) for rows in correct.values()], axis=0)
    kept = np.isfinite(per_point)
    extras = {
        kind: tuple(rows[kept].mean(axis=0).tolist()) if kept.any() else ()
        for kind, rows in correct.items()
    }
    extras["severity"] = tuple(map(float, next(iter(by_kind.values())).severities))
    spent = sum(len(found.severities) for found in by_kind.values())
    return mean_over_points(name, per_point, num_evaluations=spent, extras=extras)
