"""The designs: what a study varies, and over which levels, ranges or rows.

The short forms vary learning rate and batch size; the general one makes any key of data, model,
training and measurement an axis.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from flatscale.study.levels import (
    BATCH_SIZE,
    LEARNING_RATE,
    DesignFaults,
    Place,
    checked_level,
    is_level,
    label_of,
    value_of,
)
from flatscale.study.parts import BatchSize, Part, PositiveFloat, distinct
from flatscale.study.registry import nearest

MAX_TRIALS = 100_000
_Rows = tuple[dict[str, Any], ...]


def check_number(num_points: int, num_seeds: int, most: int) -> None:
    """Refuse a design of more trials than it allows.

    Raises:
        ValueError: says how many there are, and what to set.
    """
    if num_points * num_seeds > most:
        raise ValueError(
            f"{num_points:,} combinations with {num_seeds} seeds are {num_points * num_seeds:,} "
            f"trials, more than max_trials ({most:,}); drop levels, or set max_trials"
        )


class LogRange(Part):
    """A range sampled evenly in the logarithm."""

    low: PositiveFloat
    """Smallest value."""
    high: PositiveFloat
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> LogRange:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be smaller than high ({self.high:g})")
        return self


class GridDesign(Part):
    """Every learning rate with every batch size, times seeds."""

    kind: Literal["grid"] = "grid"
    """A regular grid."""
    learning_rate: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), distinct("level")]
    """Learning rates."""
    batch_size: Annotated[tuple[BatchSize, ...], Field(min_length=1), distinct("level")]
    """Batch sizes; `full` is the whole training set."""
    num_seeds: int = Field(default=1, ge=1, le=10_000)
    """Networks per grid point, differing in initialisation and data order."""
    max_trials: int = Field(default=MAX_TRIALS, ge=1)
    """More trials than this are refused."""

    @model_validator(mode="after")
    def _countable(self) -> GridDesign:
        num_points = len(self.learning_rate) * len(self.batch_size)
        check_number(num_points, self.num_seeds, self.max_trials)
        return self


class SobolDesign(Part):
    """Scrambled Sobol points over (log learning rate) x (log batch size), times seeds."""

    kind: Literal["sobol"]
    """A low-discrepancy design: fills the plane evenly with any number of points."""
    learning_rate: LogRange
    """Range of learning rates."""
    batch_size: LogRange
    """Range of batch sizes; rounded to whole numbers."""
    num_points: int = Field(ge=1, le=65_536)
    """Points of the design; a power of two keeps the Sobol balance. A longer design contains the
    shorter one, so a study can grow."""
    num_seeds: int = Field(default=1, ge=1, le=10_000)
    """Networks per point, differing in initialisation and data order."""
    max_trials: int = Field(default=MAX_TRIALS, ge=1)
    """More trials than this are refused."""

    @model_validator(mode="after")
    def _countable(self) -> SobolDesign:
        check_number(self.num_points, self.num_seeds, self.max_trials)
        return self


class NoDesign(Part):
    """No sweep: every model comes with its weights and is only measured."""

    kind: Literal["none"]
    """Nothing is trained."""
    num_seeds: Literal[1] = 1
    """One trial a model."""


class Span(Part):
    """A range, sampled evenly on its scale."""

    low: FiniteFloat
    """Smallest value."""
    high: FiniteFloat
    """Largest value."""
    scale: Literal["linear", "log"] = "linear"
    """Evenly in the value, or in its logarithm."""
    integer: bool = False
    """Round to whole numbers."""

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be smaller than high ({self.high:g})")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low ({self.low:g}) must be greater than 0 on a log scale")
        return self


class AxesDesign(Part):
    """Any keys as axes: every combination of levels, points spread over ranges, or listed rows."""

    kind: Literal["grid", "sobol", "random", "list"] = "grid"
    """`grid`: every combination of the levels. `sobol`, `random`: `num_points` points over levels
    and ranges. `list`: the rows of `points`."""
    axes: dict[str, tuple[Any, ...] | Span] = Field(default_factory=dict)
    """Dotted key, such as `training.learning_rate`, `training.optimizer`, `model.options.width`, to
    its levels or its range. A level may be a whole document: one of `data`, `training` or
    `measurement` changes the keys it names, one inside these takes the place of what is there."""
    points: _Rows = ()
    """Rows of dotted key to level, or a CSV file with a column a key; relative to the current
    folder, and kept in the store row by row."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations to drop: those that have all the levels (or labels) of an entry."""
    num_points: int | None = Field(default=None, ge=1, le=1_000_000)
    """Points of `sobol` and `random`; a longer design contains the shorter one."""
    num_seeds: int = Field(default=1, ge=1, le=10_000)
    """Networks per combination, differing in initialisation and data order."""
    max_trials: int = Field(default=MAX_TRIALS, ge=1)
    """More trials than this are refused."""

    @field_validator("points", mode="before", json_schema_input_type=_Rows | str)
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _read_points(value) if isinstance(value, str) else value

    @field_validator("axes", mode="before")
    @classmethod
    def _check_axes(cls, axes: Any) -> Any:
        if not isinstance(axes, Mapping):
            return axes
        faults = DesignFaults()
        checked = {str(key): _checked_axis(str(key), axis, faults) for key, axis in axes.items()}
        faults.raise_any()
        return checked

    @field_validator("points")
    @classmethod
    def _check_points(cls, rows: _Rows) -> _Rows:
        faults = DesignFaults()
        for key in rows[0] if rows else ():
            faults.check_key(key, (0, *key.split(".")))
        for index, row in enumerate(rows):
            if set(row) != set(rows[0]):
                odd = ", ".join(sorted(set(row) ^ set(rows[0])))
                faults.add((index,), f"every row must have the same keys; not in all: {odd}", row)
            for key, level in row.items():
                row[key] = checked_level(key, level, (index, *key.split(".")), faults)
        faults.raise_any()
        return tuple({key: row[key] for key in rows[0]} for row in rows)

    @model_validator(mode="after")
    def _whole(self) -> AxesDesign:
        faults = DesignFaults()
        listed, sampled = self.kind == "list", self.kind in ("sobol", "random")
        needed = {"points": listed, "axes": not listed, "num_points": sampled}
        for name, wanted in needed.items():
            if wanted is not bool(getattr(self, name)):
                verb = "needs" if wanted else "takes no"
                faults.add((name,), f"a design of kind {self.kind!r} {verb} {name}")
        for key, axis in self.axes.items():
            if isinstance(axis, Span) and not sampled:
                faults.add(
                    ("axes", *key.split(".")), f"a {self.kind} needs levels, not a range", axis
                )
        self._check_exclude(faults)
        faults.raise_any()
        check_number(self.num_combinations, self.num_seeds, self.max_trials)
        return self

    def _check_exclude(self, faults: DesignFaults) -> None:
        for index, entry in enumerate(self.exclude):
            if not entry:
                faults.add(("exclude", index), "must name at least one key", entry)
            for key, level in entry.items():
                place: Place = ("exclude", index, *key.split("."))
                axis = self.axes.get(key)
                if not isinstance(axis, tuple):
                    known = [k for k, a in self.axes.items() if isinstance(a, tuple)]
                    near = nearest(key, known)
                    said = f"is no axis with levels{near}; these are: {', '.join(known)}"
                    faults.add(place, said, level)
                elif not any(is_level(level, one) for one in axis):
                    labels = [str(label_of(one)) for one in axis]
                    near = nearest(str(label_of(level)), labels)
                    faults.add(place, f"is no level{near}; these are: {', '.join(labels)}", level)

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys that are varied."""
        return tuple(self.points[0] if self.kind == "list" else self.axes)

    @property
    def num_combinations(self) -> int:
        """Points before any is excluded."""
        if self.kind == "list":
            return len(self.points)
        if self.num_points is not None:
            return self.num_points
        return math.prod(len(axis) for axis in self.axes.values() if isinstance(axis, tuple))


def _checked_axis(key: str, axis: Any, faults: DesignFaults) -> Any:
    """An axis with its levels as the schema takes them; what is wrong with it is noted."""
    place = tuple(key.split("."))
    known = faults.check_key(key, place)
    if isinstance(axis, Mapping | Span):
        try:
            span = Span.model_validate(axis)
        except ValidationError as error:
            for fault in error.errors():
                faults.add_from(Span, fault, place)
            return axis
        # Between the ends, too: whole numbers must be asked for.
        inner = span.low + (span.high - span.low) * 0.381966
        for value in (span.low, inner, span.high) if known else ():
            checked_level(key, round(value) if span.integer else value, place, faults)
        return span
    if not isinstance(axis, list | tuple) or not axis:
        said = "must be a list of levels, or a range with low and high"
        faults.add(place, said, axis)
        return axis
    levels = [checked_level(key, one, (*place, i), faults) for i, one in enumerate(axis)]
    labels = [label_of(level) for level in levels]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            said = "is a level twice; write {label: ..., ...} to tell them apart"
            faults.add((*place, index), said, label)
    return tuple(levels)


def _read_points(path: str) -> list[dict[str, Any]]:
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot be read as a table: {error}") from error
    if not rows or any(None in row or None in row.values() for row in rows):
        raise ValueError("must be a CSV file with a row of keys and a value for each in every row")
    try:
        return [{key: yaml.safe_load(cell) for key, cell in row.items()} for row in rows]
    except yaml.YAMLError as error:
        raise ValueError(f"has a cell that is no YAML value: {error}") from error


def _form(value: Any) -> str | None:
    """Which form a design has: the short ones name the two old axes, the general one has `axes`."""
    if isinstance(value, BaseModel):
        return {
            GridDesign: "(grid)",
            SobolDesign: "(sobol)",
            NoDesign: "(none)",
        }.get(type(value), "(axes)")
    kind = value.get("kind", "grid") if isinstance(value, dict) else None
    if kind == "none" or (kind in ("grid", "sobol") and "axes" not in value):
        return f"({kind})"
    return "(axes)" if kind in ("grid", "sobol", "random", "list") else None


Design = Annotated[
    Annotated[GridDesign, Tag("(grid)")]
    | Annotated[SobolDesign, Tag("(sobol)")]
    | Annotated[NoDesign, Tag("(none)")]
    | Annotated[AxesDesign, Tag("(axes)")],
    Discriminator(
        _form,
        custom_error_type="design",
        custom_error_message="must be a mapping of kind 'grid', 'sobol', 'random', 'list' "
        "or 'none'",
    ),
]


def check_steps(where: str, design: BaseModel, training: BaseModel) -> None:
    """Refuse a network that has no learning rate or no batch size.

    Raises:
        ValueError: names the key that is missing.
    """
    if not isinstance(design, AxesDesign):
        return
    for key in (LEARNING_RATE, BATCH_SIZE):
        name = key.rpartition(".")[2]
        whole = design.axes.get("training", ())
        inside = isinstance(whole, tuple) and any(
            value_of("training", level).get(name) for level in whole
        )
        if key not in design.keys and not inside and getattr(training, name) is None:
            raise ValueError(
                f"{where}: no {name} is given; make {key} an axis of the design, or set it under "
                "training"
            )
