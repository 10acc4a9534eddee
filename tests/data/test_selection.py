"""Classes and balanced subsets."""

from __future__ import annotations

import numpy as np
import pytest

from flatscale.data.selection import balanced_rows, select_classes
from flatscale.errors import DataError

NAMES = ("cat", "dog", "ship")


def test_classes_by_name_and_index_keep_the_order_asked_for() -> None:
    assert select_classes(NAMES, None) == (0, 1, 2)
    assert select_classes(NAMES, ("ship", 0)) == (2, 0)


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        (("dgo", "cat"), r"unknown class 'dgo' \(did you mean 'dog'\?\); known: cat, dog, ship"),
        ((0, 3), r"in 0\.\.2, found 3"),
        ((-1, 0), r"in 0\.\.2, found -1"),
        (("cat", 0), "class 'cat' twice"),
    ],
)
def test_a_wrong_class_is_refused(wanted: tuple[int | str, ...], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        select_classes(NAMES, wanted)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 29, 30])
def test_subsets_are_as_even_as_they_can_be(size: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 10))
    rows = balanced_rows(labels, 3, size, seed=1, where="here")
    assert len(rows) == size == len(set(rows))
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(labels[rows], minlength=3)
    assert counts.max() - counts.min() <= 1


def test_a_small_class_gives_all_it_has() -> None:
    labels = np.array([0] * 2 + [1] * 50 + [2] * 5)
    rows = balanced_rows(labels, 3, 30, seed=0, where="here")
    assert np.bincount(labels[rows]).tolist() == [2, 23, 5]


def test_the_seed_decides_and_larger_subsets_contain_smaller_ones() -> None:
    labels = np.repeat(np.arange(4), 25)
    small = balanced_rows(labels, 4, 20, seed=7, where="here")
    assert np.array_equal(small, balanced_rows(labels, 4, 20, seed=7, where="here"))
    assert not np.array_equal(small, balanced_rows(labels, 4, 20, seed=8, where="here"))
    assert set(small) <= set(balanced_rows(labels, 4, 60, seed=7, where="here"))


def test_every_row_is_equally_likely() -> None:
    labels = np.repeat([0, 1], 10)
    drawn = [balanced_rows(labels, 2, 6, seed=seed, where="here") for seed in range(2000)]
    frequencies = np.bincount(np.concatenate(drawn), minlength=20) / 2000
    # Each frequency is binomial with p = 0.3: its standard deviation is 0.0102.
    assert np.abs(frequencies - 0.3).max() < 5 * 0.0102


def test_more_images_than_exist_are_refused() -> None:
    with pytest.raises(DataError, match="5 images were asked for, but the test images are only 4"):
        balanced_rows(np.array([0, 0, 1, 1]), 2, 5, seed=0, where="the test images")
