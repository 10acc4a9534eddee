"""Synthetic studies: the truth is chosen here, the records are the package's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flatscale.measurement import Measurement
from flatscale.store.records import DIVERGED, FAILED, FINISHED, Snapshot, TrialRecord
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.schema import DEFAULT_METRICS, StudyConfig

NASTY_FAMILY = "R&D_50% {x}$<img src=x onerror=alert(1)></script>\\"
FAMILIES = {
    "mlp": "mlp",
    "lenet": "lenet",
    "vgg11": "vgg11",
    "timm:mobilevit_xxs": "mobilevit",
    "timm:resnet18": NASTY_FAMILY,
}
BOUNDS = {"bound_a": 0.2, "bound_b": 0.5, "bound_c": 0.9, "bound_d": 1.3}
PLANE = ("input_information", "label_information")
METRICS = (*DEFAULT_METRICS, *BOUNDS, "nmls_bound", *PLANE)


def make_study(
    *,
    name: str = "synthetic",
    num_rates: int = 4,
    num_batches: int = 2,
    num_seeds: int = 1,
    extra_metrics: int = 0,
    num_snapshots: int = 6,
    num_resamples: int = 200,
) -> StudyConfig:
    """A study over the five families on a grid of learning rates and batch sizes."""
    content: dict[str, Any] = {
        "name": name,
        "description": "Do flat minima compress? <b>A synthetic study</b> & its answer.",
        "models": [{"architecture": a, "family": f} for a, f in FAMILIES.items()],
        "design": {
            "kind": "grid",
            "learning_rate": np.geomspace(0.01, 0.3, num_rates).round(6).tolist(),
            "batch_size": [8 * 4**i for i in range(num_batches)],
            "num_seeds": num_seeds,
        },
        "measurement": {
            "metrics": [*METRICS, *(f"extra_{i:02d}" for i in range(extra_metrics))],
            "num_snapshots": num_snapshots,
        },
        "analysis": {
            "primary": ["sharpness", "mls"],
            "log": ["sharpness", "mls", "adaptive_sharpness"],
            "covariates": ["learning_rate"],
            "num_resamples": num_resamples,
        },
    }
    return StudyConfig.model_validate(content)


def fill_store(
    root: Path, study: StudyConfig, *, seed: int, everything_fails: bool = False
) -> Store:
    """A store of the study: log mls rises with log sharpness at slope 0.5 in every family.

    The first trial failed, the second diverged, the third never ran, the fourth hit the step limit
    with an unconverged sharpness, and half of the mobilevits lie far above the line. One record
    belongs to no planned trial.
    """
    store = Store(root)
    store.prepare(study)
    rng = np.random.default_rng(seed)
    offsets = {family: rng.normal(0, 0.4) for family in FAMILIES.values()}
    specs = plan(study)
    for index, spec in enumerate(specs):
        if index == 2:
            continue
        if everything_fails or index == 0:
            store.write(
                _record(spec, status=FAILED, reason="CUDA out of memory on <worker 3> & co")
            )
        elif index == 1:
            store.write(_record(spec, status=DIVERGED, reason="training loss nan at step 12"))
        else:
            level = offsets[str(spec.family)]
            store.write(_finished(spec, study, level, rng, hit_limit=index == 3))
    foreign = TrialSpec(**{**specs[0].model_dump(), "learning_rate": 77.0})
    store.write(_record(foreign, status=FAILED, reason="from an earlier plan"))
    _write_json(root / "glossary.json", _glossary(study))
    _write_json(
        root / "provenance.json", {"flatscale": "0.1.0", "torch": "2.13.0", "probe hash": "ab12"}
    )
    return store


def _finished(
    spec: TrialSpec, study: StudyConfig, level: float, rng: np.random.Generator, *, hit_limit: bool
) -> TrialRecord:
    log_sharpness = (
        level + 0.5 * np.log(spec.batch_size / spec.learning_rate) / 2 + rng.normal(0, 0.5)
    )
    log_mls = 0.5 * log_sharpness + rng.normal(0, 0.12) + 1.0
    if spec.family == "mobilevit" and spec.batch_size == 8:
        log_mls += 2.0
    steps = np.unique(np.geomspace(10, 4000, study.measurement.num_snapshots).astype(int))
    snapshots = tuple(
        Snapshot(
            step=int(step),
            is_final=step == steps[-1],
            probe_hash="ab12cd34",
            measurements=_measurements(
                study,
                log_sharpness,
                log_mls,
                rng,
                time_left=float(np.log(steps[-1] / step)),
                unconverged=hit_limit,
            ),
        )
        for step in steps
    )
    history = tuple((int(step), float(0.5 * np.exp(-step / 800) + 0.01)) for step in steps)
    return _record(
        spec,
        status=FINISHED,
        stop="step_limit" if hit_limit else "interpolation",
        snapshots=snapshots,
        history=history,
    )


def _measurements(
    study: StudyConfig,
    log_sharpness: float,
    log_mls: float,
    rng: np.random.Generator,
    *,
    time_left: float,
    unconverged: bool,
) -> tuple[Measurement, ...]:
    mls = float(np.exp(log_mls - 0.3 * time_left))
    sharpness = float(np.exp(log_sharpness - 0.2 * time_left))
    gap = float(0.02 + 0.015 * log_sharpness + rng.normal(0, 0.01))
    values = {
        "train_loss": float(0.01 + 0.05 * time_left),
        "train_accuracy": 1.0,
        "test_loss": 0.1 + gap,
        "test_accuracy": 0.97 - gap,
        "generalization_gap": gap,
        "mls": mls,
        "nmls": mls * 0.3,
        "log_lvr": float(-3 + 0.6 * log_mls),
        "log_nvr": float(-5 + log_mls),
        "local_dimensionality": float(3 + rng.gamma(2.0)),
        "sharpness": sharpness,
        "adaptive_sharpness": float(sharpness * np.exp(rng.normal(0, 0.3))),
        "nmls_bound": mls * 1.5,
    }
    values |= {
        name: mls * (1 + factor * float(np.exp(rng.normal(0, 0.1))))
        for name, factor in BOUNDS.items()
    }
    # The first layer compresses after its largest value, the second rises to the end.
    layers = {
        "input_information": {"2": 5.0 - abs(time_left - 3.0) / 2, "4": 4.0 - time_left / 2},
        "label_information": {"2": 1.0, "4": 1.0 - time_left / 10},
    }
    values |= {name: found["4"] for name, found in layers.items()}
    for name in study.measurement.metrics:
        values.setdefault(name, float(0.2 * log_sharpness + rng.normal()))
    made = []
    for name in study.measurement.metrics:
        is_bound = name in BOUNDS or name.endswith("_bound")
        points = tuple(float(v) for v in rng.normal(0.5, 0.2, 5))
        made.append(
            Measurement(
                name=name,
                value=values[name],
                std_error=None if "accuracy" in name else abs(values[name]) * 0.05,
                converged=not (unconverged and name == "sharpness"),
                num_evaluations=120,
                num_points=100,
                layers=layers.get(name, {}),
                extras={"violations": (float(sum(p < 0 for p in points)),), "slack": points}
                if is_bound
                else {},
            )
        )
    return tuple(made)


def _record(spec: TrialSpec, *, status: str, **fields: Any) -> TrialRecord:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return TrialRecord(
        trial_id=spec.trial_id,
        network_id=spec.network_id,
        family=spec.family or spec.architecture,
        architecture=spec.architecture,
        options=json.dumps(spec.options),
        dataset="digits",
        dataset_hash="d1",
        num_classes=10,
        train_size=1000,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        loss="half_squared_error",
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        seed_index=spec.seed_index,
        num_parameters=61_706,
        status=status,
        num_steps=4000,
        train_seconds=3.2,
        measure_seconds=0.8,
        started_at=start,
        finished_at=start + timedelta(seconds=4),
        device="cpu",
        versions="torch 2.13.0",
        **fields,
    )


def _glossary(study: StudyConfig) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "formula": f"E_x {name}(x) <= ||J||^2 & more",
            "passes": ["jacobian"],
            "invariances": ["rotation"],
            "source": "arXiv 2310.01770",
            "group": "bound" if name.endswith("_bound") or name in BOUNDS else "compression",
            "unit": "1",
            "range": "[0, inf)",
        }
        for name in study.measurement.metrics
    ]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
