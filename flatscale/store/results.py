"""The seam between measuring and analysing: the results store.

A store is a folder. The truth in it is `records/<trial id>.parquet`, one atomic file a trial with
one row: what was trained, how it ended, and (nested) every measurement and the training history.
Nothing else needs to be right for a study to continue. `records.sha256` tells a record that was
damaged on the disk from a whole one. `trials.parquet` and `measurements.parquet`
are the same content as two flat tables, for other programs, written anew after every run.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import yaml

from flatscale.errors import ConfigError, StoreError
from flatscale.store.atomic import is_leftover, write_atomically
from flatscale.store.checksums import Checksums
from flatscale.store.records import (
    DIVERGED,
    FAILED,
    FINISHED,
    MEASUREMENT_SCHEMA,
    RECORD_SCHEMA,
    STATUSES,
    TRIAL_SCHEMA,
    Snapshot,
    TrialRecord,
)
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig

logger = logging.getLogger(__name__)

# Some damaged files make polars panic, which is no ordinary exception.
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True, kw_only=True)
class Results:
    """A store's content: `trials`, `measurements` and `history`, and the study they belong to."""

    study: StudyConfig
    trials: pl.DataFrame
    measurements: pl.DataFrame
    history: pl.DataFrame

    def table(self) -> pl.DataFrame:
        """One row per trial, with a column per metric of its final snapshot.

        Beside a metric's column `m` stand `m__std_error` and `m__converged`. A trial without final
        measurements (failed, diverged) keeps its row, with nulls.
        """
        final = self.measurements.filter("is_final")
        wide = self.trials
        for column, suffix in (
            ("value", ""),
            ("std_error", "__std_error"),
            ("converged", "__converged"),
        ):
            pivoted = final.pivot(
                "metric", index="trial_id", values=column, aggregate_function="first"
            )
            renamed = {name: name + suffix for name in pivoted.columns if name != "trial_id"}
            wide = wide.join(pivoted.rename(renamed), on="trial_id", how="left")
        return wide


class Store:
    """A study's folder of results.

    Args:
        root: the folder; made by `prepare`, not before.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self._checksums = Checksums(self.root / "records.sha256")

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def study_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def _id_file(self) -> Path:
        return self.root / "store_id"

    def store_id(self) -> str:
        """A name of this store's own, made with it; MLflow runs are found again by it."""
        return self._id_file.read_text(encoding="ascii").strip()

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
            if not self._id_file.exists():
                write_atomically(self._id_file, uuid4().hex.encode())
            write_atomically(self.study_file, text.encode())
        except OSError as error:
            raise StoreError(f"cannot write the store {self.root}: {error}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for one driver; the lock ends with the process, however it ends.

        Raises:
            StoreError: another driver holds it.
        """
        with (self.root / ".lock").open("a") as file:
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
        """Whether a driver holds the store now."""
        try:
            with self.locked():
                return False
        except StoreError:
            return True

    def read_study(self) -> StudyConfig:
        """The study this store belongs to.

        Raises:
            StoreError: this is not a store, or its study file is damaged.
        """
        if not self.study_file.is_file():
            raise StoreError(
                f"{self.root} is not a results store: it has no study.yaml. Give the folder that "
                "`flatscale run` printed"
            )
        try:
            content = yaml.safe_load(self.study_file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ConfigError("it holds no mapping")
            return parse_config(content, where=str(self.study_file))
        except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
            raise StoreError(f"{self.study_file} cannot be read: {error}") from error

    def write(self, record: TrialRecord) -> None:
        """Write one trial's record, whole or not at all.

        Raises:
            StoreError: the disk is full or the store cannot be written; earlier records are whole.
        """
        buffer = io.BytesIO()
        pl.DataFrame([record.row()], schema=RECORD_SCHEMA).write_parquet(buffer)
        path, content = self.records / f"{record.trial_id}.parquet", buffer.getvalue()
        try:
            self._checksums.add(path, content)
            write_atomically(path, content)
        except OSError as error:
            raise StoreError(
                f"cannot write the record of trial {record.trial_id} to {self.records}: {error}. "
                "Everything recorded before is safe; mend the cause and run the same command again"
            ) from error

    def read_record(self, trial_id: str) -> dict[str, Any]:
        """One record as a mapping in RECORD_SCHEMA."""
        path = self.records / f"{trial_id}.parquet"
        self._refuse_damaged([path])
        return self._read_file(path).row(0, named=True)

    def statuses(self) -> dict[str, str]:
        """The status of every recorded trial by its id, without reading measurements."""
        frame = self._scan(["trial_id", "status"])
        return dict(frame.iter_rows())

    def endings(self) -> pl.DataFrame:
        """How every recorded trial ended: id, status, reason and number of attempts."""
        return self._scan(["trial_id", "status", "reason", "num_attempts"])

    def record_paths(self) -> list[Path]:
        """The records' files, without what a killed writer left half-made."""
        return sorted(self.records.glob("[!.]*.parquet"))

    def dataset_hashes(self) -> set[str]:
        """The data that the recorded trials were trained on; one, in a sound store."""
        return set(self._scan(["dataset_hash"])["dataset_hash"])

    def read(self, trial_ids: Sequence[str] | None = None) -> Results:
        """Every record, or those of the trials named, in that order.

        Raises:
            StoreError: this is not a store, or a record is damaged (named).
        """
        study = self.read_study()
        frame = self._scan(list(RECORD_SCHEMA))
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
        """Write the two flat tables, `trials.parquet` and `measurements.parquet`."""
        for name in ("trials", "measurements"):
            buffer = io.BytesIO()
            getattr(results, name).write_parquet(buffer)
            write_atomically(self.root / f"{name}.parquet", buffer.getvalue())

    def _scan(self, columns: list[str]) -> pl.DataFrame:
        paths = self.record_paths()
        if not paths:
            return pl.DataFrame(schema=RECORD_SCHEMA).select(columns)
        self._refuse_damaged(paths)
        try:
            return pl.scan_parquet(paths, schema=RECORD_SCHEMA).select(columns).collect()
        except _UNREADABLE:
            # One of them is damaged: read them singly to name it.
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
            frame = pl.read_parquet(path, schema=RECORD_SCHEMA)
        except _UNREADABLE as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise StoreError(
                f"the record {path} is damaged or foreign ({said}). Delete "
                "it and run the study again: only this trial will be repeated"
            ) from error
        if frame.height != 1 or frame["trial_id"][0] != path.stem:
            raise StoreError(f"the record {path} does not hold the one trial it is named after")
        return frame


def load_results(store: str | Path) -> Results:
    """Read a results store: `trials`, `measurements`, `history`, and `.table()`, one row a trial.

    Raises:
        StoreError: this is not a store, or a record in it is damaged.
    """
    return Store(store).read()


def _explode(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    nested = frame.select("trial_id", column).filter(pl.col(column).list.len() > 0)
    return nested.explode(column).unnest(column)


__all__ = [
    "DIVERGED",
    "FAILED",
    "FINISHED",
    "MEASUREMENT_SCHEMA",
    "RECORD_SCHEMA",
    "STATUSES",
    "TRIAL_SCHEMA",
    "Results",
    "Snapshot",
    "Store",
    "TrialRecord",
    "load_results",
]
