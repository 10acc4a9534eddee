"""When the first Ctrl-C of a run takes effect, and what later ones do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flatscale.cluster import interruption as module
from flatscale.cluster.interruption import Interruption


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two operations of this thread


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_waits_for_a_safe_point(number: int) -> None:
    with Interruption() as interruption:
        interruption.stop_if_asked()  # nothing was asked
        press(number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            interruption.stop_if_asked()
        with pytest.raises(KeyboardInterrupt), interruption.during_tune(lambda: 0, print):
            pytest.fail("Tune must not be started")


def test_a_signal_where_what_is_raised_is_swallowed_is_not_lost() -> None:
    lock = threading.Lock()

    class Swallows:
        def __del__(self) -> None:
            lock.acquire()
            press()
            lock.release()

    with Interruption() as interruption:
        held = Swallows()
        del held
        assert not lock.locked()
        assert interruption.asked


def test_a_second_signal_is_patient_and_then_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    with Interruption():
        press()
        press()
        time.sleep(0.35)
        with pytest.raises(KeyboardInterrupt):
            press()


def test_tune_is_told_when_it_listens_and_until_it_has_ended(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.02)
    ended: list[str] = []
    told: list[int] = []
    with Interruption() as interruption:
        with interruption.during_tune(lambda: 2, lambda: ended.append("trials")):
            press()  # Tune is being set up: it does not listen yet
            time.sleep(0.1)
            assert not ended
            signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
            wait_until(lambda: len(ended) >= 2 and len(told) >= 2)
        time.sleep(0.05)
        before = len(told)
        time.sleep(0.1)
        assert len(told) == before
        assert "2 running trials end now" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            interruption.stop_if_asked()


def test_a_store_that_cannot_be_written_ends_tune_without_a_signal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []
    with Interruption() as interruption:
        with interruption.during_tune(lambda: 2, lambda: ended.append("trials")):
            signal.signal(signal.SIGUSR1, lambda *_: None)
            threading.Thread(target=interruption.stop_tune).start()
            wait_until(lambda: bool(ended))
        assert not interruption.asked
        assert "stopping" not in caplog.text


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
