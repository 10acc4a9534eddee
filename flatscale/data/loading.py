"""The points a study uses, in memory, and the hash that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatscale.data.arms import PIXEL_ARMS, noisy_labels, planted_shortcut
from flatscale.data.selection import balanced_rows, select_classes
from flatscale.data.source import DATASETS, Source, Split, Task, unit_range
from flatscale.errors import DataError
from flatscale.models import InputKind
from flatscale.study.schema import DataConfig
from flatscale.study.seeds import derive_seed

Inputs = NDArray[np.float32]
Targets = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test points of a study; the arrays are read-only."""

    name: str
    """What the study file calls it; the source by default."""
    x_train: Inputs
    """Training inputs, float32: images in [0, 1], (n, channels, height, width); table rows (n,
    features); tokens (n, length, vocabulary)."""
    y_train: Targets
    """Their classes, int64, (n,), indices into `class_names`; or numbers, float32, (n, outputs)."""
    x_test: Inputs
    """Test inputs."""
    y_test: Targets
    """Their classes or numbers."""
    class_names: tuple[str, ...]
    """Names of the classes kept, in order, or of the outputs of a regression."""
    content_hash: str
    """SHA-256 over arrays and names, 16 hex digits."""
    kind: InputKind = "image"
    """What the inputs are."""
    task: Task = "classification"
    """Whether classes or numbers are to be predicted."""
    held_out: tuple[Inputs, Targets] | None = None
    """Points kept apart from the training points for early stopping."""
    num_labels_changed: int = 0
    """Training labels that `label_noise` changed."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        """Number of classes, or of outputs of a regression."""
        return len(self.class_names)


def load_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """Load the points a study file asks for.

    Args:
        config: the `data` part of the study file.
        seed: everything random derives from it: the subsets of `train_size`, `test_size` and
            `held_out_size`, and what is done to labels and pixels.

    Raises:
        DataError: unknown source, option or class, files that are missing or broken (named, with
            the row), images of different sizes, an empty class, more points than exist, or a key
            that such data cannot take.
    """
    source = checked_source(config)
    for split in (source.train, source.test):
        if split.absent is not None:
            raise split.absent
    classes = select_classes(source.class_names, config.classes)
    if len(classes) < 2 and source.task == "classification":
        raise DataError(
            f"{source.train.where}: found {len(classes)} classes, at least 2 are needed"
        )
    train_seed, test_seed = (derive_seed(seed, "data", name) for name in ("train", "test"))
    x_train, y_train = _points(source, source.train, classes, config.train_size, train_seed)
    x_test, y_test = _points(source, source.test, classes, config.test_size, test_seed)
    if source.kind == "image" and {x_train.shape[1], x_test.shape[1]} == {1, 3}:
        # grey beside coloured becomes grey RGB
        x_train, x_test = (np.repeat(x, 3 // x.shape[1], axis=1) for x in (x_train, x_test))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"training images are {x_train.shape[1:]}, test images {x_test.shape[1:]} (channels, "
            "height, width); set data.image_size"
        )
    before = y_train
    x_train, y_train, x_test = _with_arms(
        config, (x_train, y_train, x_test, y_test), len(classes), seed
    )
    changed = int(np.sum(before != y_train)) if config.label_noise else 0
    held_out = None
    if config.held_out_size is not None:
        drawn = derive_seed(seed, "held_out")
        apart = _subset(source, y_train, len(classes), config.held_out_size, drawn)
        (x_train, y_train), held_out = _set_apart((x_train, y_train), apart)
    for array in (x_train, y_train, x_test, y_test, *(held_out or ())):
        array.flags.writeable = False
    class_names = tuple(source.class_names[index] for index in classes)
    return Dataset(
        name=config.name or config.source,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=class_names,
        content_hash=array_hash(x_train, y_train, x_test, y_test, names=class_names),
        kind=source.kind,
        task=source.task,
        held_out=held_out,
        num_labels_changed=changed,
    )


def checked_source(config: DataConfig) -> Source:
    """The source that a study file names, its labels within its classes.

    Raises:
        DataError: unknown source or option, files that are missing or broken, a label out of range,
            or a key that such data cannot take.
    """
    options = DATASETS.checked_options(config.source, config.options)
    source: Source = DATASETS[config.source].function(config, **options)
    _check_keys(config, source)
    for split in (source.train, source.test):
        _check_labels(split, source)
    return source


def array_hash(*arrays: NDArray[np.generic], names: tuple[str, ...] = ()) -> str:
    """SHA-256 over types, shapes and values of arrays and over names, 16 hex digits."""
    digest = hashlib.sha256("\x1f".join(names).encode())
    for array in arrays:
        little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"\x1e{little_endian.dtype.str}{little_endian.shape}".encode())
        digest.update(little_endian.data)
    return digest.hexdigest()[:16]


def _check_keys(config: DataConfig, source: Source) -> None:
    """Refuse keys that such data cannot take.

    Raises:
        DataError: the first of them.
    """
    needs = {"classes": "classes", "label_noise": "classes", "shortcut": "images with classes"}
    needs |= {"pixels": "images", "image_size": "images"}
    has = {source.kind + "s"} | ({"classes"} if source.task == "classification" else set())
    for key, needed in needs.items():
        if getattr(config, key) and not set(needed.split(" with ")) <= has:
            raise DataError(
                f"data.{key} is for {needed}; {config.source!r} is a {source.task} of "
                f"{source.kind} inputs"
            )


def _with_arms(
    config: DataConfig, arrays: tuple[Inputs, Targets, Inputs, Targets], num_classes: int, seed: int
) -> tuple[Inputs, Targets, Inputs]:
    """Training inputs and targets and test inputs, with what `config` does to them."""
    x_train, y_train, x_test, y_test = arrays
    if config.label_noise:
        noise_seed = derive_seed(seed, "label_noise")
        y_train = noisy_labels(y_train, num_classes, config.label_noise, noise_seed)
    if config.pixels is not None:
        rng = np.random.default_rng(derive_seed(seed, "pixels"))
        x_train, x_test = PIXEL_ARMS[config.pixels].function(x_train, x_test, rng)
    if config.shortcut:
        plant, seeds = (
            planted_shortcut,
            [derive_seed(seed, "shortcut", n) for n in ("train", "test")],
        )
        x_train = plant(x_train, y_train, num_classes, config.shortcut, seeds[0], fails=False)
        x_test = plant(x_test, y_test, num_classes, 1.0, seeds[1], fails=True)
    return x_train, y_train, x_test


def _points(
    source: Source, split: Split, classes: tuple[int, ...], size: int | None, seed: int
) -> tuple[Inputs, Targets]:
    """The kept inputs of one split with their new class indices, or their numbers."""
    targets, rows = split.labels, np.arange(len(split.labels))
    if source.task == "classification":
        new_index = np.full(len(source.class_names), -1, dtype=np.int64)
        new_index[list(classes)] = np.arange(len(classes))
        targets = new_index[split.labels]
        rows = np.flatnonzero(targets >= 0)
        counts = np.bincount(targets[rows], minlength=len(classes))
        empty = [source.class_names[classes[index]] for index in np.flatnonzero(counts == 0)]
        if empty and source.balanced:
            raise DataError(
                f"{split.where}: class {empty[0]!r} has no image ({len(empty)} of {len(classes)} "
                "classes are empty); list the classes to keep in data.classes"
            )
    if size is not None:
        rows = rows[_subset(source, targets[rows], len(classes), size, seed, split)]
    inputs = np.ascontiguousarray(unit_range(split.read(rows)))
    is_image = source.kind == "image"
    if not np.isfinite(inputs).all() or (is_image and not 0 <= inputs.min() <= inputs.max() <= 1):
        what = "pixel values must be finite and in [0, 1]" if is_image else "inputs must be finite"
        raise DataError(f"{split.where}: {what}")
    return inputs, targets[rows]


def _set_apart(
    points: tuple[Inputs, Targets], apart: NDArray[np.int64]
) -> tuple[tuple[Inputs, Targets], tuple[Inputs, Targets]]:
    """The training points that stay, and those held out."""
    x, y = points
    if len(apart) == len(y):
        raise DataError("data.held_out_size leaves no training point")
    return (np.delete(x, apart, axis=0), np.delete(y, apart, axis=0)), (x[apart], y[apart])


def _subset(
    source: Source,
    targets: Targets,
    num_classes: int,
    size: int,
    seed: int,
    split: Split | None = None,
) -> NDArray[np.int64]:
    """Rows of a subset, drawn evenly over the classes where the source has them in balance."""
    even = source.balanced and source.task == "classification"
    labels = targets if even else np.zeros(len(targets), dtype=np.int64)
    where = split.where if split else "the training points"
    named = "held_out" if split is None else "train" if split is source.train else "test"
    key, classes = f"data.{named}_size", num_classes if even else 1
    return balanced_rows(labels, classes, size, seed=seed, where=where, key=key)


def _check_labels(split: Split, source: Source) -> None:
    if source.task == "regression":
        outputs = len(source.class_names)
        if split.labels.shape[1:] != (outputs,) or not np.isfinite(split.labels).all():
            raise DataError(
                f"{split.where}: targets must be finite numbers (n, {outputs}); found "
                f"{split.labels.shape} or a value that is not finite"
            )
        return
    num_classes = len(source.class_names)
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if outside.size:
        row = int(outside[0])
        where = split.name_of_row(row) if split.name_of_row else f"{split.where}, row {row}"
        raise DataError(
            f"{where}: label {split.labels[row]} is out of range; there are {num_classes} classes, "
            f"0..{num_classes - 1}"
        )
