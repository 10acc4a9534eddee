"""`folder`: one folder of image files a class, train/<class>/* and test/<class>/*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flatscale.data.decoding import decode_images
from flatscale.data.source import Source, Split, dataset, required_path
from flatscale.errors import DataError
from flatscale.study.registry import nearest
from flatscale.study.schema import DataConfig

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})


@dataset("folder")
def folder(config: DataConfig) -> Source:
    """Classes are the folders of `train`, sorted by name; `val` or `validation` may stand for
    `test`. Files that are no images by their suffix, and hidden ones, are left alone.
    """
    root = required_path(config)
    train = _split_folder(root, ("train",))
    test = _split_folder(root, ("test", "val", "validation"))
    class_names = _class_folders(train)
    if not class_names:
        raise DataError(f"{train} must hold one folder a class; found none")
    for name in _class_folders(test):
        if name not in class_names:
            raise DataError(
                f"{test / name}: there is no such class in {train}{nearest(name, class_names)}"
            )
    return Source(
        train=_split(train, class_names, config.image_size),
        test=_split(test, class_names, config.image_size),
        class_names=class_names,
    )


def _split_folder(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    found = sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else []
    raise DataError(
        f"data.path {root} must hold the folder {' or '.join(names)}; found "
        f"{', '.join(found) or 'nothing'}"
    )


def _class_folders(split: Path) -> tuple[str, ...]:
    return tuple(
        sorted(path.name for path in split.iterdir() if path.is_dir() and path.name[0] != ".")
    )


def _split(split: Path, class_names: tuple[str, ...], image_size: int | None) -> Split:
    found = [
        (path, label)
        for label, name in enumerate(class_names)
        for path in _entries(split / name)
        if path.suffix.lower() in _SUFFIXES and path.name[0] != "." and path.is_file()
    ]
    files = [path for path, _ in found]

    def encoded(rows: NDArray[np.int64]) -> Iterator[tuple[str, Path]]:
        return ((str(files[row]), files[row]) for row in rows)

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return decode_images(encoded(rows), len(rows), image_size)

    labels = np.array([label for _, label in found], dtype=np.int64)
    return Split(labels=labels, read=read, where=f"the images in {split}", encoded=encoded)


def _entries(class_folder: Path) -> list[Path]:
    """What is in a class's folder; nothing where a split has no such class."""
    try:
        return sorted(class_folder.iterdir()) if class_folder.is_dir() else []
    except OSError as error:
        raise DataError(f"the class folder {class_folder} cannot be read: {error}") from error
