"""Where trials leave what the driver must know, and the thread of the driver that writes it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import ray

from flatscale.cluster.running_loss import Running
from flatscale.store.earlier_records import EarlierRecords, earlier_records
from flatscale.store.records import TrialRecord
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec

Message = str | Running | TrialRecord
"""The id of a trial that has started, the losses of one that trains, or the record of one that has
ended."""


class _Mailbox:
    """Holds messages until the driver takes them, and records until it has written them.

    A trial's `post` returns only when the driver acknowledges the record, so a trial never counts
    as done before its record is on the disk. If this actor dies, Ray starts it again and repeats
    the pending calls; a record posted twice is written twice with the same content.

    Args:
        root: the store's folder.
        earlier: by trial, the store's records of the same network.
    """

    def __init__(self, root: str, earlier: Mapping[str, tuple[str, ...]]) -> None:
        self._root, self._earlier = root, earlier
        self._fresh: list[Message] = []
        self._written: dict[str, asyncio.Event] = {}
        self._arrived = asyncio.Event()
        self._closed = False
        self._at_work: dict[str, Any] = {}

    async def announce(self, trial_id: str, actor: Any) -> EarlierRecords:
        self._at_work[trial_id] = actor
        self._put(trial_id)
        return EarlierRecords(root=self._root, trial_ids=self._earlier.get(trial_id, ()))

    async def end_trials(self) -> None:
        """End the processes of the trials that have begun and not ended."""
        for actor in self._at_work.values():
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)

    async def post(self, record: TrialRecord) -> None:
        self._at_work.pop(record.trial_id, None)
        if self._closed:
            return
        written = self._written.setdefault(record.trial_id, asyncio.Event())
        self._put(record)
        await written.wait()

    async def report(self, running: Running) -> None:
        if not self._closed:
            self._put(running)

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


def make_mailbox(store: Store, specs: Iterable[TrialSpec]) -> Any:
    """Start the mailbox of the trials that will run; it reserves no CPU."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Mailbox)
    return actor.remote(str(store.root), earlier_records(store, specs))


class Listener(Protocol):
    """Told what happens, for a progress line; called from the writer's thread."""

    def started(self, trial_id: str) -> None: ...

    def ended(self, record: TrialRecord) -> None: ...


@runtime_checkable
class LossListener(Listener, Protocol):
    """Also told the losses of trials that train."""

    def trains(self, record: TrialRecord) -> None: ...


class RecordWriter:
    """The thread that takes records out of the mailbox; it alone writes them to the store.

    Args:
        mailbox: what `make_mailbox` returned.
        store: where records go.
        listeners: told of every start and end.

    Attributes:
        error: what ended the thread, to be raised once Tune has ended.
        on_error: called then, to let Tune end.
        written: ids of the trials whose records were written.
        attempts: how often each trial was started.
    """

    def __init__(self, mailbox: Any, store: Store, listeners: Sequence[Listener]) -> None:
        self.error: BaseException | None = None
        self.on_error: Callable[[], None] = lambda: None
        self.written: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self._mailbox = mailbox
        self._store = store
        self._listeners = listeners
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results writer", daemon=True)

    def __enter__(self) -> RecordWriter:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._mailbox.wake.remote()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._drain()
        except BaseException as error:
            self.error = error
            self.on_error()
            # Tune looks up when a trial ends, and trials would wait for this thread.
            self._mailbox.close.remote()

    def _drain(self) -> None:
        acknowledged: list[str] = []
        while True:
            stopping = self._stop.is_set()
            messages = ray.get(self._mailbox.take.remote(acknowledged, 0.0 if stopping else 0.5))
            acknowledged = []
            for message in messages:
                if isinstance(message, TrialRecord):
                    self.write(message)
                    acknowledged.append(message.trial_id)
                    continue
                if isinstance(message, Running):
                    self._tell_losses(message.record)
                    continue
                self.attempts[message] += 1
                for listener in self._listeners:
                    listener.started(message)
            if stopping and not messages:
                return

    def _tell_losses(self, record: TrialRecord) -> None:
        for listener in self._listeners:
            # What a killed mailbox repeats may come after the trial's end.
            if isinstance(listener, LossListener) and record.trial_id not in self.written:
                listener.trains(record)

    def num_running(self) -> int:
        """Trials that have begun and not ended."""
        return len(self.attempts.keys() - self.written)

    def write(self, record: TrialRecord) -> None:
        """Write a record with the number of its attempts, and tell the listeners."""
        record = replace(record, num_attempts=max(1, self.attempts[record.trial_id]))
        self._store.write(record)
        self.written.add(record.trial_id)
        for listener in self._listeners:
            listener.ended(record)
