"""The probe of a zoo: files, hashed as they are, prepared as timm itself prepares them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flatscale.data import load_encoded, load_points, prepare
from flatscale.errors import DataError
from flatscale.study.pretrained import Preprocessing
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig
from tests.conftest import SHARED

Write = Callable[..., Path]
ZOO = {"zoo": {"source": "timm", "match": ["test_vit"], "weights": "none"}}


def study(folder: Path, source: str = "parquet", **measurement: Any) -> StudyConfig:
    return parse_config(
        {
            "name": "zoo",
            "models": ZOO,
            "data": {"source": source, "path": str(folder)},
            "measurement": {"probe_size": 4, "probe_split": "test", **measurement},
        }
    )


def png(seed: int, height: int = 20, width: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of two classes, in a validation split alone, of different sizes."""
    images = [{"bytes": png(i, 20 + i, 30), "path": None} for i in range(8)]
    table = pa.table({"image": images, "label": [i % 2 for i in range(8)]})
    pq.write_table(table, tmp_path / "validation-0.parquet")
    return tmp_path


def test_the_probe_is_files_and_their_hash(folder: Path) -> None:
    points = load_encoded(study(folder))
    images, labels = points.point_sets["probe"]
    assert [np.sum(labels == k) for k in (0, 1)] == [2, 2]
    assert set(images) <= {png(i, 20 + i, 30) for i in range(8)}
    assert points.dataset.num_classes == 2
    assert load_encoded(study(folder)).content_hashes == points.content_hashes
    other = load_encoded(study(folder, probe_size=6))
    assert other.content_hashes["probe"] != points.content_hashes["probe"]
    assert other.dataset.content_hash == points.dataset.content_hash


def test_a_split_that_is_not_there_matters_only_to_who_needs_it(folder: Path) -> None:
    with pytest.raises(DataError, match="must hold train images"):
        load_encoded(study(folder), ["train"])
    with pytest.raises(DataError, match="must hold train images"):
        load_points(study(folder))
    assert set(load_encoded(study(folder), ["test"]).point_sets) == {"probe", "test"}


def test_the_probe_is_the_one_that_networks_trained_here_have(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                (tmp_path / split / name / f"{i}.png").write_bytes(png(ord(name) * 10 + i, 8, 8))
    encoded = load_encoded(study(tmp_path, "folder"), ["train", "test"])
    decoded = load_points(study(tmp_path, "folder"))
    for name, (images, labels) in encoded.point_sets.items():
        np.testing.assert_array_equal(labels, decoded.point_sets[name][1])
        np.testing.assert_array_equal(prepare(images, None), decoded.point_sets[name][0])


def test_arrays_are_no_image_files() -> None:
    config = parse_config({"name": "zoo", "models": ZOO, "data": {"source": "digits"}})
    with pytest.raises(DataError, match="are no image files"):
        load_encoded(config)


@pytest.mark.parametrize("key", ["held_out_size", "shifted"])
def test_what_is_for_trained_networks_is_refused(folder: Path, key: str) -> None:
    value = {"held_out_size": 2, "shifted": {"source": "digits"}}[key]
    data = {"source": "parquet", "path": str(folder), key: value}
    with pytest.raises(DataError, match=f"data.{key} is for networks that are trained here"):
        load_encoded(parse_config({"name": "zoo", "models": ZOO, "data": data}))


def test_preparing_is_resize_crop_and_normalization() -> None:
    """By hand: the short side to 16 / 0.8 = 20, the middle 16x16, (pixel / 255 - mean) / std."""
    wanted = Preprocessing(
        input_size=(3, 16, 16), crop_pct=0.8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    content = png(3, 40, 60)
    opened = Image.open(io.BytesIO(content))
    resized = np.asarray(opened.resize((30, 20), Image.Resampling.BICUBIC))[2:18, 7:23]
    by_hand = (resized / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    (prepared,) = prepare([content], wanted)
    np.testing.assert_allclose(prepared, by_hand.transpose(2, 0, 1), atol=1e-6)


def test_threads_change_nothing_and_a_broken_image_is_named() -> None:
    wanted = Preprocessing(input_size=(3, 16, 16))
    images = [png(i) for i in range(6)]
    one, four = (prepare(images, wanted, num_threads=n) for n in (1, 4))
    np.testing.assert_array_equal(one, four)
    with pytest.raises(DataError, match="probe image 1: the image cannot be prepared"):
        prepare([images[0], b"no image"], wanted)
    with pytest.raises(DataError, match="images cannot be prepared by"):
        prepare(images, Preprocessing(input_size=(3, 16, 16), interpolation="cubist"))


@pytest.mark.skipif(not (SHARED / "imagenet_sample").is_dir(), reason="no ImageNet sample here")
def test_imagenets_sample_has_one_image_a_class() -> None:
    points = load_encoded(study(SHARED / "imagenet_sample", probe_size=1000))
    images, labels = points.point_sets["probe"]
    assert sorted(labels) == list(range(1000))
    assert prepare(images[:2], Preprocessing(input_size=(3, 64, 64))).shape == (2, 3, 64, 64)
