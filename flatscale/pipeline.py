"""The main path, on one page: check, run what is missing, track, analyse, report."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flatscale.cluster.launch import RunSummary, missing_trials, run_trials
from flatscale.cluster.mailbox import Listener
from flatscale.data import Points, points_key
from flatscale.errors import FlatscaleError, TrackingError
from flatscale.metrics import metric_catalog
from flatscale.preflight import say_what_is_clipped, study_points
from flatscale.store.atomic import write_atomically
from flatscale.store.records import TrialRecord
from flatscale.store.results import Store
from flatscale.store.status import StatusFile
from flatscale.study.plan import TrialSpec
from flatscale.study.plugin_code import code_of_all
from flatscale.study.redaction import without_password
from flatscale.study.schema import StudyConfig
from flatscale.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)

_EXPLAINED = (
    *("name", "formula", "meaning", "passes", "group", "unit", "invariances", "source"),
    *("bounds", "variant_of"),
)
_GO = "go\n"
# A driver that is gone closes the standard input without a word.
_WHEN_TOLD = (
    "import sys, flatscale.report; from flatscale.report.charts.draw import load_vega; "
    "from flatscale.cli.commands import main; load_vega(); sys.stdin.readline() and main()"
)
_LOADS = 10.0
"""Seconds ahead of the last record that the report's process is started; imports take about 5."""
_VERSIONED = ("flatscale", "torch", "ray", "mlflow", "timm", "polars", "scipy", "statsmodels")


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """What a run of a study left: how the trials ended, and the report's page if not stopped."""

    summary: RunSummary
    report: Path | None
    tracking: str | None
    tracking_problem: str | None


def run_study(
    config: StudyConfig,
    specs: Sequence[TrialSpec],
    store: Store,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    listeners: Sequence[Listener] = (),
) -> StudyOutcome:
    """Run what is missing of a study, then its statistics and report.

    Args:
        config: the study.
        specs: its trials, as `check_study` gave them.
        store: where its results are, or will be.
        address: a Ray cluster; this machine by default.
        tracking_uri: an MLflow tracking URI, instead of the study's own.
        listeners: told of every trial's start and end.

    Raises:
        FlatscaleError: what is wrong with the study, its data or the store, before work starts
            where that can be known.
    """
    config = config.model_copy(update={"plugin_code": code_of_all(specs)})
    # 1. The data, before the store exists: what cannot be run leaves nothing behind.
    data = study_points(config, specs)
    for key, points in data.items():
        say_what_is_clipped([s for s in specs if points_key(s) == key], points.dataset)
    problem = None
    with ExitStack() as stack:
        # 2. From here on this process alone writes the store; a refused run changes nothing in it.
        stack.enter_context(store.locked())
        store.prepare(config)
        store.remove_leftovers()
        _write_companions(config, store, list(data.values()))
        # 3. The trials; tracking hears from the store what is written, and delivers it meanwhile.
        tracker = None
        if config.tracking.enabled:
            wait = bool(missing_trials(store, specs))
            writer = TrackingWriter(store, config, tracking_uri, with_trials=wait)
            tracker = stack.enter_context(writer)
        reporter = stack.enter_context(_ReportProcess(store, specs))
        everyone: list[Listener] = [StatusFile(store), reporter, *listeners]
        if tracker is not None:
            everyone.append(tracker)
        summary = run_trials(config, specs, data, store, address=address, listeners=everyone)
        # 4. What is read from the store alone: tables, statistics, report.
        store.export(store.read([spec.trial_id for spec in specs]))
        report = None if summary.interrupted else reporter.write()
        # 5. Last, as a server may be slow or away: what it has not taken yet waits on the disk.
        if tracker is not None and summary.interrupted:
            told = tracker.stop()
            problem = None if told else "MLflow has not taken it that the run was stopped"
        elif tracker is not None:
            try:
                tracker.finish((store.report, store.trials_table, store.measurements_table))
            except TrackingError as error:
                waiting = f"{tracker.num_waiting()} records wait on disk"
                problem = f"{error}. {waiting}; run the same command again"
    return StudyOutcome(
        summary=summary,
        report=report,
        tracking=without_password(tracker.uri) if tracker else None,
        tracking_problem=problem,
    )


class _ReportProcess:
    """The process that writes the report, whose memory is not added to the driver's.

    It is started when the last trials run, or seconds before, imports what it needs while they do,
    and begins when the last record is written, while Tune and Ray end; a listener of the run, for
    it to know.
    """

    def __init__(self, store: Store, specs: Sequence[TrialSpec]) -> None:
        self._store = store
        self._all = self._left = len(missing_trials(store, specs))
        self._since = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        self._told = False

    def started(self, trial_id: str) -> None: ...

    def ended(self, record: TrialRecord) -> None:
        self._left -= 1
        if self._told:  # a record that came after the last one expected: all is read again
            self._end()
        of_one = (time.monotonic() - self._since) / (self._all - self._left)
        if self._left <= (os.cpu_count() or 1) or self._left * of_one <= _LOADS:
            process = self._begin()
            if self._left == 0:
                self._tell(process)

    def __enter__(self) -> _ReportProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def write(self) -> Path:
        """Have the report written.

        Raises:
            FlatscaleError: the report cannot be written.
        """
        process, store = self._begin(), self._store
        self._tell(process)
        _, said = process.communicate()
        if process.returncode:
            reason = said.strip().removeprefix("error:").strip()
            raise FlatscaleError(
                f"the report of {store.root} could not be written: {reason or process.returncode}. "
                "The results are safe; `flatscale report` writes it again"
            )
        if said:
            logger.warning("%s", said.strip())
        return store.report_page

    def _begin(self) -> subprocess.Popen[str]:
        if self._process is None:
            here = str(Path(__file__).resolve().parents[1])
            known = os.environ.get("PYTHONPATH")
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WHEN_TOLD, "report", str(self._store.root)],
                env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{known}" if known else here},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        return self._process

    def _tell(self, process: subprocess.Popen[str]) -> None:
        if not self._told and process.stdin is not None:
            self._told = True
            with suppress(BrokenPipeError):  # it has ended, and `write` says why
                process.stdin.write(_GO)
                process.stdin.flush()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._told = None, False


def _write_companions(config: StudyConfig, store: Store, data: Sequence[Points]) -> None:
    """What the report needs to know and cannot import: the glossary and the provenance."""
    glossary = [
        {"range": info.value_range, **{key: getattr(info, key) for key in _EXPLAINED}}
        for info in metric_catalog()
    ]
    provenance = {
        "study": config.name,
        "config hash": config.content_hash,
        "seed": str(config.seed),
        "dataset": _listed(points.dataset.name for points in data),
        "dataset hash": _listed(points.dataset.content_hash for points in data),
        "probe hash": _listed(points.content_hashes["probe"] for points in data),
        "probe size": _listed(len(points.point_sets["probe"][1]) for points in data),
        "python": platform.python_version(),
        "platform": platform.system(),
        **{name: known for name in _VERSIONED if (known := _installed(name))},
    }
    for path, content in ((store.glossary, glossary), (store.provenance, provenance)):
        write_atomically(path, json.dumps(content, indent=1).encode())


def _installed(library: str) -> str | None:
    """The version of a library; None where a study can do without it, and it is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _listed(values: Iterable[object]) -> str:
    """Each value once, with semicolons between."""
    return "; ".join(dict.fromkeys(map(str, values)))
