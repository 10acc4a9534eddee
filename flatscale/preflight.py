"""What can be refused before a study starts: names, options, networks that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from flatscale.data import DATASETS, PIXEL_ARMS, Dataset
from flatscale.errors import ConfigError, FlatscaleError
from flatscale.metrics import check_metric_names, metric_catalog, with_inequalities
from flatscale.metrics.registration import METRICS, code_of_metric
from flatscale.models import MODELS, build_model, model_options
from flatscale.store.records import TRIAL_SCHEMA
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.plugin_code import (
    Thing,
    code_version,
    key_of,
    things_of_measurement,
    things_of_network,
)
from flatscale.study.registry import Registered, import_plugins, unknown_name
from flatscale.study.schema import AnalysisConfig, StudyConfig, TrainingConfig
from flatscale.training import (
    AVERAGES,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    Augmentation,
    average_constants,
    build_optimizer,
    optimizer_constants,
    schedule_constants,
    smoothed_targets,
)

logger = logging.getLogger(__name__)


class Faults:
    """What is wrong with a study, every fault with its key, raised together at the end."""

    def __init__(self) -> None:
        self._found: list[FlatscaleError] = []

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Note the error that is raised inside as a fault of that key of the study file."""
        try:
            yield
        except FlatscaleError as error:
            self._found.append(type(error)(f"{key}: {error}"))

    def raise_any(self) -> None:
        """Raise what was noted: one fault as it is, more with a line for each."""
        if not self._found:
            return
        kinds = {type(fault) for fault in self._found}
        lines = list(dict.fromkeys(str(fault) for fault in self._found))
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        raise kind(lines[0] if len(lines) == 1 else "\n  ".join(["the study cannot run:", *lines]))


def check_study(config: StudyConfig) -> list[TrialSpec]:
    """The trials of a study whose every name and option is known.

    Raises:
        ConfigError: an unknown metric, optimizer, loss or column, or one of their options.
        DataError: the same of a data source.
        ModelError: the same of an architecture.
    """
    import_plugins(config.plugins)
    faults = Faults()
    with faults.at("data"):
        DATASETS.checked_options(config.data.source, config.data.options)
    with faults.at("data.pixels"):
        if config.data.pixels is not None:
            PIXEL_ARMS[config.data.pixels]
    for index, model in enumerate(config.models):
        with faults.at(f"models[{index}]"):
            model_options(model.architecture, model.options)
    for key, training in _trainings(config).items():
        with faults.at(f"{key}.optimizer"):
            optimizer_constants(training.optimizer)
        with faults.at(f"{key}.loss"):
            LOSSES[training.loss]
        with faults.at(f"{key}.schedule"):
            schedule_constants(training.schedule)
        with faults.at(f"{key}.augmentation"):
            Augmentation(training.augmentation, seed=0)
        with faults.at(f"{key}.averaging"):
            if training.averaging is not None:
                average_constants(training.averaging)
            elif config.measurement.weights == "average":
                raise ConfigError("measurement.weights: average needs one; found none")
    measurement = config.measurement
    with faults.at("measurement"):
        check_metric_names(measurement.metrics, measurement.options)
        LOSSES[measurement.loss or config.training.loss]
    columns = (*measurement.metrics, *TRIAL_SCHEMA)
    measurable = (*columns, *(info.name for info in metric_catalog()))
    for key in ("primary", "covariates", "log", "outcomes"):
        known = measurable if key == "outcomes" else columns
        for name in getattr(config.analysis, key):
            with faults.at(f"analysis.{key}"):
                if name not in known:
                    raise ConfigError(unknown_name("column", name, set(known)))
    faults.raise_any()
    _say_what_is_not_measured(config)
    specs = plan(config)
    things = {t for s in specs for t in (*things_of_network(s), *things_of_measurement(s))}
    code = plugin_code(things)
    return plan(config.model_copy(update={"plugin_code": code})) if code else specs


def plugin_code(things: Iterable[Thing]) -> dict[str, str]:
    """What names the code of each thing that a plugin registered, as it is in this process.

    Raises:
        ConfigError: a source cannot be read, and no version is declared.
    """
    registries: dict[str, Mapping[str, Registered]] = {
        "dataset": DATASETS,
        "pixels": PIXEL_ARMS,
        "model": MODELS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "average": AVERAGES,
        "loss": LOSSES,
        "metric": METRICS,
    }
    found = {}
    for kind, name in sorted(things):
        if name in registries[kind]:
            entries = code_of_metric(name) if kind == "metric" else [registries[kind][name]]
            found[key_of((kind, name))] = code_version(entries)
    return {key: version for key, version in found.items() if version}


def _say_what_is_not_measured(config: StudyConfig) -> None:
    """Warn of outcomes that the study file names, and that it does not measure."""
    named, standard = config.analysis.outcomes, AnalysisConfig().outcomes
    measured, _ = with_inequalities(config.measurement.metrics)
    absent = [name for name in named if name not in (*measured, *TRIAL_SCHEMA)]
    if absent and named != standard:
        logger.warning(
            "analysis.outcomes: %s not measured, so the report says nothing of it; add it to "
            "measurement.metrics, or leave it out",
            ", ".join(map(repr, absent)) + (" is" if len(absent) == 1 else " are"),
        )


def say_what_is_clipped(specs: Sequence[TrialSpec], dataset: Dataset) -> None:
    """Warn of batch sizes that are larger than the data."""
    most = len(dataset.y_train)
    sizes = [spec.batch_size for spec in specs]
    clipped = [size for size in sizes if isinstance(size, int) and size > most]
    if clipped:
        shown = ", ".join(map(str, sorted(set(clipped))))
        logger.warning(
            "design.batch_size: %s is more than the %d training images; the %d trials with it are "
            "trained with, and recorded as, batches of %d",
            *(shown, most, len(clipped), most),
        )


def check_networks(config: StudyConfig, dataset: Dataset) -> None:
    """Build every network of a study for its data, and the optimizer that trains it.

    Raises:
        ModelError: an architecture does not fit the data.
        ConfigError: an optimizer refuses its constants, or a loss, rule or arm does not fit the
            data.
    """
    faults = Faults()
    for key, training in _trainings(config).items():
        _check_training(faults, key, training, dataset)
    with faults.at("measurement.loss"):
        _check_loss(config.measurement.loss or config.training.loss, dataset)
    for index, model in enumerate(config.models):
        with faults.at(f"models[{index}]"):
            network = build_model(
                model.architecture, dataset.input_shape, dataset.num_classes, model.options, seed=0
            )
            build_optimizer(network, (model.training or config.training).optimizer, 1e-3)
    faults.raise_any()


def _trainings(config: StudyConfig) -> dict[str, TrainingConfig]:
    """The training settings of a study by their place in its file."""
    own = {f"models[{i}].training": m.training for i, m in enumerate(config.models) if m.training}
    return {"training": config.training, **own}


def _check_training(faults: Faults, key: str, training: TrainingConfig, dataset: Dataset) -> None:
    """Note what of a training does not fit the data."""
    with faults.at(f"{key}.loss"):
        _check_loss(training.loss, dataset)
    of_classes = {
        "label_smoothing": training.label_smoothing,
        "stop_accuracy": training.stop_accuracy,
    }
    for name, value in of_classes.items():
        with faults.at(f"{key}.{name}"):
            if value and dataset.task == "regression":
                raise ConfigError(f"is for classes; {dataset.name!r} has numbers to predict")
    with faults.at(f"{key}.label_smoothing"):
        if training.label_smoothing and dataset.task == "classification":
            _check_smoothing(training, dataset.num_classes)
    with faults.at(f"{key}.augmentation"):
        if training.augmentation:
            if dataset.kind != "image":
                raise ConfigError(f"is for images; {dataset.name!r} has {dataset.kind} inputs")
            with torch.random.fork_rng(devices=[]):
                image = torch.tensor(dataset.x_train[:1])
                Augmentation(training.augmentation, seed=0)(image, torch.zeros(1), 0)
    with faults.at(f"{key}.patience"):
        if training.patience is not None and dataset.held_out is None:
            raise ConfigError("needs points held out: set data.held_out_size")


def _check_smoothing(training: TrainingConfig, num_classes: int) -> None:
    outputs = torch.zeros(1, num_classes)
    targets = smoothed_targets(outputs, torch.zeros(1, dtype=torch.int64), training.label_smoothing)
    try:
        LOSSES[training.loss].function(outputs, targets)
    except Exception as error:  # a plugin's loss may raise anything
        raise ConfigError(f"loss {training.loss!r} takes no shares of classes: {error}") from error


def _check_loss(name: str, dataset: Dataset) -> None:
    tasks = LOSSES[name].tasks
    if dataset.task not in tasks:
        fitting = ", ".join(loss for loss, entry in LOSSES.items() if dataset.task in entry.tasks)
        raise ConfigError(
            f"{name!r} is a loss of {tasks[0]}, and {dataset.name!r} is a {dataset.task}; use one "
            f"of {fitting}"
        )
