"""Having a trial's snapshots measured by the probe pool while the trial goes on training."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from flatscale.cluster.probe_pool import Network, ProbePool
from flatscale.metrics import measure_observers, with_inequalities
from flatscale.store.atomic import write_atomically
from flatscale.store.layout import snapshot_weights
from flatscale.store.records import Snapshot
from flatscale.study.plan import TrialSpec
from flatscale.training import weights_to_bytes


class Measurer:
    """Measures snapshots in threads that wait for the pool, a bounded number at a time.

    Args:
        spec: the trial.
        network: how the pool rebuilds its network.
        pool: who measures.
        max_in_flight: snapshots being measured while training goes on.
        folder: where to keep the snapshots' weights until the trial ends, so that a trial that
            resumes has those measured that it does not come by again; None to keep none.
    """

    def __init__(
        self,
        spec: TrialSpec,
        network: Network,
        pool: ProbePool,
        max_in_flight: int,
        folder: Path | None = None,
    ) -> None:
        self._spec = spec
        self._network = network
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._folder = folder
        self._threads = ThreadPoolExecutor(max_in_flight)
        self._pending: dict[int, Future[tuple[Snapshot, float]]] = {}
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

    def collect(self) -> tuple[tuple[Snapshot, ...], float]:
        """Every snapshot in order of steps, and the seconds their measuring took."""
        measured = [self._pending[step].result() for step in sorted(self._pending)]
        return tuple(snapshot for snapshot, _ in measured), sum(s for _, s in measured)

    def _measure_later(self, step: int, weights: bytes, is_final: bool) -> None:
        self._pending[step] = self._threads.submit(self._measure, step, weights, is_final)

    def _measure(self, step: int, weights: bytes, is_final: bool) -> tuple[Snapshot, float]:
        began = perf_counter()
        wanted = self._spec.measurement
        names, options = list(wanted.metrics), dict[str, Mapping[str, Any]](wanted.options)
        if wanted.check_bounds:
            names, options = with_inequalities(names, options)
        measurements = measure_observers(
            self._pool.observers(self._network, weights),
            names,
            options=options,
            seed=self._spec.seed("measurement"),
        )
        snapshot = Snapshot(
            step=step,
            is_final=is_final,
            probe_hash=self._pool.content_hashes["probe"],
            measurements=tuple(measurements[name] for name in names),
        )
        return snapshot, perf_counter() - began
