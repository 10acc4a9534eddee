"""Parquet images: a round trip, both kinds of metadata, every fault named, and real CIFAR-10."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flatscale.data import load_dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig

CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(number: int, side: int = 6, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def write(
    path: Path,
    contents: list[bytes | None],
    labels: list[int | None],
    metadata: dict[str, str] | None = None,
    image_column: str = "image",
    label_column: str = "label",
    rows_per_group: int = 2,
) -> None:
    images = pa.array([{"bytes": content, "path": None} for content in contents], type=IMAGE_TYPE)
    table = pa.table({image_column: images, label_column: pa.array(labels, type=pa.int64())})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows_per_group)


def write_both(folder: Path, **changes: Any) -> list[np.ndarray]:
    """A sound dataset of two classes with 10 training images in two files and 4 test images."""
    metadata = {"class_names": "cat,dog"}
    train = pictures(10)
    contents = [png(picture) for picture in train]
    write(folder / "train-0.parquet", contents[:7], [0, 1, 0, 1, 0, 1, 0], metadata)
    write(folder / "train-1.parquet", contents[7:], [1, 0, 1], metadata)
    test = [png(picture) for picture in pictures(4, seed=1)]
    write(folder / "test-0.parquet", test, [0, 1, 0, 1], metadata)
    if changes:
        arguments = {"contents": contents[:4], "labels": [0, 1, 0, 1], "metadata": metadata}
        write(folder / "train-0.parquet", **{**arguments, **changes})
    return train


def load(folder: Path, **config: Any):
    return load_dataset(DataConfig(source="parquet", path=str(folder), **config), seed=0)


def test_pixels_and_labels_survive_over_files_and_row_groups(tmp_path: Path) -> None:
    train = write_both(tmp_path)
    loaded = load(tmp_path)
    expected = np.stack(train).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert np.array_equal(loaded.x_train, expected)
    assert loaded.y_train.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert loaded.class_names == ("cat", "dog")
    dogs = load(tmp_path, classes=("dog", "cat"), train_size=4)
    for image, label in zip(dogs.x_train, dogs.y_train, strict=True):
        row = next(i for i in range(10) if np.array_equal(expected[i], image))
        assert label == 1 - row % 2


def test_hugging_face_metadata_and_column_names(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    contents = [png(picture) for picture in pictures(4)]
    for name in ("train-0", "validation-0"):
        path = tmp_path / f"{name}.parquet"
        write(path, contents, [0, 1, 1, 0], metadata, image_column="img")
    assert load(tmp_path).class_names == ("no", "yes")


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    contents = [png(picture) for picture in pictures(3)]
    for name in ("train-0", "test-0"):
        write(tmp_path / f"{name}.parquet", contents, [0, 1, 2])
    assert load(tmp_path).class_names == ("0", "1", "2")


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    grey = [png(picture[:, :, 0]) for picture in pictures(4)]
    metadata = {"class_names": "a,b"}
    for name in ("train-0", "test-0"):
        write(tmp_path / f"{name}.parquet", grey, [0, 1, 0, 1], metadata)
    assert load(tmp_path).x_train.shape == (4, 1, 6, 6)
    write(tmp_path / "train-0.parquet", [*grey[:3], png(pictures(1)[0])], [0, 1, 0, 1], metadata)
    mixed = load(tmp_path)
    assert mixed.x_train.shape == mixed.x_test.shape == (4, 3, 6, 6)
    assert np.array_equal(mixed.x_train[0, 0], mixed.x_train[0, 2])


def test_images_of_different_sizes_need_an_image_size(tmp_path: Path) -> None:
    contents = [png(picture) for picture in pictures(3)]
    large = png(pictures(1, side=12)[0])
    write_both(tmp_path, contents=[*contents, large])
    with pytest.raises(
        DataError, match=r"train-0\.parquet, row 3: .* 12x12, but .*row 0 is 6x6; set"
    ):
        load(tmp_path)
    assert load(tmp_path, image_size=9).x_train.shape == (7, 3, 9, 9)


def test_only_the_images_kept_are_decoded(tmp_path: Path) -> None:
    contents = [png(picture) for picture in pictures(4)]
    write_both(tmp_path, contents=[contents[0], b"broken", contents[2], b"broken"])
    with pytest.raises(DataError, match=r"train-0\.parquet, row 1: the image cannot be decoded"):
        load(tmp_path)
    write(
        tmp_path / "train-1.parquet",
        [*contents, contents[0]],
        [2, 2, 2, 2, 2],
        {"class_names": "cat,dog,cow"},
    )
    write(
        tmp_path / "train-0.parquet",
        [contents[0], b"broken", contents[2], b"broken"],
        [0, 1, 0, 1],
        {"class_names": "cat,dog,cow"},
    )
    write(tmp_path / "test-0.parquet", contents, [0, 2, 0, 2], {"class_names": "cat,dog,cow"})
    assert load(tmp_path, classes=("cat", "cow")).x_train.shape[0] == 7


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"contents": [png(pictures(1)[0])[:40]] * 4}, "row 0: the image cannot be decoded"),
        ({"contents": [None] * 4}, "row 0: the image has no bytes"),
        ({"labels": [0, None, 1, 1]}, "row 1: the label is missing"),
        ({"labels": [0, 1, 2, 1]}, "row 2: label 2 is out of range; there are 2 classes"),
        ({"labels": [0, 1, 1, -5]}, "row 3: label -5 is out of range"),
        ({"image_column": "picture"}, r"no column of images \('image' or 'img'\); found 'picture'"),
        ({"label_column": "class"}, "no column of labels"),
        ({"metadata": {"class_names": "cat,cow"}}, "do not name the same classes"),
        ({"metadata": {"class_names": "cat,cat"}}, "listed twice"),
        ({"metadata": {"huggingface": "{"}}, "metadata on class names cannot be read"),
        ({"metadata": {"huggingface": "[]"}}, "metadata on class names cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_row(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    write_both(tmp_path, **changes)
    with pytest.raises(DataError, match=fault) as caught:
        load(tmp_path)
    assert "train-0.parquet" in str(caught.value)


def test_a_fault_in_a_later_file_is_named_with_the_row_of_that_file(tmp_path: Path) -> None:
    write_both(tmp_path)
    metadata = {"class_names": "cat,dog"}
    whole = png(pictures(1)[0])
    write(tmp_path / "train-1.parquet", [whole, b"broken", whole], [1, 0, 1], metadata)
    with pytest.raises(DataError, match=r"train-1\.parquet, row 1: the image cannot be decoded"):
        load(tmp_path)
    for row, labels in enumerate(([7, 0, 1], [0, 7, 1], [0, 1, 7])):
        write(tmp_path / "train-1.parquet", [whole] * 3, labels, metadata)
        with pytest.raises(DataError, match=rf"train-1\.parquet, row {row}: label 7 is out of"):
            load(tmp_path)


def test_an_image_cut_in_the_middle_is_named(tmp_path: Path) -> None:
    whole = png(pictures(1, side=40)[0])
    write_both(tmp_path, contents=[whole, whole, whole, whole[: len(whole) // 2]])
    (tmp_path / "train-1.parquet").unlink()
    with pytest.raises(DataError, match=r"train-0\.parquet, row 3: the image cannot be decoded"):
        load(tmp_path)


def test_columns_of_another_type_are_refused(tmp_path: Path) -> None:
    write_both(tmp_path)
    path = tmp_path / "train-0.parquet"
    image = pa.array([{"bytes": b"", "path": None}], type=IMAGE_TYPE)
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), path)
    with pytest.raises(DataError, match=r"'image' must be a struct .* found string"):
        load(tmp_path)
    pq.write_table(pa.table({"image": image, "label": ["cat"]}), path)
    with pytest.raises(DataError, match="'label' must hold integers, found string"):
        load(tmp_path)


def test_an_empty_class_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_both(tmp_path, labels=[0, 0, 0, 0])
    (tmp_path / "train-1.parquet").unlink()
    with pytest.raises(DataError, match="class 'dog' has no image"):
        load(tmp_path)
    (tmp_path / "test-0.parquet").unlink()
    with pytest.raises(
        DataError, match=r"test images in test\*\.parquet or validation\*\.parquet.*train-0"
    ):
        load(tmp_path)


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    write_both(tmp_path)
    path = tmp_path / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-1\.parquet is not a readable parquet file"):
        load(tmp_path)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_bytes_give_a_data_error_or_the_data(tmp_path: Path, data: st.DataObject) -> None:
    write_both(tmp_path)
    path = tmp_path / "train-0.parquet"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        fault, num_images = None, len(load(tmp_path).x_train)
    except DataError as error:
        fault, num_images = str(error), 0
    assert num_images > 0 if fault is None else str(tmp_path) in fault


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="needs CIFAR-10 as parquet beside the repository")
def test_real_cifar10() -> None:
    config = DataConfig(
        source="parquet", path=str(CIFAR10), classes=("dog", "truck"), train_size=60, test_size=20
    )
    loaded = load_dataset(config, seed=0)
    assert loaded.class_names == ("dog", "truck")
    assert loaded.x_train.shape == (60, 3, 32, 32)
    assert np.bincount(loaded.y_train).tolist() == [30, 30]
    assert np.bincount(loaded.y_test).tolist() == [10, 10]
    # The mean over all of CIFAR-10 is 0.47; over 60 images it stays near.
    assert 0.3 < loaded.x_train.mean() < 0.65
    assert len({image.tobytes() for image in loaded.x_train}) == 60
    assert load_dataset(config, seed=0).content_hash == loaded.content_hash
    assert load_dataset(config, seed=1).content_hash != loaded.content_hash
