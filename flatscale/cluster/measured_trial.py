"""A trial that only measures: a network with weights is loaded in its worker and measured there.

Where networks are many and nobody trains them, a worker takes a whole network and the whole probe:
workers share nothing but the encoded images, and two do twice the networks of one. While one
network is measured, a thread loads the next.
"""

from __future__ import annotations

import ctypes
import json
import platform
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from flatscale.cluster.measurer import measured_end
from flatscale.data import Dataset, Points, prepare
from flatscale.errors import ModelError
from flatscale.metrics.probe.observers import LocalObserver
from flatscale.models import build_model
from flatscale.models.zoo import NetworkSize, load_pretrained, network_size, points_at_once
from flatscale.store.earlier_records import EarlierRecords
from flatscale.store.records import FINISHED, TrialRecord
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import StudyConfig

Loaded = tuple[nn.Module, str | None]
"""A network and the hash of its weights."""
_DECODED_BYTES = 2e9


@dataclass(frozen=True, kw_only=True)
class ZooContext:
    """What the trials of a study that only measures share; put into Ray's object store once."""

    config: StudyConfig
    points: Points
    """Encoded images."""
    mailbox: Any
    """Where records go."""
    order: tuple[TrialSpec, ...]
    """The trials in the order in which they are handed out."""
    num_workers: int
    """How many run at a time."""

    @property
    def dataset(self) -> Dataset:
        return self.points.dataset


class _Kept:
    """What a worker keeps from one trial to the next: decoded images, the network loaded ahead."""

    def __init__(self) -> None:
        self.decoded: dict[tuple[str, str], np.ndarray] = {}
        self.ahead: dict[str, Future[Loaded]] = {}
        self.threads = ThreadPoolExecutor(2, "ahead")


_kept: list[_Kept] = []


def measure_pretrained(
    spec: TrialSpec, context: ZooContext, record: TrialRecord, earlier: EarlierRecords
) -> TrialRecord:
    """Load a network with its weights, prepare the probe as it asks, measure.

    Values that an earlier record of the network holds are taken over.

    Raises:
        ModelError: it cannot be built, or its weights are absent, broken or do not fit.
        DataError: the probe's images cannot be prepared.
    """
    if not _kept:
        _kept.append(_Kept())
    kept = _kept[0]
    _forget_peak()
    began = perf_counter()
    # 1. The images are decoded while the network is loaded.
    images = kept.threads.submit(_prepared, kept, spec, context)
    ahead = kept.ahead.pop(spec.trial_id, None)
    kept.ahead.clear()
    model, weights_hash = ahead.result() if ahead else load_network(spec, context.points)
    on_gpu = torch.cuda.is_available() and context.config.resources.gpus_per_trial > 0
    try:
        model = model.to("cuda" if on_gpu else "cpu")
    except torch.OutOfMemoryError as error:
        raise ModelError(f"the network does not fit on the device: {error}") from error
    x = images.result()
    # 2. The next network is loaded while this one is measured.
    following = _following(spec, context)
    if following is not None:
        loading = kept.threads.submit(load_network, following, context.points)
        kept.ahead[following.trial_id] = loading
    # 3. All points in this process, in microbatches that its memory was planned for.
    observers = held_against(spec, context.points, model, x)
    snapshot, columns = measured_end(spec, observers, 0, weights_hash, earlier)
    return replace(
        record,
        status=FINISHED,
        reason=None,
        num_parameters=sum(p.numel() for p in model.parameters()),
        measure_seconds=perf_counter() - began,
        peak_memory_bytes=_peak_bytes(on_gpu),
        device=torch.cuda.get_device_name() if on_gpu else platform.machine(),
        versions=f"torch {torch.__version__}, python {platform.python_version()}",
        snapshots=(snapshot,),
        **columns,
    )


def load_network(spec: TrialSpec, points: Points) -> Loaded:
    """The network of a trial with its weights, and their hash; seeded weights have none.

    Raises:
        ModelError: it cannot be built, or its weights are absent, broken or do not fit.
    """
    model = build_model(
        spec.architecture,
        network_input(spec, points),
        points.dataset.num_classes,
        dict(spec.options),
        seed=spec.seed("initialisation"),
    )
    assert spec.weights is not None
    return model, load_pretrained(model, spec.architecture, spec.weights)


def network_input(spec: TrialSpec, points: Points) -> tuple[int, int, int]:
    """(channels, height, width) of one input: of its preprocessing, or of the data's images."""
    if spec.preprocessing is not None:
        return spec.preprocessing.input_size
    image = points.point_sets["probe"][0][:1]
    channels, height, width = prepare(image, None, spec.data.image_size).shape[1:]
    return channels, height, width


def size_of(spec: TrialSpec, points: Points) -> NetworkSize:
    """How large the network of a trial is; see `network_size`."""
    shape = network_input(spec, points)
    return network_size(spec.architecture, shape, points.dataset.num_classes, dict(spec.options))


def held_against(
    spec: TrialSpec, points: Points, model: nn.Module, x: Mapping[str, np.ndarray]
) -> dict[str, LocalObserver]:
    """A loaded network held, in this process, against the inputs made of every point set."""
    wanted = spec.measurement
    microbatch = points_at_once(size_of(spec, points))
    return {
        name: LocalObserver(
            model,
            torch.tensor(x[name]),
            torch.tensor(labels),
            content_hash=points.content_hashes[name],
            loss=wanted.loss or spec.training.loss,
            output_map=wanted.output_map,
            microbatch=microbatch,
        )
        for name, (_, labels) in points.point_sets.items()
    }


def _prepared(kept: _Kept, spec: TrialSpec, context: ZooContext) -> dict[str, np.ndarray]:
    """Every point set as this network's inputs, decoded once for each distinct preprocessing."""
    wanted = spec.preprocessing.model_dump_json() if spec.preprocessing else "none"
    threads = context.config.resources.threads_per_trial
    for name, (images, _) in context.points.point_sets.items():
        if (name, wanted) not in kept.decoded:
            if sum(x.nbytes for x in kept.decoded.values()) > _DECODED_BYTES:
                kept.decoded.clear()
            x = prepare(images, spec.preprocessing, spec.data.image_size, threads)
            kept.decoded[name, wanted] = x
    return {name: kept.decoded[name, wanted] for name in context.points.point_sets}


def _following(spec: TrialSpec, context: ZooContext) -> TrialSpec | None:
    """The trial that this worker will most likely be given next."""
    places = {other.trial_id: place for place, other in enumerate(context.order)}
    place = places.get(spec.trial_id, len(context.order)) + context.num_workers
    return context.order[place] if place < len(context.order) else None


def _forget_peak() -> None:
    """Return freed memory to the system and start the peaks anew, where the system allows it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes(on_gpu: bool) -> int | None:
    """Most memory held since `_forget_peak`: the GPU's where it computes, else the process's."""
    if on_gpu:
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def described(spec: TrialSpec) -> dict[str, Any]:
    """The columns of a record that say which network, with which weights."""
    weights = spec.weights
    assert weights is not None
    tag = f"{weights.source}:{weights.tag}" if weights.tag else weights.source
    return {
        "model": spec.name or f"{spec.architecture} {json.dumps(dict(spec.options))}",
        "weights_tag": tag if weights.source != "none" else "none: drawn from the study's seed",
        "weights_hash": weights.content_hash,
    }
