"""What `flatscale plan` says of a zoo: each network, its size, and the memory it will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flatscale.cli.forecast import new_values, num_at_a_time, threads_of_a_trial
from flatscale.cli.planning import print_new_values
from flatscale.cluster.measured_trial import held_against, load_network, network_input, size_of
from flatscale.cluster.measurer import measured_snapshot
from flatscale.data import Points, points_key, prepare
from flatscale.errors import FlatscaleError
from flatscale.models.zoo import NetworkSize, memory_bytes, read_zoo
from flatscale.preflight import study_points
from flatscale.store.records import SETTLED
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec
from flatscale.study.registry import import_plugins
from flatscale.study.schema import StudyConfig


def with_zoo(out: Console, study: StudyConfig) -> StudyConfig:
    """The study with its zoo's networks as models; who is left out, and why, is printed.

    Raises:
        ConfigError: an unknown reader or option, no network to measure, a table that does not join.
        ModelError: a zoo that cannot be read.
    """
    import_plugins(study.plugins)
    read = read_zoo(study)
    for reason, count in Counter(entry.skipped for entry in read.skipped).most_common():
        out.print(f"skipped   {count} x {escape(reason or '')}", soft_wrap=True)
    for note in read.notes:
        out.print(f"outcomes  {escape(note)}", soft_wrap=True)
    return read.study


def print_zoo(
    out: Console, study: StudyConfig, specs: Sequence[TrialSpec], store: Store, *, timed: bool
) -> None:
    """One line a network: id, name, family, parameters, input, expected peak memory, status; then
    the time, if asked for.

    Raises:
        DataError: the probe cannot be read.
        ModelError: a network that is timed cannot be measured.
    """
    (points,) = study_points(study, specs).values()
    statuses = store.statuses()
    num_points = sum(len(labels) for _, labels in points.point_sets.values())
    table = Table(
        Column("trial", no_wrap=True),
        Column("model", overflow="fold"),
        "family",
        Column("parameters", justify="right"),
        Column("input", justify="right"),
        Column("memory", justify="right"),
        Column("status", overflow="fold"),
    )
    largest, sizes = 0, list[tuple[TrialSpec, NetworkSize]]()
    for spec in specs:
        shape = network_input(spec, points)
        status = statuses.get(spec.trial_id, "to run")
        try:
            size = size_of(spec, points)
        except FlatscaleError as error:
            known, status = ("?", "?"), f"cannot run: {error}"
        else:
            needed = memory_bytes(size, num_points, shape)
            largest = max(largest, needed)
            known = f"{size.num_parameters / 1e6:.2f} M", f"{needed / 2**30:.1f} GiB"
            sizes += [(spec, size)] if status not in SETTLED else []
        table.add_row(
            spec.trial_id,
            escape(spec.name or spec.architecture),
            escape(spec.family or ""),
            known[0],
            "x".join(map(str, shape)),
            known[1],
            escape(status),
        )
    out.print(table)
    done = sum(statuses.get(spec.trial_id) in SETTLED for spec in specs)
    out.print(f"{len(specs)} trials, {done} done, {len(specs) - done} to run (store: {store.root})")
    out.print(
        f"{len(specs)} networks, {num_points} images ({points.content_hashes['probe']}); a worker "
        f"holds at most {largest / 2**30:.1f} GiB"
    )
    missing = [spec for spec in specs if statuses.get(spec.trial_id) not in SETTLED]
    print_new_values(out, new_values(missing, store, {points_key(specs[0]): points}))
    if timed and sizes:
        with threads_of_a_trial(study):
            _print_time(out, study, points, sizes)


def _print_time(
    out: Console,
    study: StudyConfig,
    points: Points,
    sizes: Sequence[tuple[TrialSpec, NetworkSize]],
) -> None:
    """Measure the networks at the quartiles of size here, and scale their time to all of them."""
    ranked = sorted(sizes, key=lambda pair: pair[1].activation_bytes)
    chosen = {len(ranked) * quarter // 4: None for quarter in (1, 2, 3)}
    seconds = activations = 0.0
    for spec, size in (ranked[place] for place in chosen):
        began = perf_counter()
        x = {
            name: prepare(images, spec.preprocessing, spec.data.image_size)
            for name, (images, _) in points.point_sets.items()
        }
        model, _ = load_network(spec, points)
        loaded = perf_counter() - began
        measured_snapshot(spec, held_against(spec, points, model, x), 0)
        took = perf_counter() - began
        seconds, activations = seconds + took, activations + size.activation_bytes
        out.print(
            f"measured  {escape(spec.name or spec.architecture)}: {took:.1f} s, {loaded:.1f} s of "
            "it to load weights and images",
            soft_wrap=True,
        )
    total = seconds * sum(size.activation_bytes for _, size in sizes) / activations
    at_a_time = num_at_a_time(study)
    out.print(
        f"time      about {total / at_a_time / 60:.1f} min for {len(sizes)} networks, {at_a_time} "
        "at a time, if time goes with the size of what a network's layers hand on",
        soft_wrap=True,
    )
