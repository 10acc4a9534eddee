"""A zoo's reader lists networks; the list becomes the models of an ordinary study.

A reader is one decorated function. Its keyword-only arguments are the keys beside `source` in
`models: {zoo: ...}`. What it yields is written into the study as `models`, so that trial ids, store
and report know nothing of zoos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import polars as pl

from flatscale.errors import ConfigError, ModelError
from flatscale.extras import needs
from flatscale.models.architectures import architecture_family
from flatscale.study.parts import OptionValue
from flatscale.study.pretrained import OutcomeTable, Preprocessing, WeightsConfig
from flatscale.study.registry import Registered, Registry, checked_options, nearest
from flatscale.study.schema import ModelConfig, StudyConfig

HUB: Final = "hub"
NONE: Final = "none"


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One network of a zoo."""

    name: str
    """Unique in its zoo; published results are joined by it."""
    architecture: str
    """A registered name or `timm:<name>`."""
    weights: WeightsConfig
    """Which weights, and where."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Options of the architecture."""
    family: str | None = None
    """What it counts as; the architecture's own family by default."""
    preprocessing: Preprocessing | None = None
    """How images become its inputs; the data's own size and [0, 1] by default."""
    outcomes: Mapping[str, float] = field(default_factory=dict)
    """Results that come with the zoo."""
    skipped: str | None = None
    """Why it is listed and not measured."""


Reader = Callable[..., Iterable[ZooEntry]]
ZOO_READERS: Registry[Registered] = Registry("zoo reader", ConfigError)


def zoo_reader(name: str) -> Callable[[Reader], Reader]:
    """Register a reader: a function of options alone that yields `ZooEntry`s."""

    def add(reader: Reader) -> Reader:
        ZOO_READERS.add(Registered(name=name, function=reader))
        return reader

    return add


@dataclass(frozen=True, kw_only=True)
class ReadZoo:
    """A study whose zoo was read, the networks left out of it, and what was joined to the rest."""

    study: StudyConfig
    skipped: tuple[ZooEntry, ...] = ()
    notes: tuple[str, ...] = ()


def read_zoo(study: StudyConfig) -> ReadZoo:
    """The study with its zoo's networks as `models`; a study without a zoo as it is.

    Raises:
        ConfigError: an unknown reader or option, two networks of one name, none to measure, a table
            of outcomes that cannot be joined.
        ModelError: a zoo that cannot be read.
    """
    if study.zoo is None or study.models:
        return ReadZoo(study=study)
    where = "models.zoo"
    reader = ZOO_READERS[study.zoo.source].function
    options = checked_options([reader], study.zoo.options, where)
    try:
        found = list(reader(**options))
    except TypeError as error:
        raise ConfigError(f"{where}: {study.zoo.source!r}: {error}") from error
    repeated = [name for name, count in Counter(e.name for e in found).items() if count > 1]
    if repeated:
        raise ConfigError(f"{where}: {repeated[0]!r} is listed twice; names must be unique")
    kept = [_of_family(entry, study.zoo.families) for entry in found if entry.skipped is None]
    skipped = tuple(entry for entry in found if entry.skipped is not None)
    if not kept:
        why = f"; all {len(skipped)} found are skipped, such as {_said(skipped[0])}" * bool(skipped)
        raise ConfigError(f"{where}: no network to measure{why}")
    notes = []
    for table in study.outcomes:
        kept, note = _with_outcomes(kept, table)
        notes.append(note)
    models = tuple(
        ModelConfig(
            architecture=entry.architecture,
            name=entry.name,
            family=entry.family,
            options=dict(entry.options),
            weights=entry.weights,
            preprocessing=entry.preprocessing,
            outcomes=dict(entry.outcomes),
        )
        for entry in kept
    )
    read = study.model_copy(update={"models": models})
    return ReadZoo(study=read, skipped=skipped, notes=tuple(notes))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, with or without its tag after the first dot."""
    return any(
        fnmatchcase(text, pattern) for pattern in patterns for text in (name, name.split(".")[0])
    )


def read_columns(path: Path, required: Iterable[str]) -> pl.DataFrame:
    """A CSV or Parquet table that has these columns.

    Raises:
        ModelError: it is missing, has another ending, cannot be read or lacks a column.
    """
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".csv":
            table = pl.read_csv(path, infer_schema_length=None)
        elif path.suffix == ".parquet":
            # pyarrow checks it: on some damaged files polars' own reader ends the process
            arrow = pq.read_table(path)
            arrow.validate(full=True)
            table = pl.DataFrame(pl.from_arrow(arrow))
        else:
            raise ModelError(f"{path}: a table must end in .csv or .parquet")
    except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as a table: {said}") from error
    for name in required:
        if name not in table.columns:
            known = ", ".join(table.columns)
            raise ModelError(
                f"{path} must have a column {name!r}{nearest(name, table.columns)}; found {known}"
            )
    return table


def _of_family(entry: ZooEntry, rules: Mapping[str, str]) -> ZooEntry:
    """The entry with the family of the first rule that its name fits, or its own."""
    ruled = next((family for rule, family in rules.items() if matches(entry.name, [rule])), None)
    return replace(entry, family=ruled or entry.family or architecture_family(entry.architecture))


def _with_outcomes(entries: list[ZooEntry], wanted: OutcomeTable) -> tuple[list[ZooEntry], str]:
    """The entries with a table's outcomes, and a sentence on what matched.

    Where a name has several rows, the one whose `img_size` is the network's own input size counts.
    """
    path = Path(wanted.table)
    try:
        table = read_columns(path, (wanted.on, *wanted.columns))
    except ModelError as error:
        raise ConfigError(f"outcomes: {error}") from None
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in table.iter_rows(named=True):
        rows.setdefault(wanted.name_here(str(row[wanted.on])), []).append(row)
    joined, unmatched, ambiguous = [], 0, []
    for entry in entries:
        found = rows.get(entry.name, [])
        if len(found) > 1 and entry.preprocessing is not None and "img_size" in table.columns:
            side = entry.preprocessing.input_size[1]
            found = [row for row in found if row["img_size"] == side]
        if len(found) > 1:
            ambiguous.append(entry.name)
        unmatched += not found
        values = {
            new: value
            for old, new in wanted.columns.items()
            if len(found) == 1 and (value := _number(found[0][old])) is not None
        }
        joined.append(replace(entry, outcomes={**entry.outcomes, **values}))
    note = f"{path.name}: {len(entries) - unmatched} of {len(entries)} networks have a row"
    if ambiguous:
        note += f"; {len(ambiguous)} have several and get none, such as {ambiguous[0]}"
    return joined, note


def _number(value: Any) -> float | None:
    """A finite number, also from a text with thousands separators; None for anything else."""
    try:
        number = float(str(value).replace(",", ""))
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _said(entry: ZooEntry) -> str:
    return f"{entry.name} ({entry.skipped})"
