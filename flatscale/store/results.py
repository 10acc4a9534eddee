"""The seam between measuring and analysing: the results store.

A store is a folder. The truth in it is `records/<trial id>.parquet`, one atomic file a trial with
one row: what was trained, how it ended, and (nested) every measurement and the training history.
Nothing else needs to be right for a study to continue. `records.sha256` tells a record that was
damaged on the disk from a whole one. `table.parquet` (one row a network, one column a metric),
`trials.parquet` and `measurements.parquet` are the same content as flat tables, for other
programs, written anew after every run.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import yaml

from flatscale.errors import ConfigError, StoreError
from flatscale.extras import needs
from flatscale.store.atomic import is_leftover, write_atomically
from flatscale.store.checksums import Checksums
from flatscale.store.layout import Layout
from flatscale.store.records import (
    RECORD_SCHEMA,
    REQUIRED,
    TRIAL_SCHEMA,
    TrialRecord,
    axis_values,
    parquet_bytes,
)
from flatscale.store.zoo_table import zoo_table
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig

# Some damaged files make polars panic, which is no ordinary exception.
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)

_ENDING = ("trial_id", "network_id", "status", "reason", "num_attempts", "dataset_hash")
_CLOCK_NS = 2_000_000_000
"""A file may change within one tick of its file system's clock; the coarsest ticks every 2 s."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A store's content: `trials`, `measurements` and `history`, and the study they belong to."""

    study: StudyConfig
    trials: pl.DataFrame
    measurements: pl.DataFrame
    history: pl.DataFrame

    def to_pandas(self, *, all: bool = False) -> Any:
        """`table` as a pandas frame."""
        needs("pandas", "pyarrow")
        return self.table(all=all).to_pandas()

    def _repr_html_(self) -> str:
        """In a notebook: the table, one row per network."""
        return self.table()._repr_html_()

    def table(self, *, all: bool = False) -> pl.DataFrame:
        """One row per network of the study as it is now, a column per metric of its final snapshot.

        Every axis of the design is a column, named by its key. Beside a metric's column `m` stand
        `m__std_error` and `m__converged`. What others published of a network are columns, too. A
        trial without final measurements (failed, diverged) keeps its row, with nulls.

        Args:
            all: also the records that the study no longer owns, with a column `left_out` that says
                why each is not in the table otherwise; a network may then have several rows.
        """
        specs = plan(self.study)
        known = self.trials.drop("value_ids").with_columns(left_out=self._left_out(specs))
        wide = known if all else known.filter(pl.col("left_out").is_null()).drop("left_out")
        wide = wide.join(self._axes(specs), on="trial_id", how="left", maintain_order="left")
        final = self.measurements.filter("is_final", pl.col("trial_id").is_in(wide["trial_id"]))
        for values in ("value", "std_error", "converged"):
            name = pl.col("metric") + ("" if values == "value" else f"__{values}")
            pivoted = final.select("trial_id", values, name).pivot(
                "metric", index="trial_id", values=values, aggregate_function="first"
            )
            wide = wide.join(pivoted, on="trial_id", how="left", maintain_order="left")
        published = pl.DataFrame(
            [{"trial_id": s.trial_id, **s.outcomes} for s in specs if s.outcomes],
            infer_schema_length=None,
        )
        if published.is_empty():
            return wide
        new = [c for c in published.columns if c == "trial_id" or c not in wide.columns]
        return wide.join(published.select(new), on="trial_id", how="left", maintain_order="left")

    def _axes(self, specs: Sequence[TrialSpec]) -> pl.DataFrame:
        """A column for each axis that has none of its own in the records, by trial id.

        What the study is now says where its trials are; a record says it of trials that are not of
        the study any more.
        """
        rows = self.trials.select("trial_id", "axes").drop_nulls().iter_rows()
        at = {trial_id: json.loads(axes) for trial_id, axes in rows}
        at |= {spec.trial_id: spec.further_axes for spec in specs}
        names = dict.fromkeys(name for axes in at.values() for name in axes)
        columns = [axis_values(name, [axes.get(name) for axes in at.values()]) for name in names]
        return pl.DataFrame([pl.Series("trial_id", list(at), dtype=pl.String), *columns])

    def _left_out(self, specs: Sequence[TrialSpec]) -> pl.Series:
        """Of every record, why it belongs to no trial of the study as it is now; null if it does.

        A trial's id changes with what is measured, its network's does not: after a metric is added
        the store holds the same network twice.
        """
        current, networks = {s.trial_id for s in specs}, {s.network_id: s.trial_id for s in specs}

        def reason(trial_id: str, network_id: str) -> str | None:
            if trial_id in current:
                return None
            if network_id not in networks:
                return "the study has no such network any more"
            return (
                f"measured otherwise than the study asks now; its trial is {networks[network_id]}"
            )

        rows = self.trials.select("trial_id", "network_id").iter_rows()
        return pl.Series([reason(*row) for row in rows], dtype=pl.String)


class Store(Layout):
    """A study's folder of results.

    Args:
        root: the folder; made by `prepare`, not before.

    Attributes:
        listeners: called with the trial's id after this object has written a record.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.listeners: list[Callable[[str], None]] = []
        self._checksums = Checksums(self.checksums)
        self._endings: dict[str, tuple[str, dict[str, Any]]] = {}

    def store_id(self) -> str:
        """A name of this store's own, made with it; MLflow runs are found again by it."""
        return self.id_file.read_text(encoding="ascii").strip()

    def prepare(self, config: StudyConfig) -> None:
        """Make the folder and write the study into it.

        Raises:
            StoreError: the folder cannot be written, or holds another study.
        """
        if self.study_file.exists():
            known = self.read_study()
            if (known.name, known.seed) != (config.name, config.seed):
                raise StoreError(
                    f"{self.root} holds the study {known.name!r} with seed {known.seed}; this is "
                    f"{config.name!r} with seed {config.seed}. Choose another --store"
                )
        text = yaml.safe_dump(config.shown(), sort_keys=False)
        try:
            for folder in (self.records, self.checkpoints, self.report):
                folder.mkdir(parents=True, exist_ok=True)
            if not self.id_file.exists():
                write_atomically(self.id_file, uuid4().hex.encode())
            write_atomically(self.study_file, text.encode())
        except OSError as error:
            raise StoreError(f"cannot write the store {self.root}: {error}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for one driver; the lock ends with the process, however it ends.

        Raises:
            StoreError: another driver holds it, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            opened = self.lock_file.open("a")
        except OSError as error:
            raise StoreError(f"cannot write the store {self.root}: {error}") from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"another run is writing to {self.root}; wait for it or end it first"
                ) from None
            yield

    def remove_leftovers(self) -> None:
        """Remove what killed drivers and workers were about to write; for who holds the lock.

        The report's folder is left alone: anybody may be writing a report now.
        """
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if Path(folder, name) != self.report]
            for path in (Path(folder, name) for name in names):
                if is_leftover(path):
                    with suppress(OSError):
                        path.unlink()

    def is_locked(self) -> bool:
        """Whether a driver holds the store now; asked without writing anything."""
        if not self.lock_file.is_file():
            return False
        with self.lock_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def read_study(self) -> StudyConfig:
        """The study this store belongs to.

        Raises:
            StoreError: this is not a store, or its study file is damaged.
        """
        if not self.study_file.is_file():
            raise StoreError(
                f"{self.root} is not a results store: it has no {self.study_file.name}. Give the "
                "folder that `flatscale run` printed"
            )
        try:
            content = yaml.safe_load(self.study_file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ConfigError("it holds no mapping")
            return parse_config(content, where=str(self.study_file))
        except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
            raise StoreError(f"{self.study_file} cannot be read: {error}") from error

    def write(self, record: TrialRecord) -> None:
        """Write one trial's record, whole or not at all, and tell the listeners.

        Raises:
            StoreError: the disk is full or the store cannot be written; earlier records are whole.
        """
        path = self.record_file(record.trial_id)
        content = parquet_bytes(pl.DataFrame([record.row()], schema=RECORD_SCHEMA))
        try:
            self._checksums.add(path, content)
            write_atomically(path, content)
        except OSError as error:
            raise StoreError(
                f"cannot write the record of trial {record.trial_id} to {self.records}: {error}. "
                "Everything recorded before is safe; mend the cause and run the same command again"
            ) from error
        for listener in self.listeners:
            listener(record.trial_id)

    def read_record(self, trial_id: str) -> dict[str, Any]:
        """One record as a mapping in RECORD_SCHEMA."""
        path = self.record_file(trial_id)
        self._refuse_damaged([path])
        return self._read_file(path).row(0, named=True)

    def mark(self, trial_id: str) -> str:
        """What changes whenever a trial's record is written: time and size of its file.

        Raises:
            OSError: there is no such record.
        """
        return _mark(self.record_file(trial_id).stat())

    def marks(self) -> dict[str, str]:
        """The mark of every record by trial id, oldest first; what is half-written is no record."""
        if not self.records.is_dir():
            return {}
        with os.scandir(self.records) as entries:
            names = [e for e in entries if e.name.endswith(".parquet") and e.name[0] != "."]
            records = [(e.stat(), e.name.removesuffix(".parquet")) for e in names]
        records.sort(key=lambda record: (record[0].st_mtime_ns, record[1]))
        return {trial_id: _mark(stat) for stat, trial_id in records}

    def statuses(self) -> dict[str, str]:
        """The status of every recorded trial by its id, without reading measurements."""
        return {ending["trial_id"]: ending["status"] for ending in self.endings()}

    def endings(self) -> list[dict[str, Any]]:
        """How every recorded trial ended: id, status, reason, attempts, and the hash of its data.

        A record that this object has read is read again only when its file has changed.
        """
        marks = self.marks()
        known = {t: kept for t, kept in self._endings.items() if marks.get(t) == kept[0]}
        fresh = [trial_id for trial_id in marks if trial_id not in known]
        rows = self._scan(_ENDING, fresh).iter_rows(named=True)
        known |= {row["trial_id"]: (marks[row["trial_id"]], row) for row in rows}
        settled = time.time_ns() - _CLOCK_NS
        self._endings = {t: k for t, k in known.items() if int(k[0].partition("-")[0]) < settled}
        return [known[trial_id][1] for trial_id in marks]

    def dataset_hashes(self) -> set[str]:
        """The data that the recorded trials were trained on; one, in a sound store."""
        return {ending["dataset_hash"] for ending in self.endings()}

    def read(self, trial_ids: Sequence[str] | None = None) -> Results:
        """Every record, or those of the trials named, in that order.

        Raises:
            StoreError: this is not a store, or a record is damaged (named).
        """
        study = self.read_study()
        frame = self._scan(tuple(RECORD_SCHEMA), sorted(self.marks()))
        if trial_ids is not None:
            order = pl.DataFrame({"trial_id": list(trial_ids)}, schema={"trial_id": pl.String})
            frame = order.join(frame, on="trial_id", how="inner", maintain_order="left")
        return Results(
            study=study,
            trials=frame.select(list(TRIAL_SCHEMA)),
            measurements=_explode(frame, "measurements"),
            history=_explode(frame, "history"),
        )

    def export(self, results: Results) -> None:
        """Write the flat tables: of networks, of trials and of measurements."""
        write_atomically(self.table_file, parquet_bytes(results.table()))
        write_atomically(self.trials_table, parquet_bytes(results.trials))
        write_atomically(self.measurements_table, parquet_bytes(results.measurements))
        if results.study.keep_checkpoints:
            write_atomically(self.zoo_table, parquet_bytes(zoo_table(self, results)))

    def _scan(self, columns: Sequence[str], trial_ids: Sequence[str]) -> pl.DataFrame:
        """Columns of the records named, a row a trial in that order."""
        if not trial_ids:
            return pl.DataFrame(schema=RECORD_SCHEMA).select(columns)
        paths = [self.record_file(trial_id) for trial_id in trial_ids]
        self._refuse_damaged(paths)
        required = [name for name in columns if name in REQUIRED]
        with suppress(*_UNREADABLE):
            frame = _read_parquet(paths).select(columns).collect()
            if frame["trial_id"].equals(pl.Series(trial_ids)) and _has_all(frame, required):
                return frame
        # One of them is damaged or foreign: read them singly to name it.
        return pl.concat([self._read_file(path).select(columns) for path in paths])

    def _refuse_damaged(self, paths: list[Path]) -> None:
        try:
            damaged = self._checksums.damaged(paths)
        except OSError as error:
            raise StoreError(f"the records in {self.records} cannot be read: {error}") from error
        if damaged:
            raise StoreError(
                f"the record {damaged[0]} is damaged: it is not what was written "
                f"({len(damaged)} of {len(paths)} records are). Delete it and run the study again: "
                "only such trials will be repeated"
            )

    def _read_file(self, path: Path) -> pl.DataFrame:
        try:
            frame = _read_parquet([path]).collect()
        except _UNREADABLE as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise StoreError(
                f"the record {path} is damaged or foreign ({said}). Delete "
                "it and run the study again: only this trial will be repeated"
            ) from error
        if frame["trial_id"].to_list() != [path.stem] or not _has_all(frame, REQUIRED):
            raise StoreError(f"the record {path} does not hold the one trial it is named after")
        return frame


def load_results(store: str | Path) -> Results:
    """Read a results store: `trials`, `measurements`, `history`; `.table()` has a row a network.

    Raises:
        StoreError: this is not a store, or a record in it is damaged.
    """
    return Store(store).read()


def _read_parquet(paths: list[Path]) -> pl.LazyFrame:
    # Columns were added over time: null where a record is older, left out where it is newer.
    return pl.scan_parquet(
        paths, schema=RECORD_SCHEMA, missing_columns="insert", extra_columns="ignore"
    )


def _has_all(frame: pl.DataFrame, required: Sequence[str]) -> bool:
    return not any(frame[name].null_count() for name in required)


def _mark(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns}-{stat.st_size}"


def _explode(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    nested = frame.select("trial_id", column).filter(pl.col(column).list.len() > 0)
    return nested.explode(column).unnest(column)
