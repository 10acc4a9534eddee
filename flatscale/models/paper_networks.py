"""The paper's three networks, sized to the image: a perceptron, LeNet-5 and a small VGG-11."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.architectures import model

_CHANNELS = (16, 16, 32, 64, 64)
_Share = Annotated[float, Field(ge=0, lt=1)]


@model("mlp", takes=("image", "table", "tokens"))
def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: Annotated[int, Field(ge=1)] = 500,
    depth: Annotated[int, Field(ge=0)] = 3,
    activation: Literal["tanh", "relu"] = "tanh",
    dropout: _Share = 0.0,
) -> nn.Sequential:
    """`depth` hidden layers of `width` units on the flattened input (arXiv 2310.01770: 3 of 500).

    Args:
        input_shape: of any input.
        num_classes: outputs.
        width: units of each hidden layer.
        depth: number of hidden layers; 0 is a linear classifier.
        activation: `tanh` or `relu`.
        dropout: share of the units of each hidden layer left out in training.
    """
    sizes = [math.prod(input_shape), *[width] * depth]
    activate = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    layers: list[nn.Module] = [nn.Flatten()]
    for size, next_size in itertools.pairwise(sizes):
        layers += [nn.Linear(size, next_size), activate(), *_dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


@model("lenet")
def lenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    dropout: _Share = 0.0,
) -> nn.Sequential:
    """5x5 convolutions with 6 and 16 channels, each max-pooled, then 120, 84 and the outputs; ReLU.

    LeNet-5 is made for 32x32 images and unpadded. Images under 32 are padded by 2 at the first
    convolution (so MNIST's 28x28 gives the same 16x5x5 features), and maps under 6x6 by 2 at the
    second, which lets images down to 4x4 through.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        width_factor: multiplies the channels and units of every hidden layer.
        dropout: share of the units of the two layers before the outputs left out in training.

    Raises:
        ModelError: an image side under 4.
    """
    channels, height, width = input_shape
    side = min(height, width)
    if side < 4:
        raise ModelError(f"'lenet' needs images of at least 4x4; found {height}x{width}")
    maps1, maps2, units1, units2 = (max(1, round(width_factor * n)) for n in (6, 16, 120, 84))
    padding1 = 2 if side < 32 else 0
    height, width = _pooled(height, 5, padding1), _pooled(width, 5, padding1)
    padding2 = 2 if min(height, width) < 6 else 0
    height, width = _pooled(height, 5, padding2), _pooled(width, 5, padding2)
    return nn.Sequential(
        nn.Conv2d(channels, maps1, 5, padding=padding1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(maps1, maps2, 5, padding=padding2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(maps2 * height * width, units1),
        nn.ReLU(),
        *_dropout(dropout),
        nn.Linear(units1, units2),
        nn.ReLU(),
        *_dropout(dropout),
        nn.Linear(units2, num_classes),
    )


@model("vgg11", family="vgg")
def vgg11(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = _CHANNELS,
    hidden: Annotated[int, Field(ge=1)] = 128,
    dropout: _Share = 0.0,
) -> nn.Sequential:
    """3x3 convolutions, each with ReLU and a max-pool, then one hidden layer (arXiv 2310.01770).

    With padding 2 a convolution grows a map by 2 before the pool halves it, so maps settle at
    2x2 and no image is too small.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        channels: channels of the convolutions, in order.
        hidden: units of the hidden layer.
        dropout: share of these left out in training.
    """
    maps, height, width = input_shape
    layers: list[nn.Module] = []
    for next_maps in channels:
        layers += [nn.Conv2d(maps, next_maps, 3, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        maps, height, width = next_maps, _pooled(height, 3, 2), _pooled(width, 3, 2)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(maps * height * width, hidden),
        nn.ReLU(),
        *_dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


def _dropout(share: float) -> list[nn.Module]:
    """A layer that leaves units out in training; none where the share is 0."""
    return [nn.Dropout(share)] if share else []


def _pooled(side: int, kernel: int, padding: int) -> int:
    """Side of the map after one convolution and one 2x2 max-pool."""
    return (side + 2 * padding - kernel + 1) // 2
