"""Likelihood, Brier score and calibration: second implementations and calibrated networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import nn

from flatscale.metrics import measure

NAMES = ["negative_log_likelihood", "brier_score", "expected_calibration_error"]


def judged(logits, labels, **options):
    """The measures of a network that hands its inputs through as logits."""
    data = (torch.as_tensor(logits), torch.as_tensor(labels))
    known = {"expected_calibration_error": options} if options else None
    return measure(nn.Flatten(), data, NAMES, options=known, test=data)


def drawn(n, seed, temperature=1.0, classes=4):
    """Logits and labels of a network that is calibrated at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((n, classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)
    return logits / temperature, labels, p


def test_scores_agree_with_scikit_learn():
    logits, labels, p = drawn(300, 0)
    found = judged(logits, labels)
    assert found["negative_log_likelihood"].value == pytest.approx(log_loss(labels, p))
    per_class = [brier_score_loss(labels == k, p[:, k]) for k in range(4)]
    assert found["brier_score"].value == pytest.approx(sum(per_class))
    rows = -np.log(p[np.arange(300), labels])
    error = rows.std(ddof=1) / np.sqrt(300)
    assert found["negative_log_likelihood"].std_error == pytest.approx(error)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_by_a_loop_over_bins(num_bins):
    logits, labels, _ = drawn(200, 1, temperature=0.5)
    p = torch.softmax(torch.as_tensor(logits), dim=1).numpy()
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    expected, expected_noise = 0.0, 0.0
    for k in range(num_bins):
        inside = (confidence > k / num_bins) & (confidence <= (k + 1) / num_bins)
        if inside.any():
            gap = right[inside].mean() - confidence[inside].mean()
            expected += abs(gap) * inside.mean()
            variance = (confidence * (1 - confidence))[inside].sum()
            expected_noise += np.sqrt(2 / np.pi * variance) / 200
    found = judged(logits, labels, num_bins=num_bins)["expected_calibration_error"]
    assert found.value == pytest.approx(expected)
    assert found.extras["expected_if_calibrated"] == pytest.approx((expected_noise,))


def test_a_calibrated_network_has_the_error_that_its_bias_predicts():
    found = [judged(*drawn(400, s)[:2])["expected_calibration_error"] for s in range(60)]
    values = np.array([m.value for m in found])
    predicted = np.mean([m.extras["expected_if_calibrated"][0] for m in found])
    assert values.mean() == pytest.approx(predicted, abs=4 * values.std() / np.sqrt(60))
    assert predicted > 0.02


def test_the_standard_error_is_the_spread_over_test_sets():
    found = [judged(*drawn(400, s, 0.4)[:2])["expected_calibration_error"] for s in range(150)]
    spread = np.std([m.value for m in found], ddof=1)
    assert np.mean([m.std_error for m in found]) == pytest.approx(spread, rel=0.2)
    bias = np.mean([m.extras["expected_if_calibrated"][0] for m in found])
    assert np.mean([m.value for m in found]) > 3 * bias


def test_one_output_has_no_probabilities():
    for measured in judged(np.ones((5, 1)), np.zeros(5, dtype=int)).values():
        assert measured.value is None
        assert "one output" in measured.reason
