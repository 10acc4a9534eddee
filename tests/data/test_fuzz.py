"""Image files and tables broken in every way hypothesis finds: a named fault, or sound data."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flatscale.data import Dataset, load_dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig

FUZZ = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".gif", ".bmp", ".webp", ".tif", ".ppm", ".txt", "")


def image(format_: str, width: int, height: int, mode: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format_)
    return file.getvalue()


@st.composite
def sound_images(draw: st.DrawFn) -> bytes:
    return image(
        draw(st.sampled_from(FORMATS)),
        draw(st.sampled_from([1, 5, 6])),
        draw(st.sampled_from([1, 5, 6])),
        draw(st.sampled_from(["RGB", "L"])),
        draw(st.integers(0, 3)),
    )


@st.composite
def broken_images(draw: st.DrawFn) -> bytes:
    """A whole image, one cut short, one with bytes changed, or no image at all."""
    content = bytearray(draw(sound_images()))
    kind = draw(st.sampled_from(["whole", "cut", "changed", "foreign"]))
    if kind == "cut":
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    if kind == "changed":
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content)
    return draw(st.binary(max_size=40)) if kind == "foreign" else bytes(content)


def loads_or_names(config: DataConfig, root: Path) -> Dataset | None:
    """The data, sound; or None after a fault that says where it is."""
    fault = None
    try:
        loaded = load_dataset(config, seed=0)
    except DataError as error:
        fault = str(error)
    if fault is not None:
        assert str(root) in fault
        assert len(fault) < 5_000
        return None
    for x, y in ((loaded.x_train, loaded.y_train), (loaded.x_test, loaded.y_test)):
        assert x.dtype == np.float32
        assert x.ndim == 4
        assert len(x) == len(y) > 0
        assert np.isfinite(x).all()
        assert x.min() >= 0
        assert x.max() <= 1
        assert set(y.tolist()) <= set(range(loaded.num_classes))
    return loaded


@pytest.mark.filterwarnings("default")
@FUZZ
@given(data=st.data())
def test_a_folder_of_images(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "images"
    shutil.rmtree(root, ignore_errors=True)
    sound = image("PNG", 5, 5, "RGB", 0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.png").write_bytes(sound)
    place = root / data.draw(st.sampled_from(["train", "test"])) / "cat"
    content = data.draw(broken_images())
    (place / f"drawn{data.draw(st.sampled_from(SUFFIXES))}").write_bytes(content)
    size = data.draw(st.sampled_from([None, 4, 9]))
    loads_or_names(DataConfig(source="folder", path=str(root), image_size=size), root)


def test_a_folder_of_images_holds_things_that_are_no_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(image("PNG", 5, 5, "L", 0))
    (tmp_path / "train" / "cat" / "folder.png").mkdir()
    (tmp_path / "train" / "cat" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    config = DataConfig(source="folder", path=str(tmp_path))
    assert loads_or_names(config, tmp_path) is not None


LABEL_TYPES: tuple[Any, ...] = (
    pa.int64(),
    pa.int8(),
    pa.uint64(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
    pa.dictionary(pa.int32(), pa.int64()),
)
IMAGE_TYPES: tuple[Any, ...] = (
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    pa.struct([("bytes", pa.large_binary())]),
    pa.struct([("bytes", pa.string())]),
    pa.struct([("path", pa.string())]),
    pa.binary(),
    pa.list_(pa.uint8()),
)


def labels_of(kind: Any, values: list[int | None]) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([None if v is None else str(v) for v in values], type=kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if v is None else bool(v) for v in values], type=kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, type=pa.int64()).dictionary_encode()
    return pa.array(values, type=pa.int64()).cast(kind, safe=False)


def images_of(kind: Any, contents: list[bytes | None]) -> pa.Array:
    if pa.types.is_struct(kind):
        text = pa.types.is_struct(kind) and kind == IMAGE_TYPES[2]
        rows = [
            None
            if content is None
            else {
                field.name: ("text" if text or field.name == "path" else content) for field in kind
            }
            for content in contents
        ]
        return pa.array(rows, type=kind)
    return pa.array(
        [None if c is None else list(c) if kind == IMAGE_TYPES[5] else c for c in contents],
        type=kind,
    )


@pytest.mark.filterwarnings("default")
@FUZZ
@given(data=st.data())
def test_tables_of_images(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "tables"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    sound = [image("PNG", 5, 5, "RGB", k) for k in range(2)]
    first = IMAGE_TYPES[0]
    for name in ("train-0", "test-0"):
        whole = {"image": images_of(first, sound), "label": pa.array([0, 1])}
        pq.write_table(pa.table(whole), root / f"{name}.parquet")

    label = st.none() | st.integers(0, 2) | st.integers(-(2**62), 2**62)
    number = data.draw(st.integers(0, 4))
    names = data.draw(
        st.sampled_from(
            [("image", "label"), ("img", "fine_label"), ("image", "lable"), ("image", "image")]
        )
    )
    columns = [
        images_of(
            data.draw(st.sampled_from(IMAGE_TYPES) | st.just(first)),
            data.draw(st.lists(st.none() | broken_images(), min_size=number, max_size=number)),
        ),
        labels_of(
            data.draw(st.sampled_from(LABEL_TYPES) | st.just(pa.int64())),
            data.draw(st.lists(label, min_size=number, max_size=number)),
        ),
    ]
    metadata = data.draw(
        st.none()
        | st.none()
        | st.sampled_from([{"class_names": "cat,dog"}, {"class_names": ""}, {"huggingface": "1"}])
        | st.dictionaries(st.sampled_from([b"class_names", b"huggingface"]), st.binary(max_size=20))
    )
    table = pa.Table.from_arrays(columns, names=list(names)).replace_schema_metadata(metadata)
    path = root / data.draw(st.sampled_from(["train-1.parquet", "test-1.parquet"]))
    pq.write_table(table, path, row_group_size=data.draw(st.integers(1, 4)))
    if data.draw(st.booleans()):
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    size = data.draw(st.sampled_from([None, 4]))
    loads_or_names(DataConfig(source="parquet", path=str(root), image_size=size), root)


def test_a_label_beyond_all_numbers_of_classes_is_named_and_takes_no_memory(tmp_path: Path) -> None:
    sound = [image("PNG", 5, 5, "RGB", k) for k in range(2)]
    for name, last in (("train-0", 1), ("test-0", 2**40)):
        columns = {"image": images_of(IMAGE_TYPES[0], sound), "label": pa.array([0, last])}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"test-0\.parquet, row 1: label 1099511627776 is out of"):
        load_dataset(DataConfig(source="parquet", path=str(tmp_path)), seed=0)
