"""How large a network is, found out without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatscale.errors import ModelError
from flatscale.models.architectures import MODELS, model_options
from flatscale.models.pytorch_image_models import PREFIX, timm_model


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Parameters, and the bytes of what all layers hand on for one image, in float32."""

    num_parameters: int
    activation_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Of the parameters in float32."""
        return 4 * self.num_parameters


ACTIVATION_BYTES = 1.5e9
"""What a microbatch of a zoo's network may hand on; a network of which one image takes more is
measured image by image."""
_PROCESS_BYTES = 0.8e9
_COPIES_OF_WEIGHTS = 5
_GRAPH = 3.0
_DRAWING = frozenset(("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"))
"""What initial weights are made with, in place, besides the functions of `torch.nn.init`."""


def points_at_once(size: NetworkSize) -> int:
    """Images of a microbatch: as many as hand on `ACTIVATION_BYTES`."""
    return max(1, int(ACTIVATION_BYTES / max(1, size.activation_bytes)))


def memory_bytes(size: NetworkSize, num_points: int, input_shape: tuple[int, int, int]) -> int:
    """The most memory a worker is expected to hold while it measures a network.

    The process itself, the probe's images, the weights with their gradients, perturbations and the
    next network's, and a microbatch's graph.
    """
    at_once = min(num_points, points_at_once(size))
    images = 4 * num_points * input_shape[0] * input_shape[1] * input_shape[2]
    graph = _GRAPH * at_once * size.activation_bytes
    return int(_PROCESS_BYTES + images + _COPIES_OF_WEIGHTS * size.weight_bytes + graph)


def network_size(
    architecture: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    options: Mapping[str, Any],
) -> NetworkSize:
    """Counted on torch's meta device, which has no storage, or on a real network where that fails.

    Raises:
        ModelError: it cannot be built, or does not take such images.
    """
    arguments = model_options(architecture, options)
    build: Callable[..., nn.Module]
    if architecture.startswith(PREFIX):
        build = partial(timm_model, architecture=architecture)
    else:
        build = MODELS[architecture].function
    problem: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.no_grad(), torch.random.fork_rng(devices=[]):
                with _NothingDrawn():
                    network = build(input_shape, num_classes, **arguments).eval()
                return _counted(network, torch.zeros(1, *input_shape))
        except Exception as error:  # a network of another library may raise anything
            problem = error
    raise ModelError(f"{architecture!r} cannot be built for images {input_shape}: {problem}")


class _NothingDrawn(TorchFunctionMode):
    """Initial weights are not drawn where there is no storage: a third of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        module, name = (getattr(func, part, "") for part in ("__module__", "__name__"))
        if module == "torch.nn.init" or name in _DRAWING:
            tensor = args[0] if args else named.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **named)


def _counted(network: nn.Module, x: Tensor) -> NetworkSize:
    sizes: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * 4)

    leaves = [module for module in network.modules() if not any(module.children())]
    for leaf in leaves:
        leaf.register_forward_hook(count)
    network(x)
    return NetworkSize(
        num_parameters=sum(p.numel() for p in network.parameters()), activation_bytes=sum(sizes)
    )
