"""Trial records made by hand, for tests of everything that reads a store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flatscale.measurement import Measurement
from flatscale.store.records import FINISHED, Snapshot, TrialRecord
from flatscale.study.plan import TrialSpec
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig


def study(num_seeds: int = 3, **parts: Any) -> StudyConfig:
    """A study of 4 x num_seeds trials."""
    design = {
        "kind": "grid",
        "learning_rate": [0.1, 0.2],
        "batch_size": [16],
        "num_seeds": num_seeds,
    }
    models = [{"architecture": "mlp"}, {"architecture": "lenet"}]
    return parse_config({"name": "study", "models": models, "design": design, **parts})


def record(spec: TrialSpec, **parts: Any) -> TrialRecord:
    """A finished trial with two snapshots of two metrics."""
    values = {"mls": 1.0 + spec.seed_index, "sharpness": 10.0 * spec.learning_rate}
    snapshots = tuple(
        Snapshot(
            step=step,
            is_final=step == 100,
            probe_hash="probe",
            measurements=tuple(
                Measurement(
                    name=name,
                    value=value + step,
                    std_error=0.5,
                    num_evaluations=3,
                    num_points=10,
                    layers={"0": 1.0, "2": 2.0},
                    extras={"slack": (0.1, 0.2)},
                )
                for name, value in values.items()
            ),
        )
        for step in (10, 100)
    )
    known: dict[str, Any] = {
        "trial_id": spec.trial_id,
        "network_id": spec.network_id,
        "family": spec.family or spec.architecture,
        "architecture": spec.architecture,
        "options": "{}",
        "dataset": "digits",
        "dataset_hash": "data",
        "num_classes": 10,
        "train_size": 100,
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "loss": "half_squared_error",
        "learning_rate": spec.learning_rate,
        "batch_size": spec.batch_size,
        "seed_index": spec.seed_index,
        "status": FINISHED,
        "stop": "interpolated",
        "num_steps": 100,
        "train_seconds": 1.5,
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "finished_at": datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        "snapshots": snapshots,
        "history": ((1, 0.5), (100, 0.01)),
    }
    return TrialRecord(**{**known, **parts})
