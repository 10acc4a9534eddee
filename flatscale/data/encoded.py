"""Images as they lie on the disk, for networks that each prepare them in their own way.

A zoo's networks differ in input size, crop and normalization. What is shared, hashed and sent to
the workers is therefore the encoded image; a worker decodes it once for each preprocessing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flatscale.data.decoding import decode_images
from flatscale.data.loading import Dataset, checked_source
from flatscale.data.points import Points
from flatscale.data.selection import balanced_rows, select_classes
from flatscale.data.source import Split, unit_range
from flatscale.errors import DataError
from flatscale.extras import needs
from flatscale.models.pytorch_image_models import timm_module
from flatscale.study.pretrained import Preprocessing
from flatscale.study.schema import StudyConfig
from flatscale.study.seeds import derive_seed

Encoded = NDArray[Any]
"""The bytes of image files, (n,): what `Points` and `Dataset` of a zoo hold in place of pixels."""


def load_encoded(config: StudyConfig, sets: Iterable[str] = ()) -> Points:
    """The probe of a study that only measures, and its training and test images where needed.

    The probe is the draw that `select_probe` makes of the same split and seed.

    Args:
        config: the study.
        sets: `train`, `test`, or both: what its metrics need besides the probe.

    Raises:
        DataError: the data cannot be read as configured, or have no images of a split needed.
    """
    wanted, data = config.measurement, config.data
    for key in ("label_noise", "pixels", "shortcut", "held_out_size", "shifted"):
        if getattr(data, key):
            raise DataError(f"data.{key} is for networks that are trained here; remove it")
    source = checked_source(data)
    classes = select_classes(source.class_names, data.classes)
    data_seed = derive_seed(config.seed, "data")
    loaded = {}
    for name in sorted({*sets, wanted.probe_split}):
        split = source.train if name == "train" else source.test
        if split.absent is not None:
            raise split.absent
        size = data.train_size if name == "train" else data.test_size
        seed = derive_seed(data_seed, "data", name)
        loaded[name] = _chosen(split, classes, len(source.class_names), size, seed)
    images, labels = loaded[wanted.probe_split]
    seed = derive_seed(derive_seed(config.seed, "probe"), "probe", wanted.probe_split)
    where = f"the {wanted.probe_split} images of {data.source!r}"
    rows = balanced_rows(labels, len(classes), wanted.probe_size, seed=seed, where=where)
    point_sets = {"probe": (images[rows], labels[rows])}
    point_sets |= {name: loaded[name] for name in sets}
    names = tuple(source.class_names[index] for index in classes)
    hashes = {name: encoded_hash(*points) for name, points in point_sets.items()}
    nothing = np.empty(0, dtype=object), np.empty(0, dtype=np.int64)
    (x_train, y_train), (x_test, y_test) = (
        point_sets.get(name, nothing) for name in ("train", "test")
    )
    return Points(
        dataset=Dataset(
            name=data.name or data.source,
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            class_names=names,
            content_hash=encoded_hash(images, labels),
        ),
        point_sets=point_sets,
        content_hashes=hashes,
    )


def encoded_hash(images: Sequence[bytes] | Encoded, labels: NDArray[np.int64]) -> str:
    """SHA-256 over the files' content and their classes, 16 hex digits."""
    digest = hashlib.sha256()
    for image, label in zip(images, labels, strict=True):
        digest.update(f"\x1e{len(image)}:{label}:".encode() + image)
    return digest.hexdigest()[:16]


def prepare(
    images: Sequence[bytes] | Encoded,
    preprocessing: Preprocessing | None,
    image_size: int | None = None,
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Inputs of a network from image files, (n, channels, height, width).

    Args:
        images: their bytes.
        preprocessing: the network's own, by timm's evaluation transform; None keeps the images as
            they are, in [0, 1].
        image_size: side to which images are resized where there is no preprocessing.
        num_threads: decoding at a time.

    Raises:
        DataError: an image cannot be decoded, or the preprocessing cannot be made.
    """
    named = [(f"probe image {index}", bytes(image)) for index, image in enumerate(images)]
    if preprocessing is None:
        return unit_range(decode_images(named, len(named), image_size))
    transform = _transform(preprocessing)
    mode = "L" if preprocessing.input_size[0] == 1 else "RGB"
    prepared = np.empty((len(named), *preprocessing.input_size), dtype=np.float32)

    def one(index: int) -> None:
        where, content = named[index]
        try:
            with Image.open(io.BytesIO(content)) as opened:
                prepared[index] = transform(opened.convert(mode)).numpy()
        except Exception as error:  # decoders meet broken bytes with errors of every kind
            raise DataError(f"{where}: the image cannot be prepared: {error}") from error

    with ThreadPoolExecutor(max(1, num_threads)) as threads:
        list(threads.map(one, range(len(named))))
    return prepared


def _transform(preprocessing: Preprocessing) -> Any:
    needs("timm", "torchvision")
    create_transform = timm_module().data.create_transform
    try:
        return create_transform(is_training=False, **preprocessing.model_dump())
    except Exception as error:
        raise DataError(f"images cannot be prepared by {preprocessing!r}: {error}") from error


def _chosen(
    split: Split, classes: tuple[int, ...], num_classes: int, size: int | None, seed: int
) -> tuple[Encoded, NDArray[np.int64]]:
    """The kept images of a split and their classes; only their bytes are read."""
    if split.encoded is None:
        raise DataError(
            f"{split.where} are no image files, which a zoo's networks prepare each in its own "
            "way; use data.source parquet or folder"
        )
    new_index = np.full(num_classes, -1, dtype=np.int64)
    new_index[list(classes)] = np.arange(len(classes))
    labels = new_index[split.labels]
    rows = np.flatnonzero(labels >= 0)
    kept = rows[balanced_rows(labels[rows], len(classes), size, seed=seed, where=split.where)]
    images = np.empty(len(kept), dtype=object)
    for index, (_, content) in enumerate(split.encoded(kept)):
        images[index] = content if isinstance(content, bytes) else content.read_bytes()
    return images, labels[kept]
