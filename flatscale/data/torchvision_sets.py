"""`cifar10`, `cifar100`, `mnist`, `fashion_mnist`: torchvision's copies, from a local root."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatscale.data.source import Source, Split, array_split, dataset, required_path
from flatscale.errors import DataError
from flatscale.extras import needs
from flatscale.models import allow_torchvision_without_ops
from flatscale.study.schema import DataConfig


@dataset("cifar10")
def cifar10(config: DataConfig) -> Source:
    """CIFAR-10: 3x32x32, 50,000 training and 10,000 test images (Krizhevsky 2009)."""
    return _source(config, "CIFAR10")


@dataset("cifar100")
def cifar100(config: DataConfig) -> Source:
    """CIFAR-100: 3x32x32, 50,000 training and 10,000 test images (Krizhevsky 2009)."""
    return _source(config, "CIFAR100")


@dataset("mnist")
def mnist(config: DataConfig) -> Source:
    """MNIST: 1x28x28, 60,000 training and 10,000 test images (LeCun et al. 1998)."""
    return _source(config, "MNIST")


@dataset("fashion_mnist")
def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST: 1x28x28, 60,000 training and 10,000 test images (Xiao et al. 2017)."""
    return _source(config, "FashionMNIST")


def _source(config: DataConfig, class_name: str) -> Source:
    needs("torchvision")
    allow_torchvision_without_ops()
    import torchvision.datasets  # after the line above, and only where it is needed: it is slow

    root = required_path(config)
    load = getattr(torchvision.datasets, class_name)
    try:
        train, test = (load(root, train=part, download=config.download) for part in (True, False))
    except Exception as error:  # missing or broken files and failed downloads raise all sorts
        hint = "" if config.download else "; set data.download: true to fetch it"
        raise DataError(
            f"{class_name} cannot be read from data.path {root}: {error}{hint}"
        ) from error
    return Source(
        train=_split(train, f"{class_name}'s training images", config.image_size),
        test=_split(test, f"{class_name}'s test images", config.image_size),
        class_names=tuple(train.classes),
    )


def _split(loaded: Any, where: str, image_size: int | None) -> Split:
    images, labels = np.asarray(loaded.data), np.asarray(loaded.targets, dtype=np.int64)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return array_split(images, labels, where, image_size)
