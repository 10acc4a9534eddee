"""The small VGG-11 without normalization."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from flatscale.models.architectures import model

_KERNEL, _PADDING = 3, 2


@model("vgg11", family="vgg")
def vgg11(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        16,
        16,
        32,
        64,
        64,
    ),
    hidden: Annotated[int, Field(ge=1)] = 128,
) -> nn.Sequential:
    """3x3 convolutions, each with ReLU and a max-pool, then one hidden layer (arXiv 2310.01770).

    With padding 2 a convolution grows a map by 2 before the pool halves it, so maps settle at
    2x2 and no image is too small.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        channels: channels of the convolutions, in order.
        hidden: units of the hidden layer.
    """
    maps, height, width = input_shape
    layers: list[nn.Module] = []
    for next_maps in channels:
        layers += [nn.Conv2d(maps, next_maps, _KERNEL, padding=_PADDING), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        maps, height, width = next_maps, _pooled(height), _pooled(width)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(maps * height * width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def _pooled(side: int) -> int:
    """Side of the map after one convolution and one 2x2 max-pool."""
    return (side + 2 * _PADDING - _KERNEL + 1) // 2
