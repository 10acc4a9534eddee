"""The multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from flatscale.models.architectures import model

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@model("mlp")
def mlp(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: Annotated[int, Field(ge=1)] = 500,
    depth: Annotated[int, Field(ge=0)] = 3,
    activation: Literal["tanh", "relu"] = "tanh",
) -> nn.Sequential:
    """`depth` hidden layers of `width` units on the flattened image (arXiv 2310.01770: 3 of 500).

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        width: units of each hidden layer.
        depth: number of hidden layers; 0 is a linear classifier.
        activation: `tanh` or `relu`.
    """
    sizes = [math.prod(input_shape), *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for size, next_size in itertools.pairwise(sizes):
        layers += [nn.Linear(size, next_size), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
