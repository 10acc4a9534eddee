"""Ctrl-C, and SIGTERM as schedulers send it: the run ends in good order, within seconds."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)

_PATIENCE = 5.0
_AGAIN = 0.5


class Interruption:
    """While it is entered, the first signal asks the run to end; a later one ends it at once.

    The end in good order takes about three seconds; signals that come within five change nothing.

    A signal may come at any point of the program, also where a library holds a lock and swallows
    what is raised (logging's hooks around a fork do). So the first one raises nothing: it is noted,
    and the run ends at its next safe point.

    Tune would wait for running trials for up to ten minutes. It also listens to SIGUSR1, as it did
    to SIGINT: so it is told to stop, and then the trials are ended under its hands.

    Attributes:
        asked: there was a signal.
    """

    def __init__(self) -> None:
        self.asked = False
        self._tuning: tuple[Callable[[], int], Callable[[], object]] | None = None
        self._patient_until = 0.0
        self._before: dict[int, Any] = {}
        # A handler of signals may put into this kind of queue, and may not take a lock.
        self._orders = SimpleQueue[str]()

    def __enter__(self) -> Interruption:
        self._before = self._listen()
        threading.Thread(target=self._carry_out, name="interruption", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._orders.put("nothing more")
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop_if_asked(self) -> None:
        """A safe point, from which on signals are heard again if a library took them.

        Raises:
            KeyboardInterrupt: there was a signal.
        """
        self._listen()
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def during_tune(
        self, num_running: Callable[[], int], end_trials: Callable[[], object]
    ) -> Iterator[None]:
        """Tune is at work inside.

        Args:
            num_running: how many trials run.
            end_trials: ends their processes.

        Raises:
            KeyboardInterrupt: there was a signal before.
        """
        self.stop_if_asked()
        self._tuning = num_running, end_trials
        try:
            yield
        finally:
            self._tuning = None

    def stop_tune(self) -> None:
        """Let Tune end, and the trials that it runs; from any thread."""
        self._orders.put("stop")

    def _listen(self) -> dict[int, Any]:
        """Take the signals; who had them before. Only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, *_: object) -> None:
        if not self.asked:
            self._patient_until = time.monotonic() + _PATIENCE
            self.asked = True
            self._orders.put("say and stop")
        elif time.monotonic() > self._patient_until:
            raise KeyboardInterrupt

    def _carry_out(self) -> None:
        """A thread: what a handler of signals must not do itself."""
        while (order := self._orders.get()) != "nothing more":
            tuning = self._tuning
            if order == "say and stop":
                logger.warning(
                    "stopping: %s; waiting for Ray and MLflow to end. Ctrl-C after %.0f s leaves "
                    "at once",
                    f"{tuning[0]()} running trials end now, and start again with the next run"
                    if tuning
                    else "no trial runs",
                    _PATIENCE,
                )
            self._end_tune()

    def _end_tune(self) -> None:
        """Until Tune has ended: it may not listen yet, or be about to start once more."""
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        while (tuning := self._tuning) is not None:
            if callable(signal.getsignal(signal.SIGUSR1)):
                os.kill(os.getpid(), signal.SIGUSR1)
                tuning[1]()
            time.sleep(_AGAIN)
