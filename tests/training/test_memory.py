"""When memory runs out in training: the same gradient from smaller pieces, or a reason."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from flatscale.errors import ModelError
from flatscale.study.schema import OptimizerConfig, TrainingConfig
from flatscale.training import train

NUM_IMAGES, NUM_CLASSES = 50, 3


class SmallMemory(nn.Module):
    """Stands for a GPU: computes at most so many images at once, in training and in evaluation."""

    def __init__(self, training_limit: int, evaluation_limit: int, *, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
        self.norm = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
        self.head = nn.Linear(8, NUM_CLASSES)
        self.limits = {True: training_limit, False: evaluation_limit}
        self.sizes: Counter[tuple[bool, int]] = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limits[self.training]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.sizes[self.training, len(x)] += 1
        return self.head(torch.tanh(self.norm(self.body(x))))


def trained(model: nn.Module) -> tuple[dict[str, torch.Tensor], float]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(NUM_IMAGES, 1, 4, 4, generator=generator)
    y = torch.arange(NUM_IMAGES) % NUM_CLASSES
    config = TrainingConfig(
        stop_loss=1e-9, max_steps=12, optimizer=OptimizerConfig(momentum=0.9, weight_decay=0.01)
    )
    result = train(model, x, y, config, learning_rate=0.1, batch_size=20, seed=2)
    return model.state_dict(), result.train_loss


def test_microbatches_train_the_same_network() -> None:
    undisturbed, loss = trained(SmallMemory(1_000, 1_000))
    model = SmallMemory(6, 11)
    weights, loss_in_parts = trained(model)
    for name, value in undisturbed.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)
    # 20 images at a time, then 10, then 5; the last batch of an epoch has 10.
    assert {size for training, size in model.sizes if training} == {5}
    assert max(size for training, size in model.sizes if not training) <= 11


def test_a_network_that_normalises_over_the_batch_is_not_split() -> None:
    trained(SmallMemory(20, 7, norm=True))
    with pytest.raises(ModelError, match=r"batch of 20 images.*normalises.*CUDA out of memory"):
        trained(SmallMemory(19, 1_000, norm=True))


@pytest.mark.parametrize("limits", [(0, 1_000), (1_000, 0)])
def test_not_even_one_image_is_a_reason(limits: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match=r"one image at a time .*CUDA out of memory"):
        trained(SmallMemory(*limits))


def test_other_errors_are_not_taken_for_it() -> None:
    class Broken(SmallMemory):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(Broken(1, 1))
