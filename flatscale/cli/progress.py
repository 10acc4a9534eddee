"""What the terminal shows while a run goes on: what runs, what has ended, the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from flatscale.store.records import DIVERGED, FAILED, SETTLED, TrialRecord
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec

_SECONDS_BETWEEN_LINES = 10.0
_MOST_SHOWN = 8
"""Running trials named below the bar."""


def waiting_for(console: Console, what: str) -> AbstractContextManager[object]:
    """A line with a clock while something without steps is computed; nothing off a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    line = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    line.add_task(what, total=None)
    return line


class ProgressLine:
    """A live progress bar on a terminal; elsewhere (a log file, a job) a line now and then.

    Args:
        console: where to write.
        store: the study's store, for what earlier runs left.
        specs: the planned trials.
    """

    def __init__(self, console: Console, store: Store, specs: Sequence[TrialSpec]) -> None:
        statuses = store.statuses()
        self._specs = {spec.trial_id: spec for spec in specs}
        self._ended = {t: s for t in self._specs if (s := statuses.get(t)) in SETTLED}
        self._num_kept = len(self._ended)
        self._running: dict[str, float] = {}
        self._began = self._last_ended = time.monotonic()
        self._last_line = 0.0
        self._console = console
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Now(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "trials", total=len(self._specs), completed=len(self._ended)
        )

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def started(self, trial_id: str) -> None:
        if not self._running and len(self._ended) == self._num_kept:
            # What passed before was Ray's start.
            self._began = self._last_ended = time.monotonic()
        self._running[trial_id] = time.monotonic()
        # The first trials start one after the other: one line for them.
        self._show(now=len(self._running) > 1)

    def ended(self, record: TrialRecord) -> None:
        self._running.pop(record.trial_id, None)
        self._ended[record.trial_id] = record.status
        self._last_ended = time.monotonic()
        if record.status == FAILED:
            self._console.print(f"trial {record.trial_id} failed: {record.reason}", markup=False)
        self._show()

    def detail(self) -> str:
        """How it goes at this moment."""
        if len(self._ended) == len(self._specs):
            return "statistics and report"
        if not self._running and len(self._ended) == self._num_kept:
            return "data, Ray and networks are made ready"
        counts = Counter(self._ended.values())
        parts = [f"{len(self._running)} running"]
        parts += [f"{counts[s]} {s}" for s in (DIVERGED, FAILED) if counts[s]]
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """At the rate of the trials that ended in this run, less what has passed since the last."""
        here = len(self._ended) - self._num_kept
        if not here:
            return None
        a_trial = (self._last_ended - self._began) / here
        left = a_trial * (len(self._specs) - len(self._ended))
        return max(0.0, left - (time.monotonic() - self._last_ended))

    def running(self) -> list[str]:
        """A line for each of the trials that run now, those of longest first."""
        now, known = time.monotonic(), list(self._running.items())
        lines = [
            f"  {_named(self._specs[trial_id])}  {_duration(now - began)}"
            for trial_id, began in known[:_MOST_SHOWN]
        ]
        return [
            *lines,
            *([f"  and {len(known) - _MOST_SHOWN} more"] if known[_MOST_SHOWN:] else []),
        ]

    def _show(self, now: bool = True) -> None:
        self._bar.update(self._task, completed=len(self._ended))
        last = len(self._ended) == len(self._specs)
        late = time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES
        if self._bar.disable and (last or (now and late)):
            self._last_line = time.monotonic()
            self._console.print(f"{len(self._ended)}/{len(self._specs)} trials, {self.detail()}")


class _Now(ProgressColumn):
    """What changes without an event: the time left, and how long each trial has run."""

    max_refresh = 0.5

    def __init__(self, line: ProgressLine) -> None:
        super().__init__()
        self._line = line

    def render(self, task: Task) -> Text:
        return Text("\n".join([self._line.detail(), *self._line.running()]))


def _named(spec: TrialSpec) -> str:
    return (
        f"{spec.family or spec.architecture}  lr {spec.learning_rate:g}  batch {spec.batch_size}  "
        f"seed {spec.seed_index}"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
