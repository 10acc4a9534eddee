"""What `flatscale plan` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flatscale.cli.forecast import (
    Work,
    disk_bytes,
    new_values,
    num_at_a_time,
    remaining_work,
    threads_of_a_trial,
    time_first_trials,
)
from flatscale.data import Points
from flatscale.errors import FlatscaleError
from flatscale.preflight import study_points
from flatscale.store.results import Store
from flatscale.study.keys import short_names
from flatscale.study.plan import TrialSpec, axis_columns
from flatscale.study.schema import StudyConfig

_LEVELS_SHOWN = 8


def print_plan(
    out: Console,
    err: Console,
    config: StudyConfig,
    specs: Sequence[TrialSpec],
    store: Store,
    *,
    timed: bool,
) -> None:
    """Print axes, trials, what is left to do, the data, the disk and, if asked for, the time."""
    out.print(_axes_table(config, specs))
    out.print(_trials_table(config, specs, store))
    work = remaining_work(config, specs, store)
    counts = f"{len(specs)} trials, {work.done} done, {work.to_run} to run (store: {store.root})"
    out.print(counts)
    networks = len({spec.network_id for spec in specs})
    out.print(
        f"{networks} networks; of the trials to run {len(work.to_train)} train, "
        f"{len(work.to_measure)} only measure"
    )
    for warning in _warnings(config, work, networks, len(specs)):
        err.print(f"[yellow]plan:[/] {warning}", soft_wrap=True)
    data = _print_data(out, err, config, specs)
    if data:
        print_new_values(out, new_values(work.to_measure, store, data))
    parts = disk_bytes(config, specs, store, data)
    listed = ", ".join(f"{name} {_size(number)}" for name, number in parts.items())
    out.print(f"disk      about {_size(sum(parts.values()))} ({listed})")
    if timed and data:
        with threads_of_a_trial(config):
            _print_time(out, config, work, data)


def _axes_table(config: StudyConfig, specs: Sequence[TrialSpec]) -> Table:
    table = Table(Column("axis", no_wrap=True), "levels", Column("values", overflow="fold"))
    for name in (*axis_columns(config), "seed_index"):
        at = [s.seed_index if name == "seed_index" else s.axes.get(name) for s in specs]
        levels = list(dict.fromkeys(level for level in at if level is not None))
        numbers = [level for level in levels if isinstance(level, int | float)]
        if len(levels) > _LEVELS_SHOWN and len(numbers) == len(levels):
            shown = f"{min(numbers):g} to {max(numbers):g}"
        else:
            more = ", …" if len(levels) > _LEVELS_SHOWN else ""
            shown = ", ".join(_level(level) for level in levels[:_LEVELS_SHOWN]) + more
        table.add_row(name, str(len(levels)), escape(shown))
    return table


def _trials_table(config: StudyConfig, specs: Sequence[TrialSpec], store: Store) -> Table:
    statuses = store.statuses()
    axes = axis_columns(config)
    names = short_names(axes)
    table = Table(
        Column("trial", no_wrap=True),
        Column("architecture", overflow="fold"),
        *(Column(names[axis].replace("_", " "), overflow="fold") for axis in axes),
        "seed",
        Column("status", no_wrap=True),
    )
    for spec in specs:
        at = (_level(spec.axes.get(axis, "-")) for axis in axes)
        status = statuses.get(spec.trial_id, "to run")
        cells = (spec.architecture, *at, str(spec.seed_index))
        table.add_row(spec.trial_id, *map(escape, cells), status)
    return table


def _warnings(config: StudyConfig, work: Work, networks: int, trials: int) -> Iterator[str]:
    if work.again:
        yield (
            f"the store has results of {work.again} of these networks, measured otherwise, and not "
            "their weights: they are trained again. keep_checkpoints: true keeps the weights, so "
            "that more can be measured later without training"
        )
    if networks < trials and not config.keep_checkpoints:
        yield (
            f"{trials} trials measure {networks} networks, each trained anew; keep_checkpoints: "
            "true trains each once"
        )


def print_new_values(out: Console, counts: Mapping[tuple[str, ...], int]) -> None:
    """How many trials compute only which metrics, as the store has the values of the others."""
    for new, count in counts.items():
        noun = "metric" if len(new) == 1 else "metrics"
        out.print(
            f"measure   {count} only measure {len(new)} new {noun}"
            f"{': ' + ', '.join(new) if new else ', the store has them all'}",
            soft_wrap=True,
        )


def _print_data(
    out: Console, err: Console, config: StudyConfig, specs: Sequence[TrialSpec]
) -> Mapping[str, Points]:
    """Say which data there are; none where they, or a network for them, cannot be had."""
    try:
        data = study_points(config, specs)
    except FlatscaleError as error:
        err.print(f"[yellow]data:[/] {escape(str(error))}", soft_wrap=True)
        return {}
    for points in data.values():
        dataset, probe = points.dataset, points.point_sets["probe"][1]
        out.print(
            f"data      {escape(dataset.name)} ({dataset.content_hash}): {len(dataset.y_train)} "
            f"training and {len(dataset.y_test)} test points, {len(probe)} in the probe set "
            f"({points.content_hashes['probe']})",
            soft_wrap=True,
        )
    return data


def _print_time(out: Console, config: StudyConfig, work: Work, data: Mapping[str, Points]) -> None:
    seconds = 0.0
    for timed in time_first_trials(work, data):
        seconds += timed.seconds
        out.print(
            f"first     {escape(timed.architecture)}: {timed.num_steps} steps in "
            f"{timed.train_seconds:.1f} s, measured in {timed.measure_seconds:.1f} s; "
            f"{timed.num_trials} such trials to run",
            soft_wrap=True,
        )
    at_a_time = num_at_a_time(config)
    out.print(
        f"time      about {seconds / at_a_time / 60:.1f} min, {at_a_time} trials at a time, if "
        "every trial takes as long as the first of its architecture"
    )


def _level(level: object) -> str:
    return f"{level:g}" if isinstance(level, int | float) else str(level)


def _size(number: int) -> str:
    size, units = float(number), ["kB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
