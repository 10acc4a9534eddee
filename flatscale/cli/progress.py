"""The line that shows how a run is going: done, running, failed, time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flatscale.store.records import DIVERGED, FAILED, SETTLED, TrialRecord
from flatscale.store.results import Store

_SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
    """A live progress bar on a terminal; elsewhere (a log file, a job) a line now and then.

    Args:
        console: where to write.
        store: the study's store, for what earlier runs left.
        trial_ids: the planned trials.
    """

    def __init__(self, console: Console, store: Store, trial_ids: Sequence[str]) -> None:
        statuses = store.statuses()
        self._ended = {t: s for t in trial_ids if (s := statuses.get(t)) in SETTLED}
        self._num_kept = len(self._ended)
        self._num_planned = len(trial_ids)
        self._running: set[str] = set()
        self._began = time.monotonic()
        self._last_line = 0.0
        self._console = console
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("trials", total=self._num_planned, detail="starting")

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def started(self, trial_id: str) -> None:
        self._running.add(trial_id)
        self._show()

    def ended(self, record: TrialRecord) -> None:
        self._running.discard(record.trial_id)
        self._ended[record.trial_id] = record.status
        if record.status == FAILED:
            self._console.print(f"trial {record.trial_id} failed: {record.reason}", markup=False)
        self._show()

    def _show(self) -> None:
        detail = self._detail()
        self._bar.update(self._task, completed=len(self._ended), detail=detail)
        now = time.monotonic()
        last = len(self._ended) == self._num_planned
        if self._bar.disable and (last or now - self._last_line > _SECONDS_BETWEEN_LINES):
            self._last_line = now
            self._console.print(f"{len(self._ended)}/{self._num_planned} trials, {detail}")

    def _detail(self) -> str:
        counts = Counter(self._ended.values())
        parts = [f"{len(self._running)} running"]
        parts += [f"{counts[s]} {s}" for s in (DIVERGED, FAILED) if counts[s]]
        here = len(self._ended) - self._num_kept
        if here:
            num_left = self._num_planned - len(self._ended)
            seconds = (time.monotonic() - self._began) / here * num_left
            parts.append(f"about {_duration(seconds)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
