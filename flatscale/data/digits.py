"""`digits`: 1,797 scans of handwritten digits, 8x8, that ship with scikit-learn."""

from __future__ import annotations

import numpy as np

from flatscale.data.source import Source, array_split, dataset
from flatscale.extras import needs
from flatscale.study.schema import DataConfig

_TEST_SHARE, _SPLIT_SEED = 0.2, 0


@dataset("digits")
def digits(config: DataConfig) -> Source:
    """1,437 training and 360 test images, 1x8x8, split once and for all, stratified by digit.

    Grey values 0..16 become [0, 1]. Source: UCI "Optical Recognition of Handwritten Digits" (its
    test part), Alpaydin & Kaynak 1998.
    """
    needs("sklearn")
    # scikit-learn takes a second to import, and the workers do not load data.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, random_state=_SPLIT_SEED, stratify=labels
    )
    return Source(
        train=array_split(
            images[train], labels[train], "digits' training images", config.image_size
        ),
        test=array_split(images[test], labels[test], "digits' test images", config.image_size),
        class_names=tuple(str(name) for name in bunch.target_names),
    )
