"""What can be refused before a study starts: names, options, networks that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from flatscale.data import (
    DATASETS,
    PIXEL_ARMS,
    Dataset,
    Points,
    load_all_points,
    load_encoded,
    points_key,
)
from flatscale.errors import ConfigError, FlatscaleError
from flatscale.metrics import check_metric_names, metric_catalog, metric_info, with_inequalities
from flatscale.metrics.registration import METRICS, code_of_metric
from flatscale.models import MODELS, build_model, model_options
from flatscale.store.records import TRIAL_SCHEMA
from flatscale.study.keys import resolve_name
from flatscale.study.plan import TrialSpec, axis_columns, first_trials, plan
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
    check_optimizer,
    optimizer_constants,
    schedule_constants,
    smoothed_targets,
)

logger = logging.getLogger(__name__)

_MOST_BUILT = 256


class Place(Protocol):
    """What to call a key inside a part of the study file, and which levels of axes are meant."""

    def __call__(self, key: str = "") -> str: ...


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
            self._found.append(type(error)(f"{key}: {error}" if key else str(error)))

    def raise_any(self) -> None:
        """Raise what was noted: one fault as it is, more with a line for each."""
        if not self._found:
            return
        kinds = {type(fault) for fault in self._found}
        lines = list(dict.fromkeys(str(fault) for fault in self._found))
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        raise kind(lines[0] if len(lines) == 1 else "\n  ".join(["the study cannot run:", *lines]))


def check_study(config: StudyConfig) -> list[TrialSpec]:
    """The trials of a study whose every name and option is known, on every level of its axes.

    Raises:
        ConfigError: an unknown metric, optimizer, loss or column, or one of their options; two
            trials that are the same.
        DataError: an unknown data source, or one of its options.
        ModelError: the same of an architecture.
    """
    import_plugins(config.plugins)
    faults = Faults()
    trials: list[tuple[int, TrialSpec]] = []
    with faults.at(""):
        trials.extend(first_trials(config))
    for place, spec in _distinct(config, trials, "data"):
        with faults.at(place()):
            DATASETS.checked_options(spec.data.source, spec.data.options)
        if spec.data.shifted is not None:
            with faults.at(place(".shifted")):
                DATASETS.checked_options(spec.data.shifted.source, spec.data.shifted.options)
        with faults.at(place(".pixels")):
            if spec.data.pixels is not None:
                PIXEL_ARMS[spec.data.pixels]
    for place, spec in _distinct(config, trials, "model"):
        with faults.at(place()):
            model_options(spec.architecture, spec.options)
    for place, spec in _distinct(config, trials, "training"):
        _check_names(faults, place, spec)
    for place, spec in _distinct(config, trials, "measurement"):
        with faults.at(place()):
            check_metric_names(spec.measurement.metrics, spec.measurement.options)
            LOSSES[spec.measurement.loss or config.training.loss]
            _check_point_sets(spec)
    _check_analysis(faults, config, {m for _, spec in trials for m in spec.measurement.metrics})
    faults.raise_any()
    _say_what_is_not_measured(config)
    specs = plan(config)
    things = {t for s in specs for t in (*things_of_network(s), *things_of_measurement(s))}
    code = plugin_code(things)
    return plan(config.model_copy(update={"plugin_code": code})) if code else specs


def _check_names(faults: Faults, place: Place, spec: TrialSpec) -> None:
    """Note names and constants of a training that nothing has."""
    training = spec.training
    with faults.at(place(".optimizer")):
        optimizer_constants(training.optimizer)
    with faults.at(place(".loss")):
        LOSSES[training.loss]
    with faults.at(place(".schedule")):
        schedule_constants(training.schedule)
    with faults.at(place(".augmentation")):
        Augmentation(training.augmentation, seed=0)
    with faults.at(place(".averaging")):
        if training.averaging is not None:
            average_constants(training.averaging)
        elif spec.measurement.weights == "average":
            raise ConfigError("measurement.weights: average needs one; found none")


def _check_analysis(faults: Faults, config: StudyConfig, metrics: Collection[str]) -> None:
    columns = (*metrics, *TRIAL_SCHEMA, *_published(config))
    measurable = (*columns, *(info.name for info in metric_catalog()))
    axes = axis_columns(config)
    for key in ("primary", "covariates", "log", "outcomes"):
        known = measurable if key == "outcomes" else columns
        for name in getattr(config.analysis, key):
            with faults.at(f"analysis.{key}"):
                if name not in known and resolve_name(name, axes) is None:
                    raise ConfigError(unknown_name("column", name, {*known, *axes}))


def _published(config: StudyConfig) -> set[str]:
    """The columns of what others published of the study's networks."""
    return {name for model in config.models for name in model.outcomes}


def _distinct(
    config: StudyConfig,
    trials: Iterable[tuple[int, TrialSpec]],
    part: str,
    dataset_of: Callable[[TrialSpec], Dataset] | None = None,
) -> Iterator[tuple[Place, TrialSpec]]:
    """One trial for each different document of a part (on each data set, where these are given),
    with what to call its place in the file.
    """
    seen = set()
    for index, spec in trials:
        # Trials share the documents they have in common.
        document: tuple[object, ...] = {
            "data": (id(spec.data),),
            "model": (index, spec.architecture, repr(sorted(spec.options.items(), key=str))),
            "training": (id(spec.training), spec.measurement.weights),
            "measurement": (id(spec.measurement),),
        }[part]
        document += (id(dataset_of(spec)) if dataset_of else None,)
        if document not in seen:
            seen.add(document)
            yield _place_of(config, index, spec, part), spec


def _place_of(config: StudyConfig, index: int, spec: TrialSpec, part: str) -> Place:
    own = part == "training" and config.models[index].training is not None
    start = f"models[{index}].training" if own else f"models[{index}]" if part == "model" else part
    varied = ", ".join(f"{k}={v}" for k, v in spec.axes.items() if k.partition(".")[0] == part)
    return lambda key="": f"{start}{key} ({varied})" if varied else f"{start}{key}"


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


def _check_point_sets(spec: TrialSpec) -> None:
    """Refuse metrics of a point set that the trial does not have.

    Raises:
        ConfigError: names the first.
    """
    if spec.data.shifted is not None:
        return
    for name in spec.measurement.metrics:
        if "shifted" in metric_info(name).observers:
            raise ConfigError(f"{name} needs a second test set: set data.shifted")


def _say_what_is_not_measured(config: StudyConfig) -> None:
    """Warn of outcomes that the study file names, and that it does not measure."""
    named, standard = config.analysis.outcomes, AnalysisConfig().outcomes
    measured, _ = with_inequalities(config.measurement.metrics)
    known = {*measured, *TRIAL_SCHEMA, *_published(config)}
    absent = [name for name in named if name not in known]
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


def study_points(config: StudyConfig, specs: Sequence[TrialSpec]) -> dict[str, Points]:
    """The data of a study by `points_key`; networks that are trained are built for them.

    Raises:
        DataError: the data cannot be read as configured.
        ModelError: an architecture does not fit the data.
        ConfigError: as `check_networks`.
    """
    if not config.only_measures:
        data = load_all_points(specs)
        check_networks(config, data)
        return data
    wanted = config.measurement
    names = list(wanted.metrics)
    if wanted.check_bounds:
        names = with_inequalities(names, wanted.options)[0]
    sets = {observer for name in names for observer in metric_info(name).observers} - {"probe"}
    return {points_key(specs[0]): load_encoded(config, sorted(sets))}


def check_networks(config: StudyConfig, data: Dataset | Mapping[str, Points]) -> None:
    """Build every network of a study for its data, and every optimizer that trains it.

    Of more than `_MOST_BUILT` different networks, as ranges make them, that many are built, evenly
    over the design.

    Args:
        config: the study.
        data: its data set, or all of them by `points_key`.

    Raises:
        ModelError: an architecture does not fit the data.
        ConfigError: an optimizer refuses its constants, or a loss, rule or arm does not fit the
            data.
    """
    faults = Faults()
    trials = list(first_trials(config))

    def dataset_of(spec: TrialSpec) -> Dataset:
        return data if isinstance(data, Dataset) else data[points_key(spec)].dataset

    for place, spec in _distinct(config, trials, "training", dataset_of):
        _check_training(faults, place, spec.training, dataset_of(spec))
    for place, spec in _distinct(config, trials, "measurement", dataset_of):
        with faults.at(place(".loss")):
            _check_loss(spec.measurement.loss or config.training.loss, dataset_of(spec))
    built: dict[str, tuple[int, TrialSpec, dict[int, TrainingConfig]]] = {}
    for index, spec in trials:
        shape = (dataset_of(spec).input_shape, dataset_of(spec).num_classes)
        network = repr((index, spec.architecture, sorted(spec.options.items(), key=str), shape))
        trainings = built.setdefault(network, (index, spec, {}))[-1]
        trainings.setdefault(id(spec.training), spec.training)
    every = max(1, -(-len(built) // _MOST_BUILT))
    for index, spec, trainings in list(built.values())[::every]:
        place, dataset = _place_of(config, index, spec, "model"), dataset_of(spec)
        with faults.at(place()):
            model = build_model(
                spec.architecture, dataset.input_shape, dataset.num_classes, spec.options, seed=0
            )
            for training in trainings.values():
                check_optimizer(model, training.optimizer)
    faults.raise_any()


def _check_training(
    faults: Faults, place: Place, training: TrainingConfig, dataset: Dataset
) -> None:
    """Note what of a training does not fit the data."""
    with faults.at(place(".loss")):
        _check_loss(training.loss, dataset)
    of_classes = {
        "label_smoothing": training.label_smoothing,
        "stop_accuracy": training.stop_accuracy,
    }
    for name, value in of_classes.items():
        with faults.at(place(f".{name}")):
            if value and dataset.task == "regression":
                raise ConfigError(f"is for classes; {dataset.name!r} has numbers to predict")
    with faults.at(place(".label_smoothing")):
        if training.label_smoothing and dataset.task == "classification":
            _check_smoothing(training, dataset.num_classes)
    with faults.at(place(".augmentation")):
        if training.augmentation:
            if dataset.kind != "image":
                raise ConfigError(f"is for images; {dataset.name!r} has {dataset.kind} inputs")
            with torch.random.fork_rng(devices=[]):
                image = torch.tensor(dataset.x_train[:1])
                Augmentation(training.augmentation, seed=0)(image, torch.zeros(1), 0)
    with faults.at(place(".patience")):
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
