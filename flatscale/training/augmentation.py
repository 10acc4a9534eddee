"""Random changes of training images: torchvision's, drawn from seed, epoch and image alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flatscale.errors import ConfigError
from flatscale.extras import needs
from flatscale.models import allow_torchvision_without_ops
from flatscale.study.registry import unknown_name
from flatscale.study.schema import TransformConfig
from flatscale.study.seeds import derive_seed


class Augmentation:
    """Transforms of torchvision.transforms.v2, one after the other.

    What happens to an image in an epoch follows from the seed, the epoch and the image's row, so it
    is the same in a training that was resumed.

    Args:
        configs: the transforms and their arguments.
        seed: everything random derives from it.

    Raises:
        ConfigError: no such transform, or arguments that it does not take.
    """

    def __init__(self, configs: Sequence[TransformConfig], *, seed: int) -> None:
        self._transforms = [_transform(config) for config in configs]
        self._seed = seed

    def __call__(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """The images (B, channels, height, width) of these rows (B,), changed.

        Torch's global generator is drawn from.

        Raises:
            ConfigError: a transform changes the shape of the images.
        """
        changed = []
        for image, row in zip(images, rows.tolist(), strict=True):
            seed_generators(derive_seed(self._seed, "augmentation", epoch, row), images.device)
            for transform in self._transforms:
                image = transform(image)
            changed.append(image)
        if changed[0].shape != images.shape[1:] or changed[0].dtype != images.dtype:
            raise ConfigError(
                f"the transforms make {tuple(changed[0].shape)} {changed[0].dtype} of an image "
                f"{tuple(images.shape[1:])} {images.dtype}; its shape and type must stay"
            )
        return torch.stack(changed)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of a device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _transform(config: TransformConfig) -> Any:
    needs("torchvision")
    allow_torchvision_without_ops()
    from torchvision.transforms import v2  # after the line above, and only where it is needed

    known = {
        name
        for name, value in vars(v2).items()
        if isinstance(value, type) and issubclass(value, v2.Transform)
    }
    if config.name not in known:
        raise ConfigError(unknown_name("transform", config.name, known))
    try:
        return getattr(v2, config.name)(**config.constants)
    except Exception as error:  # a constructor of another library may raise anything
        raise ConfigError(f"transform {config.name!r} cannot be made: {error}") from error
