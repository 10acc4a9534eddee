"""theta: a network's parameters by name, and the network evaluated with other values for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flatscale.errors import MetricError


def call_with(model: nn.Module, values: Mapping[str, Tensor], x: Tensor) -> Any:
    """model(x) with these values in place of the parameters of these names.

    A parameter held by several modules is replaced in all of them. `torch.func.functional_call`
    does so by name, and leaves a module that is registered under two names with the values.
    """
    places: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for local, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{local}" if prefix else local
                places.setdefault(id(parameter), []).append(name)
    everywhere = {
        name: values[same[0]] for same in places.values() if same[0] in values for name in same
    }
    return torch.func.functional_call(model, everywhere, (x,), tie_weights=False)


def refuse_complex(model: nn.Module) -> None:
    """Refuse complex parameters, whose derivatives and norms no measure here is defined for.

    Raises:
        MetricError: names the first of them.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise MetricError(
                f"the network has complex parameters, such as {name!r}, and theta is real; hold "
                "their real and imaginary parts as real parameters (torch.view_as_complex)"
            )


def float_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every floating-point parameter once, frozen ones included: theta.

    Raises:
        MetricError: the network has complex parameters.
    """
    refuse_complex(model)
    return {name: p for name, p in model.named_parameters() if p.is_floating_point()}


def parameter_name(layer: str, local: str) -> str:
    """Full name of a layer's parameter; the network itself as a layer is called `model`."""
    return f"{layer}.{local}" if layer != "model" else local
