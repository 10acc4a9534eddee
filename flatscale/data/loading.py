"""The images a study uses, in memory, and the hash that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flatscale.data.selection import balanced_rows, select_classes
from flatscale.data.source import DATASETS, Source, Split, unit_range
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig
from flatscale.study.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test images of a study; the arrays are read-only."""

    name: str
    """The source."""
    x_train: NDArray[np.float32]
    """Training images, float32 in [0, 1], (n, channels, height, width)."""
    y_train: NDArray[np.int64]
    """Their classes, int64, (n,), indices into `class_names`."""
    x_test: NDArray[np.float32]
    """Test images."""
    y_test: NDArray[np.int64]
    """Their classes."""
    class_names: tuple[str, ...]
    """Names of the classes kept, in order."""
    content_hash: str
    """SHA-256 over arrays and names, 16 hex digits."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def load_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """Load the images a study file asks for.

    Args:
        config: the `data` part of the study file.
        seed: the subsets of `train_size` and `test_size` derive from it.

    Raises:
        DataError: unknown source, option or class, files that are missing or broken (named, with
            the row), images of different sizes, an empty class, or more images than exist.
    """
    options = DATASETS.checked_options(config.source, config.options)
    source: Source = DATASETS[config.source].function(config, **options)
    for split in (source.train, source.test):
        _check_labels(split, len(source.class_names))
    classes = select_classes(source.class_names, config.classes)
    if len(classes) < 2:
        raise DataError(
            f"{source.train.where}: found {len(classes)} classes, at least 2 are needed"
        )
    train_seed, test_seed = (derive_seed(seed, "data", name) for name in ("train", "test"))
    x_train, y_train = _images(source, source.train, classes, config.train_size, train_seed)
    x_test, y_test = _images(source, source.test, classes, config.test_size, test_seed)
    if {x_train.shape[1], x_test.shape[1]} == {1, 3}:  # grey beside coloured becomes grey RGB
        x_train, x_test = (np.repeat(x, 3 // x.shape[1], axis=1) for x in (x_train, x_test))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"training images are {x_train.shape[1:]}, test images {x_test.shape[1:]} (channels, "
            "height, width); set data.image_size"
        )
    for array in (x_train, y_train, x_test, y_test):
        array.flags.writeable = False
    class_names = tuple(source.class_names[index] for index in classes)
    return Dataset(
        name=config.source,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=class_names,
        content_hash=array_hash(x_train, y_train, x_test, y_test, names=class_names),
    )


def array_hash(*arrays: NDArray[np.generic], names: tuple[str, ...] = ()) -> str:
    """SHA-256 over types, shapes and values of arrays and over names, 16 hex digits."""
    digest = hashlib.sha256("\x1f".join(names).encode())
    for array in arrays:
        little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"\x1e{little_endian.dtype.str}{little_endian.shape}".encode())
        digest.update(little_endian.data)
    return digest.hexdigest()[:16]


def _images(
    source: Source, split: Split, classes: tuple[int, ...], size: int | None, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The kept images of one split with their new class indices."""
    new_index = np.full(len(source.class_names), -1, dtype=np.int64)
    new_index[list(classes)] = np.arange(len(classes))
    labels = new_index[split.labels]
    rows = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[rows], minlength=len(classes))
    if empty := [source.class_names[classes[index]] for index in np.flatnonzero(counts == 0)]:
        raise DataError(
            f"{split.where}: class {empty[0]!r} has no image ({len(empty)} of {len(classes)} "
            "classes are empty); list the classes to keep in data.classes"
        )
    kept = balanced_rows(labels[rows], len(classes), size, seed=seed, where=split.where)
    rows = rows[kept]
    images = np.ascontiguousarray(unit_range(split.read(rows)))
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise DataError(f"{split.where}: pixel values must be finite and in [0, 1]")
    return images, labels[rows]


def _check_labels(split: Split, num_classes: int) -> None:
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if outside.size:
        row = int(outside[0])
        where = split.name_of_row(row) if split.name_of_row else f"{split.where}, row {row}"
        raise DataError(
            f"{where}: label {split.labels[row]} is out of range; there are {num_classes} classes, "
            f"0..{num_classes - 1}"
        )
