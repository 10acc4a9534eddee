"""Architectures by name, built with weights that depend on nothing but the seed.

A decorated builder function is all a new one needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.pytorch_image_models import PREFIX, timm_family, timm_model, timm_options
from flatscale.study.registry import Registered, Registry

InputKind = Literal["image", "table", "tokens"]
_KINDS: dict[int, InputKind] = {3: "image", 1: "table", 2: "tokens"}
_NAMES = {
    "image": ("images", "(channels, height, width)"),
    "table": ("table rows", "(features,)"),
    "tokens": ("tokens", "(length, vocabulary)"),
}
Builder = Callable[..., nn.Module]
"""(input_shape, num_classes, **options) -> network; an image's is (channels, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Architecture(Registered):
    """An architecture: its builder, its family in the statistics, the inputs it takes."""

    family: str
    takes: tuple[InputKind, ...]


MODELS: Registry[Architecture] = Registry("architecture", ModelError, also=(f"{PREFIX}<name>",))
"""The registered architectures; besides them `timm:<name>` for every architecture of timm."""
_generator_lock = threading.Lock()


def model(
    name: str,
    *,
    family: str | None = None,
    takes: tuple[InputKind, ...] = ("image",),
    version: str | None = None,
) -> Callable[[Builder], Builder]:
    """Register a builder as an architecture.

    The builder takes `input_shape`, such as (channels, height, width), and `num_classes`, the
    number of its outputs, and its options as keyword-only arguments with defaults and annotations:
    those are what a study file may set, and are checked against it. It draws its weights from
    torch's global generator, which `build_model` seeds, and must not apply an activation in place
    to a linear layer's output.

    Args:
        name: what a study file calls it.
        family: the family its networks count as; the name by default.
        takes: the inputs it takes: `image` (channels, height, width), `table` (features,), `tokens`
            (length, vocabulary), which are one-hot.
        version: as in `Registered`.
    """

    def add(builder: Builder) -> Builder:
        entry = Architecture(
            name=name, function=builder, family=family or name, takes=takes, version=version
        )
        MODELS.add(entry)
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


def build_model(
    architecture: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    options: Mapping[str, Any],
    *,
    seed: int,
) -> nn.Module:
    """Build a network on the CPU, in training mode, initialised from the seed.

    The same arguments give the same weights on any machine and thread; torch's global generator is
    left as it was found.

    Args:
        architecture: a registered name or `timm:<name>`.
        input_shape: of one image (channels, height, width), table row (features,), or sequence of
            tokens (length, vocabulary).
        num_classes: number of outputs.
        options: options of the architecture.
        seed: seed of the initialisation, in [0, 2^63).

    Raises:
        ModelError: unknown architecture or option, or a network that does not take such inputs.
    """
    arguments = model_options(architecture, options)
    takes = ("image",) if architecture.startswith(PREFIX) else MODELS[architecture].takes
    if (kind := _KINDS[len(input_shape)]) not in takes:
        wanted = " and ".join(_NAMES[each][0] for each in takes)
        raise ModelError(
            f"{architecture!r} takes {wanted}; the data are {_NAMES[kind][0]} {input_shape}"
        )
    builder = (
        partial(timm_model, architecture=architecture)
        if architecture.startswith(PREFIX)
        else MODELS[architecture].function
    )
    with _generator_lock, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = builder(input_shape, num_classes, **arguments)
        _check_output(network, architecture, input_shape, num_classes)
    return network.train()


def _check_output(
    network: nn.Module, architecture: str, input_shape: tuple[int, ...], num_classes: int
) -> None:
    """One input through the network in eval mode: a misfit is named here, not deep in a trial."""
    network.eval()
    try:
        with torch.no_grad():
            output = network(torch.zeros(1, *input_shape))
    except Exception as error:  # whatever its layers raise, the network does not take such inputs
        plural, axes = _NAMES[_KINDS[len(input_shape)]]
        raise ModelError(
            f"{architecture!r} does not take {plural} {input_shape} {axes}: {error}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, num_classes):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"{architecture!r} must map a batch of B images to outputs (B, {num_classes}); "
            f"found {found} for B = 1"
        )
