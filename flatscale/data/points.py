"""The points of a study, and the sets of them that networks are measured on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flatscale.data.loading import Dataset, array_hash, load_dataset
from flatscale.data.selection import balanced_rows
from flatscale.errors import DataError
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import DataConfig, MeasurementConfig, StudyConfig
from flatscale.study.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Points:
    """One data set of a study and what of it networks are measured on."""

    dataset: Dataset
    """The training and test points."""
    point_sets: dict[str, tuple[NDArray[np.float32], NDArray[Any]]]
    """Inputs and targets by the name metrics call them: probe, train, test, and
    shifted if there is one."""
    content_hashes: dict[str, str]
    """What names the content of each of these."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The fixed points on which every network of a study is measured; the arrays are read-only."""

    x: NDArray[np.float32]
    """Inputs, float32, such as images (n, channels, height, width)."""
    y: NDArray[Any]
    """Classes, int64, (n,), or numbers, (n, outputs)."""
    indices: NDArray[np.int64]
    """Rows of the split they come from, ascending, (n,)."""
    content_hash: str
    """SHA-256 over images and classes, 16 hex digits; goes into every result row."""


def load_points(config: StudyConfig) -> Points:
    """Load the data of a study as its `data` part describes them, and choose the probe set.

    Raises:
        DataError: the data cannot be read as configured.
    """
    dataset = _dataset(config.data, config.seed)
    return _points(dataset, config.data, config.measurement, config.seed)


def load_all_points(specs: Iterable[TrialSpec]) -> dict[str, Points]:
    """Every data set that trials are trained and measured on, by `points_key`, each loaded once.

    Where a study varies its data or its probe, each has a probe set of its own; the trials on it
    share it.

    Raises:
        DataError: some data cannot be read as configured.
    """
    datasets: dict[str, Dataset] = {}
    found: dict[str, Points] = {}
    for spec in specs:
        if (key := points_key(spec)) not in found:
            name = spec.data.model_dump_json()
            if name not in datasets:
                datasets[name] = _dataset(spec.data, spec.study_seed)
            found[key] = _points(datasets[name], spec.data, spec.measurement, spec.study_seed)
    return found


def points_key(spec: TrialSpec) -> str:
    """What names the data of a trial and its probe set among those of a study."""
    wanted = spec.measurement
    return f"{spec.data.model_dump_json()} {wanted.probe_split} {wanted.probe_size}"


def _dataset(data: DataConfig, study_seed: int) -> Dataset:
    return load_dataset(data, seed=derive_seed(study_seed, "data"))


def _points(
    dataset: Dataset, data: DataConfig, wanted: MeasurementConfig, study_seed: int
) -> Points:
    seed = derive_seed(study_seed, "probe")
    probe = select_probe(dataset, wanted.probe_size, wanted.probe_split, seed=seed)
    point_sets = {
        "probe": (probe.x, probe.y),
        "train": (dataset.x_train, dataset.y_train),
        "test": (dataset.x_test, dataset.y_test),
    }
    content_hashes = {
        "probe": probe.content_hash,
        "train": f"{dataset.content_hash}-train",
        "test": f"{dataset.content_hash}-test",
    }
    if data.shifted is not None:
        point_sets["shifted"] = x, y = _shifted(data, dataset, derive_seed(study_seed, "data"))
        content_hashes["shifted"] = array_hash(x, y)
        # A store holds results on these test sets and no others.
        both = (dataset.content_hash, content_hashes["shifted"])
        dataset = replace(dataset, content_hash=array_hash(names=both))
    return Points(dataset=dataset, point_sets=point_sets, content_hashes=content_hashes)


def _shifted(
    config: DataConfig, dataset: Dataset, seed: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The test images of `data.shifted`, as the study's networks take them.

    Raises:
        DataError: a class of the study is not there, or the images have another shape.
    """
    assert config.shifted is not None
    given = config.shifted
    if config.pixels is not None:
        raise DataError(
            f"data.shifted: its images would not be {config.pixels} as those of the study are; "
            "leave out data.pixels or data.shifted"
        )
    known: dict[str, Any] = {
        "source": given.source,
        "path": given.path,
        "options": given.options,
        "image_size": config.image_size,
        "classes": dataset.class_names,
        "train_size": dataset.num_classes,
        "test_size": given.size,
    }
    try:
        other = load_dataset(DataConfig(**known), seed=derive_seed(seed, "shifted"))
    except DataError as error:
        raise DataError(f"data.shifted: {error}") from error
    x, channels = other.x_test, dataset.input_shape[0]
    if x.ndim == 4 and (x.shape[1], channels) == (1, 3):
        x = np.repeat(x, 3, axis=1)
    if x.shape[1:] != dataset.input_shape:
        raise DataError(
            f"data.shifted: inputs are {x.shape[1:]}, those of the study {dataset.input_shape}; "
            "images are brought to one size by data.image_size"
        )
    return x, other.y_test


def select_probe(
    dataset: Dataset, size: int, split: Literal["train", "test"], *, seed: int
) -> Probe:
    """Draw the probe, as evenly over the classes as they allow.

    Args:
        dataset: the study's images.
        size: number of images.
        split: `train` or `test`.
        seed: the draw derives from it.

    Raises:
        DataError: the split has fewer images than that.
    """
    images, labels = (
        (dataset.x_train, dataset.y_train) if split == "train" else (dataset.x_test, dataset.y_test)
    )
    is_class = dataset.task == "classification"
    indices = balanced_rows(
        labels if is_class else np.zeros(len(labels), dtype=np.int64),
        dataset.num_classes if is_class else 1,
        size,
        seed=derive_seed(seed, "probe", split),
        where=f"the {split} images of {dataset.name!r}",
        key="measurement.probe_size",
    )
    x, y = images[indices], labels[indices]
    for array in (x, y, indices):
        array.flags.writeable = False
    return Probe(x=x, y=y, indices=indices, content_hash=array_hash(x, y))
