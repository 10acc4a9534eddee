"""LeNet-5 with max-pooling, sized to the image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.architectures import model

_KERNEL = 5


@model("lenet")
def lenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
) -> nn.Sequential:
    """5x5 convolutions with 6 and 16 channels, each max-pooled, then 120, 84 and the outputs; ReLU.

    LeNet-5 is made for 32x32 images and unpadded. Images under 32 are padded by 2 at the first
    convolution (so MNIST's 28x28 gives the same 16x5x5 features), and maps under 6x6 by 2 at the
    second, which lets images down to 4x4 through.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        width_factor: multiplies the channels and units of every hidden layer.

    Raises:
        ModelError: an image side under 4.
    """
    channels, height, width = input_shape
    side = min(height, width)
    if side < 4:
        raise ModelError(f"'lenet' needs images of at least 4x4; found {height}x{width}")
    maps1, maps2, units1, units2 = (max(1, round(width_factor * n)) for n in (6, 16, 120, 84))
    padding1 = 2 if side < 32 else 0
    height, width = _pooled(height, padding1), _pooled(width, padding1)
    padding2 = 2 if min(height, width) < 6 else 0
    height, width = _pooled(height, padding2), _pooled(width, padding2)
    return nn.Sequential(
        nn.Conv2d(channels, maps1, _KERNEL, padding=padding1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(maps1, maps2, _KERNEL, padding=padding2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(maps2 * height * width, units1),
        nn.ReLU(),
        nn.Linear(units1, units2),
        nn.ReLU(),
        nn.Linear(units2, num_classes),
    )


def _pooled(side: int, padding: int) -> int:
    """Side of the map after one convolution and one 2x2 max-pool."""
    return (side + 2 * padding - _KERNEL + 1) // 2
