"""`parquet`: images in the Hugging Face layout, a folder of train-*.parquet and test-*.parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flatscale.data.decoding import decode_images
from flatscale.data.source import Source, Split, absent_split, dataset, required_path
from flatscale.errors import DataError
from flatscale.extras import needs
from flatscale.study.schema import DataConfig

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLITS = {"train": ("train",), "test": ("test", "validation")}
_BATCH_ROWS = 256
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _File:
    """One parquet file of a split, its labels read."""

    path: Path
    image_column: str
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None


class _NoImages(DataError):
    """The folder has no files of a split; a study may do without."""


@dataset("parquet")
def parquet(config: DataConfig) -> Source:
    """Images as a struct {bytes, path} and integer labels.

    Class names come from the file's metadata: `class_names` (separated by commas) or the ClassLabel
    of Hugging Face's own `huggingface` entry; without either, classes are numbered, up to a million
    of them. `validation-*` serves as test where there is no `test-*`. Labels are read first; images
    only of the rows kept, a few hundred at a time.
    """
    needs("pyarrow")
    folder = required_path(config)
    splits, absent = dict[str, list[_File]](), dict[str, DataError]()
    for name in _SPLITS:
        try:
            splits[name] = _files(folder, name)
        except _NoImages as error:
            absent[name] = error
    if not splits:
        raise absent["train"]
    reference, *others = (file for files in splits.values() for file in files)
    for file in others:
        if file.class_names != reference.class_names:
            raise DataError(
                f"{file.path} and {reference.path} do not name the same classes in their metadata"
            )
    train, test = (
        _split(splits[name], f"the {name} images in {folder}", config.image_size)
        if name in splits
        else absent_split(absent[name])
        for name in _SPLITS
    )
    class_names = reference.class_names
    if class_names is None:
        highest = max(int(file.labels.max()) for file in (reference, *others) if file.labels.size)
        class_names = tuple(str(index) for index in range(min(highest + 1, _MOST_CLASSES)))
    return Source(train=train, test=test, class_names=class_names)


def _files(folder: Path, split: str) -> list[_File]:
    """The files of a split in order of their names."""
    if not folder.is_dir():
        raise DataError(f"data.path {folder} is not a folder")
    prefixes = _SPLITS[split]
    for prefix in prefixes:
        paths = sorted(folder.glob(f"{prefix}*.parquet"))
        files = [_open(path) for path in paths]
        if any(file.labels.size for file in files):
            return files
    found = sorted(path.name for path in folder.iterdir())
    expected = " or ".join(f"{prefix}*.parquet" for prefix in prefixes)
    raise _NoImages(
        f"{folder} must hold {split} images in {expected}, with at least one row; found "
        f"{', '.join(found[:10]) or 'an empty folder'}"
    )


def _open(path: Path) -> _File:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path):
        schema = pq.read_schema(path)
    images = _column(path, schema, _IMAGE_COLUMNS, "images")
    labels = _column(path, schema, _LABEL_COLUMNS, "labels")
    if not pa.types.is_integer(kind := schema.field(labels).type):
        raise DataError(f"{path}: column {labels!r} must hold integers, found {kind}")
    if not _is_encoded_image(kind := schema.field(images).type):
        raise DataError(
            f"{path}: column {images!r} must be a struct with a binary field 'bytes', found {kind}"
        )
    class_names = _names_in_metadata(path, schema, labels)
    with _readable(path):
        column = pq.read_table(path, columns=[labels]).column(0)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        if not valid.all():
            raise DataError(f"{path}, row {int(np.argmin(valid))}: the label is missing")
        values = column.cast(pa.int64()).to_numpy()
    return _File(path=path, image_column=images, labels=values, class_names=class_names)


def _column(path: Path, schema: pa.Schema, candidates: tuple[str, ...], what: str) -> str:
    for name in candidates:
        if schema.names.count(name) == 1:
            return name
    raise DataError(
        f"{path} has no column of {what} ({' or '.join(map(repr, candidates))}); found "
        f"{', '.join(map(repr, schema.names)) or 'no columns'}"
    )


def _is_encoded_image(image_type: pa.DataType) -> bool:
    import pyarrow as pa

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


def _split(files: list[_File], where: str, image_size: int | None) -> Split:
    starts = np.cumsum([0, *(len(file.labels) for file in files)])

    def encoded(rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
        for file, start, end in zip(files, starts[:-1], starts[1:], strict=True):
            yield from _encoded(file, rows[(rows >= start) & (rows < end)] - start)

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return decode_images(encoded(rows), len(rows), image_size)

    def name_of_row(row: int) -> str:
        index = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{files[index].path}, row {row - starts[index]}"

    labels = np.concatenate([file.labels for file in files])
    return Split(labels=labels, read=read, where=where, name_of_row=name_of_row, encoded=encoded)


def _encoded(file: _File, rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
    """The images of ascending rows of a file, named; row groups without any are not read."""
    import pyarrow.parquet as pq

    with _readable(file.path), pq.ParquetFile(file.path) as opened:
        groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        starts = np.cumsum([0, *groups])
        for group in np.unique(np.searchsorted(starts, rows, side="right") - 1):
            start = int(starts[group])
            for batch in opened.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=[int(group)],
                columns=[f"{file.image_column}.bytes"],
            ):
                content = batch.column(0).field("bytes")
                for row in rows[(rows >= start) & (rows < start + batch.num_rows)]:
                    encoded = content[int(row) - start].as_py()
                    if encoded is None:
                        raise DataError(f"{file.path}, row {row}: the image has no bytes")
                    yield f"{file.path}, row {row}", encoded
                start += batch.num_rows


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises on a broken file into a DataError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
