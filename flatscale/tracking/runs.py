"""A study's runs in MLflow: one for the study and one below it for each trial, never two.

A run is found by a tag that holds our own key, or created; what is logged carries the record's own
timestamps. So every step can be repeated without a second run or a second point.

Creating a run is the one request that must not be sent twice: a slow server may carry it out after
the client has given it up. It is not sent again until there has been time for that, and where one
was given up, the end of the study looks for second runs and deletes them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

# A dead server would block a call for minutes; the writer has its own patience. MLflow's retries
# would send the creation of a run again.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# MLflow would tell its makers how it is used; that is for the user to switch on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException

from flatscale.errors import StoreError, TrackingError
from flatscale.extras import needs
from flatscale.store.records import DIVERGED, FINISHED, METRIC, PARAMETER, TAG, columns_for
from flatscale.store.results import Store
from flatscale.study.redaction import without_password
from flatscale.study.schema import StudyConfig
from flatscale.tracking.descriptions import described, headline, origin, run_name, settings
from flatscale.tracking.own_database import follow_moved_artifacts, make_database

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

_KEY = "flatscale.key"
_MAX_METRICS, _MAX_PARAMS = 1_000, 100
_MAX_VALUE_LENGTH = 5_000
_TIMEOUTS_BEFORE_A_SECOND_REQUEST = 3
_PARAMETERS, _TAGS, _METRICS = (columns_for(use) for use in (PARAMETER, TAG, METRIC))


class Runs:
    """The runs of one store on one tracking server.

    Args:
        store: the study's store, prepared.
        config: the study.
        uri: tracking URI.
    """

    def __init__(self, store: Store, config: StudyConfig, uri: str) -> None:
        self._store = store
        self._config = config
        self._uri = uri
        self._given_up: dict[str, float] = {}
        self._training: dict[str, Run] = {}
        self._monitor: SystemMetricsMonitor | None = None
        self._may_have_doubles = int(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) > 0

    def find_study(self) -> None:
        """Connect, and find the study's own run or create it.

        Raises:
            TrackingError: the server refused or could not be reached.
        """
        with self._refusal("the study"):
            _ = self._study

    def deliver(self, record: dict[str, Any]) -> None:
        """Log one trial's record.

        Raises:
            TrackingError: the server refused or could not be reached; repeating it does no harm.
        """
        with self._refusal("the records"):
            client, run = self._client, self._trial_run(record)
            run_id = run.info.run_id
            for tag in set(_TAGS) & set(run.data.tags):
                if record[tag] is None:
                    client.delete_tag(run_id, tag)
            known = {name: str(record[name]) for name in _TAGS if record[name] is not None}
            tags = [RunTag(name, value[:_MAX_VALUE_LENGTH]) for name, value in known.items()]
            client.log_batch(run_id, params=_new_parameters(run, record), tags=tags)
            if run.inputs is None or not run.inputs.dataset_inputs:
                client.log_inputs(run_id, [_dataset(record, self._config)])
            about = self._config.analysis
            metrics = list(_metrics(record, first=(*about.primary, *about.outcomes)))
            metrics += _losses(run, record)
            for start in range(0, len(metrics), _MAX_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS])
            status = "FINISHED" if record["status"] in (FINISHED, DIVERGED) else "FAILED"
            ended = _milliseconds(record, "finished_at")
            client.set_terminated(run_id, status, end_time=ended)
            self._training.pop(record["trial_id"], None)

    def show_losses(self, record: dict[str, Any]) -> None:
        """Log the losses that a trial has found while it trains; its record repeats them.

        Raises:
            TrackingError: as `deliver`.
        """
        with self._refusal("the losses of a trial that trains"):
            run = self._training.get(record["trial_id"])
            if run is None:
                run = self._trial_run(record)
                if run.info.status != "RUNNING":
                    self._client.update_run(run.info.run_id, status="RUNNING")
                self._client.log_batch(run.info.run_id, params=_new_parameters(run, record))
                self._training[record["trial_id"]] = run
            self._client.log_batch(run.info.run_id, metrics=_losses(run, record))

    def _end_training(self) -> None:
        """Trials that this driver, or one that was killed, left before they ended."""
        for run in self._training.values():
            self._client.set_terminated(run.info.run_id, "KILLED")
        self._training.clear()

    def finish(self, artifacts: tuple[Path, ...]) -> None:
        """Attach files and folders to the study's run, and end it.

        Raises:
            TrackingError: as `deliver`.
        """
        with self._refusal("the report"):
            client, run_id = self._client, self._study.info.run_id
            if self._may_have_doubles:
                self._delete_doubles()
            self._end_monitor()
            self._end_training()
            self._log_headline(run_id)
            for path in artifacts:
                if path.is_dir():
                    client.log_artifacts(run_id, str(path), path.name)
                elif path.is_file():
                    client.log_artifact(run_id, str(path))
            client.set_terminated(run_id, "FINISHED")

    def _log_headline(self, run_id: str) -> None:
        """The numbers of the primary pair, how many trials ended how, and the report's sentence."""
        sentence, numbers = headline(self._store)
        with suppress(StoreError):  # a damaged record, which has been told
            ended = Counter(self._store.statuses().values())
            numbers |= {f"trials/{status}": count for status, count in ended.items()}
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, 0) for name, value in numbers.items()]
        note = "\n\n".join(filter(None, [self._config.description, sentence]))
        tags = [RunTag("mlflow.note.content", note[:_MAX_VALUE_LENGTH])]
        self._client.log_batch(run_id, metrics=metrics, tags=tags)

    def end(self, status: str) -> None:
        """End the study's run before it has finished; a driver that continues it takes it up again.

        Args:
            status: `KILLED` or `FAILED`, in MLflow's words.

        Raises:
            TrackingError: as `deliver`.
        """
        with self._refusal("the end of the run"):
            self._end_monitor()
            self._client.set_terminated(self._study.info.run_id, status)
            self._end_training()

    def _end_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    def seconds_to_wait(self) -> float:
        """Until every request that was given up has been carried out or never will be."""
        return max(map(self._seconds_to_wait, self._given_up), default=0.0)

    @cached_property
    def _client(self) -> MlflowClient:
        return _connect(self._uri)

    @cached_property
    def _study(self) -> Run:
        """The study's run, found or made; all other runs are in its experiment."""
        experiment_id, key = self._find_experiment(), self._store.store_id()
        run = self._find_run(experiment_id, key)
        # An earlier driver may have been killed between a request and its answer.
        self._may_have_doubles |= run is not None
        if run is not None:
            query = f"tags.`{_KEY}` LIKE '{key}:%' AND attributes.status = 'RUNNING'"
            left = self._client.search_runs([experiment_id], query, max_results=1_000)
            self._training = {other.info.run_id: other for other in left}
            self._end_training()
        run = run or self._create_run(
            experiment_id,
            key,
            run_name=f"{self._config.name} (study)",
            tags={"flatscale.kind": "study", "mlflow.note.content": self._config.description},
        )
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._client.set_tag(run.info.run_id, "config_hash", self._config.content_hash)
        self._log_settings(run)
        self._client.log_artifact(run.info.run_id, str(self._store.study_file))
        if self._config.tracking.system_metrics:
            needs("psutil")  # MLflow's monitor imports it, and no other part of MLflow does
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(
                run.info.run_id, resume_logging=True, tracking_uri=self._uri
            )
            self._monitor.start()
        return run

    def _log_settings(self, run: Run) -> None:
        """The study's settings as parameters; one that was changed since, as a tag beside it."""
        known, now = run.data.params, settings(self._config)
        new = [Param(key, value) for key, value in now.items() if key not in known]
        changed = {k: v for k, v in now.items() if k in known and known[k] != v}
        tags = [RunTag(f"now.{key}", value) for key, value in changed.items()]
        for start in range(0, max(len(new), len(tags)), _MAX_PARAMS):
            part = slice(start, start + _MAX_PARAMS)
            self._client.log_batch(run.info.run_id, params=new[part], tags=tags[part])

    def _trial_run(self, record: dict[str, Any]) -> Run:
        key = f"{self._store.store_id()}:{record['trial_id']}"
        study = self._study.info
        return self._find_run(study.experiment_id, key) or self._create_run(
            study.experiment_id,
            key,
            start_time=_milliseconds(record, "started_at"),
            run_name=run_name(record),
            tags={
                "flatscale.kind": "trial",
                "mlflow.parentRunId": study.run_id,
                "family": record["family"],
                "mlflow.note.content": described(record),
            },
        )

    def _find_experiment(self) -> str:
        client, name = self._client, self._config.tracking.experiment or self._config.name
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            local = self._uri == self._store.mlflow_uri
            location = self._store.mlflow_artifacts.as_uri() if local else None
            client.create_experiment(name, artifact_location=location)
            experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment {name!r} is deleted; restore it or set tracking.experiment"
            )
        return experiment.experiment_id

    def _find_run(self, experiment_id: str, key: str) -> Run | None:
        query = f"tags.`{_KEY}` = '{key}'"
        return next(iter(self._client.search_runs([experiment_id], query, max_results=1)), None)

    def _create_run(self, experiment_id: str, key: str, **about: Any) -> Run:
        """A run that holds our key; asked for once, as long as the server may still be at it.

        Raises:
            TrackingError: an earlier request was given up, and may yet be carried out.
            MlflowException: the server refused, or did not answer in time.
        """
        if (seconds := self._seconds_to_wait(key)) > 0:
            raise TrackingError(
                f"MLflow at {without_password(self._uri)} did not say whether it made a run; it is "
                f"asked again in {seconds:.0f} s"
            )
        about["tags"] = {_KEY: key, **origin(), **about["tags"]}
        try:
            return self._client.create_run(experiment_id, **about)
        except (MlflowException, OSError):
            self._given_up[key] = time.monotonic()
            self._may_have_doubles = True
            raise

    def _seconds_to_wait(self, key: str) -> float:
        """How long a request that was given up may still be carried out; a file has no queue."""
        if key not in self._given_up or not self._uri.startswith("http"):
            return 0.0
        patience = _TIMEOUTS_BEFORE_A_SECOND_REQUEST * float(MLFLOW_HTTP_REQUEST_TIMEOUT.get())
        return self._given_up[key] + patience - time.monotonic()

    def _delete_doubles(self) -> None:
        """Delete the runs that a server made of requests it had not answered in time."""
        client, study = self._client, self._study.info
        runs: dict[str, list[Run]] = defaultdict(list)
        query, token = f"tags.`{_KEY}` LIKE '{self._store.store_id()}%'", None
        while token != "":
            page = client.search_runs(
                [study.experiment_id], query, max_results=1_000, page_token=token
            )
            for run in page:
                runs[run.data.tags[_KEY]].append(run)
            token = page.token or ""
        for key, same in runs.items():
            # The one that the records went to; a second one was made and then never written to.
            def fit(run: Run) -> tuple[bool, bool]:
                return run.info.run_id == study.run_id, "trial_id" in run.data.tags

            for run in sorted(same, key=fit, reverse=True)[1:]:
                logger.warning("MLflow had made a second run of %s; it is deleted", key)
                client.delete_run(run.info.run_id)

    @contextmanager
    def _refusal(self, what: str) -> Iterator[None]:
        """What MLflow or the network raises in here, as one error without the password."""
        try:
            yield
        except (MlflowException, OSError) as error:
            said = " ".join(str(error).split())[:500]
            if password := urlsplit(self._uri).password:
                said = said.replace(password, "***")
            where = without_password(self._uri)
            raise TrackingError(f"MLflow at {where} did not take {what}: {said}") from error


def _connect(uri: str) -> MlflowClient:
    """A client whose tables exist: several processes that meet a missing SQLite file break it."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return MlflowClient(tracking_uri=uri)
    follow_moved_artifacts(Path(path))
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_database(Path(path))
        return MlflowClient(tracking_uri=uri)


def _dataset(record: dict[str, Any], config: StudyConfig) -> DatasetInput:
    """The data that a trial was trained on, as MLflow lists them."""
    source = json.dumps({"uri": config.data.path or config.data.source})
    profile = json.dumps({k: record[k] for k in ("train_size", "num_classes")})
    data = Dataset(record["dataset"], record["dataset_hash"], "local", source, profile=profile)
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])


def _new_parameters(run: Run, record: dict[str, Any]) -> list[Param]:
    """The parameters of a trial that its run does not have; every axis is one."""
    known = {name: record[name] for name in _PARAMETERS if record[name] is not None}
    known |= json.loads(record["axes"] or "{}")
    return [Param(name, str(v)) for name, v in known.items() if name not in run.data.params]


def _losses(run: Run, record: dict[str, Any]) -> list[Metric]:
    """The training losses of a record, at the run's start: so that one sent twice is one point."""
    began, found = run.info.start_time, [(r["train_loss"], r["step"]) for r in record["history"]]
    return [Metric("training/loss", v, began, step) for v, step in found if math.isfinite(v)]


def _metrics(record: dict[str, Any], first: Sequence[str] = ()) -> Iterator[Metric]:
    """Every finite number of a record as an MLflow metric, at the trial's end.

    What the report is about, the finished network's values, is at step 0, as networks that were
    trained for different numbers of steps are compared; how it came about is under `snapshots/`.

    Args:
        record: of one trial.
        first: metrics that are logged before the others.
    """
    ended = _milliseconds(record, "finished_at") or 0
    places = {name: place for place, name in enumerate(first)}
    rows = sorted(record["measurements"], key=lambda row: places.get(row["metric"], len(places)))
    # MLflow lists them in this order, and a comparison of runs begins with the first.
    known = [
        (prefix + row["metric"], row[column], row)
        for column, prefix in (("value", ""), ("std_error", "std_error/"))
        for row in rows
        if row[column] is not None and math.isfinite(row[column])
    ]
    yield from (Metric(name, value, ended, 0) for name, value, row in known if row["is_final"])
    for name in _METRICS:
        if record[name] is not None:
            yield Metric(f"trial/{name}", float(record[name]), ended, 0)
    if any(not row["is_final"] for row in rows):
        for name, value, row in known:
            yield Metric(f"snapshots/{name}", value, ended, row["step"])


def _milliseconds(record: dict[str, Any], name: str) -> int | None:
    return None if record[name] is None else int(record[name].timestamp() * 1000)
