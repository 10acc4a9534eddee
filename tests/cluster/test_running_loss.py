"""The losses of a trial that trains: sent now and then, never waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flatscale.cluster import running_loss
from flatscale.cluster.mailbox import LossListener, RecordWriter
from flatscale.cluster.running_loss import LossSender, Running
from flatscale.models import build_model
from flatscale.store.records import TrialRecord
from flatscale.study.plan import plan
from flatscale.study.schema import TrainingConfig
from flatscale.training import train
from tests.records_by_hand import record, study

RECORD = record(plan(study())[0], history=(), snapshots=())


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.answered, self.sent = 0.0, True, list[Running]()
        self.mailbox: Any = SimpleNamespace(report=SimpleNamespace(remote=self._report))
        monkeypatch.setattr(running_loss, "perf_counter", lambda: self.now)
        monkeypatch.setattr(running_loss.ray, "wait", self._wait)

    def _report(self, running: Running) -> str:
        self.sent.append(running)
        return "reference"

    def _wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout == 0
        return (references, []) if self.answered else ([], references)


def test_messages_grow_with_the_logarithm_of_time_and_lose_no_late_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    send = LossSender(clock.mailbox, RECORD)
    for step in range(100_000):
        clock.now += 0.1
        send(step, 1 / (1 + step))
    # Two seconds apart at first, then a twentieth of the time: 20 messages, then 20 ln(10,000/40).
    assert 100 < len(clock.sent) < 160
    histories = [running.record.history for running in clock.sent]
    assert max(map(len, histories)) <= 50
    assert all(step == round(1 / loss) - 1 for points in histories for step, loss in points)
    steps = [step for points in histories for step, _ in points]
    assert steps == sorted(set(steps))
    assert [points[-1][0] for points in histories[:3]] == pytest.approx([19, 39, 59], abs=2)


def test_nothing_is_sent_while_the_last_message_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    send = LossSender(clock.mailbox, RECORD)
    clock.now = 3.0
    send(1, 0.5)
    clock.answered = False
    for step in range(2, 100):
        clock.now += 1
        send(step, 0.5)
    assert len(clock.sent) == 1
    clock.answered = True
    clock.now += 10
    send(100, 0.5)
    assert clock.sent[1].record.history[-1] == (100, 0.5)


def test_training_tells_every_whole_evaluation() -> None:
    told: list[tuple[int, float]] = []
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 1, 4, 4, generator=generator), torch.arange(20) % 2
    result = train(
        build_model("mlp", (1, 4, 4), 2, {"width": 4}, seed=0),
        *(x, y, TrainingConfig(stop_loss=None, max_steps=9, evaluate_every=2)),
        learning_rate=0.1,
        batch_size=5,
        seed=0,
        on_loss=lambda step, loss: told.append((step, loss)),
    )
    assert tuple(told) == result.history
    assert [step for step, _ in told] == [0, 2, 4, 6, 8, 9]


def test_losses_reach_who_listens_to_them_until_the_record_is_written() -> None:
    heard: list[TrialRecord] = []

    class Listening:
        def started(self, trial_id: str) -> None: ...

        def ended(self, record: TrialRecord) -> None: ...

        def trains(self, record: TrialRecord) -> None:
            heard.append(record)

    class Deaf:
        def started(self, trial_id: str) -> None: ...

        def ended(self, record: TrialRecord) -> None: ...

    store: Any = SimpleNamespace(write=lambda record: None)
    writer = RecordWriter(None, store, [Deaf(), Listening()])
    assert isinstance(Listening(), LossListener)
    assert not isinstance(Deaf(), LossListener)
    writer._tell_losses(RECORD)
    writer.write(RECORD)
    writer._tell_losses(RECORD)
    assert heard == [RECORD]
