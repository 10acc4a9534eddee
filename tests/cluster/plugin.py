"""A plugin whose networks and metrics fail on purpose, each in its own way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flatscale.metrics import metric
from flatscale.models import model


@metric(
    "metric_that_fails",
    passes=("jacobian",),
    formula="none",
    group="compression",
)
def metric_that_fails(*_: Any) -> None:
    """Raises."""
    raise ValueError("broken on purpose")


class _Linear(nn.Module):
    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0] * shape[1] * shape[2], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.misbehave()
        return self.layer(x.flatten(1))

    def misbehave(self) -> None:
        raise ValueError("broken on purpose")


@model("fails_in_training", family="plugin")
def fails_in_training(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return _Linear(input_shape, num_classes)


@model("dies_once", family="plugin")
def dies_once(input_shape: tuple[int, int, int], num_classes: int, *, flag: str = "") -> nn.Module:
    class DiesOnce(_Linear):
        def misbehave(self) -> None:
            if not Path(flag).exists():
                Path(flag).touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return DiesOnce(input_shape, num_classes)


@model("dies_always", family="plugin")
def dies_always(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    class DiesAlways(_Linear):
        def misbehave(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    return DiesAlways(input_shape, num_classes)


@model("small_memory", family="plugin")
def small_memory(
    input_shape: tuple[int, int, int], num_classes: int, *, limit: int = 1
) -> nn.Module:
    class SmallMemory(_Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and torch.is_grad_enabled() and len(x) > limit:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
            return self.layer(x.flatten(1))

    return SmallMemory(input_shape, num_classes)


@model("small_gpu", family="plugin")
def small_gpu(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    limit: int = 1,
    normalises: bool = False,
) -> nn.Module:
    """Computes at most `limit` images at once in training, as a GPU with little memory would."""

    class SmallGpu(_Linear):
        def __init__(self) -> None:
            super().__init__(input_shape, num_classes)
            self.norm = nn.BatchNorm1d(num_classes) if normalises else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and len(x) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.norm(self.layer(x.flatten(1)))

    return SmallGpu()


@model("devours_memory", family="plugin")
def devours_memory(
    input_shape: tuple[int, int, int], num_classes: int, *, gib: int = 1
) -> nn.Module:
    """Takes so much of the host's memory in training and keeps it."""

    class DevoursMemory(_Linear):
        def misbehave(self) -> None:
            self.eaten = [torch.ones(2**26) for _ in range(4 * gib)]
            time.sleep(60)

    return DevoursMemory(input_shape, num_classes)
