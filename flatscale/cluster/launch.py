"""Running what is missing of a study: Ray, the probe pool, Tune, and the store's one writer.

The way of a trial: the driver hands Tune the missing trials (tuning); a worker trains one and has
its snapshots measured by the probe actors (trial, measurer, probe_pool); its record goes through
the mailbox back to the driver, whose writer alone writes the store.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

# Tune reads these when it is imported: its own loggers cost four times the report rate, and its
# experiment snapshots are not what a study resumes from.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray.exceptions import AuthenticationError

from flatscale.cluster.interruption import Interruption
from flatscale.cluster.joined_ray import joined_ray
from flatscale.cluster.local_ray import local_ray
from flatscale.cluster.mailbox import Listener, RecordWriter, make_mailbox
from flatscale.cluster.measured_trial import ZooContext
from flatscale.cluster.packing import Packing, node_memory
from flatscale.cluster.probe_pool import make_pools
from flatscale.cluster.trial import TrialContext, describe
from flatscale.cluster.tuning import run_on_tune
from flatscale.data import Points, points_key
from flatscale.errors import FlatscaleError, StoreError
from flatscale.store.layout import Layout
from flatscale.store.records import SETTLED
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import StudyConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run ended: trials by status over the whole store, and whether it was interrupted."""

    num_kept: int
    statuses: Counter[str]
    interrupted: bool


def missing_trials(store: Store, specs: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The trials without a result; a failed one counts as missing and is tried again."""
    statuses = store.statuses()
    return [s for s in specs if statuses.get(s.trial_id) not in SETTLED]


def run_trials(
    config: StudyConfig,
    specs: Sequence[TrialSpec],
    data: Mapping[str, Points],
    store: Store,
    *,
    address: str | None = None,
    listeners: Sequence[Listener] = (),
) -> RunSummary:
    """Run every trial of a study that has no result yet, and write each as it ends.

    Args:
        config: the study, already checked.
        specs: its trials.
        data: its data sets, by `points_key`.
        store: where records go; prepared and locked by the caller.
        address: a Ray cluster (`auto`, `host:port`, `ray://…`); None starts or joins a local one.
        listeners: told of every start and end.

    Raises:
        StoreError: a record could not be written; the run stops, everything before is safe.
        FlatscaleError: no node can hold a trial.
    """
    _refuse_other_data(store, specs, data)
    missing = missing_trials(store, specs)
    interrupted = False
    if missing:
        with Interruption() as interruption, _connected(address, config):
            interruption.stop_if_asked()
            interrupted = _run_missing(config, missing, data, store, listeners, interruption)
        interrupted |= interruption.asked
    statuses = store.statuses()
    return RunSummary(
        num_kept=len(specs) - len(missing),
        statuses=Counter(statuses.get(s.trial_id, "missing") for s in specs),
        interrupted=interrupted,
    )


def _run_missing(
    config: StudyConfig,
    missing: Sequence[TrialSpec],
    data: Mapping[str, Points],
    store: Store,
    listeners: Sequence[Listener],
    interruption: Interruption,
) -> bool:
    """Run trials on the Ray that is connected; whether the run was interrupted."""
    # 1. What the trials share: the actors that measure, and the way back to this process.
    _refuse_too_large_trials(config)
    needed = {points_key(spec) for spec in missing}
    data = {key: points for key, points in data.items() if key in needed}
    mailbox = make_mailbox(store, missing)
    actors = {mailbox}
    request = None
    context: TrialContext | ZooContext
    if config.only_measures:
        context, packing = _zoo_context(config, missing, data, mailbox)
        listeners, request, missing = (*listeners, packing), packing.request, context.order
    else:
        pools = make_pools(data, config.resources, config.plugins)
        actors |= {actor for pool in pools.values() for actor in pool.actors}
        context = TrialContext(
            config=config,
            datasets={key: points.dataset for key, points in data.items()},
            pools=pools,
            mailbox=mailbox,
            layout=Layout(store.root),
        )
    # 2. Tune runs the trials; each waits until its record is written here, so none is lost.
    try:
        with RecordWriter(mailbox, store, listeners) as writer:
            writer.on_error = interruption.stop_tune
            with interruption.during_tune(writer.num_running, mailbox.end_trials.remote):
                lost = run_on_tune(config, missing, context, writer, request)
    finally:
        _end_actors(*actors)
    if writer.error is not None:
        raise writer.error
    # 3. A trial whose processes died more often than the retry limit allows ends as failed.
    for spec in missing if not interruption.asked else ():
        if spec.trial_id in lost and spec.trial_id not in writer.written:
            attempts = max(1, writer.attempts[spec.trial_id])
            reason = f"in each of {attempts} attempts {lost[spec.trial_id]}"
            record = describe(spec, data[points_key(spec)].dataset)
            writer.write(replace(record, reason=reason, finished_at=datetime.now(UTC)))
    return len(writer.written) < len(missing)


def _zoo_context(
    config: StudyConfig, missing: Sequence[TrialSpec], data: Mapping[str, Points], mailbox: Any
) -> tuple[ZooContext, Packing]:
    """What trials that only measure share, and what each of them reserves."""
    (points,) = data.values()
    resources, cpus = config.resources, ray.cluster_resources().get("CPU", 1)
    at_a_time = max(1, int(cpus / resources.cpus_per_trial))
    num_workers = min(at_a_time, resources.max_concurrent_trials or at_a_time)
    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    packing = Packing(resources, points, node_memory(ray.nodes()), gpu)
    context = ZooContext(
        config=config,
        points=points,
        mailbox=mailbox,
        order=tuple(packing.longest_first(missing) if num_workers > 1 else missing),
        num_workers=num_workers,
    )
    return context, packing


def _end_actors(*actors: Any) -> None:
    """End what this run started: Ray keeps what Tune was given for as long as the driver lives."""
    for actor in actors:
        with suppress(ray.exceptions.RayError):
            ray.kill(actor)


def _refuse_other_data(
    store: Store, specs: Sequence[TrialSpec], data: Mapping[str, Points]
) -> None:
    """Refuse to add to results that were measured on other data."""
    recorded = {ending["trial_id"]: ending["dataset_hash"] for ending in store.endings()}
    now = {spec.trial_id: data[points_key(spec)].dataset.content_hash for spec in specs}
    found, known = set(now.values()), set(recorded.values())
    # The data of a trial that is kept must be what they were, and a store of other data altogether
    # belongs to another study; data sets that the design varied before may stay in it.
    other = {recorded[t] for t in recorded.keys() & now.keys() if recorded[t] != now[t]}
    other |= set() if found & known else known
    if other:
        raise StoreError(
            f"{store.root} holds results on data with the hash {', '.join(sorted(other))}, but "
            f"the data found now have the hash {', '.join(sorted(found))}. Restore the data, or "
            "choose another --store"
        )


def _refuse_too_large_trials(config: StudyConfig) -> None:
    wanted = {"CPU": config.resources.cpus_per_trial, "GPU": config.resources.gpus_per_trial}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(n.get(k, 0) >= v for k, v in wanted.items()) for n in nodes):
        largest = {k: max((n.get(k, 0) for n in nodes), default=0) for k in wanted}
        raise FlatscaleError(
            f"resources: a trial asks for {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs, but "
            f"no node has them (most on one node: {largest['CPU']:g} CPUs, {largest['GPU']:g} GPUs)"
        )


@contextmanager
def _connected(address: str | None, config: StudyConfig) -> Iterator[None]:
    """A Ray connection: the one that is already there, or one of our own, shut down after."""
    if ray.is_initialized():
        yield
        return
    # A cluster's address in the environment (as in a submitted job) is joined by default.
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as stack:
        try:
            stack.enter_context(local_ray() if where == "local" else joined_ray(where, config))
        except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
            there = "this machine" if where == "local" else where
            raise FlatscaleError(f"cannot reach Ray at {there}: {error}") from error
        yield
