"""One trial, as Ray Tune runs it: build, train, have every snapshot measured by the pool."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import ray
import torch

from flatscale.cluster.probe_pool import Network, ProbePool
from flatscale.data import Dataset
from flatscale.measurement import Measurement
from flatscale.metrics import measure_observers
from flatscale.models import architecture_family, build_model
from flatscale.plan import TrialSpec
from flatscale.plugins import import_plugins
from flatscale.results import DIVERGED, FAILED, FINISHED, Snapshot, TrialRecord
from flatscale.training import log_spaced_steps, save_weights, train, weights_to_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What every trial of a study shares; put into Ray's object store once."""

    dataset: Dataset
    pool: ProbePool
    mailbox: Any
    plugins: tuple[str, ...]
    max_snapshots_in_flight: int
    num_threads: int
    use_gpu: bool
    checkpoints: Path | None


def run_trial(config: Mapping[str, Any], workshop: Workshop) -> dict[str, Any]:
    """The function Tune runs; whatever happens in it ends as a record, never as a lost trial."""
    torch.set_num_threads(workshop.num_threads)
    import_plugins(workshop.plugins)
    spec = TrialSpec.model_validate(config["spec"])
    ray.get(workshop.mailbox.announce.remote(spec.trial_id))
    started_at = datetime.now(UTC)
    record = describe(spec, workshop.dataset)
    try:
        record = _train_and_measure(spec, workshop, record)
    except Exception as error:
        logger.exception("trial %s failed", spec.trial_id)
        record = replace(record, status=FAILED, reason=f"{type(error).__name__}: {error}")
    record = replace(record, started_at=started_at, finished_at=datetime.now(UTC))
    ray.get(workshop.mailbox.post.remote(record))
    return {"status": record.status}


def describe(spec: TrialSpec, dataset: Dataset) -> TrialRecord:
    """The part of a trial's record that is known before it runs, marked as failed."""
    return TrialRecord(
        trial_id=spec.trial_id,
        network_id=spec.network_id,
        family=spec.family or architecture_family(spec.architecture),
        architecture=spec.architecture,
        options=json.dumps(dict(spec.options), sort_keys=True),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        num_classes=len(dataset.class_names),
        train_size=len(dataset.y_train),
        optimizer=spec.training.optimizer.name,
        momentum=spec.training.optimizer.momentum,
        weight_decay=spec.training.optimizer.weight_decay,
        loss=spec.training.loss,
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        seed_index=spec.seed_index,
        status=FAILED,
    )


def _train_and_measure(spec: TrialSpec, workshop: Workshop, record: TrialRecord) -> TrialRecord:
    device = torch.device("cuda" if workshop.use_gpu else "cpu")
    dataset = workshop.dataset
    input_shape = tuple(dataset.x_train.shape[1:])
    model = build_model(
        spec.architecture,
        input_shape,
        len(dataset.class_names),
        dict(spec.options),
        seed=spec.seed("initialisation"),
    ).to(device)
    record = replace(
        record,
        num_parameters=sum(p.numel() for p in model.parameters()),
        device=torch.cuda.get_device_name() if workshop.use_gpu else platform.machine(),
        versions=f"torch {torch.__version__}, python {platform.python_version()}",
    )
    x, y = _training_tensors(workshop.dataset, device)
    with _Measurer(spec, workshop, input_shape) as measurer:
        began = perf_counter()
        result = train(
            model,
            x,
            y,
            spec.training,
            learning_rate=spec.learning_rate,
            batch_size=spec.batch_size,
            seed=spec.seed("order"),
            snapshot_steps=log_spaced_steps(
                spec.measurement.num_snapshots, spec.training.max_steps
            ),
            on_snapshot=measurer.submit,
        )
        record = replace(
            record,
            num_steps=result.num_steps,
            train_seconds=perf_counter() - began,
            history=tuple(result.history),
        )
        if result.status == "diverged":
            record = replace(record, status=DIVERGED, reason=result.reason)
        else:
            measurer.submit(result.num_steps, model, is_final=True)
            record = replace(record, status=FINISHED, stop=result.status)
        snapshots, measure_seconds = measurer.collect()
    if workshop.checkpoints is not None and record.status == FINISHED:
        save_weights(workshop.checkpoints / f"{spec.network_id}.safetensors", model)
    return replace(record, snapshots=snapshots, measure_seconds=measure_seconds)


class _Measurer:
    """Has snapshots measured while training goes on, a bounded number at a time."""

    def __init__(self, spec: TrialSpec, workshop: Workshop, input_shape: tuple[int, ...]) -> None:
        self._spec = spec
        self._workshop = workshop
        self._network = Network(
            architecture=spec.architecture,
            input_shape=input_shape,
            num_classes=len(workshop.dataset.class_names),
            options=spec.options,
            loss=spec.measurement.loss or spec.training.loss,
            output_map=spec.measurement.output_map,
        )
        self._threads = ThreadPoolExecutor(workshop.max_snapshots_in_flight)
        self._pending: list[Future[tuple[Snapshot, float]]] = []

    def __enter__(self) -> _Measurer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def submit(self, step: int, model: torch.nn.Module, is_final: bool = False) -> None:
        """Copy the weights and queue their measurement; waits while too many are in flight."""
        running = [future for future in self._pending if not future.done()]
        if len(running) >= self._workshop.max_snapshots_in_flight:
            running[0].result()
        weights = weights_to_bytes(model)
        self._pending.append(self._threads.submit(self._measure, step, weights, is_final))

    def collect(self) -> tuple[tuple[Snapshot, ...], float]:
        """Every snapshot in order, and the seconds their measuring took."""
        measured = [future.result() for future in self._pending]
        return tuple(s for s, _ in measured), sum(seconds for _, seconds in measured)

    def _measure(self, step: int, weights: bytes, is_final: bool) -> tuple[Snapshot, float]:
        began = perf_counter()
        observers = self._workshop.pool.observers(self._network, weights)
        measurements: Mapping[str, Measurement] = measure_observers(
            observers,
            self._spec.measurement.metrics,
            options=self._spec.measurement.options,
            seed=self._spec.seed("measurement"),
        )
        snapshot = Snapshot(
            step=step,
            is_final=is_final,
            probe_hash=self._workshop.pool.content_hashes["probe"],
            measurements=tuple(measurements[name] for name in self._spec.measurement.metrics),
        )
        return snapshot, perf_counter() - began


_tensors: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}


def _training_tensors(dataset: Dataset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The training set as tensors of this process's own, made once for all its trials."""
    key = (dataset.content_hash, str(device))
    if key not in _tensors:
        _tensors.clear()
        _tensors[key] = (
            torch.tensor(dataset.x_train, device=device),
            torch.tensor(dataset.y_train, device=device),
        )
    return _tensors[key]
