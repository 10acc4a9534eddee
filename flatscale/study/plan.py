"""From a study to its trials, each named by a hash of everything that determines its result."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from flatscale.errors import ConfigError
from flatscale.study.axes import AxesDesign, Design, GridDesign, NoDesign, SobolDesign, Span
from flatscale.study.identity import content_hash, result_content
from flatscale.study.levels import (
    BATCH_SIZE,
    COLUMNS,
    LEARNING_RATE,
    get,
    is_level,
    label_of,
    put,
    value_of,
)
from flatscale.study.parts import BatchSize
from flatscale.study.plugin_code import with_code
from flatscale.study.pretrained import Preprocessing, WeightsConfig
from flatscale.study.schema import (
    DataConfig,
    MeasurementConfig,
    ModelConfig,
    Options,
    StudyConfig,
    TrainingConfig,
)
from flatscale.study.seeds import derive_seed

Level = Any
"""A number, a word, a list or a document of a study file."""
_OF_WEIGHTS = ("name", "weights", "preprocessing", "outcomes")


class TrialSpec(BaseModel):
    """One network of a study: what to train, how, and what to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_seed: int
    data: DataConfig
    architecture: str
    family: str | None
    """A label for the statistics; not part of the id."""
    options: Options
    training: TrainingConfig
    measurement: MeasurementConfig
    learning_rate: float
    """0, as is the batch size, where nothing is trained."""
    batch_size: BatchSize | Literal[0]
    seed_index: int
    network_code: dict[str, str] = {}
    """The code of the plugins that determine the network; see `study.plugin_code`."""
    measurement_code: dict[str, str] = {}
    """The code of the plugins that determine what is measured."""
    axes: dict[str, bool | int | FiniteFloat | str] = Field(default_factory=dict)
    """What the design varies, by the columns of the tables: numbers or labels; not part of the id,
    which holds what they stand for."""
    name: str | None = None
    """What a network with weights is called; no part of the id, as its outcomes."""
    weights: WeightsConfig | None = None
    preprocessing: Preprocessing | None = None
    outcomes: Mapping[str, float] = Field(default_factory=dict)

    @cached_property
    def network_id(self) -> str:
        """Hash of what determines the trained network; names its checkpoint."""
        return content_hash(self._network_content)

    @property
    def weights_id(self) -> str:
        """Names the weights that are measured, where they are kept: the last, or an average."""
        kind = self.measurement.weights
        return self.network_id if kind == "last" else f"{self.network_id}-{kind}"

    @cached_property
    def trial_id(self) -> str:
        """Hash of what determines the network and its measurements; names the trial's record."""
        measurement = self._content["measurement"]
        measurement = {**measurement, "metrics": sorted(measurement["metrics"])}
        code = {"measurement_code": self.measurement_code} if self.measurement_code else {}
        named = {"network": self._network_content, "measurement": measurement, **code}
        return content_hash(named)

    @cached_property
    def _content(self) -> dict[str, Any]:
        return result_content(self)

    @property
    def _network_content(self) -> dict[str, Any]:
        of_measurement = ("measurement", "measurement_code")
        return {name: part for name, part in self._content.items() if name not in of_measurement}

    @property
    def further_axes(self) -> dict[str, bool | int | float | str]:
        """The axes that have no column of their own in every record."""
        return {name: at for name, at in self.axes.items() if name not in COLUMNS.values()}

    def seed(self, *purpose: str | int) -> int:
        """A seed for one use within this trial, the same whatever is measured."""
        return derive_seed(self.study_seed, self.network_id, *purpose)

    def num_points_a_step(self, train_size: int) -> int:
        """The batch size in points; no batch is larger than the training set."""
        return train_size if self.batch_size == "full" else min(self.batch_size, train_size)


def plan(config: StudyConfig) -> list[TrialSpec]:
    """The trials of a study, seeds outermost, so that a stopped study is balanced.

    Raises:
        ConfigError: two trials are the same, or a combination of levels is not valid.
    """
    trials: dict[str, TrialSpec] = {}
    settings = [list(of_model) for of_model in _settings(config)]
    designs = [model.design or config.design for model in config.models]
    for seed_index in range(max(design.num_seeds for design in designs)):
        for design, of_model in zip(designs, settings, strict=True):
            for fields in of_model if seed_index < design.num_seeds else ():
                spec = with_code(TrialSpec(**fields, seed_index=seed_index), config.plugin_code)
                if spec.trial_id in trials:
                    raise ConfigError(_same_trial(spec, trials[spec.trial_id]))
                trials[spec.trial_id] = spec
    return list(trials.values())


def first_trials(config: StudyConfig) -> Iterator[tuple[int, TrialSpec]]:
    """The trials of the first seed, each with the number of its entry in `models`.

    Raises:
        ConfigError: a combination of levels is not valid.
    """
    for index, of_model in enumerate(_settings(config)):
        for fields in of_model:
            yield index, TrialSpec(**fields, seed_index=0)


def axis_columns(config: StudyConfig) -> tuple[str, ...]:
    """The columns of everything that the designs of a study vary, in their order."""
    return tuple(COLUMNS.get(key, key) for key in _axis_keys(config))


def _axis_keys(config: StudyConfig) -> tuple[str, ...]:
    designs = [config.design, *(model.design for model in config.models if model.design)]
    return tuple(dict.fromkeys(key for design in designs for key in design_keys(design)))


def _same_trial(one: TrialSpec, other: TrialSpec) -> str:
    described = (
        f"{one.architecture} with options {one.options or '{}'}, learning rate "
        f"{one.learning_rate:g}, batch size {one.batch_size}"
    )
    if one.axes == other.axes:
        return f"two entries of models describe the same trial: {described}; remove one of them"
    apart = " and ".join(
        ", ".join(f"{k}={v}" for k, v in spec.axes.items() if v != against.axes.get(k))
        for spec, against in ((one, other), (other, one))
    )
    return (
        f"two combinations of the design describe the same trial ({described}): {apart}; remove "
        "one of them, or give data sets of one source a name"
    )


def _settings(config: StudyConfig) -> Iterator[Iterator[dict[str, Any]]]:
    """For every entry of `models` its trials but for their seed, as the fields of a TrialSpec."""
    everywhere = _axis_keys(config)
    points: dict[int, list[dict[str, Level]]] = {}
    for model in config.models:
        design = model.design or config.design
        if id(design) not in points:
            points[id(design)] = _assignments(design, config.seed)
        yield _of_model(config, model, points[id(design)], everywhere)


def _assignments(design: Design, seed: int) -> list[dict[str, Level]]:
    """The level of every key, point by point, without what is excluded."""
    keys = design_keys(design)
    points = [dict(zip(keys, point, strict=True)) for point in design_points(design, seed)]
    excluded = design.exclude if isinstance(design, AxesDesign) else ()
    return [
        point
        for point in points
        if not any(all(is_level(v, point[k]) for k, v in entry.items()) for entry in excluded)
    ]


def _of_model(
    config: StudyConfig,
    model: ModelConfig,
    points: Sequence[Mapping[str, Level]],
    everywhere: Sequence[str],
) -> Iterator[dict[str, Any]]:
    parts = {
        "data": config.data,
        "model": model.model_copy(update={"design": None, "training": None}),
        "training": model.training or config.training,
        "measurement": config.measurement,
    }
    known: dict[str, Any] = {}
    without: dict[int, TrainingConfig] = {}
    for point in points:
        found = {name: _with_levels(name, part, point, known) for name, part in parts.items()}
        training: TrainingConfig = found["training"]
        if model.weights is None:
            rate = point.get(LEARNING_RATE, training.learning_rate)
            batch = point.get(BATCH_SIZE, training.batch_size)
        else:
            rate = batch = 0
        # They have a place of their own in a trial, wherever they were given.
        nowhere_else = {"learning_rate": None, "batch_size": None}
        if id(training) not in without:
            without[id(training)] = training.model_copy(update=nowhere_else)
        labels = {key: _label(key, point, found) for key in everywhere}
        yield {
            "study_seed": config.seed,
            "data": found["data"],
            "architecture": found["model"].architecture,
            "family": model.family,
            "options": found["model"].options,
            "training": without[id(training)],
            "measurement": found["measurement"],
            "learning_rate": value_of(LEARNING_RATE, rate),
            "batch_size": value_of(BATCH_SIZE, batch),
            "axes": {COLUMNS.get(k, k): label for k, label in labels.items() if label is not None},
            **{key: getattr(model, key) for key in _OF_WEIGHTS},
        }


def _with_levels(
    name: str, part: BaseModel, point: Mapping[str, Level], known: dict[str, Any]
) -> Any:
    """A part of the study with the levels of a point written into it, validated again.

    Raises:
        ConfigError: a level does not go with the rest.
    """
    own = {key: level for key, level in point.items() if key.partition(".")[0] == name}
    for key in (LEARNING_RATE, BATCH_SIZE):
        own.pop(key, None)
    if not own:
        return part
    cached = json.dumps([name, own], sort_keys=True)
    if cached not in known:
        content = part.model_dump(mode="json")
        # What is written as a whole first, then the keys inside it.
        for key in sorted(own, key=lambda key: key.count(".")):
            path, value = key.split(".")[1:], value_of(key, own[key])
            if path:
                put(content, path, value)
            else:
                content |= value
        try:
            known[cached] = type(part).model_validate(content)
        except ValidationError as error:
            shown = ", ".join(f"{key}={label_of(level)}" for key, level in own.items())
            said = "; ".join(
                f"{'.'.join(map(str, (name, *fault['loc'])))}: {fault['msg']}"
                for fault in error.errors()
            )
            raise ConfigError(f"design: {shown} do not go together: {said}") from None
    return known[cached]


def _label(key: str, point: Mapping[str, Level], parts: Mapping[str, BaseModel]) -> Any:
    """The label of a point on an axis; where another design varies it, what it is here."""
    if key in point:
        return label_of(point[key])
    name, *path = key.split(".")
    value = get(parts[name].model_dump(mode="json"), path)
    return None if value is None or isinstance(value, dict) else label_of(value)


def design_keys(design: Design) -> tuple[str, ...]:
    """The dotted keys that a design varies."""
    if isinstance(design, NoDesign):
        return ()
    return design.keys if isinstance(design, AxesDesign) else (LEARNING_RATE, BATCH_SIZE)


def design_points(design: Design, seed: int) -> list[tuple[Level, ...]]:
    """The points of a design, a level for each of `design_keys`; sampled numbers have 6 digits."""
    if isinstance(design, NoDesign):
        return [()]
    if isinstance(design, GridDesign):
        return list(itertools.product(design.learning_rate, design.batch_size))
    if isinstance(design, SobolDesign):
        spans = [
            Span(low=span.low, high=span.high, scale="log", integer=integer)
            for span, integer in ((design.learning_rate, False), (design.batch_size, True))
        ]
        points = _sampled(spans, "sobol", design.num_points, seed)
        return [(rate, max(1, size)) for rate, size in points]
    if design.kind == "list":
        return [tuple(row.values()) for row in design.points]
    if design.kind == "grid":
        return list(itertools.product(*design.axes.values()))
    return _sampled(list(design.axes.values()), design.kind, design.num_points or 1, seed)


def _sampled(
    axes: Sequence[Span | tuple[Level, ...]], kind: str, num_points: int, seed: int
) -> list[tuple[Level, ...]]:
    """Points spread over levels and ranges; more of them begin with the same ones."""
    rng = np.random.default_rng(derive_seed(seed, "design"))
    if kind == "random":
        unit = rng.random((num_points, len(axes)))
    else:
        from scipy.stats import qmc

        engine = qmc.Sobol(d=len(axes), scramble=True, rng=rng)
        # Sobol's balance needs a power of two; a prefix of such a design is still a design.
        unit = engine.random_base2(int(np.ceil(np.log2(max(num_points, 2)))))[:num_points]
    columns = [_along(axis, position) for axis, position in zip(axes, unit.T, strict=True)]
    return list(zip(*columns, strict=True))


def _along(axis: Span | tuple[Level, ...], position: np.ndarray) -> list[Level]:
    """What is at positions in [0, 1) along an axis."""
    if not isinstance(axis, Span):
        return [axis[index] for index in (position * len(axis)).astype(int).tolist()]
    if axis.scale == "log":
        low, high = np.log(axis.low), np.log(axis.high)
        values = np.exp(low + position * (high - low)).tolist()
    else:
        values = (axis.low + position * (axis.high - axis.low)).tolist()
    return [round(value) if axis.integer else float(f"{value:.6g}") for value in values]
