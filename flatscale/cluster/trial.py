"""One trial, as Ray Tune runs it: build, train, have every snapshot measured, report the record."""

from __future__ import annotations

import json
import logging
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import ray
import torch

from flatscale.cluster.allocator import keep_freed_memory
from flatscale.cluster.measured_trial import ZooContext, described, measure_pretrained
from flatscale.cluster.measurer import Measurer
from flatscale.cluster.probe_pool import Network, ProbePool
from flatscale.cluster.running_loss import LossSender
from flatscale.data import Dataset, points_key
from flatscale.errors import FlatscaleError, LostWorkerError
from flatscale.models import architecture_family
from flatscale.store.earlier_records import EarlierRecords
from flatscale.store.layout import Layout, training_checkpoint
from flatscale.store.records import DIVERGED, FAILED, FINISHED, TrialRecord
from flatscale.study.plan import TrialSpec
from flatscale.study.plugin_code import code_of_all
from flatscale.study.registry import import_plugins
from flatscale.study.schema import StudyConfig
from flatscale.training import (
    load_weights,
    log_spaced_steps,
    optimizer_constants,
    own_constants,
    save_weights,
    step_limit,
    train,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What every trial of a study shares; put into Ray's object store once."""

    config: StudyConfig
    datasets: Mapping[str, Dataset]
    """What networks are trained on, by `points_key`."""
    pools: Mapping[str, ProbePool]
    """What they are measured on, by the same."""
    mailbox: Any
    """Where records go."""
    layout: Layout
    """Where the store keeps weights."""


def run_trial(config: Mapping[str, Any], context: TrialContext | ZooContext) -> dict[str, Any]:
    """The function Tune runs; whatever happens in it ends as a record, never as a lost trial.

    Raises:
        LostWorkerError: other processes were lost; Tune tries the trial again, a limited number of
            times.
    """
    torch.set_num_threads(context.config.resources.threads_per_trial)
    keep_freed_memory()
    import_plugins(context.config.plugins)
    spec = TrialSpec.model_validate_json(config["spec"])
    here = ray.get_runtime_context().current_actor
    earlier: EarlierRecords = ray.get(context.mailbox.announce.remote(spec.trial_id, here))
    if isinstance(context, ZooContext):
        dataset = context.dataset
    else:
        dataset = context.datasets[points_key(spec)]
    record = replace(describe(spec, dataset), started_at=datetime.now(UTC))
    try:
        if isinstance(context, ZooContext):
            record = measure_pretrained(spec, context, record, earlier)
        else:
            record = _train_and_measure(spec, context, record, earlier)
    except LostWorkerError:
        raise
    except Exception as error:
        logger.exception("trial %s failed", spec.trial_id)
        kind = "" if isinstance(error, FlatscaleError) else f"{type(error).__name__}: "
        record = replace(record, status=FAILED, reason=f"{kind}{error}")
    record = replace(record, finished_at=datetime.now(UTC))
    ray.get(context.mailbox.post.remote(record))
    return {"status": record.status}


def describe(spec: TrialSpec, dataset: Dataset) -> TrialRecord:
    """The part of a trial's record that is known before it runs, marked as failed."""
    code = code_of_all([spec])
    return TrialRecord(
        trial_id=spec.trial_id,
        network_id=spec.network_id,
        family=spec.family or architecture_family(spec.architecture),
        architecture=spec.architecture,
        options=json.dumps(dict(spec.options), sort_keys=True),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        num_classes=dataset.num_classes,
        train_size=len(dataset.y_train),
        labels_changed=dataset.num_labels_changed,
        axes=json.dumps(spec.further_axes) if spec.further_axes else None,
        seed_index=spec.seed_index,
        plugin_code=json.dumps(code, sort_keys=True) if code else None,
        status=FAILED,
        reason="it has not ended",
        **(described(spec) if spec.weights else _trained_with(spec, dataset)),
    )


def _trained_with(spec: TrialSpec, dataset: Dataset) -> dict[str, Any]:
    """The columns of a record that say how its network is trained."""
    constants = optimizer_constants(spec.training.optimizer)
    return {
        "optimizer": spec.training.optimizer.name,
        "optimizer_options": json.dumps(own_constants(spec.training.optimizer), sort_keys=True),
        "momentum": constants.get("momentum", 0.0),
        "weight_decay": constants.get("weight_decay", 0.0),
        "loss": spec.training.loss,
        "learning_rate": spec.learning_rate,
        "batch_size": spec.num_points_a_step(len(dataset.y_train)),
    }


def _train_and_measure(
    spec: TrialSpec, context: TrialContext, record: TrialRecord, earlier: EarlierRecords
) -> TrialRecord:
    # 1. The network, as the probe actors will build it too.
    dataset, pool = context.datasets[points_key(spec)], context.pools[points_key(spec)]
    on_gpu = context.config.resources.gpus_per_trial > 0
    network = Network(
        architecture=spec.architecture,
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        options=spec.options,
        loss=spec.measurement.loss or spec.training.loss,
        output_map=spec.measurement.output_map,
    )
    model = network.build(spec.seed("initialisation")).to("cuda" if on_gpu else "cpu")
    record = replace(
        record,
        num_parameters=sum(p.numel() for p in model.parameters()),
        device=torch.cuda.get_device_name() if on_gpu else platform.machine(),
        versions=f"torch {torch.__version__}, python {platform.python_version()}",
    )
    # 2. Training, while the snapshots taken on the way are measured by the pool.
    folder = None
    if spec.training.checkpoint_every is not None:
        folder = context.layout.partial_folder(spec.trial_id)
        folder.mkdir(parents=True, exist_ok=True)
    in_flight = context.config.resources.max_snapshots_in_flight
    with Measurer(spec, network, pool, in_flight, folder, earlier) as measurer:
        tracked = context.config.tracking.enabled
        sender = LossSender(context.mailbox, record) if tracked else None
        record = _obtain(spec, context, model, measurer, folder, record, sender)
        # 3. The end of it is measured too, and every measurement waited for.
        if record.status == FINISHED:
            measurer.submit(record.num_steps or 0, model, is_final=True)
        measured = measurer.collect()
    if folder is not None:
        shutil.rmtree(folder)
    return replace(record, **measured)


def _obtain(
    spec: TrialSpec,
    context: TrialContext,
    model: torch.nn.Module,
    measurer: Measurer,
    folder: Path | None,
    record: TrialRecord,
    on_loss: LossSender | None = None,
) -> TrialRecord:
    """Train the network, or take its kept weights, where only the end is to be measured."""
    kept = context.layout.weights_file(spec.weights_id)
    keeps = context.config.keep_checkpoints
    if keeps and spec.measurement.num_snapshots == 1 and kept.exists():
        facts = load_weights(kept, model)
        facts.pop("input_shape", None)
        history = tuple((int(step), float(loss)) for step, loss in facts.pop("history"))
        return replace(record, status=FINISHED, reason=None, history=history, **facts)
    x, y = _training_tensors(context.datasets[points_key(spec)], next(model.parameters()).device)
    batch_size = spec.num_points_a_step(len(y))
    num_steps = step_limit(spec.training, math.ceil(len(x) / batch_size))
    began = perf_counter()
    result = train(
        model,
        x,
        y,
        spec.training,
        learning_rate=spec.learning_rate,
        batch_size=batch_size,
        seed=spec.seed("order"),
        held_out=context.datasets[points_key(spec)].held_out,
        weights=spec.measurement.weights,
        snapshot_steps=log_spaced_steps(spec.measurement.num_snapshots, num_steps),
        on_snapshot=measurer.submit,
        on_loss=on_loss,
        checkpoint=training_checkpoint(folder) if folder else None,
    )
    facts = {"num_steps": result.num_steps, "train_seconds": perf_counter() - began}
    record = replace(record, history=tuple(result.history), **facts)
    if result.status == "diverged":
        return replace(record, status=DIVERGED, reason=result.reason)
    facts |= {"stop": result.status}
    if keeps:
        shape = list(context.datasets[points_key(spec)].input_shape)
        save_weights(kept, model, {**facts, "history": result.history, "input_shape": shape})
    return replace(record, status=FINISHED, reason=None, stop=result.status)


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
