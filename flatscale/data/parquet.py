"""`parquet`: images in the Hugging Face layout, a folder of train-*.parquet and test-*.parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flatscale.data.decoding import EncodedImage, decode_images
from flatscale.data.source import Source, Split, dataset, required_path
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLITS = {"train": ("train",), "test": ("test", "validation")}
_BATCH_ROWS = 256
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _File:
    """One parquet file: where its rows are in its split, and its columns."""

    path: Path
    num_rows: int
    image_column: str
    label_column: str
    class_names: tuple[str, ...] | None


@dataset("parquet")
def parquet(config: DataConfig) -> Source:
    """Images as a struct {bytes, path} and integer labels.

    Class names come from the file's metadata: `class_names` (separated by commas) or the ClassLabel
    of Hugging Face's own `huggingface` entry; without either, classes are numbered, up to a million
    of them. `validation-*`
    serves as test where there is no `test-*`. Labels are read first; images only of the rows kept,
    a few hundred at a time.
    """
    folder = Path(required_path(config))
    files = {name: _files(folder, name) for name in _SPLITS}
    labels = {name: [_labels(file) for file in found] for name, found in files.items()}
    class_names = _class_names([file for found in files.values() for file in found])
    if class_names is None:
        highest = max(int(part.max()) for parts in labels.values() for part in parts if part.size)
        class_names = tuple(str(index) for index in range(min(highest + 1, _MOST_CLASSES)))
    for name, found in files.items():
        for file, part in zip(found, labels[name], strict=True):
            _check_range(file, part, len(class_names))
    train, test = (
        _split(folder, name, files[name], labels[name], config.image_size) for name in _SPLITS
    )
    return Source(train=train, test=test, class_names=class_names)


def _files(folder: Path, split: str) -> list[_File]:
    """The files of a split in order of their names, opened far enough to know their columns."""
    if not folder.is_dir():
        raise DataError(f"data.path {folder} is not a folder")
    prefixes = _SPLITS[split]
    for prefix in prefixes:
        paths = sorted(folder.glob(f"{prefix}*.parquet"))
        files = [_open(path) for path in paths]
        if sum(file.num_rows for file in files):
            return files
    found = sorted(path.name for path in folder.iterdir())
    expected = " or ".join(f"{prefix}*.parquet" for prefix in prefixes)
    raise DataError(
        f"{folder} must hold {split} images in {expected}, with at least one row; found "
        f"{', '.join(found[:10]) or 'an empty folder'}"
    )


def _open(path: Path) -> _File:
    with _readable(path):
        schema = pq.read_schema(path)
        num_rows = pq.read_metadata(path).num_rows
    image_column = _column(path, schema, _IMAGE_COLUMNS, "images")
    label_column = _column(path, schema, _LABEL_COLUMNS, "labels")
    if not pa.types.is_integer(schema.field(label_column).type):
        raise DataError(
            f"{path}: column {label_column!r} must hold integers, found "
            f"{schema.field(label_column).type}"
        )
    image_type = schema.field(image_column).type
    if not _is_encoded_image(image_type):
        raise DataError(
            f"{path}: column {image_column!r} must be a struct with a binary field 'bytes', found "
            f"{image_type}"
        )
    return _File(
        path=path,
        num_rows=num_rows,
        image_column=image_column,
        label_column=label_column,
        class_names=_names_in_metadata(path, schema, label_column),
    )


def _column(path: Path, schema: pa.Schema, candidates: tuple[str, ...], what: str) -> str:
    for name in candidates:
        if schema.names.count(name) == 1:
            return name
    raise DataError(
        f"{path} has no column of {what} ({' or '.join(map(repr, candidates))}); found "
        f"{', '.join(map(repr, schema.names)) or 'no columns'}"
    )


def _is_encoded_image(image_type: pa.DataType) -> bool:
    if not pa.types.is_struct(image_type) or image_type.get_field_index("bytes") < 0:
        return False
    content = image_type.field("bytes").type
    return pa.types.is_binary(content) or pa.types.is_large_binary(content)


def _names_in_metadata(path: Path, schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            names: Any = metadata[b"class_names"].decode().split(",")
        elif b"huggingface" in metadata:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            names = features[label_column].get("names")
        else:
            return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: its metadata on class names cannot be read: {error!r}") from error
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{path}: class names in its metadata must be texts, found {names!r:.200}")
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a class name is listed twice in its metadata")
    return tuple(names)


def _class_names(files: list[_File]) -> tuple[str, ...] | None:
    """The one list of class names all files agree on."""
    reference = files[0]
    for file in files:
        if file.class_names != reference.class_names:
            raise DataError(
                f"{file.path} and {reference.path} do not name the same classes in their metadata"
            )
    return reference.class_names


def _labels(file: _File) -> NDArray[np.int64]:
    with _readable(file.path):
        column = pq.read_table(file.path, columns=[file.label_column]).column(0)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        if not valid.all():
            raise DataError(f"{file.path}, row {int(np.argmin(valid))}: the label is missing")
        return column.cast(pa.int64()).to_numpy()


def _check_range(file: _File, labels: NDArray[np.int64], num_classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        row = int(outside[0])
        raise DataError(
            f"{file.path}, row {row}: label {labels[row]} is out of range; there are "
            f"{num_classes} classes, 0..{num_classes - 1}"
        )


def _split(
    folder: Path,
    name: str,
    files: list[_File],
    labels: list[NDArray[np.int64]],
    image_size: int | None,
) -> Split:
    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return decode_images(_encoded(files, rows), len(rows), image_size)

    return Split(labels=np.concatenate(labels), read=read, where=f"the {name} images in {folder}")


def _encoded(files: list[_File], rows: NDArray[np.int64]) -> Iterator[EncodedImage]:
    """The images of ascending rows of a split; row groups without any are not read."""
    first_row, position = 0, 0
    for file in files:
        inside = rows[(rows >= first_row) & (rows < first_row + file.num_rows)] - first_row
        yield from _encoded_in_file(file, inside, position)
        first_row += file.num_rows
        position += len(inside)


def _encoded_in_file(file: _File, rows: NDArray[np.int64], position: int) -> Iterator[EncodedImage]:
    with _readable(file.path), pq.ParquetFile(file.path) as opened:
        first_row = 0
        for group in range(opened.metadata.num_row_groups):
            end = first_row + opened.metadata.row_group(group).num_rows
            if not ((rows >= first_row) & (rows < end)).any():
                first_row = end
                continue
            for batch in opened.iter_batches(
                batch_size=_BATCH_ROWS, row_groups=[group], columns=[f"{file.image_column}.bytes"]
            ):
                last_row = first_row + batch.num_rows
                content = batch.column(0).field("bytes")
                for row in rows[(rows >= first_row) & (rows < last_row)]:
                    where = f"{file.path}, row {row}"
                    encoded = content[int(row) - first_row].as_py()
                    if encoded is None:
                        raise DataError(f"{where}: the image has no bytes")
                    yield EncodedImage(position=position, where=where, content=encoded)
                    position += 1
                first_row = last_row


class _readable:
    """Turns what pyarrow raises on a broken file into a DataError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, pa.ArrowException | OSError | ValueError):
            raise DataError(f"{self._path} is not a readable parquet file: {error}") from error
