"""The points of a study: its images, and the sets of them that networks are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flatscale.data.loading import Dataset, load_dataset
from flatscale.data.probe_set import select_probe
from flatscale.study.schema import StudyConfig
from flatscale.study.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Points:
    """The data of a study.

    Attributes:
        dataset: the images.
        point_sets: images and classes by the name metrics call them: probe, train, test.
        content_hashes: what names the content of each of these.
    """

    dataset: Dataset
    point_sets: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]
    content_hashes: dict[str, str]


def load_points(config: StudyConfig) -> Points:
    """Load the data of a study and choose its probe set.

    Raises:
        DataError: the data cannot be read as configured.
    """
    dataset = load_dataset(config.data, seed=derive_seed(config.seed, "data"))
    wanted = config.measurement
    seed = derive_seed(config.seed, "probe")
    probe = select_probe(dataset, wanted.probe_size, wanted.probe_split, seed=seed)
    return Points(
        dataset=dataset,
        point_sets={
            "probe": (probe.x, probe.y),
            "train": (dataset.x_train, dataset.y_train),
            "test": (dataset.x_test, dataset.y_test),
        },
        content_hashes={
            "probe": probe.content_hash,
            "train": f"{dataset.content_hash}-train",
            "test": f"{dataset.content_hash}-test",
        },
    )
