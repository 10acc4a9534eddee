"""How a study is going, for whoever looks from another terminal."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass

from flatscale.store.atomic import write_atomically
from flatscale.store.journal import num_waiting
from flatscale.store.records import DIVERGED, FAILED, SETTLED, TrialRecord
from flatscale.store.results import Store
from flatscale.study.plan import plan


class StatusFile:
    """Keeps the store's status file up to date while a run goes on; a listener of the run.

    Args:
        store: the study's store, prepared.
    """

    def __init__(self, store: Store) -> None:
        self._path = store.status_file
        self._began = time.time()
        self._running: dict[str, float] = {}
        self._num_ended = 0
        self._write()

    def started(self, trial_id: str) -> None:
        self._running[trial_id] = time.time()
        self._write()

    def ended(self, record: TrialRecord) -> None:
        self._running.pop(record.trial_id, None)
        self._num_ended += 1
        self._write()

    def _write(self) -> None:
        content = {
            "began": self._began,
            "updated": time.time(),
            "num_ended": self._num_ended,
            "running": self._running,
        }
        write_atomically(self._path, json.dumps(content).encode())


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How a study stands."""

    num_planned: int
    """Trials of the study file in the store."""
    counts: Counter[str]
    """Planned trials by status; those without a record are `missing`."""
    alive: bool
    """Whether a driver holds the store now."""
    running: tuple[str, ...]
    """Ids of the trials running now."""
    reasons: tuple[tuple[str, str, int], ...]
    """Status, reason and number of trials of everything diverged or failed."""
    num_retried: int
    """Trials that ended after more than one attempt."""
    trials_per_minute: float | None
    """Over the current or last run; None before its first trial ended."""
    minutes_left: float | None
    """At that rate; None without one or when no driver runs."""
    num_waiting_for_tracking: int
    """Records that MLflow has not taken yet."""


def study_status(store: Store) -> StudyStatus:
    """Read how a study stands, from its store alone.

    Raises:
        StoreError: this is not a store, or a record in it is damaged.
    """
    specs = plan(store.read_study())
    rows = {row["trial_id"]: row for row in store.endings()}
    ended = [rows[spec.trial_id] for spec in specs if spec.trial_id in rows]
    counts = Counter(row["status"] for row in ended)
    if len(ended) < len(specs):
        counts["missing"] = len(specs) - len(ended)
    reasons = Counter(
        (row["status"], row["reason"] or "no reason given")
        for row in ended
        if row["status"] in (DIVERGED, FAILED)
    )
    alive = store.is_locked()
    path = store.status_file
    last = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    rate = None
    if last is not None and last["num_ended"]:
        rate = last["num_ended"] / max(last["updated"] - last["began"], 1e-9) * 60
    num_left = len(specs) - sum(counts[status] for status in SETTLED)
    return StudyStatus(
        num_planned=len(specs),
        counts=counts,
        alive=alive,
        running=tuple(last["running"]) if alive and last is not None else (),
        reasons=tuple((s, reason, n) for (s, reason), n in reasons.most_common()),
        num_retried=sum(row["num_attempts"] > 1 for row in ended),
        trials_per_minute=rate,
        minutes_left=num_left / rate if alive and rate else None,
        num_waiting_for_tracking=num_waiting(store),
    )
