"""Image folders: a round trip and every fault named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flatscale.data import load_dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig


def save(path: Path, value: int, size: tuple[int, int] = (5, 7), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if len(mode) == 1 else (value, 0, 255)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for index in range(3):
            save(tmp_path / split / "cat" / f"{index}.png", index)
            save(tmp_path / split / "dog" / f"{index}.PNG", 100 + index)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def load(folder: Path, **config: object):
    return load_dataset(DataConfig(source="folder", path=str(folder), **config), seed=0)


def test_pixels_and_labels_survive(images: Path) -> None:
    loaded = load(images)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.x_train.shape == (6, 3, 7, 5)
    assert loaded.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.allclose(loaded.x_train[:, 0, 0, 0] * 255, [0, 1, 2, 100, 101, 102])
    assert (loaded.x_train[:, 2] == 1).all()


def test_validation_may_stand_for_test_and_images_are_resized(images: Path) -> None:
    (images / "test").rename(images / "val")
    save(images / "val" / "cat" / "wide.png", 3, size=(20, 4))
    assert load(images, image_size=8).x_test.shape == (7, 3, 8, 8)


def test_every_mode_of_8_bit_images_is_read(images: Path) -> None:
    for mode in ("L", "P", "RGB"):
        save(images / "train" / "cat" / f"{mode}.png", 50, mode=mode)
    Image.new("RGBA", (5, 7), (1, 2, 3, 0)).save(images / "train" / "cat" / "alpha.png")
    Image.new("CMYK", (5, 7)).save(images / "train" / "cat" / "print.jpg")
    assert load(images).x_train.shape == (11, 3, 7, 5)


def test_broken_images_are_named(images: Path) -> None:
    (images / "train" / "dog" / "1.PNG").write_bytes(b"\x89PNG no more")
    with pytest.raises(DataError, match=r"dog/1\.PNG: the image cannot be decoded"):
        load(images)


def test_images_of_16_bits_are_refused(images: Path) -> None:
    Image.fromarray(np.full((7, 5), 60_000, dtype=np.uint16)).save(
        images / "train" / "dog" / "deep.png"
    )
    with pytest.raises(DataError, match=r"deep\.png: pixels of mode 'I;16' are not supported"):
        load(images)


def test_other_sizes_missing_and_unknown_classes_are_refused(images: Path) -> None:
    save(images / "train" / "dog" / "9.png", 1, size=(6, 7))
    with pytest.raises(DataError, match=r"9\.png: the image is 7x6, but .*cat/0\.png is 7x5; set"):
        load(images)
    (images / "train" / "dog" / "9.png").unlink()
    (images / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="class 'cow' has no image"):
        load(images)
    (images / "train" / "cow").rmdir()
    (images / "test" / "dog").rename(images / "test" / "dgo")
    with pytest.raises(DataError, match=r"test/dgo: there is no such class .*did you mean 'dog'"):
        load(images)
    (images / "test").rename(images / "testing")
    with pytest.raises(DataError, match="must hold the folder test or val or validation; found"):
        load(images)


def test_a_training_folder_without_classes_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "0.png", 1)
    with pytest.raises(DataError, match="one folder a class; found none"):
        load(tmp_path)


def test_a_class_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"the class folder .*train/cat cannot be read: .*denied"):
        load_dataset(DataConfig(source="folder", path=str(tmp_path)), seed=0)
