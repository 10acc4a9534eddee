"""What a dataset loader returns: labels at once, inputs only for the rows that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flatscale.errors import DataError
from flatscale.models import InputKind
from flatscale.study.registry import Registered, Registry
from flatscale.study.schema import DataConfig

ReadImages = Callable[[NDArray[np.int64]], NDArray[np.generic]]
"""Row indices, ascending (k,) -> their inputs: images (k, channels, height, width), uint8 in
[0, 255] or floating point in [0, 1]; table rows (k, features); tokens (k, length, vocabulary)."""
Task = Literal["classification", "regression"]
ReadFiles = Callable[[NDArray[np.int64]], Iterator[tuple[str, bytes | Path]]]
"""Row indices, ascending (k,) -> of each what names it in an error, and its bytes or file."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The training or the test points of a source."""

    labels: NDArray[Any]
    """Class index of each row, (n,), or its numbers to predict, (n, outputs)."""
    read: ReadImages
    """Fetches inputs by row."""
    where: str
    """What to call the split in an error (a folder, a file)."""
    name_of_row: Callable[[int], str] | None = None
    """What to call a row in an error, where its number in the split is not what a reader knows."""
    encoded: ReadFiles | None = None
    """Fetches images by row as they lie on the disk, where they are image files."""
    absent: DataError | None = None
    """Why there are no such images at all: raised by who needs them."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A whole dataset before classes and sizes are chosen."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    """Names of the classes, or of the outputs of a regression."""
    kind: InputKind = "image"
    """What its inputs are: `image`, `table` or `tokens`."""
    task: Task = "classification"
    """`classification` or `regression`."""
    balanced: bool = True
    """Every class has points in both splits, and subsets are drawn evenly over the classes."""


Loader = Callable[..., Source]
"""(the `data` part of a study file, **options) -> source."""

DATASETS: Registry[Registered] = Registry("data source", DataError)


def dataset(name: str, *, version: str | None = None) -> Callable[[Loader], Loader]:
    """Register a loader: a function from the `data` part of a study file to a `Source`.

    The loader takes all there is; the choice of classes, the balanced subsets, the scaling and the
    content hash are the same for every source. Its keyword-only arguments are its options: what
    `data.options` may set, checked against their annotations.

    Args:
        name: what a study file calls it.
        version: as in `Registered`.
    """

    def add(loader: Loader) -> Loader:
        DATASETS.add(Registered(name=name, function=loader, version=version))
        return loader

    return add


def absent_split(reason: DataError) -> Split:
    """A split that the data lack, which matters only to who needs it."""
    nothing = np.empty(0, dtype=np.int64)
    return Split(labels=nothing, read=lambda rows: nothing, where=str(reason), absent=reason)


def array_split(
    images: NDArray[np.generic], labels: NDArray[np.generic], where: str, image_size: int | None
) -> Split:
    """A split of inputs that are in memory, such as images (n, channels, height, width).

    Another image size resizes these, bilinear with antialiasing.
    """

    def read(rows: NDArray[np.int64]) -> NDArray[np.generic]:
        chosen, side = images[rows], image_size
        if side is None or chosen.shape[2:] == (side, side):
            return chosen
        planes = unit_range(chosen).reshape(-1, *chosen.shape[2:])
        bilinear = Image.Resampling.BILINEAR
        resized = [
            np.asarray(Image.fromarray(plane).resize((side, side), bilinear)) for plane in planes
        ]
        return np.stack(resized).reshape(*chosen.shape[:2], side, side)

    kind = np.float32 if labels.dtype.kind == "f" else np.int64
    return Split(labels=np.asarray(labels, dtype=kind), read=read, where=where)


def unit_range(images: NDArray[np.generic]) -> NDArray[np.float32]:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floating point is kept."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return np.asarray(images, dtype=np.float32)


def required_path(config: DataConfig) -> Path:
    """The `path` of a source that needs one.

    Raises:
        DataError: no path in the study file.
    """
    if config.path is None:
        raise DataError(f"data.source {config.source!r} needs data.path: where are the files?")
    return Path(config.path)
