"""Delivering what the store holds to a tracking server, on the driver, in a thread of its own.

The store's records are the spool. At the start they are compared with the journal of what the
server took; after that only records that the store says it has written are looked at. A line of
the journal is written after a delivery, and every step of one can be repeated, so a driver killed
in between, or a server that was away, changes nothing but the time of delivery.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flatscale.errors import StoreError, TrackingError
from flatscale.store.journal import Journal
from flatscale.store.records import TrialRecord
from flatscale.store.results import Store
from flatscale.study.redaction import without_password
from flatscale.study.schema import StudyConfig

if TYPE_CHECKING:
    from flatscale.tracking.runs import Runs

logger = logging.getLogger(__name__)

_LAST_ATTEMPTS = 3
_SECONDS_TO_END = 1.5
_MOST_LOSSES = 1_000
"""Of one trial, while the server is away; as many as it takes at a time."""


class TrackingWriter:
    """Delivers a store's records from a thread of its own, until closed.

    A listener of the store, and of the run for the losses of trials that train.

    Args:
        store: the study's store, prepared.
        config: the study.
        uri: tracking URI; by default that of the study, else of MLFLOW_TRACKING_URI in the
            environment, else the store's own SQLite file.
        retry_seconds: how long to wait after a failed delivery, doubling up to a minute.
        with_trials: begin when the first trial has begun: importing MLflow and making its tables
            take seconds of the cores that Ray starts on.
    """

    def __init__(
        self,
        store: Store,
        config: StudyConfig,
        uri: str | None = None,
        retry_seconds: float = 1.0,
        with_trials: bool = False,
    ) -> None:
        named = uri or config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = named or store.mlflow_uri
        self._store = store
        self._config = config
        self._retry_seconds = retry_seconds
        self._journal = Journal(store, self.uri)
        # Trials in the order of their records. A record that is written again while it is being
        # delivered waits again: its version is another.
        self._lock = threading.Lock()
        self._waiting = {trial_id: object() for trial_id in self._journal.waiting()}
        self._losses: dict[str, TrialRecord] = {}
        store.listeners.append(self._written)
        self._stop, self._leaving = threading.Event(), threading.Event()
        self._begins = threading.Event()
        if not with_trials:
            self._begins.set()
        self._thread = threading.Thread(target=self._run, name="tracking writer", daemon=True)

    def __enter__(self) -> TrackingWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._stop_thread()
        else:
            self.stop("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def deliver(self) -> int:
        """Deliver every record that has not been; the number delivered.

        Raises:
            TrackingError: the server refused or could not be reached; what is left stays on disk.
        """
        count = 0
        try:
            self._journal.open()
            self._runs.find_study()
            while not self._leaving.is_set() and (oldest := self._oldest()) is not None:
                trial_id, version = oldest
                self._deliver_trial(trial_id)
                with self._lock:
                    if self._waiting[trial_id] is version:
                        del self._waiting[trial_id]
                count += 1
        except OSError as error:
            where = without_password(self.uri)
            raise TrackingError(f"deliveries to {where} cannot be noted: {error}") from error
        return count

    def finish(self, artifacts: tuple[Path, ...]) -> None:
        """Deliver what is left, attach files and folders to the study's run, and end it.

        Raises:
            TrackingError: as `deliver`.
        """
        self._stop_thread()
        for attempt in range(1, _LAST_ATTEMPTS + 1):
            try:
                self.deliver()
                break
            except TrackingError:
                if attempt == _LAST_ATTEMPTS:
                    raise
                time.sleep(max(self._retry_seconds, self._runs.seconds_to_wait()))
        self._runs.finish(artifacts)

    def stop(self, status: str = "KILLED") -> bool:
        """Say that the study's run ended before it was finished; for a few seconds at most.

        What has not been delivered waits on the disk; whoever continues the study delivers it.

        Args:
            status: `KILLED` or `FAILED`, in MLflow's words.

        Returns:
            Whether the server took it.
        """
        told = threading.Event()
        self._leaving.set()

        def tell() -> None:
            self._stop_thread()
            # Nothing to end where this driver has not got as far as the study's run.
            with suppress(TrackingError):
                if "_runs" in self.__dict__:
                    self._runs.end(status)
                told.set()

        thread = threading.Thread(target=tell, name="tracking end", daemon=True)
        in_main = threading.current_thread() is threading.main_thread()
        # An impatient third Ctrl-C would leave the run as it is for ever.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
        try:
            thread.start()
            return told.wait(_SECONDS_TO_END)
        finally:
            if in_main:
                signal.signal(signal.SIGINT, before)

    def num_waiting(self) -> int:
        """Records on disk, found whole so far, that have not been delivered."""
        return len(self._waiting)

    @cached_property
    def _runs(self) -> Runs:
        # Imported by the writer's thread: the seconds that MLflow takes pass while trials train.
        from flatscale.tracking.runs import Runs

        return Runs(self._store, self._config, self.uri)

    def started(self, trial_id: str) -> None:
        self._begins.set()

    def ended(self, record: TrialRecord) -> None: ...

    def trains(self, record: TrialRecord) -> None:
        """Have the losses logged that a trial has found since the last time, if there is time."""
        with self._lock:
            before = self._losses.pop(record.trial_id, None)
            points = (*(before.history if before else ()), *record.history)
            self._losses[record.trial_id] = replace(record, history=points[-_MOST_LOSSES:])

    def _written(self, trial_id: str) -> None:
        with self._lock:
            self._losses.pop(trial_id, None)
            self._waiting.pop(trial_id, None)
            self._waiting[trial_id] = object()

    def _show_losses(self) -> None:
        """Log losses of trials that train; a record that comes meanwhile goes first.

        What the server does not take is not tried again: the trial's record has it all.
        """
        for trial_id in list(self._losses):
            with self._lock:
                record = self._losses.pop(trial_id, None)
            if record is not None:
                self._runs.show_losses(record.row())
            if self._waiting or self._stop.is_set():
                return

    def _oldest(self) -> tuple[str, object] | None:
        with self._lock:
            return next(iter(self._waiting.items()), None)

    def _deliver_trial(self, trial_id: str) -> None:
        """Deliver one record; one that was deleted or damaged meanwhile holds up no other."""
        if not self._store.record_file(trial_id).exists():
            return  # deleted, for the trial to be run again
        # The mark before the content: a record written in between is delivered again.
        mark = self._store.mark(trial_id)
        try:
            record = self._store.read_record(trial_id)
        except StoreError as error:
            logger.warning("%s; MLflow does not get this record", error)
            return
        self._runs.deliver(record)
        self._journal.add(trial_id, mark)

    def _run(self) -> None:
        self._begins.wait()
        wait, warned = self._retry_seconds, False
        while not self._stop.is_set():
            try:
                self.deliver()
                self._show_losses()
                wait = self._retry_seconds
            except TrackingError as error:
                if not warned:
                    logger.warning(
                        "%s; records wait on disk and are delivered when it is back", error
                    )
                    warned = True
                wait = min(2 * wait, 60.0)
            self._stop.wait(wait)

    def _stop_thread(self) -> None:
        self._stop.set()
        self._begins.set()
        self._thread.join()
