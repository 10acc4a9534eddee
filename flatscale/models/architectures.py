"""Architectures by name: a decorated builder function is all a new one needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from flatscale.errors import ModelError
from flatscale.models.pytorch_image_models import PREFIX, timm_family, timm_options
from flatscale.study.registry import Registered, Registry

Builder = Callable[..., nn.Module]
"""(input_shape (channels, height, width), num_classes, **options) -> network."""


@dataclass(frozen=True, kw_only=True)
class Architecture(Registered):
    """An architecture: its builder and the family it counts as in the statistics."""

    family: str


MODELS: Registry[Architecture] = Registry("architecture", ModelError, also=(f"{PREFIX}<name>",))
"""The registered architectures; besides them `timm:<name>` for every architecture of timm."""


def model(name: str, *, family: str | None = None) -> Callable[[Builder], Builder]:
    """Register a builder as an architecture.

    The builder takes `input_shape` (channels, height, width) and `num_classes`, and its options as
    keyword-only arguments with defaults and annotations: those are what a study file may set, and
    are checked against it. It draws its weights from torch's global generator, which
    `build_model` seeds, and must not apply an activation in place to a linear layer's output.

    Args:
        name: what a study file calls it.
        family: the family its networks count as; the name by default.
    """

    def add(builder: Builder) -> Builder:
        MODELS.add(Architecture(name=name, function=builder, family=family or name))
        return builder

    return add


def architecture_family(architecture: str) -> str:
    """The family an architecture counts as: its registered one, or timm's module (`resnet`).

    Raises:
        ModelError: no such architecture.
    """
    if architecture.startswith(PREFIX):
        return timm_family(architecture)
    return MODELS[architecture].family


def model_options(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the builder takes them, checked without building anything.

    The options of `timm:` networks are arguments of many different classes; only those flatscale
    sets itself are refused here, the others by `build_model`.

    Raises:
        ModelError: unknown architecture or option, or a value of the wrong type or range.
    """
    if architecture.startswith(PREFIX):
        return timm_options(architecture, options)
    return MODELS.checked_options(architecture, options)
