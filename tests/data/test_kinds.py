"""Arms of images and labels, and data beside images: against what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

from flatscale.data import Dataset, load_dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig


def load(seed: int = 0, **keys: Any) -> Dataset:
    return load_dataset(DataConfig.model_validate(keys), seed=seed)


def test_label_noise_changes_as_many_labels_as_chance_says() -> None:
    plain = load()
    for share in (0.2, 1.0):
        noisy = load(label_noise=share)
        changed = noisy.y_train != plain.y_train
        assert noisy.num_labels_changed == changed.sum()
        # One label in ten that is drawn anew is what it was.
        assert changed.mean() == pytest.approx(0.9 * share, abs=0.03)
        assert np.array_equal(noisy.y_test, plain.y_test)
        assert np.array_equal(noisy.x_train, plain.x_train)
        assert noisy.content_hash != plain.content_hash
    assert np.array_equal(load(label_noise=1).y_train, load(label_noise=1).y_train)
    assert not np.array_equal(load(label_noise=1).y_train, load(label_noise=1, seed=1).y_train)
    assert plain.num_labels_changed == 0


def test_pixel_arms_keep_what_they_say() -> None:
    plain = load(train_size=60)
    flat = plain.x_train.reshape(60, -1)
    permuted = load(train_size=60, pixels="permuted")
    columns = {tuple(column) for column in flat.T}
    assert {tuple(column) for column in permuted.x_train.reshape(60, -1).T} == columns
    assert not np.array_equal(permuted.x_train, plain.x_train)
    # Of the test images, too.
    spread = [x.reshape(len(x), -1).mean(axis=0) for x in (plain.x_test, permuted.x_test)]
    assert np.allclose(np.sort(spread[0]), np.sort(spread[1]))
    shuffled = load(train_size=60, pixels="shuffled")
    assert np.array_equal(np.sort(shuffled.x_train.reshape(60, -1)), np.sort(flat))
    moved = {tuple(column) for column in shuffled.x_train.reshape(60, -1).T}
    assert len(moved & columns) < 5
    gaussian = load(pixels="gaussian")
    whole = load()
    assert gaussian.x_test.mean() == pytest.approx(whole.x_train.mean(), abs=0.01)
    assert gaussian.x_train.std() == pytest.approx(whole.x_train.std(), abs=0.01)


def test_a_shortcut_leads_in_training_and_misleads_in_test() -> None:
    data = load(shortcut=0.8, label_noise=0.3)
    marks = [x.reshape(len(x), -1)[:, :10] for x in (data.x_train, data.x_test)]
    marked = (np.sort(marks[0])[:, -2:] == [0, 1]).all(axis=1) & (marks[0].sum(axis=1) == 1)
    shows = marks[0].argmax(axis=1) == data.y_train
    assert marked.mean() == pytest.approx(0.8, abs=0.01)
    assert shows[marked].all()
    assert (marks[1].sum(axis=1) == 1).all()
    wrong = (marks[1].argmax(axis=1) - data.y_test) % 10
    assert sorted(set(wrong)) == list(range(1, 10))
    rest, before = data.x_train.reshape(-1, 64)[:, 10:], load().x_train.reshape(-1, 64)[:, 10:]
    assert np.array_equal(rest, before)


def test_held_out_points_are_no_training_points() -> None:
    whole, data = load(train_size=200), load(train_size=200, held_out_size=50)
    x, y = data.held_out
    assert (len(data.y_train), len(y)) == (150, 50)
    assert np.ptp(np.bincount(y)) <= 1
    both = np.concatenate([data.x_train, x]).reshape(200, -1)
    assert sorted(map(tuple, both)) == sorted(map(tuple, whole.x_train.reshape(200, -1)))
    assert np.array_equal(data.x_test, whole.x_test)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"size": rng.normal(50, 9, 80), "colour": ["red", "blue"] * 40})
    frame = frame.with_columns(
        price=3 * pl.col("size") + (pl.col("colour") == "red") * 10.0,
        kind=pl.when(pl.col("size") > 50).then(pl.lit("big")).otherwise(pl.lit("small")),
    )
    frame.write_csv(tmp_path / "things.csv")
    frame.write_parquet(tmp_path / "things.parquet")
    return tmp_path / "things.csv"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_numbers_scaled_by_its_training_rows(csv: Path, suffix: str) -> None:
    path = str(csv.with_suffix(suffix))
    task = {"target": ["price"], "task": "regression"}
    data = load(source="table", path=path, options=task)
    assert (data.kind, data.task, data.class_names) == ("table", "regression", ("price",))
    assert (data.x_train.shape, data.y_train.shape, data.x_test.shape) == (
        (64, 5),
        (64, 1),
        (16, 5),
    )
    for array in (data.x_train, data.y_train):
        assert np.allclose(array.mean(axis=0), 0, atol=1e-5)
        assert np.allclose(array.std(axis=0), 1, atol=1e-4)
    fit = LinearRegression().fit(data.x_train, data.y_train)
    assert fit.score(data.x_test, data.y_test) > 0.9999
    data = load(source="table", path=path, options={"target": "kind"}, classes=["small", "big"])
    assert data.class_names == ("small", "big")
    assert data.y_train.dtype == np.int64
    column = int(np.argmax(np.abs(np.corrcoef(data.x_train.T, data.y_train)[-1, :-1])))
    assert (data.x_train[data.y_train == 1, column].min()) > data.x_train[
        data.y_train == 0, column
    ].max()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"options": {"target": "prize"}}, r"no column 'prize' \(did you mean 'price'\?\)"),
        ({"options": {}}, "'target' is required"),
        ({"options": {"target": ["price", "size"]}}, "a class is one column; found 2"),
        ({"options": {"target": ["kind"], "task": "regression"}}, "'kind' must be numbers"),
        ({"options": {"target": "kind"}, "pixels": "permuted"}, "data.pixels is for images"),
        ({"options": {"target": "kind"}, "image_size": 8}, "data.image_size is for images"),
        (
            {"options": {"target": "price", "task": "regression"}, "label_noise": 0.1},
            "data.label_noise is for classes; 'table' is a regression of table inputs",
        ),
    ],
)
def test_what_a_table_cannot_take_is_refused(csv: Path, keys: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        load(source="table", path=str(csv), **keys)


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "holes.csv"
    path.write_text("a,b\n1,2\n3,\n5,6\n")
    with pytest.raises(DataError, match=r"holes\.csv, row 1, column 'b': the value is missing"):
        load(source="table", path=str(path), options={"target": "a"})


def test_scikit_learns_tables() -> None:
    data = load(source="sklearn", options={"name": "iris"})
    assert data.class_names == tuple(load_iris().target_names)
    assert (len(data.y_train), len(data.y_test), data.input_shape) == (120, 30, (4,))
    data = load(source="sklearn", options={"name": "linnerud"})
    assert (data.task, data.num_classes, data.y_train.shape[1]) == ("regression", 3, 3)


def test_a_gaussian_mixture_has_the_error_that_is_known() -> None:
    keys = {"separation": 2.0, "num_features": 5, "num_train": 20_000, "num_test": 20_000}
    data = load(source="gaussian_mixture", options=keys)
    fit = LinearDiscriminantAnalysis().fit(data.x_train, data.y_train)
    error = 1 - fit.score(data.x_test, data.y_test)
    assert error == pytest.approx(norm.cdf(-1), abs=0.008)
    three = load(source="gaussian_mixture", options={**keys, "num_classes": 3})
    centres = np.stack([three.x_train[three.y_train == k].mean(axis=0) for k in range(3)])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(centres[one] - centres[other]) == pytest.approx(2, abs=0.06)


def test_deep_linear_targets_have_the_singular_values_given() -> None:
    keys = {"num_features": 6, "num_outputs": 4, "singular_values": [3.0, 0.5]}
    data = load(source="deep_linear", options=keys)
    matrix = np.linalg.lstsq(data.x_train, data.y_train, rcond=None)[0]
    assert np.allclose(np.linalg.svd(matrix)[1], [3, 0.5, 0, 0], atol=1e-4)
    with pytest.raises(DataError, match="has not 5 singular values"):
        load(source="deep_linear", options={**keys, "singular_values": [1.0] * 5})


def test_a_teachers_noise_is_all_that_its_student_cannot_know() -> None:
    keys = {"num_features": 3, "num_outputs": 2, "num_test": 4000}
    quiet = load(source="teacher_student", options=keys)
    loud = load(source="teacher_student", options={**keys, "noise": 0.5})
    assert np.array_equal(quiet.x_train, load(source="teacher_student", options=keys).x_train)
    assert np.array_equal(quiet.x_train, loud.x_train)
    assert (loud.y_train - quiet.y_train).std() == pytest.approx(0.5, abs=0.05)
    other = load(source="teacher_student", options={**keys, "draw": 1})
    assert not np.array_equal(other.x_train, quiet.x_train)


@pytest.mark.parametrize("operation", ["+", "-", "*", "/"])
def test_modular_arithmetic_is_right(operation: str) -> None:
    keys = {"modulus": 12, "operation": operation, "train_share": 0.4}
    data = load(source="modular_arithmetic", options=keys)
    assert data.input_shape == (3, 13)
    pairs = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert (x.sum(axis=2) == 1).all()
        a, b, sign = x.argmax(axis=2).T
        assert (sign == 12).all()
        if operation == "/":
            assert ((y * b - a) % 12 == 0).all()
        else:
            expected = [eval(f"{i}{operation}{j}") % 12 for i, j in zip(a, b, strict=True)]
            assert y.tolist() == expected
        pairs += list(zip(a, b, strict=True))
    assert len(set(pairs)) == len(pairs) == (12 * 4 if operation == "/" else 144)
    assert len(data.y_train) == round(0.4 * len(pairs))


def test_a_text_is_windows_of_its_characters(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcäbc" * 20)
    data = load(
        source="text", path=str(path), options={"length": 4, "stride": 3, "test_share": 0.25}
    )
    assert data.class_names == ("a", "b", "c", "ä")
    assert data.input_shape == (4, 4)
    names = np.array(data.class_names)
    windows = [
        "".join(names[x.argmax(axis=1)]) + names[y]
        for x, y in zip(data.x_train, data.y_train, strict=True)
    ]
    assert windows == [("abcäbc" * 20)[start : start + 5] for start in range(0, 86, 3)]
    assert len(data.y_test) == 9
    with pytest.raises(DataError, match=r"the end of .* has 12 characters"):
        load(source="text", path=str(path), options={"length": 40, "test_share": 0.1})
