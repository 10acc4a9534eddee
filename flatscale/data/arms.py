"""What is done to a data set on purpose: noise in labels, pixels without sense, a shortcut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flatscale.errors import DataError
from flatscale.study.registry import Registered, Registry

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
PixelArm = Callable[[Images, Images, np.random.Generator], tuple[Images, Images]]
"""(training images, test images, randomness) -> what takes their places."""

PIXEL_ARMS: Registry[Registered] = Registry("pixel arm", DataError)


def pixel_arm(name: str, *, version: str | None = None) -> Callable[[PixelArm], PixelArm]:
    """Register what `data.pixels` may do to images: (training, test, randomness) -> both, new."""

    def add(function: PixelArm) -> PixelArm:
        PIXEL_ARMS.add(Registered(name=name, function=function, version=version))
        return function

    return add


@pixel_arm("permuted")
def permuted(train: Images, test: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """One permutation of the pixels for all images (Zhang et al. 2017)."""
    order = rng.permutation(train.shape[2] * train.shape[3])
    first, second = (_flat(images)[:, :, order].reshape(images.shape) for images in (train, test))
    return first, second


@pixel_arm("shuffled")
def shuffled(train: Images, test: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """A permutation of its own for every image, the same in all its channels."""

    def of(images: Images) -> Images:
        order = rng.permuted(np.tile(np.arange(images[0, 0].size), (len(images), 1)), axis=1)
        return np.take_along_axis(_flat(images), order[:, None], axis=2).reshape(images.shape)

    return of(train), of(test)


@pixel_arm("gaussian")
def gaussian(train: Images, test: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """Normal pixels with the mean and the variance of the training images'."""
    mean, deviation = float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64))
    first, second = (rng.normal(mean, deviation, images.shape) for images in (train, test))
    return first.astype(np.float32), second.astype(np.float32)


@pixel_arm("grey")
def grey(train: Images, test: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """One channel, the mean of all."""
    first, second = (images.mean(axis=1, keepdims=True) for images in (train, test))
    return first, second


def noisy_labels(labels: Labels, num_classes: int, share: float, seed: int) -> Labels:
    """Labels of which a share, drawn at random, is drawn anew, evenly over all classes.

    A label may be drawn that was there before: with a share of 1 all are random, and about one in
    `num_classes` is right.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[rows] = rng.integers(num_classes, size=len(rows))
    return noisy


def planted_shortcut(
    images: Images, labels: Labels, num_classes: int, share: float, seed: int, *, fails: bool
) -> Images:
    """Images of which a share, drawn at random, shows its label in its first pixels.

    The first `num_classes` pixels, row by row, become 0, but for the one at the label's index,
    which becomes 1, in all channels.

    Args:
        images: (n, channels, height, width).
        labels: (n,).
        num_classes: number of classes.
        share: of the images.
        seed: of the draw.
        fails: another class, drawn evenly, is shown than the label.

    Raises:
        DataError: the images have fewer pixels than there are classes.
    """
    if num_classes > images[0, 0].size:
        raise DataError(
            f"data.shortcut marks a pixel a class; found {num_classes} classes and "
            f"{images[0, 0].size} pixels"
        )
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images))[: round(share * len(images))]
    shown = labels[rows]
    if fails:
        shown = (shown + rng.integers(1, num_classes, size=len(rows))) % num_classes
    marked = _flat(images.copy())
    marked[rows, :, :num_classes] = np.eye(num_classes, dtype=np.float32)[shown][:, None]
    return marked.reshape(images.shape)


def _flat(images: Images) -> Images:
    return images.reshape(*images.shape[:2], -1)
