"""Ctrl-C, and SIGTERM as schedulers send it: the run ends in good order, within seconds."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

_PATIENCE = 5.0


class Interruption:
    """While it is entered, the first signal ends the trials that run; a later one ends at once.

    The end in good order takes about three seconds; signals that come within five change nothing.

    Tune would wait for running trials for up to ten minutes. It also listens to SIGUSR1, as it did
    to SIGINT: so it is told to stop, and then the trials are ended under its hands. A signal that
    comes while Tune is not at work is a KeyboardInterrupt.

    Attributes:
        asked: there was a first signal.
    """

    def __init__(self) -> None:
        self.asked = False
        self._tuning: tuple[Callable[[], int], Callable[[], object]] | None = None
        self._patient_until = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = self._listen()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def during_tune(
        self, num_running: Callable[[], int], end_trials: Callable[[], object]
    ) -> Iterator[None]:
        """Tune is at work inside.

        Args:
            num_running: how many trials run.
            end_trials: ends their processes.
        """
        self._listen()  # Ray has put a handler of its own in place when it was started
        self._tuning = num_running, end_trials
        try:
            yield
        finally:
            self._tuning = None

    def stop_tune(self) -> None:
        """Let Tune end, and the trials that it runs; from any thread."""
        if self._tuning is not None and callable(signal.getsignal(signal.SIGUSR1)):
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            os.kill(os.getpid(), signal.SIGUSR1)
            threading.Thread(target=self._tuning[1], daemon=True).start()

    def _listen(self) -> dict[int, Any]:
        """Take the signals; who had them before. Only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, *_: object) -> None:
        if self.asked and time.monotonic() < self._patient_until:
            return
        if self.asked or self._tuning is None or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        self.asked = True
        self._patient_until = time.monotonic() + _PATIENCE
        logger.warning(
            "stopping: %d running trials end now, and start again with the next run; waiting for "
            "Ray and MLflow to end. Ctrl-C after %.0f s leaves at once",
            self._tuning[0](),
            _PATIENCE,
        )
        self.stop_tune()
