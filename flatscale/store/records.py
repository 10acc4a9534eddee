"""The record of one trial, and the schema of the tables that records make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from flatscale.measurement import Measurement

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
STATUSES = (FINISHED, DIVERGED, FAILED)
Columns = dict[str, pl.DataType | type[pl.DataType]]

TRIAL_SCHEMA: Columns = {
    "trial_id": pl.String,
    "network_id": pl.String,
    "family": pl.String,
    "architecture": pl.String,
    "options": pl.String,
    "dataset": pl.String,
    "dataset_hash": pl.String,
    "num_classes": pl.Int64,
    "train_size": pl.Int64,
    "optimizer": pl.String,
    "momentum": pl.Float64,
    "weight_decay": pl.Float64,
    "loss": pl.String,
    "learning_rate": pl.Float64,
    "batch_size": pl.Int64,
    "seed_index": pl.Int64,
    "num_parameters": pl.Int64,
    "status": pl.String,
    "stop": pl.String,
    "reason": pl.String,
    "num_steps": pl.Int64,
    "num_attempts": pl.Int64,
    "train_seconds": pl.Float64,
    "measure_seconds": pl.Float64,
    "started_at": pl.Datetime("us", "UTC"),
    "finished_at": pl.Datetime("us", "UTC"),
    "device": pl.String,
    "versions": pl.String,
}
"""One row per trial. `status` is finished, diverged or failed; `stop` is interpolated or
step_limit for a finished one; `reason` says why a trial diverged or failed."""

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

RECORD_SCHEMA: Columns = {
    **TRIAL_SCHEMA,
    "measurements": pl.List(pl.Struct(MEASUREMENT_SCHEMA)),
    "history": pl.List(pl.Struct(HISTORY_SCHEMA)),
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The measurements of one trial at one step."""

    step: int
    is_final: bool
    probe_hash: str
    measurements: tuple[Measurement, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per metric, in MEASUREMENT_SCHEMA."""
        return [
            {
                "step": self.step,
                "is_final": self.is_final,
                "metric": m.name,
                "value": m.value,
                "std_error": m.std_error,
                "converged": m.converged,
                "num_evaluations": m.num_evaluations,
                "num_points": m.num_points,
                "probe_hash": self.probe_hash,
                "reason": m.reason,
                "layers": [{"layer": k, "value": v} for k, v in m.layers.items()],
                "extras": [{"name": k, "values": list(v)} for k, v in m.extras.items()],
            }
            for m in self.measurements
        ]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """Everything known about one trial once it has ended, however it ended."""

    trial_id: str
    network_id: str
    family: str
    architecture: str
    options: str
    dataset: str
    dataset_hash: str
    num_classes: int
    train_size: int
    optimizer: str
    momentum: float
    weight_decay: float
    loss: str
    learning_rate: float
    batch_size: int
    seed_index: int
    num_parameters: int | None = None
    status: str
    stop: str | None = None
    reason: str | None = None
    num_steps: int | None = None
    num_attempts: int = 1
    train_seconds: float | None = None
    measure_seconds: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    device: str | None = None
    versions: str | None = None
    snapshots: tuple[Snapshot, ...] = ()
    history: tuple[tuple[int, float], ...] = ()

    def row(self) -> dict[str, Any]:
        """One mapping in RECORD_SCHEMA."""
        flat = {name: getattr(self, name) for name in TRIAL_SCHEMA}
        flat["measurements"] = [row for snapshot in self.snapshots for row in snapshot.rows()]
        flat["history"] = [{"step": step, "train_loss": loss} for step, loss in self.history]
        return flat
