"""The processes of a Ray that serves one run on one machine, and nobody else.

Ray has no settings for what follows, so its own parts are replaced while it starts: the class of
its node, and the way it starts processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray._private.node
import ray._private.services
from ray._private.parameter import RayParams

from flatscale.cluster.worker_request import SOCKET


class OwnNode(ray._private.node.Node):
    """A node without the page, the autoscaler and the reader of logs, which nobody asks anything.

    Each is a Python process of its own, that takes one to three seconds of a core to start.
    """

    def __init__(self, ray_params: RayParams, **others: Any) -> None:
        ray_params.no_monitor = True
        ray_params.include_log_monitor = False  # type: ignore[assignment]
        ray_params.worker_path = str(Path(__file__).with_name("worker_request.py"))
        super().__init__(ray_params, **others)

    def start_api_server(self, **_: Any) -> None:
        """Start no page."""


@contextmanager
def own_node(workers: str) -> Iterator[None]:
    """A Ray that `ray.init` starts in here has the processes that a run needs, in their own group.

    A signal to this process's group, as `timeout` and schedulers send it, is for this process to
    answer: without its Ray it would wait a minute for it.

    Args:
        workers: the socket at which `prepared_workers` listens.
    """
    services = ray._private.services
    grouped = partial(services.ConsolePopen, process_group=0)
    with ExitStack() as stack:
        stack.enter_context(_replaced(ray._private.node, "Node", OwnNode))
        stack.enter_context(_replaced(services, "ConsolePopen", grouped))
        known = os.environ.get(SOCKET)
        os.environ[SOCKET] = workers
        try:
            yield
        finally:
            os.environ.pop(SOCKET)
            if known is not None:
                os.environ[SOCKET] = known


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
