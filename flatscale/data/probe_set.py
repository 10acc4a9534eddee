"""The probe: the fixed images on which every network of a study is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flatscale.data.loading import Dataset, array_hash
from flatscale.data.selection import balanced_rows
from flatscale.study.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Images to measure on; the arrays are read-only.

    Attributes:
        x: images, float32, (n, channels, height, width).
        y: classes, int64, (n,).
        indices: rows of the split they come from, ascending, (n,).
        content_hash: SHA-256 over images and classes, 16 hex digits; goes into every result row.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    indices: NDArray[np.int64]
    content_hash: str


def select_probe(
    dataset: Dataset, size: int, split: Literal["train", "test"], *, seed: int
) -> Probe:
    """Draw the probe, as evenly over the classes as they allow.

    Args:
        dataset: the study's images.
        size: number of images.
        split: `train` or `test`.
        seed: the draw derives from it.

    Raises:
        DataError: the split has fewer images than that.
    """
    images, labels = (
        (dataset.x_train, dataset.y_train) if split == "train" else (dataset.x_test, dataset.y_test)
    )
    indices = balanced_rows(
        labels,
        dataset.num_classes,
        size,
        seed=derive_seed(seed, "probe", split),
        where=f"the {split} images of {dataset.name!r}",
    )
    x, y = images[indices], labels[indices]
    for array in (x, y, indices):
        array.flags.writeable = False
    return Probe(x=x, y=y, indices=indices, content_hash=array_hash(x, y))
