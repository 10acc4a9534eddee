"""What the look at the whole training set costs a run, whole and brief: to the same step."""

from __future__ import annotations

import time

import pytest
import torch

from flatscale.data import load_dataset
from flatscale.models import build_model
from flatscale.study.schema import DataConfig, TrainingConfig
from flatscale.training import train
from flatscale.training.stopping import Stopping

# Architecture, options, learning rate, batch size: digits until the loss is 0.003.
CASES = [
    ("mlp", {"width": 100}, 0.2, 16),
    ("mlp", {"width": 100}, 0.3, 256),
    ("lenet", {}, 0.15, 16),
    ("vgg11", {"channels": (16, 16, 32)}, 0.15, 16),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "options", "rate", "batch_size"), CASES)
def test_brief_looks_save_time_and_change_nothing(
    architecture: str,
    options: dict,
    rate: float,
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = load_dataset(DataConfig(), seed=0)
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    config = TrainingConfig(stop_loss=0.003)

    def run() -> tuple[float, object, dict[str, torch.Tensor]]:
        model = build_model(architecture, data.input_shape, 10, options, seed=0)
        began = time.perf_counter()
        result = train(model, x, y, config, learning_rate=rate, batch_size=batch_size, seed=0)
        return time.perf_counter() - began, result, model.state_dict()

    brief, found, weights = min((run() for _ in range(2)), key=lambda each: each[0])
    monkeypatch.setattr(Stopping, "may_be_brief", lambda self, step: False)
    whole, expected, others = min((run() for _ in range(2)), key=lambda each: each[0])
    monkeypatch.setattr(Stopping, "is_due", lambda self, step: step in (0, expected.num_steps))
    none, _, _ = min((run() for _ in range(2)), key=lambda each: each[0])
    assert (found.status, found.num_steps) == ("interpolated", expected.num_steps)
    assert all(torch.equal(weights[name], value) for name, value in others.items())
    with capsys.disabled():
        print(
            f"\n{architecture}, batches of {batch_size}, {found.num_steps} steps: {none:.2f} s "
            f"without looks, {whole:.2f} s with whole looks, {brief:.2f} s with brief ones: "
            f"{(whole - brief) / (whole - none):.0%} of their cost and {1 - brief / whole:.0%} of "
            "the run saved"
        )
    assert brief < whole
