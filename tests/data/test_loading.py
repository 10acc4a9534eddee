"""The generic part of loading: subsets, scaling, hashes, the probe, plugins."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from flatscale.data import (
    DATASETS,
    Dataset,
    Source,
    array_split,
    dataset,
    load_dataset,
    select_probe,
)
from flatscale.data.loading import array_hash
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataConfig(), seed=0)


@pytest.fixture
def own_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders registered in a test are forgotten after it."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS.items()))


def test_digits_are_all_of_scikit_learns(digits: Dataset) -> None:
    assert digits.x_train.shape == (1437, 1, 8, 8)
    assert digits.x_test.shape == (360, 1, 8, 8)
    assert digits.input_shape == (1, 8, 8)
    assert digits.num_classes == 10
    reference = load_digits()
    pixels = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 64) * 16
    labels = np.concatenate([digits.y_train, digits.y_test])
    ours = sorted(map(tuple, np.column_stack([pixels, labels]).astype(int)))
    theirs = sorted(map(tuple, np.column_stack([reference.data, reference.target]).astype(int)))
    assert ours == theirs
    rows = train_test_split(
        np.arange(1797), test_size=0.2, random_state=0, stratify=reference.target
    )
    for split, images in zip(rows, (digits.x_train, digits.x_test), strict=True):
        assert np.array_equal(images[:, 0] * 16, reference.images[split])
    assert digits.class_names == tuple(map(str, reference.target_names))


def test_the_test_images_of_digits_do_not_depend_on_the_seed(digits: Dataset) -> None:
    other = load_dataset(DataConfig(train_size=50), seed=9)
    assert np.array_equal(other.x_test, digits.x_test)
    share = np.bincount(digits.y_test) / np.bincount(digits.y_train)
    assert np.abs(share - 0.25).max() < 0.01


def test_arrays_have_the_promised_types_and_are_read_only(digits: Dataset) -> None:
    for images, labels in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert (images.min(), images.max()) == (0, 1)
        for array in (images, labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_classes_are_relabelled_in_the_order_asked_for(digits: Dataset) -> None:
    pair = load_dataset(DataConfig(classes=("7", 1)), seed=0)
    assert pair.class_names == ("7", "1")
    sevens = digits.x_train[digits.y_train == 7]
    assert np.array_equal(pair.x_train[pair.y_train == 0], sevens)


def test_the_content_hash_names_the_content() -> None:
    config = DataConfig(train_size=100)
    first = load_dataset(config, seed=0)
    assert len(first.content_hash) == 16
    assert load_dataset(config, seed=0).content_hash == first.content_hash
    others = [
        load_dataset(config, seed=1),
        load_dataset(DataConfig(train_size=101), seed=0),
        load_dataset(DataConfig(train_size=100, test_size=10), seed=0),
    ]
    assert len({first.content_hash, *(other.content_hash for other in others)}) == 4


def test_the_hash_sees_shape_type_and_names() -> None:
    array = np.arange(6)
    hashes = [
        array_hash(array),
        array_hash(array.reshape(2, 3)),
        array_hash(array.astype(np.int32)),
        array_hash(array, names=("a",)),
        array_hash(array[:3], array[3:]),
    ]
    assert len(set(hashes)) == 5
    assert array_hash(array.reshape(2, 3).T.copy().T) == hashes[1]
    assert array_hash(array.astype(">i8")) == hashes[0]


def test_digits_are_resized() -> None:
    large = load_dataset(DataConfig(image_size=16, train_size=20), seed=0)
    small = load_dataset(DataConfig(train_size=20), seed=0)
    assert large.x_train.shape == (20, 1, 16, 16)
    assert np.allclose(
        large.x_train.mean(axis=(1, 2, 3)), small.x_train.mean(axis=(1, 2, 3)), atol=0.02
    )


def test_the_probe_is_balanced_seeded_and_named(digits: Dataset) -> None:
    probe = select_probe(digits, 40, "train", seed=0)
    assert np.bincount(probe.y).tolist() == [4] * 10
    assert np.array_equal(digits.x_train[probe.indices], probe.x)
    assert np.array_equal(digits.y_train[probe.indices], probe.y)
    assert select_probe(digits, 40, "train", seed=0).content_hash == probe.content_hash
    assert select_probe(digits, 40, "train", seed=1).content_hash != probe.content_hash
    held_out = select_probe(digits, 360, "test", seed=0)
    assert np.array_equal(held_out.x, digits.x_test)
    with pytest.raises(ValueError, match="read-only"):
        probe.x[0] = 0


def test_a_probe_larger_than_its_split_is_refused(digits: Dataset) -> None:
    with pytest.raises(DataError, match=r"361 images .* test images of 'digits' are only 360"):
        select_probe(digits, 361, "test", seed=0)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (DataConfig(source="digit"), r"'digit' \(did you mean 'digits'\?\); known: cifar10"),
        (DataConfig(classes=("10", "1")), "unknown class '10'"),
        (DataConfig(train_size=1438), "1438 images .* digits' training images are only 1437"),
        (DataConfig(test_size=361), "361 images .* digits' test images are only 360"),
    ],
)
def test_what_cannot_be_had_is_refused(config: DataConfig, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        load_dataset(config, seed=0)


WITHOUT_FILES = {"digits", "sklearn", "gaussian_mixture", "teacher_student", "deep_linear"}
WITHOUT_FILES |= {"modular_arithmetic"}


@pytest.mark.parametrize("source", sorted(set(DATASETS) - WITHOUT_FILES))
def test_every_source_of_files_asks_for_a_path_and_names_one_that_is_missing(
    source: str, tmp_path
) -> None:
    options = {"target": "a"} if source == "table" else {}
    with pytest.raises(DataError, match=rf"{source!r} needs data\.path"):
        load_dataset(DataConfig(source=source, options=options), seed=0)
    missing = tmp_path / "nowhere"
    with pytest.raises(DataError, match=str(missing)):
        load_dataset(DataConfig(source=source, path=str(missing), options=options), seed=0)
    assert not missing.exists()


def _noise(images: np.ndarray, labels: list[int]) -> Source:
    split = array_split(images, np.array(labels), "noise's images", None)
    return Source(train=split, test=split, class_names=("a", "b"))


@pytest.mark.usefixtures("own_loaders")
def test_a_plugin_is_one_decorated_function() -> None:
    @dataset("noise")
    def noise(config: DataConfig) -> Source:
        images = np.arange(4 * 3 * 5 * 5, dtype=np.uint8).reshape(4, 3, 5, 5)
        return _noise(images, [0, 1, 0, 1])

    loaded = load_dataset(DataConfig(source="noise", train_size=2), seed=0)
    assert loaded.name == "noise"
    assert loaded.x_test.max() == np.float32(255 / 255)
    assert loaded.y_train.tolist() == sorted(loaded.y_train.tolist(), key=int)


@pytest.mark.usefixtures("own_loaders")
def test_a_plugins_loader_has_options_of_its_own() -> None:
    @dataset("stripes")
    def stripes(
        config: DataConfig, *, side: Annotated[int, Field(ge=4)] = 4, grey: float
    ) -> Source:
        return _noise(np.full((2, 1, side, side), grey), [0, 1])

    loaded = load_dataset(DataConfig(source="stripes", options={"side": 6, "grey": 0.5}), seed=0)
    assert loaded.input_shape == (1, 6, 6)
    assert (loaded.x_train == 0.5).all()
    for options, fault in (
        ({"side": 6}, "'grey' is required"),
        ({"grey": 0.5, "side": 3}, "'side': .*greater than or equal to 4; found 3"),
        ({"gray": 0.5}, r"unknown option 'gray' \(did you mean 'grey'\?\); allowed: side, grey"),
    ):
        with pytest.raises(DataError, match=fault):
            load_dataset(DataConfig(source="stripes", options=options), seed=0)
    with pytest.raises(DataError, match="'digits': unknown option 'side'; it takes none"):
        load_dataset(DataConfig(options={"side": 6}), seed=0)


@pytest.mark.usefixtures("own_loaders")
@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (np.full((2, 1, 4, 4), 2.0), [0, 1], r"finite and in \[0, 1\]"),
        (np.full((2, 1, 4, 4), np.nan), [0, 1], r"finite and in \[0, 1\]"),
        (np.zeros((2, 1, 4, 4)), [0, 2], r"row 1: label 2 is out of range; there are 2"),
        (np.zeros((2, 1, 4, 4)), [-1, 1], "row 0: label -1 is out of range"),
        (np.zeros((2, 1, 4, 4)), [0, 0], "class 'b' has no image"),
    ],
)
def test_a_plugin_that_gives_nonsense_is_refused(
    images: np.ndarray, labels: list[int], fault: str
) -> None:
    dataset("nonsense")(lambda config: _noise(images, labels))
    with pytest.raises(DataError, match=fault):
        load_dataset(DataConfig(source="nonsense"), seed=0)


@pytest.mark.usefixtures("own_loaders")
def test_grey_beside_colour_becomes_grey_rgb_and_other_sizes_are_refused() -> None:
    grey = _noise(np.full((2, 1, 4, 4), 0.5), [0, 1])
    colour = _noise(np.full((2, 3, 4, 4), 0.25), [0, 1])
    large = _noise(np.full((2, 3, 6, 4), 0.25), [0, 1])
    dataset("mixed")(lambda config: dataclasses.replace(grey, test=colour.test))
    loaded = load_dataset(DataConfig(source="mixed"), seed=0)
    assert loaded.x_train.shape == loaded.x_test.shape == (2, 3, 4, 4)
    assert (loaded.x_train == 0.5).all()
    dataset("sizes")(lambda config: dataclasses.replace(colour, test=large.test))
    with pytest.raises(DataError, match=r"set data\.image_size"):
        load_dataset(DataConfig(source="sizes"), seed=0)
