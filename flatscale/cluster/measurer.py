"""Having a trial's snapshots measured by the probe pool while the trial goes on training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from flatscale.cluster.probe_pool import Network, ProbePool
from flatscale.measurement import Measurement
from flatscale.metrics import Observer, asked_metrics, measure_observers, value_ids
from flatscale.store.atomic import write_atomically
from flatscale.store.earlier_records import EarlierRecords
from flatscale.store.layout import snapshot_weights
from flatscale.store.records import Snapshot
from flatscale.study.plan import TrialSpec
from flatscale.training import weights_to_bytes

Columns = dict[str, Any]
"""Some of the columns of a trial's record."""


def measured_end(
    spec: TrialSpec,
    observers: Mapping[str, Observer],
    step: int,
    weights_hash: str | None,
    earlier: EarlierRecords,
) -> tuple[Snapshot, Columns]:
    """A network at its end, with all that is asked; what earlier records hold is not computed."""
    ids = value_ids(spec, {name: held.content_hash for name, held in observers.items()})
    taken, sources = earlier.take(ids, weights_hash)
    snapshot = measured_snapshot(spec, observers, step, is_final=True, taken=taken)
    return snapshot, {
        "weights_hash": weights_hash,
        "value_ids": json.dumps(ids),
        "taken_over": json.dumps(sources) if sources else None,
    }


def measured_snapshot(
    spec: TrialSpec,
    observers: Mapping[str, Observer],
    step: int,
    *,
    is_final: bool = False,
    taken: Mapping[str, Measurement] | None = None,
) -> Snapshot:
    """A network held against point sets, with all that its trial measures and has not yet."""
    names, options = asked_metrics(spec)
    measured = dict(taken or {})
    new = [name for name in names if name not in measured]
    if new:
        seed = spec.seed("measurement")
        measured |= measure_observers(observers, new, options=options, seed=seed)
    return Snapshot(
        step=step,
        is_final=is_final,
        probe_hash=observers["probe"].content_hash,
        measurements=tuple(measured[name] for name in names),
    )


class Measurer:
    """Measures snapshots in threads that wait for the pool, a bounded number at a time.

    Args:
        spec: the trial.
        network: how the pool rebuilds its network.
        pool: who measures.
        max_in_flight: snapshots being measured while training goes on.
        folder: where to keep the snapshots' weights until the trial ends, so that a trial that
            resumes has those measured that it does not come by again; None to keep none.
        earlier: records of the same network, whose values are not measured again.
    """

    def __init__(
        self,
        spec: TrialSpec,
        network: Network,
        pool: ProbePool,
        max_in_flight: int,
        folder: Path | None = None,
        earlier: EarlierRecords | None = None,
    ) -> None:
        self._spec = spec
        self._network = network
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._folder = folder
        self._earlier = earlier or EarlierRecords(root="")
        self._threads = ThreadPoolExecutor(max_in_flight)
        self._pending: dict[int, Future[tuple[Snapshot, Columns, float]]] = {}
        for path in sorted(folder.glob(snapshot_weights(folder, "[0-9]*").name)) if folder else ():
            self._measure_later(int(path.stem), path.read_bytes(), is_final=False)

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def submit(self, step: int, model: torch.nn.Module, is_final: bool = False) -> None:
        """Copy the weights and queue their measurement; waits while too many are in flight."""
        if step in self._pending and not is_final:
            return
        running = [future for future in self._pending.values() if not future.done()]
        if len(running) >= self._max_in_flight:
            running[0].result()
        weights = weights_to_bytes(model)
        if self._folder is not None and not is_final:
            write_atomically(snapshot_weights(self._folder, step), weights)
        self._measure_later(step, weights, is_final)

    def collect(self) -> Columns:
        """Every snapshot in order of steps, what names their values, the seconds that it took."""
        measured = [self._pending[step].result() for step in sorted(self._pending)]
        found: Columns = {
            "snapshots": tuple(snapshot for snapshot, _, _ in measured),
            "measure_seconds": sum(seconds for _, _, seconds in measured),
        }
        for _, columns, _ in measured:
            found |= columns
        return found

    def _measure_later(self, step: int, weights: bytes, is_final: bool) -> None:
        self._pending[step] = self._threads.submit(self._measure, step, weights, is_final)

    def _measure(
        self, step: int, weights: bytes, is_final: bool
    ) -> tuple[Snapshot, Columns, float]:
        began = perf_counter()
        observers = self._pool.observers(self._network, weights)
        if is_final:
            weights_hash = hashlib.sha256(weights).hexdigest()
            ended = measured_end(self._spec, observers, step, weights_hash, self._earlier)
        else:
            ended = measured_snapshot(self._spec, observers, step), {}
        return *ended, perf_counter() - began
