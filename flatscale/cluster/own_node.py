"""The processes of a Ray that serves one run on one machine, and nobody else.

Ray has no settings for what follows, so its own parts are replaced while it starts: the class of
its node, and the way it starts processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import ray._private.node
import ray._private.services
from ray._private.parameter import RayParams
from ray._private.services import ConsolePopen, get_node
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from flatscale.cluster.worker_request import SOCKET

_AGENT = "--dashboard_agent_command="
_LATE = 30.0
"""Seconds after which it is for Ray to say that a node has not registered."""


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


def _start(command: list[str], *arguments: Any, **others: Any) -> Any:
    """A process of Ray's in a group of its own; a raylet's agent of the page is an idle one."""
    # The command is one string, which the raylet splits: each path is in it as Ray would write it.
    agent = list2cmdline([str(Path(ray.__file__).with_name("dashboard") / "agent.py")])
    idle = list2cmdline([str(Path(__file__).with_name("idle_agent.py"))])
    command = [part.replace(agent, idle) if part.startswith(_AGENT) else part for part in command]
    return ConsolePopen(command, *arguments, process_group=0, **others)


def _node_once_there(address: str, node_id: str) -> Any:
    """What Ray knows of a node, which it would ask for once a second until it has registered."""
    accessor = GcsClient(address=address)
    deadline = time.monotonic() + _LATE
    while time.monotonic() < deadline:
        if any(known.hex() == node_id for known in accessor.get_all_node_info()):
            break
        time.sleep(0.02)
    return get_node(address, node_id)


@contextmanager
def own_node(workers: str) -> Iterator[None]:
    """A Ray that `ray.init` starts in here has the processes that a run needs, in their own group.

    A signal to this process's group, as `timeout` and schedulers send it, is for this process to
    answer: without its Ray it would wait a minute for it.

    Args:
        workers: the socket at which `prepared_workers` listens.
    """
    services = ray._private.services
    with ExitStack() as stack:
        stack.enter_context(_replaced(ray._private.node, "Node", OwnNode))
        stack.enter_context(_replaced(services, "ConsolePopen", _start))
        stack.enter_context(_replaced(services, "get_node", _node_once_there))
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
