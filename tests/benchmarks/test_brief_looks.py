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
from flatscale.training.whole_set import WholeSet

# Architecture, options, learning rate, batch size, loss that is trained to, on all digits.
CASES = [
    ("mlp", {"width": 100}, 0.3, 32, 0.005),
    ("mlp", {"width": 100}, 0.3, 256, 0.02),
    ("lenet", {}, 0.3, 64, 0.01),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "options", "rate", "batch_size", "level"), CASES)
def test_brief_looks_save_time_and_change_nothing(
    architecture: str,
    options: dict,
    rate: float,
    batch_size: int,
    level: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = load_dataset(DataConfig(), seed=0)
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    config = TrainingConfig(stop_loss=level)

    seen = 0
    unwatched = WholeSet._sum

    def watched(self: WholeSet, inputs: torch.Tensor, *rest: object) -> torch.Tensor:
        nonlocal seen
        seen += len(inputs)
        return unwatched(self, inputs, *rest)

    def run() -> tuple[float, int, object, dict[str, torch.Tensor]]:
        nonlocal seen
        seen = 0
        model = build_model(architecture, data.input_shape, 10, options, seed=0)
        began = time.process_time()
        result = train(model, x, y, config, learning_rate=rate, batch_size=batch_size, seed=0)
        return time.process_time() - began, seen, result, model.state_dict()

    torch.set_num_threads(1)
    monkeypatch.setattr(WholeSet, "_sum", watched)
    brief, whole, none = [], [], []
    # In turn, and the least of each: what else runs here slows all three alike.
    for _ in range(3):
        seconds, num_brief, found, weights = run()
        brief.append(seconds)
        with monkeypatch.context() as without:
            without.setattr(Stopping, "has_brief_looks", False)
            seconds, num_whole, expected, others = run()
            whole.append(seconds)
            ends = (0, expected.num_steps)
            without.setattr(Stopping, "is_due", lambda self, step, ends=ends: step in ends)
            none.append(run()[0])
    assert (found.status, found.num_steps) == ("interpolated", expected.num_steps)
    assert all(torch.equal(weights[name], value) for name, value in others.items())
    with capsys.disabled():
        print(
            f"\n{architecture}, batches of {batch_size}, {found.num_steps} steps: looks at "
            f"{num_whole:,} points, brief ones at {num_brief:,} ({num_brief / num_whole:.0%}); CPU "
            f"seconds {min(whole):.2f}, {min(brief):.2f} with brief ones and "
            f"{min(none):.2f} without any"
        )
    assert num_brief < 0.6 * num_whole
