"""MLflow: one writer, on the driver, delivering what the store holds.

The store's records are the spool. A record is delivered by finding its run by a tag that holds our
own key (or creating it), logging in batches with the record's own timestamps, and ending the run; a
mark is written after that. Every step can be repeated without a second run or a second point, so a
driver killed in between, or a server that was away, changes nothing but the time of delivery.

Creating a run is the one request that must not be sent twice: a slow server may carry it out after
the client has given it up. It is not sent again until there has been time for that, and where one
was given up, the end of the study looks for second runs and deletes them.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# A dead server would block a call for minutes; the writer has its own patience. MLflow's retries
# would send the creation of a run again.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# MLflow would tell its makers how it is used; that is for the user to switch on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException

from flatscale.errors import TrackingError
from flatscale.store.journal import Deliveries
from flatscale.store.results import DIVERGED, FINISHED, Store
from flatscale.study.redaction import without_password
from flatscale.study.schema import StudyConfig

logger = logging.getLogger(__name__)

_KEY = "flatscale.key"
_MAX_METRICS = 1_000
_MAX_VALUE_LENGTH = 5_000
_LAST_ATTEMPTS = 3
_TIMEOUTS_BEFORE_A_SECOND_REQUEST = 3
_PARAMS = (
    "family",
    "architecture",
    "options",
    "dataset",
    "num_classes",
    "train_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "loss",
    "learning_rate",
    "batch_size",
    "seed_index",
    "num_parameters",
)
_TAGS = ("trial_id", "network_id", "family", "status", "stop", "reason", "device", "versions")


def local_tracking_uri(store: Store) -> str:
    """The SQLite file beside the results, the default tracking store."""
    return f"sqlite:///{store.root / 'mlflow.db'}"


class TrackingWriter:
    """Delivers a store's records to MLflow from a thread of its own, until closed.

    Args:
        store: the study's store, prepared.
        config: the study.
        uri: tracking URI; the store's own SQLite file by default.
        retry_seconds: how long to wait after a failed delivery, doubling up to a minute.
    """

    def __init__(
        self, store: Store, config: StudyConfig, uri: str | None = None, retry_seconds: float = 1.0
    ) -> None:
        self.uri = uri or config.tracking.uri or local_tracking_uri(store)
        self._store = store
        self._config = config
        self._retry_seconds = retry_seconds
        self._client: MlflowClient | None = None
        self._experiment: Experiment | None = None
        self._parent: Run | None = None
        self.deliveries = Deliveries(store, self.uri)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking writer", daemon=True)
        self._warned = False
        self._given_up: dict[str, float] = {}
        self._may_have_doubles = int(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) > 0

    def __enter__(self) -> TrackingWriter:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_thread()

    def _stop_thread(self) -> None:
        self._stop.set()
        self._thread.join()

    def deliver(self) -> int:
        """Deliver every record that has not been; the number delivered.

        Raises:
            TrackingError: the server refused or could not be reached; what is left stays on disk.
        """
        count = 0
        try:
            for trial_id, mark in self.deliveries.waiting():
                self._deliver_trial(self._store.read_record(trial_id))
                self.deliveries.mark(trial_id, mark)
                count += 1
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"MLflow at {without_password(self.uri)} did not take the records: "
                f"{self._harmless(error)}"
            ) from error
        return count

    def finish(self, artifacts: tuple[Path, ...]) -> None:
        """Deliver what is left, attach files and folders to the parent run, and end it.

        Raises:
            TrackingError: as `deliver`.
        """
        self._stop_thread()
        self._deliver_the_rest()
        try:
            client, parent = self._study_run()
            if self._may_have_doubles:
                self._delete_doubles(client, parent)
            for path in artifacts:
                if path.is_dir():
                    client.log_artifacts(parent.info.run_id, str(path), path.name)
                elif path.is_file():
                    client.log_artifact(parent.info.run_id, str(path))
            client.set_terminated(parent.info.run_id, "FINISHED")
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"MLflow at {without_password(self.uri)} did not take the report: "
                f"{self._harmless(error)}"
            ) from error

    def _deliver_the_rest(self) -> None:
        for attempt in range(1, _LAST_ATTEMPTS + 1):
            try:
                self.deliver()
                return
            except TrackingError:
                if attempt == _LAST_ATTEMPTS:
                    raise
                time.sleep(max([self._retry_seconds, *map(self._seconds_to_wait, self._given_up)]))

    def num_waiting(self) -> int:
        """Records on disk that have not been delivered."""
        return sum(1 for _ in self.deliveries.waiting())

    def _run(self) -> None:
        wait = self._retry_seconds
        while not self._stop.is_set():
            try:
                self._study_run()
                self.deliver()
                wait = self._retry_seconds
            except (TrackingError, MlflowException, OSError) as error:
                if not self._warned:
                    logger.warning(
                        "%s; records wait on disk and are delivered when it is back",
                        self._harmless(error),
                    )
                    self._warned = True
                wait = min(2 * wait, 60.0)
            self._stop.wait(wait)

    def _study_run(self) -> tuple[MlflowClient, Run]:
        """The client and the parent run, found or made."""
        if self._client is None:
            self._client = _connect(self.uri)
        if self._parent is None:
            self._experiment = self._find_experiment(self._client)
            key = self._store.store_id()
            found = self._find_run(self._client, key)
            # An earlier driver may have been killed between a request and its answer.
            self._may_have_doubles |= found is not None
            self._parent = found or self._create_run(
                self._client,
                key,
                run_name=f"{self._config.name} (study)",
                tags={"flatscale.kind": "study", "mlflow.note.content": self._config.description},
            )
            run_id = self._parent.info.run_id
            self._client.set_tag(run_id, "config_hash", self._config.content_hash)
            self._client.log_artifact(run_id, str(self._store.study_file))
        return self._client, self._parent

    def _find_experiment(self, client: MlflowClient) -> Experiment:
        name = self._config.tracking.experiment or self._config.name
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            local = self.uri == local_tracking_uri(self._store)
            location = (self._store.root / "mlartifacts").as_uri() if local else None
            client.create_experiment(name, artifact_location=location)
            experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment {name!r} is deleted; restore it or set tracking.experiment"
            )
        return experiment

    def _find_run(self, client: MlflowClient, key: str) -> Run | None:
        if self._experiment is None:
            raise RuntimeError("the experiment is found before its runs")
        runs = client.search_runs(
            [self._experiment.experiment_id], f"tags.`{_KEY}` = '{key}'", max_results=1
        )
        return runs[0] if runs else None

    def _create_run(
        self,
        client: MlflowClient,
        key: str,
        *,
        tags: dict[str, str],
        run_name: str,
        start_time: int | None = None,
    ) -> Run:
        """A run that holds our key; asked for once, as long as the server may still be at it.

        Raises:
            TrackingError: an earlier request was given up, and may yet be carried out.
            MlflowException: the server refused, or did not answer in time.
        """
        if self._experiment is None:
            raise RuntimeError("the experiment is found before its runs")
        if (seconds := self._seconds_to_wait(key)) > 0:
            raise TrackingError(
                f"MLflow at {without_password(self.uri)} did not say whether it made a run; it is "
                f"asked again in {seconds:.0f} s"
            )
        try:
            return client.create_run(
                self._experiment.experiment_id,
                start_time=start_time,
                run_name=run_name,
                tags={_KEY: key, **tags},
            )
        except (MlflowException, OSError):
            self._given_up[key] = time.monotonic()
            self._may_have_doubles = True
            raise

    def _seconds_to_wait(self, key: str) -> float:
        """How long a request that was given up may still be carried out; a file has no queue."""
        if key not in self._given_up or not self.uri.startswith("http"):
            return 0.0
        patience = _TIMEOUTS_BEFORE_A_SECOND_REQUEST * float(MLFLOW_HTTP_REQUEST_TIMEOUT.get())
        return self._given_up[key] + patience - time.monotonic()

    def _delete_doubles(self, client: MlflowClient, parent: Run) -> None:
        """Delete the runs that a server made of requests it had not answered in time."""
        runs: dict[str, list[Run]] = defaultdict(list)
        query, token = f"tags.`{_KEY}` LIKE '{self._store.store_id()}%'", None
        while True:
            page = client.search_runs(
                [parent.info.experiment_id], query, max_results=1_000, page_token=token
            )
            for run in page:
                runs[run.data.tags[_KEY]].append(run)
            token = page.token
            if not token:
                break
        for key, same in runs.items():
            # The one that the records went to; a second one was made and then never written to.
            same.sort(key=lambda run: (run.info.run_id != parent.info.run_id, not _is_written(run)))
            for run in same[1:]:
                logger.warning("MLflow had made a second run of %s; it is deleted", key)
                client.delete_run(run.info.run_id)

    def _deliver_trial(self, record: dict[str, Any]) -> None:
        client, parent = self._study_run()
        key = f"{self._store.store_id()}:{record['trial_id']}"
        run = self._find_run(client, key) or self._create_run(
            client,
            key,
            start_time=_milliseconds(record, "started_at"),
            run_name=_run_name(record),
            tags={
                "flatscale.kind": "trial",
                "mlflow.parentRunId": parent.info.run_id,
                "family": record["family"],
            },
        )
        run_id = run.info.run_id
        params = [Param(k, str(record[k])) for k in _PARAMS if record[k] is not None]
        known = run.data.params
        for tag in set(_TAGS) & set(run.data.tags):
            if record[tag] is None:
                client.delete_tag(run_id, tag)
        client.log_batch(
            run_id,
            params=[p for p in params if p.key not in known],
            tags=[
                RunTag(k, str(record[k])[:_MAX_VALUE_LENGTH])
                for k in _TAGS
                if record[k] is not None
            ],
        )
        metrics = list(_metrics(record))
        for start in range(0, len(metrics), _MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
        ended_well = record["status"] in (FINISHED, DIVERGED)
        client.set_terminated(
            run_id,
            "FINISHED" if ended_well else "FAILED",
            end_time=_milliseconds(record, "finished_at"),
        )

    def _harmless(self, error: BaseException) -> str:
        text = " ".join(str(error).split())[:500]
        password = urlsplit(self.uri).password
        return text.replace(password, "***") if password else text


def _connect(uri: str) -> MlflowClient:
    """A client whose tables exist: several processes that meet a missing SQLite file break it."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return MlflowClient(tracking_uri=uri)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _is_written(run: Run) -> bool:
    return "trial_id" in run.data.tags


def _run_name(record: dict[str, Any]) -> str:
    return (
        f"{record['family']} lr={record['learning_rate']:.3g} batch={record['batch_size']} "
        f"seed={record['seed_index']} {record['trial_id'][:6]}"
    )


def _metrics(record: dict[str, Any]) -> Iterator[Metric]:
    """Every finite number of a record as an MLflow metric, at its step, at the trial's end."""
    time = _milliseconds(record, "finished_at") or 0
    for row in record["history"]:
        if math.isfinite(row["train_loss"]):
            yield Metric("training/loss", row["train_loss"], time, row["step"])
    for row in record["measurements"]:
        for suffix in ("value", "std_error"):
            value = row[suffix]
            if value is not None and math.isfinite(value):
                name = row["metric"] if suffix == "value" else f"std_error/{row['metric']}"
                yield Metric(name, value, time, row["step"])
    for name in ("num_steps", "train_seconds", "measure_seconds"):
        if record[name] is not None:
            yield Metric(f"trial/{name}", float(record[name]), time, 0)


def _milliseconds(record: dict[str, Any], name: str) -> int | None:
    return None if record[name] is None else int(record[name].timestamp() * 1000)
