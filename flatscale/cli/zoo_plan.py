"""What `flatscale plan` says of a zoo: each network, its size, and the memory it will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flatscale.data import prepare
from flatscale.errors import FlatscaleError
from flatscale.models.zoo import memory_bytes, network_size, read_zoo
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


def print_zoo(out: Console, study: StudyConfig, specs: Sequence[TrialSpec], store: Store) -> None:
    """One line a network: id, name, family, parameters, input, expected peak memory, status.

    Raises:
        DataError: the probe cannot be read.
    """
    (points,) = study_points(study, specs).values()
    statuses = store.statuses()
    num_points = sum(len(labels) for _, labels in points.point_sets.values())
    native = None
    table = Table(
        Column("trial", no_wrap=True),
        Column("model", overflow="fold"),
        "family",
        Column("parameters", justify="right"),
        Column("input", justify="right"),
        Column("memory", justify="right"),
        Column("status", overflow="fold"),
    )
    largest = 0
    for spec in specs:
        shape = spec.preprocessing.input_size if spec.preprocessing else native
        if shape is None:
            images = points.point_sets["probe"][0][:1]
            channels, height, width = prepare(images, None, spec.data.image_size).shape[1:]
            shape = native = (channels, height, width)
        status = statuses.get(spec.trial_id, "to run")
        try:
            options = dict(spec.options)
            size = network_size(spec.architecture, shape, points.dataset.num_classes, options)
        except FlatscaleError as error:
            known, status = ("?", "?"), f"cannot run: {error}"
        else:
            needed = memory_bytes(size, num_points, shape)
            largest = max(largest, needed)
            known = f"{size.num_parameters / 1e6:.2f} M", f"{needed / 2**30:.1f} GiB"
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
