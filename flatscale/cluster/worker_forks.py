"""A process that has imported what workers use, and is copied for each worker of our own Ray.

Each of the five or more workers of a run would otherwise spend seconds importing torch, Ray and
flatscale. The process imports while Ray starts, never computes anything (a copy would lack the
threads), and ends when the driver does, however that ends: its standard input is closed then.
Workers of a Ray that somebody else started are not copies.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flatscale.cluster.worker_request import become_worker

_FOLDER = "flatscale-workers-"
_RAYLET = "RAY_RAYLET_PID"
# Ray imports the second four; torch's compiler comes with the first optimizer of a process.
_BEFORE_RAY = (
    *("flatscale.metrics", "flatscale.training", "pandas", "pyarrow"),
    *("requests", "jsonschema", "google.protobuf.message", "psutil"),
    "torch._dynamo",
)
# Not Tune: importing ray.data draws Ray's first random numbers, whose state copies would share.
_WITH_RAY = ("ray._private.node", "flatscale.cluster.trial")


_listening: list[str] = []


@contextmanager
def prepared_workers(num_threads: int = 1) -> Iterator[str]:
    """Start the process, if it has not been started; the path of the socket it listens at, or "".

    Args:
        num_threads: of the linear algebra libraries, which take their number when imported.
    """
    if _listening or sys.platform != "linux":  # elsewhere libraries forbid being copied
        yield next(iter(_listening), "")
        return
    # Only this user can enter the folder, so only this user's processes can ask.
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
        path = str(Path(folder) / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(128)  # whoever asks while it still imports waits for it
            process = _start(listener, num_threads)
        _listening.append(path)
        try:
            yield path
        finally:
            _listening.clear()
            process.kill()
            process.communicate()


def _start(listener: socket.socket, num_threads: int) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(listener.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        start_new_session=True,
        env={
            "OMP_NUM_THREADS": str(num_threads),
            **os.environ,
            "PYTHONPATH": f"{here}{os.pathsep}{known}" if known else here,
        },
    )


def _serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; what is asked for in a copy, None here when the driver has ended."""
    fit = False
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        while True:
            if any(key.fileobj is sys.stdin for key, _ in ready.select()):
                return None
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                request: dict[str, Any] = json.loads(stream.readline())
                raylet = request["environment"].get(_RAYLET)
                if "ray" not in sys.modules:
                    # Ray looks for its raylet's process and job in the environment when imported.
                    os.environ.update(request["environment"])
                    _import(_WITH_RAY)
                    fit = _copies_draw_other_ids()
                if not fit or raylet != os.environ.get(_RAYLET):
                    stream.write(b"0\n")  # a second Ray's worker starts as Ray starts it
                    continue
                pid = os.fork()
                if pid == 0:
                    for number, copied in enumerate(streams):
                        os.dup2(copied, number)
                    break
                for copied in streams:
                    os.close(copied)
                stream.write(b"%d\n" % pid)
    for copied in streams:
        os.close(copied)
    listener.close()
    return request


def _copies_draw_other_ids() -> bool:
    """Whether Ray's generator is unused here: it is seeded by its first use, in each copy then.

    Workers with the same ids of their tasks would end the actors that these are sent to.
    """
    from ray import NodeID

    drawn = set()
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, NodeID.from_random().binary())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            drawn.add(pipe.read())
    return len(drawn) == 2


def _take_place(request: dict[str, Any]) -> None:
    """Be to Ray what the process that asked was."""
    os.setpgid(0, 0)  # Ray ends the group of a worker that has died
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.nice(request["niceness"] - os.nice(0))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # Ray's own settings are read from the environment again


def _import(modules: tuple[str, ...]) -> None:
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    gc.enable()
    gc.collect()
    gc.freeze()  # what is here is never looked at again, so copies share its memory


def main() -> None:
    """Import, then fork until the driver ends."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    _import(_BEFORE_RAY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies that have ended leave nothing behind
    request = _serve(listener)
    if request is not None:
        _take_place(request)
        become_worker(request["arguments"])
    else:  # a driver that was killed has left the folder
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
