"""The map from raw network outputs to the f(x) whose geometry is measured."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor

from flatscale.errors import ConfigError

OutputMap = Callable[[Tensor], Tensor]


def _identity(outputs: Tensor) -> Tensor:
    return outputs


def _softmax(outputs: Tensor) -> Tensor:
    return torch.softmax(outputs, dim=-1)


OUTPUT_MAPS: dict[str, OutputMap] = {
    "identity": _identity,
    "sigmoid": torch.sigmoid,
    "softmax": _softmax,
}


def output_map(name: str) -> OutputMap:
    """The output map of that name: identity, sigmoid or softmax.

    Raises:
        ConfigError: another name.
    """
    if name not in OUTPUT_MAPS:
        near = difflib.get_close_matches(name, OUTPUT_MAPS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"unknown output map {name!r}; did you mean {near!r}? Known: {', '.join(OUTPUT_MAPS)}"
        )
    return OUTPUT_MAPS[name]
