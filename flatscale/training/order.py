"""Which images a step sees, as a function of seed and step alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatscale.study.schema import TrainingConfig
from flatscale.study.seeds import derive_seed


class BatchOrder:
    """Shuffled epochs that can be entered at any step.

    Epoch e is the permutation drawn from (seed, "order", e), cut into batches; the last batch of an
    epoch is smaller when the batch size does not divide the number of images. So a training that
    resumes at a step sees what an undisturbed one sees.
    """

    def __init__(
        self, num_images: int, batch_size: int, *, seed: int, device: torch.device
    ) -> None:
        self._num_images = num_images
        self._batch_size = min(batch_size, num_images)
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)
        self.steps_per_epoch = math.ceil(num_images / self._batch_size)

    def epoch(self, step: int) -> int:
        """The epoch (0-based) of a step (0-based)."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> Tensor:
        """Rows of the images of the batch that step (0-based) trains on, (B,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
            permutation = torch.randperm(self._num_images, generator=generator)
            self._permutation = permutation.to(self._device)
            self._epoch = epoch
        start = position * self._batch_size
        return self._permutation[start : start + self._batch_size]


def step_limit(config: TrainingConfig, steps_per_epoch: int) -> int:
    """The step after which a training ends in any case."""
    epochs = config.max_epochs
    return config.max_steps if epochs is None else min(config.max_steps, epochs * steps_per_epoch)


def log_spaced_steps(num_snapshots: int, max_steps: int) -> tuple[int, ...]:
    """Steps for the snapshots before the last one, evenly in the logarithm from 1 to `max_steps`.

    Args:
        num_snapshots: snapshots in all; the last is the end of the training, whenever that comes,
            and is not in the list.
        max_steps: the step limit.

    Returns:
        At most `num_snapshots - 1` distinct steps, ascending, in 1..max_steps-1: fewer only where
        there are not so many steps.
    """
    if num_snapshots < 1 or max_steps < 1:
        raise ValueError(
            f"num_snapshots and max_steps must be at least 1; got {num_snapshots} and {max_steps}"
        )
    steps: list[int] = []
    for index in range(num_snapshots - 1):
        even = round(max_steps ** (index / (num_snapshots - 1)))
        steps.append(max(even, steps[-1] + 1 if steps else 1))
    return tuple(step for step in steps if step < max_steps)
