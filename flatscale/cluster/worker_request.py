"""What a Ray of our own starts as a worker: asks the process of `worker_forks` for a copy of it.

Run as a script, in place of Ray's `default_worker.py` and with its arguments. It imports nothing of
Ray's, so that it takes some hundredths of a second. Where nobody answers, it becomes the worker
that Ray would have started.
"""

import importlib.util
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

SOCKET = "FLATSCALE_WORKER_FORKS"
"""The environment variable with the path of the socket."""


def become_worker(arguments: list[str]) -> None:
    """Run Ray's own worker in this process."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    script = Path(str(ray.origin)).with_name("_private") / "workers" / "default_worker.py"
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def _is_forked() -> bool:
    """Whether a copy of the prepared process has taken this worker's place."""
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "niceness": os.nice(0),
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    }
    with suppress(KeyError, OSError, ValueError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        with connection.makefile("rwb") as stream:
            socket.send_fds(connection, [b"+"], [0, 1, 2])
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            return int(stream.readline()) > 0
    return False


if __name__ == "__main__" and not _is_forked():
    become_worker(sys.argv[1:])
