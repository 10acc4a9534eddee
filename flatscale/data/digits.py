"""`digits`: 1,797 scans of handwritten digits, 8x8, that ship with scikit-learn."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from flatscale.data.source import Source, array_split, dataset
from flatscale.extras import needs
from flatscale.study.schema import DataConfig

_NUM_TRAIN = 1_437


@dataset("digits")
def digits(config: DataConfig) -> Source:
    """1,437 training and 360 test images, 1x8x8, split once and for all, stratified by digit.

    Grey values 0..16 become [0, 1]. Source: UCI "Optical Recognition of Handwritten Digits" (its
    test part), Alpaydin & Kaynak 1998.
    """
    needs("sklearn")
    # scikit-learn's file, read without importing it, which takes a second.
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    table = np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = (table[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    labels = table[:, -1].astype(np.int64)
    # `train_test_split` of scikit-learn, stratified, seed 0, as it was once: no version changes it.
    kept = files("flatscale.data").joinpath("digits_order.txt").read_text("ascii")
    train, test = np.split(np.array(kept.split(), dtype=np.int64), [_NUM_TRAIN])
    return Source(
        train=array_split(
            images[train], labels[train], "digits' training images", config.image_size
        ),
        test=array_split(images[test], labels[test], "digits' test images", config.image_size),
        class_names=tuple(map(str, range(10))),
    )
