"""The record of one trial: its columns, declared once, and the schema of the tables they make.

A column is one field of `TrialRecord`: name, type, whether it may be empty, meaning, and where
else its value goes. The schema of the files, what tracking logs of a trial, and what the report
takes for a hyperparameter follow from that. A column that is added later may be empty: records
written before it are read with null there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from numbers import Integral, Real
from typing import Any, NamedTuple, get_type_hints

import polars as pl

from flatscale.measurement import Measurement

FINISHED, DIVERGED, FAILED = STATUSES = "finished", "diverged", "failed"
SETTLED = (FINISHED, DIVERGED)
"""How trials end that are not run again."""
Columns = dict[str, pl.DataType | type[pl.DataType]]

MEASUREMENT_SCHEMA: Columns = {
    "step": pl.Int64,
    "is_final": pl.Boolean,
    "metric": pl.String,
    "value": pl.Float64,
    "std_error": pl.Float64,
    "converged": pl.Boolean,
    "num_evaluations": pl.Int64,
    "num_points": pl.Int64,
    "probe_hash": pl.String,
    "reason": pl.String,
    "layers": pl.List(pl.Struct({"layer": pl.String, "value": pl.Float64})),
    "extras": pl.List(pl.Struct({"name": pl.String, "values": pl.List(pl.Float64)})),
}
"""One row per trial, snapshot and metric (with `trial_id` in front in the flat table)."""

HISTORY_SCHEMA: Columns = {"step": pl.Int64, "train_loss": pl.Float64}

# Where else a column goes: to the tracking server, or into the statistics as a hyperparameter.
PARAMETER, TAG, METRIC, HYPERPARAMETER = "parameter", "tag", "metric", "hyperparameter"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The measurements of one trial at one step."""

    step: int
    is_final: bool
    probe_hash: str
    measurements: tuple[Measurement, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per metric, in MEASUREMENT_SCHEMA."""
        rows = []
        for m in self.measurements:
            known = {"metric": m.name, **_values(m), **_values(self)}
            known["layers"] = [{"layer": k, "value": v} for k, v in m.layers.items()]
            known["extras"] = [{"name": k, "values": list(v)} for k, v in m.extras.items()]
            rows.append({name: known[name] for name in MEASUREMENT_SCHEMA})
        return rows


def _values(instance: Any) -> dict[str, Any]:
    return {declared.name: getattr(instance, declared.name) for declared in fields(instance)}


def _column(meaning: str, *uses: str, **default: Any) -> Any:
    return field(metadata={"meaning": meaning, "uses": uses}, **default)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """Everything known about one trial once it has ended, however it ended.

    Raises:
        ValueError: a column is empty that may not be, or holds another type; an unknown status.
    """

    trial_id: str = _column("hash of what determines the network and its measurements", TAG)
    network_id: str = _column("hash of what determines the network; names its weights", TAG)
    family: str = _column("the architecture's family", PARAMETER, TAG)
    architecture: str = _column("name of the architecture", PARAMETER)
    options: str = _column("options of the architecture, as JSON", PARAMETER)
    dataset: str = _column("name of the data", PARAMETER)
    dataset_hash: str = _column("hash of the data")
    num_classes: int = _column("classes of the data, or outputs of a regression", PARAMETER)
    train_size: int = _column("training points", PARAMETER)
    labels_changed: int | None = _column(
        "training labels that data.label_noise changed", PARAMETER, default=None
    )
    optimizer: str | None = _column("name of the optimizer", PARAMETER, default=None)
    optimizer_options: str | None = _column(
        "the optimizer's own constants, as JSON", PARAMETER, default=None
    )
    momentum: float | None = _column("momentum of the optimizer", PARAMETER, default=None)
    weight_decay: float | None = _column("weight decay of the optimizer", PARAMETER, default=None)
    loss: str | None = _column("name of the training loss", PARAMETER, default=None)
    learning_rate: float | None = _column("learning rate", PARAMETER, HYPERPARAMETER, default=None)
    batch_size: int | None = _column(
        "points a step, not beyond the data", PARAMETER, HYPERPARAMETER, default=None
    )
    seed_index: int = _column("which of the study's seeds", PARAMETER, HYPERPARAMETER)
    num_parameters: int | None = _column("parameters of the network", PARAMETER, default=None)
    status: str = _column("finished, diverged or failed", TAG)
    stop: str | None = _column(
        "which rule ended it, such as interpolated or step_limit, if finished", TAG, default=None
    )
    reason: str | None = _column("why it diverged or failed", TAG, default=None)
    num_steps: int | None = _column("steps of the optimizer", METRIC, default=None)
    num_attempts: int = _column("times it was started", default=1)
    train_seconds: float | None = _column("seconds of training", METRIC, default=None)
    measure_seconds: float | None = _column("seconds of measuring", METRIC, default=None)
    started_at: datetime | None = _column("start", default=None)  # noqa: RUF009
    finished_at: datetime | None = _column("end", default=None)  # noqa: RUF009
    model: str | None = _column("name of a network that came with weights", TAG, default=None)
    weights_tag: str | None = _column("source and tag of its weights", TAG, default=None)
    weights_hash: str | None = _column("SHA-256 of its weights", TAG, default=None)
    peak_memory_bytes: int | None = _column("most memory its worker held", METRIC, default=None)
    device: str | None = _column("what it was trained on", TAG, default=None)
    versions: str | None = _column("versions of torch and Python", TAG, default=None)
    plugin_code: str | None = _column(
        "what names the code of the plugins it depends on, as JSON", TAG, default=None
    )
    axes: str | None = _column("what else the design varied, as JSON", default=None)
    value_ids: str | None = _column(
        "what names how each final value was measured, as JSON", default=None
    )
    taken_over: str | None = _column(
        "final values measured for earlier records, by their trial and its versions, as JSON",
        TAG,
        default=None,
    )
    snapshots: tuple[Snapshot, ...] = ()
    history: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for column in COLUMNS:
            value = getattr(self, column.name)
            if not (isinstance(value, column.kind) or (value is None and column.nullable)):
                raise ValueError(
                    f"record of trial {self.trial_id}: {column.name} ({column.meaning}) must be "
                    f"of type {column.kind.__name__.lower()} but is {value!r}"
                )
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}; known are {', '.join(STATUSES)}")

    def row(self) -> dict[str, Any]:
        """One mapping in RECORD_SCHEMA."""
        flat = {name: getattr(self, name) for name in TRIAL_SCHEMA}
        flat["measurements"] = [row for snapshot in self.snapshots for row in snapshot.rows()]
        flat["history"] = [{"step": step, "train_loss": loss} for step, loss in self.history]
        return flat


class RecordColumn(NamedTuple):
    """One column of a record: a field of `TrialRecord`, the class and table type of its values."""

    name: str
    kind: type
    dtype: pl.DataType | type[pl.DataType]
    nullable: bool
    """Whether it may be empty."""
    meaning: str
    uses: tuple[str, ...]
    """Where else it goes: PARAMETER, TAG, METRIC of tracking; HYPERPARAMETER."""


_TYPES: dict[Any, tuple[type, pl.DataType | type[pl.DataType]]] = {
    str: (str, pl.String),
    int: (Integral, pl.Int64),
    float: (Real, pl.Float64),
    datetime: (datetime, pl.Datetime("us", "UTC")),
}


def _declared() -> Iterator[RecordColumn]:
    hints = get_type_hints(TrialRecord)
    for declared in fields(TrialRecord):
        if declared.metadata:
            hint, *empty = getattr(hints[declared.name], "__args__", (hints[declared.name],))
            yield RecordColumn(declared.name, *_TYPES[hint], bool(empty), **declared.metadata)


COLUMNS = tuple(_declared())

TRIAL_SCHEMA: Columns = {column.name: column.dtype for column in COLUMNS}
"""One row per trial."""

RECORD_SCHEMA: Columns = {
    **TRIAL_SCHEMA,
    "measurements": pl.List(pl.Struct(MEASUREMENT_SCHEMA)),
    "history": pl.List(pl.Struct(HISTORY_SCHEMA)),
}

REQUIRED = tuple(column.name for column in COLUMNS if not column.nullable)
"""The columns that no record lacks."""


def columns_for(use: str) -> tuple[str, ...]:
    """The names of the columns that go somewhere: to PARAMETER, TAG, METRIC, HYPERPARAMETER."""
    return tuple(column.name for column in COLUMNS if use in column.uses)


def axis_values(name: str, values: Sequence[Any]) -> pl.Series:
    """A column of an axis: numbers where all of its levels are, else their labels."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, int) for value in there):
        return pl.Series(name, values, dtype=pl.Int64)
    if all(isinstance(value, int | float) for value in there):
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
