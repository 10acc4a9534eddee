"""Networks with weights that depend on nothing but the seed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.architectures import MODELS, model_options
from flatscale.models.pytorch_image_models import PREFIX, timm_model

_generator_lock = threading.Lock()


def build_model(
    architecture: str,
    input_shape: tuple[int, int, int],
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
        input_shape: (channels, height, width) of one image.
        num_classes: number of outputs.
        options: options of the architecture.
        seed: seed of the initialisation, in [0, 2^63).

    Raises:
        ModelError: unknown architecture or option, or a network that does not take such images.
    """
    arguments = model_options(architecture, options)
    builder: Callable[..., nn.Module]
    if architecture.startswith(PREFIX):
        builder = partial(timm_model, architecture=architecture)
    else:
        builder = MODELS[architecture].function
    with _generator_lock, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = builder(input_shape, num_classes, **arguments)
        _check_output(network, architecture, input_shape, num_classes)
    return network.train()


def _check_output(
    network: nn.Module, architecture: str, input_shape: tuple[int, int, int], num_classes: int
) -> None:
    """One image through the network in eval mode: a misfit is named here, not deep in a trial."""
    network.eval()
    try:
        with torch.no_grad():
            output = network(torch.zeros(1, *input_shape))
    except Exception as error:  # whatever its layers raise, the network does not take such images
        raise ModelError(
            f"{architecture!r} does not take images {input_shape} (channels, height, width): "
            f"{error}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, num_classes):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"{architecture!r} must map a batch of B images to outputs (B, {num_classes}); "
            f"found {found} for B = 1"
        )
