"""What a study will take before it runs: which trials train, how long, how much of the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch

from flatscale.data import Points, points_key
from flatscale.errors import FlatscaleError
from flatscale.metrics import asked_metrics, measure, value_ids
from flatscale.models import build_model
from flatscale.store.earlier_records import ids_of_values
from flatscale.store.records import SETTLED
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import StudyConfig
from flatscale.training import train

# Of the quickstart's store, per trial: its record, and what MLflow's database holds of it.
_RECORD_BYTES = 19_000
_TRACKING_BYTES, _TRACKING_START = 42_000, 1_000_000
_TRACKED_METRICS = 12


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do of a study."""

    done: int
    """Trials that have their result."""
    to_train: tuple[TrialSpec, ...]
    """Trials that train a network."""
    to_measure: tuple[TrialSpec, ...]
    """Trials whose network is kept, or trained by another of them: they are measured only."""
    again: int
    """Of those to train, how many networks the store has results of, but no weights."""

    @property
    def to_run(self) -> int:
        """Trials without a result."""
        return len(self.to_train) + len(self.to_measure)


def remaining_work(config: StudyConfig, specs: Sequence[TrialSpec], store: Store) -> Work:
    """Which trials of a study are done, which train and which only measure."""
    endings = store.endings()
    settled = {e["trial_id"] for e in endings if e["status"] in SETTLED}
    trained = {e["network_id"] for e in endings if e["status"] in SETTLED}
    to_run = [spec for spec in specs if spec.trial_id not in settled]
    to_train: dict[str, TrialSpec] = {}
    to_measure = []
    for spec in to_run:
        shared = config.keep_checkpoints and spec.measurement.num_snapshots == 1
        known = spec.weights_id in to_train or store.weights_file(spec.weights_id).exists()
        if shared and known:
            to_measure.append(spec)
        else:
            to_train[spec.weights_id if shared else spec.trial_id] = spec
    return Work(
        done=len(specs) - len(to_run),
        to_train=tuple(to_train.values()),
        to_measure=tuple(to_measure),
        again=len({spec.network_id for spec in to_train.values()} & trained),
    )


def new_values(
    to_measure: Sequence[TrialSpec], store: Store, data: Mapping[str, Points]
) -> Counter[tuple[str, ...]]:
    """Of trials whose networks the store has values of, how many compute which metrics."""
    found = Counter[tuple[str, ...]]()
    held = ids_of_values(store) if store.study_file.is_file() and to_measure else {}
    known: dict[tuple[int, str], dict[str, str]] = {}
    for spec in (spec for spec in to_measure if spec.network_id in held):
        key = (id(spec.measurement), points_key(spec))
        if key not in known:
            known[key] = value_ids(spec, data[key[1]].content_hashes)
        there = held[spec.network_id]
        new = [name for name in spec.measurement.metrics if known[key][name] not in there]
        found[tuple(new)] += 1
    return found


def disk_bytes(
    config: StudyConfig, specs: Sequence[TrialSpec], store: Store, data: Mapping[str, Points]
) -> dict[str, int]:
    """About how many bytes the finished study takes, by what they are.

    Records as large as those the store has, else as those of the quickstart; weights by the number
    of parameters of each network.
    """
    sizes = [store.record_file(name).stat().st_size for name in store.marks()]
    mean = sum(sizes) / len(sizes) if sizes else _RECORD_BYTES
    found = {"records": round(mean * len(specs))}
    if config.tracking.enabled and config.tracking.uri is None:
        values = (len(s.measurement.metrics) * s.measurement.num_snapshots for s in specs)
        tracked = sum(max(1.0, number / _TRACKED_METRICS) for number in values)
        found["tracking"] = _TRACKING_START + round(_TRACKING_BYTES * tracked)
    if config.keep_checkpoints and data:
        parameters: dict[tuple[str, str, str], int] = {}
        networks = {spec.weights_id: spec for spec in specs}
        for spec in networks.values():
            if (key := _kind(spec)) not in parameters:
                model = _network(spec, data)
                parameters[key] = sum(p.numel() * p.element_size() for p in model.parameters())
        found["weights"] = sum(parameters[_kind(spec)] for spec in networks.values())
    return found


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The first trial of an architecture, run here without Ray."""

    architecture: str
    train_seconds: float
    num_steps: int
    measure_seconds: float
    num_trials: int
    """Trials of this architecture that are to run."""
    seconds: float
    """What these take, one after the other, if each takes as long."""


def time_first_trials(work: Work, data: Mapping[str, Points]) -> Iterator[Timed]:
    """Train and measure the first trial of each architecture that is to run.

    Raises:
        FlatscaleError: it cannot be trained or measured.
    """
    every = (*work.to_train, *work.to_measure)
    for architecture in dict.fromkeys(spec.architecture for spec in every):
        to_train = [s for s in work.to_train if s.architecture == architecture]
        to_measure = [s for s in work.to_measure if s.architecture == architecture]
        spec = (*to_train, *to_measure)[0]
        points = data[points_key(spec)]
        model, dataset = _network(spec, data, spec.seed("initialisation")), points.dataset
        x, y = torch.tensor(dataset.x_train), torch.tensor(dataset.y_train)
        began = perf_counter()
        result = train(
            model,
            x,
            y,
            spec.training,
            learning_rate=spec.learning_rate,
            batch_size=spec.num_points_a_step(len(y)),
            seed=spec.seed("order"),
            held_out=dataset.held_out,
            weights=spec.measurement.weights,
        )
        trained = perf_counter() - began
        if result.status == "diverged":
            raise FlatscaleError(
                f"the first trial of {architecture} diverged ({result.reason}): its time says "
                "nothing of the others"
            )
        measured = _measure_seconds(spec, model, points) * spec.measurement.num_snapshots
        yield Timed(
            architecture=architecture,
            train_seconds=trained,
            num_steps=result.num_steps,
            measure_seconds=measured,
            num_trials=len(to_train) + len(to_measure),
            seconds=trained * len(to_train) + measured * (len(to_train) + len(to_measure)),
        )


@contextmanager
def threads_of_a_trial(config: StudyConfig) -> Iterator[None]:
    """Compute with as many threads as a trial's process has.

    More wait for each other on a busy machine: small networks then take tens of times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.resources.threads_per_trial)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_at_a_time(config: StudyConfig) -> int:
    """How many trials of a study this machine runs at a time."""
    resources = config.resources
    fit = max(1, int((os.cpu_count() or 1) / resources.cpus_per_trial))
    return min(fit, resources.max_concurrent_trials or fit)


def _measure_seconds(spec: TrialSpec, model: torch.nn.Module, points: Points) -> float:
    sets = {name: tuple(map(torch.tensor, both)) for name, both in points.point_sets.items()}
    names, options = asked_metrics(spec)
    began = perf_counter()
    measure(
        model,
        sets["probe"],
        names,
        loss=spec.measurement.loss or spec.training.loss,
        output_map=spec.measurement.output_map,
        options=options,
        seed=spec.seed("measurement"),
        train=sets["train"],
        test=sets["test"],
    )
    return perf_counter() - began


def _network(spec: TrialSpec, data: Mapping[str, Points], seed: int = 0) -> torch.nn.Module:
    dataset = data[points_key(spec)].dataset
    return build_model(
        spec.architecture, dataset.input_shape, dataset.num_classes, spec.options, seed=seed
    )


def _kind(spec: TrialSpec) -> tuple[str, str, str]:
    return spec.architecture, repr(sorted(spec.options.items(), key=str)), points_key(spec)
