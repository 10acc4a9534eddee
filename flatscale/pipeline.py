"""The main path, on one page: check, run what is missing, track, analyse, report."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flatscale.cluster.launch import Listener, RunSummary, run_trials
from flatscale.data import Points, load_points
from flatscale.errors import FlatscaleError, TrackingError
from flatscale.metrics import metric_catalog
from flatscale.preflight import check_networks, check_study
from flatscale.store.atomic import write_atomically
from flatscale.store.results import Store
from flatscale.store.status import StatusFile
from flatscale.study.redaction import without_password
from flatscale.study.schema import StudyConfig
from flatscale.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)

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
    store: Store,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    listeners: Sequence[Listener] = (),
) -> StudyOutcome:
    """Run what is missing of a study, then its statistics and report.

    Args:
        config: the study.
        store: where its results are, or will be.
        address: a Ray cluster; this machine by default.
        tracking_uri: an MLflow tracking URI, instead of the study's own.
        listeners: told of every trial's start and end.

    Raises:
        FlatscaleError: what is wrong with the study, its data or the store, before work starts
            where that can be known.
    """
    specs = check_study(config)
    points = load_points(config)
    check_networks(config, points.dataset)
    store.prepare(config)
    problem = None
    with ExitStack() as stack:
        stack.enter_context(store.locked())
        store.remove_leftovers()
        _write_companions(config, store, points)
        tracker = None
        if config.tracking.enabled:
            tracker = stack.enter_context(TrackingWriter(store, config, tracking_uri))
        everyone = (StatusFile(store), *listeners)
        summary = run_trials(config, specs, points, store, address=address, listeners=everyone)
        store.export(store.read([spec.trial_id for spec in specs]))
        report = None if summary.interrupted else _write_report(store)
        if tracker is not None:
            problem = _finish_tracking(tracker, store)
    return StudyOutcome(
        summary=summary,
        report=report,
        tracking=without_password(tracker.uri) if tracker else None,
        tracking_problem=problem,
    )


def _write_report(store: Store) -> Path:
    """Have the report written by a process of its own, whose memory is not added to the driver's.

    Raises:
        FlatscaleError: the report cannot be written.
    """
    here = str(Path(__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-m", "flatscale", "report", str(store.root)],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{known}" if known else here},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().removeprefix("error:").strip()
        raise FlatscaleError(
            f"the report of {store.root} could not be written: {reason or done.returncode}. The "
            "results are safe; `flatscale report` writes it again"
        )
    if done.stderr:
        logger.warning("%s", done.stderr.strip())
    return store.report / "report.html"


def _finish_tracking(tracker: TrackingWriter, store: Store) -> str | None:
    try:
        tracker.finish(
            (
                store.report,
                store.root / "trials.parquet",
                store.root / "measurements.parquet",
            )
        )
    except TrackingError as error:
        return f"{error}. {tracker.num_waiting()} records wait on disk; run the same command again"
    return None


def _write_companions(config: StudyConfig, store: Store, points: Points) -> None:
    """What the report needs to know and cannot import: the glossary and the provenance."""
    glossary = [
        {
            "name": info.name,
            "formula": info.formula,
            "meaning": info.meaning,
            "passes": list(info.passes),
            "group": info.group,
            "unit": info.unit,
            "range": info.value_range,
            "invariances": list(info.invariances),
            "source": info.source,
        }
        for info in metric_catalog()
    ]
    provenance = {
        "study": config.name,
        "config hash": config.content_hash,
        "seed": str(config.seed),
        "dataset": points.dataset.name,
        "dataset hash": points.dataset.content_hash,
        "probe hash": points.content_hashes["probe"],
        "probe size": str(len(points.point_sets["probe"][1])),
        "python": platform.python_version(),
        "platform": platform.system(),
        **{name: version(name) for name in _VERSIONED},
    }
    _write_json(store.root / "glossary.json", glossary)
    _write_json(store.root / "provenance.json", provenance)


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())
