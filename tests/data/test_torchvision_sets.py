"""Torchvision's sets from a local root, in files written here in their own formats."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from flatscale.data import load_dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig


def write_idx(path: Path, array: np.ndarray) -> None:
    """The IDX format of MNIST: magic number, sizes, bytes."""
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())


@pytest.fixture
def fashion_root(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, number in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (number, 28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(number) % 10)
    return tmp_path


def test_fashion_mnist_from_a_local_root(fashion_root: Path) -> None:
    config = DataConfig(source="fashion_mnist", path=str(fashion_root))
    loaded = load_dataset(config, seed=0)
    assert loaded.x_train.shape == (40, 1, 28, 28)
    assert loaded.x_test.shape == (20, 1, 28, 28)
    assert loaded.class_names[:2] == ("T-shirt/top", "Trouser")
    assert loaded.y_train.tolist() == [index % 10 for index in range(40)]
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    assert np.array_equal(loaded.x_train[:, 0], (images / np.float32(255)).astype(np.float32))


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_nothing_is_downloaded_unless_asked(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read from data\.path .*data\.download: true"):
        load_dataset(DataConfig(source=source, path=str(tmp_path)), seed=0)
