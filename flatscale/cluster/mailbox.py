"""Where trials leave what the driver must know, and wait until it has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from flatscale.store.records import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Message:
    """A trial has started (`record` is None) or ended."""

    trial_id: str
    record: TrialRecord | None = None


class _Mailbox:
    """Holds messages until the driver takes them, and records until it has written them.

    A trial's `post` returns only when the driver acknowledges the record, so a trial never counts
    as done before its record is on the disk. If this actor dies, Ray starts it again and repeats
    the pending calls; a record posted twice is written twice with the same content.
    """

    def __init__(self) -> None:
        self._fresh: list[Message] = []
        self._written: dict[str, asyncio.Event] = {}
        self._arrived = asyncio.Event()
        self._closed = False

    async def announce(self, trial_id: str) -> None:
        self._put(Message(trial_id=trial_id))

    async def post(self, record: TrialRecord) -> None:
        if self._closed:
            return
        written = self._written.setdefault(record.trial_id, asyncio.Event())
        self._put(Message(trial_id=record.trial_id, record=record))
        await written.wait()

    async def take(self, acknowledged: Iterable[str], timeout: float) -> list[Message]:
        for trial_id in acknowledged:
            event = self._written.pop(trial_id, None)
            if event is not None:
                event.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), timeout)
        messages, self._fresh = self._fresh, []
        self._arrived.clear()
        return messages

    async def wake(self) -> None:
        """Let `take` return with what there is."""
        self._arrived.set()

    async def close(self) -> None:
        """Let the trials go that wait, and those to come: nobody takes their records any more."""
        self._closed = True
        for event in self._written.values():
            event.set()

    def _put(self, message: Message) -> None:
        self._fresh.append(message)
        self._arrived.set()


def make_mailbox() -> Any:
    """Start the study's mailbox; it reserves no CPU."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Mailbox)
    return actor.remote()
