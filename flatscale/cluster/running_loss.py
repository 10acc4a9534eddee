"""The losses of a trial while it trains, sent to the driver now and then; training never waits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import ray

from flatscale.store.records import TrialRecord

_SECONDS_BETWEEN = 2.0
_SHARE_BETWEEN = 0.05
_MOST_POINTS = 50


@dataclass(frozen=True, kw_only=True)
class Running:
    """What is known of a trial that trains; its history is what is new since the last time."""

    record: TrialRecord


class LossSender:
    """Called with every evaluated loss of a trial; sends those that are new to the mailbox.

    A trial is heard of every two seconds at most, and seldomer the longer it trains: after a
    twentieth of its time so far. While the mailbox has not taken what was sent last, nothing is
    sent.

    Args:
        mailbox: of the study.
        record: what is known of the trial.
    """

    def __init__(self, mailbox: Any, record: TrialRecord) -> None:
        self._mailbox, self._record = mailbox, record
        self._began = self._last = perf_counter()
        self._new: list[tuple[int, float]] = []
        self._sent: Any = None

    def __call__(self, step: int, loss: float) -> None:
        self._new.append((step, loss))
        now = perf_counter()
        if now - self._last < max(_SECONDS_BETWEEN, _SHARE_BETWEEN * (now - self._began)):
            return
        if self._sent is not None and not ray.wait([self._sent], timeout=0)[0]:
            return
        every = -(-len(self._new) // _MOST_POINTS)
        points = tuple(self._new[::-every][::-1])
        self._sent = self._mailbox.report.remote(
            Running(record=replace(self._record, history=points))
        )
        self._new, self._last = [], now
