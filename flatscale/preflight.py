"""Everything that can be refused before a study starts: names, data, networks that do not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatscale.data import Dataset, check_dataset, load_dataset, select_probe
from flatscale.errors import ConfigError, FlatscaleError
from flatscale.metrics import check_metric_names, metric_catalog
from flatscale.models import build_model, check_model
from flatscale.store.results import TRIAL_SCHEMA
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.plugins import import_plugins
from flatscale.study.registry import nearest
from flatscale.study.schema import StudyConfig
from flatscale.study.seeds import derive_seed
from flatscale.training import known_optimizers, point_loss


@dataclass(frozen=True, kw_only=True)
class Points:
    """The data of a study: the dataset and the point sets that networks are measured on."""

    dataset: Dataset
    point_sets: dict[str, tuple[np.ndarray, np.ndarray]]
    content_hashes: dict[str, str]


def check_study(config: StudyConfig) -> list[TrialSpec]:
    """The trials of a study whose every name is known.

    Raises:
        ConfigError: an unknown metric, architecture, option, optimizer, loss, source or column.
        ModelError: an architecture refuses its options.
    """
    import_plugins(config.plugins)
    check_dataset(config.data.source)
    measurement = config.measurement
    check_metric_names(measurement.metrics, measurement.options)
    for model in config.models:
        check_model(model.architecture, dict(model.options))
    for training in {config.training, *(m.training for m in config.models if m.training)}:
        _check_name("training.optimizer.name", training.optimizer.name, known_optimizers())
        point_loss(training.loss)
    point_loss(measurement.loss or config.training.loss)
    columns = (*measurement.metrics, *TRIAL_SCHEMA)
    analysis = config.analysis
    for key in ("primary", "covariates", "log"):
        for name in getattr(analysis, key):
            _check_name(f"analysis.{key}", name, columns)
    known_metrics = {info.name for info in metric_catalog()}
    for name in analysis.outcomes:
        _check_name("analysis.outcomes", name, (*known_metrics, *columns))
    return plan(config)


def load_points(config: StudyConfig) -> Points:
    """Load the data, choose the probe set, and try every architecture on the images' shape.

    Raises:
        DataError: the data cannot be read as configured.
        ModelError: an architecture does not fit the images.
    """
    dataset = load_dataset(config.data, seed=derive_seed(config.seed, "data"))
    probe = select_probe(
        dataset,
        config.measurement.probe_size,
        config.measurement.probe_split,
        seed=derive_seed(config.seed, "probe"),
    )
    shape = tuple(dataset.x_train.shape[1:])
    for index, model in enumerate(config.models):
        try:
            build_model(
                model.architecture, shape, len(dataset.class_names), dict(model.options), seed=0
            )
        except FlatscaleError as error:
            raise type(error)(f"models[{index}]: {error}") from error
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


def _check_name(key: str, name: str, known: tuple[str, ...] | list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{key}: unknown name {name!r}{nearest(name, list(known))}; "
            f"allowed: {', '.join(sorted(known))}"
        )
